//! Services of this cluster with the backends of all clusters (behaviours 2.2 to 2.4).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use causeway_model::lb::{Backend, Frontend, FrontendKind, L4Addr};
use causeway_model::{
    ClusterName, ClusterService, Collection, EndpointSlice, Event, Keyed, Port, Ports, PortsByAddress,
    Service, ServiceKey, ServiceType, SliceKey,
};

use super::backends::{Claim, Delta, ListId, ServiceBackends};

/// Merges services: only Services of this cluster have frontends; a global one also uses what other
/// clusters share under the same namespace and name. Of what changes in thousands of backends only the
/// difference is merged.
#[derive(Debug, Default)]
pub struct ServiceMerger {
    services: Collection<Service>,
    /// How many of them are global.
    global: usize,
    slices: Collection<EndpointSlice>,
    slices_of: BTreeMap<ServiceKey, BTreeSet<SliceKey>>,
    remotes: BTreeMap<ClusterName, Collection<ClusterService>>,
    /// The backends of each service of this cluster.
    backends: BTreeMap<ServiceKey, ServiceBackends>,
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
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    rank: Rank,
    list: ListId,
    backends: Arc<[Backend]>,
}

impl ServiceMerger {
    /// A merger that knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A change of a Service of this cluster.
    pub fn apply_service(&mut self, event: Event<Service>) -> Vec<Event<Frontend>> {
        let is_global = |service: &Service| service.sharing.global;
        let mut changed = BTreeSet::new();
        for change in self.services.apply(event) {
            let (key, before) = change.into_parts();
            self.global += usize::from(self.services.get(&key).is_some_and(is_global));
            self.global -= usize::from(before.as_ref().is_some_and(is_global));
            match self.services.get(&key).map(|service| self.all_backends(service)) {
                Some(backends) => drop(self.backends.insert(key.clone(), backends)),
                None => drop(self.backends.remove(&key)),
            }
            changed.insert(key);
        }
        self.refresh(changed)
    }

    /// A change of an EndpointSlice of this cluster. Slices that mirror other clusters' endpoints
    /// must not come in here.
    pub fn apply_slice(&mut self, event: Event<EndpointSlice>) -> Vec<Event<Frontend>> {
        let mut deltas: Deltas = BTreeMap::new();
        for change in self.slices.apply(event) {
            let (key, before) = change.into_parts();
            let now = self.slices.get(&key);
            slice_deltas(before.as_ref(), now, &mut deltas);
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
            let changed = remote_deltas(cluster, before.as_ref(), remote.get(&key));
            deltas.entry(key.1).or_default().extend(changed);
        }
        self.change_global(deltas)
    }

    /// Another cluster is no longer a peer: its backends are withdrawn.
    pub fn remove_cluster(&mut self, cluster: &ClusterName) -> Vec<Event<Frontend>> {
        let Some(remote) = self.remotes.remove(cluster) else { return vec![] };
        let gone = remote
            .iter()
            .map(|((_, key), service)| (key.clone(), remote_deltas(cluster, Some(service), None)));
        self.change_global(gone.collect())
    }

    /// True once this cluster's Services and EndpointSlices have been listed.
    pub fn is_local_synced(&self) -> bool {
        self.services.is_synced() && self.slices.is_synced()
    }

