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
