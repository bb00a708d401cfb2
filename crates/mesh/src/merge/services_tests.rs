//! The rows of behaviours 2.2 (who sees whose backends), 2.3 (selection), 2.4 (merge rules) and 2.5
//! (fields of Services), by name.

use causeway_model::{
    AddressType, Affinity, BackendZone, ClusterId, EndpointConditions, MaxClusters, NodeAddress, Port, Ports,
    PortsByAddress, Preference, Protocol, ServicePort, Sharing, SliceEndpoint, SlicePort, TrafficPolicy,
};

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
        cluster_ips: vec!["10.96.0.1".parse().unwrap()],
        ports: vec![port("http", Protocol::TCP, 80, 0)],
        sharing,
        ..Service::new(key())
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
        zones: BTreeMap::new(),
        labels: BTreeMap::new(),
        selector: BTreeMap::new(),
        shared: true,
    }
}

const HTTP: &[(&str, Protocol, u16)] = &[("http", Protocol::TCP, 8080)];

/// Backends as `ip:port[@cluster][*weight]`: those that take new connections, `*1` left out.
fn taking(list: &[Backend]) -> Vec<String> {
    let taking = list.iter().filter(|backend| backend.weight > 0);
    taking
        .map(|b| {
            let at = b.cluster.as_ref().map(|c| format!("@{c}")).unwrap_or_default();
            let weight = if b.weight == 1 { String::new() } else { format!("*{}", b.weight) };
            format!("{}:{}{at}{weight}", b.address.ip, b.address.port)
        })
        .collect()
}

/// Those of the first frontend that take new connections.
fn backends(merger: &ServiceMerger) -> Vec<String> {
    let snapshot = merger.snapshot();
    let Some(frontend) = snapshot.values().next() else { return vec!["no frontend".into()] };
    taking(&frontend.backends)
}

/// Addresses of the first frontend's backends that only keep what they have.
fn kept(merger: &ServiceMerger) -> Vec<String> {
    let snapshot = merger.snapshot();
    let backends = snapshot.values().next().map(|frontend| frontend.backends.to_vec()).unwrap_or_default();
    backends.iter().filter(|b| b.weight == 0).map(|b| b.address.ip.to_string()).collect()
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

const LOCAL: &str = "10.1.0.1:8080";
const REMOTE: &str = "10.2.0.1:8080@cls-b";

#[test]
fn rows_of_who_sees_whose_backends() {
    let (not, both) = (Sharing::default(), sharing(true, Affinity::None));
    let consumer = Sharing { shared: false, ..both };
    // What c1 says, whether c2 has it, says it is global and shares it, local pods here; what c1 uses.
    type Row<'a> = (&'a str, Sharing, Option<Sharing>, bool, &'a [&'a str]);
    let rows: &[Row<'_>] = &[
        ("global | global", both, Some(both), true, &[LOCAL, REMOTE]),
        ("global, shared=false | global", consumer, Some(both), true, &[LOCAL, REMOTE]),
        ("global | global, shared=false", both, Some(consumer), true, &[LOCAL]),
        ("global | not global", both, Some(not), true, &[LOCAL]),
        ("not global | global", not, Some(both), true, &[LOCAL]),
        ("global | service absent", both, None, true, &[LOCAL]),
        ("global, no local pods | global with pods", both, Some(both), false, &[REMOTE]),
    ];
    for (name, ours, theirs, pods, want) in rows {
        let local: &[_] = if *pods { &[("10.1.0.1", 'r')] } else { &[] };
        // Only what is global and shared is written by a cluster.
        let shared = theirs.is_some_and(|theirs| theirs.global && theirs.shared);
        let theirs: Vec<_> = shared.then(|| remote(1, HTTP, &["10.2.0.1"])).into_iter().collect();
        assert_eq!(backends(&merger(*ours, local, &theirs)), *want, "{name}");
    }
}

