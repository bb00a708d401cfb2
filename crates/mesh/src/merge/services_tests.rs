//! The truth table of behaviours 2.2, affinity 2.3, merge rules 2.4, and a property test against a
//! slow, obvious recomputation.

use causeway_model::{
    AddressType, Affinity, ClusterId, EndpointConditions, MaxClusters, NodeAddress, NodeKey, Protocol,
    ServicePort, SessionAffinity, Sharing, SliceEndpoint, SlicePort,
};
use proptest::prelude::*;

use super::*;

fn key() -> ServiceKey {
    ServiceKey { namespace: "shop".into(), name: "web".into() }
}

fn cluster(n: u8) -> ClusterName {
    ClusterName::new(format!("cls-{}", (b'a' + n) as char)).unwrap()
}

fn sharing(global: bool, affinity: Affinity) -> Sharing {
    Sharing { global, shared: global, affinity }
}

fn service(sharing: Sharing) -> Service {
    Service {
        key: key(),
        kind: ServiceType::ClusterIP,
        cluster_ips: vec!["10.96.0.1".parse().unwrap()],
        headless: false,
        external_ips: vec![],
        load_balancer_ips: vec![],
        ports: vec![port("http", Protocol::TCP, 80, 0)],
        session_affinity: SessionAffinity::None,
        labels: Default::default(),
        selector: Default::default(),
        sharing,
        external_name: None,
    }
}

fn port(name: &str, protocol: Protocol, port: u16, node_port: u16) -> ServicePort {
    ServicePort { name: name.into(), protocol, app_protocol: None, port, node_port }
}

/// `r` ready, `t` terminating but serving, `n` not ready.
fn slice(name: &str, port: &str, endpoints: &[(&str, char)]) -> EndpointSlice {
    let endpoint = |(ip, state): &(&str, char)| SliceEndpoint {
        addresses: vec![ip.parse().unwrap()],
        conditions: EndpointConditions {
            ready: *state == 'r',
            serving: matches!(state, 'r' | 't'),
            terminating: *state == 't',
        },
        hostname: String::new(),
        node: None,
        zone: None,
        for_zones: vec![],
    };
    EndpointSlice {
        key: SliceKey { namespace: "shop".into(), name: name.into() },
        service: key(),
        endpoints: endpoints.iter().map(endpoint).collect(),
        ports: vec![SlicePort { name: port.into(), protocol: Protocol::TCP, port: 8080 }],
        source_cluster: None,
        import: None,
    }
}

fn remote(n: u8, ports: &[(&str, Protocol, u16)], ips: &[&str]) -> ClusterService {
    let ports: Arc<Ports> = Arc::new(
        ports
            .iter()
            .map(|(name, protocol, port)| (name.to_string(), Port { protocol: *protocol, port: *port }))
            .collect(),
    );
    ClusterService {
        cluster: cluster(n),
        cluster_id: ClusterId::new(u32::from(n) + 1, MaxClusters::C255).unwrap(),
        key: key(),
        frontends: PortsByAddress::default(),
        backends: ips.iter().map(|ip| (ip.parse().unwrap(), ports.clone())).collect(),
        hostnames: BTreeMap::new(),
        labels: BTreeMap::new(),
        selector: BTreeMap::new(),
        shared: true,
    }
}

const HTTP: &[(&str, Protocol, u16)] = &[("http", Protocol::TCP, 8080)];

/// The backends of the first frontend, as `ip:port[@cluster]`.
fn backends(merger: &ServiceMerger) -> Vec<String> {
    let snapshot = merger.snapshot();
    let Some(frontend) = snapshot.values().next() else { return vec!["no frontend".into()] };
    frontend
        .backends
        .iter()
        .map(|b| {
            let at = b.cluster.as_ref().map(|c| format!("@{c}")).unwrap_or_default();
            format!("{}:{}{at}", b.address.ip, b.address.port)
        })
        .collect()
}

fn merger(sharing: Sharing, local: &[(&str, char)], remotes: &[ClusterService]) -> ServiceMerger {
    let mut merger = ServiceMerger::new();
    merger.apply_service(Event::Upsert(service(sharing)));
    merger.apply_slice(Event::Upsert(slice("s1", "http", local)));
    for remote in remotes {
        merger.apply_remote(&remote.cluster.clone(), Event::Upsert(remote.clone()));
    }
    merger
}

