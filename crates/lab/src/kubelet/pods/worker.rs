//! One pod: owns its state machine, carries out what it asks for and feeds back what happened. Anything that takes time
//! runs in a task of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::record::{ContainerRecord, PodRecord};
use super::sandbox::{self, Sandbox};
use super::start::{self, Running};
use super::volumes::Volumes;
use super::{Order, PodId, Shared, record, status};
use crate::kubelet::machine::{Action, Input, PodMachine, PodPlan};
use crate::kubelet::probes::{self, Target};
use crate::kubelet::process::cgroup;

/// Grace period of a pod that vanished from the API without being asked to end.
const VANISHED_GRACE: i64 = 1;

/// What tasks report.
enum Report {
    Happened(Input),
    Sandbox(Result<Sandbox, sandbox::Failure>),
    SandboxExited(String),
    Container { name: String, result: Result<Box<Running>, start::Failure> },
    Exited { name: String, run: u32, input: Input },
    Finished,
}

struct Worker {
    shared: Arc<Shared>,
    id: PodId,
    pod: watch::Sender<Arc<Pod>>,
    volumes: Arc<Volumes>,
    machine: PodMachine,
    reports: mpsc::UnboundedSender<Report>,
    status: watch::Sender<Value>,
    sandbox: Option<Sandbox>,
    running: BTreeMap<String, Running>,
    /// Ends that were reported before the start was.
    early: BTreeMap<String, (u32, Input)>,
    refresh: Option<tokio::task::JoinHandle<()>>,
}

/// Runs a pod until nothing of it is left; returns its uid.
pub(super) async fn run(
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    mut orders: mpsc::UnboundedReceiver<Order>,
) -> String {
    let id = PodId::of(&pod);
    let now = Timestamp::now();
    let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
    let plan = PodPlan::of(&pod, shared.config.node_ips().iter().map(ToString::to_string).collect());
    shared.logs.add(&id.namespace, &id.name, &id.uid, plan.containers.iter().map(|c| c.name.clone()));
    let (pod_sender, pod_receiver) = watch::channel(pod.clone());
    let (status, statuses) = watch::channel(Value::Null);
    let publisher = tokio::spawn(status::publish(shared.config.client.clone(), id.clone(), statuses));
    let (reports, mut inbox) = mpsc::unbounded_channel();
    let mut worker = Worker {
        volumes: Arc::new(Volumes::new(shared.clone(), pod_receiver)),
        machine: PodMachine::new(plan, now, started),
        shared,
        id: id.clone(),
        pod: pod_sender,
        reports,
        status,
        sandbox: None,
        running: BTreeMap::new(),
        early: BTreeMap::new(),
        refresh: None,
    };
    worker.ordered(Order::Pod(pod));
    loop {
        worker.publish();
        let until = worker.machine.wakeup().map(|at| {
            let wait = at.duration_since(Timestamp::now());
            Duration::try_from(wait).unwrap_or_default()
        });
        tokio::select! {
            order = orders.recv() => match order {
                Some(order) => worker.ordered(order),
                // The kubelet is ending: so do the processes.
                None => break,
            },
            Some(report) = inbox.recv() => {
                if matches!(report, Report::Finished) {
                    break;
                }
                worker.reported(report);
            }
            () = tokio::time::sleep(until.unwrap_or(Duration::MAX)), if until.is_some() => {
                let actions = worker.machine.advance(Timestamp::now());
                worker.carry_out(actions);
            }
        }
    }
    publisher.abort();
    if let Some(refresh) = worker.refresh.take() {
        refresh.abort();
    }
    id.uid
}

impl Worker {
    fn ordered(&mut self, order: Order) {
        match order {
            Order::Pod(pod) => {
                let grace = pod.metadata.deletion_timestamp.as_ref().map(|at| {
                    // The time in the object includes the grace period; what is left of it counts.
                    let left = at.0.duration_since(Timestamp::now()).as_secs();
                    left.clamp(0, pod.metadata.deletion_grace_period_seconds.unwrap_or(30).max(0))
                });
                self.pod.send_replace(pod);
                match grace {
                    Some(grace) => self.input(Input::Delete { grace }),
                    None => {
                        let actions = self.machine.advance(Timestamp::now());
                        self.carry_out(actions);
                    }
                }
            }
            Order::Gone => self.input(Input::Delete { grace: VANISHED_GRACE }),
        }
    }

