//! Table printing: the columns kubectl shows, computed by the server as Kubernetes does.

mod cluster;
mod network;
mod pod;
mod workload;

pub use cluster::*;
pub use network::*;
pub use pod::*;
pub use workload::*;

use serde_json::{Value, json};

use super::object::at;

/// One column: name, type, priority (above 0 only with `-o wide`).
pub type Column = (&'static str, &'static str, i64);

/// A CRD's `additionalPrinterColumns` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrinterColumn {
    /// Heading.
    pub name: String,
    /// OpenAPI type; `date` prints an age.
    pub kind: String,
    /// OpenAPI format.
    pub format: String,
    /// Above 0: only with `-o wide`.
    pub priority: i64,
    /// Where the value is.
    pub path: String,
    /// Text for people.
    pub description: String,
}

/// How a resource is printed.
#[derive(Debug, Clone)]
pub enum Columns {
    /// A built-in kind's own columns; the first is the name.
    Builtin(&'static [Column], fn(&Value) -> Vec<Value>),
    /// Name, then these; Age if there are none.
    Custom(Vec<PrinterColumn>),
}

/// Name and age.
pub const NAME_AGE: Columns =
    Columns::Builtin(&[("Name", "string", 0), ("Age", "string", 0)], |o| vec![name(o), age(o)]);
/// Name and time of creation.
pub const NAME_CREATED: Columns =
    Columns::Builtin(&[("Name", "string", 0), ("Created At", "date", 0)], |o| {
        vec![name(o), o["metadata"]["creationTimestamp"].clone()]
    });

impl Columns {
    /// `columnDefinitions`.
    pub fn definitions(&self) -> Value {
        let column = |name: &str, kind: &str, format: &str, priority: i64, description: &str| {
            let format = if name == "Name" { "name" } else { format };
            json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority})
        };
        match self {
            Self::Builtin(columns, _) => {
                columns.iter().map(|(n, t, p)| column(n, t, "", *p, "")).collect::<Vec<_>>().into()
            }
            Self::Custom(columns) => {
                let mut out = vec![column("Name", "string", "name", 0, "")];
                out.extend(
                    columns.iter().map(|c| column(&c.name, &c.kind, &c.format, c.priority, &c.description)),
                );
                if columns.is_empty() {
                    out.push(column("Age", "date", "", 0, ""));
                }
                out.into()
            }
        }
    }

    /// The cells of one object.
    pub fn cells(&self, object: &Value) -> Vec<Value> {
        match self {
            Self::Builtin(_, f) => f(object),
            Self::Custom(columns) => {
                let mut out = vec![name(object)];
                out.extend(columns.iter().map(|c| custom_cell(object, c)));
                if columns.is_empty() {
                    out.push(age(object));
                }
                out
            }
        }
    }
}

fn custom_cell(object: &Value, column: &PrinterColumn) -> Value {
    let found = super::crd::json_path(object, &column.path);
    match (column.kind.as_str(), found.first()) {
        (_, None) => Value::Null,
        ("date", Some(v)) => Value::from(since(v.as_str().unwrap_or(""))),
        ("integer" | "number", Some(v)) if v.is_number() => (*v).clone(),
        ("boolean", Some(v)) if v.is_boolean() => (*v).clone(),
        ("string", _) => {
            let texts: Vec<String> = found
                .iter()
                .map(|v| match v {
                    Value::String(s) => s.clone(),
                    other => other.to_string(),
                })
                .collect();
            Value::from(texts.join(","))
        }
        (_, Some(_)) => Value::Null,
    }
}

/// What rows carry besides their cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// The metadata.
    Metadata,
    /// All of it.
    Object,
}

/// A `meta.k8s.io/v1` Table of these objects.
pub fn table(
    columns: &Columns,
    objects: &[Value],
    list_meta: Value,
    include: IncludeObject,
    with_columns: bool,
) -> Value {
    let rows: Vec<Value> = objects
        .iter()
        .map(|o| {
            let mut row = json!({"cells": columns.cells(o)});
            match include {
                IncludeObject::None => {}
                IncludeObject::Metadata => row["object"] = partial(o),
                IncludeObject::Object => row["object"] = o.clone(),
            }
            row
        })
        .collect();
    let definitions = if with_columns { columns.definitions() } else { json!([]) };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list_meta,
        "columnDefinitions": definitions, "rows": rows,
    })
}

