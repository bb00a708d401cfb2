//! `metadata.managedFields`: reading, writing, and keeping them true when objects are created and updated without apply.

use serde_json::{Map, Value, json};

use super::fieldset::FieldSet;
use crate::apiserver::object::{list, metadata, now, text};
use crate::apiserver::ops::Part;
use crate::apiserver::resources::Resource;
use crate::apiserver::schema::{ListType, Schema};

/// One entry of `managedFields`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Field manager.
    pub manager: String,
    /// `Apply` or `Update`.
    pub operation: String,
    /// apiVersion the fields are named in.
    pub api_version: String,
    /// When it last changed.
    pub time: String,
    /// `status` and the like, or "".
    pub subresource: String,
    /// What it owns.
    pub fields: FieldSet,
}

impl Entry {
    /// The owner as conflicts name it.
    pub fn describe(&self) -> String {
        let mut out = format!("\"{}\"", self.manager);
        if !self.subresource.is_empty() {
            out.push_str(&format!(" with subresource \"{}\"", self.subresource));
        }
        if self.operation == "Update" {
            out.push_str(&format!(" using {}", self.api_version));
        }
        out
    }
}

/// The entries of an object.
pub fn read(object: &Value) -> Vec<Entry> {
    list(object, "metadata.managedFields")
        .iter()
        .map(|e| Entry {
            manager: text(e, "manager").into(),
            operation: text(e, "operation").into(),
            api_version: text(e, "apiVersion").into(),
            time: text(e, "time").into(),
            subresource: text(e, "subresource").into(),
            fields: FieldSet::from_json(&e["fieldsV1"]),
        })
        .collect()
}

/// Entries as JSON, in Kubernetes' order.
pub fn write(entries: &mut [Entry]) -> Value {
    entries.sort_by(|a, b| {
        (&a.operation, &a.time, &a.manager, &a.subresource).cmp(&(
            &b.operation,
            &b.time,
            &b.manager,
            &b.subresource,
        ))
    });
    entries
        .iter()
        .map(|e| {
            let mut v = json!({
                "manager": e.manager, "operation": e.operation, "apiVersion": e.api_version, "time": e.time,
                "fieldsType": "FieldsV1", "fieldsV1": e.fields.to_json(),
            });
            if !e.subresource.is_empty() {
                v["subresource"] = e.subresource.as_str().into();
            }
            v
        })
        .collect::<Vec<_>>()
        .into()
}

/// How a list merges; set and map lists need items that can be told apart.
pub fn list_kind(schema: Schema<'_>) -> ListType {
    schema.list_type()
}

/// The path element of a list's item.
pub fn item_element(item: &Value, kind: &ListType, schema: Schema<'_>) -> String {
    match kind {
        ListType::Map(keys) => {
            let mut id = Map::new();
            for k in keys {
                let v = item.get(k).cloned().or_else(|| schema.items().key_default(k));
                if let Some(v) = v {
                    id.insert(k.clone(), v);
                }
            }
            format!("k:{}", Value::Object(id))
        }
        _ => format!("v:{item}"),
    }
}

/// Fields nobody owns: they identify the object or are the server's.
fn is_unowned(path: &[String]) -> bool {
    const META: [&str; 12] = [
        "f:name",
        "f:namespace",
        "f:uid",
        "f:resourceVersion",
        "f:creationTimestamp",
        "f:deletionTimestamp",
        "f:deletionGracePeriodSeconds",
        "f:generation",
        "f:managedFields",
        "f:selfLink",
        "f:ownerReferencesOrder",
        "f:clusterName",
    ];
    match path {
        [a] => matches!(a.as_str(), "f:apiVersion" | "f:kind" | "f:metadata"),
        [a, b, ..] if a == "f:metadata" => META.contains(&b.as_str()),
        _ => false,
    }
}

/// All fields an object sets.
pub fn owned_paths(object: &Value, schema: Schema<'_>) -> FieldSet {
    let mut out = FieldSet::default();
    collect(object, schema, &mut Vec::new(), &mut out);
    out
}

fn collect(v: &Value, schema: Schema<'_>, path: &mut Vec<String>, out: &mut FieldSet) {
    if !path.is_empty() && is_unowned(path) && path.len() > 1 {
        return;
    }
    let add = |path: &[String], out: &mut FieldSet| {
        if !path.is_empty() && !is_unowned(path) {
            out.insert(path);
        }
    };
    match v {
        Value::Object(map) if !schema.is_atomic_map() && !map.is_empty() => {
            // A map with arbitrary keys is owned as such besides its entries; a struct only through its fields.
            if schema.properties().is_none() && schema.raw().is_some() && path.len() > 1 {
                add(path, out);
            }
            for (k, child) in map {
                path.push(format!("f:{k}"));
                collect(child, schema.child(k), path, out);
                path.pop();
            }
        }
        Value::Array(items) if list_kind(schema) != ListType::Atomic && !items.is_empty() => {
            add(path, out);
            let kind = list_kind(schema);
            for item in items {
                path.push(item_element(item, &kind, schema));
                add(path, out);
                if matches!(kind, ListType::Map(_)) {
                    collect(item, schema.items(), path, out);
                }
                path.pop();
            }
        }
        _ => add(path, out),
    }
}

