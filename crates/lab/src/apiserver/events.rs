//! The two views of events: core `v1` (as stored) and `events.k8s.io/v1`.

use serde_json::{Map, Value};

/// Field names that differ: core's and events.k8s.io's.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// An event in core form.
pub fn to_core(v: Value) -> Value {
    if v["apiVersion"] != "events.k8s.io/v1" {
        return v;
    }
    rename(v, "v1", |k| RENAMED.iter().find(|(_, e)| *e == k).map(|(c, _)| *c))
}

/// An event in the form of events.k8s.io/v1.
pub fn to_events(v: Value) -> Value {
    if v["apiVersion"] != "v1" {
        return v;
    }
    rename(v, "events.k8s.io/v1", |k| RENAMED.iter().find(|(c, _)| *c == k).map(|(_, e)| *e))
}

fn rename(v: Value, api_version: &str, other: impl Fn(&str) -> Option<&'static str>) -> Value {
    let Value::Object(map) = v else { return v };
    let mut out: Map<String, Value> =
        map.into_iter().map(|(k, v)| (other(&k).map_or(k.clone(), String::from), v)).collect();
    out.insert("apiVersion".into(), api_version.into());
    Value::Object(out)
}
