//! The merger of differences against a recomputation of everything: any number of clusters, any order
//! of changes, listings and disconnections, several ports, names, protocols and both families.

use causeway_model::{
    Affinity, ClusterId, EndpointConditions, MaxClusters, Protocol, ServicePort, SessionAffinity, Sharing,
    SliceEndpoint, SlicePort,
};
use proptest::prelude::*;

use super::*;

fn key(n: u8) -> ServiceKey {
    ServiceKey { namespace: "shop".into(), name: format!("s{n}") }
}

fn cluster(n: u8) -> ClusterName {
    ClusterName::new(format!("cls-{n}")).unwrap()
}

/// Addresses of both families; the first ones are named by this cluster and by others.
fn ip(host: u8) -> IpAddr {
    let text = if host.is_multiple_of(3) { format!("fd00::{host}") } else { format!("10.1.0.{host}") };
    text.parse().unwrap()
}

/// What the ports of services, slices and clusters are drawn from: names that fit and others, one
/// number under two names, one name with two numbers, another protocol, a number that is none.
const PORTS: [(&str, Protocol, u16); 7] = [
    ("http", Protocol::TCP, 80),
    ("http", Protocol::TCP, 81),
    ("grpc", Protocol::TCP, 80),
    ("", Protocol::TCP, 82),
    ("dns", Protocol::UDP, 80),
    ("http", Protocol::UDP, 80),
    ("grpc", Protocol::TCP, 0),
];

type Numbers = Vec<usize>;

fn service(n: u8, ports: &Numbers, global: bool, affinity: usize, headless: bool) -> Service {
    let port = |(index, of): (usize, &usize)| {
        let (name, protocol, _) = PORTS[*of];
        let port = 1000 + index as u16;
        ServicePort { name: name.into(), protocol, app_protocol: None, port, node_port: 0 }
    };
    Service {
        key: key(n),
        kind: ServiceType::ClusterIP,
        cluster_ips: vec![format!("10.96.0.{n}").parse().unwrap(), format!("fd96::{n}").parse().unwrap()],
        headless,
        // Both services want this one.
        external_ips: vec!["198.51.100.7".parse().unwrap()],
        load_balancer_ips: vec![],
        ports: ports.iter().enumerate().map(port).collect(),
        session_affinity: SessionAffinity::None,
        labels: BTreeMap::new(),
        selector: BTreeMap::new(),
        sharing: Sharing {
            global,
            shared: global,
            affinity: [Affinity::None, Affinity::Local, Affinity::Remote][affinity],
        },
        external_name: None,
    }
}

fn slice(n: u8, of: u8, ports: &Numbers, hosts: &[(u8, u8)]) -> EndpointSlice {
    let endpoint = |(host, state): &(u8, u8)| SliceEndpoint {
        addresses: vec![ip(*host)],
        conditions: EndpointConditions { ready: *state == 0, serving: *state < 2, terminating: *state == 1 },
        hostname: String::new(),
        node: None,
        zone: None,
        for_zones: vec![],
    };
    let port = |of: &usize| {
        let (name, protocol, port) = PORTS[*of];
        SlicePort { name: name.into(), protocol, port }
    };
    EndpointSlice {
        key: SliceKey { namespace: "shop".into(), name: format!("slice{n}") },
        service: key(of),
        endpoints: hosts.iter().map(endpoint).collect(),
        ports: ports.iter().map(port).collect(),
        source_cluster: None,
        import: None,
    }
}

fn shared(c: u8, n: u8, hosts: &[(u8, Numbers)], shared: bool) -> ClusterService {
    let ports = |numbers: &Numbers| -> Arc<Ports> {
        let port = |of: &usize| {
            let (name, protocol, port) = PORTS[*of];
            (name.to_owned(), Port { protocol, port })
        };
        Arc::new(numbers.iter().map(port).collect())
    };
    ClusterService {
        cluster: cluster(c),
        cluster_id: ClusterId::new(u32::from(c) + 1, MaxClusters::C255).unwrap(),
        key: key(n),
        frontends: PortsByAddress::default(),
        backends: hosts.iter().map(|(host, numbers)| (ip(*host), ports(numbers))).collect(),
        hostnames: BTreeMap::new(),
        labels: BTreeMap::new(),
        selector: BTreeMap::new(),
        shared,
    }
}

