//! Which backends of a port take new connections (behaviours 2.3, 2.5), and why the others do not. Pure:
//! backends are counted by class, the counts decide, and one function judges each class; what the
//! datapath gets and what `causeway service trace` tells come from that same judgement.

use std::collections::BTreeMap;

use causeway_model::{Affinity, ClusterName, Service, TrafficPolicy};

/// What the merger knows of where it runs.
#[derive(Debug, Clone, Default)]
pub struct Location {
    /// The name of this cluster.
    pub cluster: Option<ClusterName>,
    /// The name of this node: its backends are those that traffic policies call local.
    pub node: Option<String>,
    /// The zone of this node.
    pub zone: Option<String>,
    /// Zone hints are honoured (`enable-service-topology`).
    pub topology: bool,
    /// The labels of this node: Services may choose which nodes serve them by labels.
    pub labels: BTreeMap<String, String>,
}

/// How fit a backend is; a better one takes the connections, wherever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Grade {
    Active,
    Terminating,
    Unreachable,
    UnreachableTerminating,
}

impl Grade {
    pub(super) const fn of(active: bool, unreachable: bool) -> Self {
        match (active, unreachable) {
            (true, false) => Self::Active,
            (false, false) => Self::Terminating,
            (true, true) => Self::Unreachable,
            (false, true) => Self::UnreachableTerminating,
        }
    }

    const fn is_terminating(self) -> bool {
        matches!(self, Self::Terminating | Self::UnreachableTerminating)
    }

    const fn is_unreachable(self) -> bool {
        matches!(self, Self::Unreachable | Self::UnreachableTerminating)
    }
}

/// Whether a backend is hinted for the zone we are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Hint {
    Ours,
    Other,
    #[default]
    None,
}

impl Hint {
    pub(super) fn of(for_zones: &[String], location: &Location) -> Self {
        match &location.zone {
            _ if for_zones.is_empty() => Self::None,
            Some(zone) if for_zones.contains(zone) => Self::Ours,
            _ => Self::Other,
        }
    }
}

/// The place of a cluster in the order in which clusters are used. The second part is true for other
/// clusters where this one goes before them within a step.
pub(super) type Step = (u16, bool);

/// Behind every other: clusters without a share.
const LAST: u16 = u16::MAX;

/// Everything that decides about a backend. Backends of one class are treated alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class {
    pub(super) grade: Grade,
    step: Step,
    hint: Hint,
    /// On this node, or on none that is known; true where that does not matter.
    here: bool,
    /// `None` = this one.
    pub(super) cluster: Option<ClusterName>,
}

/// What a service wants, in the terms of the selection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Plan {
    affinity: Affinity,
    order: Vec<Option<ClusterName>>,
    weights: BTreeMap<Option<ClusterName>, u16>,
    zones: bool,
}

impl Plan {
    pub(super) fn of(service: &Service, location: &Location) -> Self {
        // This cluster may be named as others name it.
        let own = |name: &Option<ClusterName>| name.clone().filter(|_| *name != location.cluster);
        let preference = &service.preference;
        let mut order: Vec<Option<ClusterName>> = vec![];
        for name in preference.order.iter().map(own) {
            if !order.contains(&name) {
                order.push(name);
            }
        }
        Self {
            affinity: if service.sharing.global { service.sharing.affinity } else { Affinity::None },
            order,
            weights: preference.weights.iter().map(|(name, weight)| (own(name), *weight)).collect(),
            zones: service.prefer_zone && location.topology && location.zone.is_some(),
        }
    }

    fn step(&self, cluster: &Option<ClusterName>, policy: TrafficPolicy) -> Step {
        let place = if !self.weights.is_empty() && self.weight(cluster) == 0 {
            LAST
        } else if !self.order.is_empty() {
            let place = self.order.iter().position(|name| name == cluster).unwrap_or(self.order.len());
            u16::try_from(place).unwrap_or(LAST)
        } else {
            match self.affinity {
                Affinity::None => 0,
                Affinity::Local => u16::from(cluster.is_some()),
                Affinity::Remote => u16::from(cluster.is_none()),
            }
        };
        (place, policy == TrafficPolicy::Local && cluster.is_some())
    }

    fn weight(&self, cluster: &Option<ClusterName>) -> u16 {
        self.weights.get(cluster).copied().unwrap_or(0)
    }

    /// The class of a backend under a policy. Hints say nothing where the node decides.
    pub(super) fn class(
        &self,
        policy: TrafficPolicy,
        grade: Grade,
        cluster: Option<&ClusterName>,
        hint: Hint,
        here: bool,
    ) -> Class {
        let local = policy == TrafficPolicy::Local;
        let hint = if self.zones && !local { hint } else { Hint::None };
        let (cluster, here) = (cluster.cloned(), here || !local);
        Class { grade, step: self.step(&cluster, policy), hint, here, cluster }
    }
}

/// How many backends there are of each class, sorted.
#[derive(Debug, Clone, Default)]
pub(super) struct Census(Vec<(Class, u32)>);

impl Census {
    pub(super) fn add(&mut self, class: Class) {
        match self.0.binary_search_by(|(held, _)| held.cmp(&class)) {
            Ok(at) => self.0[at].1 += 1,
            Err(at) => self.0.insert(at, (class, 1)),
        }
    }

