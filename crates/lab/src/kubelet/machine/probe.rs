//! When a probe is due and what its results amount to.

use std::time::Duration;

use jiff::Timestamp;

use super::ProbePlan;

/// Which probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// Holds the others back until it succeeds.
    Startup,
    /// Restarts the container when it fails.
    Liveness,
    /// Says whether the pod takes traffic.
    Readiness,
}

impl ProbeKind {
    /// As in events.
    pub fn title(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        }
    }
}

/// What a result means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing new.
    Same,
    /// The container counts as started or ready, or no longer.
    Changed,
    /// The container must be restarted.
    Restart,
}

/// The schedule and the count of one probe during one run of a container.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Probing {
    plan: ProbePlan,
    due: Timestamp,
    in_flight: bool,
    successes: i64,
    failures: i64,
    /// The last verdict reached by a threshold.
    pub(super) passed: bool,
}

impl Probing {
    pub(super) fn new(plan: ProbePlan, started: Timestamp) -> Self {
        let due = started + Duration::from_secs(plan.initial_delay.max(0).unsigned_abs());
        Probing { plan, due, in_flight: false, successes: 0, failures: 0, passed: false }
    }

    /// When to probe next; none while a probe runs.
    pub(super) fn due(&self) -> Option<Timestamp> {
        (!self.in_flight).then_some(self.due)
    }

    /// Notes that a probe is being made.
    pub(super) fn begin(&mut self, now: Timestamp) {
        self.in_flight = true;
        self.due = now + Duration::from_secs(self.plan.period.unsigned_abs());
    }

    /// Counts a result. True when the success or failure threshold is reached, with the verdict in `passed`.
    pub(super) fn result(&mut self, now: Timestamp, ok: bool) -> bool {
        self.in_flight = false;
        self.due = self.due.max(now);
        if ok {
            self.failures = 0;
            self.successes += 1;
            if self.successes >= self.plan.successes {
                self.passed = true;
                return true;
            }
        } else {
            self.successes = 0;
            self.failures += 1;
            if self.failures >= self.plan.failures {
                self.failures = 0;
                self.passed = false;
                return true;
            }
        }
        false
    }
}

impl Probing {
    /// The startup probe succeeded: the initial delay counts from the start, but probing begins at once if it is over.
    pub(super) fn result_of_start(&mut self, now: Timestamp) {
        self.due = self.due.max(now);
    }
}
