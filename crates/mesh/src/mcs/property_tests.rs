//! Any order of events, with listings and clusters that come and go, ends where a fresh start ends; and no
//! name changes without being told.

use proptest::prelude::*;

use super::tests::{derived, export, name, request, service};
use super::*;

const NAMES: [&str; 3] = ["cart", "web", "db"];
const NAMESPACES: [&str; 2] = ["shop", "bank"];
const CLUSTERS: [&str; 3] = ["cls-b", "cls-c", "cls-d"];

/// Something that happens; numbers choose from few possibilities, so that they meet.
#[derive(Debug, Clone)]
enum Step {
    Service(u8, u8),
    Export(u8, u8),
    Namespace(u8, bool),
    Remote(u8, u8, u8),
    Relist(u8, Vec<(u8, u8)>),
    Leave(u8),
}

fn key_of(n: u8) -> ServiceKey {
    let (namespace, name) = (NAMESPACES[usize::from(n % 2)], NAMES[usize::from(n / 2 % 3)]);
    ServiceKey { namespace: namespace.into(), name: name.into() }
}

fn cluster_of(n: u8) -> ClusterName {
    name(CLUSTERS[usize::from(n % 3)])
}

fn remote_export(cluster: &ClusterName, key: ServiceKey, variant: u8) -> ServiceExport {
    let mut export = ServiceExport { key, ..export(cluster.as_str(), u32::from(variant % 5)) };
    export.ports[0].port = 80 + u16::from(variant / 5 % 2);
    export.traffic_distribution = "x".repeat(usize::from(variant / 10 % 2));
    export
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let listing = proptest::collection::vec((any::<u8>(), any::<u8>()), 0..5);
    let step = prop_oneof![
        (any::<u8>(), 0u8..5).prop_map(|(key, what)| Step::Service(key, what)),
        (any::<u8>(), 0u8..4).prop_map(|(key, what)| Step::Export(key, what)),
        (any::<u8>(), any::<bool>()).prop_map(|(n, there)| Step::Namespace(n, there)),
        (any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(c, key, what)| Step::Remote(c, key, what)),
        (any::<u8>(), listing).prop_map(|(cluster, list)| Step::Relist(cluster, list)),
        any::<u8>().prop_map(Step::Leave),
    ];
    proptest::collection::vec(step, 0..60)
}

fn take(imports: &mut Imports, step: Step) -> BTreeSet<ServiceKey> {
    match step {
        Step::Service(n, what) => {
            let key = key_of(n);
            let own = ServiceKey { namespace: key.namespace.clone(), name: derived_name(&key) };
            imports.apply_service(match what {
                0 => Event::Remove(key),
                1 => Event::Remove(own),
                2 => {
                    let mut ours = derived();
                    (ours.service.key, ours.import) = (own, Some(key.name));
                    Event::Upsert(ours)
                }
                3 => Event::Upsert(service(own)),
                _ => Event::Upsert(service(key)),
            })
        }
        Step::Export(n, 0) => imports.apply_export(Event::Remove(key_of(n))),
        Step::Export(n, minute) => {
            imports.apply_export(Event::Upsert(ExportRequest { key: key_of(n), ..request(minute.into()) }))
        }
        Step::Namespace(n, there) => {
            let name = NAMESPACES[usize::from(n % 2)].to_owned();
            let event = if there { Event::Upsert(Namespace { name }) } else { Event::Remove(name) };
            imports.apply_namespace(event)
        }
        Step::Remote(c, n, what) => {
            let (cluster, key) = (cluster_of(c), key_of(n));
            let event = match what {
                0..40 => Event::Remove((cluster.clone(), key)),
                _ => Event::Upsert(remote_export(&cluster, key, what)),
            };
            imports.apply_remote(&cluster, event)
        }
        Step::Relist(c, list) => {
            let cluster = cluster_of(c);
            let upserts =
                list.into_iter().map(|(n, what)| Event::Upsert(remote_export(&cluster, key_of(n), what)));
            let events = [Event::Reset].into_iter().chain(upserts).chain([Event::Synced]);
            events.flat_map(|event| imports.apply_remote(&cluster, event)).collect()
        }
        Step::Leave(c) => imports.remove_cluster(&cluster_of(c)),
    }
}

/// The same knowledge, told anew in the order of the names.
fn afresh(of: &Imports) -> Imports {
    let mut fresh = Imports::new(of.own.clone(), of.families.clone());
    for (cluster, exports) in &of.remotes {
        for (_, export) in exports.iter() {
            fresh.apply_remote(cluster, Event::Upsert(export.clone()));
        }
    }
    for (_, namespace) in of.namespaces.iter() {
        fresh.apply_namespace(Event::Upsert(namespace.clone()));
    }
    for (_, export) in of.exports.iter() {
        fresh.apply_export(Event::Upsert(export.clone()));
    }
    for (_, service) in of.services.iter() {
        fresh.apply_service(Event::Upsert(service.clone()));
    }
    fresh
}

proptest! {
    #[test]
    fn any_order_of_events_is_a_fresh_start(steps in steps()) {
        let mut imports = Imports::new(name("cls-a"), vec![IpFamily::V4]);
        let mut told: BTreeMap<ServiceKey, Imported> = BTreeMap::new();
        for step in steps {
            for key in take(&mut imports, step) {
                told.insert(key.clone(), imports.desired(&key));
            }
        }
        let fresh = afresh(&imports);
        prop_assert_eq!(fresh.names(), imports.names());
        for n in 0..6 {
            let key = key_of(n);
            let wanted = fresh.desired(&key);
            prop_assert_eq!(told.remove(&key).unwrap_or_default(), wanted, "{}", key);
        }
        prop_assert!(told.values().all(|left| *left == Imported::default()));
    }
}
