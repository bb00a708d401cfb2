//! What several controllers need to know about pods: readiness, who controls them, which to delete first, and how
//! one is made from a template.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;
use kube::core::{Selector, SelectorExt};
use kube::{Resource, ResourceExt};

use super::base::Key;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// A condition of a pod.
pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// Whether the pod is Ready.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Since when it is (or is not) Ready.
fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready")?.last_transition_time.as_ref().map(|t| t.0)
}

/// The pod's phase, `Pending` if it has none.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

/// Whether the pod has come to its end.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether the pod is being deleted.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether the pod counts: not finished and not being deleted.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

/// The node a pod is on, "" while it is on none.
pub(crate) fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or("")
}

/// Whether a pod has been ready for `min_ready` seconds: `Ok`, or how long it still takes (`None`: it is not ready).
pub(crate) fn available(pod: &Pod, min_ready: i32, now: Timestamp) -> Result<(), Option<Duration>> {
    if !is_ready(pod) {
        return Err(None);
    }
    let Some(since) = ready_since(pod).filter(|_| min_ready > 0) else { return Ok(()) };
    let left = i64::from(min_ready) - now.duration_since(since).as_secs();
    if left <= 0 { Ok(()) } else { Err(Some(Duration::from_secs(left.unsigned_abs()))) }
}

/// The reference to an object's controller.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|r| r.controller == Some(true))
}

/// The key of an object's controller if it is of this kind.
pub(crate) fn controller_key<K: Resource<DynamicType = ()>>(meta: &ObjectMeta) -> Option<Key> {
    let reference = controller_of(meta).filter(|r| r.kind == K::kind(&()))?;
    let group = reference.api_version.split_once('/').map_or("", |(g, _)| g);
    (group == K::group(&())).then(|| Key::new(meta.namespace.clone().unwrap_or_default(), &reference.name))
}

/// The reference that makes `owner` the controller of an object.
pub(crate) fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A selector in the form that matches labels. An invalid or empty one matches nothing here: controllers never select
/// everything.
pub(crate) fn selector(of: &LabelSelector) -> impl Fn(&BTreeMap<String, String>) -> bool + use<> {
    let parsed = Selector::try_from(of.clone()).ok().filter(|s| !s.selects_all());
    move |labels| parsed.as_ref().is_some_and(|s| s.matches(labels))
}

/// Which of some objects belong to a controller.
pub(crate) struct Claims<K> {
    /// Those that have it as controller and match its selector.
    pub(crate) owned: Vec<Arc<K>>,
    /// Matching ones without a controller.
    pub(crate) adopt: Vec<Arc<K>>,
    /// Owned ones that do not match any more.
    pub(crate) release: Vec<Arc<K>>,
}