    pub(super) fn remove(&mut self, class: &Class) {
        if let Ok(at) = self.0.binary_search_by(|(held, _)| held.cmp(class)) {
            self.0[at].1 -= 1;
            if self.0[at].1 == 0 {
                self.0.remove(at);
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(Class, u32)> {
        self.0.iter()
    }
}

/// What the counts decide: whoever is of this step and grade, and of our zone where that counts, takes
/// the new connections.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Mode {
    /// `None` while there is no backend at all.
    step: Option<Step>,
    /// `None` where the policy leaves none in that step.
    grade: Option<Grade>,
    ours: bool,
    /// The weight of each backend, by cluster; empty = all have 1.
    shares: Vec<(Option<ClusterName>, u16)>,
}

/// Why a backend takes no new connections. The first that holds counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// The traffic policy is Local, and it is on another node.
    Node,
    /// Another cluster goes before its own.
    Step,
    Terminating,
    Unreachable,
    /// Others are hinted for our zone.
    Zone,
}

impl Mode {
    /// The step first: that of the best grade, and of these the earliest. Backends of this cluster hold
    /// it wherever they run, so that a policy of Local sends nobody to another cluster while this one
    /// has healthy backends. Then within the step the policy, the grade and the zone. If nothing better
    /// is there, what is unreachable is tried all the same.
    pub(super) fn of(plan: &Plan, census: &Census) -> Self {
        let best = census.iter().map(|(class, _)| (class.grade, class.step)).min();
        let Some((_, step)) = best else { return Self::default() };
        let within = || census.iter().filter(move |(class, _)| class.step == step);
        let grade = within().filter(|(class, _)| class.here || class.cluster.is_some());
        let grade = grade.map(|(class, _)| class.grade).min();
        let unhinted = |(class, _): &(Class, u32)| !class.grade.is_terminating() && class.hint == Hint::None;
        let ours = plan.zones
            && !census.iter().any(unhinted)
            && within().any(|(class, _)| Some(class.grade) == grade && class.hint == Hint::Ours);
        let mut mode = Self { step: Some(step), grade, ours, shares: vec![] };
        if !plan.weights.is_empty() {
            let mut winners: BTreeMap<&Option<ClusterName>, u32> = BTreeMap::new();
            for (class, count) in census.iter().filter(|(class, _)| mode.judge(class).is_ok()) {
                *winners.entry(&class.cluster).or_default() += count;
            }
            mode.shares = shares(plan, &winners);
        }
        mode
    }

    /// The weight of each backend of a class, or why it has none.
    pub(super) fn judge(&self, class: &Class) -> Result<u16, Loss> {
        if !class.here && class.cluster.is_none() {
            Err(Loss::Node)
        } else if self.step != Some(class.step) {
            Err(Loss::Step)
        } else if self.grade != Some(class.grade) {
            Err(if class.grade.is_unreachable() { Loss::Unreachable } else { Loss::Terminating })
        } else if self.ours && class.hint != Hint::Ours {
            Err(Loss::Zone)
        } else {
            let share = self.shares.iter().find(|(cluster, _)| *cluster == class.cluster);
            Ok(share.map_or(1, |(_, weight)| *weight))
        }
    }
}

/// The weight of each backend where clusters have shares: that of the cluster over its backends, in the
/// smallest whole numbers. Clusters without a share come to this only when no other is left: alike.
fn shares(plan: &Plan, winners: &BTreeMap<&Option<ClusterName>, u32>) -> Vec<(Option<ClusterName>, u16)> {
    let shares = winners.iter().map(|(cluster, count)| (*cluster, plan.weight(cluster), *count));
    let shares: Vec<_> = shares.filter(|(_, weight, _)| *weight > 0).collect();
    let exact = |shares: &[(&Option<ClusterName>, u16, u32)]| -> Option<Vec<u16>> {
        let multiple = shares.iter().try_fold(1u128, |all, (_, _, count)| {
            let count = u128::from(*count);
            (all / gcd(all, count)).checked_mul(count).filter(|all| *all < 1 << 64)
        })?;
        let each: Vec<u128> = shares
            .iter()
            .map(|(_, weight, count)| u128::from(*weight) * (multiple / u128::from(*count)))
            .collect();
        let divisor = each.iter().copied().reduce(gcd)?;
        each.into_iter().map(|weight| u16::try_from(weight / divisor).ok()).collect()
    };
    let each = exact(&shares).unwrap_or_else(|| {
        // Not in 16 bits: as near as they come, and nobody with a share gets nothing.
        let per = |(_, weight, count): &(_, u16, u32)| f64::from(*weight) / f64::from(*count);
        let most = shares.iter().map(per).fold(f64::MIN_POSITIVE, f64::max);
        shares.iter().map(|share| (per(share) / most * f64::from(u16::MAX)).round().max(1.0) as u16).collect()
    });
    shares.iter().zip(each).map(|((cluster, ..), weight)| ((*cluster).clone(), weight)).collect()
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
#[path = "selection_tests.rs"]
mod tests;
