//! Every kind of record and of refusal, by table.

use causeway_model::{Event, ServiceType};

use super::testing::{import, key, service, settings, slice};
use super::*;

fn complete(zone: &mut Zone) {
    zone.apply_service(Event::Synced);
    zone.apply_slice(Event::Synced);
    zone.apply_import(Event::Synced);
}

/// A cluster with services of every kind.
fn zone() -> Zone {
    let mut zone = Zone::new(settings());
    let external = Service {
        kind: ServiceType::ExternalName,
        headless: false,
        external_name: Some("Db.Example.com".into()),
        ..service("shop", "ext", &[])
    };
    for service in [
        service("shop", "web", &["10.3.0.1", "fd00::1"]),
        service("shop", "db", &[]),
        service("shop", "empty", &[]),
        service("shop", "derived-abc", &[]),
        external,
    ] {
        zone.apply_service(Event::Upsert(service));
    }
    let mirrored = |slice: EndpointSlice, import: Option<&str>| EndpointSlice {
        source_cluster: Some("cls-b".into()),
        import: import.map(Into::into),
        ..slice
    };
    for slice in [
        slice("web-1", key("shop", "web"), &[("10.1.0.9", "", true)]),
        slice(
            "db-1",
            key("shop", "db"),
            &[("10.1.0.1", "db-0", true), ("10.1.0.2", "", true), ("10.1.0.3", "db-2", false)],
        ),
        slice("db-2", key("shop", "db"), &[("fd00::9", "db-0", true)]),
        mirrored(slice("db-3", key("shop", "db"), &[("10.2.0.1", "db-0", true)]), None),
        slice("empty-1", key("shop", "empty"), &[("10.1.0.4", "", false)]),
        slice("derived-1", key("shop", "derived-abc"), &[("10.1.0.5", "kv-0", true)]),
        mirrored(
            slice(
                "derived-2",
                key("shop", "derived-abc"),
                &[("10.2.0.5", "kv-0", true), ("10.2.0.6", "", true)],
            ),
            Some("kv"),
        ),
    ] {
        zone.apply_slice(Event::Upsert(slice));
    }
    let kv = ServiceImport { derived: Some("derived-abc".into()), ..import("kv", &[]) };
    for import in [import("web", &["10.3.0.7"]), kv, import("nobody", &[])] {
        zone.apply_import(Event::Upsert(import));
    }
    complete(&mut zone);
    zone
}

/// `TYPE: answers`, or what became of it.
fn ask(zone: &Zone, name: &str, kind: &str) -> String {
    let answer = zone.answer(&name.parse().unwrap(), kind.parse().unwrap());
    let records: Vec<_> = answer.answers.iter().map(|r| format!("{} {}", r.data.kind(), r.data)).collect();
    let negative = matches!(answer.outcome, Outcome::NoData | Outcome::NoName);
    assert_eq!(
        answer.authority.len(),
        usize::from(negative && name.ends_with(".local")),
        "{name} {kind}: {answer:?}"
    );
    match answer.outcome {
        Outcome::Found => records.join(", "),
        Outcome::Alias(target) => format!("{} -> {target}", records.join(", ")),
        other => format!("{other:?}"),
    }
}

