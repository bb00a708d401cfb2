//! The rows of behaviours 2.2 (who sees whose backends), 2.3 (selection), 2.4 (merge rules) and 2.5
//! (fields of Services), by name.

use causeway_model::{
    Affinity, BackendZone, ClusterId, EndpointConditions, MaxClusters, Port, Ports, PortsByAddress,
    Preference, Protocol, ServicePort, Sharing, SliceEndpoint, SlicePort, TrafficPolicy,
};

use super::*;

#[path = "services_selection_tests.rs"]
mod selection;

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
    let mut m = ServiceMerger::at(Location {
        labels: [("tier".into(), "edge".into())].into(),
        ..Location::default()
    });
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
    for (nodes, frontends) in
        [("", 3), ("tier=edge", 3), ("tier in (edge,core)", 3), ("tier!=edge", 1), ("big", 1)]
    {
        svc.nodes = causeway_model::LabelSelector::parse(nodes).unwrap();
        m.apply_service(Event::Upsert(svc.clone()));
        assert_eq!(m.snapshot().len(), frontends, "{nodes:?}");
        // Not every node has them: none may have to answer under such an address.
        let snat = m.snapshot().into_values().all(|f| f.balancing.forwarding == Some(Forwarding::Snat));
        assert_eq!(snat, !nodes.is_empty());
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