/// Fields that one object sets to another value than the other, or that only the second has.
pub fn changed_paths(old: &Value, new: &Value, schema: Schema<'_>) -> FieldSet {
    let mut out = FieldSet::default();
    differ(Some(old), new, schema, &mut Vec::new(), &mut out);
    out
}

fn differ(old: Option<&Value>, new: &Value, schema: Schema<'_>, path: &mut Vec<String>, out: &mut FieldSet) {
    if old == Some(new) || (path.len() > 1 && is_unowned(path)) {
        return;
    }
    match (old, new) {
        (Some(Value::Object(o)), Value::Object(n)) if !schema.is_atomic_map() && !n.is_empty() => {
            for (k, child) in n {
                path.push(format!("f:{k}"));
                differ(o.get(k), child, schema.child(k), path, out);
                path.pop();
            }
        }
        (Some(Value::Array(o)), Value::Array(n))
            if list_kind(schema) != ListType::Atomic && !n.is_empty() =>
        {
            let kind = list_kind(schema);
            for item in n {
                let element = item_element(item, &kind, schema);
                let before = o.iter().find(|x| item_element(x, &kind, schema) == element);
                path.push(element);
                match before {
                    Some(_) if matches!(kind, ListType::Map(_)) => {
                        differ(before, item, schema.items(), path, out)
                    }
                    Some(_) => {}
                    None => {
                        out.insert(path);
                        collect(item, schema.items(), path, out);
                    }
                }
                path.pop();
            }
        }
        _ => collect(new, schema, path, out),
    }
}

/// Records what a create or an update changed as owned by its manager, and what it removed as nobody's.
pub fn track(old: Option<&Value>, new: &mut Value, res: &Resource, manager: &str, part: Part) {
    let schema = res.schema.root();
    let mut entries = match old {
        Some(o) => {
            // An explicitly emptied list resets ownership, as in Kubernetes.
            let emptied = new["metadata"]["managedFields"].as_array().is_some_and(Vec::is_empty);
            if emptied { Vec::new() } else { read(o) }
        }
        None => Vec::new(),
    };
    let empty = json!({});
    let mut changed = changed_paths(old.unwrap_or(&empty), new, schema);
    if res.status && part != Part::Status {
        changed = changed.difference(&only(&changed, "f:status"));
    }
    let present = owned_paths(new, schema);
    let mine =
        |e: &Entry| e.operation == "Update" && e.manager == manager && e.subresource == part.subresource();
    for e in &mut entries {
        e.fields = e.fields.intersection(&present);
        if !mine(e) {
            e.fields = e.fields.difference(&changed);
        }
    }
    if !changed.is_empty() {
        let api_version = res.api_version();
        match entries.iter_mut().find(|e| mine(e)) {
            Some(e) => {
                e.fields = e.fields.union(&changed);
                e.time = now();
                e.api_version = api_version;
            }
            None => entries.push(Entry {
                manager: manager.into(),
                operation: "Update".into(),
                api_version,
                time: now(),
                subresource: part.subresource().into(),
                fields: changed,
            }),
        }
    }
    entries.retain(|e| !e.fields.is_empty());
    let written = write(&mut entries);
    let meta = metadata(new);
    if entries.is_empty() {
        meta.remove("managedFields")
    } else {
        meta.insert("managedFields".into(), written)
    };
}

fn only(set: &FieldSet, element: &str) -> FieldSet {
    let mut v = json!({});
    if let Some(child) = set.child(element) {
        v[element] = child.to_json();
        if child.is_member() {
            v[element]["."] = json!({});
        }
    }
    FieldSet::from_json(&v)
}

/// The object without `managedFields` and resourceVersion.
pub fn without_managed(v: &Value) -> Value {
    let mut v = v.clone();
    let meta = metadata(&mut v);
    meta.remove("managedFields");
    meta.remove("resourceVersion");
    v
}

/// Whether two objects differ in nothing but the times in `managedFields`.
pub fn same_but_times(a: &Value, b: &Value) -> bool {
    let owners = |v: &Value| -> Vec<Entry> {
        let mut all = read(v);
        all.iter_mut().for_each(|e| e.time.clear());
        all.sort_by(|a, b| {
            (&a.operation, &a.manager, &a.subresource).cmp(&(&b.operation, &b.manager, &b.subresource))
        });
        all
    };
    without_managed(a) == without_managed(b) && owners(a) == owners(b)
}
