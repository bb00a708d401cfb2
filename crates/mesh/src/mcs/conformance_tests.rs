//! The requirements of the published conformance tests of kubernetes-sigs/mcs-api, as far as they speak neither of
//! DNS nor of traffic: two clusters tell each other their exports, as the publisher and the reader do.

use causeway_model::{ServicePort, ServiceType, SessionAffinity};

use super::tests::{derived, imports, key, name, port, reason, request, service};
use super::*;

/// Two clusters that have the namespace; the first exports earlier.
struct World([(ClusterName, Imports); 2]);

impl World {
    fn new() -> Self {
        let second = Imports { own: name("cls-b"), ..imports() };
        Self([(name("cls-a"), imports()), (name("cls-b"), second)])
    }

    /// Exports `hello` from a cluster, with what the ServiceExport says.
    fn export(&mut self, cluster: usize, hello: LocalService, request: ExportRequest) {
        let (own, imports) = &mut self.0[cluster];
        let own = own.clone();
        imports.apply_service(Event::Upsert(hello.clone()));
        imports.apply_export(Event::Upsert(request.clone()));
        // The publisher joins the two; an ExternalName is passed on as well, and refused by who reads it.
        let export = export(own.clone(), &hello.service, &request);
        if hello.service.kind != ServiceType::ExternalName {
            self.0[1 - cluster].1.apply_remote(&own, Event::Upsert(export));
        }
    }

    fn unexport(&mut self, cluster: usize) {
        let (own, imports) = &mut self.0[cluster];
        let own = own.clone();
        imports.apply_export(Event::Remove(key()));
        self.0[1 - cluster].1.apply_remote(&own, Event::Remove((own.clone(), key())));
    }

    /// The derived Services have their addresses.
    fn allocate(&mut self) {
        for (_, imports) in &mut self.0 {
            imports.apply_service(Event::Upsert(derived()));
        }
    }

    fn import(&self, cluster: usize) -> Option<causeway_model::mcs::Import> {
        self.0[cluster].1.desired(&key()).import
    }

    fn condition(&self, cluster: usize, kind: &str) -> Option<(bool, String)> {
        let conditions = self.0[cluster].1.desired(&key()).export?;
        reason(&conditions, kind).map(|(holds, reason)| (holds, reason.to_owned()))
    }

    fn conflicts(&self, reason: &str) -> bool {
        [0, 1].iter().all(|cluster| self.condition(*cluster, "Conflict") == Some((true, reason.to_owned())))
    }
}

fn hello() -> LocalService {
    service(key())
}

fn headless() -> LocalService {
    let mut hello = hello();
    (hello.service.headless, hello.service.cluster_ips) = (true, vec![]);
    hello
}

fn with_ports(ports: &[(&str, u16)]) -> LocalService {
    let mut hello = hello();
    let one = hello.service.ports[0].clone();
    hello.service.ports = ports
        .iter()
        .map(|(name, port)| ServicePort { name: name.to_string(), port: *port, ..one.clone() })
        .collect();
    hello
}

fn says(labels: &str) -> ExportRequest {
    let map = BTreeMap::from([(labels.to_owned(), "true".to_owned())]);
    ExportRequest { labels: Some(map.clone()), annotations: Some(map), ..request(0) }
}

