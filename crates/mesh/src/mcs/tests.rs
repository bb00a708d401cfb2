//! Every rule of behaviours 2.9 that does not need an API server.

use causeway_model::mcs::{Condition, TargetPort};
use causeway_model::names::{DERIVED_SERVICE, IMPORTED_SERVICE, SOURCE_CLUSTER};
use causeway_model::{
    ExportPort, ExportType, Protocol, Service, ServicePort, ServiceType, SessionAffinity, TrafficPolicy,
};

use super::*;

pub(super) fn name(text: &str) -> ClusterName {
    ClusterName::new(text).unwrap()
}

pub(super) fn key() -> ServiceKey {
    ServiceKey { namespace: "shop".into(), name: "cart".into() }
}

pub(super) fn port(name: &str, port: u16) -> ExportPort {
    ExportPort { name: name.into(), protocol: "TCP".into(), app_protocol: String::new(), port }
}

/// An export of `shop/cart`, created at that minute.
pub(super) fn export(cluster: &str, minute: u32) -> ServiceExport {
    ServiceExport {
        cluster: name(cluster),
        key: key(),
        annotations: None,
        labels: None,
        created: format!("2026-02-10T09:{minute:02}:00Z"),
        ports: vec![port("http", 80)],
        kind: ExportType::ClusterSetIP,
        session_affinity: SessionAffinity::None,
        families: vec![],
        internal_traffic: TrafficPolicy::Cluster,
        traffic_distribution: String::new(),
    }
}

pub(super) fn service(key: ServiceKey) -> LocalService {
    LocalService {
        service: Service {
            cluster_ips: vec!["10.96.0.7".parse().unwrap()],
            ports: vec![ServicePort {
                name: "http".into(),
                protocol: Protocol::TCP,
                app_protocol: None,
                port: 80,
                node_port: 0,
            }],
            labels: [("team".to_owned(), "a".to_owned())].into(),
            selector: [("app".to_owned(), "cart".to_owned())].into(),
            families: vec![IpFamily::V4],
            ..Service::new(key)
        },
        uid: "uid".into(),
        sync_slices: None,
        targets: [((80, Protocol::TCP), TargetPort::Name("web".into()))].into(),
        import: None,
    }
}

/// The derived Service of `shop/cart` as it comes back from Kubernetes.
pub(super) fn derived() -> LocalService {
    let key = ServiceKey { namespace: "shop".into(), name: derived_name(&key()) };
    let mut derived = service(key);
    derived.service.cluster_ips = vec!["10.96.0.99".parse().unwrap()];
    derived.import = Some("cart".into());
    derived
}

pub(super) fn request(minute: u32) -> ExportRequest {
    ExportRequest {
        key: key(),
        annotations: None,
        labels: None,
        created: format!("2026-02-10T09:{minute:02}:00Z"),
    }
}

/// A cluster `cls-a` that has the namespace and has listed everything.
pub(super) fn imports() -> Imports {
    let mut imports = Imports::new(name("cls-a"), vec![IpFamily::V4]);
    imports.apply_service(Event::Synced);
    imports.apply_export(Event::Synced);
    imports.apply_namespace(Event::Upsert(Namespace { name: "shop".into() }));
    imports.apply_namespace(Event::Synced);
    assert!(imports.is_local_synced());
    imports
}

fn remote(imports: &mut Imports, export: ServiceExport) {
    let cluster = export.cluster.clone();
    let changed = imports.apply_remote(&cluster, Event::Upsert(export));
    assert_eq!(changed, BTreeSet::from([key()]));
}

pub(super) fn reason<'a>(conditions: &'a [Condition], kind: &str) -> Option<(bool, &'a str)> {
    conditions.iter().find(|c| c.kind == kind).map(|c| (c.holds, c.reason))
}