#[test]
fn truth_table_of_sharing() {
    let theirs = remote(1, HTTP, &["10.2.0.1"]);
    let local = &[("10.1.0.1", 'r')];
    let both = vec!["10.1.0.1:8080".to_owned(), "10.2.0.1:8080@cls-b".to_owned()];
    let global = sharing(true, Affinity::None);
    assert_eq!(backends(&merger(global, local, std::slice::from_ref(&theirs))), both);
    // A consumer that does not share still consumes.
    let consumer = Sharing { shared: false, ..global };
    assert_eq!(backends(&merger(consumer, local, std::slice::from_ref(&theirs))), both);
    assert_eq!(
        backends(&merger(sharing(false, Affinity::None), local, std::slice::from_ref(&theirs))),
        both[..1]
    );
    // The other side withdraws, or never had it.
    let withdrawn = ClusterService { shared: false, ..theirs.clone() };
    assert_eq!(backends(&merger(global, local, &[theirs.clone(), withdrawn])), both[..1]);
    assert_eq!(backends(&merger(global, &[], std::slice::from_ref(&theirs))), both[1..]);
    // Without a local Service there is no frontend.
    let mut alone = ServiceMerger::new();
    alone.apply_remote(&cluster(1), Event::Upsert(theirs.clone()));
    assert_eq!(backends(&alone), ["no frontend"]);
    // The cluster goes: its backends go, the local ones stay; it comes back.
    let mut m = merger(global, local, std::slice::from_ref(&theirs));
    assert_eq!(m.remove_cluster(&cluster(1)).len(), 1);
    assert_eq!(backends(&m), both[..1]);
    m.apply_remote(&cluster(1), Event::Upsert(theirs));
    assert_eq!(backends(&m), both);
}