#[test]
fn withdrawing_and_disconnecting() {
    let theirs = remote(1, HTTP, &["10.2.0.1"]);
    let (global, local) = (sharing(true, Affinity::None), &[("10.1.0.1", 'r')]);
    let withdrawn = ClusterService { shared: false, ..theirs.clone() };
    assert_eq!(backends(&merger(global, local, &[theirs.clone(), withdrawn])), [LOCAL]);
    // "service absent | global": without a local Service there is no frontend.
    let mut alone = ServiceMerger::new();
    alone.apply_remote(&cluster(1), Event::Upsert(theirs.clone()));
    assert_eq!(backends(&alone), ["no frontend"]);
    // One cluster goes: its backends go, those of others stay; it comes back.
    let mut m = merger(global, local, &[theirs.clone(), remote(2, HTTP, &["10.3.0.1"])]);
    assert_eq!(m.remove_cluster(&cluster(1)).len(), 1);
    assert_eq!(backends(&m), [LOCAL, "10.3.0.1:8080@cls-c"]);
    m.apply_remote(&cluster(1), Event::Upsert(theirs));
    assert_eq!(backends(&m), [LOCAL, REMOTE, "10.3.0.1:8080@cls-c"]);
    // An update of one cluster replaces the set of that cluster only.
    m.apply_remote(&cluster(2), Event::Upsert(remote(2, HTTP, &["10.3.0.2"])));
    assert_eq!(backends(&m), [LOCAL, REMOTE, "10.3.0.2:8080@cls-c"]);
}

fn silent(merger: &mut ServiceMerger, ips: &[&str]) {
    merger.apply_unreachable(ips.iter().map(|ip| (ip.parse().unwrap(), true)));
}