#[test]
fn an_export_of_another_cluster_becomes_an_import_and_a_derived_service() {
    let mut imports = imports();
    let mut theirs = export("cls-b", 0);
    theirs.labels = Some([("l", "1"), ("bad label", "2"), (IMPORTED_SERVICE, "evil")].map(owned).into());
    theirs.annotations = Some([("a", "1"), (DERIVED_SERVICE, "evil"), (GLOBAL, "false")].map(owned).into());
    remote(&mut imports, theirs);
    let wanted = imports.desired(&key());
    assert_eq!(wanted.export, None);
    let (import, service) = (wanted.import.unwrap(), wanted.derived.unwrap());
    assert_eq!((import.kind, &import.ports), (ExportType::ClusterSetIP, &vec![port("http", 80)]));
    assert_eq!((import.ips.len(), import.clusters), (0, vec![name("cls-b")]));
    assert_eq!((import.ready.holds, import.ready.reason), (false, "Pending"));
    assert_eq!(import.labels, [("l", "1")].map(owned).into());
    let derived_name = "derived-bsqa4s8pq5";
    assert_eq!(import.annotations[DERIVED_SERVICE], derived_name);
    assert_eq!((service.key.name.as_str(), service.headless), (derived_name, false));
    assert_eq!(service.annotations, [("a", "1"), (GLOBAL, "true")].map(owned).into());
    assert_eq!(
        service.labels,
        [("l", "1"), (IMPORTED_SERVICE, "cart"), (SOURCE_CLUSTER, "cls-a")].map(owned).into()
    );
    assert_eq!((service.ports, service.selector.len()), (vec![(port("http", 80), None)], 0));

    // Its Service is there: the addresses are known, and the import is ready.
    assert!(imports.apply_service(Event::Upsert(derived())).contains(&key()));
    let import = imports.desired(&key()).import.unwrap();
    assert_eq!((import.ips, import.ready.holds), (vec!["10.96.0.99".parse().unwrap()], true));
    // The last export goes, and all with it.
    imports.apply_remote(&name("cls-b"), Event::Remove((name("cls-b"), key())));
    assert_eq!(imports.desired(&key()), Imported::default());
    assert!(imports.names().is_empty());
}

fn owned((a, b): (&str, &str)) -> (String, String) {
    (a.to_owned(), b.to_owned())
}

#[test]
fn without_the_namespace_there_is_no_import() {
    let mut imports = imports();
    remote(&mut imports, export("cls-b", 0));
    assert_eq!(imports.apply_namespace(Event::Remove("shop".into())), BTreeSet::from([key()]));
    assert_eq!(imports.desired(&key()), Imported::default());
    let back = Namespace { name: "shop".into() };
    assert_eq!(imports.apply_namespace(Event::Upsert(back)), BTreeSet::from([key()]));
    assert!(imports.desired(&key()).import.is_some());
    assert!(imports.apply_namespace(Event::Upsert(Namespace { name: "sho".into() })).is_empty());
}

#[test]
fn an_own_export_gives_selector_and_target_ports() {
    let mut imports = imports();
    imports.apply_export(Event::Upsert(request(5)));
    // No Service: nothing is exported.
    let wanted = imports.desired(&key());
    let conditions = wanted.export.unwrap();
    assert_eq!(reason(&conditions, "Valid"), Some((false, "NoService")));
    assert_eq!(reason(&conditions, "Ready"), Some((false, "Pending")));
    assert_eq!((reason(&conditions, "Conflict"), wanted.import), (None, None));
    // An ExternalName.
    let mut external = service(key());
    external.service.kind = ServiceType::ExternalName;
    imports.apply_service(Event::Upsert(external));
    let wanted = imports.desired(&key());
    assert_eq!(reason(&wanted.export.unwrap(), "Valid"), Some((false, "InvalidServiceType")));
    assert_eq!(wanted.import, None);
    // A Service.
    imports.apply_service(Event::Upsert(service(key())));
    let wanted = imports.desired(&key());
    let conditions = wanted.export.unwrap();
    assert_eq!(reason(&conditions, "Valid"), Some((true, "Valid")));
    assert_eq!(reason(&conditions, "Ready"), Some((true, "Ready")));
    assert_eq!(reason(&conditions, "Conflict"), Some((false, "NoConflicts")));
    assert_eq!(wanted.import.unwrap().clusters, [name("cls-a")]);
    let derived = wanted.derived.unwrap();
    assert_eq!(derived.selector["app"], "cart");
    assert_eq!(derived.ports, [(port("http", 80), Some(TargetPort::Name("web".into())))]);
    // Exported elsewhere too; when the own export goes, the selector goes with it.
    remote(&mut imports, export("cls-b", 0));
    imports.apply_export(Event::Remove(key()));
    let wanted = imports.desired(&key());
    assert_eq!((wanted.export, wanted.derived.unwrap().selector.len()), (None, 0));
}

