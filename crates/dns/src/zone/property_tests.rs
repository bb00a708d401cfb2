//! Whatever the order of changes, the zone is the one that is made of the result.

use causeway_model::{Event, Keyed, ServiceImport, ServiceType};
use proptest::prelude::*;

use super::testing::{import, key, service, settings, slice};
use super::*;

#[derive(Debug, Clone)]
enum Step {
    Service(Box<Event<Service>>),
    Slice(Event<EndpointSlice>),
    Import(Event<ServiceImport>),
}

fn names() -> impl Strategy<Value = (&'static str, String)> {
    (prop_oneof![Just("shop"), Just("bank")], (0..3u8).prop_map(|n| format!("s{n}")))
}

fn address() -> impl Strategy<Value = String> {
    (0..6u8).prop_map(|n| if n == 5 { "fd00::5".to_owned() } else { format!("10.0.0.{n}") })
}

fn events<T: Keyed + Clone + std::fmt::Debug + 'static>(value: BoxedStrategy<T>) -> BoxedStrategy<Event<T>>
where
    T::Key: std::fmt::Debug,
{
    let removal = value.clone().prop_map(|v| Event::Remove(v.key()));
    prop_oneof![6 => value.prop_map(Event::Upsert), 3 => removal, 1 => Just(Event::Reset), 1 => Just(Event::Synced)].boxed()
}

fn step() -> impl Strategy<Value = Step> {
    let services = (names(), proptest::collection::vec(address(), 0..3), any::<bool>()).prop_map(
        |((namespace, name), ips, external)| {
            let mut ips: Vec<_> = ips.iter().map(String::as_str).collect();
            ips.dedup();
            let mut made = service(namespace, &name, &ips);
            if external && ips.is_empty() {
                made.kind = ServiceType::ExternalName;
                made.headless = false;
                made.external_name = Some("example.com".into());
            }
            made
        },
    );
    let endpoints = proptest::collection::vec((address(), 0..3u8, any::<bool>()), 0..4);
    let slices = (names(), 0..3u8, endpoints, 0..3u8, any::<bool>()).prop_map(
        |((namespace, name), n, endpoints, of, remote)| {
            let labels: Vec<_> = endpoints
                .iter()
                .map(|(ip, n, ready)| (ip.as_str(), ["", "a", "b"][usize::from(*n)], *ready))
                .collect();
            let mut made = slice(&format!("x{n}"), key(namespace, &name), &labels);
            made.source_cluster = remote.then(|| "cls-b".to_owned());
            made.import = (of < 2).then(|| format!("s{of}"));
            made
        },
    );
    let imports = (0..3u8, proptest::option::of(address()), any::<bool>()).prop_map(|(n, ip, derived)| {
        let mut made = import(&format!("s{n}"), &ip.as_deref().into_iter().collect::<Vec<_>>());
        made.derived = derived.then(|| "s0".to_owned());
        made
    });
    prop_oneof![
        events(services.boxed()).prop_map(|event| Step::Service(Box::new(event))),
        events(slices.boxed()).prop_map(Step::Slice),
        events(imports.boxed()).prop_map(Step::Import),
    ]
}

fn apply(zone: &mut Zone, step: Step) {
    match step {
        Step::Service(event) => zone.apply_service(*event),
        Step::Slice(event) => zone.apply_slice(event),
        Step::Import(event) => zone.apply_import(event),
    }
}

fn complete(zone: &mut Zone) {
    for step in
        [Step::Service(Box::new(Event::Synced)), Step::Slice(Event::Synced), Step::Import(Event::Synced)]
    {
        apply(zone, step);
    }
}

/// Every question there could be an answer to.
fn questions() -> Vec<Name> {
    let mut texts = vec![];
    for domain in ["cluster.local", "clusterset.local"] {
        for namespace in ["shop", "bank", "else"] {
            texts.push(format!("{namespace}.svc.{domain}"));
            for service in ["s0", "s1", "s2"] {
                let base = format!("{service}.{namespace}.svc.{domain}");
                for prefix in
                    ["a.", "b.", "10-0-0-1.", "a.cls-a.", "b.cls-b.", "cls-b.", "_http._tcp.", "_tcp.", ""]
                {
                    texts.push(format!("{prefix}{base}"));
                }
            }
        }
    }
    let addresses = (0..5).map(|n| IpAddr::from([10, 0, 0, n])).chain(["fd00::5".parse().unwrap()]);
    texts.iter().map(|text| text.parse().unwrap()).chain(addresses.map(Name::of_address)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn any_order_of_changes_is_as_good_as_from_scratch(steps in proptest::collection::vec(step(), 0..40)) {
        let mut zone = Zone::new(settings());
        steps.into_iter().for_each(|step| apply(&mut zone, step));
        complete(&mut zone);
        let mut fresh = Zone::new(settings());
        for (_, slice) in zone.slices.iter() {
            fresh.apply_slice(Event::Upsert(slice.clone()));
        }
        for (_, import) in zone.imports.iter() {
            fresh.apply_import(Event::Upsert(import.clone()));
        }
        for (_, service) in zone.services.iter() {
            fresh.apply_service(Event::Upsert(service.clone()));
        }
        complete(&mut fresh);
        fresh.serial = zone.serial;
        for name in questions() {
            for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::PTR] {
                prop_assert_eq!(zone.answer(&name, kind), fresh.answer(&name, kind), "{} {}", name, kind);
            }
        }
        prop_assert_eq!(&zone.owners, &fresh.owners);
        prop_assert_eq!((&zone.namespaces, &zone.import_namespaces), (&fresh.namespaces, &fresh.import_namespaces));
        prop_assert_eq!((&zone.of_service, &zone.of_import), (&fresh.of_service, &fresh.of_import));

        // And when everything has gone, nothing is left.
        for step in [Step::Service(Box::new(Event::Reset)), Step::Slice(Event::Reset), Step::Import(Event::Reset)] {
            apply(&mut zone, step);
        }
        complete(&mut zone);
        prop_assert!(zone.owners.is_empty() && zone.namespaces.is_empty() && zone.import_namespaces.is_empty());
        prop_assert!(zone.of_service.is_empty() && zone.of_import.is_empty());
    }
}
