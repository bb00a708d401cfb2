//! Addresses of this cluster and of the others, with the identity and node behind each.
//!
//! Several sources may claim one prefix; the strongest [`Rank`] wins, then the cluster and node that
//! sort first, so that all nodes decide alike.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use causeway_model::{ClusterName, Collection, Event, IpEntry, Node, NodeKey};
use ipnet::IpNet;

use super::claims::{Claim, Claims, Held, NodeClaim, NodeClaims, Rank};

/// Merges addresses: local endpoints over remote endpoints over node addresses (identity
/// remote-node, health, ingress) over pod CIDRs (world, with the node as tunnel endpoint, so that
/// packets to a pod not known yet still reach its node).
#[derive(Debug)]
pub struct AddressMerger {
    own: NodeKey,
    own_ips: BTreeSet<IpAddr>,
    claims: BTreeMap<IpNet, Claims>,
    local: Source,
    remotes: BTreeMap<ClusterName, Source>,
}

#[derive(Debug)]
struct Source {
    local: bool,
    /// What its endpoints claim by; its nodes have claims of their own.
    endpoint: Arc<Claim>,
    nodes: Collection<NodeClaims>,
    /// An endpoint was claimed at some time: without, a listing need not look for those that are gone.
    claimed: bool,
    /// Endpoint prefixes of the old generation while a listing is under way.
    stale: Option<BTreeSet<IpNet>>,
    synced: bool,
}

impl Source {
    fn new(cluster: &str, local: bool) -> Self {
        let rank = if local { Rank::LocalEndpoint } else { Rank::RemoteEndpoint };
        let endpoint = Arc::new(Claim { rank, cluster: cluster.into(), node: None });
        Self { local, endpoint, nodes: Collection::new(), claimed: false, stale: None, synced: false }
    }
}

impl AddressMerger {
    /// A merger for the node `own`: addresses it hosts have no tunnel endpoint, and its own addresses
    /// are the identity host.
    pub fn new(own: NodeKey) -> Self {
        Self {
            own,
            own_ips: BTreeSet::new(),
            claims: BTreeMap::new(),
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

    /// Packs what is known more tightly: a tree that grew entry by entry is a third empty. Costs as much as
    /// building it; worth it once after a first listing.
    pub fn shrink_to_fit(&mut self) {
        self.claims = std::mem::take(&mut self.claims).into_iter().collect();
    }

    /// By which name claims of a cluster are known here.
    pub(super) fn claimant<'a>(&self, cluster: &'a ClusterName) -> &'a str {
        if *cluster == self.own.cluster { "" } else { cluster.as_str() }
    }

    /// Who claims a single address, and behind which node it is: itself, where none is named.
    pub(super) fn host_of(&self, prefix: &IpNet) -> Option<(&str, IpAddr)> {
        behind(prefix, self.claims.get(prefix)?)
    }

    /// The same of all single addresses, in order.
    pub(super) fn hosted(&self) -> impl Iterator<Item = (IpAddr, &str, IpAddr)> {
        let single = self.claims.iter().filter(|(prefix, _)| prefix.prefix_len() == prefix.max_prefix_len());
        single.filter_map(|(prefix, claims)| {
            let (cluster, host) = behind(prefix, claims)?;
            Some((prefix.addr(), cluster, host))
        })
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
        let claim = source.endpoint.clone();
        match event {
            Event::Reset if !source.claimed => {
                source.stale = Some(BTreeSet::new());
                vec![]
            }
            Event::Reset => {
                let held = |claims: &Claims| claims.iter().any(|held| held.claim == claim);
                let stale = self.claims.iter().filter(|(_, claims)| held(claims)).map(|(p, _)| *p).collect();
                self.source(cluster).stale = Some(stale);
                vec![]
            }
            Event::Upsert(entry) => {
                source.claimed = true;
                if let Some(stale) = &mut source.stale {
                    stale.remove(&entry.prefix);
                }
                self.set(entry.prefix, Held::new(claim, &entry)).into_iter().collect()
            }
            Event::Remove(prefix) => {
                if let Some(stale) = &mut source.stale {
                    stale.remove(&prefix);
                }
                self.withdraw(prefix, &claim).into_iter().collect()
            }
            Event::Synced => {
                source.synced = true;
                let stale = source.stale.take().unwrap_or_default();
                stale.into_iter().filter_map(|prefix| self.withdraw(prefix, &claim)).collect()
            }
        }
    }

