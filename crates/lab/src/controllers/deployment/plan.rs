//! What a Deployment needs next.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::rolling::Limits;
use super::{history, rolling, status};
use crate::controllers::pods;
use crate::controllers::replicaset::replicas;

/// A Deployment and what belongs to it.
pub(super) struct View {
    /// The Deployment.
    pub(super) deployment: Deployment,
    /// Its ReplicaSets.
    pub(super) sets: Vec<ReplicaSet>,
    /// The pods of its namespace.
    pub(super) pods: Vec<Arc<Pod>>,
    /// Name of the set made in this look.
    pub(super) created: Option<String>,
    /// The time.
    pub(super) now: Timestamp,
}

/// The next thing to do.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Create this set.
    Create(Box<ReplicaSet>),
    /// Replace the set by this state of it.
    Update(Box<ReplicaSet>),
    /// Note this revision on the Deployment.
    Revision(String),
    /// Delete the set with this uid.
    Delete(String),
    /// Nothing but the status, which may have to be looked at again after a while.
    Status(Box<DeploymentStatus>, Option<Duration>),
}

/// The next step for a Deployment; [`Step::Status`] is the last.
pub(super) fn next(view: &View) -> Step {
    let deployment = &view.deployment;
    let limits = Limits::of(deployment);
    let new = history::present(deployment, &view.sets);
    let is_new = |s: &ReplicaSet| new.is_some_and(|n| n.metadata.uid == s.metadata.uid);
    let old: Vec<&ReplicaSet> = view.sets.iter().filter(|s| !is_new(s)).collect();
    if deployment.metadata.deletion_timestamp.is_some() {
        return finish(view, new);
    }
    let paused = deployment.spec.as_ref().is_some_and(|s| s.paused == Some(true));
    if let Some(set) = new
        && let Some(step) = renumber(deployment, set, &old)
    {
        return step;
    }
    if (paused || was_scaled(&view.sets, &limits))
        && let Some(step) = scale(view, &limits, new, &old)
    {
        return step;
    }
    if paused {
        return finish(view, new);
    }
    if !limits.rolling {
        return recreate(view, &limits, new, &old).unwrap_or_else(|| finish(view, new));
    }
    let Some(set) = new else { return create(deployment, &limits, &old) };
    let size = rolling::new_size(&limits, replicas(set), &old);
    if let Some(step) = resize(set, size, &limits) {
        return step;
    }
    for (uid, size) in rolling::old_sizes(&limits, set, &old) {
        if let Some(step) =
            old.iter().find(|s| s.metadata.uid.as_ref() == Some(&uid)).and_then(|s| resize(s, size, &limits))
        {
            return step;
        }
    }
    finish(view, new)
}

/// The step that gives the present set its revision and annotations, and the Deployment the same revision.
fn renumber(deployment: &Deployment, set: &ReplicaSet, old: &[&ReplicaSet]) -> Option<Step> {
    let wanted = history::annotations(deployment, set.annotations(), history::next_revision(old), None);
    let min_ready = deployment.spec.as_ref().and_then(|s| s.min_ready_seconds).filter(|s| *s != 0);
    let had = set.spec.as_ref().and_then(|s| s.min_ready_seconds).filter(|s| *s != 0);
    if &wanted != set.annotations() || min_ready != had {
        let mut set = set.clone();
        set.metadata.annotations = Some(wanted);
        if let Some(spec) = &mut set.spec {
            spec.min_ready_seconds = min_ready;
        }
        return Some(Step::Update(Box::new(set)));
    }
    let number = set.annotations().get(history::REVISION)?;
    (deployment.annotations().get(history::REVISION) != Some(number)).then(|| Step::Revision(number.clone()))
}

fn create(deployment: &Deployment, limits: &Limits, old: &[&ReplicaSet]) -> Step {
    let mut set = history::new_set(deployment, rolling::new_size(limits, 0, old));
    let sizes = Some((limits.replicas, limits.most()));
    let number = history::next_revision(old);
    set.metadata.annotations = Some(history::annotations(deployment, &Default::default(), number, sizes));
    Step::Create(Box::new(set))
}

