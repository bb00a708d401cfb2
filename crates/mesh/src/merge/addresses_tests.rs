//! The merger against a slow, obvious recomputation, and the cases people care about.

use causeway_model::{AddressType, ClusterId, Keyed, MaxClusters, NodeAddress, NumericIdentity, PodRef};
use proptest::prelude::*;

use super::*;

fn cluster(n: usize) -> ClusterName {
    ClusterName::new(["cls-a", "cls-b", "cls-c"][n]).unwrap()
}

fn own() -> NodeKey {
    NodeKey { cluster: cluster(0), name: "n0".into() }
}

fn node(c: usize, n: u8, version: u8) -> Node {
    let ip = |text: String| text.parse::<IpAddr>().unwrap();
    Node {
        addresses: vec![
            NodeAddress { kind: AddressType::InternalIP, ip: ip(format!("172.18.{c}.{}", n + version % 2)) },
            NodeAddress { kind: AddressType::CiliumInternalIP, ip: ip(format!("10.{c}.{n}.1")) },
        ],
        // Version 3 collides with another node's CIDR, as a renumbered cluster does for a moment.
        pod_cidrs: vec![format!("10.{c}.{}.0/24", if version == 3 { 0 } else { n }).parse().unwrap()],
        health_v4: (version == 1).then(|| ip(format!("10.{c}.{n}.2"))),
        ingress_v4: (version == 2).then(|| ip(format!("10.{c}.{n}.3"))),
        ..Node::new(format!("n{n}"), cluster(c), ClusterId::new(c as u32 + 1, MaxClusters::C255).unwrap())
    }
}

/// Remote clusters may claim addresses of others: the second octet is free.
fn entry(octet: u8, host: u8, node: u8, version: u8) -> IpEntry {
    IpEntry {
        prefix: format!("10.{octet}.{node}.{host}/32").parse().unwrap(),
        identity: NumericIdentity(70_000 + u32::from(version)),
        host_ip: Some(format!("172.18.{octet}.{node}").parse().unwrap()),
        key_index: 0,
        pod: Some(PodRef { namespace: "ns".into(), name: format!("p{host}") }),
    }
}

