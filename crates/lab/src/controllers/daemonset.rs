//! DaemonSets: one pod on every node that fits.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus, ReplicaSet};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, Toleration,
};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::Shared;
use super::base::Key;
use super::base::queue::{Outcome, Queue};
use super::base::recorder::Recorder;
use super::base::writes::{BEHIND, Own, Writes};
use super::deployment::{resolve, template_hash};
use super::pods;
use super::replicaset::{create_pods, delete_pods, settle};
use super::scheduler::affinity;

/// Label with the hash of the template a pod was made from.
const REVISION: &str = "controller-revision-hash";
/// Label with the generation of the DaemonSet it was made from.
const GENERATION: &str = "pod-template-generation";

/// Conditions of nodes that a daemon's pods put up with.
const TOLERATED: [(&str, &str); 7] = [
    ("node.kubernetes.io/not-ready", ""),
    ("node.kubernetes.io/unreachable", ""),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ("node.kubernetes.io/network-unavailable", "NoSchedule"),
];

/// What has to happen.
#[derive(Debug, Default)]
struct Plan {
    /// Nodes that get a pod.
    create: Vec<String>,
    /// Pods that go.
    delete: Vec<Arc<Pod>>,
    status: DaemonSetStatus,
    /// When to look again although nothing changed.
    again: Option<Duration>,
}

/// The node a daemon's pod is on or is meant for.
fn target(pod: &Pod) -> Option<String> {
    let on = pods::node_of(pod);
    if !on.is_empty() {
        return Some(on.to_string());
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let fields = terms.iter().flat_map(|t| t.match_fields.as_deref().unwrap_or_default());
    fields.filter(|f| f.key == "metadata.name").find_map(|f| f.values.as_ref()?.first().cloned())
}

fn wants(set: &DaemonSet, node: &Node) -> bool {
    let spec = set.spec.as_ref().and_then(|s| s.template.spec.as_ref());
    let named = spec.and_then(|s| s.node_name.as_deref()).unwrap_or("");
    let meant = named.is_empty() || named == node.name_any();
    meant && spec.is_some_and(|s| affinity::node_fits(s, node))
}

fn hash(set: &DaemonSet) -> String {
    set.spec.as_ref().map(|s| template_hash(&s.template)).unwrap_or_default()
}

fn plan(
    set: &DaemonSet,
    nodes: &[Arc<Node>],
    owned: &[Arc<Pod>],
    deleted: &HashSet<String>,
    now: Timestamp,
) -> Plan {
    let spec = set.spec.clone().unwrap_or_default();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let hash = hash(set);
    let is_deleted = |p: &Pod| pods::is_terminating(p) || p.uid().is_some_and(|u| deleted.contains(&u));
    let is_new = |p: &Pod| p.labels().get(REVISION) == Some(&hash);
    let mut by_node: BTreeMap<String, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in owned {
        by_node.entry(target(pod).unwrap_or_default()).or_default().push(pod);
    }
    let mut plan = Plan::default();
    let mut outdated: Vec<(bool, &Arc<Pod>)> = Vec::new();
    let mut unavailable = 0;
    let status = &mut plan.status;
    for node in nodes {
        let name = node.name_any();
        let mut here = by_node.remove(&name).unwrap_or_default();
        let (finished, running): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) =
            here.drain(..).partition(|p| pods::is_finished(p));
        // Finished pods are deleted and replaced when they are gone.
        plan.delete.extend(finished.iter().filter(|p| !is_deleted(p)).map(|p| (*p).clone()));
        let mut live: Vec<&Arc<Pod>> = running.iter().copied().filter(|p| !is_deleted(p)).collect();
        // More than one: the oldest that is ready stays.
        live.sort_by_key(|p| (!pods::is_ready(p), p.creation_timestamp().map(|t| t.0), p.name_any()));
        if !wants(set, node) {
            status.number_misscheduled += i32::from(!live.is_empty());
            plan.delete.extend(live.into_iter().cloned());
            continue;
        }
        status.desired_number_scheduled += 1;
        plan.delete.extend(live.iter().skip(1).map(|p| (*p).clone()));
        let Some(pod) = live.first() else {
            unavailable += 1;
            if running.is_empty() && finished.is_empty() {
                plan.create.push(name);
            }
            continue;
        };
        status.current_number_scheduled += 1;
        status.number_ready += i32::from(pods::is_ready(pod));
        let available = pods::available(pod, min_ready, now);
        if let Err(Some(wait)) = available {
            plan.again = Some(plan.again.map_or(wait, |a| a.min(wait)));
        }
        unavailable += i32::from(available.is_err());
        *status.number_available.get_or_insert(0) += i32::from(available.is_ok());
        if is_new(pod) {
            *status.updated_number_scheduled.get_or_insert(0) += 1;
        } else {
            outdated.push((available.is_ok(), pod));
        }
    }
    // Pods meant for nodes that are gone and that were never bound; bound ones are the pod collector's.
    let lost = by_node.into_values().flatten().filter(|p| pods::node_of(p).is_empty() && !is_deleted(p));
    plan.delete.extend(lost.cloned());
    let update = spec.update_strategy.unwrap_or_default();
    if update.type_.as_deref() != Some("OnDelete") {
        let rolling = update.rolling_update.unwrap_or_default();
        let most = resolve(rolling.max_unavailable.as_ref(), status.desired_number_scheduled, true).max(1);
        // Pods that are not available anyway are replaced first and cost nothing.
        outdated.sort_by_key(|(available, p)| (*available, p.name_any()));
        let mut budget = most - unavailable;
        for (available, pod) in outdated {
            if available {
                if budget <= 0 {
                    break;
                }
                budget -= 1;
            }
            plan.delete.push(pod.clone());
        }
    }
    let missing = status.desired_number_scheduled - status.number_available.unwrap_or(0);
    status.number_unavailable = Some(missing).filter(|n| *n > 0);
    status.observed_generation = set.metadata.generation;
    status.collision_count = set.status.as_ref().and_then(|s| s.collision_count);
    status.conditions = set.status.as_ref().and_then(|s| s.conditions.clone());
    plan
}

