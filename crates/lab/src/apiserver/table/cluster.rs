//! Nodes, namespaces, configuration, accounts, roles, leases and events.

use serde_json::Value;

use super::{Columns, age, name, or_none, since};
use crate::apiserver::object::{at, int, list, text};

/// Columns of nodes.
pub const NODE: Columns = Columns::Builtin(
    &[
        ("Name", "string", 0),
        ("Status", "string", 0),
        ("Roles", "string", 0),
        ("Age", "string", 0),
        ("Version", "string", 0),
        ("Internal-IP", "string", 1),
        ("External-IP", "string", 1),
        ("OS-Image", "string", 1),
        ("Kernel-Version", "string", 1),
        ("Container-Runtime", "string", 1),
    ],
    |o| {
        let ready = list(o, "status.conditions").iter().find(|c| c["type"] == "Ready");
        let mut status = match ready.map(|c| text(c, "status")) {
            Some("True") => "Ready".to_string(),
            Some("False" | "Unknown") => "NotReady".to_string(),
            _ => "Unknown".to_string(),
        };
        if o["spec"]["unschedulable"] == true {
            status.push_str(",SchedulingDisabled");
        }
        let labels = at(o, "metadata.labels").and_then(Value::as_object);
        let mut roles: Vec<&str> = labels
            .into_iter()
            .flatten()
            .filter_map(|(k, v)| match k.strip_prefix("node-role.kubernetes.io/") {
                Some(role) if !role.is_empty() => Some(role),
                _ if k == "kubernetes.io/role" => v.as_str(),
                _ => None,
            })
            .collect();
        roles.sort_unstable();
        let address = |kind: &str| {
            list(o, "status.addresses")
                .iter()
                .find(|a| a["type"] == kind)
                .map_or("<none>".into(), |a| a["address"].clone())
        };
        let info = |f: &str| match text(o, &format!("status.nodeInfo.{f}")) {
            "" => Value::from("<unknown>"),
            t => Value::from(t),
        };
        vec![
            name(o),
            status.into(),
            if roles.is_empty() { "<none>".into() } else { roles.join(",").into() },
            age(o),
            text(o, "status.nodeInfo.kubeletVersion").into(),
            address("InternalIP"),
            address("ExternalIP"),
            info("osImage"),
            info("kernelVersion"),
            info("containerRuntimeVersion"),
        ]
    },
);

/// Columns of namespaces.
pub const NAMESPACE: Columns =
    Columns::Builtin(&[("Name", "string", 0), ("Status", "string", 0), ("Age", "string", 0)], |o| {
        vec![name(o), text(o, "status.phase").into(), age(o)]
    });

fn keys(o: &Value, fields: &[&str]) -> Value {
    fields.iter().filter_map(|f| o[f].as_object()).map(serde_json::Map::len).sum::<usize>().into()
}

/// Columns of config maps.
pub const CONFIG_MAP: Columns =
    Columns::Builtin(&[("Name", "string", 0), ("Data", "string", 0), ("Age", "string", 0)], |o| {
        vec![name(o), keys(o, &["data", "binaryData"]), age(o)]
    });

/// Columns of secrets.
pub const SECRET: Columns = Columns::Builtin(
    &[("Name", "string", 0), ("Type", "string", 0), ("Data", "string", 0), ("Age", "string", 0)],
    |o| vec![name(o), o["type"].clone(), keys(o, &["data"]), age(o)],
);

/// Columns of service accounts.
pub const SERVICE_ACCOUNT: Columns =
    Columns::Builtin(&[("Name", "string", 0), ("Secrets", "string", 0), ("Age", "string", 0)], |o| {
        vec![name(o), list(o, "secrets").len().into(), age(o)]
    });

/// Columns of role bindings.
pub const ROLE_BINDING: Columns = Columns::Builtin(
    &[
        ("Name", "string", 0),
        ("Role", "string", 0),
        ("Age", "string", 0),
        ("Users", "string", 1),
        ("Groups", "string", 1),
        ("ServiceAccounts", "string", 1),
    ],
    |o| {
        let subjects = |kind: &str| -> Value {
            let all: Vec<String> = list(o, "subjects")
                .iter()
                .filter(|s| s["kind"] == kind)
                .map(|s| match text(s, "namespace") {
                    "" => text(s, "name").to_string(),
                    ns => format!("{ns}/{}", text(s, "name")),
                })
                .collect();
            all.join(", ").into()
        };
        vec![
            name(o),
            format!("{}/{}", text(o, "roleRef.kind"), text(o, "roleRef.name")).into(),
            age(o),
            subjects("User"),
            subjects("Group"),
            subjects("ServiceAccount"),
        ]
    },
);

/// Columns of leases.
pub const LEASE: Columns =
    Columns::Builtin(&[("Name", "string", 0), ("Holder", "string", 0), ("Age", "string", 0)], |o| {
        vec![name(o), text(o, "spec.holderIdentity").into(), age(o)]
    });

/// Columns of events, in the core form or that of events.k8s.io.
pub const EVENT: Columns = Columns::Builtin(
    &[
        ("Last Seen", "string", 0),
        ("Type", "string", 0),
        ("Reason", "string", 0),
        ("Object", "string", 0),
        ("Subobject", "string", 1),
        ("Source", "string", 1),
        ("Message", "string", 0),
        ("First Seen", "string", 1),
        ("Count", "string", 1),
        ("Name", "string", 1),
    ],
    |o| {
        let o = &super::super::events::to_core(o.clone());
        let first = [text(o, "firstTimestamp"), text(o, "eventTime")]
            .into_iter()
            .find(|t| !t.is_empty())
            .unwrap_or("");
        let last = [text(o, "series.lastObservedTime"), text(o, "lastTimestamp"), first]
            .into_iter()
            .find(|t| !t.is_empty())
            .unwrap_or("");
        let object =
            format!("{}/{}", text(o, "involvedObject.kind").to_lowercase(), text(o, "involvedObject.name"));
        let component = match text(o, "source.component") {
            "" => text(o, "reportingComponent"),
            c => c,
        };
        let source = match text(o, "source.host") {
            "" => component.to_string(),
            host => format!("{component}, {host}"),
        };
        let count = int(o, "series.count").or_else(|| int(o, "count")).unwrap_or(1).max(1);
        vec![
            since(last).into(),
            o["type"].clone(),
            o["reason"].clone(),
            object.into(),
            at(o, "involvedObject.fieldPath").cloned().unwrap_or_else(|| "".into()),
            source.into(),
            text(o, "message").trim().into(),
            since(first).into(),
            count.into(),
            or_none(o, "metadata.name"),
        ]
    },
);
