//! Services of this cluster with the backends of all clusters (behaviours 2.2 to 2.4).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use causeway_model::lb::{Backend, Frontend, L4Addr};
use causeway_model::{
    Affinity, Change, ClusterName, ClusterService, Collection, EndpointSlice, Event, Node, NodeKey, Ports,
    Protocol, Service, ServiceKey, ServicePort, ServiceType, SliceKey,
};

/// Merges services: only Services of this cluster have frontends; a global one also uses what other
/// clusters share under the same namespace and name.
#[derive(Debug, Default)]
pub struct ServiceMerger {
    services: Collection<Service>,
    /// How many of them are global.
    global: usize,
    slices: Collection<EndpointSlice>,
    slices_of: BTreeMap<ServiceKey, BTreeSet<SliceKey>>,
    remotes: BTreeMap<ClusterName, Collection<ClusterService>>,
    nodes: Collection<Node>,
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
    backends: Vec<Backend>,
}

/// One address a backend listens on, before selection.
#[derive(Debug, Clone)]
struct Candidate {
    /// The names of the port; empty set = unnamed, which fits any frontend port.
    names: BTreeSet<String>,
    /// The remote cluster; `None` = this one.
    cluster: Option<ClusterName>,
    /// False: terminating, used only while nothing is active.
    active: bool,
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
            let (key, before) = match change {
                Change::Set(key, before) => (key, before),
                Change::Gone(key, before) => (key, Some(before)),
            };
            self.global += usize::from(self.services.get(&key).is_some_and(is_global));
            self.global -= usize::from(before.as_ref().is_some_and(is_global));
            changed.insert(key);
        }
        self.refresh(changed)
    }

    /// A change of an EndpointSlice of this cluster. Slices that mirror other clusters' endpoints
    /// must not come in here.
    pub fn apply_slice(&mut self, event: Event<EndpointSlice>) -> Vec<Event<Frontend>> {
        let mut changed = BTreeSet::new();
        for change in self.slices.apply(event) {
            let (key, before) = match change {
                Change::Set(key, before) => (key, before),
                Change::Gone(key, before) => (key, Some(before)),
            };
            if let Some(before) = before {
                if let Some(keys) = self.slices_of.get_mut(&before.service) {
                    keys.remove(&key);
                    if keys.is_empty() {
                        self.slices_of.remove(&before.service);
                    }
                }
                changed.insert(before.service);
            }
            if let Some(now) = self.slices.get(&key) {
                self.slices_of.entry(now.service.clone()).or_default().insert(key);
                changed.insert(now.service.clone());
            }
        }
        self.refresh(changed)
    }

    /// A change of what another cluster shares. `shared: false` withdraws it.
    pub fn apply_remote(
        &mut self,
        cluster: &ClusterName,
        event: Event<ClusterService>,
    ) -> Vec<Event<Frontend>> {
        let event = match event {
            Event::Upsert(service) if !service.shared => Event::Remove((service.cluster, service.key)),
            event => event,
        };
        let remote = self.remotes.entry(cluster.clone()).or_default();
        let changed = remote.apply(event).iter().map(|change| change.key().1.clone()).collect();
        self.refresh(changed)
    }

    /// Another cluster is no longer a peer: its backends are withdrawn.
    pub fn remove_cluster(&mut self, cluster: &ClusterName) -> Vec<Event<Frontend>> {
        let Some(remote) = self.remotes.remove(cluster) else { return vec![] };
        let changed = remote.iter().map(|((_, key), _)| key.clone()).collect();
        self.refresh(changed)
    }

    /// A change of a node of this cluster: NodePorts are translated on the addresses of all of them.
    pub fn apply_node(&mut self, event: Event<Node>) -> Vec<Event<Frontend>> {
        let ips = |node: Option<&Node>| node.map(node_ips).unwrap_or_default();
        let mut moved = false;
        for change in self.nodes.apply(event) {
            let (key, before): (NodeKey, Option<Node>) = match change {
                Change::Set(key, before) => (key, before),
                Change::Gone(key, before) => (key, Some(before)),
            };
            moved |= ips(before.as_ref()) != ips(self.nodes.get(&key));
        }
        if !moved {
            return vec![];
        }
        let with_node_port = |service: &Service| service.ports.iter().any(|port| port.node_port != 0);
        let changed =
            self.services.iter().filter(|(_, s)| with_node_port(s)).map(|(key, _)| key.clone()).collect();
        self.refresh(changed)
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

    /// Recomputes these services and emits what changed, in address order.
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
        Some(Frontend { address: *address, service: service.clone(), backends: wanted.backends.clone() })
    }

    /// Every address of a service with the backends selected for it.
    fn frontends(&self, service: &Service) -> BTreeMap<L4Addr, Wanted> {
        let mut out = BTreeMap::new();
        if service.headless || service.kind == ServiceType::ExternalName {
            return out;
        }
        let candidates = self.candidates(service);
        let node_ips: BTreeSet<IpAddr> = self.nodes.iter().flat_map(|(_, node)| node_ips(node)).collect();
        for port in &service.ports {
            let mut selected: BTreeMap<bool, Vec<Backend>> = BTreeMap::new();
            let mut add = |ip: &IpAddr, number: u16, rank| {
                let address = L4Addr { ip: ip.to_canonical(), port: number, protocol: port.protocol };
                let backends = selected
                    .entry(address.ip.is_ipv6())
                    .or_insert_with(|| select(&candidates, port, address.ip.is_ipv6(), service))
                    .clone();
                match out.get(&address) {
                    Some(Wanted { rank: held, .. }) if *held <= rank => {}
                    _ => drop(out.insert(address, Wanted { rank, backends })),
                }
            };
            service.cluster_ips.iter().for_each(|ip| add(ip, port.port, Rank::ClusterIp));
            service.load_balancer_ips.iter().for_each(|ip| add(ip, port.port, Rank::LoadBalancer));
            service.external_ips.iter().for_each(|ip| add(ip, port.port, Rank::ExternalIp));
            if port.node_port != 0 {
                node_ips.iter().for_each(|ip| add(ip, port.node_port, Rank::NodePort));
            }
        }
        out
    }

    /// All backend addresses of a service by cluster rules, before port, family and affinity.
    /// An address that this cluster's Kubernetes names is local, whoever else names it.
    fn candidates(&self, service: &Service) -> BTreeMap<L4Addr, Candidate> {
        let mut out: BTreeMap<L4Addr, Candidate> = BTreeMap::new();
        let slices = self.slices_of.get(&service.key).into_iter().flatten();
        for slice in slices.filter_map(|key| self.slices.get(key)) {
            for endpoint in &slice.endpoints {
                let conditions = endpoint.conditions;
                let active = conditions.ready;
                let draining = conditions.serving && conditions.terminating;
                if !active && !draining {
                    continue;
                }
                for ip in &endpoint.addresses {
                    for port in &slice.ports {
                        add(&mut out, *ip, &port.name, port.protocol, port.port, None, active);
                    }
                }
            }
        }
        if service.sharing.global {
            for (cluster, shared) in &self.remotes {
                let Some(remote) = shared.get(&(cluster.clone(), service.key.clone())) else { continue };
                let mut theirs = BTreeMap::new();
                for (ip, ports) in &remote.backends {
                    let ports: &Ports = ports;
                    for (name, port) in ports {
                        add(&mut theirs, *ip, name, port.protocol, port.port, Some(cluster), true);
                    }
                }
                for (address, candidate) in theirs {
                    out.entry(address).or_insert(candidate);
                }
            }
        }
        out
    }
}