#[test]
fn affinity_and_terminating() {
    let theirs = [remote(1, HTTP, &["10.2.0.1"]), remote(2, HTTP, &["10.3.0.1"])];
    let (r, t) = (("10.1.0.1", 'r'), ("10.1.0.2", 't'));
    let (l1, l2, b, c) = ("10.1.0.1:8080", "10.1.0.2:8080", "10.2.0.1:8080@cls-b", "10.3.0.1:8080@cls-c");
    type Case<'a> = (Affinity, &'a [(&'a str, char)], bool, &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        (Affinity::None, &[r, t], true, &[l1, b, c]),
        (Affinity::None, &[t], false, &[l2]),
        (Affinity::Local, &[r, t], true, &[l1]),
        (Affinity::Local, &[t], true, &[b, c]),
        (Affinity::Local, &[t], false, &[l2]),
        (Affinity::Local, &[], true, &[b, c]),
        (Affinity::Local, &[("10.1.0.9", 'n')], true, &[b, c]),
        (Affinity::Remote, &[r], true, &[b, c]),
        (Affinity::Remote, &[r, t], false, &[l1]),
        (Affinity::Remote, &[t], false, &[l2]),
        (Affinity::Remote, &[], false, &[]),
    ];
    for (affinity, local, with_remote, want) in cases {
        let remotes: &[_] = if *with_remote { &theirs } else { &[] };
        let m = merger(sharing(true, *affinity), local, remotes);
        assert_eq!(backends(&m), *want, "{affinity:?} {local:?} {with_remote}");
    }
}

#[test]
fn ports_protocols_families_and_precedence() {
    let global = sharing(true, Affinity::None);
    let m = |ports: &[(&str, Protocol, u16)], ips: &[&str]| {
        backends(&merger(global, &[], &[remote(1, ports, ips)]))
    };
    assert_eq!(
        m(&[("http", Protocol::TCP, 9999)], &["10.2.0.1"]),
        ["10.2.0.1:9999@cls-b"],
        "their target port"
    );
    assert_eq!(m(&[("grpc", Protocol::TCP, 8080)], &["10.2.0.1"]), [""; 0], "another port name");
    assert_eq!(m(&[("", Protocol::TCP, 8080)], &["10.2.0.1"]), ["10.2.0.1:8080@cls-b"], "unnamed fits");
    assert_eq!(m(&[("http", Protocol::UDP, 8080)], &["10.2.0.1"]), [""; 0], "another protocol");
    assert_eq!(m(HTTP, &["fd00::1"]), [""; 0], "another family");
    let two_names = &[("grpc", Protocol::TCP, 8080), ("http", Protocol::TCP, 8080)];
    assert_eq!(m(two_names, &["10.2.0.1"]), ["10.2.0.1:8080@cls-b"], "two names on one port");
    // The same address from here and from there is ours; from two others, the first one's.
    let twice = merger(
        global,
        &[("10.9.0.1", 'r')],
        &[remote(1, HTTP, &["10.9.0.1", "10.9.0.2"]), remote(2, HTTP, &["10.9.0.2"])],
    );
    assert_eq!(backends(&twice), ["10.9.0.1:8080", "10.9.0.2:8080@cls-b"]);
    // An unnamed service port takes every name.
    let mut unnamed = merger(global, &[], &[remote(1, HTTP, &["10.2.0.1"])]);
    let mut svc = service(global);
    svc.ports[0].name = String::new();
    unnamed.apply_service(Event::Upsert(svc));
    assert_eq!(backends(&unnamed), ["10.2.0.1:8080@cls-b"]);
}

fn node(n: u8) -> Node {
    Node {
        addresses: vec![NodeAddress {
            kind: AddressType::InternalIP,
            ip: format!("172.18.0.{n}").parse().unwrap(),
        }],
        ..Node::new(format!("n{n}"), cluster(0), ClusterId::new(1, MaxClusters::C255).unwrap())
    }
}

#[test]
fn every_address_of_a_service_is_a_frontend() {
    let mut m = merger(sharing(false, Affinity::None), &[("10.1.0.1", 'r')], &[]);
    let mut svc = service(sharing(false, Affinity::None));
    svc.kind = ServiceType::LoadBalancer;
    svc.ports[0].node_port = 30080;
    svc.external_ips = vec!["198.51.100.7".parse().unwrap()];
    svc.load_balancer_ips = vec!["203.0.113.5".parse().unwrap()];
    m.apply_service(Event::Upsert(svc.clone()));
    assert_eq!(m.apply_node(Event::Upsert(node(11))).len(), 1);
    m.apply_node(Event::Upsert(node(12)));
    let addresses: Vec<_> = m.snapshot().keys().map(|a| a.to_string()).collect();
    assert_eq!(
        addresses,
        [
            "10.96.0.1:80/TCP",
            "172.18.0.11:30080/TCP",
            "172.18.0.12:30080/TCP",
            "198.51.100.7:80/TCP",
            "203.0.113.5:80/TCP"
        ]
    );
    assert!(m.snapshot().values().all(|f| f.backends.len() == 1));
    // Another service cannot take the ClusterIP by naming it as an external address.
    let mut thief = svc.clone();
    thief.key.name = "a-thief".into();
    thief.cluster_ips = vec!["10.96.0.9".parse().unwrap()];
    thief.external_ips = vec!["10.96.0.1".parse().unwrap()];
    thief.load_balancer_ips = vec![];
    thief.ports[0].node_port = 0;
    m.apply_service(Event::Upsert(thief));
    let cluster_ip =
        m.snapshot().into_values().find(|f| f.address.to_string() == "10.96.0.1:80/TCP").unwrap();
    assert_eq!(cluster_ip.service, key());
    for (headless, kind) in [(true, ServiceType::ClusterIP), (false, ServiceType::ExternalName)] {
        let gone = Service { headless, kind, ..svc.clone() };
        m.apply_service(Event::Upsert(gone));
        assert!(m.snapshot().values().all(|f| f.service.name == "a-thief"));
    }
}

#[derive(Debug, Clone)]
enum Step {
    Service(u8, Option<(bool, u8)>),
    Slice(u8, u8, Option<Vec<(u8, char)>>),
    Remote(u8, u8, Option<Vec<u8>>),
    RemoveCluster(u8),
    Node(u8, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let state = prop_oneof![Just('r'), Just('t'), Just('n')];
    let step = prop_oneof![
        3 => (0u8..2, prop::option::weighted(0.8, (any::<bool>(), 0u8..3))).prop_map(|(s, v)| Step::Service(s, v)),
        4 => (0u8..2, 0u8..2, prop::option::weighted(0.8, prop::collection::vec((0u8..6, state), 0..4)))
            .prop_map(|(n, s, v)| Step::Slice(n, s, v)),
        4 => (1u8..3, 0u8..2, prop::option::weighted(0.8, prop::collection::vec(0u8..6, 0..4)))
            .prop_map(|(c, s, v)| Step::Remote(c, s, v)),
        1 => (1u8..3).prop_map(Step::RemoveCluster),
        1 => (11u8..13, any::<bool>()).prop_map(|(n, up)| Step::Node(n, up)),
    ];
    prop::collection::vec(step, 0..60)
}

fn key_of(s: u8) -> ServiceKey {
    ServiceKey { namespace: "shop".into(), name: format!("s{s}") }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn equals_the_recomputation(steps in steps()) {
        let mut merger = ServiceMerger::new();
        let mut services: BTreeMap<ServiceKey, Service> = BTreeMap::new();
        let mut slices: BTreeMap<SliceKey, EndpointSlice> = BTreeMap::new();
        let mut remotes: BTreeMap<(ClusterName, ServiceKey), ClusterService> = BTreeMap::new();
        let mut nodes: BTreeMap<NodeKey, Node> = BTreeMap::new();
        let mut programmed: BTreeMap<L4Addr, Frontend> = BTreeMap::new();
        for step in steps {
            let out = match step {
                Step::Service(s, Some((global, affinity))) => {
                    let affinity = [Affinity::None, Affinity::Local, Affinity::Remote][usize::from(affinity)];
                    let mut svc = service(sharing(global, affinity));
                    svc.key = key_of(s);
                    svc.cluster_ips = vec![format!("10.96.0.{s}").parse().unwrap()];
                    // Both services claim this one.
                    svc.external_ips = vec!["198.51.100.7".parse().unwrap()];
                    svc.ports[0].node_port = 30_000 + u16::from(s);
                    services.insert(svc.key.clone(), svc.clone());
                    merger.apply_service(Event::Upsert(svc))
                }
                Step::Service(s, None) => {
                    services.remove(&key_of(s));
                    merger.apply_service(Event::Remove(key_of(s)))
                }
                Step::Slice(n, s, endpoints) => {
                    let name = format!("slice{n}");
                    let key = SliceKey { namespace: "shop".into(), name: name.clone() };
                    match endpoints {
                        Some(endpoints) => {
                            let list: Vec<_> = endpoints.iter().map(|(h, state)| (format!("10.1.0.{h}"), *state)).collect();
                            let list: Vec<_> = list.iter().map(|(ip, state)| (ip.as_str(), *state)).collect();
                            let mut slice = slice(&name, "http", &list);
                            slice.service = key_of(s);
                            slices.insert(key, slice.clone());
                            merger.apply_slice(Event::Upsert(slice))
                        }
                        None => {
                            slices.remove(&key);
                            merger.apply_slice(Event::Remove(key))
                        }
                    }
                }
                Step::Remote(c, s, Some(hosts)) => {
                    // Host 0 to 2 are addresses of this cluster's pods too.
                    let ips: Vec<_> = hosts.iter().map(|h| if *h < 3 { format!("10.1.0.{h}") } else { format!("10.{c}.0.{h}") }).collect();
                    let ips: Vec<_> = ips.iter().map(String::as_str).collect();
                    let mut shared = remote(c, HTTP, &ips);
                    shared.key = key_of(s);
                    remotes.insert((cluster(c), key_of(s)), shared.clone());
                    merger.apply_remote(&cluster(c), Event::Upsert(shared))
                }
                Step::Remote(c, s, None) => {
                    remotes.remove(&(cluster(c), key_of(s)));
                    merger.apply_remote(&cluster(c), Event::Remove((cluster(c), key_of(s))))
                }
                Step::RemoveCluster(c) => {
                    remotes.retain(|(name, _), _| *name != cluster(c));
                    merger.remove_cluster(&cluster(c))
                }
                Step::Node(n, true) => {
                    nodes.insert(causeway_model::Keyed::key(&node(n)), node(n));
                    merger.apply_node(Event::Upsert(node(n)))
                }
                Step::Node(n, false) => {
                    let key = causeway_model::Keyed::key(&node(n));
                    nodes.remove(&key);
                    merger.apply_node(Event::Remove(key))
                }
            };
            for event in out {
                match event {
                    Event::Upsert(frontend) => {
                        prop_assert_ne!(programmed.insert(frontend.address, frontend.clone()), Some(frontend), "a change that changes nothing");
                    }
                    Event::Remove(address) => prop_assert!(programmed.remove(&address).is_some()),
                    Event::Reset | Event::Synced => prop_assert!(false, "only differences come out"),
                }
            }
            prop_assert_eq!(&programmed, &merger.snapshot());
            prop_assert_eq!(&programmed, &reference(&services, &slices, &remotes, &nodes));
        }
    }
}

/// The rules of behaviours 2.2 to 2.4 written down once more, over all objects at once.
fn reference(
    services: &BTreeMap<ServiceKey, Service>,
    slices: &BTreeMap<SliceKey, EndpointSlice>,
    remotes: &BTreeMap<(ClusterName, ServiceKey), ClusterService>,
    nodes: &BTreeMap<NodeKey, Node>,
) -> BTreeMap<L4Addr, Frontend> {
    let mut out = BTreeMap::new();
    let tcp = |ip: IpAddr, port| L4Addr { ip, port, protocol: Protocol::TCP };
    for (key, service) in services {
        let mut active: BTreeSet<IpAddr> = BTreeSet::new();
        let mut terminating: BTreeSet<IpAddr> = BTreeSet::new();
        for endpoint in
            slices.values().filter(|slice| slice.service == *key).flat_map(|slice| &slice.endpoints)
        {
            if endpoint.conditions.ready {
                active.extend(&endpoint.addresses);
            } else if endpoint.conditions.serving {
                terminating.extend(&endpoint.addresses);
            }
        }
        let mut theirs: BTreeMap<IpAddr, ClusterName> = BTreeMap::new();
        for ((name, of), shared) in remotes.iter().filter(|_| service.sharing.global) {
            for (ip, _) in shared.backends.iter().filter(|_| of == key) {
                if !active.contains(&ip) && !terminating.contains(&ip) {
                    theirs.entry(ip).or_insert_with(|| name.clone());
                }
            }
        }
        let local = |set: &BTreeSet<IpAddr>| -> Vec<Backend> {
            set.iter().map(|ip| Backend::new(tcp(*ip, 8080), None)).collect()
        };
        let only_terminating: BTreeSet<_> = terminating.difference(&active).copied().collect();
        let remote: Vec<Backend> =
            theirs.into_iter().map(|(ip, name)| Backend::new(tcp(ip, 8080), Some(name))).collect();
        let mut chosen = match service.sharing.affinity {
            Affinity::Local if !active.is_empty() => local(&active),
            Affinity::Remote if !remote.is_empty() => remote,
            Affinity::Local => remote,
            _ => [local(&active), remote].concat(),
        };
        if chosen.is_empty() {
            chosen = local(&only_terminating);
        }
        chosen.sort();
        let mut addresses: Vec<_> =
            service.cluster_ips.iter().map(|ip| (tcp(*ip, 80), FrontendKind::ClusterIP)).collect();
        addresses.extend(service.external_ips.iter().map(|ip| (tcp(*ip, 80), FrontendKind::ExternalIP)));
        let node_port = service.ports[0].node_port;
        let node_ips = nodes.values().map(|node| node.addresses[0].ip);
        addresses.extend(node_ips.map(|ip| (tcp(ip, node_port), FrontendKind::NodePort)));
        for (address, kind) in addresses {
            // Services in key order: the first one keeps what several claim.
            let frontend = Frontend { kind, ..Frontend::new(address, key.clone(), chosen.clone()) };
            out.entry(address).or_insert(frontend);
        }
    }
    out
}