/// A pod of the set for one node: bound to it by affinity, so that the scheduler binds it and nobody else moves it.
fn pod_for(set: &DaemonSet, node: &str) -> Pod {
    let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let mut pod = pods::from_template(set, &template);
    pod.labels_mut().insert(REVISION.into(), hash(set));
    pod.labels_mut().insert(GENERATION.into(), set.metadata.generation.unwrap_or(1).to_string());
    let spec = pod.spec.get_or_insert_default();
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED {
        let toleration = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.to_string()).filter(|e| !e.is_empty()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    let only = NodeSelectorTerm {
        match_expressions: None,
        match_fields: Some(vec![NodeSelectorRequirement {
            key: "metadata.name".into(),
            operator: "In".into(),
            values: Some(vec![node.into()]),
        }]),
    };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let nodes: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    nodes.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![only] });
    pod
}

struct Controller {
    shared: Arc<Shared>,
    writes: Writes,
    events: Recorder,
    own: Own,
}

/// Starts listening; the future works until shutdown.
pub(crate) fn start(shared: Arc<Shared>) -> impl Future<Output = ()> + Send {
    let queue = Queue::<Key>::new();
    let q = queue.clone();
    shared.daemon_sets.on_change(move |c| c.states().for_each(|d| q.add(Key::of(&**d))));
    let (q, s) = (queue.clone(), shared.clone());
    shared.pods.on_change(move |c| {
        for pod in c.states() {
            if let Some(key) = pods::controller_key::<DaemonSet>(&pod.metadata) {
                q.add(key);
            } else if pods::controller_key::<ReplicaSet>(&pod.metadata).is_none() {
                for set in s.daemon_sets.in_namespace(&pod.namespace().unwrap_or_default()) {
                    if set.spec.as_ref().is_some_and(|d| pods::selector(&d.selector)(pod.labels())) {
                        q.add(Key::of(&*set));
                    }
                }
            }
        }
    });
    let (q, s) = (queue.clone(), shared.clone());
    shared.nodes.on_change(move |c| {
        let labels = |n: &Option<Arc<Node>>| n.as_ref().map(|n| n.labels().clone());
        if labels(&c.old) != labels(&c.new) {
            s.daemon_sets.all().iter().for_each(|d| q.add(Key::of(&**d)));
        }
    });
    let controller = Arc::new(Controller {
        writes: shared.writes("daemonset-controller"),
        events: shared.recorder("daemonset-controller"),
        own: Own::default(),
        shared: shared.clone(),
    });
    async move {
        shared.synced().await;
        let look = move |key| {
            let controller = controller.clone();
            async move { controller.look(key).await }
        };
        queue.work("daemonset", 2, shared.shutdown.clone(), look).await;
    }
}

