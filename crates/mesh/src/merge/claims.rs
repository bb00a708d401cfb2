//! Who claims a prefix, and what it is then. There are as many claims as addresses in the mesh, so they
//! are kept small.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use causeway_model::{AddressType, EncryptKey, IpEntry, Keyed, Node, NodeKey, NumericIdentity, PodRef};
use ipnet::IpNet;

/// Who claims a prefix, strongest first. This cluster's own pods and nodes cannot be taken over by
/// what another cluster announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Rank {
    LocalEndpoint,
    LocalNode,
    RemoteEndpoint,
    RemoteNode,
    LocalPodCidr,
    RemotePodCidr,
}

impl Rank {
    /// Of the addresses of a node, and of its pod CIDRs.
    pub(super) const fn of_nodes(local: bool) -> (Self, Self) {
        if local { (Self::LocalNode, Self::LocalPodCidr) } else { (Self::RemoteNode, Self::RemotePodCidr) }
    }
}

/// By what a prefix is claimed: rank, cluster (empty = this one), node for claims that come from a
/// node. All that share one share its text.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    pub(super) rank: Rank,
    pub(super) cluster: Arc<str>,
    pub(super) node: Option<Arc<str>>,
}

/// What a claim says of its prefix.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) claim: Arc<Claim>,
    /// As [`PodRef::to_text`] has it.
    pod: Option<Box<str>>,
    identity: NumericIdentity,
    pub(super) host_ip: Option<IpAddr>,
    key_index: EncryptKey,
}

impl Held {
    pub(super) fn new(claim: Arc<Claim>, entry: &IpEntry) -> Self {
        Self {
            claim,
            pod: entry.pod.as_ref().map(|pod| pod.to_text().into()),
            identity: entry.identity,
            host_ip: entry.host_ip,
            key_index: entry.key_index,
        }
    }

    pub(super) fn entry(&self, prefix: IpNet) -> IpEntry {
        IpEntry {
            prefix,
            identity: self.identity,
            host_ip: self.host_ip,
            key_index: self.key_index,
            pod: self.pod.as_deref().and_then(PodRef::of_text),
        }
    }
}

/// All claims of one prefix, strongest first. Nearly always there is one.
#[derive(Debug)]
pub(super) enum Claims {
    One(Held),
    More(Vec<Held>),
}

impl Claims {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Held> {
        match self {
            Claims::One(held) => std::slice::from_ref(held).iter(),
            Claims::More(all) => all.iter(),
        }
    }

    /// Adds a claim, or replaces what it said.
    pub(super) fn set(&mut self, held: Held) {
        let mut all = self.take();
        match all.binary_search_by(|other| other.claim.cmp(&held.claim)) {
            Ok(at) => all[at] = held,
            Err(at) => all.insert(at, held),
        }
        self.put(all);
    }

    /// Withdraws a claim; true if none is left.
    pub(super) fn remove(&mut self, claim: &Claim) -> bool {
        let mut all = self.take();
        all.retain(|held| *held.claim != *claim);
        let none = all.is_empty();
        self.put(all);
        none
    }

    fn take(&mut self) -> Vec<Held> {
        match std::mem::replace(self, Claims::More(vec![])) {
            Claims::One(held) => vec![held],
            Claims::More(all) => all,
        }
    }

    fn put(&mut self, mut all: Vec<Held>) {
        *self = match all.pop() {
            Some(only) if all.is_empty() => Claims::One(only),
            last => {
                all.extend(last);
                Claims::More(all)
            }
        };
    }
}

/// Everything a node of some cluster claims (behaviours 4.3).
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NodeClaims {
    /// Its name, which its claims share.
    node: Arc<str>,
    /// Sorted by prefix and rank.
    pub(super) claims: Box<[NodeClaim]>,
    /// The addresses of the node, if it is the one we run on.
    pub(super) own_ips: Box<[IpAddr]>,
}

impl Keyed for NodeClaims {
    type Key = Arc<str>;
    fn key(&self) -> Arc<str> {
        self.node.clone()
    }
}

/// One claim of a node.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NodeClaim {
    pub(super) prefix: IpNet,
    pub(super) rank: Rank,
    identity: NumericIdentity,
    host_ip: Option<IpAddr>,
    key_index: EncryptKey,
}

impl NodeClaim {
    pub(super) fn held(&self, claim: Arc<Claim>) -> Held {
        let Self { identity, host_ip, key_index, .. } = *self;
        Held { claim, pod: None, identity, host_ip, key_index }
    }
}

impl NodeClaims {
    /// Of a node of this cluster (`local`) or of another one; `own` is the node we run on.
    pub(super) fn of(node: &Node, local: bool, own: &NodeKey) -> Self {
        let is_own = local && node.key() == *own;
        let (node_rank, cidr_rank) = Rank::of_nodes(local);
        // The underlay is IPv4 where the node has it.
        let tunnel = node.node_ip(false).or_else(|| node.node_ip(true));
        let key_index = node.encryption_key;
        let mut claims = BTreeMap::new();
        let mut add = |prefix: IpNet, rank, identity, host_ip| {
            claims.insert((prefix, rank), NodeClaim { prefix, rank, identity, host_ip, key_index });
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
        let own_ips = node.addresses.iter().filter(|_| is_own).map(|address| address.ip).collect();
        Self { node: node.name.as_str().into(), claims: claims.into_values().collect(), own_ips }
    }

    /// Whether it claims the same prefix with the same rank, whatever it says of it.
    pub(super) fn has(&self, claim: &NodeClaim) -> bool {
        let place = |claim: &NodeClaim| (claim.prefix, claim.rank);
        self.claims.binary_search_by_key(&place(claim), place).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_small() {
        assert!(size_of::<Claims>() <= 48, "{}", size_of::<Claims>());
    }
}