#[test]
fn every_record_of_this_cluster() {
    let zone = zone();
    for (name, kind, answer) in [
        ("web.shop.svc", "A", "A 10.3.0.1"),
        ("WEB.Shop.SVC", "AAAA", "AAAA fd00::1"),
        ("web.shop.svc", "TXT", "NoData"),
        ("web.shop.svc", "SRV", "NoData"),
        ("_http._tcp.web.shop.svc", "SRV", "SRV 0 100 80 web.shop.svc.cluster.local."),
        ("_dns._udp.web.shop.svc", "SRV", "SRV 0 100 53 web.shop.svc.cluster.local."),
        ("_http._tcp.web.shop.svc", "A", "NoData"),
        ("_tcp.web.shop.svc", "A", "NoData"),
        ("_sctp.web.shop.svc", "A", "NoName"),
        ("_http._udp.web.shop.svc", "SRV", "NoName"),
        ("_._tcp.web.shop.svc", "SRV", "NoName"),
        ("_http.tcp.web.shop.svc", "SRV", "NoName"),
        ("10-1-0-9.web.shop.svc", "A", "A 10.1.0.9"),
        // Headless: the ready ones, of the other cluster too.
        ("db.shop.svc", "A", "A 10.1.0.1, A 10.1.0.2, A 10.2.0.1"),
        ("db.shop.svc", "AAAA", "AAAA fd00::9"),
        ("db-0.db.shop.svc", "A", "A 10.1.0.1, A 10.2.0.1"),
        ("db-0.db.shop.svc", "AAAA", "AAAA fd00::9"),
        ("10-1-0-2.db.shop.svc", "A", "A 10.1.0.2"),
        ("10-1-0-2.db.shop.svc", "AAAA", "NoData"),
        ("db-2.db.shop.svc", "A", "NoName"),
        (
            "_http._tcp.db.shop.svc",
            "SRV",
            "SRV 0 50 8080 db-0.db.shop.svc.cluster.local., SRV 0 50 8080 10-1-0-2.db.shop.svc.cluster.local.",
        ),
        ("_dns._udp.db.shop.svc", "SRV", "NoName"),
        ("_._tcp.db.shop.svc", "SRV", "NoName"),
        ("empty.shop.svc", "A", "NoName"),
        ("_http._tcp.empty.shop.svc", "SRV", "NoName"),
        // Elsewhere.
        ("ext.shop.svc", "A", "CNAME db.example.com. -> db.example.com."),
        ("ext.shop.svc", "CNAME", "CNAME db.example.com."),
        ("x.ext.shop.svc", "A", "NoName"),
        ("_http._tcp.ext.shop.svc", "SRV", "NoName"),
        // Pods.
        ("10-1-0-9.shop.pod", "A", "A 10.1.0.9"),
        ("fd00--9.shop.pod", "AAAA", "AAAA fd00::9"),
        ("10-1-0-9.shop.pod", "AAAA", "NoData"),
        ("web.shop.pod", "A", "NoName"),
        // The tree itself.
        ("dns-version", "TXT", "TXT \"1.1.0\""),
        ("dns-version", "A", "NoData"),
        ("shop.svc", "A", "NoData"),
        ("else.svc", "A", "NoName"),
        ("svc", "A", "NoData"),
        ("pod", "A", "NoData"),
        ("shop.pod", "A", "NoData"),
        ("web.else.svc", "A", "NoName"),
        ("else.shop.svc", "A", "NoName"),
        ("a.b.c.web.shop.svc", "A", "NoName"),
        ("shop", "A", "NoName"),
    ] {
        assert_eq!(ask(&zone, &format!("{name}.cluster.local"), kind), answer, "{name} {kind}");
    }
    assert_eq!(ask(&zone, "cluster.local", "A"), "NoData");
    assert!(
        ask(&zone, "cluster.local", "SOA")
            .starts_with("SOA ns.dns.cluster.local. hostmaster.cluster.local. ")
    );
    assert_eq!(ask(&zone, "example.com", "A"), "Foreign");
    assert_eq!(ask(&zone, "notcluster.local", "A"), "Foreign");
}

#[test]
fn every_record_of_the_cluster_set() {
    let zone = zone();
    for (name, kind, answer) in [
        ("web.shop.svc", "A", "A 10.3.0.7"),
        ("web.shop.svc", "AAAA", "NoData"),
        ("_http._tcp.web.shop.svc", "SRV", "SRV 0 100 80 web.shop.svc.clusterset.local."),
        ("_tcp.web.shop.svc", "SRV", "NoData"),
        // No name leads to one cluster's share of an address.
        ("cls-b.web.shop.svc", "A", "NoName"),
        ("kv.shop.svc", "A", "A 10.1.0.5, A 10.2.0.5, A 10.2.0.6"),
        ("kv-0.cls-a.kv.shop.svc", "A", "A 10.1.0.5"),
        ("kv-0.CLS-b.kv.shop.svc", "A", "A 10.2.0.5"),
        ("10-2-0-6.cls-b.kv.shop.svc", "A", "A 10.2.0.6"),
        ("kv-0.cls-c.kv.shop.svc", "A", "NoName"),
        ("kv-1.cls-a.kv.shop.svc", "A", "NoName"),
        ("cls-b.kv.shop.svc", "A", "NoData"),
        ("cls-c.kv.shop.svc", "A", "NoName"),
        ("kv-0.kv.shop.svc", "A", "NoName"),
        (
            "_http._tcp.kv.shop.svc",
            "SRV",
            "SRV 0 33 8080 kv-0.cls-a.kv.shop.svc.clusterset.local., \
             SRV 0 33 8080 kv-0.cls-b.kv.shop.svc.clusterset.local., \
             SRV 0 33 8080 10-2-0-6.cls-b.kv.shop.svc.clusterset.local.",
        ),
        ("nobody.shop.svc", "A", "NoName"),
        ("db.shop.svc", "A", "NoName"),
        ("shop.svc", "A", "NoData"),
        ("else.svc", "A", "NoName"),
        ("pod", "A", "NoName"),
        ("dns-version", "TXT", "TXT \"1.0.0\""),
    ] {
        assert_eq!(ask(&zone, &format!("{name}.clusterset.local"), kind), answer, "{name} {kind}");
    }
}

