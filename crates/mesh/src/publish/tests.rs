//! The publisher without a store.

use causeway_model::*;

use super::*;

fn info() -> ClusterInfo {
    ClusterInfo {
        name: ClusterName::new("cls-a").unwrap(),
        id: ClusterId::new(1, MaxClusters::C255).unwrap(),
        max_clusters: MaxClusters::C255,
    }
}

fn address(ip: &str, identity: u32) -> IpEntry {
    IpEntry {
        prefix: format!("{ip}/32").parse().unwrap(),
        identity: NumericIdentity(identity),
        host_ip: None,
        key_index: 0,
        pod: None,
    }
}

#[test]
fn equal_values_are_written_once_and_strangers_never() {
    let mut publisher = Publisher::new(info(), false);
    let key = "cilium/state/ip/v1/default/10.1.0.5";
    assert_eq!(publisher.apply_address(Event::Upsert(address("10.1.0.5", 65_600)))[0].key(), key);
    assert!(publisher.apply_address(Event::Upsert(address("10.1.0.5", 65_600))).is_empty());
    // A node-local identity withdraws what was published for the address.
    let ops = publisher.apply_address(Event::Upsert(address("10.1.0.5", 1 << 24)));
    assert_eq!(ops, [Op::Delete { key: key.to_owned() }]);
    let labels = Labels::parse("k8s:app=x;k8s:io.cilium.k8s.policy.cluster=cls-a;");
    let identity = |id, labels: &Labels| Identity { id: NumericIdentity(id), labels: labels.clone() };
    assert_eq!(publisher.apply_identity(Event::Upsert(identity(65_600, &labels))).len(), 1);
    assert!(publisher.apply_identity(Event::Upsert(identity(131_072, &labels))).is_empty());
    assert!(publisher.apply_identity(Event::Upsert(identity(65_601, &Labels::new()))).is_empty());
}

#[test]
fn a_relist_removes_what_it_does_not_name() {
    let mut publisher = Publisher::new(info(), false);
    for event in [
        Event::Reset,
        Event::Upsert(address("10.1.0.5", 65_600)),
        Event::Upsert(address("10.1.0.6", 65_600)),
        Event::Synced,
        Event::Reset,
        Event::Upsert(address("10.1.0.6", 65_600)),
    ] {
        publisher.apply_address(event);
    }
    let ops = publisher.apply_address(Event::Synced);
    assert_eq!(ops, [Op::Delete { key: "cilium/state/ip/v1/default/10.1.0.5".to_owned() }]);
    assert!(publisher.is_synced(Kind::Ip) && publisher.is_synced(Kind::ServiceExports));
    assert!(!publisher.is_synced(Kind::Services));
}

fn service(sharing: Sharing, ips: &[&str]) -> Service {
    Service {
        cluster_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::TCP,
            app_protocol: None,
            port: 80,
            node_port: 0,
        }],
        sharing,
        ..Service::new(ServiceKey { namespace: "shop".into(), name: "web".into() })
    }
}

#[test]
fn services_wait_for_both_listings_and_follow_sharing() {
    let shared = Sharing { global: true, shared: true, affinity: Affinity::None };
    let mut publisher = Publisher::new(info(), true);
    assert!(publisher.apply_service(Event::Upsert(service(shared, &["10.96.0.1"]))).is_empty());
    assert!(publisher.apply_service(Event::Synced).is_empty());
    let ops = publisher.apply_slice(Event::Synced);
    assert_eq!(ops[0].key(), "cilium/state/services/v1/cls-a/shop/web");
    assert!(publisher.is_synced(Kind::Services) && !publisher.is_synced(Kind::ServiceExports));
    let withdrawn =
        publisher.apply_service(Event::Upsert(service(Sharing { shared: false, ..shared }, &["10.96.0.1"])));
    assert!(matches!(withdrawn[..], [Op::Delete { .. }]));
    // Not allocated yet, or ExternalName: no reader would accept it.
    assert!(publisher.apply_service(Event::Upsert(service(shared, &[]))).is_empty());
    let mut external = service(shared, &["10.96.0.1"]);
    external.kind = ServiceType::ExternalName;
    assert!(publisher.apply_service(Event::Upsert(external)).is_empty());
    // Without a Service there is no export; with it there is.
    let request = ExportRequest {
        key: ServiceKey { namespace: "shop".into(), name: "web".into() },
        annotations: None,
        labels: None,
        created: "2026-02-10T09:00:00Z".into(),
    };
    publisher.apply_export(Event::Upsert(request));
    assert_eq!(
        publisher.apply_export(Event::Synced)[0].key(),
        "cilium/state/serviceexports/v1/cls-a/shop/web"
    );
    let gone =
        publisher.apply_service(Event::Remove(ServiceKey { namespace: "shop".into(), name: "web".into() }));
    assert!(gone.contains(&Op::Delete { key: "cilium/state/serviceexports/v1/cls-a/shop/web".into() }));
}