#[test]
fn rows_of_selection() {
    let theirs = [remote(1, HTTP, &["10.2.0.1"]), remote(2, HTTP, &["10.3.0.1"])];
    let (r, t, n) = (("10.1.0.1", 'r'), ("10.1.0.2", 't'), ("10.1.0.9", 'n'));
    let (l2, c) = ("10.1.0.2:8080", "10.3.0.1:8080@cls-c");
    let (l, b) = (LOCAL, REMOTE);
    let (none, local, remote) = (Affinity::None, Affinity::Local, Affinity::Remote);
    let remote_ips: &[&str] = &["10.2.0.1", "10.3.0.1"];
    // Affinity, local endpoints, whether the others share, who does not answer; who takes connections,
    // and who is known beside them.
    type Row<'a> =
        (&'a str, Affinity, &'a [(&'a str, char)], bool, &'a [&'a str], &'a [&'a str], &'a [&'a str]);
    let rows: &[Row<'_>] = &[
        ("absent: all", none, &[r, t], true, &[], &[l, b, c], &["10.1.0.2"]),
        ("absent: terminating while nothing is active", none, &[t], false, &[], &[l2], &[]),
        ("absent: one cluster does not answer", none, &[r], true, &["10.2.0.1"], &[l, c], &["10.2.0.1"]),
        ("absent: nobody answers, all are tried", none, &[], true, remote_ips, &[b, c], &[]),
        ("local: active", local, &[r, t], true, &[], &[l], &["10.1.0.2", "10.2.0.1", "10.3.0.1"]),
        (
            "local: a terminating one does not hold back failover",
            local,
            &[t],
            true,
            &[],
            &[b, c],
            &["10.1.0.2"],
        ),
        ("local: terminating, and no remote", local, &[t], false, &[], &[l2], &[]),
        ("local: none", local, &[], true, &[], &[b, c], &[]),
        ("local: not ready", local, &[n], true, &[], &[b, c], &[]),
        ("local: unhealthy stay listed", local, &[r], true, &["10.1.0.1"], &[b, c], &["10.1.0.1"]),
        (
            "local: unhealthy, and no remote healthy",
            local,
            &[r],
            true,
            &["10.1.0.1", "10.2.0.1", "10.3.0.1"],
            &[l],
            remote_ips,
        ),
        ("local: terminating, remotes unhealthy", local, &[t], true, remote_ips, &[l2], remote_ips),
        ("remote: active", remote, &[r], true, &[], &[b, c], &["10.1.0.1"]),
        ("remote: one of them healthy", remote, &[r], true, &["10.2.0.1"], &[c], &["10.1.0.1", "10.2.0.1"]),
        ("remote: no healthy one", remote, &[r], true, remote_ips, &[l], remote_ips),
        (
            "remote: no healthy one, local terminating counts",
            remote,
            &[t],
            true,
            remote_ips,
            &[l2],
            remote_ips,
        ),
        ("remote: none", remote, &[r, t], false, &[], &[l], &["10.1.0.2"]),
        ("remote: none, local terminating", remote, &[t], false, &[], &[l2], &[]),
        ("remote: nothing at all", remote, &[], false, &[], &[], &[]),
    ];
    for (name, affinity, endpoints, shared, down, want, beside) in rows {
        let remotes: &[_] = if *shared { &theirs } else { &[] };
        let mut m = merger(sharing(true, *affinity), endpoints, remotes);
        silent(&mut m, down);
        assert_eq!(backends(&m), *want, "{name}");
        assert_eq!(kept(&m), *beside, "{name}");
        // Who answers again is as before.
        let healthy = backends(&merger(sharing(true, *affinity), endpoints, remotes));
        m.apply_unreachable(down.iter().map(|ip| (ip.parse().unwrap(), false)));
        assert_eq!(backends(&m), healthy, "{name}");
    }
    // "not global": all local, whatever it prefers.
    let m = merger(sharing(false, remote), &[r, t], &theirs);
    assert_eq!((backends(&m), kept(&m)), (vec![l.to_owned()], vec!["10.1.0.2".to_owned()]));
}

#[test]
fn reachability_known_before_the_backend_counts_too() {
    let mut m = ServiceMerger::new();
    assert!(m.apply_unreachable([("10.2.0.1".parse().unwrap(), true)]).is_empty());
    m.apply_service(Event::Upsert(service(sharing(true, Affinity::None))));
    m.apply_slice(Event::Upsert(slice("s1", "http", &[("10.1.0.1", 'r')])));
    m.apply_remote(&cluster(1), Event::Upsert(remote(1, HTTP, &["10.2.0.1"])));
    assert_eq!((backends(&m), kept(&m)), (vec![LOCAL.to_owned()], vec!["10.2.0.1".to_owned()]));
    // Only news comes out.
    assert!(
        m.apply_unreachable([("10.2.0.1".parse().unwrap(), true), ("10.9.9.9".parse().unwrap(), true)])
            .is_empty()
    );
    assert_eq!(m.apply_unreachable([("10.2.0.1".parse().unwrap(), false)]).len(), 1);
}

fn preferring(order: &str, weights: &[(&str, u16)], remotes: &[ClusterService]) -> ServiceMerger {
    let name = |name: &str| (name != "local").then(|| ClusterName::new(name).unwrap());
    let mut m = ServiceMerger::at(Location { cluster: Some(cluster(0)), ..Location::default() });
    let mut svc = service(sharing(true, Affinity::None));
    svc.preference = Preference {
        order: order.split(',').filter(|word| !word.is_empty()).map(name).collect(),
        weights: weights.iter().map(|(of, weight)| (name(of), *weight)).collect(),
    };
    m.apply_service(Event::Upsert(svc));
    m.apply_slice(Event::Upsert(slice("s1", "http", &[("10.1.0.1", 'r'), ("10.1.0.2", 'r')])));
    for remote in remotes {
        m.apply_remote(&remote.cluster.clone(), Event::Upsert(remote.clone()));
    }
    m
}

#[test]
fn failover_in_steps() {
    let (b, c, d) =
        (remote(1, HTTP, &["10.2.0.1"]), remote(2, HTTP, &["10.3.0.1"]), remote(3, HTTP, &["10.4.0.1"]));
    let remotes = [b, c, d];
    // cls-a is this cluster; those not named share the last step.
    for order in ["local,cls-c", "cls-a,cls-c", "cls-a,local,cls-c"] {
        let mut m = preferring(order, &[], &remotes);
        assert_eq!(backends(&m), [LOCAL, "10.1.0.2:8080"], "{order}");
        silent(&mut m, &["10.1.0.1"]);
        assert_eq!(backends(&m), ["10.1.0.2:8080"], "{order}");
        m.apply_slice(Event::Upsert(slice("s1", "http", &[("10.1.0.1", 'r')])));
        assert_eq!(backends(&m), ["10.3.0.1:8080@cls-c"], "{order}");
        silent(&mut m, &["10.3.0.1"]);
        assert_eq!(backends(&m), [REMOTE, "10.4.0.1:8080@cls-d"], "{order}");
        m.remove_cluster(&cluster(1));
        m.remove_cluster(&cluster(3));
        // Nobody is healthy: the first of the order is tried.
        assert_eq!(backends(&m), [LOCAL], "{order}");
        m.apply_unreachable([("10.3.0.1".parse().unwrap(), false)]);
        assert_eq!(backends(&m), ["10.3.0.1:8080@cls-c"], "{order}");
        m.apply_unreachable([("10.1.0.1".parse().unwrap(), false)]);
        assert_eq!(backends(&m), [LOCAL], "{order}");
    }
}

#[test]
fn clusters_get_their_shares_whatever_they_have() {
    let remotes = [remote(1, HTTP, &["10.2.0.1"]), remote(2, HTTP, &["10.3.0.1"])];
    // 90 over two backends, 10 over one.
    let mut m = preferring("", &[("local", 90), ("cls-b", 10)], &remotes);
    assert_eq!(backends(&m), ["10.1.0.1:8080*9", "10.1.0.2:8080*9", "10.2.0.1:8080@cls-b*2"]);
    assert_eq!(kept(&m), ["10.3.0.1"], "a cluster without a share");
    // Fewer backends share the same.
    m.apply_slice(Event::Upsert(slice("s1", "http", &[("10.1.0.1", 'r')])));
    assert_eq!(backends(&m), ["10.1.0.1:8080*9", REMOTE]);
    // One without a share takes over when nobody else is healthy.
    m.remove_cluster(&cluster(1));
    m.apply_slice(Event::Remove(SliceKey { namespace: "shop".into(), name: "s1".into() }));
    assert_eq!(backends(&m), ["10.3.0.1:8080@cls-c"]);
    // Draining a cluster; the order goes first, the shares are within a step.
    let m = preferring("", &[("local", 0), ("cls-b", 1), ("cls-c", 1)], &remotes);
    assert_eq!(backends(&m), [REMOTE, "10.3.0.1:8080@cls-c"]);
    let m = preferring("cls-b", &[("local", 3), ("cls-b", 1), ("cls-c", 1)], &remotes);
    assert_eq!(backends(&m), [REMOTE]);
}

/// Where each endpoint is: this node, another, or none.
fn on_nodes(mut slice: EndpointSlice, nodes: &[Option<&str>]) -> EndpointSlice {
    for (endpoint, node) in slice.endpoints.iter_mut().zip(nodes) {
        endpoint.node = node.map(ToOwned::to_owned);
    }
    slice
}

/// A LoadBalancer service with these policies outside and inside, on the node `n1`.
fn with_policies(
    policies: (TrafficPolicy, TrafficPolicy),
    affinity: Affinity,
    slice: EndpointSlice,
    remotes: &[ClusterService],
) -> ServiceMerger {
    let mut m = ServiceMerger::at(Location { node: Some("n1".into()), ..Location::default() });
    let mut svc = service(sharing(true, affinity));
    svc.kind = ServiceType::LoadBalancer;
    svc.load_balancer_ips = vec!["203.0.113.5".parse().unwrap()];
    (svc.external_traffic, svc.internal_traffic) = policies;
    svc.health_check_node_port = 31_000;
    m.apply_service(Event::Upsert(svc));
    m.apply_slice(Event::Upsert(slice));
    for remote in remotes {
        m.apply_remote(&remote.cluster.clone(), Event::Upsert(remote.clone()));
    }
    m
}

#[test]
fn rows_of_traffic_policy_local() {
    use TrafficPolicy::{Cluster, Local};
    let theirs = [remote(1, HTTP, &["10.2.0.1"])];
    let here = ("10.1.0.1", Some("n1"));
    let there = ("10.1.0.2", Some("n2"));
    let nowhere = ("10.1.0.3", None);
    let (l, b) = (LOCAL, REMOTE);
    // Affinity, the local endpoints with states and nodes; who takes connections under Local.
    type Row<'a> = (&'a str, Affinity, &'a [((&'a str, Option<&'a str>), char)], &'a [&'a str]);
    let rows: &[Row<'_>] = &[
        ("this node's", Affinity::None, &[(here, 'r'), (there, 'r')], &[l]),
        (
            "an endpoint of no node counts as here",
            Affinity::None,
            &[(nowhere, 'r'), (there, 'r')],
            &["10.1.0.3:8080"],
        ),
        ("only another node has some: refused, as in Kubernetes", Affinity::None, &[(there, 'r')], &[]),
        ("terminating here, active there", Affinity::None, &[(here, 't'), (there, 'r')], &[l]),
        ("this cluster has none: other clusters", Affinity::None, &[], &[b]),
        ("this cluster has only terminating ones", Affinity::None, &[(here, 't')], &[b]),
        ("affinity local", Affinity::Local, &[(here, 'r'), (there, 'r')], &[l]),
        ("affinity remote", Affinity::Remote, &[(here, 'r'), (there, 'r')], &[b]),
    ];
    for (name, affinity, endpoints, want) in rows {
        let list: Vec<_> = endpoints.iter().map(|((ip, _), state)| (*ip, *state)).collect();
        let nodes: Vec<_> = endpoints.iter().map(|((_, node), _)| *node).collect();
        let slice = || on_nodes(slice("s1", "http", &list), &nodes);
        for policies in [(Local, Cluster), (Cluster, Local), (Local, Local)] {
            let m = with_policies(policies, *affinity, slice(), &theirs);
            let all = m.snapshot();
            let [inside, outside]: [&Frontend; 2] = all.values().collect::<Vec<_>>().try_into().unwrap();
            // The ClusterIP is only for clients inside; the load balancer's address has both lists.
            assert_eq!(inside.internal, None, "{name}");
            let inner = outside.internal.as_ref().unwrap_or(&outside.backends);
            assert_eq!(*inner, inside.backends, "{name}");
            assert_eq!(outside.internal.is_some(), policies.0 != policies.1, "{name}");
            for (policy, list) in [(policies.0, &outside.backends), (policies.1, inner)] {
                if policy == Local {
                    assert_eq!(taking(list), *want, "{name} {policies:?}");
                    assert!(
                        !list.iter().any(|b| b.address.ip.to_string() == "10.1.0.2"),
                        "{name}: not even listed"
                    );
                }
            }
        }
    }
    // Remote backends of no known node never count for load balancers that ask this node.
    let m = with_policies(
        (Local, Cluster),
        Affinity::None,
        on_nodes(slice("s1", "http", &[("10.1.0.2", 'r')]), &[Some("n2")]),
        &theirs,
    );
    assert_eq!(
        m.health_check(&key()),
        Some(HealthCheck { service: key(), port: 31_000, local_endpoints: 0 })
    );
    let m = with_policies(
        (Local, Cluster),
        Affinity::None,
        on_nodes(slice("s1", "http", &[("10.1.0.1", 'r')]), &[Some("n1")]),
        &theirs,
    );
    assert_eq!(m.health_check(&key()).unwrap().local_endpoints, 1);
    let m = with_policies((Cluster, Cluster), Affinity::None, slice("s1", "http", &[]), &theirs);
    assert_eq!(m.health_check(&key()), None);
}

#[test]
fn zone_hints_count_only_if_everybody_has_one() {
    let hinted = |zones: &[&str]| zones.iter().map(|zone| zone.to_string()).collect::<Vec<_>>();
    let build = |topology: bool, wanted: bool, hints: [&[&str]; 2], theirs: Option<&[&str]>| {
        let location = Location { zone: Some("z1".into()), topology, ..Location::default() };
        let mut m = ServiceMerger::at(location);
        m.apply_service(Event::Upsert(Service {
            prefer_zone: wanted,
            ..service(sharing(true, Affinity::None))
        }));
        let mut slice = slice("s1", "http", &[("10.1.0.1", 'r'), ("10.1.0.2", 'r')]);
        for (endpoint, hints) in slice.endpoints.iter_mut().zip(hints) {
            endpoint.for_zones = hinted(hints);
        }
        m.apply_slice(Event::Upsert(slice));
        let mut shared = remote(1, HTTP, &["10.2.0.1"]);
        if let Some(zones) = theirs {
            let zone = BackendZone { zone: String::new(), for_zones: hinted(zones) };
            shared.zones.insert("10.2.0.1".parse().unwrap(), Arc::new(zone));
        }
        m.apply_remote(&cluster(1), Event::Upsert(shared));
        m
    };
    let all = [LOCAL, "10.1.0.2:8080", REMOTE];
    let both: [&[&str]; 2] = [&["z1"], &["z2"]];
    let m = build(true, true, both, Some(&["z1", "z3"]));
    assert_eq!(
        (backends(&m), kept(&m)),
        (vec![LOCAL.to_owned(), REMOTE.to_owned()], vec!["10.1.0.2".to_owned()])
    );
    assert_eq!(backends(&build(true, true, both, Some(&["z2"]))), [LOCAL]);
    assert_eq!(backends(&build(true, true, both, None)), all, "a remote one without a hint");
    assert_eq!(
        backends(&build(true, true, [&["z1"], &[]], Some(&["z1"]))),
        all,
        "a local one without a hint"
    );
    assert_eq!(backends(&build(true, true, [&["z2"], &["z2"]], Some(&["z3"]))), all, "nobody for our zone");
    assert_eq!(backends(&build(false, true, both, Some(&["z2"]))), all, "enable-service-topology is off");
    assert_eq!(backends(&build(true, false, both, Some(&["z2"]))), all, "the service does not ask for it");
    // Those of the zone do not answer: the others are used. Hints change and nothing else does.
    let mut m = build(true, true, both, Some(&["z2"]));
    silent(&mut m, &["10.1.0.1"]);
    assert_eq!(backends(&m), ["10.1.0.2:8080", REMOTE]);
    let mut m = build(true, true, both, Some(&["z2"]));
    let mut shared = remote(1, HTTP, &["10.2.0.1"]);
    m.apply_remote(&cluster(1), Event::Upsert(shared.clone()));
    assert_eq!(backends(&m), all);
    let zone = BackendZone { zone: String::new(), for_zones: hinted(&["z1"]) };
    shared.zones.insert("10.2.0.1".parse().unwrap(), Arc::new(zone));
    m.apply_remote(&cluster(1), Event::Upsert(shared));
    assert_eq!(backends(&m), [LOCAL, REMOTE]);
}

#[test]
fn several_service_ports_on_one_target_port_keep_their_remote_backends() {
    let mut m = ServiceMerger::new();
    let mut svc = service(sharing(true, Affinity::None));
    svc.ports = vec![port("http", Protocol::TCP, 80, 0), port("admin", Protocol::TCP, 81, 0)];
    m.apply_service(Event::Upsert(svc));
    let ports = &[("admin", Protocol::TCP, 8080), ("http", Protocol::TCP, 8080)];
    m.apply_remote(&cluster(1), Event::Upsert(remote(1, ports, &["10.2.0.1"])));
    let all = m.snapshot();
    let lists: Vec<_> =
        all.values().map(|frontend| (frontend.address.port, taking(&frontend.backends))).collect();
    assert_eq!(lists, [(80, vec![REMOTE.to_owned()]), (81, vec![REMOTE.to_owned()])]);
}

#[test]
fn balancing_goes_with_the_frontends() {
    use causeway_model::lb::{Algorithm, Forwarding};
    let mut m = ServiceMerger::at(Location { node_label: Some("edge".into()), ..Location::default() });
    let mut svc = service(Sharing::default());
    svc.kind = ServiceType::LoadBalancer;
    svc.load_balancer_ips = vec!["203.0.113.5".parse().unwrap()];
    svc.external_ips = vec!["198.51.100.7".parse().unwrap()];
    let balancing = Balancing {
        affinity_seconds: 60,
        algorithm: Some(Algorithm::Maglev),
        forwarding: Some(Forwarding::Dsr),
        source_ranges: vec!["10.0.0.0/8".parse().unwrap()],
        deny_source_ranges: true,
    };
    svc.balancing = Arc::new(balancing.clone());
    m.apply_service(Event::Upsert(svc.clone()));
    let open = Balancing { source_ranges: vec![], deny_source_ranges: false, ..balancing.clone() };
    let all = |m: &ServiceMerger| -> Vec<_> {
        m.snapshot().into_values().map(|f| (f.kind, Balancing::clone(&f.balancing))).collect()
    };
    let (external, balancer) =
        ((FrontendKind::ExternalIP, open.clone()), (FrontendKind::LoadBalancer, balancing));
    assert_eq!(all(&m), [(FrontendKind::ClusterIP, open.clone()), external, balancer.clone()]);
    // A change of it alone is a change.
    svc.balancing = Arc::new(open.clone());
    assert_eq!(m.apply_service(Event::Upsert(svc.clone())).len(), 1);
    // Only some kinds; only some nodes.
    svc.exposed = causeway_model::Exposure(vec![FrontendKind::ClusterIP]);
    m.apply_service(Event::Upsert(svc.clone()));
    assert_eq!(all(&m), [(FrontendKind::ClusterIP, open.clone())]);
    svc.exposed = causeway_model::Exposure::default();
    for (label, frontends) in [(None, 3), (Some("edge"), 3), (Some("core"), 1)] {
        svc.node_label = label.map(ToOwned::to_owned);
        m.apply_service(Event::Upsert(svc.clone()));
        assert_eq!(m.snapshot().len(), frontends, "{label:?}");
    }
}

#[test]
fn a_pod_has_its_ports_of_the_node_unless_a_service_wants_them() {
    use causeway_model::PodRef;
    use causeway_model::lb::{HostPort, HostPorts};
    let l4 = |text: &str| {
        let address: std::net::SocketAddr = text.parse().unwrap();
        L4Addr { ip: address.ip(), port: address.port(), protocol: Protocol::TCP }
    };
    let pod = |name: &str, ip: &str, port: &str| HostPorts {
        pod: PodRef { namespace: "shop".into(), name: name.into() },
        ports: vec![HostPort { address: l4(port), backend: l4(ip) }],
    };
    let mut m = ServiceMerger::new();
    let one = pod("web", "10.1.0.5:80", "0.0.0.0:8080");
    assert_eq!(m.apply_host_ports(Event::Upsert(one.clone())).len(), 1);
    assert!(m.apply_host_ports(Event::Upsert(one.clone())).is_empty());
    // A Service of the pod's name is another thing.
    m.apply_service(Event::Upsert(service(Sharing::default())));
    let has = |m: &ServiceMerger| {
        let frontend = m.snapshot().remove(&l4("0.0.0.0:8080")).unwrap();
        (frontend.kind, taking(&frontend.backends).join(" "))
    };
    assert_eq!(has(&m), (FrontendKind::HostPort, "10.1.0.5:80".to_owned()));
    // Another pod waits for the port, which a pod that is gone gives up.
    assert!(m.apply_host_ports(Event::Upsert(pod("zeta", "10.1.0.6:80", "0.0.0.0:8080"))).is_empty());
    let view = m.explain(&pod("zeta", "10.1.0.6:80", "0.0.0.0:8080").key()).unwrap();
    assert_eq!(view.frontends[0].held_by.as_deref(), Some("shop/web:host-port"));
    assert_eq!(m.apply_host_ports(Event::Remove(one.key())).len(), 1);
    assert_eq!(has(&m).1, "10.1.0.6:80");
    // A Service goes before.
    let mut svc = service(Sharing::default());
    svc.external_ips = vec!["0.0.0.0".parse().unwrap()];
    svc.ports[0].port = 8080;
    m.apply_service(Event::Upsert(svc));
    assert_eq!(has(&m).0, FrontendKind::ExternalIP);
}

#[test]
fn every_candidate_has_its_reason() {
    let remotes =
        [remote(1, HTTP, &["10.2.0.1", "10.1.0.1"]), remote(2, &[("grpc", Protocol::TCP, 9)], &["10.3.0.1"])];
    let local = &[("10.1.0.1", 'r'), ("10.1.0.2", 't'), ("10.1.0.3", 'n'), ("10.1.0.4", 'r')];
    let mut m = merger(sharing(true, Affinity::Local), local, &remotes);
    silent(&mut m, &["10.1.0.4"]);
    let view = m.explain(&key()).unwrap();
    assert_eq!((view.kind.as_str(), view.preference.as_str()), ("ClusterIP", "affinity local"));
    let told: Vec<_> = view.frontends[0]
        .backends
        .iter()
        .map(|b| {
            let cluster = b.cluster.as_deref().unwrap_or("local");
            format!(
                "{} {cluster} {} {}: {}",
                b.address,
                b.state.as_str(),
                b.share,
                b.reason.as_deref().unwrap_or("wins")
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            "10.1.0.1:8080/TCP local active 1: wins",
            "10.1.0.1:8080/TCP cls-b active 0: the address is named by this cluster or by one that goes before",
            "10.1.0.2:8080/TCP local terminating 0: it is terminating, and others are not",
            "10.1.0.4:8080/TCP local unreachable 0: its node does not answer",
            "10.2.0.1:8080/TCP cls-b active 0: this cluster goes before it",
            "10.3.0.1:9/TCP cls-c active 0: it has no port of the name \"http\"",
            "10.1.0.3:0/TCP local not-ready 0: it is not ready",
        ]
    );
    let counts: Vec<_> = m.backend_counts(&key()).unwrap().into_iter().collect();
    assert_eq!(
        counts,
        [
            ((None, BackendState::Active), 1),
            ((None, BackendState::Terminating), 1),
            ((None, BackendState::Unreachable), 1),
            ((Some(cluster(1)), BackendState::Active), 1),
        ]
    );
    // Another cluster's backends of a service that is not global are told of too.
    m.apply_service(Event::Upsert(service(Sharing::default())));
    let view = m.explain(&key()).unwrap();
    let last = view.frontends[0].backends.last().unwrap();
    assert_eq!(last.reason.as_deref(), Some("the service of this cluster is not global"));
    assert_eq!(m.explain(&ServiceKey { namespace: "shop".into(), name: "none".into() }), None);
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

#[test]
fn every_address_of_a_service_is_a_frontend() {
    let mut m = merger(sharing(false, Affinity::None), &[("10.1.0.1", 'r')], &[]);
    let mut svc = service(sharing(false, Affinity::None));
    svc.kind = ServiceType::LoadBalancer;
    svc.ports[0].node_port = 30080;
    svc.external_ips = vec!["198.51.100.7".parse().unwrap()];
    svc.load_balancer_ips = vec!["203.0.113.5".parse().unwrap()];
    m.apply_service(Event::Upsert(svc.clone()));
    let addresses: Vec<_> = m.snapshot().keys().map(|a| a.to_string()).collect();
    assert_eq!(
        addresses,
        ["0.0.0.0:30080/TCP", "10.96.0.1:80/TCP", "198.51.100.7:80/TCP", "203.0.113.5:80/TCP"]
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