/// What is required, in a sentence, and the check.
type Row = (&'static str, fn(&mut World));

const REQUIRED: &[Row] = &[
    ("an import exists as long as at least one cluster exports", |world| {
        world.export(0, hello(), request(0));
        world.export(1, hello(), request(1));
        world.unexport(0);
        assert!(world.import(0).is_some() && world.import(1).is_some());
        world.unexport(1);
        assert!(world.import(0).is_none() && world.import(1).is_none());
    }),
    ("a ClusterIP service becomes a ClusterSetIP import in each cluster", |world| {
        world.export(0, hello(), request(0));
        assert!([0, 1].iter().all(|c| world.import(*c).unwrap().kind == ExportType::ClusterSetIP));
    }),
    ("a headless service becomes a Headless import in each cluster", |world| {
        world.export(0, headless(), request(0));
        assert!([0, 1].iter().all(|c| world.import(*c).unwrap().kind == ExportType::Headless));
        world.unexport(0);
        assert!([0, 1].iter().all(|c| world.import(*c).is_none()));
    }),
    ("the session affinity of the import is the service's", |world| {
        let mut sticky = hello();
        sticky.service.session_affinity = SessionAffinity::ClientIP { timeout_seconds: Some(10) };
        world.export(0, sticky.clone(), request(0));
        assert!(
            [0, 1]
                .iter()
                .all(|c| world.import(*c).unwrap().session_affinity == sticky.service.session_affinity)
        );
    }),
    ("an address is allocated for a ClusterSetIP import", |world| {
        world.export(0, hello(), request(0));
        world.allocate();
        assert!([0, 1].iter().all(|c| world.import(*c).unwrap().ips.len() == 1));
    }),
    ("no address is allocated for a Headless import", |world| {
        world.export(0, headless(), request(0));
        world.allocate();
        assert!([0, 1].iter().all(|c| world.import(*c).unwrap().ips.is_empty()));
    }),
    ("the ports of the import are the service's", |world| {
        world.export(0, with_ports(&[("tcp", 42), ("web", 80)]), request(0));
        assert!([0, 1].iter().all(|c| world.import(*c).unwrap().ports == [port("tcp", 42), port("web", 80)]));
    }),
    ("the import has the union of the ports of all clusters", |world| {
        world.export(0, with_ports(&[("tcp", 42)]), request(0));
        world.export(1, with_ports(&[("tcp", 42), ("more", 142)]), request(1));
        assert!(
            [0, 1].iter().all(|c| world.import(*c).unwrap().ports == [port("tcp", 42), port("more", 142)])
        );
    }),
    ("of conflicting ports those of the older export count, and both exports say so", |world| {
        world.export(0, with_ports(&[("tcp", 42)]), request(0));
        world.export(1, with_ports(&[("tcp", 43)]), request(1));
        assert!(world.conflicts("PortConflict"));
        assert!([0, 1].iter().all(|c| world.import(*c).unwrap().ports == [port("tcp", 42)]));
    }),
    ("of conflicting headlessness that of the older export counts, and both exports say so", |world| {
        world.export(0, hello(), request(0));
        world.export(1, headless(), request(1));
        assert!(world.conflicts("TypeConflict"));
        assert!([0, 1].iter().all(|c| world.import(*c).unwrap().kind == ExportType::ClusterSetIP));
    }),
    ("an ExternalName service is no valid export, and not imported", |world| {
        let mut external = hello();
        external.service.kind = ServiceType::ExternalName;
        world.export(0, external, request(0));
        assert_eq!(world.condition(0, "Valid"), Some((false, "InvalidServiceType".to_owned())));
        assert!([0, 1].iter().all(|c| world.import(*c).is_none()));
    }),
    ("only labels and annotations of the export travel (optional)", |world| {
        world.export(0, hello(), says("dummy"));
        for import in [0, 1].map(|c| world.import(c).unwrap()) {
            assert_eq!(import.labels, says("dummy").labels.unwrap());
            assert_eq!(import.annotations["dummy"], "true");
            assert!(!import.labels.contains_key("team"), "a label of the Service");
        }
    }),
    ("of conflicting labels those of the older export count, and both exports say so (optional)", |world| {
        world.export(0, hello(), says("one"));
        world.export(1, hello(), ExportRequest { created: request(1).created, ..says("two") });
        assert!(world.conflicts("AnnotationsConflict"));
        assert!([0, 1].iter().all(|c| world.import(*c).unwrap().labels == says("one").labels.unwrap()));
    }),
];

#[test]
fn all_requirements_hold() {
    for (requirement, check) in REQUIRED {
        println!("{requirement}");
        check(&mut World::new());
    }
}
