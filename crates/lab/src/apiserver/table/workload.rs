//! Deployments, replica sets, daemon sets, stateful sets, jobs and their kin.

use serde_json::Value;

use super::{Columns, age, name, selector_text, since};
use crate::apiserver::object::{at, int, list, text};

fn count(o: &Value, path: &str) -> Value {
    int(o, path).unwrap_or(0).into()
}

fn joined(o: &Value, field: &str) -> Value {
    let all: Vec<&str> =
        list(o, "spec.template.spec.containers").iter().filter_map(|c| c[field].as_str()).collect();
    all.join(",").into()
}

fn selector(o: &Value) -> Value {
    selector_text(at(o, "spec.selector")).into()
}

/// Columns of deployments.
pub const DEPLOYMENT: Columns = Columns::Builtin(
    &[
        ("Name", "string", 0),
        ("Ready", "string", 0),
        ("Up-to-date", "string", 0),
        ("Available", "string", 0),
        ("Age", "string", 0),
        ("Containers", "string", 1),
        ("Images", "string", 1),
        ("Selector", "string", 1),
    ],
    |o| {
        let ready = format!(
            "{}/{}",
            int(o, "status.readyReplicas").unwrap_or(0),
            int(o, "spec.replicas").unwrap_or(0)
        );
        vec![
            name(o),
            ready.into(),
            count(o, "status.updatedReplicas"),
            count(o, "status.availableReplicas"),
            age(o),
            joined(o, "name"),
            joined(o, "image"),
            selector(o),
        ]
    },
);

/// Columns of replica sets.
pub const REPLICA_SET: Columns = Columns::Builtin(
    &[
        ("Name", "string", 0),
        ("Desired", "integer", 0),
        ("Current", "integer", 0),
        ("Ready", "integer", 0),
        ("Age", "string", 0),
        ("Containers", "string", 1),
        ("Images", "string", 1),
        ("Selector", "string", 1),
    ],
    |o| {
        vec![
            name(o),
            count(o, "spec.replicas"),
            count(o, "status.replicas"),
            count(o, "status.readyReplicas"),
            age(o),
            joined(o, "name"),
            joined(o, "image"),
            selector(o),
        ]
    },
);

/// Columns of daemon sets.
pub const DAEMON_SET: Columns = Columns::Builtin(
    &[
        ("Name", "string", 0),
        ("Desired", "integer", 0),
        ("Current", "integer", 0),
        ("Ready", "integer", 0),
        ("Up-to-date", "integer", 0),
        ("Available", "integer", 0),
        ("Node Selector", "string", 0),
        ("Age", "string", 0),
        ("Containers", "string", 1),
        ("Images", "string", 1),
        ("Selector", "string", 1),
    ],
    |o| {
        vec![
            name(o),
            count(o, "status.desiredNumberScheduled"),
            count(o, "status.currentNumberScheduled"),
            count(o, "status.numberReady"),
            count(o, "status.updatedNumberScheduled"),
            count(o, "status.numberAvailable"),
            super::map_text(at(o, "spec.template.spec.nodeSelector")).into(),
            age(o),
            joined(o, "name"),
            joined(o, "image"),
            selector(o),
        ]
    },
);

/// Columns of stateful sets.
pub const STATEFUL_SET: Columns = Columns::Builtin(
    &[
        ("Name", "string", 0),
        ("Ready", "string", 0),
        ("Age", "string", 0),
        ("Containers", "string", 1),
        ("Images", "string", 1),
    ],
    |o| {
        let ready = format!(
            "{}/{}",
            int(o, "status.readyReplicas").unwrap_or(0),
            int(o, "spec.replicas").unwrap_or(0)
        );
        vec![name(o), ready.into(), age(o), joined(o, "name"), joined(o, "image")]
    },
);

/// Columns of controller revisions.
pub const CONTROLLER_REVISION: Columns = Columns::Builtin(
    &[("Name", "string", 0), ("Controller", "string", 0), ("Revision", "string", 0), ("Age", "string", 0)],
    |o| {
        let owner = list(o, "metadata.ownerReferences").iter().find(|r| r["controller"] == true);
        let owner = owner.map_or("<none>".to_string(), |r| {
            let (api, kind) = (text(r, "apiVersion"), text(r, "kind").to_lowercase());
            let group = api.split_once('/').map_or("", |(g, _)| g);
            let dot = if group.is_empty() { "" } else { "." };
            format!("{kind}{dot}{group}/{}", text(r, "name"))
        });
        vec![name(o), owner.into(), count(o, "revision"), age(o)]
    },
);

/// Columns of jobs.
pub const JOB: Columns = Columns::Builtin(
    &[
        ("Name", "string", 0),
        ("Status", "string", 0),
        ("Completions", "string", 0),
        ("Duration", "string", 0),
        ("Age", "string", 0),
        ("Containers", "string", 1),
        ("Images", "string", 1),
        ("Selector", "string", 1),
    ],
    |o| {
        let has =
            |t: &str| list(o, "status.conditions").iter().any(|c| c["type"] == t && c["status"] == "True");
        let status = ["Complete", "Failed", "Suspended", "FailureTarget", "SuccessCriteriaMet"]
            .into_iter()
            .find(|t| has(t))
            .unwrap_or("Running");
        let done = int(o, "status.succeeded").unwrap_or(0);
        let want = int(o, "spec.completions").unwrap_or(1);
        let (start, end) = (text(o, "status.startTime"), text(o, "status.completionTime"));
        let seconds = |t: &str| t.parse::<jiff::Timestamp>().map(|t| t.as_second());
        let duration = match (seconds(start), seconds(end)) {
            (Ok(a), Ok(b)) => super::human_duration(b - a),
            (Ok(_), Err(_)) => since(start),
            _ => String::new(),
        };
        vec![
            name(o),
            status.into(),
            format!("{done}/{want}").into(),
            duration.into(),
            age(o),
            joined(o, "name"),
            joined(o, "image"),
            selector(o),
        ]
    },
);

/// Columns of disruption budgets.
pub const POD_DISRUPTION_BUDGET: Columns = Columns::Builtin(
    &[
        ("Name", "string", 0),
        ("Min Available", "string", 0),
        ("Max Unavailable", "string", 0),
        ("Allowed Disruptions", "integer", 0),
        ("Age", "string", 0),
    ],
    |o| {
        let show = |p: &str| match at(o, p) {
            Some(Value::String(s)) => Value::from(s.as_str()),
            Some(v) => Value::from(v.to_string()),
            None => Value::from("N/A"),
        };
        vec![
            name(o),
            show("spec.minAvailable"),
            show("spec.maxUnavailable"),
            count(o, "status.disruptionsAllowed"),
            age(o),
        ]
    },
);
