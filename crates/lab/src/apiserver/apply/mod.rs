//! Server-side apply: who owns which field, and what follows from it.

pub mod fieldset;
pub mod managed;
mod merge;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::object::metadata;
use super::schema::Schema;
use fieldset::FieldSet;
use managed::Entry;

/// Who applies, and how.
#[derive(Debug, Clone)]
pub struct Applier {
    /// Field manager.
    pub manager: String,
    /// Takes over what others own.
    pub force: bool,
    /// apiVersion the configuration is written in.
    pub api_version: String,
    /// Subresource, or "".
    pub subresource: String,
}

/// A field that the configuration sets to another value than its owner did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The owner, in quotes, with what it used.
    pub with: String,
    /// The field.
    pub field: String,
}

/// The object that results from applying a configuration, `managedFields` included.
///
/// # Errors
/// The conflicts, unless forced.
pub fn apply(
    current: Option<&Value>,
    config: &Value,
    schema: Schema<'_>,
    by: &Applier,
) -> Result<Value, Vec<Conflict>> {
    let empty = json!({});
    let base = current.unwrap_or(&empty);
    let mut entries = managed::read(base);
    let wanted = managed::owned_paths(config, schema);
    let mine =
        |e: &Entry| e.operation == "Apply" && e.manager == by.manager && e.subresource == by.subresource;
    let before: FieldSet = entries.iter().find(|e| mine(e)).map(|e| e.fields.clone()).unwrap_or_default();

    let mut merged = base.clone();
    merge::merge(&mut merged, config, schema);

    // Fields others own whose value this configuration changes.
    let changed = managed::changed_paths(base, &merged, schema);
    let mut conflicts = Vec::new();
    for e in entries.iter().filter(|e| !mine(e)) {
        for path in e.fields.intersection(&wanted).intersection(&changed).leaves() {
            conflicts.push(Conflict { with: e.describe(), field: path });
        }
    }
    if !conflicts.is_empty() && !by.force {
        conflicts.sort_by(|a, b| (&a.with, &a.field).cmp(&(&b.with, &b.field)));
        return Err(conflicts);
    }
    for e in entries.iter_mut().filter(|e| !mine(e)) {
        let lost = e.fields.intersection(&wanted).intersection(&changed);
        e.fields = e.fields.difference(&lost);
    }

    // Fields this manager used to apply and no longer does go, unless somebody else owns them.
    let mut dropped = before.difference(&wanted);
    for e in entries.iter().filter(|e| !mine(e)) {
        dropped = dropped.difference(&e.fields);
    }
    merge::remove(&mut merged, &dropped, schema);

    entries.retain(|e| !mine(e) && !e.fields.is_empty());
    let same = current.is_some()
        && before == wanted
        && managed::without_managed(&merged) == managed::without_managed(base);
    let time = match same {
        true => managed::read(base).iter().find(|e| mine(e)).map(|e| e.time.clone()).unwrap_or_default(),
        false => super::object::now(),
    };
    if !wanted.is_empty() {
        entries.push(Entry {
            manager: by.manager.clone(),
            operation: "Apply".into(),
            api_version: by.api_version.clone(),
            time,
            subresource: by.subresource.clone(),
            fields: wanted,
        });
    }
    let meta = metadata(&mut merged);
    meta.insert("managedFields".into(), managed::write(&mut entries));
    // The configuration's own conditions hold; without them the result replaces whatever is there.
    for field in ["resourceVersion", "uid"] {
        match config["metadata"].get(field) {
            Some(v) => meta.insert(field.into(), v.clone()),
            None => meta.remove(field),
        };
    }
    Ok(merged)
}

/// Managers by field, for tests and diagnostics.
pub fn owners(object: &Value) -> BTreeMap<String, Vec<String>> {
    let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for e in managed::read(object) {
        for path in e.fields.leaves() {
            out.entry(path).or_default().push(e.manager.clone());
        }
    }
    out
}

#[cfg(test)]
mod tests;