/// Changes of the younger export with the reason each gives, in the order in which they are looked at.
#[test]
fn conflicts_have_an_order() {
    type Change = fn(&mut ServiceExport);
    let rows: [(Change, &str); 9] = [
        (|e| e.ports[0].port = 81, "PortConflict"),
        (|e| e.families = vec![IpFamily::V6], "IPFamilyConflict"),
        (|e| e.kind = ExportType::Headless, "TypeConflict"),
        (|e| e.session_affinity = SessionAffinity::None, "SessionAffinityConflict"),
        (
            |e| e.session_affinity = SessionAffinity::ClientIP { timeout_seconds: Some(7) },
            "SessionAffinityConfigConflict",
        ),
        (|e| e.annotations = Some([owned(("a", "2"))].into()), "AnnotationsConflict"),
        (|e| e.labels = Some([owned(("l", "2"))].into()), "LabelsConflict"),
        (|e| e.internal_traffic = TrafficPolicy::Local, "InternalTrafficPolicyConflict"),
        (|e| e.traffic_distribution = "PreferClose".into(), "TrafficDistributionConflict"),
    ];
    let base = |cluster, minute| {
        let mut export = export(cluster, minute);
        export.families = vec![IpFamily::V4];
        export.session_affinity = SessionAffinity::ClientIP { timeout_seconds: None };
        export
    };
    let old = base("cls-z", 0);
    assert_eq!(merge::merge([&old, &base("cls-b", 1)]).unwrap().conflict, None);
    for (index, (change, reason)) in rows.iter().enumerate() {
        let mut young = base("cls-b", 1);
        change(&mut young);
        let merged = merge::merge([&young, &old]).unwrap();
        assert_eq!(merged.winner, &old, "the oldest counts, whatever its cluster is called");
        let conflict = merged.conflict.unwrap();
        assert_eq!(conflict.reason, *reason);
        assert!(conflict.message.contains("cls-b") || conflict.message.contains("cls-z"), "{conflict:?}");
        // With any later row beside it, in the same or a third cluster, this one is told.
        for (other, _) in rows.iter().skip(index + 1).filter(|(_, r)| !r.starts_with("SessionAffinity")) {
            let (mut both, mut third) = (young.clone(), base("cls-c", 2));
            other(&mut both);
            other(&mut third);
            assert_eq!(merge::merge([&both, &old]).unwrap().conflict.unwrap().reason, *reason);
            assert_eq!(merge::merge([&third, &young, &old]).unwrap().conflict.unwrap().reason, *reason);
        }
    }
    // Equal age: the name of the cluster decides. An age that is not known is the youngest.
    let (b, z) = (base("cls-b", 0), base("cls-z", 0));
    assert_eq!(merge::merge([&z, &b]).unwrap().winner, &b);
    let mut unborn = base("cls-a", 0);
    unborn.created = String::new();
    assert_eq!(merge::merge([&unborn, &z]).unwrap().winner, &z);
    // What is the default is no difference.
    let mut spelled = base("cls-b", 1);
    spelled.session_affinity = SessionAffinity::ClientIP { timeout_seconds: Some(10_800) };
    (spelled.annotations, spelled.labels) = (Some([].into()), Some([].into()));
    spelled.ports[0].protocol = String::new();
    assert_eq!(merge::merge([&spelled, &old]).unwrap().conflict, None);
}

#[test]
fn ports_are_the_union() {
    let with = |cluster: &str, minute, ports: &[(&str, u16)]| {
        let mut export = export(cluster, minute);
        export.ports = ports.iter().map(|(name, number)| port(name, *number)).collect();
        export
    };
    let a = with("cls-a", 0, &[("http", 80), ("grpc", 90)]);
    type Numbers = &'static [(&'static str, u16)];
    let rows: &[(Numbers, Numbers, bool)] = &[
        // The same in another order.
        (&[("grpc", 90), ("http", 80)], &[("http", 80), ("grpc", 90)], false),
        // One more, one less.
        (&[("http", 80), ("x", 91)], &[("http", 80), ("grpc", 90), ("x", 91)], true),
        (&[("http", 80)], &[("http", 80), ("grpc", 90)], true),
        // A name on another number is left out.
        (&[("http", 81), ("x", 91)], &[("http", 80), ("grpc", 90), ("x", 91)], true),
        // A number under another name has the older name.
        (&[("web", 80)], &[("http", 80), ("grpc", 90)], true),
        // A port without name beside others would make the Service invalid.
        (&[("", 99)], &[("http", 80), ("grpc", 90)], true),
    ];
    for (theirs, union, conflict) in rows {
        let b = with("cls-b", 1, theirs);
        let merged = merge::merge([&a, &b]).unwrap();
        let wanted: Vec<_> = union.iter().map(|(name, number)| port(name, *number)).collect();
        assert_eq!(merged.ports, wanted, "{theirs:?}");
        assert_eq!(merged.conflict.is_some(), *conflict, "{theirs:?}");
    }
    let unnamed = with("cls-a", 0, &[("", 80)]);
    let same = with("cls-b", 1, &[("", 80)]);
    let merged = merge::merge([&unnamed, &same]).unwrap();
    assert_eq!((merged.ports, merged.conflict), (vec![port("", 80)], None));
    let named = with("cls-b", 1, &[("x", 81)]);
    let merged = merge::merge([&unnamed, &named]).unwrap();
    assert_eq!((merged.ports, merged.conflict.unwrap().reason), (vec![port("", 80)], "PortConflict"));
    // One number with two protocols is two ports.
    let mut udp = with("cls-b", 1, &[("dns-udp", 80)]);
    udp.ports[0].protocol = "UDP".into();
    assert_eq!(merge::merge([&a, &udp]).unwrap().ports.len(), 3);
    assert!(merge::merge([]).is_none());
}