/// The step that gives a set this size, if it has another or notes other limits.
fn resize(set: &ReplicaSet, size: i32, limits: &Limits) -> Option<Step> {
    let note = |k: &str, n: i32| set.annotations().get(k).is_none_or(|v| *v != n.to_string());
    let stale = size > 0 && (note(history::DESIRED, limits.replicas) || note(history::MOST, limits.most()));
    if size == replicas(set) && !stale {
        return None;
    }
    let mut set = set.clone();
    let annotations = set.annotations_mut();
    annotations.insert(history::DESIRED.into(), limits.replicas.to_string());
    annotations.insert(history::MOST.into(), limits.most().to_string());
    set.spec.get_or_insert_default().replicas = Some(size);
    Some(Step::Update(Box::new(set)))
}

/// Whether the Deployment's replicas changed since its sets were last sized.
fn was_scaled(sets: &[ReplicaSet], limits: &Limits) -> bool {
    sets.iter().filter(|s| replicas(s) > 0).any(|s| {
        let noted = s.annotations().get(history::DESIRED).and_then(|d| d.parse::<i32>().ok());
        noted.is_some_and(|n| n != limits.replicas)
    })
}

/// The step towards new replicas without moving between versions.
fn scale(view: &View, limits: &Limits, new: Option<&ReplicaSet>, old: &[&ReplicaSet]) -> Option<Step> {
    let all: Vec<&ReplicaSet> = view.sets.iter().collect();
    let active: Vec<&ReplicaSet> = all.iter().copied().filter(|s| replicas(s) > 0).collect();
    let only = match active.as_slice() {
        [one] => Some(*one),
        [] => new.or_else(|| {
            all.iter().copied().max_by_key(|s| (s.creation_timestamp().map(|t| t.0), s.name_any()))
        }),
        _ => None,
    };
    if let Some(set) = only {
        return resize(set, limits.replicas, limits);
    }
    if let Some(set) = new
        && is_saturated(set, limits)
    {
        return old.iter().find_map(|s| resize(s, 0, limits));
    }
    if !limits.rolling {
        return None;
    }
    let sizes = rolling::proportional(limits, &view.deployment, &active);
    sizes.iter().find_map(|(uid, size)| {
        let set = active.iter().find(|s| s.metadata.uid.as_ref() == Some(uid))?;
        // The note is written together with the size, so a set that has it has its share already.
        let noted =
            set.annotations().get(history::DESIRED).is_some_and(|d| *d == limits.replicas.to_string());
        if noted { None } else { resize(set, *size, limits) }
    })
}

fn is_saturated(set: &ReplicaSet, limits: &Limits) -> bool {
    let noted = set.annotations().get(history::DESIRED).is_some_and(|d| *d == limits.replicas.to_string());
    let available = set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0);
    noted && replicas(set) == limits.replicas && available == limits.replicas
}

/// Recreate: the old version goes, pods and all, before the new one comes.
fn recreate(view: &View, limits: &Limits, new: Option<&ReplicaSet>, old: &[&ReplicaSet]) -> Option<Step> {
    if let Some(step) = old.iter().find_map(|s| resize(s, 0, limits)) {
        return Some(step);
    }
    let is_old = |p: &Pod| {
        let owner = pods::controller_of(&p.metadata).map(|r| &r.uid);
        old.iter().any(|s| s.metadata.uid.as_ref() == owner)
    };
    if view.pods.iter().any(|p| !pods::is_finished(p) && is_old(p)) {
        return None;
    }
    match new {
        None => Some(create(&view.deployment, limits, old)),
        Some(set) => resize(set, limits.replicas, limits),
    }
}

fn finish(view: &View, new: Option<&ReplicaSet>) -> Step {
    let (status, again) = status::status(view, new);
    let limit = view.deployment.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
    let deleting = view.deployment.metadata.deletion_timestamp.is_some();
    if !deleting && new.is_some() && status::is_complete(&view.deployment, &status) {
        let old: Vec<&ReplicaSet> =
            view.sets.iter().filter(|s| new.is_none_or(|n| n.metadata.uid != s.metadata.uid)).collect();
        if let Some(set) = history::outdated(limit, &old).first() {
            return Step::Delete(set.uid().unwrap_or_default());
        }
    }
    Step::Status(Box::new(status), again)
}
