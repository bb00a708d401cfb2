//! Pod CIDRs of nodes: each gets its own part of the cluster's, once and for all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use serde_json::json;

use crate::controllers::Shared;
use crate::controllers::base::Key;
use crate::controllers::base::queue::{Outcome, Queue};
use crate::controllers::base::recorder::Recorder;
use crate::controllers::base::writes::Writes;

/// Pod CIDRs of a node.
fn held(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let all = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    all.filter_map(|c| c.parse().ok()).collect()
}

/// The first part of `cluster` with `mask` bits that overlaps none in use.
fn free(cluster: IpNet, mask: u8, used: &[IpNet]) -> Option<IpNet> {
    let overlaps = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
    cluster.subnets(mask).ok()?.find(|part| !used.iter().any(|u| overlaps(part, u)))
}

struct Controller {
    shared: Arc<Shared>,
    writes: Writes,
    events: Recorder,
    /// Given by name of the node and not shown by the store yet.
    given: Mutex<HashMap<String, Vec<IpNet>>>,
}

/// Starts listening; the future works until shutdown.
pub(crate) fn start(shared: Arc<Shared>) -> impl Future<Output = ()> + Send {
    let queue = Queue::<Key>::new();
    let (q, s) = (queue.clone(), shared.clone());
    shared.nodes.on_change(move |c| match &c.new {
        Some(node) if held(node).is_empty() => q.add(Key::of(&**node)),
        Some(_) => {}
        // A part is free again: somebody may be waiting for one.
        None => s.nodes.all().iter().filter(|n| held(n).is_empty()).for_each(|n| q.add(Key::of(&**n))),
    });
    let controller = Arc::new(Controller {
        writes: shared.writes("node-ipam-controller"),
        events: shared.recorder("node-controller"),
        given: Mutex::default(),
        shared: shared.clone(),
    });
    async move {
        shared.synced().await;
        let look = move |key| {
            let controller = controller.clone();
            async move { controller.look(key).await }
        };
        queue.work("node-ipam", 1, shared.shutdown.clone(), look).await;
    }
}

impl Controller {
    async fn look(&self, key: Key) -> Outcome {
        let Some(node) = self.shared.nodes.get(&key).filter(|n| held(n).is_empty()) else { return Ok(None) };
        let config = &self.shared.config;
        let nodes = self.shared.nodes.all();
        let parts = {
            let mut given = self.given.lock().unwrap_or_else(|e| e.into_inner());
            given.retain(|name, _| nodes.iter().any(|n| n.name_any() == *name && held(n).is_empty()));
            let used: Vec<IpNet> =
                nodes.iter().flat_map(|n| held(n)).chain(given.values().flatten().copied()).collect();
            let part = |(range, mask): (IpNet, u8)| free(range, mask, &used).ok_or((range, mask));
            let parts = match given.get(&key.name) {
                Some(parts) => Ok(parts.clone()),
                None => config.pod_ranges().into_iter().map(part).collect::<Result<Vec<_>, _>>(),
            };
            parts.inspect(|parts| {
                given.insert(key.name.clone(), parts.clone());
            })
        };
        let parts = match parts {
            Ok(parts) => parts,
            Err((range, mask)) => {
                let message = format!(
                    "Node {key} status is now: CIDRNotAvailable: the pod CIDR {range} has no free /{mask} left; use a larger one for cluster {}",
                    config.cluster
                );
                self.events.warning(&*node, "CIDRNotAvailable", message);
                return Ok(None);
            }
        };
        let texts: Vec<String> = parts.iter().map(ToString::to_string).collect();
        self.writes.patch(&*node, json!({"spec": {"podCIDR": texts[0], "podCIDRs": texts}})).await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(all: &[&str]) -> Vec<IpNet> {
        all.iter().map(|n| n.parse().unwrap()).collect()
    }

    #[test]
    fn parts_never_overlap() {
        let cluster: IpNet = "10.1.0.0/22".parse().unwrap();
        let next = |used: &[&str]| free(cluster, 24, &nets(used)).map(|n| n.to_string());
        assert_eq!(next(&[]).unwrap(), "10.1.0.0/24");
        assert_eq!(next(&["10.1.0.0/24", "10.1.2.0/24"]).unwrap(), "10.1.1.0/24");
        // Fixed by the topology, of another size.
        assert_eq!(next(&["10.1.0.0/23", "10.1.2.128/25"]).unwrap(), "10.1.3.0/24");
        assert_eq!(next(&["10.1.0.0/23", "10.1.2.0/23"]), None);
        let v6 =
            |used: &[&str]| free("fd00:10:1::/48".parse().unwrap(), 64, &nets(used)).unwrap().to_string();
        assert_eq!(v6(&["10.1.0.0/23"]), "fd00:10:1::/64");
        assert_eq!(v6(&["fd00:10:1::/64", "10.1.0.0/24", "fd00:10:1:1::/64"]), "fd00:10:1:2::/64");
    }
}
