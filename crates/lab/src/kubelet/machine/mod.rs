//! The life of one pod as a pure state machine: inputs are what happened (sandbox made, container exited, probe result,
//! deletion), time is passed in; outputs are [`Action`]s and the pod's status. It touches no process, socket or clock; the
//! worker (`super::worker`) carries the actions out.

mod backoff;
mod container;
mod probe;
mod spec;
mod status;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
pub use probe::ProbeKind;
pub use spec::{ContainerKind, ContainerPlan, PodPlan, ProbePlan, RestartPolicy};
pub use status::Condition;

use self::container::{Container, Phase};

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Volumes and sandbox are there, the network is attached.
    SandboxReady {
        /// The pod's addresses, the primary first.
        ips: Vec<IpAddr>,
    },
    /// They are not.
    SandboxFailed {
        /// Reason of the event (`FailedCreatePodSandBox`, `FailedMount`, `NetworkNotReady`).
        reason: &'static str,
        /// What went wrong.
        message: String,
        /// The longest pause before the next attempt.
        retry: Duration,
    },
    /// The sandbox's process ended without being asked to.
    SandboxDied,
    /// A container's process runs.
    Started {
        /// Name of the container.
        container: String,
    },
    /// A container could not be started.
    StartFailed {
        /// Name of the container.
        container: String,
        /// Reason shown while waiting.
        reason: &'static str,
        /// What went wrong.
        message: String,
    },
    /// A container's first process ended.
    Exited {
        /// Name of the container.
        container: String,
        /// Exit code, 128 plus the signal.
        code: i32,
        /// Signal, if one ended it.
        signal: Option<i32>,
        /// What it left in its termination log.
        message: String,
    },
    /// A probe was made.
    Probed {
        /// Name of the container.
        container: String,
        /// Which probe.
        kind: ProbeKind,
        /// The run of the container it belongs to.
        run: u32,
        /// Nothing if it succeeded, else why not.
        failure: Option<String>,
    },
    /// The preStop hook ended.
    PreStopDone {
        /// Name of the container.
        container: String,
    },
    /// The sandbox and its network are gone.
    SandboxGone,
    /// The pod is to end.
    Delete {
        /// Grace period in seconds.
        grace: i64,
    },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Prepare volumes, make the sandbox, attach the network; answered by `SandboxReady` or `SandboxFailed`.
    StartSandbox,
    /// Start a container; answered by `Started` or `StartFailed`, later `Exited`.
    Start {
        /// Name of the container.
        container: String,
        /// Number of its run, from 0.
        run: u32,
    },
    /// Make a probe; answered by `Probed`.
    Probe {
        /// Name of the container.
        container: String,
        /// Which probe.
        kind: ProbeKind,
        /// The run of the container.
        run: u32,
    },
    /// Run the preStop hook; answered by `PreStopDone`.
    PreStop {
        /// Name of the container.
        container: String,
    },
    /// Send SIGTERM to the first process.
    Terminate {
        /// Name of the container.
        container: String,
    },
    /// Kill every process of the container.
    Kill {
        /// Name of the container.
        container: String,
    },
    /// Detach the network and end the sandbox; answered by `SandboxGone`.
    StopSandbox,
    /// Everything is gone: remove the pod from the API server.
    Finalize,
    /// Tell the user.
    Event {
        /// `Warning` rather than `Normal`.
        warning: bool,
        /// Reason in CamelCase.
        reason: &'static str,
        /// For humans.
        message: String,
        /// The container it is about.
        container: Option<String>,
    },
}

/// How far the sandbox is.
#[derive(Debug, Clone, PartialEq)]
enum Sandbox {
    Absent { retry_at: Timestamp, failures: u32 },
    Creating { failures: u32 },
    Ready,
    Stopping,
    Gone,
}

#[derive(Debug, Clone, PartialEq)]
struct Deletion {
    deadline: Timestamp,
    finalized: bool,
}

/// One pod.
#[derive(Debug)]
pub struct PodMachine {
    plan: PodPlan,
    sandbox: Sandbox,
    ips: Vec<IpAddr>,
    containers: Vec<Container>,
    deletion: Option<Deletion>,
    started: Timestamp,
    conditions: Vec<Condition>,
    actions: Vec<Action>,
}

