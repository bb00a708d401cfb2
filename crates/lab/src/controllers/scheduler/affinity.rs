//! Which nodes a pod may run on: node selector, required node affinity, taints and the taints conditions stand for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Toleration};
use kube::ResourceExt;

/// Whether a node fits the pod's node selector and required node affinity.
pub(crate) fn node_fits(spec: &PodSpec, node: &Node) -> bool {
    let selected = spec.node_selector.iter().flatten().all(|(k, v)| node.labels().get(k) == Some(v));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|r| r.node_selector_terms.iter().any(|t| term_fits(t, node)))
}

fn term_fits(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    // A term that requires nothing matches nothing.
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let name = BTreeMap::from([("metadata.name".to_string(), node.name_any())]);
    expressions.iter().all(|r| requirement_fits(r, node.labels()))
        && fields.iter().all(|r| requirement_fits(r, &name))
}

fn requirement_fits(r: &NodeSelectorRequirement, values: &BTreeMap<String, String>) -> bool {
    let has = values.get(&r.key);
    let wanted = r.values.as_deref().unwrap_or_default();
    let numbers = || Some((has?.parse::<i64>().ok()?, wanted.first()?.parse::<i64>().ok()?));
    match r.operator.as_str() {
        "In" => has.is_some_and(|v| wanted.contains(v)),
        "NotIn" => has.is_none_or(|v| !wanted.contains(v)),
        "Exists" => has.is_some(),
        "DoesNotExist" => has.is_none(),
        "Gt" => numbers().is_some_and(|(a, b)| a > b),
        "Lt" => numbers().is_some_and(|(a, b)| a < b),
        _ => false,
    }
}

/// A taint in the form it is compared and reported.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Taint {
    /// Key.
    pub(crate) key: String,
    /// Value, often "".
    pub(crate) value: String,
    /// `NoSchedule` or `NoExecute`.
    pub(crate) effect: String,
}

/// Taints that keep pods from a node: its own, and those its state stands for.
pub(crate) fn taints(node: &Node) -> Vec<Taint> {
    let spec = node.spec.clone().unwrap_or_default();
    let keeps_away = |effect: &str| effect == "NoSchedule" || effect == "NoExecute";
    let own = spec.taints.into_iter().flatten().filter(|t| keeps_away(&t.effect));
    let mut all: Vec<Taint> =
        own.map(|t| Taint { key: t.key, value: t.value.unwrap_or_default(), effect: t.effect }).collect();
    let mut implied = |key: &str| {
        if !all.iter().any(|t| t.key == key) {
            all.push(Taint { key: key.into(), value: String::new(), effect: "NoSchedule".into() });
        }
    };
    if spec.unschedulable == Some(true) {
        implied("node.kubernetes.io/unschedulable");
    }
    match ready_status(node) {
        "True" => {}
        "Unknown" => implied("node.kubernetes.io/unreachable"),
        _ => implied("node.kubernetes.io/not-ready"),
    }
    all
}

/// Status of the node's Ready condition; "False" while it has none.
pub(crate) fn ready_status(node: &Node) -> &str {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().find(|c| c.type_ == "Ready").map_or("False", |c| c.status.as_str())
}

/// The first taint the pod does not tolerate.
pub(crate) fn untolerated<'a>(spec: &PodSpec, taints: &'a [Taint]) -> Option<&'a Taint> {
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    taints.iter().find(|taint| !tolerations.iter().any(|t| tolerates(t, taint)))
}

fn tolerates(t: &Toleration, taint: &Taint) -> bool {
    let key = t.key.as_deref().unwrap_or("");
    let effect = t.effect.as_deref().unwrap_or("");
    let exists = t.operator.as_deref() == Some("Exists");
    (effect.is_empty() || effect == taint.effect)
        && (key == taint.key || (key.is_empty() && exists))
        && (exists || t.value.as_deref().unwrap_or("") == taint.value)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(labels: Value, rest: Value) -> Node {
        let mut n = json!({"metadata": {"name": "n1", "labels": labels}, "spec": {},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        for (k, v) in rest.as_object().unwrap() {
            n[k] = v.clone();
        }
        serde_json::from_value(n).unwrap()
    }

    fn pod(spec: Value) -> PodSpec {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(spec).unwrap()
    }

    fn requires(operator: &str, key: &str, values: &[&str]) -> PodSpec {
        let terms = json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]);
        pod(
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}),
        )
    }

    #[test]
    fn required_affinity() {
        let n = node(json!({"zone": "a", "cpus": "8"}), json!({}));
        for (operator, key, values, fits) in [
            ("In", "zone", &["a", "b"][..], true),
            ("In", "zone", &["b"], false),
            ("In", "none", &["b"], false),
            ("NotIn", "zone", &["a"], false),
            ("NotIn", "none", &["a"], true),
            ("Exists", "zone", &[], true),
            ("DoesNotExist", "zone", &[], false),
            ("DoesNotExist", "none", &[], true),
            ("Gt", "cpus", &["4"], true),
            ("Lt", "cpus", &["4"], false),
        ] {
            assert_eq!(node_fits(&requires(operator, key, values), &n), fits, "{operator} {key} {values:?}");
        }
        assert!(node_fits(&pod(json!({"nodeSelector": {"zone": "a"}})), &n));
        assert!(!node_fits(&pod(json!({"nodeSelector": {"zone": "b"}})), &n));
        let by_name =
            json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]);
        let spec = pod(
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": by_name}}}}),
        );
        assert!(node_fits(&spec, &n));
    }

    #[test]
    fn conditions_taint() {
        let sick = node(
            json!({}),
            json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}, "spec": {"unschedulable": true}}),
        );
        let keys: Vec<String> = taints(&sick).into_iter().map(|t| t.key).collect();
        assert_eq!(keys, ["node.kubernetes.io/unschedulable", "node.kubernetes.io/unreachable"]);
        assert!(untolerated(&pod(json!({})), &taints(&sick)).is_some());
        assert!(
            untolerated(&pod(json!({"tolerations": [{"operator": "Exists"}]})), &taints(&sick)).is_none()
        );
        let no_execute = json!({"tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}, {"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]});
        assert_eq!(
            untolerated(&pod(no_execute), &taints(&sick)).unwrap().key,
            "node.kubernetes.io/unreachable"
        );
    }
}