/// Sorts out the objects of an owner's namespace. An owner that is being deleted neither adopts nor releases.
pub(crate) fn claim<K: Resource, O: Resource>(
    owner: &O,
    of: &LabelSelector,
    objects: Vec<Arc<K>>,
) -> Claims<K> {
    let matches = selector(of);
    let uid = owner.meta().uid.as_deref().unwrap_or("");
    let deleting = owner.meta().deletion_timestamp.is_some();
    let mut claims = Claims { owned: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    for object in objects {
        let fits = matches(object.labels());
        match controller_of(object.meta()) {
            Some(r) if r.uid != uid => {}
            Some(_) if fits => claims.owned.push(object),
            Some(_) if !deleting => claims.release.push(object),
            Some(_) => {}
            None if fits && !deleting && object.meta().deletion_timestamp.is_none() => {
                claims.adopt.push(object)
            }
            None => {}
        }
    }
    claims
}

/// Owner references of an object after adoption by `owner`.
pub(crate) fn adopted<K: Resource, O: Resource<DynamicType = ()>>(
    object: &K,
    owner: &O,
) -> Vec<OwnerReference> {
    let mut references = object.meta().owner_references.clone().unwrap_or_default();
    let uid = owner.uid().unwrap_or_default();
    references.retain(|r| r.uid != uid);
    references.push(controller_reference(owner));
    references
}

/// Owner references of an object after its release by `owner`.
pub(crate) fn released<K: Resource, O: Resource>(object: &K, owner: &O) -> Vec<OwnerReference> {
    let mut references = object.meta().owner_references.clone().unwrap_or_default();
    references.retain(|r| Some(&r.uid) != owner.meta().uid.as_ref());
    references
}

/// A pod of `owner` from a template; the server completes the name.
pub(crate) fn from_template<O: Resource<DynamicType = ()>>(owner: &O, template: &PodTemplateSpec) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner.name_any())),
            namespace: owner.namespace(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Orders pods by how little is lost when they are deleted, as Kubernetes' ReplicaSet controller does: on no node, not
/// running, not ready, cheap by annotation, on a node with many of its like, ready or created most recently.
pub(crate) fn by_deletion_preference(pods: &mut [Arc<Pod>]) {
    let mut on_node: HashMap<String, usize> = HashMap::new();
    for pod in pods.iter() {
        *on_node.entry(node_of(pod).to_string()).or_default() += 1;
    }
    let crowd = |pod: &Pod| on_node.get(node_of(pod)).copied().unwrap_or(0);
    pods.sort_by(|a, b| compare(a, b, crowd(a), crowd(b)));
}

fn compare(a: &Pod, b: &Pod, crowd_a: usize, crowd_b: usize) -> Ordering {
    let unassigned = |p: &Pod| !node_of(p).is_empty();
    let phase_rank = |p: &Pod| match phase(p) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost = |p: &Pod| p.annotations().get(DELETION_COST).and_then(|c| c.parse::<i32>().ok()).unwrap_or(0);
    let created = |p: &Pod| p.creation_timestamp().map(|t| t.0);
    unassigned(a)
        .cmp(&unassigned(b))
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| crowd_b.cmp(&crowd_a))
        .then_with(|| match is_ready(a) && is_ready(b) {
            true => Reverse(ready_since(a)).cmp(&Reverse(ready_since(b))),
            false => Ordering::Equal,
        })
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| Reverse(created(a)).cmp(&Reverse(created(b))))
        .then_with(|| a.name_any().cmp(&b.name_any()))
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|c| c.restart_count).max().unwrap_or(0)
}

/// Pods for tests.
#[cfg(test)]
pub(crate) mod make {
    use serde_json::json;

    use super::*;

    /// A pod on a node (or none), ready since the given second (or not), created at second 0.
    pub(crate) fn pod(name: &str, node: &str, ready_since: Option<i64>) -> Pod {
        let at = |s: i64| Timestamp::from_second(s).unwrap().to_string();
        let ready = json!({"type": "Ready", "status": if ready_since.is_some() { "True" } else { "False" },
            "lastTransitionTime": at(ready_since.unwrap_or(0))});
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "creationTimestamp": at(0),
                "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c"}]},
            "status": {"phase": if node.is_empty() { "Pending" } else { "Running" }, "conditions": [ready]},
        }))
        .unwrap();
        if !node.is_empty() {
            pod.spec.as_mut().unwrap().node_name = Some(node.into());
        }
        pod
    }
}

#[cfg(test)]
mod tests {
    use super::make::pod;
    use super::*;

    #[test]
    fn deletion_prefers_what_is_lost_least() {
        let mut cheap = pod("cheap", "n3", Some(1));
        cheap.annotations_mut().insert(DELETION_COST.into(), "-5".into());
        let mut pods: Vec<Arc<Pod>> = vec![
            pod("old", "n1", Some(10)),
            pod("new", "n1", Some(20)),
            cheap,
            pod("alone", "n2", Some(30)),
            pod("unready", "n1", None),
            pod("unscheduled", "", None),
        ]
        .into_iter()
        .map(Arc::new)
        .collect();
        by_deletion_preference(&mut pods);
        let names: Vec<String> = pods.iter().map(|p| p.name_any()).collect();
        assert_eq!(names, ["unscheduled", "unready", "cheap", "new", "old", "alone"]);
    }

    #[test]
    fn availability_counts_seconds() {
        let p = pod("p", "n", Some(100));
        let at = |s| Timestamp::from_second(s).unwrap();
        assert_eq!(available(&p, 0, at(100)), Ok(()));
        assert_eq!(available(&p, 10, at(104)), Err(Some(Duration::from_secs(6))));
        assert_eq!(available(&p, 10, at(110)), Ok(()));
        assert_eq!(available(&pod("q", "n", None), 0, at(0)), Err(None));
    }

    #[test]
    fn empty_selectors_select_nothing() {
        let everything = LabelSelector::default();
        assert!(!selector(&everything)(&BTreeMap::from([("a".to_string(), "b".to_string())])));
    }
}
