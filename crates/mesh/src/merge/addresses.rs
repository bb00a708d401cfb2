//! Addresses of this cluster and of the others, with the identity and node behind each.
//!
//! Several sources may claim one prefix; the strongest [`Rank`] wins, then the cluster and node that
//! sort first, so that all nodes decide alike.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use causeway_model::{
    AddressType, Change, ClusterName, Collection, Event, IpEntry, Keyed, Node, NodeKey, NumericIdentity,
};
use ipnet::IpNet;

/// Who claims a prefix, strongest first. This cluster's own pods and nodes cannot be taken over by
/// what another cluster announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Rank {
    LocalEndpoint,
    LocalNode,
    RemoteEndpoint,
    RemoteNode,
    LocalPodCidr,
    RemotePodCidr,
}

/// One claim: rank, cluster (empty = this one), node for claims that come from a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    rank: Rank,
    cluster: Arc<str>,
    node: Option<Arc<str>>,
}

/// Merges addresses: local endpoints over remote endpoints over node addresses (identity
/// remote-node, health, ingress) over pod CIDRs (world, with the node as tunnel endpoint, so that
/// packets to a pod not known yet still reach its node).
#[derive(Debug)]
pub struct AddressMerger {
    own: NodeKey,
    own_ips: BTreeSet<IpAddr>,
    claims: HashMap<IpNet, Vec<(Claim, IpEntry)>>,
    local: Source,
    remotes: BTreeMap<ClusterName, Source>,
}

#[derive(Debug)]
struct Source {
    cluster: Arc<str>,
    local: bool,
    nodes: Collection<Node>,
    /// Endpoint prefixes of the old generation while a listing is under way.
    stale: Option<BTreeSet<IpNet>>,
    synced: bool,
}

impl Source {
    fn new(cluster: &str, local: bool) -> Self {
        Self { cluster: cluster.into(), local, nodes: Collection::new(), stale: None, synced: false }
    }

    fn endpoint(&self) -> Claim {
        let rank = if self.local { Rank::LocalEndpoint } else { Rank::RemoteEndpoint };
        Claim { rank, cluster: self.cluster.clone(), node: None }
    }
}

impl AddressMerger {
    /// A merger for the node `own`: addresses it hosts have no tunnel endpoint, and its own addresses
    /// are the identity host.
    pub fn new(own: NodeKey) -> Self {
        Self {
            own,
            own_ips: BTreeSet::new(),
            claims: HashMap::new(),
            local: Source::new("", true),
            remotes: BTreeMap::new(),
        }
    }

    /// A change of an endpoint address of this cluster.
    pub fn apply_local(&mut self, event: Event<IpEntry>) -> Vec<Event<IpEntry>> {
        self.endpoint(None, event)
    }

    /// A change of a node of this cluster.
    pub fn apply_local_node(&mut self, event: Event<Node>) -> Vec<Event<IpEntry>> {
        self.node(None, event)
    }

    /// A change of an address of another cluster.
    pub fn apply_remote(&mut self, cluster: &ClusterName, event: Event<IpEntry>) -> Vec<Event<IpEntry>> {
        self.endpoint(Some(cluster), event)
    }

    /// A change of a node of another cluster.
    pub fn apply_remote_node(&mut self, cluster: &ClusterName, event: Event<Node>) -> Vec<Event<IpEntry>> {
        self.node(Some(cluster), event)
    }

    /// Another cluster is no longer a peer: everything it claimed is withdrawn.
    pub fn remove_cluster(&mut self, cluster: &ClusterName) -> Vec<Event<IpEntry>> {
        let mut out = vec![];
        for event in [Event::Reset, Event::Synced] {
            out.extend(self.endpoint(Some(cluster), event));
        }
        for event in [Event::Reset, Event::Synced] {
            out.extend(self.node(Some(cluster), event));
        }
        self.remotes.remove(cluster);
        out
    }

