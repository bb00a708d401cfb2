//! The rules of behaviours 2.7, and any order of events against a fresh start.

use causeway_model::{
    BackendZone, ClusterId, MaxClusters, Port, PortsByAddress, Protocol, Service, ServicePort, Sharing,
};
use proptest::prelude::*;

use super::*;

fn name(text: &str) -> ClusterName {
    ClusterName::new(text).unwrap()
}

fn key() -> ServiceKey {
    ServiceKey { namespace: "shop".into(), name: "web".into() }
}

fn service(headless: bool, global: bool, sync: Option<bool>) -> LocalService {
    LocalService {
        service: Service {
            headless,
            ports: vec![ServicePort {
                name: "http".into(),
                protocol: Protocol::TCP,
                app_protocol: None,
                port: 80,
                node_port: 0,
            }],
            labels: [("app".to_owned(), "web".to_owned()), (SOURCE_CLUSTER.to_owned(), "cls-a".to_owned())]
                .into(),
            sharing: Sharing { global, shared: global, ..Sharing::default() },
            families: vec![IpFamily::V4],
            ..Service::new(key())
        },
        uid: "uid-1".into(),
        sync_slices: sync,
        targets: [].into(),
        import: None,
    }
}

fn shared(cluster: &str, backends: &[(&str, u16)]) -> ClusterService {
    let ports = |port| {
        Arc::new(Ports::from([
            ("http".to_owned(), Port { protocol: Protocol::TCP, port }),
            ("NOT A NAME".to_owned(), Port { protocol: Protocol::TCP, port: 1 }),
        ]))
    };
    let backends: PortsByAddress =
        backends.iter().map(|(ip, port)| (ip.parse().unwrap(), ports(*port))).collect();
    ClusterService {
        cluster: name(cluster),
        cluster_id: ClusterId::new(2, MaxClusters::C255).unwrap(),
        key: key(),
        frontends: PortsByAddress::default(),
        backends,
        hostnames: [
            ("10.2.0.1".parse().unwrap(), "web-0".to_owned()),
            ("10.2.0.2".parse().unwrap(), "Not a host".to_owned()),
        ]
        .into(),
        zones: [(
            "10.2.0.1".parse().unwrap(),
            Arc::new(BackendZone {
                zone: "z1".into(),
                for_zones: vec!["z1".into(), "a b".into(), "z1".into()],
            }),
        )]
        .into(),
        labels: [].into(),
        selector: [].into(),
        shared: true,
    }
}

fn pair(cluster: &str) -> Pair {
    (key(), name(cluster))
}

#[test]
fn a_headless_global_service_has_the_endpoints_of_the_others() {
    let mut slices = Slices::new(100);
    let two = [("10.2.0.1", 8080), ("10.2.0.2", 8080), ("fd00:2::1", 8080), ("169.254.0.1", 8080)];
    let changed = slices.apply_remote(&name("cls-b"), Event::Upsert(shared("cls-b", &two)));
    assert_eq!(changed, BTreeSet::from([pair("cls-b")]));
    assert_eq!(slices.desired(&pair("cls-b")), [], "the Service is not here");
    assert_eq!(slices.pairs(), BTreeSet::new());
    assert_eq!(slices.apply_service(Event::Upsert(service(true, true, None))), changed);
    assert_eq!(slices.pairs(), changed);

    let wanted = slices.desired(&pair("cls-b"));
    assert_eq!(wanted.len(), 1, "the Service has no IPv6");
    let slice = &wanted[0];
    let labels: Vec<_> = slice.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(
        labels,
        [
            ("app", "web"),
            ("endpointslice.kubernetes.io/managed-by", "endpointslice-mesh-controller.cilium.io"),
            ("kubernetes.io/service-name", "web"),
            ("multicluster.kubernetes.io/source-cluster", "cls-b"),
            ("service.kubernetes.io/headless", ""),
        ]
    );
    assert!(slice.name.starts_with("web-cls-b-"), "{}", slice.name);
    assert_eq!((slice.family, slice.service_uid.as_str()), (IpFamily::V4, "uid-1"));
    let endpoints: Vec<_> =
        slice.endpoints.iter().map(|e| (e.address.to_string(), e.hostname.as_str())).collect();
    assert_eq!(endpoints, [("10.2.0.1".to_owned(), "web-0"), ("10.2.0.2".to_owned(), "")]);
    let zones: Vec<_> = slice.endpoints.iter().map(|e| (e.zone.as_str(), e.for_zones.join(" "))).collect();
    assert_eq!(zones, [("z1", "z1".to_owned()), ("", String::new())]);
    assert_eq!(slice.ports, [SlicePort { name: "http".into(), protocol: Protocol::TCP, port: 8080 }]);

    // Dual stack: a slice per family. Other ports: a slice of their own.
    let mut dual = service(true, true, None);
    dual.service.families.push(IpFamily::V6);
    slices.apply_service(Event::Upsert(dual));
    assert_eq!(slices.desired(&pair("cls-b")).len(), 2);
    slices.apply_remote(
        &name("cls-b"),
        Event::Upsert(shared("cls-b", &[("10.2.0.1", 8080), ("10.2.0.2", 8081)])),
    );
    let wanted = slices.desired(&pair("cls-b"));
    assert_eq!(wanted.iter().map(|s| s.endpoints.len()).collect::<Vec<_>>(), [1, 1]);
    assert_ne!(wanted[0].name, wanted[1].name);
    // Not shared any more.
    let gone = ClusterService { shared: false, ..shared("cls-b", &[]) };
    assert_eq!(slices.apply_remote(&name("cls-b"), Event::Upsert(gone)), BTreeSet::from([pair("cls-b")]));
    assert_eq!(slices.desired(&pair("cls-b")), []);
}

