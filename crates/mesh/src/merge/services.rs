//! Services of this cluster with the backends of all clusters (behaviours 2.2 to 2.5).

mod claims;
mod explain;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use causeway_model::lb::{Backend, Balancing, Forwarding, Frontend, FrontendKind, HostPorts, L4Addr};
use causeway_model::{
    ClusterName, ClusterService, Collection, EndpointSlice, Event, Keyed, LabelSelector, Service, ServiceKey,
    ServiceType, SliceKey,
};

use super::backends::{Claim, ListId, ServiceBackends};
use super::reach::Reach;
use super::selection::Location;
use claims::{Deltas, of_remote, of_slice, remote_deltas, slice_deltas};
pub use explain::{BackendState, BackendView, FrontendView, HealthCheck, ServiceView};

/// Merges services: only Services of this cluster have frontends; a global one also uses what other
/// clusters share under the same namespace and name. Of what changes in thousands of backends only the
/// difference is merged.
#[derive(Debug, Default)]
pub struct ServiceMerger {
    location: Location,
    services: Collection<Service>,
    /// How many of them are global.
    global: usize,
    slices: Collection<EndpointSlice>,
    slices_of: BTreeMap<ServiceKey, BTreeSet<SliceKey>>,
    remotes: BTreeMap<ClusterName, Collection<ClusterService>>,
    /// What pods of this node ask for, by the owner of their frontends.
    host_ports: Collection<HostPorts>,
    /// The backends of each service of this cluster.
    backends: BTreeMap<ServiceKey, ServiceBackends>,
    /// Which of their addresses do not answer.
    reach: Reach,
    /// Services whose backends have changed since somebody asked.
    touched: BTreeSet<ServiceKey>,
    /// What each service wants programmed.
    wanted: BTreeMap<ServiceKey, BTreeMap<L4Addr, Wanted>>,
    /// Who wants each address. More than one only if two services name one external address.
    claims: BTreeMap<L4Addr, BTreeSet<(Rank, ServiceKey)>>,
}

/// How strongly a service claims an address: its own ClusterIP cannot be taken by another service
/// that lists it as an external address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    ClusterIp,
    LoadBalancer,
    NodePort,
    ExternalIp,
    HostPort,
}