#[test]
fn families_are_what_all_have() {
    use IpFamily::{V4, V6};
    type Families = &'static [IpFamily];
    let rows: [(Families, Families, Families, bool); 5] = [
        (&[V4, V6], &[V6, V4], &[V4, V6], false),
        (&[V4, V6], &[V6], &[V6], false),
        (&[V4], &[V6], &[V4], true),
        (&[], &[V6], &[V6], false),
        (&[], &[], &[], false),
    ];
    for (old, young, common, conflict) in rows {
        let (mut a, mut b) = (export("cls-a", 0), export("cls-b", 1));
        (a.families, b.families) = (old.to_vec(), young.to_vec());
        let merged = merge::merge([&a, &b]).unwrap();
        assert_eq!((merged.families.as_slice(), merged.conflict.is_some()), (common, conflict));
    }
    // None of them is here: the import says so, and has no Service.
    let mut imports = imports();
    let mut six = export("cls-b", 0);
    six.families = vec![V6];
    remote(&mut imports, six);
    let wanted = imports.desired(&key());
    assert_eq!(wanted.import.unwrap().ready.reason, "IPFamilyNotSupported");
    assert_eq!(wanted.derived, None);
}

#[test]
fn a_foreign_service_of_the_derived_name_is_told_and_left_alone() {
    let mut imports = imports();
    remote(&mut imports, export("cls-b", 0));
    for owner in [None, Some("other".to_owned())] {
        imports.apply_service(Event::Upsert(LocalService { import: owner, ..derived() }));
        let wanted = imports.desired(&key());
        let import = wanted.import.unwrap();
        assert_eq!((import.ready.reason, import.ips.len(), wanted.derived), ("Pending", 0, None));
        assert!(import.ready.message.contains("derived-bsqa4s8pq5"), "{}", import.ready.message);
    }
}

#[test]
fn what_an_api_server_would_refuse_is_left_out() {
    let mut imports = imports();
    let mut odd = export("cls-b", 0);
    odd.ports = vec![port("http", 80), port("NOT A NAME", 81), port("zero", 0), port("x", 82)];
    odd.ports[3].protocol = "QUIC".into();
    odd.session_affinity = SessionAffinity::ClientIP { timeout_seconds: Some(1_000_000) };
    remote(&mut imports, odd);
    let wanted = imports.desired(&key());
    let (import, derived) = (wanted.import.unwrap(), wanted.derived.unwrap());
    assert_eq!(import.ports, [port("http", 80)]);
    assert_eq!(derived.ports.len(), 1);
    let day = SessionAffinity::ClientIP { timeout_seconds: Some(86_400) };
    assert_eq!((import.session_affinity, derived.session_affinity), (day, day));
}

#[test]
fn what_a_cluster_exports_is_unknown_until_it_was_read() {
    let mut imports = imports();
    let (a, b, c) = (name("cls-a"), name("cls-b"), name("cls-c"));
    assert!(imports.is_known(&b), "no peer");
    assert!(imports.set_peers([b.clone(), c.clone()].into(), [].into()));
    assert!(imports.is_known(&a) && !imports.is_known(&b) && !imports.is_known(&c));
    remote(&mut imports, export("cls-b", 0));
    assert!(!imports.is_known(&b), "not all of it");
    assert_eq!(imports.apply_remote(&b, Event::Synced), BTreeSet::from([key()]));
    assert!(imports.is_known(&b));
    // One that knows no exports counts as read once that is known.
    assert!(imports.set_peers([b.clone(), c.clone()].into(), [c.clone()].into()));
    assert!(!imports.set_peers([b.clone(), c.clone()].into(), [c.clone()].into()));
    assert!(imports.is_known(&c));
    assert_eq!(imports.remove_cluster(&b), BTreeSet::from([key()]));
    assert!(imports.is_known(&b));
    assert_eq!(imports.desired(&key()), Imported::default());
}