impl PodMachine {
    /// A pod that was just assigned. `started` is its start time in the API if it has one.
    pub fn new(plan: PodPlan, now: Timestamp, started: Option<Timestamp>) -> Self {
        let containers = plan.containers.iter().cloned().map(Container::new).collect();
        PodMachine {
            plan,
            sandbox: Sandbox::Absent { retry_at: now, failures: 0 },
            ips: Vec::new(),
            containers,
            deletion: None,
            started: started.unwrap_or(now),
            conditions: Vec::new(),
            actions: Vec::new(),
        }
    }

    /// Takes what happened and says what is to be done.
    pub fn handle(&mut self, now: Timestamp, input: Input) -> Vec<Action> {
        self.apply(now, input);
        self.advance(now)
    }

    /// Does what time brings: retries, back-off ends, probes due, grace periods over.
    pub fn advance(&mut self, now: Timestamp) -> Vec<Action> {
        self.drive(now);
        std::mem::take(&mut self.actions)
    }

    /// When [`Self::advance`] should be called at the latest, if nothing else happens.
    pub fn wakeup(&self) -> Option<Timestamp> {
        let sandbox = match self.sandbox {
            Sandbox::Absent { retry_at, .. } if self.deletion.is_none() && !self.terminal() => Some(retry_at),
            _ => None,
        };
        let ready = self.sandbox == Sandbox::Ready;
        self.containers.iter().filter_map(|c| c.wakeup(ready)).chain(sandbox).min()
    }

    /// Whether nothing of the pod is left and the API server was told.
    pub fn finished(&self) -> bool {
        self.deletion.as_ref().is_some_and(|d| d.finalized)
    }

    /// Whether the pod is being deleted.
    pub fn terminating(&self) -> bool {
        self.deletion.is_some()
    }

    fn apply(&mut self, now: Timestamp, input: Input) {
        match input {
            Input::SandboxReady { ips } => {
                self.ips = ips;
                self.sandbox = Sandbox::Ready;
            }
            Input::SandboxFailed { reason, message, retry } => {
                let failures = match self.sandbox {
                    Sandbox::Creating { failures } => failures + 1,
                    _ => 1,
                };
                let pause = Duration::from_secs(1 << (failures - 1).min(6)).min(retry);
                self.sandbox = Sandbox::Absent { retry_at: now + pause, failures };
                self.event(true, reason, message, None);
            }
            Input::SandboxDied => {
                if self.sandbox == Sandbox::Ready {
                    let message = "Pod sandbox changed, it will be killed and re-created.".to_string();
                    self.event(false, "SandboxChanged", message, None);
                    for c in &mut self.containers {
                        c.kill(&mut self.actions);
                    }
                    self.sandbox = Sandbox::Stopping;
                    self.actions.push(Action::StopSandbox);
                }
            }
            Input::SandboxGone => {
                self.sandbox = if self.deletion.is_some() || self.terminal() {
                    Sandbox::Gone
                } else {
                    Sandbox::Absent { retry_at: now, failures: 0 }
                };
            }
            Input::Delete { grace } => {
                let deadline = now + Duration::from_secs(grace.max(0).unsigned_abs());
                match &mut self.deletion {
                    Some(d) => d.deadline = d.deadline.min(deadline),
                    None => self.deletion = Some(Deletion { deadline, finalized: false }),
                }
            }
            Input::Started { container } => {
                let message = format!("Started container {container}");
                if let Some(c) = self.find(&container) {
                    c.started(now);
                }
                self.event(false, "Started", message, Some(container));
            }
            Input::StartFailed { container, reason, message } => {
                if let Some(c) = self.find(&container) {
                    c.start_failed(now, reason, &message);
                }
                self.event(true, "Failed", format!("Error: {message}"), Some(container));
            }
            Input::Exited { container, code, signal, message } => {
                if let Some(c) = self.find(&container) {
                    c.exited(now, code, signal, message);
                }
            }
            Input::Probed { container, kind, run, failure } => {
                self.probed(now, &container, kind, run, failure)
            }
            Input::PreStopDone { container } => {
                if let Some(c) = self.find(&container) {
                    c.pre_stop_done();
                }
            }
        }
    }

