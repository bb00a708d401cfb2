//! One container of a pod.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::backoff::Backoff;
use super::probe::{ProbeKind, Probing, Verdict};
use super::{Action, ContainerKind, ContainerPlan, RestartPolicy};

/// The shortest time between SIGTERM and SIGKILL, even if the hook used the whole grace period.
const LAST_GRACE: Duration = Duration::from_secs(2);
/// Pauses after a failed start: 1 s doubling up to this.
const LONGEST_START_PAUSE: u64 = 30;

/// A run that ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ended {
    pub(super) run: u32,
    pub(super) started: Timestamp,
    pub(super) finished: Timestamp,
    pub(super) code: i32,
    pub(super) signal: Option<i32>,
    pub(super) message: String,
}

/// How far a container is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Phase {
    /// Never started.
    Fresh,
    /// A start failed; the next attempt comes.
    Failing { reason: &'static str, message: String, retry_at: Timestamp, failures: u32 },
    /// Being started.
    Starting { failures: u32 },
    /// Has a process.
    Running { started: Timestamp },
    /// Has ended and may be started again at `restart_at`.
    Ended { restart_at: Option<Timestamp> },
}

/// How a container with a process is being ended.
#[derive(Debug, Clone, PartialEq)]
enum Stop {
    /// Asked for.
    Wanted { deadline: Timestamp },
    /// The preStop hook runs.
    Hook { deadline: Timestamp, done: bool },
    /// SIGTERM was sent.
    Termed { kill_at: Timestamp },
    /// SIGKILL was sent.
    Killed,
}

#[derive(Debug)]
pub(super) struct Container {
    pub(super) plan: ContainerPlan,
    pub(super) phase: Phase,
    /// Number of the present or last run.
    pub(super) run: u32,
    /// The end of the last run.
    pub(super) last: Option<Ended>,
    pub(super) backoff: Backoff,
    /// Whether a restart policy was asked about the last end, and said no.
    pub(super) done: bool,
    stop: Option<Stop>,
    probing: BTreeMap<ProbeKind, Probing>,
}

impl Container {
    pub(super) fn new(plan: ContainerPlan) -> Self {
        Container {
            run: plan.restarts,
            plan,
            phase: Phase::Fresh,
            last: None,
            backoff: Backoff::default(),
            done: false,
            stop: None,
            probing: BTreeMap::new(),
        }
    }