#[derive(Debug, Clone)]
enum Step {
    Service(Event<Service>),
    Slice(Event<EndpointSlice>),
    Remote(u8, Event<ClusterService>),
    Disconnect(u8),
}

fn event<T: Keyed + Clone + std::fmt::Debug>(
    value: impl Strategy<Value = T>,
) -> impl Strategy<Value = Event<T>> {
    (value, 0u8..12).prop_map(|(value, what)| match what {
        0 => Event::Reset,
        1 => Event::Synced,
        2 | 3 => Event::Remove(value.key()),
        _ => Event::Upsert(value),
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let numbers = || prop::collection::vec(0..PORTS.len(), 0..4);
    let service = (0u8..2, numbers(), prop::bool::weighted(0.8), 0usize..3, prop::bool::weighted(0.1))
        .prop_map(|(n, ports, global, affinity, headless)| service(n, &ports, global, affinity, headless));
    let slice = (0u8..3, 0u8..2, numbers(), prop::collection::vec((0u8..9, 0u8..3), 0..5))
        .prop_map(|(n, of, ports, hosts)| slice(n, of, &ports, &hosts));
    let hosts = prop::collection::vec((0u8..12, numbers()), 0..5);
    let shared = (0u8..3, 0u8..2, hosts, prop::bool::weighted(0.9))
        .prop_map(|(c, n, hosts, is_shared)| shared(c, n, &hosts, is_shared));
    let remote = event(shared).prop_flat_map(|event| {
        let of = match &event {
            Event::Upsert(service) => Just(service.cluster.as_str().as_bytes()[4] - b'0').boxed(),
            Event::Remove((name, _)) => Just(name.as_str().as_bytes()[4] - b'0').boxed(),
            Event::Reset | Event::Synced => (0u8..3).boxed(),
        };
        of.prop_map(move |c| Step::Remote(c, event.clone()))
    });
    let step = prop_oneof![
        3 => event(service).prop_map(Step::Service),
        5 => event(slice).prop_map(Step::Slice),
        6 => remote,
        1 => (0u8..3).prop_map(Step::Disconnect),
    ];
    prop::collection::vec(step, 0..60)
}

#[derive(Default)]
struct World {
    services: Collection<Service>,
    slices: Collection<EndpointSlice>,
    remotes: BTreeMap<ClusterName, Collection<ClusterService>>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn differences_add_up_to_the_whole(steps in steps()) {
        let mut merger = ServiceMerger::new();
        let mut world = World::default();
        let mut programmed: BTreeMap<L4Addr, Frontend> = BTreeMap::new();
        for step in steps {
            let out = match step {
                Step::Service(event) => {
                    world.services.apply(event.clone());
                    merger.apply_service(event)
                }
                Step::Slice(event) => {
                    world.slices.apply(event.clone());
                    merger.apply_slice(event)
                }
                Step::Remote(c, event) => {
                    let theirs = world.remotes.entry(cluster(c)).or_default();
                    theirs.apply(match event.clone() {
                        Event::Upsert(service) if !service.shared => Event::Remove(service.key()),
                        event => event,
                    });
                    merger.apply_remote(&cluster(c), event)
                }
                Step::Disconnect(c) => {
                    world.remotes.remove(&cluster(c));
                    merger.remove_cluster(&cluster(c))
                }
            };
            for event in out {
                match event {
                    Event::Upsert(frontend) => {
                        let before = programmed.insert(frontend.address, frontend.clone());
                        prop_assert_ne!(before, Some(frontend), "a change that changes nothing");
                    }
                    Event::Remove(address) => prop_assert!(programmed.remove(&address).is_some()),
                    Event::Reset | Event::Synced => prop_assert!(false, "only differences come out"),
                }
            }
            prop_assert_eq!(&programmed, &world.frontends());
            prop_assert_eq!(&programmed, &merger.snapshot());
        }
    }
}

/// An address with a port, before selection.
struct Candidate {
    names: BTreeSet<String>,
    cluster: Option<ClusterName>,
    active: bool,
}

impl World {
    /// Services in key order: the first one keeps the address that several want.
    fn frontends(&self) -> BTreeMap<L4Addr, Frontend> {
        let mut out = BTreeMap::new();
        for (key, service) in self.services.iter().filter(|(_, service)| !service.headless) {
            let candidates = self.candidates(service);
            for port in &service.ports {
                let cluster_ips = service.cluster_ips.iter().map(|ip| (ip, FrontendKind::ClusterIP));
                let external_ips = service.external_ips.iter().map(|ip| (ip, FrontendKind::ExternalIP));
                for (ip, kind) in cluster_ips.chain(external_ips) {
                    let address = L4Addr { ip: *ip, port: port.port, protocol: port.protocol };
                    let backends = select(service, port, ip.is_ipv6(), &candidates);
                    let frontend = Frontend { kind, ..Frontend::new(address, key.clone(), backends) };
                    out.entry(address).or_insert(frontend);
                }
            }
        }
        out
    }

    fn candidates(&self, service: &Service) -> BTreeMap<L4Addr, Candidate> {
        let mut out = BTreeMap::new();
        for (_, slice) in self.slices.iter().filter(|(_, slice)| slice.service == service.key) {
            for endpoint in &slice.endpoints {
                let conditions = endpoint.conditions;
                if conditions.ready || (conditions.serving && conditions.terminating) {
                    for port in &slice.ports {
                        let number = Port { protocol: port.protocol, port: port.port };
                        add(&mut out, endpoint.addresses[0], &port.name, number, None, conditions.ready);
                    }
                }
            }
        }
        for (name, shared) in self.remotes.iter().filter(|_| service.sharing.global) {
            let Some(remote) = shared.get(&(name.clone(), service.key.clone())) else { continue };
            let mut theirs = BTreeMap::new();
            for (ip, ports) in remote.backends.iter() {
                for (port_name, number) in ports.iter() {
                    add(&mut theirs, ip, port_name, *number, Some(name), true);
                }
            }
            for (address, candidate) in theirs {
                out.entry(address).or_insert(candidate);
            }
        }
        out
    }
}

fn add(
    out: &mut BTreeMap<L4Addr, Candidate>,
    ip: IpAddr,
    name: &str,
    number: Port,
    cluster: Option<&ClusterName>,
    active: bool,
) {
    if number.port == 0 {
        return;
    }
    let address = L4Addr { ip, port: number.port, protocol: number.protocol };
    let new = || Candidate { names: BTreeSet::new(), cluster: cluster.cloned(), active };
    let candidate = out.entry(address).or_insert_with(new);
    candidate.active |= active;
    candidate.names.insert(name.to_owned());
}

fn select(
    service: &Service,
    port: &ServicePort,
    v6: bool,
    candidates: &BTreeMap<L4Addr, Candidate>,
) -> Vec<Backend> {
    let fits = |address: &L4Addr, names: &BTreeSet<String>| {
        let named = port.name.is_empty() || names.contains("") || names.contains(&port.name);
        named && address.protocol == port.protocol && address.ip.is_ipv6() == v6
    };
    let (local, remote): (Vec<_>, Vec<_>) =
        candidates.iter().filter(|(a, c)| fits(a, &c.names)).partition(|(_, c)| c.cluster.is_none());
    let here = local.iter().any(|(_, c)| c.active);
    let mut chosen = match service.sharing.affinity {
        Affinity::Local if here && service.sharing.global => local,
        Affinity::Remote if !remote.is_empty() => remote,
        _ => local.into_iter().chain(remote).collect(),
    };
    if chosen.iter().any(|(_, c)| c.active) {
        chosen.retain(|(_, c)| c.active);
    }
    let mut out: Vec<_> = chosen.into_iter().map(|(a, c)| Backend::new(*a, c.cluster.clone())).collect();
    out.sort();
    out
}