    fn probed(&mut self, now: Timestamp, name: &str, kind: ProbeKind, run: u32, failure: Option<String>) {
        let grace = self.plan.grace;
        let terminating = self.deletion.is_some();
        let Some(c) = self.containers.iter_mut().find(|c| c.plan.name == name) else { return };
        let Some(verdict) = c.probed(now, kind, run, failure.as_deref()) else { return };
        if let Some(why) = failure {
            let message = format!("{} probe failed: {why}", kind.title());
            self.event(true, "Unhealthy", message, Some(name.to_string()));
        }
        if verdict == probe::Verdict::Restart && !terminating {
            let word = kind.title().to_lowercase();
            let message = format!("Container {name} failed {word} probe, will be restarted");
            self.event(false, "Killing", message, Some(name.to_string()));
            if let Some(c) = self.find(name) {
                let grace = c.plan.probes.get(&kind).and_then(|p| p.grace).unwrap_or(grace);
                c.stop(now, now + Duration::from_secs(grace.max(0).unsigned_abs()));
            }
        }
    }

    fn find(&mut self, name: &str) -> Option<&mut Container> {
        self.containers.iter_mut().find(|c| c.plan.name == name)
    }

    fn event(&mut self, warning: bool, reason: &'static str, message: String, container: Option<String>) {
        self.actions.push(Action::Event { warning, reason, message, container });
    }

    /// Whether the pod has ended by itself for good.
    fn terminal(&self) -> bool {
        matches!(self.phase(), "Succeeded" | "Failed")
    }

    fn drive(&mut self, now: Timestamp) {
        if let Some(deadline) = self.deletion.as_ref().map(|d| d.deadline) {
            self.drive_deletion(now, deadline);
        } else {
            if !self.terminal() {
                self.drive_start(now);
            }
            if self.terminal() {
                // Sidecars end when the rest has.
                self.stop_all(now, now + Duration::from_secs(self.plan.grace.max(0).unsigned_abs()), false);
                self.stop_sandbox_when_idle();
            }
        }
        for c in &mut self.containers {
            c.advance(now, self.sandbox == Sandbox::Ready && self.deletion.is_none(), &mut self.actions);
        }
        self.finish();
    }

    fn drive_start(&mut self, now: Timestamp) {
        match self.sandbox {
            Sandbox::Absent { retry_at, failures } if retry_at <= now && self.idle() => {
                self.sandbox = Sandbox::Creating { failures };
                self.actions.push(Action::StartSandbox);
            }
            Sandbox::Ready => {
                let policy = self.plan.restart_policy;
                for index in 0..self.containers.len() {
                    let is_init = self.containers[index].plan.kind != ContainerKind::Main;
                    self.containers[index].start_if_due(now, policy, &mut self.actions);
                    // Init containers run one after the other; a sidecar lets the next one go once it has started.
                    if is_init && !self.containers[index].init_done() {
                        break;
                    }
                }
            }
            _ => {}
        }
    }

    fn drive_deletion(&mut self, now: Timestamp, deadline: Timestamp) {
        self.stop_all(now, deadline, true);
        self.stop_sandbox_when_idle();
        if matches!(self.sandbox, Sandbox::Absent { .. }) && self.idle() {
            self.sandbox = Sandbox::Gone;
        }
    }

    /// Main containers first, sidecars when those have ended.
    fn stop_all(&mut self, now: Timestamp, deadline: Timestamp, announce: bool) {
        let main_alive = self.containers.iter().any(|c| c.plan.kind == ContainerKind::Main && c.alive());
        for index in 0..self.containers.len() {
            let c = &mut self.containers[index];
            if c.plan.kind == ContainerKind::Sidecar && main_alive {
                continue;
            }
            if c.stop(now, deadline) && announce {
                let name = c.plan.name.clone();
                self.event(false, "Killing", format!("Stopping container {name}"), Some(name));
            }
        }
    }

    fn stop_sandbox_when_idle(&mut self) {
        if self.sandbox == Sandbox::Ready && self.idle() {
            self.sandbox = Sandbox::Stopping;
            self.actions.push(Action::StopSandbox);
        }
    }

    /// No container has a process.
    fn idle(&self) -> bool {
        self.containers.iter().all(|c| !c.alive())
    }

    fn finish(&mut self) {
        let gone = self.sandbox == Sandbox::Gone && self.idle();
        if let Some(d) = &mut self.deletion
            && gone
            && !d.finalized
        {
            d.finalized = true;
            self.actions.push(Action::Finalize);
        }
    }

    /// Whether a container with this name has a process or is about to.
    pub fn alive(&self, container: &str) -> bool {
        self.containers.iter().any(|c| c.plan.name == container && c.alive())
    }

    /// The number of the run of a container that is in its status: the present one, or the last.
    pub fn run_of(&self, container: &str) -> Option<u32> {
        self.containers.iter().find(|c| c.plan.name == container && c.phase != Phase::Fresh).map(|c| c.run)
    }
}
