//! The status of a Deployment: counts, and the conditions `kubectl rollout status` and `kubectl wait` read.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::plan::View;
use super::rolling::Limits;
use crate::controllers::replicaset::replicas;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const FAILURE: &str = "ReplicaFailure";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

fn find<'a>(conditions: &'a [DeploymentCondition], kind: &str) -> Option<&'a DeploymentCondition> {
    conditions.iter().find(|c| c.type_ == kind)
}

/// Sets a condition; one with the same status and reason stays as it is, times and all.
fn set(
    conditions: &mut Vec<DeploymentCondition>,
    kind: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    let present = find(conditions, kind);
    if present.is_some_and(|c| c.status == status && c.reason.as_deref() == Some(reason)) {
        return;
    }
    renew(conditions, kind, status, reason, message, now);
}

/// Sets a condition with a new update time; the transition time stays if the status does.
fn renew(
    conditions: &mut Vec<DeploymentCondition>,
    kind: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    let present = find(conditions, kind).filter(|c| c.status == status);
    let since = present.and_then(|c| c.last_transition_time.clone());
    conditions.retain(|c| c.type_ != kind);
    conditions.push(DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(since.unwrap_or(Time(now))),
    });
}

/// Whether the rollout has come to its end: all pods are of the present template and available.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = Limits::of(deployment).replicas;
    let n = |v: Option<i32>| v.unwrap_or(0);
    n(status.updated_replicas) == wanted
        && n(status.replicas) == wanted
        && n(status.available_replicas) == wanted
        && status.observed_generation >= deployment.metadata.generation
}

/// Status of a Deployment, and when it changes with time alone.
pub(super) fn status(view: &View, new: Option<&ReplicaSet>) -> (DeploymentStatus, Option<Duration>) {
    let deployment = &view.deployment;
    let before = deployment.status.clone().unwrap_or_default();
    let limits = Limits::of(deployment);
    let total = |f: &dyn Fn(&ReplicaSet) -> i32| view.sets.iter().map(f).sum::<i32>();
    let of = |s: &ReplicaSet| s.status.clone().unwrap_or_default();
    let available = total(&|s| of(s).available_replicas.unwrap_or(0));
    let some = |n: i32| Some(n).filter(|n| *n != 0);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(total(&|s| of(s).replicas)),
        updated_replicas: some(new.map_or(0, |s| of(s).replicas)),
        ready_replicas: some(total(&|s| of(s).ready_replicas.unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some((total(&replicas) - available).max(0)),
        collision_count: before.collision_count,
        conditions: None,
        terminating_replicas: None,
    };
    let mut conditions = before.conditions.clone().unwrap_or_default();
    let now = view.now;
    if available >= limits.replicas - limits.unavailable {
        let text = "Deployment has minimum availability.".to_string();
        set(&mut conditions, AVAILABLE, "True", "MinimumReplicasAvailable", text, now);
    } else {
        let text = "Deployment does not have minimum availability.".to_string();
        set(&mut conditions, AVAILABLE, "False", "MinimumReplicasUnavailable", text, now);
    }
    let again = progress(view, new, &before, &status, &mut conditions);
    failure(view, new, &mut conditions);
    status.conditions = Some(conditions);
    (status, again)
}

/// The Progressing condition; returns when the deadline has to be checked.
fn progress(
    view: &View,
    new: Option<&ReplicaSet>,
    before: &DeploymentStatus,
    status: &DeploymentStatus,
    conditions: &mut Vec<DeploymentCondition>,
) -> Option<Duration> {
    let deployment = &view.deployment;
    let spec = deployment.spec.as_ref()?;
    let deadline = spec.progress_deadline_seconds.filter(|d| *d != i32::MAX);
    let Some(deadline) = deadline else {
        conditions.retain(|c| c.type_ != PROGRESSING);
        return None;
    };
    let now = view.now;
    let reason =
        |c: &[DeploymentCondition]| find(c, PROGRESSING).and_then(|c| c.reason.clone()).unwrap_or_default();
    if spec.paused == Some(true) {
        if reason(conditions) != TIMED_OUT {
            set(conditions, PROGRESSING, "Unknown", PAUSED, "Deployment is paused".into(), now);
        }
        return None;
    }
    if reason(conditions) == PAUSED {
        set(conditions, PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed".into(), now);
    }
    let name = new.map_or_else(
        || format!("Deployment {:?}", deployment.name_any()),
        |s| format!("ReplicaSet {:?}", s.name_any()),
    );
    if let Some(created) = &view.created {
        let text = format!("Created new replica set {created:?}");
        renew(conditions, PROGRESSING, "True", "NewReplicaSetCreated", text, now);
    } else if new.is_some() && find(conditions, PROGRESSING).is_none() {
        let text = format!("Found new replica set {:?}", new.map(|s| s.name_any()).unwrap_or_default());
        set(conditions, PROGRESSING, "True", "FoundNewReplicaSet", text, now);
    }
    // A finished rollout whose pods fail later is not one that makes no progress.
    if status.replicas == status.updated_replicas && reason(conditions) == COMPLETE {
        return None;
    }
    let n = |v: Option<i32>| v.unwrap_or(0);
    let others = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    let moved = n(status.updated_replicas) > n(before.updated_replicas)
        || others(status) < others(before)
        || n(status.ready_replicas) > n(before.ready_replicas)
        || n(status.available_replicas) > n(before.available_replicas);
    if is_complete(deployment, status) {
        let text = format!("{name} has successfully progressed.");
        set(conditions, PROGRESSING, "True", COMPLETE, text, now);
        return None;
    }
    if moved {
        renew(conditions, PROGRESSING, "True", "ReplicaSetUpdated", format!("{name} is progressing."), now);
    }
    let since = find(conditions, PROGRESSING).and_then(|c| c.last_update_time.as_ref()).map_or(now, |t| t.0);
    let left = i64::from(deadline) - now.duration_since(since).as_secs();
    if left < 0 {
        let text = format!("{name} has timed out progressing.");
        set(conditions, PROGRESSING, "False", TIMED_OUT, text, now);
        return None;
    }
    Some(Duration::from_secs(left.unsigned_abs() + 1))
}

/// A failure of the present set, or of another while there is none, becomes one of the Deployment.
fn failure(view: &View, new: Option<&ReplicaSet>, conditions: &mut Vec<DeploymentCondition>) {
    let of = |s: &ReplicaSet| {
        let all = s.status.as_ref()?.conditions.clone()?;
        all.into_iter().find(|c| c.type_ == FAILURE && c.status == "True")
    };
    let found = match new {
        Some(set) => of(set),
        None => view.sets.iter().find_map(of),
    };
    match found {
        Some(c) => {
            let (reason, message) = (c.reason.unwrap_or_default(), c.message.unwrap_or_default());
            set(conditions, FAILURE, "True", &reason, message, view.now);
        }
        None => conditions.retain(|c| c.type_ != FAILURE),
    }
}