    fn reported(&mut self, report: Report) {
        match report {
            Report::Happened(input) => self.input(input),
            Report::Sandbox(Ok(sandbox)) => {
                let ips = sandbox.ips.clone();
                self.sandbox = Some(sandbox);
                if self.refresh.is_none() {
                    self.refresh = Some(tokio::spawn(self.volumes.clone().keep_fresh()));
                }
                self.record();
                self.input(Input::SandboxReady { ips });
            }
            Report::Sandbox(Err(f)) => {
                self.input(Input::SandboxFailed { reason: f.reason, message: f.message, retry: f.retry });
            }
            Report::SandboxExited(sandbox) => {
                if self.sandbox.as_ref().is_some_and(|s| s.id == sandbox) {
                    self.input(Input::SandboxDied);
                }
            }
            Report::Container { name, result: Ok(running) } => {
                let (run, hook) = (
                    running.run,
                    running.container.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some()),
                );
                self.running.insert(name.clone(), *running);
                self.record();
                self.input(Input::Started { container: name.clone() });
                if hook {
                    self.post_start(&name);
                }
                if let Some((ended, input)) = self.early.remove(&name)
                    && ended == run
                {
                    self.exited(&name, input);
                }
            }
            Report::Container { name, result: Err((reason, message)) } => {
                self.input(Input::StartFailed { container: name, reason, message });
            }
            Report::Exited { name, run, input } => {
                if self.running.get(&name).is_some_and(|r| r.run == run) {
                    self.exited(&name, input);
                } else {
                    self.early.insert(name, (run, input));
                }
            }
            Report::Finished => {}
        }
    }

    fn exited(&mut self, name: &str, input: Input) {
        self.running.remove(name);
        self.record();
        self.input(input);
    }

    fn input(&mut self, input: Input) {
        let actions = self.machine.handle(Timestamp::now(), input);
        self.carry_out(actions);
    }

    fn publish(&mut self) {
        // What is left to say about a pod that is gone interests nobody.
        if self.machine.finished() {
            return;
        }
        let status = self.machine.status(Timestamp::now());
        let mut status = serde_json::to_value(status).unwrap_or_default();
        status::keep_foreign(&mut status, &self.pod.borrow());
        self.status.send_if_modified(|old| {
            let changed = *old != status;
            *old = status;
            changed
        });
    }

    fn record(&self) {
        let config = &self.shared.config;
        let containers = self.running.iter().map(|(name, r)| ContainerRecord {
            name: name.clone(),
            pid: r.exec.pid,
            cgroup: r.exec.cgroup.strip_prefix(&config.cgroup).unwrap_or(&r.exec.cgroup).into(),
            log: r.log.strip_prefix(&config.record_dir).unwrap_or(&r.log).into(),
            env: r.exec.env.clone(),
        });
        let record = PodRecord {
            namespace: self.id.namespace.clone(),
            name: self.id.name.clone(),
            uid: self.id.uid.clone(),
            sandbox_pid: self.sandbox.as_ref().and_then(|s| s.pid).unwrap_or(0),
            containers: containers.collect(),
        };
        record::write(&config.record_dir, &self.id, &record);
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::StartSandbox => self.start_sandbox(),
            Action::Start { container, run } => self.start_container(container, run),
            Action::Probe { container, kind, run } => {
                let Some(target) = self.target(&container) else { return };
                let (spawner, reports) = (self.shared.spawner.clone(), self.reports.clone());
                tokio::spawn(async move {
                    let failure = probes::probe(&spawner, &target, kind).await;
                    let _ = reports.send(Report::Happened(Input::Probed { container, kind, run, failure }));
                });
            }
            Action::PreStop { container } => self.pre_stop(container),
            Action::Terminate { container } => {
                if let Some(r) = self.running.get(&container) {
                    // SAFETY: no pointers. The process is reaped only after its end was reported to us.
                    unsafe { libc::kill(r.exec.pid as i32, libc::SIGTERM) };
                }
            }
            Action::Kill { container } => {
                if let Some(r) = self.running.get(&container) {
                    cgroup::kill(&r.exec.cgroup);
                }
            }
            Action::StopSandbox => self.stop_sandbox(),
            Action::Finalize => self.finalize(),
            Action::Event { warning, reason, message, container } => {
                self.shared.events.tell(&self.id.about(), container.as_deref(), warning, reason, &message);
            }
        }
    }

    fn target(&self, container: &str) -> Option<Target> {
        let r = self.running.get(container)?;
        let host = self.sandbox.as_ref()?.ips.first()?.to_string();
        Some(Target { host, container: r.container.clone(), exec: r.exec.clone() })
    }

    fn start_sandbox(&self) {
        let (shared, reports, volumes) = (self.shared.clone(), self.reports.clone(), self.volumes.clone());
        let pod = self.pod.borrow().clone();
        tokio::spawn(async move {
            let (sandbox, process) = match sandbox::create(&shared, &pod, &volumes).await {
                Ok(made) => made,
                Err(failure) => {
                    let _ = reports.send(Report::Sandbox(Err(failure)));
                    return;
                }
            };
            let id = sandbox.id.clone();
            let _ = reports.send(Report::Sandbox(Ok(sandbox)));
            if let Some(process) = process {
                let _ = process.wait().await;
                let _ = reports.send(Report::SandboxExited(id));
            }
        });
    }

    fn start_container(&self, name: String, run: u32) {
        let Some(sandbox) = self.sandbox.clone() else { return };
        let (shared, reports, pod) = (self.shared.clone(), self.reports.clone(), self.pod.borrow().clone());
        tokio::spawn(async move {
            let (ends, container) = (reports.clone(), name.clone());
            let ended = move |exit: crate::kubelet::process::Exit, message: String| {
                let input = Input::Exited {
                    container: container.clone(),
                    code: exit.code,
                    signal: exit.signal,
                    message,
                };
                let _ = ends.send(Report::Exited { name: container, run, input });
            };
            let result = start::start(&shared, &pod, &sandbox, &name, run, ended).await.map(Box::new);
            let _ = reports.send(Report::Container { name, result });
        });
    }

    fn pre_stop(&self, container: String) {
        let Some(target) = self.target(&container) else { return };
        let (shared, reports, about) = (self.shared.clone(), self.reports.clone(), self.id.about());
        // The machine sends SIGTERM when the grace period is over, whether or not the hook is.
        let grace =
            self.pod.borrow().spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
        let patience = Duration::from_secs(grace.max(1).unsigned_abs());
        tokio::spawn(async move {
            if let Err(why) = probes::hook(&shared.spawner, &target, |l| l.pre_stop.as_ref(), patience).await
            {
                shared.events.tell(
                    &about,
                    Some(&container),
                    true,
                    "FailedPreStopHook",
                    &format!("PreStopHook failed: {why}"),
                );
            }
            let _ = reports.send(Report::Happened(Input::PreStopDone { container }));
        });
    }

    fn post_start(&self, container: &str) {
        let Some(target) = self.target(container) else { return };
        let (shared, about, container) = (self.shared.clone(), self.id.about(), container.to_string());
        tokio::spawn(async move {
            let patience = Duration::from_secs(60);
            if let Err(why) =
                probes::hook(&shared.spawner, &target, |l| l.post_start.as_ref(), patience).await
            {
                shared.events.tell(
                    &about,
                    Some(&container),
                    true,
                    "FailedPostStartHook",
                    &format!("PostStartHook failed: {why}"),
                );
                // As Kubernetes does: a container whose hook failed is killed and restarted by its policy.
                cgroup::kill(&target.exec.cgroup);
            }
        });
    }

    fn stop_sandbox(&mut self) {
        let Some(sandbox) = self.sandbox.take() else {
            let _ = self.reports.send(Report::Happened(Input::SandboxGone));
            return;
        };
        self.record();
        let (shared, reports, about) = (self.shared.clone(), self.reports.clone(), self.id.about());
        let pod = self.pod.borrow().clone();
        tokio::spawn(async move {
            let complain = |why: &str| shared.events.tell(&about, None, true, "FailedKillPod", why);
            sandbox::remove(&shared, &pod, &sandbox, complain).await;
            let _ = reports.send(Report::Happened(Input::SandboxGone));
        });
    }

    fn finalize(&mut self) {
        if let Some(refresh) = self.refresh.take() {
            refresh.abort();
        }
        let (shared, reports, id) = (self.shared.clone(), self.reports.clone(), self.id.clone());
        tokio::spawn(async move {
            let dir = shared.pod_cgroup(&id.uid);
            if let Err(error) = cgroup::remove(&dir, Duration::from_secs(10)).await {
                tracing::warn!(path = %dir.display(), %error, "cgroup of a pod not removed");
            }
            record::remove(&shared.config.record_dir, &id);
            let _ = std::fs::remove_dir_all(shared.pod_dir(&id.uid));
            status::delete(shared.config.client.clone(), &id).await;
            shared.logs.remove(&id.namespace, &id.name, &id.uid);
            tracing::info!(namespace = id.namespace, pod = id.name, "pod removed");
            let _ = reports.send(Report::Finished);
        });
    }
}