impl Controller {
    async fn look(&self, key: Key) -> Outcome {
        let Some(set) = self.shared.daemon_sets.get(&key) else {
            self.own.forget(&key);
            return Ok(None);
        };
        let Some(spec) = &set.spec else { return Ok(None) };
        if !self.own.is_fresh(&key, &self.shared.pods) {
            return Ok(Some(BEHIND));
        }
        let claims = pods::claim(&*set, &spec.selector, self.shared.pods.in_namespace(&key.namespace));
        let owned = settle(&self.writes, &self.own, &key, &*set, claims).await?;
        let alive: HashSet<String> = owned.iter().filter_map(|p| p.uid()).collect();
        let deleted = self.own.deleted_of(&key, &alive);
        let plan = plan(&set, &self.shared.nodes.all(), &owned, &deleted, Timestamp::now());
        if set.metadata.deletion_timestamp.is_none() {
            let made = plan.create.iter().map(|node| pod_for(&set, node)).collect();
            create_pods(&self.writes, &self.events, &self.own, &key, &*set, made).await?;
            delete_pods(&self.writes, &self.events, &self.own, &key, &*set, plan.delete).await?;
        }
        if set.status.as_ref() != Some(&plan.status) {
            self.writes.status(&DaemonSet { status: Some(plan.status), ..(*set).clone() }).await?;
        }
        Ok(plan.again)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controllers::pods::make;

    fn set() -> DaemonSet {
        serde_json::from_value(json!({
            "metadata": {"name": "agent", "namespace": "ns", "uid": "u", "generation": 2},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "updateStrategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 1}},
                "template": {"metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [], "nodeSelector": {"os": "linux"}}}},
        }))
        .unwrap()
    }

    fn node(name: &str, os: &str) -> Arc<Node> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "labels": {"os": os}}})).unwrap())
    }

    fn run(pods: Vec<Pod>) -> Plan {
        let nodes = [node("n1", "linux"), node("n2", "linux"), node("n3", "linux"), node("w", "windows")];
        let pods: Vec<Arc<Pod>> = pods.into_iter().map(Arc::new).collect();
        plan(&set(), &nodes, &pods, &HashSet::new(), Timestamp::from_second(100).unwrap())
    }

    fn new(name: &str, node: &str) -> Pod {
        let mut p = make::pod(name, node, Some(1));
        p.labels_mut().insert(REVISION.into(), hash(&set()));
        p
    }

    #[test]
    fn one_pod_on_each_fitting_node() {
        let p = run(vec![new("a", "n1"), new("a2", "n1"), new("w", "w")]);
        assert_eq!(p.create, ["n2", "n3"]);
        let gone: Vec<String> = p.delete.iter().map(|p| p.name_any()).collect();
        assert_eq!(gone, ["a2", "w"]);
        let s = p.status;
        assert_eq!(
            (s.desired_number_scheduled, s.current_number_scheduled, s.number_misscheduled),
            (3, 1, 1)
        );
        assert_eq!(
            (s.number_available, s.number_unavailable, s.updated_number_scheduled),
            (Some(1), Some(2), Some(1))
        );
    }

    #[test]
    fn a_pending_pod_counts_for_its_node() {
        let mut pending = pod_for(&set(), "n2");
        pending.metadata.name = Some("agent-x".into());
        assert_eq!(run(vec![new("a", "n1"), pending]).create, ["n3"]);
    }

    #[test]
    fn updates_one_at_a_time_unavailable_first() {
        let old = |name: &str, node: &str, ready| make::pod(name, node, ready);
        let p = run(vec![old("a", "n1", Some(1)), old("b", "n2", Some(1)), old("c", "n3", Some(1))]);
        assert_eq!(p.delete.iter().map(|p| p.name_any()).collect::<Vec<_>>(), ["a"]);
        // One is down already: only that one is replaced.
        let p = run(vec![old("a", "n1", Some(1)), old("b", "n2", None), old("c", "n3", Some(1))]);
        assert_eq!(p.delete.iter().map(|p| p.name_any()).collect::<Vec<_>>(), ["b"]);
        // The new pod is not ready: the rest waits.
        let mut fresh = new("a", "n1");
        fresh.status = None;
        assert!(run(vec![fresh, old("b", "n2", Some(1)), old("c", "n3", Some(1))]).delete.is_empty());
    }
}
