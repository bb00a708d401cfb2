//! Pods.

use serde_json::Value;

use super::{Columns, age, name, or_none, since};
use crate::apiserver::object::{at, int, is_terminating, list, text};

/// Columns of pods.
pub const POD: Columns = Columns::Builtin(
    &[
        ("Name", "string", 0),
        ("Ready", "string", 0),
        ("Status", "string", 0),
        ("Restarts", "string", 0),
        ("Age", "string", 0),
        ("IP", "string", 1),
        ("Node", "string", 1),
        ("Nominated Node", "string", 1),
        ("Readiness Gates", "string", 1),
    ],
    pod,
);

fn pod(o: &Value) -> Vec<Value> {
    let sidecars = list(o, "spec.initContainers").iter().filter(|c| c["restartPolicy"] == "Always").count();
    let total = list(o, "spec.containers").len() + sidecars;
    let statuses = list(o, "status.containerStatuses");
    let ready = statuses.iter().filter(|s| s["ready"] == true).count();
    vec![
        name(o),
        format!("{ready}/{total}").into(),
        status(o).into(),
        restarts(statuses).into(),
        age(o),
        or_none(o, "status.podIP"),
        or_none(o, "spec.nodeName"),
        or_none(o, "status.nominatedNodeName"),
        gates(o).into(),
    ]
}

fn restarts(statuses: &[Value]) -> String {
    let total: i64 = statuses.iter().filter_map(|s| int(s, "restartCount")).sum();
    let last = statuses.iter().map(|s| text(s, "lastState.terminated.finishedAt")).max().unwrap_or("");
    if total > 0 && !last.is_empty() { format!("{total} ({} ago)", since(last)) } else { total.to_string() }
}

fn gates(o: &Value) -> String {
    let gates = list(o, "spec.readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let met = gates
        .iter()
        .filter(|g| {
            list(o, "status.conditions")
                .iter()
                .any(|c| c["type"] == g["conditionType"] && c["status"] == "True")
        })
        .count();
    format!("{met}/{}", gates.len())
}

/// The one word that says what a pod is doing, as Kubernetes' printer finds it.
fn status(o: &Value) -> String {
    let mut reason = text(o, "status.phase").to_string();
    if !text(o, "status.reason").is_empty() {
        reason = text(o, "status.reason").to_string();
    }
    if list(o, "status.conditions")
        .iter()
        .any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated")
    {
        reason = "SchedulingGated".into();
    }
    let mut initializing = false;
    let inits = list(o, "status.initContainerStatuses");
    for (i, s) in inits.iter().enumerate() {
        let restartable = list(o, "spec.initContainers")
            .iter()
            .any(|c| c["name"] == s["name"] && c["restartPolicy"] == "Always");
        if int(s, "state.terminated.exitCode") == Some(0) || (restartable && s["started"] == true) {
            continue;
        }
        reason = match (at(s, "state.terminated"), text(s, "state.waiting.reason")) {
            (Some(t), _) => format!("Init:{}", terminated(t)),
            (None, w) if !w.is_empty() && w != "PodInitializing" => format!("Init:{w}"),
            _ => format!("Init:{i}/{}", list(o, "spec.initContainers").len()),
        };
        initializing = true;
        break;
    }
    if !initializing {
        let mut running = false;
        for s in list(o, "status.containerStatuses").iter().rev() {
            let waiting = text(s, "state.waiting.reason");
            if !waiting.is_empty() {
                reason = waiting.to_string();
            } else if let Some(t) = at(s, "state.terminated") {
                reason = terminated(t);
            } else if s["ready"] == true && at(s, "state.running").is_some() {
                running = true;
            }
        }
        if reason == "Completed" && running {
            let ready =
                list(o, "status.conditions").iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
            reason = if ready { "Running".into() } else { "NotReady".into() };
        }
    }
    if is_terminating(o) {
        let done = matches!(text(o, "status.phase"), "Failed" | "Succeeded");
        reason = match text(o, "status.reason") {
            "NodeLost" => "Unknown".into(),
            _ if done => reason,
            _ => "Terminating".into(),
        };
    }
    reason
}

fn terminated(t: &Value) -> String {
    match (text(t, "reason"), int(t, "signal").unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", int(t, "exitCode").unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_string(),
    }
}
