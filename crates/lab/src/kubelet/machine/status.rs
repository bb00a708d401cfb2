//! The pod's status as Kubernetes shows it.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::backoff::show;
use super::container::{Container, Ended, Phase};
use super::{ContainerKind, PodMachine, Sandbox};

/// A pod condition and since when it is so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    kind: &'static str,
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
    since: Timestamp,
}

impl PodMachine {
    /// `status.phase`.
    pub fn phase(&self) -> &'static str {
        let of =
            |init: bool| self.containers.iter().filter(move |c| (c.plan.kind == ContainerKind::Init) == init);
        let main = || of(false).filter(|c| c.plan.kind == ContainerKind::Main);
        if of(true).any(Container::failed) {
            return "Failed";
        }
        if main().all(|c| c.succeeded() || c.failed()) {
            return if main().any(Container::failed) { "Failed" } else { "Succeeded" };
        }
        if main().any(|c| c.last.is_some() || matches!(c.phase, Phase::Running { .. })) {
            "Running"
        } else {
            "Pending"
        }
    }

    /// The whole status. Times of conditions are remembered between calls, hence `&mut`.
    pub fn status(&mut self, now: Timestamp) -> PodStatus {
        self.conditions(now);
        let statuses = |init: bool| {
            let list: Vec<ContainerStatus> = self
                .containers
                .iter()
                .filter(|c| (c.plan.kind != ContainerKind::Main) == init)
                .map(|c| self.container_status(c))
                .collect();
            (!list.is_empty()).then_some(list)
        };
        let ips: Vec<String> = self.ips.iter().map(ToString::to_string).collect();
        let conditions = self.conditions.iter().map(|c| PodCondition {
            type_: c.kind.into(),
            status: if c.status { "True" } else { "False" }.into(),
            reason: c.reason.map(Into::into),
            message: c.message.clone(),
            last_transition_time: Some(Time(whole(c.since))),
            observed_generation: None,
            last_probe_time: None,
        });
        PodStatus {
            phase: Some(self.phase().into()),
            conditions: Some(conditions.collect()),
            host_ip: self.plan.host_ips.first().cloned(),
            host_ips: Some(self.plan.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
            pod_ip: ips.first().cloned(),
            pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
            start_time: Some(Time(whole(self.started))),
            qos_class: Some(self.plan.qos.clone()),
            init_container_statuses: statuses(true),
            container_statuses: statuses(false),
            ..PodStatus::default()
        }
    }

    fn conditions(&mut self, now: Timestamp) {
        let names = |list: Vec<&Container>| -> String {
            let names: Vec<&str> = list.iter().map(|c| c.plan.name.as_str()).collect();
            names.join(" ")
        };
        let main: Vec<&Container> =
            self.containers.iter().filter(|c| c.plan.kind == ContainerKind::Main).collect();
        let waiting: Vec<&Container> = self
            .containers
            .iter()
            .filter(|c| c.plan.kind != ContainerKind::Main && !c.init_done() && self.sandbox != Sandbox::Gone)
            .collect();
        let serving = self.sandbox == Sandbox::Ready && self.deletion.is_none();
        let succeeded = self.phase() == "Succeeded";
        let unready: Vec<&Container> = main.into_iter().filter(|c| !(c.ready() && serving)).collect();
        let ready = unready.is_empty() && waiting.is_empty();
        let why_unready = || {
            if ready {
                (None, None)
            } else if succeeded {
                (Some("PodCompleted"), None)
            } else {
                (
                    Some("ContainersNotReady"),
                    Some(format!("containers with unready status: [{}]", names(unready.clone()))),
                )
            }
        };
        let initialized = waiting.is_empty();
        let why_not_initialized = if initialized {
            (None, None)
        } else {
            (
                Some("ContainersNotInitialized"),
                Some(format!("containers with incomplete status: [{}]", names(waiting.clone()))),
            )
        };
        let wanted = [
            ("PodReadyToStartContainers", self.sandbox == Sandbox::Ready, (None, None)),
            ("Initialized", initialized, why_not_initialized),
            ("Ready", ready, why_unready()),
            ("ContainersReady", ready, why_unready()),
            ("PodScheduled", true, (None, None)),
        ];
        self.conditions = wanted
            .into_iter()
            .map(|(kind, status, (reason, message))| {
                let before = self.conditions.iter().find(|c| c.kind == kind && c.status == status);
                let since =
                    before.map_or(if kind == "PodScheduled" { self.started } else { now }, |c| c.since);
                Condition { kind, status, reason, message, since }
            })
            .collect();
    }

    fn container_status(&self, c: &Container) -> ContainerStatus {
        let state = self.state(c);
        let ended_before = !matches!(c.phase, Phase::Ended { restart_at: None });
        let last = c.last.as_ref().filter(|_| ended_before).map(|e| self.terminated(c, e));
        let image = &c.plan.image;
        // An init container that has done its work counts as ready.
        let ready = match c.plan.kind {
            ContainerKind::Init => c.succeeded(),
            _ => c.ready() && self.deletion.is_none(),
        };
        ContainerStatus {
            name: c.plan.name.clone(),
            image: image.clone(),
            image_id: if image.is_empty() { String::new() } else { format!("causeway-lab://{image}") },
            ready,
            started: Some(c.has_started()),
            restart_count: i32::try_from(c.run).unwrap_or(i32::MAX),
            container_id: (c.phase != Phase::Fresh && c.last.is_some()
                || matches!(c.phase, Phase::Running { .. }))
            .then(|| self.container_id(c, c.run)),
            state: Some(state),
            last_state: Some(last.unwrap_or_default()),
            ..ContainerStatus::default()
        }
    }

    fn container_id(&self, c: &Container, run: u32) -> String {
        format!("causeway-lab://{}/{}/{run}", self.plan.uid, c.plan.name)
    }

    fn state(&self, c: &Container) -> ContainerState {
        let waiting = |reason: &str, message: Option<String>| ContainerState {
            waiting: Some(ContainerStateWaiting { reason: Some(reason.into()), message }),
            ..ContainerState::default()
        };
        match &c.phase {
            Phase::Running { started } => ContainerState {
                running: Some(ContainerStateRunning { started_at: Some(Time(whole(*started))) }),
                ..ContainerState::default()
            },
            Phase::Failing { reason, message, .. } => waiting(reason, Some(message.clone())),
            Phase::Ended { restart_at: None } => match &c.last {
                Some(ended) => self.terminated(c, ended),
                None => waiting("ContainerCreating", None),
            },
            Phase::Ended { restart_at: Some(_) } => {
                let pause = show(c.backoff.pause());
                let (name, pod) = (&c.plan.name, &self.plan.title);
                let message = format!("back-off {pause} restarting failed container={name} pod={pod}");
                waiting("CrashLoopBackOff", Some(message))
            }
            Phase::Fresh | Phase::Starting { .. } => {
                let first_init = self.containers.iter().position(|c| !c.init_done());
                let own = self.containers.iter().position(|o| std::ptr::eq(o, c));
                let held_back = first_init.is_some_and(|f| own.is_some_and(|o| f < o));
                waiting(if held_back { "PodInitializing" } else { "ContainerCreating" }, None)
            }
        }
    }

    fn terminated(&self, c: &Container, e: &Ended) -> ContainerState {
        ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: e.code,
                signal: e.signal,
                reason: Some(if e.code == 0 { "Completed" } else { "Error" }.into()),
                message: (!e.message.is_empty()).then(|| e.message.clone()),
                started_at: Some(Time(whole(e.started))),
                finished_at: Some(Time(whole(e.finished))),
                container_id: Some(self.container_id(c, e.run)),
            }),
            ..ContainerState::default()
        }
    }
}

/// Times of the API have whole seconds.
fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
