//! The addresses of the nodes of this cluster: there NodePorts answer, and nowhere else.

use std::collections::BTreeMap;
use std::net::IpAddr;

use causeway_model::{Collection, Event, Node, NodeKey};

#[derive(Debug)]
pub(super) struct NodeAddresses {
    own: NodeKey,
    nodes: Collection<Node>,
}

impl NodeAddresses {
    /// Those of a cluster of which nothing is known yet, for its node `own`.
    pub(super) fn new(own: NodeKey) -> Self {
        Self { own, nodes: Collection::new() }
    }

    /// A change of a node of this cluster; true if its addresses changed.
    pub(super) fn apply(&mut self, event: Event<Node>) -> bool {
        let mut differs = false;
        for change in self.nodes.apply(event) {
            let (key, before) = change.into_parts();
            let addresses = |node: Option<&Node>| node.map(|node| node.addresses.clone());
            differs |= addresses(before.as_ref()) != addresses(self.nodes.get(&key));
        }
        differs
    }

    /// All of them; true for those of this node.
    pub(super) fn all(&self) -> BTreeMap<IpAddr, bool> {
        let mut all = BTreeMap::new();
        for (key, node) in self.nodes.iter() {
            for address in &node.addresses {
                // An address that two nodes claim while one takes over from the other is ours if one is.
                *all.entry(address.ip.to_canonical()).or_insert(false) |= *key == self.own;
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use causeway_model::{AddressType, ClusterId, ClusterName, Keyed, MaxClusters, NodeAddress};

    use super::*;

    fn node(name: &str, ips: &[&str]) -> Node {
        let cluster = ClusterName::new("cls-a").unwrap();
        let address = |ip: &&str| NodeAddress { kind: AddressType::InternalIP, ip: ip.parse().unwrap() };
        Node {
            addresses: ips.iter().map(address).collect(),
            ..Node::new(name.to_owned(), cluster, ClusterId::new(1, MaxClusters::C255).unwrap())
        }
    }

    #[test]
    fn addresses_are_those_of_the_nodes_that_are() {
        let mut addresses = NodeAddresses::new(node("n1", &[]).key());
        let all = |addresses: &NodeAddresses| {
            addresses.all().into_iter().map(|(ip, own)| format!("{ip} {own}")).collect::<Vec<_>>()
        };
        assert!(addresses.apply(Event::Upsert(node("n1", &["172.18.0.1", "fd00::1"]))));
        assert!(addresses.apply(Event::Upsert(node("n2", &["172.18.0.2"]))));
        assert_eq!(all(&addresses), ["172.18.0.1 true", "172.18.0.2 false", "fd00::1 true"]);
        assert!(!addresses.apply(Event::Upsert(node("n2", &["172.18.0.2"]))), "the same again");
        // One that moves from a node to another, the new one first.
        assert!(addresses.apply(Event::Upsert(node("n1", &["172.18.0.2"]))));
        assert_eq!(all(&addresses), ["172.18.0.2 true"]);
        assert!(addresses.apply(Event::Remove(node("n2", &[]).key())));
        assert_eq!(all(&addresses), ["172.18.0.2 true"]);
    }
}