#[test]
fn the_annotation_decides_and_headless_services_are_the_default() {
    for (headless, global, sync, mirrored) in [
        (true, true, None, true),
        (true, true, Some(false), false),
        (true, false, None, false),
        (true, false, Some(true), false),
        (false, true, None, false),
        (false, true, Some(true), true),
        (false, true, Some(false), false),
        (false, false, Some(true), false),
    ] {
        let mut slices = Slices::new(100);
        slices.apply_service(Event::Upsert(service(headless, global, sync)));
        slices.apply_remote(&name("cls-b"), Event::Upsert(shared("cls-b", &[("10.2.0.1", 80)])));
        let wanted = slices.desired(&pair("cls-b"));
        assert_eq!(!wanted.is_empty(), mirrored, "{headless} {global} {sync:?}");
        let label = wanted.first().is_some_and(|slice| slice.labels.contains_key(HEADLESS));
        assert_eq!(label, mirrored && headless);
    }
}

#[test]
fn a_change_of_one_endpoint_touches_one_slice_of_many() {
    let numbers: Vec<String> = (0..1000).map(|n| format!("10.2.{}.{}", n / 250, n % 250 + 1)).collect();
    let backends: Vec<(&str, u16)> = numbers.iter().map(|ip| (ip.as_str(), 80)).collect();
    let mut slices = Slices::new(100);
    slices.apply_service(Event::Upsert(service(true, true, None)));
    slices.apply_remote(&name("cls-b"), Event::Upsert(shared("cls-b", &backends)));
    let before = slices.desired(&pair("cls-b"));
    assert!(before.iter().all(|slice| slice.endpoints.len() <= 100));
    assert_eq!(before.iter().map(|slice| slice.endpoints.len()).sum::<usize>(), 1000);
    slices.apply_remote(&name("cls-b"), Event::Upsert(shared("cls-b", &backends[1..])));
    let after = slices.desired(&pair("cls-b"));
    let touched = before.iter().filter(|slice| !after.contains(slice)).count();
    assert_eq!((touched, before.len()), (1, after.len()));
}

#[test]
fn clusters_are_apart() {
    let mut slices = Slices::new(100);
    slices.apply_service(Event::Upsert(service(true, true, None)));
    for (cluster, ip) in [("cls-b", "10.2.0.1"), ("cls-c", "10.3.0.1")] {
        slices.apply_remote(&name(cluster), Event::Upsert(shared(cluster, &[(ip, 80)])));
    }
    assert!(!slices.is_read(&name("cls-b")));
    slices.apply_remote(&name("cls-b"), Event::Synced);
    assert!(slices.is_read(&name("cls-b")) && !slices.is_read(&name("cls-c")));
    let of = |slices: &Slices, cluster| {
        slices.desired(&pair(cluster)).iter().map(|s| s.endpoints[0].address.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(
        (of(&slices, "cls-b"), of(&slices, "cls-c")),
        (vec!["10.2.0.1".into()], vec!["10.3.0.1".into()])
    );
    assert_eq!(slices.remove_cluster(&name("cls-b")), BTreeSet::from([pair("cls-b")]));
    assert_eq!((of(&slices, "cls-b").len(), of(&slices, "cls-c").len()), (0, 1));
}

proptest! {
    #[test]
    fn any_order_of_events_is_a_fresh_start(
        steps in proptest::collection::vec((0u8..4, any::<u8>(), proptest::collection::btree_set(0u8..60, 0..30)), 0..40),
    ) {
        let clusters = ["cls-b", "cls-c"];
        let mut slices = Slices::new(5);
        let mut told: BTreeMap<Pair, Vec<MeshSlice>> = BTreeMap::new();
        for (kind, what, backends) in steps {
            let cluster = clusters[usize::from(what % 2)];
            let addresses: Vec<String> = backends.iter().map(|n| format!("10.2.0.{n}")).collect();
            let of: Vec<(&str, u16)> = addresses.iter().map(|ip| (ip.as_str(), 80 + u16::from(what / 2 % 2))).collect();
            let changed = match kind {
                0 => slices.apply_service(Event::Upsert(service(what / 4 % 2 == 0, what / 8 % 4 > 0, None))),
                1 if what < 64 => slices.apply_service(Event::Remove(key())),
                2 if what < 64 => slices.remove_cluster(&name(cluster)),
                2 => [Event::Reset, Event::Synced].into_iter().flat_map(|event| slices.apply_remote(&name(cluster), event)).collect(),
                _ => slices.apply_remote(&name(cluster), Event::Upsert(shared(cluster, &of))),
            };
            for pair in changed {
                told.insert(pair.clone(), slices.desired(&pair));
            }
        }
        let mut fresh = Slices::new(5);
        for (cluster, services) in &slices.remotes {
            services.iter().for_each(|(_, service)| drop(fresh.apply_remote(cluster, Event::Upsert(service.clone()))));
        }
        slices.services.iter().for_each(|(_, service)| drop(fresh.apply_service(Event::Upsert(service.clone()))));
        for cluster in clusters {
            let pair = pair(cluster);
            prop_assert_eq!(told.remove(&pair).unwrap_or_default(), fresh.desired(&pair));
        }
    }
}
