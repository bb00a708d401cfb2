//! Defaults of the kinds that make pods.

use serde_json::{Value, json};

use super::pod::pod_spec;
use crate::apiserver::object::{default, default_text, object};

fn template(v: &mut Value) {
    object(v, "spec");
    object(v, "status");
    if let Some(t) = v["spec"].get_mut("template") {
        object(t, "spec");
        pod_spec(&mut t["spec"]);
    }
}

/// A deployment.
pub fn deployment(v: &mut Value) {
    template(v);
    let spec = &mut v["spec"];
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
    default(spec, "strategy", json!({}));
    default_text(&mut spec["strategy"], "type", "RollingUpdate");
    if spec["strategy"]["type"] == "RollingUpdate" {
        default(&mut spec["strategy"], "rollingUpdate", json!({}));
        default(&mut spec["strategy"]["rollingUpdate"], "maxUnavailable", "25%");
        default(&mut spec["strategy"]["rollingUpdate"], "maxSurge", "25%");
    }
}

/// A replica set.
pub fn replica_set(v: &mut Value) {
    template(v);
    default(&mut v["spec"], "replicas", 1);
    object(v, "status").entry("replicas").or_insert_with(|| 0.into());
}

/// A daemon set.
pub fn daemon_set(v: &mut Value) {
    template(v);
    let spec = &mut v["spec"];
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "updateStrategy", json!({}));
    default_text(&mut spec["updateStrategy"], "type", "RollingUpdate");
    if spec["updateStrategy"]["type"] == "RollingUpdate" {
        default(&mut spec["updateStrategy"], "rollingUpdate", json!({}));
        default(&mut spec["updateStrategy"]["rollingUpdate"], "maxUnavailable", 1);
        default(&mut spec["updateStrategy"]["rollingUpdate"], "maxSurge", 0);
    }
    let status = object(v, "status");
    for key in ["currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady"] {
        status.entry(key).or_insert_with(|| 0.into());
    }
}

/// A stateful set.
pub fn stateful_set(v: &mut Value) {
    template(v);
    let spec = &mut v["spec"];
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default_text(spec, "podManagementPolicy", "OrderedReady");
    default(spec, "updateStrategy", json!({}));
    default_text(&mut spec["updateStrategy"], "type", "RollingUpdate");
    if spec["updateStrategy"]["type"] == "RollingUpdate" {
        default(&mut spec["updateStrategy"], "rollingUpdate", json!({"partition": 0}));
    }
    default(
        spec,
        "persistentVolumeClaimRetentionPolicy",
        json!({"whenDeleted": "Retain", "whenScaled": "Retain"}),
    );
    let status = object(v, "status");
    for key in ["replicas", "availableReplicas"] {
        status.entry(key).or_insert_with(|| 0.into());
    }
}

/// A job: one pod unless it says otherwise.
pub fn job(v: &mut Value) {
    template(v);
    let uid = super::super::object::uid(v).to_string();
    let name = super::super::object::name(v).to_string();
    let spec = &mut v["spec"];
    if spec.get("completions").is_none() && spec.get("parallelism").is_none() {
        default(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    default(spec, "backoffLimit", 6);
    default_text(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    default_text(spec, "podReplacementPolicy", "TerminatingOrFailed");
    // The selector is generated from the object's uid, as Kubernetes' strategy does it.
    if spec["manualSelector"] != true && spec.get("selector").is_none() && !uid.is_empty() {
        spec["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
        let labels =
            object(object_at(spec, "template"), "metadata").entry("labels").or_insert_with(|| json!({}));
        for prefix in ["", "batch.kubernetes.io/"] {
            labels[format!("{prefix}controller-uid")] = uid.clone().into();
            labels[format!("{prefix}job-name")] = name.clone().into();
        }
    }
}

fn object_at<'a>(v: &'a mut Value, key: &str) -> &'a mut Value {
    object(v, key);
    &mut v[key]
}