    /// How many services of this cluster are global.
    pub fn global_services(&self) -> usize {
        self.global
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
            let (Some(service), Some(backends)) = (self.services.get(&key), self.backends.get_mut(&key))
            else {
                continue;
            };
            let lists = backends.change(service, deltas);
            for (address, wanted) in self.wanted.get_mut(&key).into_iter().flatten() {
                if lists.contains(&wanted.list) {
                    wanted.backends = backends.list(wanted.list);
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
            let now = self.services.get(&key).map(|service| self.frontends(service)).unwrap_or_default();
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
        let kind = match wanted.rank {
            Rank::ClusterIp => FrontendKind::ClusterIP,
            Rank::LoadBalancer => FrontendKind::LoadBalancer,
            Rank::NodePort => FrontendKind::NodePort,
            Rank::ExternalIp => FrontendKind::ExternalIP,
        };
        Some(Frontend { kind, ..Frontend::new(*address, service.clone(), wanted.backends.clone()) })
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
        for (index, port) in service.ports.iter().enumerate() {
            let mut add = |ip: &IpAddr, number: u16, rank| {
                let address = L4Addr { ip: ip.to_canonical(), port: number, protocol: port.protocol };
                let list = (index, address.ip.is_ipv6());
                match out.get(&address) {
                    Some(Wanted { rank: held, .. }) if *held <= rank => {}
                    _ => drop(out.insert(address, Wanted { rank, list, backends: backends.list(list) })),
                }
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

    /// The backends of a service, from everything that names some. An address that this cluster's
    /// Kubernetes names is local, whoever else names it.
    fn all_backends(&self, service: &Service) -> ServiceBackends {
        let slices = self.slices_of.get(&service.key).into_iter().flatten();
        let local = slices.filter_map(|key| self.slices.get(key)).flat_map(slice_claims);
        let sharing = self.remotes.iter().filter(|_| service.sharing.global);
        let remote = sharing.flat_map(|(cluster, shared)| {
            let theirs = shared.get(&(cluster.clone(), service.key.clone())).into_iter();
            theirs.flat_map(move |theirs| {
                theirs.backends.iter().map(move |(ip, ports)| remote_claim(cluster, ip, ports))
            })
        });
        ServiceBackends::new(service, local.chain(remote))
    }
}

/// Who names which backend, more and less, of each service.
type Deltas = BTreeMap<ServiceKey, Vec<(IpAddr, Delta)>>;

/// What a slice says, as claims.
fn slice_claims(slice: &EndpointSlice) -> Vec<(IpAddr, Claim)> {
    // One name may come with several protocols or numbers, so that these are several sets.
    let mut sets: Vec<Ports> = vec![];
    for port in &slice.ports {
        let number = Port { protocol: port.protocol, port: port.port };
        match sets.iter_mut().find(|set| !set.contains_key(&port.name)) {
            Some(set) => drop(set.insert(port.name.clone(), number)),
            None => sets.push([(port.name.clone(), number)].into()),
        }
    }
    let sets: Vec<Arc<Ports>> = sets.into_iter().map(Arc::new).collect();
    let mut out = vec![];
    for endpoint in &slice.endpoints {
        let conditions = endpoint.conditions;
        let active = conditions.ready;
        let draining = conditions.serving && conditions.terminating;
        if !active && !draining {
            continue;
        }
        for ip in &endpoint.addresses {
            for ports in &sets {
                out.push((ip.to_canonical(), Claim { cluster: None, active, ports: ports.clone() }));
            }
        }
    }
    out
}

/// The difference between two versions of a slice.
fn slice_deltas(before: Option<&EndpointSlice>, now: Option<&EndpointSlice>, out: &mut Deltas) {
    let claims = |slice: Option<&EndpointSlice>| {
        let mut claims = slice.map(slice_claims).unwrap_or_default();
        claims.sort_unstable();
        claims
    };
    let (mut gone, mut new) = (claims(before), claims(now));
    if let (Some(before), Some(now)) = (before, now)
        && before.service == now.service
    {
        (gone, new) = (without(&gone, &new), without(&new, &gone));
    }
    if let Some(before) = before {
        let gone = gone.into_iter().map(|(ip, claim)| (ip, Delta::Remove(claim)));
        out.entry(before.service.clone()).or_default().extend(gone);
    }
    if let Some(now) = now {
        let new = new.into_iter().map(|(ip, claim)| (ip, Delta::Add(claim)));
        out.entry(now.service.clone()).or_default().extend(new);
    }
}

/// What of one sorted list is not in another, each as often as it is there more often.
fn without<T: Ord + Clone>(of: &[T], other: &[T]) -> Vec<T> {
    let mut other = other.iter().peekable();
    let mut out = vec![];
    for item in of {
        while other.next_if(|held| *held < item).is_some() {}
        if other.next_if(|held| *held == item).is_none() {
            out.push(item.clone());
        }
    }
    out
}

fn remote_claim(cluster: &ClusterName, ip: IpAddr, ports: &Arc<Ports>) -> (IpAddr, Claim) {
    (ip, Claim { cluster: Some(cluster.clone()), active: true, ports: ports.clone() })
}

/// The difference between two versions of what a cluster shares.
fn remote_deltas(
    cluster: &ClusterName,
    before: Option<&ClusterService>,
    now: Option<&ClusterService>,
) -> Vec<(IpAddr, Delta)> {
    let none = PortsByAddress::default();
    let (before, now) = (before.map_or(&none, |s| &s.backends), now.map_or(&none, |s| &s.backends));
    let mut out = vec![];
    for (ip, before, now) in before.changes(now) {
        let delta = |ports, delta: fn(Claim) -> Delta| (ip, delta(remote_claim(cluster, ip, ports).1));
        out.extend(before.map(|ports| delta(ports, Delta::Remove)));
        out.extend(now.map(|ports| delta(ports, Delta::Add)));
    }
    out
}

#[cfg(test)]
#[path = "services_property_tests.rs"]
mod property_tests;
#[cfg(test)]
#[path = "services_tests.rs"]
mod tests;