#[test]
fn what_addresses_stand_for() {
    let mut zone = zone();
    let ask = |zone: &Zone, address: &str, kind| {
        ask(zone, &Name::of_address(address.parse().unwrap()).to_string(), kind)
    };
    for (address, answer) in [
        ("10.3.0.1", "PTR web.shop.svc.cluster.local."),
        ("fd00::1", "PTR web.shop.svc.cluster.local."),
        ("10.3.0.7", "PTR web.shop.svc.clusterset.local."),
        ("10.1.0.1", "PTR db-0.db.shop.svc.cluster.local."),
        ("fd00::9", "PTR db-0.db.shop.svc.cluster.local."),
        ("10.2.0.1", "PTR db-0.db.shop.svc.cluster.local."),
        ("10.1.0.2", "PTR 10-1-0-2.db.shop.svc.cluster.local."),
        // Of a service with an address, an endpoint nobody named has no name.
        ("10.1.0.9", "Foreign"),
        ("10.1.0.3", "Foreign"),
        ("192.0.2.1", "Foreign"),
    ] {
        assert_eq!(ask(&zone, address, "PTR"), answer, "{address}");
    }
    assert_eq!(ask(&zone, "10.3.0.1", "A"), "NoData");
    zone.apply_service(Event::Remove(key("shop", "web")));
    assert_eq!(ask(&zone, "10.3.0.1", "PTR"), "Foreign");
}

#[test]
fn without_the_clusters_domain_the_cluster_set_names_its_addresses() {
    let mut zone = zone();
    zone.settings.cluster_domain = None;
    assert_eq!(ask(&zone, "web.shop.svc.cluster.local.", "A"), "Foreign");
    assert_eq!(ask(&zone, "5.0.2.10.in-addr.arpa.", "PTR"), "PTR kv-0.cls-b.kv.shop.svc.clusterset.local.");
    assert_eq!(ask(&zone, "1.0.3.10.in-addr.arpa.", "PTR"), "Foreign");
}

#[test]
fn nothing_is_denied_before_everything_is_known() {
    let mut zone = Zone::new(settings());
    zone.apply_service(Event::Synced);
    zone.apply_slice(Event::Synced);
    assert_eq!(ask(&zone, "web.shop.svc.cluster.local.", "A"), "NotReady");
    assert_eq!(ask(&zone, "1.0.3.10.in-addr.arpa.", "PTR"), "NotReady");
    assert_eq!(ask(&zone, "example.com", "A"), "Foreign");
    zone.apply_import(Event::Synced);
    assert_eq!(ask(&zone, "web.shop.svc.cluster.local", "A"), "NoName");
    // A new listing is no gap.
    zone.apply_service(Event::Upsert(service("shop", "web", &["10.3.0.1"])));
    zone.apply_service(Event::Reset);
    assert_eq!(ask(&zone, "web.shop.svc.cluster.local", "A"), "A 10.3.0.1");
}

#[test]
fn one_domain_may_lie_in_the_other() {
    let mut zone = zone();
    zone.settings.clusterset_domain = Some("set.cluster.local".parse().unwrap());
    assert_eq!(ask(&zone, "web.shop.svc.set.cluster.local", "A"), "A 10.3.0.7");
    assert_eq!(ask(&zone, "web.shop.svc.cluster.local", "A"), "A 10.3.0.1");
}