    /// True once this cluster's endpoints and nodes have been listed.
    pub fn is_local_synced(&self) -> bool {
        self.local.synced && self.local.nodes.is_synced()
    }

    /// The merged state in address order: what the datapath should hold.
    pub fn snapshot(&self) -> BTreeMap<IpNet, IpEntry> {
        self.claims.keys().filter_map(|prefix| Some((*prefix, self.winner(prefix)?))).collect()
    }

    fn source(&mut self, cluster: Option<&ClusterName>) -> &mut Source {
        match cluster {
            None => &mut self.local,
            Some(name) => {
                self.remotes.entry(name.clone()).or_insert_with(|| Source::new(name.as_str(), false))
            }
        }
    }

    fn endpoint(&mut self, cluster: Option<&ClusterName>, event: Event<IpEntry>) -> Vec<Event<IpEntry>> {
        let source = self.source(cluster);
        let claim = source.endpoint();
        match event {
            Event::Reset => {
                let held = |claims: &Vec<(Claim, IpEntry)>| claims.iter().any(|(c, _)| *c == claim);
                let stale = self.claims.iter().filter(|(_, claims)| held(claims)).map(|(p, _)| *p).collect();
                self.source(cluster).stale = Some(stale);
                vec![]
            }
            Event::Upsert(entry) => {
                if let Some(stale) = &mut source.stale {
                    stale.remove(&entry.prefix);
                }
                self.change(entry.prefix, claim, Some(entry)).into_iter().collect()
            }
            Event::Remove(prefix) => {
                if let Some(stale) = &mut source.stale {
                    stale.remove(&prefix);
                }
                self.change(prefix, claim, None).into_iter().collect()
            }
            Event::Synced => {
                source.synced = true;
                let stale = source.stale.take().unwrap_or_default();
                stale.into_iter().filter_map(|prefix| self.change(prefix, claim.clone(), None)).collect()
            }
        }
    }

    fn node(&mut self, cluster: Option<&ClusterName>, event: Event<Node>) -> Vec<Event<IpEntry>> {
        let own = self.own.clone();
        let source = self.source(cluster);
        let (name, local) = (source.cluster.clone(), source.local);
        let mut wanted = vec![];
        for change in source.nodes.apply(event) {
            let (key, before) = match change {
                Change::Set(key, before) => (key, before),
                Change::Gone(key, before) => (key, Some(before)),
            };
            let is_own = local && key == own;
            let before = before.map(|node| claims_of(&node, &name, local, is_own)).unwrap_or_default();
            let now = source.nodes.get(&key);
            let own_ips = is_own.then(|| now.map(own_ips).unwrap_or_default());
            let now = now.map(|node| claims_of(node, &name, local, is_own)).unwrap_or_default();
            wanted.push((before, now, own_ips));
        }
        let mut out = vec![];
        for (before, now, own_ips) in wanted {
            for (prefix, claim) in before.into_keys().filter(|at| !now.contains_key(at)) {
                out.extend(self.change(prefix, claim, None));
            }
            for ((prefix, claim), entry) in now {
                out.extend(self.change(prefix, claim, Some(entry)));
            }
            if let Some(ips) = own_ips {
                out.extend(self.set_own_ips(ips));
            }
        }
        out
    }

    /// Which addresses are this node's decides which entries need no tunnel.
    fn set_own_ips(&mut self, ips: BTreeSet<IpAddr>) -> Vec<Event<IpEntry>> {
        let moved: BTreeSet<IpAddr> = self.own_ips.symmetric_difference(&ips).copied().collect();
        if moved.is_empty() {
            return vec![];
        }
        let hosted = |entry: &IpEntry| entry.host_ip.is_some_and(|ip| moved.contains(&ip));
        let mut affected: Vec<IpNet> = self
            .claims
            .iter()
            .filter(|(_, claims)| claims.iter().any(|(_, entry)| hosted(entry)))
            .map(|(prefix, _)| *prefix)
            .collect();
        affected.sort_unstable();
        let before: Vec<_> = affected.iter().map(|prefix| self.winner(prefix)).collect();
        self.own_ips = ips;
        let now = affected.iter().map(|prefix| self.winner(prefix));
        before
            .into_iter()
            .zip(now)
            .filter(|(before, now)| before != now)
            .filter_map(|(_, now)| now.map(Event::Upsert))
            .collect()
    }