#[derive(Debug, Clone)]
enum Step {
    Address(usize, Event<IpEntry>),
    Node(usize, Event<Node>),
    RemoveCluster(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let address =
        (0usize..3, 0u8..3, 1u8..4, 0u8..3, 0u8..3, 0u8..8).prop_map(|(c, octet, host, n, version, what)| {
            let entry = entry(octet, host, n, version);
            Step::Address(
                c,
                match what {
                    0 => Event::Reset,
                    1 => Event::Synced,
                    2 | 3 => Event::Remove(entry.prefix),
                    _ => Event::Upsert(entry),
                },
            )
        });
    let node = (0usize..3, 0u8..3, 0u8..4, 0u8..8).prop_map(|(c, n, version, what)| {
        let node = node(c, n, version);
        Step::Node(
            c,
            match what {
                0 => Event::Reset,
                1 => Event::Synced,
                2 | 3 => Event::Remove(node.key()),
                _ => Event::Upsert(node),
            },
        )
    });
    let remove = (1usize..3).prop_map(Step::RemoveCluster);
    prop::collection::vec(prop_oneof![6 => address, 4 => node, 1 => remove], 0..80)
}

/// Everything from scratch: collect all claims, sort, take the first per prefix.
fn reference(
    addresses: &[Collection<IpEntry>; 3],
    nodes: &[Collection<Node>; 3],
) -> BTreeMap<IpNet, IpEntry> {
    let mut claims: Vec<(IpNet, (u8, String, String), IpEntry)> = vec![];
    let own_ips: Vec<IpAddr> =
        nodes[0].get(&own()).map(|n| n.addresses.iter().map(|a| a.ip).collect()).unwrap_or_default();
    for c in 0..3 {
        let name = if c == 0 { String::new() } else { cluster(c).to_string() };
        for (prefix, entry) in addresses[c].iter() {
            claims.push((*prefix, (if c == 0 { 0 } else { 2 }, name.clone(), String::new()), entry.clone()));
        }
        for (key, node) in nodes[c].iter() {
            let is_own = *key == own();
            let tunnel = node.node_ip(false);
            let mut add = |prefix: IpNet, rank: u8, identity: u32, host_ip| {
                let identity = NumericIdentity(identity);
                let entry = IpEntry { prefix, identity, host_ip, key_index: 0, pod: None };
                claims.push((prefix, (rank, name.clone(), node.name.clone()), entry));
            };
            let (node_rank, cidr_rank) = if c == 0 { (1, 4) } else { (3, 5) };
            for address in &node.addresses {
                let inside = address.kind == AddressType::CiliumInternalIP;
                add(
                    address.ip.into(),
                    node_rank,
                    if is_own { 1 } else { 6 },
                    if inside { tunnel } else { None },
                );
            }
            node.health_v4.into_iter().for_each(|ip| add(ip.into(), node_rank, 4, tunnel));
            node.ingress_v4.into_iter().for_each(|ip| add(ip.into(), node_rank, 8, tunnel));
            if !is_own {
                node.pod_cidrs.iter().for_each(|cidr| add(*cidr, cidr_rank, 2, tunnel));
            }
        }
    }
    claims.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    let mut out = BTreeMap::new();
    for (prefix, _, mut entry) in claims {
        if entry.host_ip.is_some_and(|ip| own_ips.contains(&ip)) {
            entry.host_ip = None;
        }
        out.entry(prefix).or_insert(entry);
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn equals_the_recomputation(steps in steps()) {
        let mut merger = AddressMerger::new(own());
        let mut addresses: [Collection<IpEntry>; 3] = Default::default();
        let mut nodes: [Collection<Node>; 3] = Default::default();
        let mut programmed: BTreeMap<IpNet, IpEntry> = BTreeMap::new();
        for step in steps {
            let out = match step {
                Step::Address(c, event) => {
                    addresses[c].apply(event.clone());
                    if c == 0 { merger.apply_local(event) } else { merger.apply_remote(&cluster(c), event) }
                }
                Step::Node(c, event) => {
                    nodes[c].apply(event.clone());
                    if c == 0 { merger.apply_local_node(event) } else { merger.apply_remote_node(&cluster(c), event) }
                }
                Step::RemoveCluster(c) => {
                    addresses[c] = Collection::new();
                    nodes[c] = Collection::new();
                    merger.remove_cluster(&cluster(c))
                }
            };
            for event in out {
                match event {
                    Event::Upsert(entry) => {
                        prop_assert_ne!(programmed.insert(entry.prefix, entry.clone()), Some(entry), "a change that changes nothing");
                    }
                    Event::Remove(prefix) => prop_assert!(programmed.remove(&prefix).is_some(), "{} was not there", prefix),
                    Event::Reset | Event::Synced => prop_assert!(false, "only differences come out"),
                }
            }
            prop_assert_eq!(&programmed, &reference(&addresses, &nodes));
            prop_assert_eq!(&programmed, &merger.snapshot());
        }
    }
}

#[test]
fn a_pod_of_another_cluster_from_first_packet_to_removal() {
    let mut merger = AddressMerger::new(own());
    let b = cluster(1);
    merger.apply_remote_node(&b, Event::Upsert(node(1, 1, 0)));
    let cidr = merger.snapshot()[&"10.1.1.0/24".parse::<IpNet>().unwrap()].clone();
    assert_eq!(cidr.identity, NumericIdentity::WORLD);
    assert_eq!(cidr.host_ip, Some("172.18.1.1".parse().unwrap()));
    let internal = &merger.snapshot()[&"10.1.1.1/32".parse::<IpNet>().unwrap()];
    assert_eq!((internal.identity, internal.host_ip), (NumericIdentity::REMOTE_NODE, cidr.host_ip));
    let underlay = &merger.snapshot()[&"172.18.1.1/32".parse::<IpNet>().unwrap()];
    assert_eq!((underlay.identity, underlay.host_ip), (NumericIdentity::REMOTE_NODE, None));
    let pod = entry(1, 9, 1, 0);
    assert_eq!(merger.apply_remote(&b, Event::Upsert(pod.clone())), [Event::Upsert(pod.clone())]);
    // Another cluster cannot take an address of a local pod or node.
    let local = IpEntry { identity: NumericIdentity(65_600), ..pod.clone() };
    assert_eq!(merger.apply_local(Event::Upsert(local.clone())), [Event::Upsert(local)]);
    assert_eq!(merger.apply_local(Event::Remove(pod.prefix)), [Event::Upsert(pod)]);
    let removed = merger.remove_cluster(&b);
    assert_eq!(removed.len(), 4);
    assert!(removed.iter().all(|event| matches!(event, Event::Remove(_))));
    assert!(merger.snapshot().is_empty());
}
