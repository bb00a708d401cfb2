//! Whether our own node can reach anybody: what stands behind every loss that is counted against another.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use causeway_model::ClusterName;

use super::watched::Watched;

/// How many clusters are asked for a witness at once; the own one is among them.
const WITNESSES: usize = 8;

/// What shows that the uplink is up.
#[derive(Debug, Default)]
pub(super) struct Uplink {
    pub(super) gateways: Vec<IpAddr>,
    /// When the last probe was sent that any node answered through the tunnel.
    tunnel: Option<Instant>,
    /// The same of a gateway.
    gateway: Option<Instant>,
    /// The node of each cluster that was heard last, by when the probe was sent.
    last: BTreeMap<ClusterName, (Instant, u64)>,
}

impl Uplink {
    /// A node has answered through the tunnel.
    pub(super) fn node_answered(&mut self, cluster: &ClusterName, node: u64, sent: Instant) {
        self.tunnel = self.tunnel.max(Some(sent));
        match self.last.get_mut(cluster) {
            Some(last) if last.0 > sent => {}
            Some(last) => *last = (sent, node),
            None => drop(self.last.insert(cluster.clone(), (sent, node))),
        }
    }

    /// A gateway has answered.
    pub(super) fn gateway_answered(&mut self, sent: Instant) {
        self.gateway = self.gateway.max(Some(sent));
    }

    /// Whether a node is to blame that has not answered what was sent to it then. `alone`: no other node has ever
    /// answered.
    pub(super) fn blames(&self, node: &Watched, sent: Instant, alone: bool) -> bool {
        let nobody = alone && self.gateway.is_none();
        let outside = nobody || self.gateway >= Some(sent);
        self.tunnel >= Some(sent) || outside && !node.answers_outside()
    }

    /// The nodes to ask: the one heard last of each cluster, the own cluster's first.
    pub(super) fn witnesses(&self, own: &ClusterName) -> Vec<u64> {
        let mut last: Vec<_> = self.last.iter().map(|(name, (sent, id))| (name != own, *sent, *id)).collect();
        last.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)).then(a.2.cmp(&b.2)));
        last.into_iter().take(WITNESSES).map(|(_, _, id)| id).collect()
    }

    pub(super) fn forget_cluster(&mut self, cluster: &ClusterName) {
        self.last.remove(cluster);
    }
}