    /// Sets or withdraws one claim; an event if the winner of the prefix changed.
    fn change(&mut self, prefix: IpNet, claim: Claim, entry: Option<IpEntry>) -> Option<Event<IpEntry>> {
        let before = self.winner(&prefix);
        match entry {
            Some(entry) => {
                let claims = self.claims.entry(prefix).or_insert_with(|| Vec::with_capacity(1));
                match claims.binary_search_by(|(held, _)| held.cmp(&claim)) {
                    Ok(at) => claims[at].1 = entry,
                    Err(at) => claims.insert(at, (claim, entry)),
                }
            }
            None => {
                let claims = self.claims.get_mut(&prefix)?;
                claims.retain(|(held, _)| *held != claim);
                if claims.is_empty() {
                    self.claims.remove(&prefix);
                }
            }
        }
        match self.winner(&prefix) {
            now if now == before => None,
            Some(now) => Some(Event::Upsert(now)),
            None => Some(Event::Remove(prefix)),
        }
    }

    fn winner(&self, prefix: &IpNet) -> Option<IpEntry> {
        let (_, entry) = self.claims.get(prefix)?.first()?;
        let mut entry = entry.clone();
        if entry.host_ip.is_some_and(|ip| self.own_ips.contains(&ip)) {
            entry.host_ip = None;
        }
        Some(entry)
    }
}

fn own_ips(node: &Node) -> BTreeSet<IpAddr> {
    node.addresses.iter().map(|a| a.ip).collect()
}

/// Everything a node claims (behaviours 4.3).
fn claims_of(
    node: &Node,
    cluster: &Arc<str>,
    local: bool,
    is_own: bool,
) -> BTreeMap<(IpNet, Claim), IpEntry> {
    let name: Arc<str> = node.key().name.into();
    let claim = |rank| Claim { rank, cluster: cluster.clone(), node: Some(name.clone()) };
    let (node_rank, cidr_rank) =
        if local { (Rank::LocalNode, Rank::LocalPodCidr) } else { (Rank::RemoteNode, Rank::RemotePodCidr) };
    // The underlay is IPv4 where the node has it.
    let tunnel = node.node_ip(false).or_else(|| node.node_ip(true));
    let mut out = BTreeMap::new();
    let mut add = |prefix: IpNet, rank, identity, host_ip| {
        let entry = IpEntry { prefix, identity, host_ip, key_index: node.encryption_key, pod: None };
        out.insert((prefix, claim(rank)), entry);
    };
    let identity = if is_own { NumericIdentity::HOST } else { NumericIdentity::REMOTE_NODE };
    for address in &node.addresses {
        // A node's own address is reached directly; the one inside the pod network through the tunnel.
        let through = (address.kind == AddressType::CiliumInternalIP).then_some(tunnel).flatten();
        add(address.ip.into(), node_rank, identity, through);
    }
    for (ips, identity) in [
        ([node.health_v4, node.health_v6], NumericIdentity::HEALTH),
        ([node.ingress_v4, node.ingress_v6], NumericIdentity::INGRESS),
    ] {
        for ip in ips.into_iter().flatten() {
            add(ip.into(), node_rank, identity, tunnel);
        }
    }
    if !is_own && tunnel.is_some() {
        for cidr in &node.pod_cidrs {
            add(*cidr, cidr_rank, NumericIdentity::WORLD, tunnel);
        }
    }
    out
}

#[cfg(test)]
#[path = "addresses_tests.rs"]
mod tests;