/// One address may be known under several port names, and from several slices.
fn add(
    out: &mut BTreeMap<L4Addr, Candidate>,
    ip: IpAddr,
    name: &str,
    protocol: Protocol,
    port: u16,
    cluster: Option<&ClusterName>,
    active: bool,
) {
    if port == 0 {
        return;
    }
    let address = L4Addr { ip: ip.to_canonical(), port, protocol };
    let candidate = out.entry(address).or_insert_with(|| Candidate {
        names: BTreeSet::new(),
        cluster: cluster.cloned(),
        active,
    });
    candidate.active |= active;
    candidate.names.insert(name.to_owned());
}

/// The backends of one frontend port and family: the affinity rule first, then active ones before
/// terminating ones.
fn select(
    candidates: &BTreeMap<L4Addr, Candidate>,
    port: &ServicePort,
    v6: bool,
    service: &Service,
) -> Vec<Backend> {
    let fits = |address: &L4Addr, candidate: &Candidate| {
        address.protocol == port.protocol
            && address.ip.is_ipv6() == v6
            && (port.name.is_empty() || candidate.names.contains("") || candidate.names.contains(&port.name))
    };
    let (local, remote): (Vec<_>, Vec<_>) =
        candidates.iter().filter(|(a, c)| fits(a, c)).partition(|(_, c)| c.cluster.is_none());
    let local_active = local.iter().any(|(_, c)| c.active);
    let (use_local, use_remote) = match service.sharing.affinity {
        _ if !service.sharing.global => (true, false),
        Affinity::None => (true, true),
        // Terminating local backends stay listed but do not hold back the failover.
        Affinity::Local => (true, !local_active),
        Affinity::Remote => (remote.is_empty(), true),
    };
    let mut chosen = vec![];
    chosen.extend(local.into_iter().filter(|_| use_local));
    chosen.extend(remote.into_iter().filter(|_| use_remote));
    let any_active = chosen.iter().any(|(_, c)| c.active);
    let mut backends: Vec<Backend> = chosen
        .into_iter()
        .filter(|(_, c)| c.active == any_active)
        .map(|(address, c)| Backend { address: *address, cluster: c.cluster.clone() })
        .collect();
    backends.sort();
    backends
}

/// The addresses on which a node answers NodePorts: its own, not the one inside the pod network.
fn node_ips(node: &Node) -> BTreeSet<IpAddr> {
    [node.node_ip(false), node.node_ip(true)].into_iter().flatten().collect()
}

#[cfg(test)]
#[path = "services_tests.rs"]
mod tests;
