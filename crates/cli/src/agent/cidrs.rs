//! What is behind all other nodes, of every cluster: pod CIDRs, by which of the nodes' addresses, and these
//! addresses. Of tens of thousands of nodes no more than this is kept, and a change costs what it changes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use causeway_datapath::RemoteNodes;
use causeway_model::{AddressType, ClusterName, Collection, Event, Keyed, Node, NodeKey};
use ipnet::IpNet;

/// What is behind one node.
#[derive(Debug, Clone, PartialEq)]
struct OfNode {
    node: NodeKey,
    /// Each with the node's address of its family.
    cidrs: Vec<(IpNet, Option<IpAddr>)>,
    addresses: Vec<IpAddr>,
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
    holders: Counted<(IpNet, Option<IpAddr>)>,
    addresses: Counted<IpAddr>,
}

/// Things, and how many nodes have each.
#[derive(Debug)]
struct Counted<T>(BTreeMap<T, usize>);

impl<T: Ord + Copy> Counted<T> {
    /// One holder more; true if it is the first.
    fn add(&mut self, thing: T) -> bool {
        let count = self.0.entry(thing).or_insert(0);
        *count += 1;
        *count == 1
    }

    /// One holder less; true if it was the last.
    fn release(&mut self, thing: &T) -> bool {
        let Some(count) = self.0.get_mut(thing) else { return false };
        *count -= 1;
        let last = *count == 0;
        if last {
            self.0.remove(thing);
        }
        last
    }
}

impl PodCidrs {
    /// Those of all nodes but `own`, of which none is known yet.
    pub(super) fn new(own: NodeKey) -> Self {
        let (holders, addresses) = (Counted(BTreeMap::new()), Counted(BTreeMap::new()));
        Self { own, nodes: BTreeMap::new(), holders, addresses }
    }

    /// A change of a node of this cluster (`None`) or of another one; true if the whole changed.
    pub(super) fn apply(&mut self, cluster: Option<&ClusterName>, event: Event<Node>) -> bool {
        let event = event.map(|node| self.of_node(&node), |key| key);
        let nodes = self.nodes.entry(cluster.cloned()).or_default();
        let mut differs = false;
        for change in nodes.apply(event) {
            let (key, before) = change.into_parts();
            // First those that come, so that one that stays is never without a holder.
            if let Some(now) = nodes.get(&key) {
                now.cidrs.iter().for_each(|cidr| differs |= self.holders.add(*cidr));
                now.addresses.iter().for_each(|ip| differs |= self.addresses.add(*ip));
            }
            if let Some(before) = before {
                before.cidrs.iter().for_each(|cidr| differs |= self.holders.release(cidr));
                before.addresses.iter().for_each(|ip| differs |= self.addresses.release(ip));
            }
        }
        differs
    }

    /// Another cluster is no longer a peer; true if the whole changed.
    pub(super) fn remove_cluster(&mut self, cluster: &ClusterName) -> bool {
        let nodes = self.nodes.remove(&Some(cluster.clone())).unwrap_or_default();
        let mut differs = false;
        for (_, node) in nodes.iter() {
            node.cidrs.iter().for_each(|cidr| differs |= self.holders.release(cidr));
            node.addresses.iter().for_each(|ip| differs |= self.addresses.release(ip));
        }
        differs
    }

    /// The whole. Of two nodes with one pod CIDR that with the lower address is the way to it.
    pub(super) fn all(&self) -> RemoteNodes {
        let mut all =
            RemoteNodes { addresses: self.addresses.0.keys().copied().collect(), ..RemoteNodes::default() };
        for (cidr, node) in self.holders.0.keys() {
            let way = all.pod_cidrs.entry(*cidr).or_insert(*node);
            *way = way.or(*node);
        }
        all
    }

    fn of_node(&self, node: &Node) -> OfNode {
        let key = node.key();
        if key == self.own {
            return OfNode { node: key, cidrs: vec![], addresses: vec![] };
        }
        let outside = |kind| matches!(kind, AddressType::InternalIP | AddressType::ExternalIP);
        let addresses = node.addresses.iter().filter(|address| outside(address.kind));
        let internal = node.addresses.iter().filter(|address| address.kind == AddressType::InternalIP);
        let way = |cidr: &IpNet| {
            let same = |ip: &IpAddr| ip.is_ipv6() == cidr.addr().is_ipv6();
            (cidr.trunc(), internal.clone().map(|address| address.ip).find(same))
        };
        OfNode {
            node: key,
            cidrs: node.pod_cidrs.iter().map(way).collect(),
            addresses: addresses.map(|address| address.ip).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_model::{ClusterId, MaxClusters, NodeAddress};

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
        cidrs.all().pod_cidrs.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn the_way_to_pods_is_their_nodes_address() {
        let mut cidrs = PodCidrs::new(node("cls-a", "n1", &[]).key());
        let address = |kind, ip: &str| NodeAddress { kind, ip: ip.parse().unwrap() };
        let mut n2 = node("cls-a", "n2", &["10.1.2.0/24", "fd00:2::/64"]);
        n2.addresses = vec![
            address(AddressType::CiliumInternalIP, "10.1.2.1"),
            address(AddressType::ExternalIP, "203.0.113.2"),
            address(AddressType::InternalIP, "172.16.1.2"),
        ];
        assert!(cidrs.apply(None, Event::Upsert(n2.clone())));
        let all = cidrs.all();
        let ways: Vec<_> = all.pod_cidrs.values().map(|ip| ip.map(|ip| ip.to_string())).collect();
        assert_eq!(ways, [Some("172.16.1.2".to_owned()), None]);
        let addresses: Vec<_> = all.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["172.16.1.2", "203.0.113.2"], "the one in the pod CIDR is a pod's");
        n2.addresses.push(address(AddressType::InternalIP, "fd00:172::2"));
        assert!(cidrs.apply(None, Event::Upsert(n2.clone())), "it has an address of the other family now");
        assert_eq!(cidrs.all().pod_cidrs.values().flatten().count(), 2);
        assert!(cidrs.apply(None, Event::Remove(n2.key())));
        assert_eq!(cidrs.all(), RemoteNodes::default());
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
        assert!(cidrs.all().pod_cidrs.is_empty() && !cidrs.remove_cluster(&b));
    }
}