    /// Has a process, or is about to.
    pub(super) fn alive(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. } | Phase::Running { .. })
    }

    /// Runs, and its startup probe, if any, has succeeded.
    pub(super) fn has_started(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
            && self.probing.get(&ProbeKind::Startup).is_none_or(|p| p.passed)
    }

    /// Takes traffic.
    pub(super) fn ready(&self) -> bool {
        self.has_started() && self.probing.get(&ProbeKind::Readiness).is_none_or(|p| p.passed)
    }

    /// Lets the containers after it go.
    pub(super) fn init_done(&self) -> bool {
        match self.plan.kind {
            ContainerKind::Main => true,
            ContainerKind::Sidecar => self.has_started(),
            ContainerKind::Init => self.succeeded(),
        }
    }

    /// Ended with exit code 0, for good.
    pub(super) fn succeeded(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. })
            && self.done
            && self.last.as_ref().is_some_and(|e| e.code == 0)
    }

    /// Ended with another exit code, for good.
    pub(super) fn failed(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. }) && self.done && !self.succeeded()
    }

    pub(super) fn started(&mut self, now: Timestamp) {
        self.phase = Phase::Running { started: now };
        let probes = self.plan.probes.iter();
        self.probing = probes.map(|(kind, plan)| (*kind, Probing::new(plan.clone(), now))).collect();
    }

    pub(super) fn start_failed(&mut self, now: Timestamp, reason: &'static str, message: &str) {
        let failures = match self.phase {
            Phase::Starting { failures } => failures + 1,
            _ => 1,
        };
        let pause = Duration::from_secs((1 << (failures - 1).min(5)).min(LONGEST_START_PAUSE));
        self.stop = None;
        self.phase = Phase::Failing { reason, message: message.to_string(), retry_at: now + pause, failures };
    }

    pub(super) fn exited(&mut self, now: Timestamp, code: i32, signal: Option<i32>, message: String) {
        let Phase::Running { started } = self.phase else { return };
        self.backoff.ran(started, now);
        self.last = Some(Ended { run: self.run, started, finished: now, code, signal, message });
        self.phase = Phase::Ended { restart_at: None };
        self.stop = None;
        self.done = false;
        self.probing.clear();
    }

    /// Starts the container if it should run and its time has come.
    pub(super) fn start_if_due(&mut self, now: Timestamp, policy: RestartPolicy, actions: &mut Vec<Action>) {
        match &self.phase {
            Phase::Fresh => self.start(0, actions),
            Phase::Failing { retry_at, failures, .. } if *retry_at <= now => {
                let failures = *failures;
                self.start(failures, actions);
            }
            Phase::Ended { restart_at: None } if !self.done => {
                let failed = self.last.as_ref().is_some_and(|e| e.code != 0);
                let again = match (self.plan.kind, policy) {
                    (ContainerKind::Sidecar, _) => true,
                    (ContainerKind::Init, RestartPolicy::Always) => failed,
                    (_, RestartPolicy::Always) => true,
                    (_, RestartPolicy::OnFailure) => failed,
                    (_, RestartPolicy::Never) => false,
                };
                self.done = !again;
                if again {
                    let pause = self.backoff.pause();
                    let at = self.last.as_ref().map_or(now, |e| e.finished) + pause;
                    self.phase = Phase::Ended { restart_at: Some(at) };
                    if !pause.is_zero() {
                        let name = &self.plan.name;
                        actions.push(Action::Event {
                            warning: true,
                            reason: "BackOff",
                            message: format!("Back-off restarting failed container {name}"),
                            container: Some(name.clone()),
                        });
                    }
                    self.start_if_due(now, policy, actions);
                }
            }
            Phase::Ended { restart_at: Some(at) } if *at <= now => {
                self.backoff.restarted();
                self.run += 1;
                self.start(0, actions);
            }
            _ => {}
        }
    }

    fn start(&mut self, failures: u32, actions: &mut Vec<Action>) {
        self.phase = Phase::Starting { failures };
        actions.push(Action::Start { container: self.plan.name.clone(), run: self.run });
    }

    /// Ends the container until `deadline`. True if that is new. An earlier deadline replaces a later one.
    pub(super) fn stop(&mut self, now: Timestamp, deadline: Timestamp) -> bool {
        if !self.alive() {
            return false;
        }
        match &mut self.stop {
            None => {
                self.stop = Some(Stop::Wanted { deadline });
                return true;
            }
            Some(Stop::Wanted { deadline: d } | Stop::Hook { deadline: d, .. }) => *d = deadline.min(*d),
            // The last grace of a hook that used everything up is not taken back by the same deadline.
            Some(Stop::Termed { kill_at }) if deadline > now => *kill_at = deadline.min(*kill_at),
            Some(Stop::Termed { .. } | Stop::Killed) => {}
        }
        false
    }

    /// Kills the container without ceremony.
    pub(super) fn kill(&mut self, actions: &mut Vec<Action>) {
        if self.alive() && self.stop != Some(Stop::Killed) {
            self.stop = Some(Stop::Killed);
            actions.push(Action::Kill { container: self.plan.name.clone() });
        }
    }

    pub(super) fn pre_stop_done(&mut self) {
        if let Some(Stop::Hook { done, .. }) = &mut self.stop {
            *done = true;
        }
    }

    /// Moves a stop on and begins probes that are due.
    pub(super) fn advance(&mut self, now: Timestamp, probing: bool, actions: &mut Vec<Action>) {
        if !matches!(self.phase, Phase::Running { .. }) {
            return;
        }
        if self.stop.is_some() {
            self.advance_stop(now, actions);
        } else if probing {
            let open = self.has_started();
            for (kind, p) in &mut self.probing {
                let wanted = if *kind == ProbeKind::Startup { !p.passed } else { open };
                if wanted && p.due().is_some_and(|due| due <= now) {
                    p.begin(now);
                    let container = self.plan.name.clone();
                    actions.push(Action::Probe { container, kind: *kind, run: self.run });
                }
            }
        }
    }

    fn advance_stop(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let container = self.plan.name.clone();
        loop {
            self.stop = match self.stop.clone() {
                Some(Stop::Wanted { deadline }) if deadline <= now => {
                    actions.push(Action::Kill { container: container.clone() });
                    Some(Stop::Killed)
                }
                Some(Stop::Wanted { deadline }) => {
                    if self.plan.pre_stop {
                        actions.push(Action::PreStop { container: container.clone() });
                    }
                    Some(Stop::Hook { deadline, done: !self.plan.pre_stop })
                }
                Some(Stop::Hook { deadline, done }) if done || deadline <= now => {
                    actions.push(Action::Terminate { container: container.clone() });
                    let kill_at = if self.plan.pre_stop { deadline.max(now + LAST_GRACE) } else { deadline };
                    Some(Stop::Termed { kill_at })
                }
                Some(Stop::Termed { kill_at }) if kill_at <= now => {
                    actions.push(Action::Kill { container: container.clone() });
                    Some(Stop::Killed)
                }
                _ => return,
            };
            if self.stop == Some(Stop::Killed) {
                return;
            }
        }
    }

    /// Counts a probe's result; none if it belongs to another run or is of no interest.
    pub(super) fn probed(
        &mut self,
        now: Timestamp,
        kind: ProbeKind,
        run: u32,
        failure: Option<&str>,
    ) -> Option<Verdict> {
        if run != self.run || !matches!(self.phase, Phase::Running { .. }) || self.stop.is_some() {
            return None;
        }
        let p = self.probing.get_mut(&kind)?;
        let before = p.passed;
        let reached = p.result(now, failure.is_none());
        let passed = p.passed;
        if kind != ProbeKind::Readiness && reached && failure.is_some() {
            return Some(Verdict::Restart);
        }
        if kind == ProbeKind::Startup && passed {
            // The others begin now, not at their old schedule.
            for (_, other) in self.probing.iter_mut().filter(|(k, _)| **k != ProbeKind::Startup) {
                other.result_of_start(now);
            }
        }
        Some(if before == passed { Verdict::Same } else { Verdict::Changed })
    }

    /// When something is due.
    pub(super) fn wakeup(&self, probing: bool) -> Option<Timestamp> {
        match (&self.phase, &self.stop) {
            (Phase::Failing { retry_at, .. }, _) => Some(*retry_at),
            (Phase::Ended { restart_at }, _) => *restart_at,
            (Phase::Running { .. }, Some(Stop::Wanted { deadline } | Stop::Hook { deadline, .. })) => {
                Some(*deadline)
            }
            (Phase::Running { .. }, Some(Stop::Termed { kill_at })) => Some(*kill_at),
            (Phase::Running { .. }, None) if probing => {
                let open = self.has_started();
                let wanted =
                    |k: ProbeKind, p: &Probing| if k == ProbeKind::Startup { !p.passed } else { open };
                self.probing.iter().filter(|(k, p)| wanted(**k, p)).filter_map(|(_, p)| p.due()).min()
            }
            _ => None,
        }
    }
}