    fn node(&mut self, cluster: Option<&ClusterName>, event: Event<Node>) -> Vec<Event<IpEntry>> {
        let own = self.own.clone();
        let source = self.source(cluster);
        let (cluster_name, local) = (source.endpoint.cluster.clone(), source.local);
        let event = event.map(|node| NodeClaims::of(&node, local, &own), |key| key.name.into());
        let mut changes = vec![];
        for change in source.nodes.apply(event) {
            let (key, before) = change.into_parts();
            let now = source.nodes.get(&key).cloned();
            changes.push((key, before, now));
        }
        let (node_rank, cidr_rank) = Rank::of_nodes(local);
        let mut out = vec![];
        for (key, before, now) in changes {
            let claim =
                |rank| Arc::new(Claim { rank, cluster: cluster_name.clone(), node: Some(key.clone()) });
            let (by_node, by_cidr) = (claim(node_rank), claim(cidr_rank));
            let claim = |claim: &NodeClaim| if claim.rank == node_rank { &by_node } else { &by_cidr };
            for gone in before.iter().flat_map(|before| &before.claims) {
                if !now.as_ref().is_some_and(|now| now.has(gone)) {
                    out.extend(self.withdraw(gone.prefix, claim(gone)));
                }
            }
            for claimed in now.iter().flat_map(|now| &now.claims) {
                out.extend(self.set(claimed.prefix, claimed.held(claim(claimed).clone())));
            }
            if local && *key == *own.name {
                out.extend(self.set_own_ips(now.iter().flat_map(|now| &now.own_ips).copied().collect()));
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
        let hosted = |held: &Held| held.host_ip.is_some_and(|ip| moved.contains(&ip));
        let affected: Vec<IpNet> = self
            .claims
            .iter()
            .filter(|(_, claims)| claims.iter().any(hosted))
            .map(|(prefix, _)| *prefix)
            .collect();
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

    /// Sets one claim; an event if the winner of the prefix changed.
    fn set(&mut self, prefix: IpNet, held: Held) -> Option<Event<IpEntry>> {
        let (before, now) = match self.claims.entry(prefix) {
            Entry::Vacant(entry) => {
                let claims = entry.insert(Claims::One(held));
                (None, winner(prefix, claims, &self.own_ips))
            }
            Entry::Occupied(mut entry) => {
                let before = winner(prefix, entry.get(), &self.own_ips);
                entry.get_mut().set(held);
                (before, winner(prefix, entry.get(), &self.own_ips))
            }
        };
        now.filter(|now| before.as_ref() != Some(now)).map(Event::Upsert)
    }

    /// Withdraws one claim; an event if the winner of the prefix changed.
    fn withdraw(&mut self, prefix: IpNet, claim: &Claim) -> Option<Event<IpEntry>> {
        let before = self.winner(&prefix)?;
        if let Entry::Occupied(mut entry) = self.claims.entry(prefix)
            && entry.get_mut().remove(claim)
        {
            entry.remove();
        }
        match self.winner(&prefix) {
            Some(now) if now == before => None,
            Some(now) => Some(Event::Upsert(now)),
            None => Some(Event::Remove(prefix)),
        }
    }

    fn winner(&self, prefix: &IpNet) -> Option<IpEntry> {
        winner(*prefix, self.claims.get(prefix)?, &self.own_ips)
    }
}

/// What the strongest claim says of a prefix.
fn winner(prefix: IpNet, claims: &Claims, own_ips: &BTreeSet<IpAddr>) -> Option<IpEntry> {
    let mut entry = claims.iter().next()?.entry(prefix);
    if entry.host_ip.is_some_and(|ip| own_ips.contains(&ip)) {
        entry.host_ip = None;
    }
    Some(entry)
}

/// The strongest claim's cluster and node.
fn behind<'a>(prefix: &IpNet, claims: &'a Claims) -> Option<(&'a str, IpAddr)> {
    let held = claims.iter().next()?;
    Some((&*held.claim.cluster, held.host_ip.unwrap_or(prefix.addr())))
}

#[cfg(test)]
#[path = "addresses_tests.rs"]
mod tests;
