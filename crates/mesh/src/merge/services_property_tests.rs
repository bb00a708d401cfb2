//! The merger of differences against a recomputation of everything: any number of clusters, any order
//! of changes, listings and disconnections, several ports, names, protocols and both families, orders and
//! weights of clusters, traffic policies, zone hints, and nodes that stop answering.

use causeway_model::{
    Affinity, BackendZone, ClusterId, EndpointConditions, MaxClusters, Port, Ports, PortsByAddress,
    Preference, Protocol, ServicePort, Sharing, SliceEndpoint, SlicePort, TrafficPolicy,
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

/// What a service asks for beside its ports.
#[derive(Debug, Clone)]
struct Wishes {
    global: bool,
    affinity: usize,
    headless: bool,
    /// Numbers of clusters; 9 is this one by its own name, 8 by the word `local`.
    order: Vec<u8>,
    weights: Vec<(u8, u16)>,
    policies: [bool; 2],
    zones: bool,
}

fn named(n: u8) -> Option<ClusterName> {
    (n != 8).then(|| cluster(n))
}

fn location() -> Location {
    Location {
        cluster: Some(cluster(9)),
        node: Some("n0".into()),
        zone: Some("z0".into()),
        topology: true,
        labels: BTreeMap::new(),
    }
}

fn service(n: u8, ports: &Numbers, wishes: &Wishes) -> Service {
    let port = |(index, of): (usize, &usize)| {
        let (name, protocol, _) = PORTS[*of];
        let port = 1000 + index as u16;
        ServicePort { name: name.into(), protocol, app_protocol: None, port, node_port: 0 }
    };
    let policy = |local| if local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
    Service {
        cluster_ips: vec![format!("10.96.0.{n}").parse().unwrap(), format!("fd96::{n}").parse().unwrap()],
        headless: wishes.headless,
        // Both services want this one.
        external_ips: vec!["198.51.100.7".parse().unwrap()],
        ports: ports.iter().enumerate().map(port).collect(),
        sharing: Sharing {
            global: wishes.global,
            shared: wishes.global,
            affinity: [Affinity::None, Affinity::Local, Affinity::Remote][wishes.affinity],
        },
        preference: Preference {
            order: wishes.order.iter().copied().map(named).collect(),
            weights: wishes.weights.iter().map(|(n, weight)| (named(*n), *weight)).collect(),
        },
        external_traffic: policy(wishes.policies[0]),
        internal_traffic: policy(wishes.policies[1]),
        prefer_zone: wishes.zones,
        ..Service::new(key(n))
    }
}

/// An endpoint: host, state, node (2 = unknown) and zone hint (2 = none).
type Host = (u8, u8, u8, u8);

fn zones(hint: u8) -> Vec<String> {
    match hint {
        0 => vec!["z1".into(), "z0".into()],
        1 => vec!["z1".into()],
        _ => vec![],
    }
}

fn slice(n: u8, of: u8, ports: &Numbers, hosts: &[Host]) -> EndpointSlice {
    let endpoint = |(host, state, node, hint): &Host| SliceEndpoint {
        addresses: vec![ip(*host)],
        conditions: EndpointConditions { ready: *state == 0, serving: *state < 2, terminating: *state == 1 },
        hostname: String::new(),
        node: (*node < 2).then(|| format!("n{node}")),
        zone: None,
        for_zones: zones(*hint),
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

fn shared(c: u8, n: u8, hosts: &[(u8, u8, Numbers)], shared: bool) -> ClusterService {
    let ports = |numbers: &Numbers| -> Arc<Ports> {
        let port = |of: &usize| {
            let (name, protocol, port) = PORTS[*of];
            (name.to_owned(), Port { protocol, port })
        };
        Arc::new(numbers.iter().map(port).collect())
    };
    let hinted = hosts.iter().filter(|(_, hint, _)| *hint < 2);
    let zone = |hint| Arc::new(BackendZone { zone: String::new(), for_zones: zones(hint) });
    ClusterService {
        cluster: cluster(c),
        cluster_id: ClusterId::new(u32::from(c) + 1, MaxClusters::C255).unwrap(),
        key: key(n),
        frontends: PortsByAddress::default(),
        backends: hosts.iter().map(|(host, _, numbers)| (ip(*host), ports(numbers))).collect(),
        hostnames: BTreeMap::new(),
        zones: hinted.map(|(host, hint, _)| (ip(*host), zone(*hint))).collect(),
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
    Reach(Vec<(u8, bool)>),
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
    let wishes = (
        prop::bool::weighted(0.8),
        0usize..3,
        prop::bool::weighted(0.1),
        prop_oneof![2 => Just(vec![]), 1 => prop::sample::subsequence(vec![8u8, 0, 9, 2], 0..4).prop_shuffle()],
        prop_oneof![2 => Just(vec![]), 1 => prop::collection::vec((prop::sample::select(vec![0u8, 1, 2, 8]), 0u16..5), 0..4)],
        prop::array::uniform2(prop::bool::weighted(0.3)),
        prop::bool::weighted(0.4),
    )
        .prop_map(|(global, affinity, headless, order, weights, policies, zones)| Wishes {
            global,
            affinity,
            headless,
            order,
            weights,
            policies,
            zones,
        });
    let service = (0u8..2, numbers(), wishes).prop_map(|(n, ports, wishes)| service(n, &ports, &wishes));
    let hint = || prop_oneof![3 => 0u8..2, 1 => Just(2)];
    let host = (0u8..9, prop_oneof![3 => Just(0u8), 1 => 1u8..3], 0u8..3, hint());
    let slice = (0u8..3, 0u8..2, numbers(), prop::collection::vec(host, 0..5))
        .prop_map(|(n, of, ports, hosts)| slice(n, of, &ports, &hosts));
    let hosts = prop::collection::vec((0u8..12, hint(), numbers()), 0..5);
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
        2 => prop::collection::vec((0u8..12, any::<bool>()), 1..6).prop_map(Step::Reach),
    ];
    prop::collection::vec(step, 0..60)
}

#[derive(Default)]
struct World {
    services: Collection<Service>,
    slices: Collection<EndpointSlice>,
    remotes: BTreeMap<ClusterName, Collection<ClusterService>>,
    unreachable: BTreeSet<IpAddr>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn differences_add_up_to_the_whole(steps in steps()) {
        let mut merger = ServiceMerger::at(location());
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
                Step::Reach(hosts) => {
                    for (host, unreachable) in &hosts {
                        match unreachable {
                            true => world.unreachable.insert(ip(*host)),
                            false => world.unreachable.remove(&ip(*host)),
                        };
                    }
                    merger.apply_unreachable(hosts.into_iter().map(|(host, unreachable)| (ip(host), unreachable)))
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
        for key in merger.owners() {
            explains(&merger.explain(key).unwrap(), &programmed);
        }
        let used: usize = merger.backends.values().map(ServiceBackends::addresses).sum();
        prop_assert_eq!(used, merger.reach.len(), "addresses whose reachability is followed");
    }
}

/// What is told of a service is what is programmed.
fn explains(view: &ServiceView, programmed: &BTreeMap<L4Addr, Frontend>) {
    for told in view.frontends.iter().filter(|told| told.held_by.is_none()) {
        let (_, frontend) =
            programmed.iter().find(|(address, _)| address.to_string() == told.address).unwrap();
        let lists = [
            (Some(&told.backends), Some(&frontend.backends)),
            (told.internal.as_ref(), frontend.internal.as_ref()),
        ];
        for (told, list) in lists {
            let (Some(told), Some(list)) = (told, list) else {
                assert!(told.is_none() && list.is_none());
                continue;
            };
            let sum: f64 = list.iter().map(|backend| f64::from(backend.weight)).sum();
            let mut told: Vec<_> = told.iter().filter(|told| told.listed).collect();
            told.sort_by_key(|told| {
                list.iter().position(|backend| backend.address.to_string() == told.address)
            });
            assert_eq!(told.len(), list.len());
            for (told, backend) in told.into_iter().zip(list.iter()) {
                assert_eq!(told.address, backend.address.to_string());
                assert_eq!(told.cluster, backend.cluster.as_ref().map(ToString::to_string));
                assert!((told.share * sum - f64::from(backend.weight)).abs() < 1e-6, "{told:?} {backend:?}");
                assert_eq!(told.reason.is_none(), backend.weight > 0, "{told:?}");
            }
        }
    }
}

/// An address with a port, before selection.
struct Candidate {
    names: BTreeSet<String>,
    cluster: Option<ClusterName>,
    active: bool,
    here: bool,
    hint: u8,
}

impl World {
    /// Services in key order: the first one keeps the address that several want.
    fn frontends(&self) -> BTreeMap<L4Addr, Frontend> {
        let mut out = BTreeMap::new();
        for (key, service) in self.services.iter().filter(|(_, service)| !service.headless) {
            let candidates = self.candidates(service);
            for port in &service.ports {
                let list =
                    |ip: &IpAddr, policy| self.select(service, port, ip.is_ipv6(), &candidates, policy);
                for ip in &service.cluster_ips {
                    let address = L4Addr { ip: *ip, port: port.port, protocol: port.protocol };
                    let frontend = Frontend::new(address, key.clone(), list(ip, service.internal_traffic));
                    out.entry(address).or_insert(frontend);
                }
                for ip in &service.external_ips {
                    let address = L4Addr { ip: *ip, port: port.port, protocol: port.protocol };
                    let other = service.internal_traffic != service.external_traffic;
                    let internal = other.then(|| list(ip, service.internal_traffic).into());
                    let frontend = Frontend::new(address, key.clone(), list(ip, service.external_traffic));
                    let frontend = Frontend { kind: FrontendKind::ExternalIP, internal, ..frontend };
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
                    let here = endpoint.node.as_ref().is_none_or(|node| node == "n0");
                    let new = || Candidate {
                        names: BTreeSet::new(),
                        cluster: None,
                        active: conditions.ready,
                        here,
                        hint: hint(&endpoint.for_zones),
                    };
                    for port in &slice.ports {
                        let number = Port { protocol: port.protocol, port: port.port };
                        add(&mut out, endpoint.addresses[0], &port.name, number, new());
                    }
                }
            }
        }
        for (name, shared) in self.remotes.iter().filter(|_| service.sharing.global) {
            let Some(remote) = shared.get(&(name.clone(), service.key.clone())) else { continue };
            let mut theirs = BTreeMap::new();
            for (ip, ports) in remote.backends.iter() {
                let new = || Candidate {
                    names: BTreeSet::new(),
                    cluster: Some(name.clone()),
                    active: true,
                    here: false,
                    hint: remote.zones.get(&ip).map_or(2, |zone| hint(&zone.for_zones)),
                };
                for (port_name, number) in ports.iter() {
                    add(&mut theirs, ip, port_name, *number, new());
                }
            }
            for (address, candidate) in theirs {
                out.entry(address).or_insert(candidate);
            }
        }
        out
    }

    /// The rules once more, from one end to the other.
    fn select(
        &self,
        service: &Service,
        port: &ServicePort,
        v6: bool,
        candidates: &BTreeMap<L4Addr, Candidate>,
        policy: TrafficPolicy,
    ) -> Vec<Backend> {
        let fits = |(address, candidate): &(&L4Addr, &Candidate)| {
            let names = &candidate.names;
            let named = port.name.is_empty() || names.contains("") || names.contains(&port.name);
            named && address.protocol == port.protocol && address.ip.is_ipv6() == v6
        };
        let all: Vec<_> = candidates.iter().filter(fits).collect();
        let grade = |(address, candidate): &(&L4Addr, &Candidate)| {
            usize::from(!candidate.active) + 2 * usize::from(self.unreachable.contains(&address.ip))
        };
        let local_policy = policy == TrafficPolicy::Local;
        let step =
            |(_, candidate): &(&L4Addr, &Candidate)| step(service, candidate.cluster.as_ref(), local_policy);
        let mut ranks: Vec<_> = all.iter().map(|one| (grade(one), step(one))).collect();
        ranks.sort();
        let chosen = ranks.first().map(|(_, step)| *step);
        let allowed = |one: &(&L4Addr, &Candidate)| !local_policy || one.1.cluster.is_some() || one.1.here;
        let of_step: Vec<_> = all.iter().filter(|one| Some(step(one)) == chosen && allowed(one)).collect();
        let best = of_step.iter().map(|one| grade(one)).min();
        let mut winners: Vec<_> = of_step.into_iter().filter(|one| Some(grade(one)) == best).collect();
        let all_hinted = all.iter().filter(|(_, candidate)| candidate.active).all(|(_, c)| c.hint < 2);
        let ours = winners.iter().any(|(_, candidate)| candidate.hint == 0);
        if service.prefer_zone && !local_policy && all_hinted && ours {
            winners.retain(|(_, candidate)| candidate.hint == 0);
        }
        let weights = weights(service, &winners.iter().map(|(_, c)| c.cluster.clone()).collect::<Vec<_>>());
        let winners: BTreeMap<L4Addr, u16> =
            winners.into_iter().zip(weights).map(|((address, _), weight)| (**address, weight)).collect();
        let listed = all.iter().filter(|one| allowed(one));
        listed
            .map(|(address, candidate)| Backend {
                weight: winners.get(address).copied().unwrap_or(0),
                ..Backend::new(**address, candidate.cluster.clone())
            })
            .collect()
    }
}

fn hint(zones: &[String]) -> u8 {
    match zones {
        [] => 2,
        zones if zones.iter().any(|zone| zone == "z0") => 0,
        _ => 1,
    }
}

fn add(out: &mut BTreeMap<L4Addr, Candidate>, ip: IpAddr, name: &str, number: Port, new: Candidate) {
    if number.port == 0 {
        return;
    }
    let address = L4Addr { ip, port: number.port, protocol: number.protocol };
    let (active, here, hint) = (new.active, new.here, new.hint);
    let candidate = out.entry(address).or_insert(new);
    candidate.active |= active;
    candidate.here |= here;
    candidate.hint = candidate.hint.min(hint);
    candidate.names.insert(name.to_owned());
}

/// `None` and cls-9 are both this cluster.
fn is_same(name: &Option<ClusterName>, cluster: Option<&ClusterName>) -> bool {
    match name {
        Some(name) if *name != self::cluster(9) => cluster == Some(name),
        _ => cluster.is_none(),
    }
}

fn step(service: &Service, cluster: Option<&ClusterName>, local_policy: bool) -> (usize, bool) {
    let Preference { order, weights } = &service.preference;
    let has_share = |(name, weight): (&Option<ClusterName>, &u16)| is_same(name, cluster) && *weight > 0;
    let step = if !weights.is_empty() && !weights.iter().any(has_share) {
        usize::MAX
    } else if !order.is_empty() {
        // The place among different clusters: one may be there under both of its names.
        let mut different: Vec<&Option<ClusterName>> = vec![];
        for name in order {
            let of = name.as_ref().filter(|name| **name != self::cluster(9));
            if !different.iter().any(|held| is_same(held, of)) {
                different.push(name);
            }
        }
        different.iter().position(|name| is_same(name, cluster)).unwrap_or(different.len())
    } else {
        match (service.sharing.affinity, cluster) {
            (Affinity::Local, Some(_)) | (Affinity::Remote, None) if service.sharing.global => 1,
            _ => 0,
        }
    };
    (step, local_policy && cluster.is_some())
}

/// The weights of winners of these clusters: each cluster's share over how many it has.
fn weights(service: &Service, clusters: &[Option<ClusterName>]) -> Vec<u16> {
    let weight = |cluster: &Option<ClusterName>| {
        let named = service.preference.weights.iter().find(|(name, _)| is_same(name, cluster.as_ref()));
        named.map_or(0, |(_, weight)| u64::from(*weight))
    };
    let count = |cluster| clusters.iter().filter(|other| *other == cluster).count() as u64;
    if clusters.iter().all(|cluster| weight(cluster) == 0) {
        return vec![1; clusters.len()];
    }
    let product: u64 = clusters.iter().collect::<BTreeSet<_>>().into_iter().map(count).product();
    let each: Vec<u64> = clusters.iter().map(|cluster| weight(cluster) * product / count(cluster)).collect();
    let divisor = (1..=*each.iter().max().unwrap()).rev().find(|n| each.iter().all(|each| each % n == 0));
    each.into_iter().map(|each| u16::try_from(each / divisor.unwrap()).unwrap()).collect()
}
