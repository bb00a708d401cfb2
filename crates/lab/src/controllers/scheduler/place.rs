//! The choice of a node for a pod.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;

use super::affinity;
use crate::controllers::pods;

const ZONE: &str = "topology.kubernetes.io/zone";

/// A pod with the node it is on or has been promised.
pub(super) struct Placed<'a> {
    /// The pod.
    pub(super) pod: &'a Pod,
    /// Its node.
    pub(super) node: &'a str,
}

fn owner(pod: &Pod) -> Option<&str> {
    pods::controller_of(&pod.metadata).map(|r| r.uid.as_str())
}

/// Host ports a pod takes on its node.
fn host_ports(pod: &Pod) -> Vec<(i32, &str)> {
    let containers = pod.spec.as_ref().map(|s| s.containers.as_slice()).unwrap_or_default();
    let ports = containers.iter().flat_map(|c| c.ports.as_deref().unwrap_or_default());
    ports
        .filter_map(|p| Some((p.host_port?, p.protocol.as_deref().unwrap_or("TCP"))))
        .filter(|(n, _)| *n > 0)
        .collect()
}

/// The node for `pod`: among those that fit, the one with the fewest pods of the same owner, then the one whose zone has
/// the fewest of them, then the emptiest, then the first by name.
///
/// # Errors
/// Why no node fits, in the words of Kubernetes' scheduler.
pub(super) fn place(pod: &Pod, nodes: &[Arc<Node>], placed: &[Placed<'_>]) -> Result<String, String> {
    if nodes.is_empty() {
        return Err("no nodes available to schedule pods".into());
    }
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut fitting: Vec<&Node> = Vec::new();
    for node in nodes {
        match objection(pod, node, placed) {
            None => fitting.push(node),
            Some(reason) => *reasons.entry(reason).or_default() += 1,
        }
    }
    let name_of = |n: &Node| n.name_any();
    let zone_of = |n: &Node| n.labels().get(ZONE).cloned().unwrap_or_default();
    let zones: BTreeMap<String, String> = nodes.iter().map(|n| (name_of(n), zone_of(n))).collect();
    let siblings = |on: &dyn Fn(&str) -> bool| {
        let mine = owner(pod);
        placed.iter().filter(|p| mine.is_some() && owner(p.pod) == mine && on(p.node)).count()
    };
    let best = fitting.into_iter().min_by_key(|node| {
        let (name, zone) = (name_of(node), zone_of(node));
        let here = siblings(&|n| n == name);
        let in_zone = siblings(&|n| zones.get(n) == Some(&zone));
        let load = placed.iter().filter(|p| p.node == name).count();
        (here, in_zone, load, name)
    });
    best.map(name_of).ok_or_else(|| {
        let parts: Vec<String> = reasons.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        format!("0/{} nodes are available: {}.", nodes.len(), parts.join(", "))
    })
}

fn objection(pod: &Pod, node: &Node, placed: &[Placed<'_>]) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if !affinity::node_fits(spec, node) {
        return Some("node(s) didn't match Pod's node affinity/selector".into());
    }
    let taints = affinity::taints(node);
    match affinity::untolerated(spec, &taints) {
        Some(t) if t.key == "node.kubernetes.io/unschedulable" => {
            return Some("node(s) were unschedulable".into());
        }
        Some(t) => return Some(format!("node(s) had untolerated taint {{{}: {}}}", t.key, t.value)),
        None => {}
    }
    let wanted = host_ports(pod);
    let name = node.name_any();
    let taken = !wanted.is_empty()
        && placed
            .iter()
            .filter(|p| p.node == name)
            .any(|p| host_ports(p.pod).iter().any(|h| wanted.contains(h)));
    taken.then(|| "node(s) didn't have free ports for the requested pod ports".to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controllers::pods::make;

    fn node(name: &str, zone: &str, ready: bool) -> Arc<Node> {
        let status = if ready { "True" } else { "False" };
        let v = json!({"metadata": {"name": name, "labels": {ZONE: zone, "size": name}},
            "status": {"conditions": [{"type": "Ready", "status": status}]}});
        Arc::new(serde_json::from_value(v).unwrap())
    }

    fn owned(name: &str, owner: &str) -> Pod {
        let mut p = make::pod(name, "", None);
        let r = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "controller": true}]);
        p.metadata.owner_references = serde_json::from_value(r).unwrap();
        p
    }

    fn port(mut p: Pod, host: i32) -> Pod {
        let ports = json!([{"containerPort": 1, "hostPort": host, "protocol": "TCP"}]);
        p.spec.as_mut().unwrap().containers[0].ports = serde_json::from_value(ports).unwrap();
        p
    }

    #[test]
    fn spreads_over_nodes_then_zones_then_load() {
        let nodes =
            [node("a1", "a", true), node("a2", "a", true), node("b1", "b", true), node("b2", "b", true)];
        let mut placed: Vec<(Pod, String)> = vec![(owned("x", "other"), "a1".into())];
        for i in 0..6 {
            let pod = owned(&format!("p{i}"), "web");
            let view: Vec<Placed<'_>> = placed.iter().map(|(p, n)| Placed { pod: p, node: n }).collect();
            let chosen = place(&pod, &nodes, &view).unwrap();
            placed.push((pod, chosen));
        }
        let order: Vec<&str> = placed[1..].iter().map(|(_, n)| n.as_str()).collect();
        assert_eq!(order, ["a2", "b1", "b2", "a1", "a2", "b1"]);
    }

    #[test]
    fn reasons_are_counted_by_node() {
        let mut drained = (*node("d", "a", true)).clone();
        drained.spec.get_or_insert_default().unschedulable = Some(true);
        let nodes = [node("a", "a", false), Arc::new(drained), node("c", "b", true), node("e", "b", true)];
        let mut pod = port(owned("p", "web"), 80);
        pod.spec.as_mut().unwrap().node_selector = Some([("size".to_string(), "c".to_string())].into());
        let holder = port(owned("h", "x"), 80);
        let placed = [Placed { pod: &holder, node: "c" }];
        let why = place(&pod, &nodes, &placed).unwrap_err();
        assert_eq!(
            why,
            "0/4 nodes are available: 1 node(s) didn't have free ports for the requested pod ports, 3 node(s) didn't match Pod's node affinity/selector."
        );
        pod.spec.as_mut().unwrap().node_selector = None;
        let why = place(&pod, &nodes[..2], &placed).unwrap_err();
        assert_eq!(
            why,
            "0/2 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }, 1 node(s) were unschedulable."
        );
        assert_eq!(place(&pod, &[], &[]).unwrap_err(), "no nodes available to schedule pods");
    }
}
