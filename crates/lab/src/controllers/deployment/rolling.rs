//! The arithmetic of rollouts: how many pods may be too many or too few, and by how much each set may change now.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::history;
use crate::controllers::replicaset::replicas;

/// What a Deployment asks for, in pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Pods wanted.
    pub(super) replicas: i32,
    /// Pods allowed above that.
    pub(super) surge: i32,
    /// Pods allowed to be unavailable.
    pub(super) unavailable: i32,
    /// Whether sets are changed step by step.
    pub(super) rolling: bool,
}

/// Pods a number or a percentage of `total` stands for.
pub(crate) fn resolve(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(n)) => *n,
        Some(IntOrString::String(s)) => {
            let percent: i64 = s.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent * i64::from(total);
            let pods = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(pods).unwrap_or(i32::MAX)
        }
    }
}

impl Limits {
    pub(super) fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref();
        let replicas = spec.and_then(|s| s.replicas).unwrap_or(1);
        let strategy = spec.and_then(|s| s.strategy.clone()).unwrap_or_default();
        let rolling = strategy.type_.as_deref() != Some("Recreate");
        let (mut surge, mut unavailable) = (0, 0);
        if rolling {
            let default = || Some(IntOrString::String("25%".into()));
            let update = strategy.rolling_update.unwrap_or_default();
            surge = resolve(update.max_surge.or_else(default).as_ref(), replicas, true);
            unavailable = resolve(update.max_unavailable.or_else(default).as_ref(), replicas, false);
            if surge == 0 && unavailable == 0 {
                // Both rounded to nothing: one pod has to give way or the rollout would never move.
                unavailable = 1;
            }
        }
        Limits { replicas, surge, unavailable: unavailable.min(replicas), rolling }
    }

    /// Most pods at any time.
    pub(super) fn most(&self) -> i32 {
        self.replicas + self.surge
    }
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

fn sum<'a>(sets: impl IntoIterator<Item = &'a ReplicaSet>, f: impl Fn(&ReplicaSet) -> i32) -> i32 {
    sets.into_iter().map(f).sum()
}

/// Size for the set of the present template, of size `now`, beside the `old` ones.
pub(super) fn new_size(limits: &Limits, now: i32, old: &[&ReplicaSet]) -> i32 {
    if !limits.rolling || now >= limits.replicas {
        return limits.replicas;
    }
    let total = now + sum(old.iter().copied(), replicas);
    let room = limits.most() - total;
    if room <= 0 { now } else { now + room.min(limits.replicas - now) }
}

/// New sizes of old sets (those that change), oldest set first: first without the pods that are not available anyway,
/// then without as many as the available ones of all sets allow.
pub(super) fn old_sizes(limits: &Limits, new: &ReplicaSet, old: &[&ReplicaSet]) -> Vec<(String, i32)> {
    let mut old: Vec<(&ReplicaSet, i32)> = old.iter().map(|s| (*s, replicas(s))).collect();
    old.sort_by_key(|(s, _)| (s.creation_timestamp().map(|t| t.0), s.name_any()));
    let old_total: i32 = old.iter().map(|(_, n)| n).sum();
    let least = limits.replicas - limits.unavailable;
    let new_unavailable = replicas(new) - available(new);
    let mut unhealthy = old_total + replicas(new) - least - new_unavailable;
    if old_total == 0 || unhealthy <= 0 {
        return Vec::new();
    }
    for (set, size) in &mut old {
        let cut = unhealthy.min((*size - available(set)).max(0));
        *size -= cut;
        unhealthy -= cut;
    }
    // Bounded by what the sizes allow: the counts of available pods may still include pods that were given up already.
    let spare = available(new) + sum(old.iter().map(|(s, _)| *s), available) - least;
    let mut spare = spare.min(unhealthy);
    for (_, size) in &mut old {
        let cut = spare.max(0).min(*size);
        *size -= cut;
        spare -= cut;
    }
    let changed = old.into_iter().filter(|(set, size)| *size != replicas(set));
    changed.map(|(set, size)| (set.uid().unwrap_or_default(), size)).collect()
}

/// Sizes of all sets when the Deployment itself was scaled in the middle of a rollout: the difference is spread in
/// proportion, the rest goes to the largest set.
pub(super) fn proportional(
    limits: &Limits,
    deployment: &Deployment,
    sets: &[&ReplicaSet],
) -> Vec<(String, i32)> {
    let mut active: Vec<&ReplicaSet> = sets.iter().copied().filter(|s| replicas(s) > 0).collect();
    let allowed = if limits.replicas > 0 { limits.most() } else { 0 };
    let to_add = allowed - sum(active.iter().copied(), replicas);
    active.sort_by(|a, b| {
        let age = |s: &ReplicaSet| (s.creation_timestamp().map(|t| t.0), s.name_any());
        let by_age = if to_add > 0 { age(b).cmp(&age(a)) } else { age(a).cmp(&age(b)) };
        replicas(b).cmp(&replicas(a)).then(by_age)
    });
    let mut added = 0;
    let mut sizes: Vec<(String, i32)> = Vec::new();
    for set in active {
        let left = to_add - added;
        let share = share(limits, deployment, set);
        let share = match to_add {
            0 => 0,
            n if n > 0 => share.clamp(0, left.max(0)),
            _ => share.min(0).max(left.min(0)),
        };
        added += share;
        sizes.push((set.uid().unwrap_or_default(), replicas(set) + share));
    }
    if let Some((_, largest)) = sizes.first_mut() {
        *largest = (*largest + to_add - added).max(0);
    }
    sizes
}

fn share(limits: &Limits, deployment: &Deployment, set: &ReplicaSet) -> i32 {
    let size = replicas(set);
    if limits.replicas == 0 {
        return -size;
    }
    let noted = set.annotations().get(history::MOST).and_then(|m| m.parse::<i64>().ok());
    let before =
        noted.unwrap_or_else(|| i64::from(deployment.status.as_ref().and_then(|s| s.replicas).unwrap_or(0)));
    if before <= 0 {
        return 0;
    }
    let scaled = i64::from(size) * i64::from(limits.most());
    let rounded = (2 * scaled + before).div_euclid(2 * before);
    i32::try_from(rounded).unwrap_or(i32::MAX) - size
}