/// The `PartialObjectMetadata` of an object.
pub fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// `metadata.name` as a cell.
pub(super) fn name(o: &Value) -> Value {
    o["metadata"]["name"].clone()
}

/// Age since creation as a cell.
pub(super) fn age(o: &Value) -> Value {
    since(o["metadata"]["creationTimestamp"].as_str().unwrap_or("")).into()
}

/// Time since an RFC 3339 time as kubectl words it, `<unknown>` when there is none.
pub(super) fn since(time: &str) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(t) => human_duration(jiff::Timestamp::now().as_second() - t.as_second()),
        Err(_) => "<unknown>".into(),
    }
}

/// Kubernetes' `duration.HumanDuration`: two units at most, coarser as it grows.
pub fn human_duration(seconds: i64) -> String {
    let s = seconds;
    if s < -1 {
        return "<invalid>".into();
    }
    if s <= 0 {
        return "0s".into();
    }
    if s < 120 {
        return format!("{s}s");
    }
    let with =
        |n: i64, u: char, m: i64, v: char| if m == 0 { format!("{n}{u}") } else { format!("{n}{u}{m}{v}") };
    let (m, h, d) = (s / 60, s / 3600, s / 86400);
    if m < 10 {
        with(m, 'm', s % 60, 's')
    } else if m < 180 {
        format!("{m}m")
    } else if h < 8 {
        with(h, 'h', m % 60, 'm')
    } else if h < 48 {
        format!("{h}h")
    } else if h < 192 {
        with(d, 'd', h % 24, 'h')
    } else if d < 730 {
        format!("{d}d")
    } else if d < 8 * 365 {
        with(d / 365, 'y', d % 365, 'd')
    } else {
        format!("{}y", d / 365)
    }
}

/// A cell from a dotted path, or `<none>`.
pub(super) fn or_none(o: &Value, path: &str) -> Value {
    match at(o, path) {
        Some(Value::String(s)) if !s.is_empty() => s.as_str().into(),
        Some(v @ (Value::Number(_) | Value::Bool(_))) => v.to_string().into(),
        _ => "<none>".into(),
    }
}

/// A `metav1.LabelSelector` in text form, `<none>` when it is empty.
pub(super) fn selector_text(selector: Option<&Value>) -> String {
    let Some(s) = selector else { return "<none>".into() };
    let mut parts: Vec<String> = Vec::new();
    for (k, v) in s.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
        parts.push(format!("{k}={}", v.as_str().unwrap_or("")));
    }
    for e in s.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
        let (k, op) = (e["key"].as_str().unwrap_or(""), e["operator"].as_str().unwrap_or(""));
        let values: Vec<&str> =
            e["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        parts.push(match op {
            "Exists" => k.to_string(),
            "DoesNotExist" => format!("!{k}"),
            _ => format!("{k} {} ({})", op.to_lowercase(), values.join(",")),
        });
    }
    if parts.is_empty() { "<none>".into() } else { parts.join(",") }
}

/// A `metav1.LabelSelector` in text form, "" when it is empty.
pub fn selector_string(selector: &Value) -> String {
    match selector_text(Some(selector)) {
        text if text == "<none>" => String::new(),
        text => text,
    }
}

/// A plain map as `k=v,k=v`, `<none>` when empty.
pub(super) fn map_text(map: Option<&Value>) -> String {
    let parts: Vec<String> = map
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or("")))
        .collect();
    if parts.is_empty() { "<none>".into() } else { parts.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        for (s, want) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (3600, "60m"),
            (3 * 3600, "3h"),
            (10_900, "3h1m"),
            (9 * 3600, "9h"),
            (2 * 86400, "2d"),
            (200_000, "2d7h"),
            (9 * 86400, "9d"),
        ] {
            assert_eq!(human_duration(s), want, "{s}");
        }
    }
}