impl Rank {
    const fn kind(self) -> FrontendKind {
        match self {
            Self::ClusterIp => FrontendKind::ClusterIP,
            Self::LoadBalancer => FrontendKind::LoadBalancer,
            Self::NodePort => FrontendKind::NodePort,
            Self::ExternalIp => FrontendKind::ExternalIP,
            Self::HostPort => FrontendKind::HostPort,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    rank: Rank,
    /// `None` where the backends are no service's.
    list: Option<ListId>,
    backends: Arc<[Backend]>,
    /// For clients inside, where they get others than clients outside.
    internal: Option<(ListId, Arc<[Backend]>)>,
    balancing: Arc<Balancing>,
}

impl ServiceMerger {
    /// A merger that knows nothing yet, not even where it runs.
    pub fn new() -> Self {
        Self::default()
    }

    /// A merger for the agent of one node.
    pub fn at(location: Location) -> Self {
        Self { location, ..Self::default() }
    }

    /// A change of a Service of this cluster.
    pub fn apply_service(&mut self, event: Event<Service>) -> Vec<Event<Frontend>> {
        let is_global = |service: &Service| service.sharing.global;
        let mut changed = BTreeSet::new();
        for change in self.services.apply(event) {
            let (key, before) = change.into_parts();
            self.global += usize::from(self.services.get(&key).is_some_and(is_global));
            self.global -= usize::from(before.as_ref().is_some_and(is_global));
            if let Some(old) = self.backends.remove(&key) {
                old.retire(&mut self.reach);
            }
            if let Some(service) = self.services.get(&key) {
                let claims = self.claims_of(service);
                let new = ServiceBackends::new(service, &self.location, claims, &mut self.reach);
                self.backends.insert(key.clone(), new);
            }
            changed.insert(key);
        }
        self.touched.extend(changed.iter().cloned());
        self.refresh(changed)
    }

    /// A change of an EndpointSlice of this cluster. Slices that mirror other clusters' endpoints
    /// must not come in here.
    pub fn apply_slice(&mut self, event: Event<EndpointSlice>) -> Vec<Event<Frontend>> {
        let mut deltas: Deltas = BTreeMap::new();
        for change in self.slices.apply(event) {
            let (key, before) = change.into_parts();
            let now = self.slices.get(&key);
            slice_deltas(before.as_ref(), now, &self.location, &mut deltas);
            if let Some(before) = before
                && let Some(keys) = self.slices_of.get_mut(&before.service)
            {
                keys.remove(&key);
                if keys.is_empty() {
                    self.slices_of.remove(&before.service);
                }
            }
            if let Some(now) = now {
                self.slices_of.entry(now.service.clone()).or_default().insert(key);
            }
        }
        self.change_backends(deltas)
    }

    /// A change of what another cluster shares. `shared: false` withdraws it.
    pub fn apply_remote(
        &mut self,
        cluster: &ClusterName,
        event: Event<ClusterService>,
    ) -> Vec<Event<Frontend>> {
        let event = match event {
            Event::Upsert(service) if !service.shared => Event::Remove(service.key()),
            event => event,
        };
        let mut deltas: Deltas = BTreeMap::new();
        let remote = self.remotes.entry(cluster.clone()).or_default();
        for change in remote.apply(event) {
            let (key, before) = change.into_parts();
            let changed = remote_deltas(cluster, before.as_ref(), remote.get(&key), &self.location);
            deltas.entry(key.1).or_default().extend(changed);
        }
        self.change_global(deltas)
    }

    /// Another cluster is no longer a peer: its backends are withdrawn.
    pub fn remove_cluster(&mut self, cluster: &ClusterName) -> Vec<Event<Frontend>> {
        let Some(remote) = self.remotes.remove(cluster) else { return vec![] };
        let gone = remote.iter().map(|((_, key), service)| {
            (key.clone(), remote_deltas(cluster, Some(service), None, &self.location))
        });
        self.change_global(gone.collect())
    }

    /// The nodes behind these addresses no longer answer (true), or answer again: until then their
    /// backends take new connections only where no other is left.
    pub fn apply_unreachable(
        &mut self,
        changes: impl IntoIterator<Item = (IpAddr, bool)>,
    ) -> Vec<Event<Frontend>> {
        let mut of: BTreeMap<ServiceKey, Vec<(IpAddr, bool)>> = BTreeMap::new();
        for (ip, unreachable) in changes {
            let ip = ip.to_canonical();
            if self.reach.set(ip, unreachable) {
                for service in self.reach.users(ip) {
                    of.entry(service.as_ref().clone()).or_default().push((ip, unreachable));
                }
            }
        }
        let mut changed = vec![];
        for (key, addresses) in of {
            if let (Some(service), Some(backends)) = (self.services.get(&key), self.backends.get_mut(&key)) {
                changed.push((backends.reached(service, &addresses), key));
            }
        }
        self.update(changed)
    }

    /// A change of the ports of this node that its pods ask for. Services go before them, and of two pods
    /// that ask for one the first by name has it.
    pub fn apply_host_ports(&mut self, event: Event<HostPorts>) -> Vec<Event<Frontend>> {
        let changed = self.host_ports.apply(event).iter().map(|change| change.key().clone()).collect();
        self.refresh(changed)
    }

    /// True once this cluster's Services and EndpointSlices have been listed, and the pods of this node.
    pub fn is_local_synced(&self) -> bool {
        self.services.is_synced() && self.slices.is_synced() && self.host_ports.is_synced()
    }

    /// How many services of this cluster are global.
    pub fn global_services(&self) -> usize {
        self.global
    }

    /// A service of this cluster.
    pub fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.services.get(key)
    }

    /// The services that came, went or may have other backends since this was asked last.
    pub fn take_touched(&mut self) -> BTreeSet<ServiceKey> {
        std::mem::take(&mut self.touched)
    }

    /// The merged state in address order: what the datapath should hold.
    pub fn snapshot(&self) -> BTreeMap<L4Addr, Frontend> {
        self.claims.keys().filter_map(|address| Some((*address, self.winner(address)?))).collect()
    }

    /// Takes the difference of who names which backend, for services that use other clusters' backends.
    fn change_global(&mut self, mut deltas: Deltas) -> Vec<Event<Frontend>> {
        deltas.retain(|key, _| self.services.get(key).is_some_and(|service| service.sharing.global));
        self.change_backends(deltas)
    }

    /// Takes the difference of who names which backend; emits what changed, in address order.
    fn change_backends(&mut self, deltas: Deltas) -> Vec<Event<Frontend>> {
        let mut changed = vec![];
        for (key, deltas) in deltas {
            if let (Some(service), Some(backends)) = (self.services.get(&key), self.backends.get_mut(&key)) {
                changed.push((backends.change(service, deltas, &mut self.reach), key));
            }
        }
        self.update(changed)
    }

    /// Takes the lists of services that are others now; emits what changed, in address order.
    fn update(&mut self, lists: Vec<(BTreeSet<ListId>, ServiceKey)>) -> Vec<Event<Frontend>> {
        let mut changed = vec![];
        for (lists, key) in lists {
            self.touched.insert(key.clone());
            let Some(backends) = self.backends.get(&key).filter(|_| !lists.is_empty()) else { continue };
            for (address, wanted) in self.wanted.get_mut(&key).into_iter().flatten() {
                let list = wanted.list.filter(|list| lists.contains(list));
                if let Some(list) = list {
                    wanted.backends = backends.list(list);
                }
                let internal = wanted.internal.as_mut().filter(|(list, _)| lists.contains(list));
                let inside = internal.is_some();
                if let Some((list, held)) = internal {
                    *held = backends.list(*list);
                }
                if list.is_some() || inside {
                    changed.push((*address, (wanted.rank, key.clone())));
                }
            }
        }
        // An address that another service has is that one's matter.
        changed.retain(|(address, claim)| {
            self.claims.get(address).and_then(BTreeSet::first).is_some_and(|first| first == claim)
        });
        changed.sort_unstable_by_key(|(address, _)| *address);
        changed.iter().filter_map(|(address, _)| self.winner(address).map(Event::Upsert)).collect()
    }

    /// Recomputes the frontends of these services and emits what changed, in address order.
    fn refresh(&mut self, changed: BTreeSet<ServiceKey>) -> Vec<Event<Frontend>> {
        let mut before: BTreeMap<L4Addr, Option<Frontend>> = BTreeMap::new();
        let mut plan = vec![];
        for key in changed {
            let now = self.wants(&key);
            let old = self.wanted.get(&key);
            let addresses = old.iter().flat_map(|old| old.keys()).chain(now.keys());
            for address in addresses.collect::<BTreeSet<_>>() {
                if old.and_then(|old| old.get(address)) != now.get(address) {
                    before.entry(*address).or_insert_with(|| self.winner(address));
                }
            }
            plan.push((key, now));
        }
        for (key, now) in plan {
            for (address, wanted) in self.wanted.remove(&key).unwrap_or_default() {
                if let Some(claims) = self.claims.get_mut(&address) {
                    claims.remove(&(wanted.rank, key.clone()));
                    if claims.is_empty() {
                        self.claims.remove(&address);
                    }
                }
            }
            for (address, wanted) in &now {
                self.claims.entry(*address).or_default().insert((wanted.rank, key.clone()));
            }
            if !now.is_empty() {
                self.wanted.insert(key, now);
            }
        }
        before
            .into_iter()
            .filter_map(|(address, before)| match self.winner(&address) {
                now if now == before => None,
                Some(now) => Some(Event::Upsert(now)),
                None => Some(Event::Remove(address)),
            })
            .collect()
    }

    fn winner(&self, address: &L4Addr) -> Option<Frontend> {
        let (_, service) = self.claims.get(address)?.first()?;
        let wanted = self.wanted.get(service)?.get(address)?;
        Some(Frontend {
            address: *address,
            kind: wanted.rank.kind(),
            service: service.clone(),
            balancing: wanted.balancing.clone(),
            backends: wanted.backends.clone(),
            internal: wanted.internal.as_ref().map(|(_, backends)| backends.clone()),
        })
    }

    /// What a service wants, or a pod with ports of its node.
    fn wants(&self, key: &ServiceKey) -> BTreeMap<L4Addr, Wanted> {
        let of_pod = self.host_ports.get(key).into_iter().flat_map(|pod| &pod.ports).map(|port| {
            let wanted = Wanted {
                rank: Rank::HostPort,
                list: None,
                backends: [Backend::new(port.backend, None)].into(),
                internal: None,
                balancing: Arc::default(),
            };
            (port.address, wanted)
        });
        match self.services.get(key) {
            Some(service) => self.frontends(service),
            None => of_pod.collect(),
        }
    }

    /// Every address of a service with the backends selected for it.
    fn frontends(&self, service: &Service) -> BTreeMap<L4Addr, Wanted> {
        let mut out = BTreeMap::new();
        if service.headless || service.kind == ServiceType::ExternalName {
            return out;
        }
        let Some(backends) = self.backends.get(&service.key) else { return out };
        // A NodePort is the same at every node; which addresses those are, the datapath knows.
        let everywhere = |ip: &IpAddr| match ip.to_canonical() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let served = |rank: Rank| {
            let elsewhere = !service.nodes.matches(|key| self.location.labels.get(key).map(String::as_str));
            service.exposed.has(rank.kind()) && (rank == Rank::ClusterIp || !elsewhere)
        };
        // Nodes that are not selected have not heard of the addresses, and could not answer under them.
        let balancing = match service.nodes == LabelSelector::default() {
            true => service.balancing.clone(),
            false => Arc::new(Balancing {
                forwarding: Some(Forwarding::Snat),
                ..Balancing::clone(&service.balancing)
            }),
        };
        // Source ranges are those of the load balancer's addresses, as in Kubernetes.
        let open = match balancing.source_ranges.is_empty() {
            true => balancing.clone(),
            false => Arc::new(Balancing {
                source_ranges: vec![],
                deny_source_ranges: false,
                ..Balancing::clone(&balancing)
            }),
        };
        for (index, port) in service.ports.iter().enumerate() {
            let mut add = |ip: &IpAddr, number: u16, rank: Rank| {
                let address = L4Addr { ip: ip.to_canonical(), port: number, protocol: port.protocol };
                if !served(rank) || out.get(&address).is_some_and(|held: &Wanted| held.rank <= rank) {
                    return;
                }
                let list = |policy| ListId { port: index, v6: address.ip.is_ipv6(), policy };
                let inside = list(service.internal_traffic);
                let outside = if rank == Rank::ClusterIp { inside } else { list(service.external_traffic) };
                let wanted = Wanted {
                    rank,
                    list: Some(outside),
                    backends: backends.list(outside),
                    internal: (inside != outside).then(|| (inside, backends.list(inside))),
                    balancing: if rank == Rank::LoadBalancer { &balancing } else { &open }.clone(),
                };
                out.insert(address, wanted);
            };
            service.cluster_ips.iter().for_each(|ip| add(ip, port.port, Rank::ClusterIp));
            service.load_balancer_ips.iter().for_each(|ip| add(ip, port.port, Rank::LoadBalancer));
            service.external_ips.iter().for_each(|ip| add(ip, port.port, Rank::ExternalIp));
            if port.node_port != 0 {
                let families = service.cluster_ips.iter().map(everywhere);
                families.for_each(|ip| add(&ip, port.node_port, Rank::NodePort));
            }
        }
        out
    }

    /// Everything that names backends of a service. An address that this cluster's Kubernetes names is
    /// local, whoever else names it.
    fn claims_of(&self, service: &Service) -> Vec<(IpAddr, Claim)> {
        let slices = self.slices_of.get(&service.key).into_iter().flatten();
        let local =
            slices.filter_map(|key| self.slices.get(key)).flat_map(|slice| of_slice(slice, &self.location));
        let sharing = self.remotes.iter().filter(|_| service.sharing.global);
        let remote = sharing.filter_map(|(cluster, shared)| {
            let theirs = shared.get(&(cluster.clone(), service.key.clone()))?;
            Some(of_remote(cluster, theirs, &self.location))
        });
        local.chain(remote.flatten()).collect()
    }
}

#[cfg(test)]
#[path = "services_property_tests.rs"]
mod property_tests;
#[cfg(test)]
#[path = "services_tests.rs"]
mod tests;
