//! What the machine needs to know of a pod's specification.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::core::v1::Pod;

use super::ProbeKind;

/// `restartPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever the exit code.
    Always,
    /// After a non-zero exit code.
    OnFailure,
    /// Never.
    Never,
}

/// What a container is in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerKind {
    /// Runs to completion before those after it.
    Init,
    /// An init container with `restartPolicy: Always`: runs beside the others and ends after them.
    Sidecar,
    /// A container of the pod.
    Main,
}

/// A probe's schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbePlan {
    /// Seconds after the start of the container.
    pub initial_delay: i64,
    /// Seconds between probes.
    pub period: i64,
    /// Successes in a row that count.
    pub successes: i64,
    /// Failures in a row that count.
    pub failures: i64,
    /// Grace period in seconds for a restart, if not the pod's.
    pub grace: Option<i64>,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPlan {
    /// Its name.
    pub name: String,
    /// Its image, for the status.
    pub image: String,
    /// What it is.
    pub kind: ContainerKind,
    /// Its probes.
    pub probes: BTreeMap<ProbeKind, ProbePlan>,
    /// Whether it has a preStop hook.
    pub pre_stop: bool,
    /// Restarts before this kubelet knew it.
    pub restarts: u32,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPlan {
    /// `namespace/name`-like text for messages: `name_namespace(uid)`.
    pub title: String,
    /// Uid.
    pub uid: String,
    /// Containers in starting order: init containers, then the others.
    pub containers: Vec<ContainerPlan>,
    /// Restart policy of init and main containers.
    pub restart_policy: RestartPolicy,
    /// `terminationGracePeriodSeconds`.
    pub grace: i64,
    /// Addresses of the node, the primary first.
    pub host_ips: Vec<String>,
    /// `qosClass`.
    pub qos: String,
    /// `metadata.generation`.
    pub generation: Option<i64>,
}

impl PodPlan {
    /// From a pod of the API. Restart counts of an earlier kubelet go on.
    pub fn of(pod: &Pod, host_ips: Vec<String>) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let status = pod.status.clone().unwrap_or_default();
        let before: BTreeMap<String, u32> = status
            .init_container_statuses
            .iter()
            .chain(&status.container_statuses)
            .flatten()
            .map(|s| {
                let ran = s.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some());
                (s.name.clone(), u32::try_from(s.restart_count).unwrap_or(0) + u32::from(ran))
            })
            .collect();
        let plan = |c: &core::Container, init: bool| ContainerPlan {
            name: c.name.clone(),
            image: c.image.clone().unwrap_or_default(),
            kind: match (init, c.restart_policy.as_deref()) {
                (true, Some("Always")) => ContainerKind::Sidecar,
                (true, _) => ContainerKind::Init,
                (false, _) => ContainerKind::Main,
            },
            probes: probes(c),
            pre_stop: c.lifecycle.as_ref().is_some_and(|l| l.pre_stop.is_some()),
            restarts: before.get(&c.name).copied().unwrap_or(0),
        };
        let init = spec.init_containers.iter().flatten().map(|c| plan(c, true));
        let containers = init.chain(spec.containers.iter().map(|c| plan(c, false))).collect();
        let meta = &pod.metadata;
        let uid = meta.uid.clone().unwrap_or_default();
        let (ns, name) = (meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""));
        PodPlan {
            title: format!("{name}_{ns}({uid})"),
            uid,
            containers,
            restart_policy: match spec.restart_policy.as_deref() {
                Some("Never") => RestartPolicy::Never,
                Some("OnFailure") => RestartPolicy::OnFailure,
                _ => RestartPolicy::Always,
            },
            grace: spec.termination_grace_period_seconds.unwrap_or(30),
            host_ips,
            qos: status.qos_class.unwrap_or_else(|| "BestEffort".into()),
            generation: meta.generation,
        }
    }
}

fn probes(c: &core::Container) -> BTreeMap<ProbeKind, ProbePlan> {
    [
        (ProbeKind::Startup, &c.startup_probe),
        (ProbeKind::Liveness, &c.liveness_probe),
        (ProbeKind::Readiness, &c.readiness_probe),
    ]
    .into_iter()
    .filter_map(|(kind, probe)| {
        let p = probe.as_ref()?;
        let or = |v: Option<i32>, default: i32| i64::from(v.unwrap_or(default));
        let plan = ProbePlan {
            initial_delay: or(p.initial_delay_seconds, 0),
            period: or(p.period_seconds, 10).max(1),
            successes: or(p.success_threshold, 1).max(1),
            failures: or(p.failure_threshold, 3).max(1),
            grace: p.termination_grace_period_seconds,
        };
        Some((kind, plan))
    })
    .collect()
}
