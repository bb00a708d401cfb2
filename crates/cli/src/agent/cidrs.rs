//! The pod CIDRs of all other nodes, of every cluster: what is routed into the tunnel. Of tens of
//! thousands of nodes no more than these is kept, and a change costs what it changes.

use std::collections::{BTreeMap, BTreeSet};

use causeway_model::{ClusterName, Collection, Event, Keyed, Node, NodeKey};
use ipnet::IpNet;

/// Those of one node.
#[derive(Debug, Clone, PartialEq)]
struct OfNode {
    node: NodeKey,
    cidrs: Vec<IpNet>,
}

impl Keyed for OfNode {
    type Key = NodeKey;
    fn key(&self) -> NodeKey {
        self.node.clone()
    }
}

#[derive(Debug)]
pub(super) struct PodCidrs {
    own: NodeKey,
    /// By cluster; `None` = this one.
    nodes: BTreeMap<Option<ClusterName>, Collection<OfNode>>,
    /// How many nodes have each: two may for a while, when a cluster is renumbered.
    holders: BTreeMap<IpNet, usize>,
}

impl PodCidrs {
    /// Those of all nodes but `own`, of which none is known yet.
    pub(super) fn new(own: NodeKey) -> Self {
        Self { own, nodes: BTreeMap::new(), holders: BTreeMap::new() }
    }

    /// A change of a node of this cluster (`None`) or of another one; true if the whole changed.
    pub(super) fn apply(&mut self, cluster: Option<&ClusterName>, event: Event<Node>) -> bool {
        let event = event.map(|node| self.of_node(&node), |key| key);
        let nodes = self.nodes.entry(cluster.cloned()).or_default();
        let mut differs = false;
        for change in nodes.apply(event) {
            let (key, before) = change.into_parts();
            // First those that come, so that one that stays is never without a holder.
            for cidr in nodes.get(&key).iter().flat_map(|now| &now.cidrs) {
                let holders = self.holders.entry(*cidr).or_insert(0);
                differs |= *holders == 0;
                *holders += 1;
            }
            for cidr in before.iter().flat_map(|before| &before.cidrs) {
                differs |= release(&mut self.holders, cidr);
            }
        }
        differs
    }

    /// Another cluster is no longer a peer; true if the whole changed.
    pub(super) fn remove_cluster(&mut self, cluster: &ClusterName) -> bool {
        let nodes = self.nodes.remove(&Some(cluster.clone())).unwrap_or_default();
        let mut differs = false;
        for cidr in nodes.iter().flat_map(|(_, node)| &node.cidrs) {
            differs |= release(&mut self.holders, cidr);
        }
        differs
    }

    /// The whole.
    pub(super) fn all(&self) -> BTreeSet<IpNet> {
        self.holders.keys().copied().collect()
    }

    fn of_node(&self, node: &Node) -> OfNode {
        let key = node.key();
        let cidrs = node.pod_cidrs.iter().filter(|_| key != self.own).map(IpNet::trunc).collect();
        OfNode { node: key, cidrs }
    }
}

/// One holder less; true if it was the last.
fn release(holders: &mut BTreeMap<IpNet, usize>, cidr: &IpNet) -> bool {
    let Some(count) = holders.get_mut(cidr) else { return false };
    *count -= 1;
    let last = *count == 0;
    if last {
        holders.remove(cidr);
    }
    last
}

#[cfg(test)]
mod tests {
    use causeway_model::{ClusterId, MaxClusters};

    use super::*;

    fn node(cluster: &str, name: &str, cidrs: &[&str]) -> Node {
        Node {
            pod_cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
            ..Node::new(
                name,
                ClusterName::new(cluster).unwrap(),
                ClusterId::new(1, MaxClusters::C255).unwrap(),
            )
        }
    }

    fn texts(cidrs: &PodCidrs) -> Vec<String> {
        cidrs.all().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn follows_every_node_but_its_own() {
        let b = ClusterName::new("cls-b").unwrap();
        let mut cidrs = PodCidrs::new(node("cls-a", "n1", &[]).key());
        assert!(!cidrs.apply(None, Event::Upsert(node("cls-a", "n1", &["10.1.1.0/24"]))), "our own");
        assert!(cidrs.apply(None, Event::Upsert(node("cls-a", "n2", &["10.1.2.0/24", "fd00::/64"]))));
        assert!(cidrs.apply(Some(&b), Event::Upsert(node("cls-b", "n1", &["10.2.1.7/24"]))));
        assert_eq!(texts(&cidrs), ["10.1.2.0/24", "10.2.1.0/24", "fd00::/64"]);
        // Something else of a node changes: nothing to do.
        let labelled = Node { encryption_key: 3, ..node("cls-b", "n1", &["10.2.1.0/24"]) };
        assert!(!cidrs.apply(Some(&b), Event::Upsert(labelled)));
        // Two nodes have one for a while.
        assert!(!cidrs.apply(Some(&b), Event::Upsert(node("cls-b", "n2", &["10.2.1.0/24"]))));
        assert!(!cidrs.apply(Some(&b), Event::Remove(node("cls-b", "n1", &[]).key())));
        assert!(cidrs.apply(Some(&b), Event::Upsert(node("cls-b", "n2", &["10.2.2.0/24"]))));
        assert_eq!(texts(&cidrs), ["10.1.2.0/24", "10.2.2.0/24", "fd00::/64"]);
        // A new listing without it, and the end of the peer.
        assert!(!cidrs.apply(None, Event::Reset));
        assert!(cidrs.apply(None, Event::Synced));
        assert_eq!(texts(&cidrs), ["10.2.2.0/24"]);
        assert!(cidrs.remove_cluster(&b));
        assert!(cidrs.all().is_empty() && !cidrs.remove_cluster(&b));
    }
}
