//! Merging a configuration into an object, and removing fields from it, as the schema's list and map types say.

use serde_json::{Map, Value};

use super::fieldset::FieldSet;
use super::managed::{item_element, list_kind};
use crate::apiserver::schema::{ListType, Schema};

/// Merges `config` into `base`.
pub(super) fn merge(base: &mut Value, config: &Value, schema: Schema<'_>) {
    match config {
        Value::Object(fields) if !schema.is_atomic_map() => {
            if !base.is_object() {
                *base = Value::Object(Map::new());
            }
            let Value::Object(map) = base else { return };
            for (k, v) in fields {
                merge(map.entry(k.clone()).or_insert(Value::Null), v, schema.child(k));
            }
        }
        Value::Array(entries) if list_kind(schema) != ListType::Atomic && base.is_array() => {
            let kind = list_kind(schema);
            let Value::Array(list) = base else { return };
            let mut merged: Vec<Value> = Vec::with_capacity(list.len());
            let ids: Vec<String> = entries.iter().map(|e| item_element(e, &kind, schema)).collect();
            // What the configuration does not name keeps its place, before the first named one that followed it.
            let mut rest: Vec<(usize, Value)> = Vec::new();
            let mut known: Vec<(String, usize, Value)> = Vec::new();
            for (i, v) in list.drain(..).enumerate() {
                let id = item_element(&v, &kind, schema);
                if ids.contains(&id) { known.push((id, i, v)) } else { rest.push((i, v)) }
            }
            let mut rest = rest.into_iter().peekable();
            for (id, e) in ids.iter().zip(entries) {
                let place = known.iter().position(|(k, _, _)| k == id);
                let mut item = Value::Null;
                if let Some(p) = place {
                    let (_, at, v) = known.remove(p);
                    while rest.peek().is_some_and(|(i, _)| *i < at) {
                        merged.extend(rest.next().map(|(_, v)| v));
                    }
                    item = v;
                }
                merge(&mut item, e, schema.items());
                merged.push(item);
            }
            merged.extend(rest.map(|(_, v)| v));
            *list = merged;
        }
        other => *base = other.clone(),
    }
}

/// Removes the members of a set from an object; containers that become empty by it go too if they are members.
pub(super) fn remove(v: &mut Value, set: &FieldSet, schema: Schema<'_>) {
    match v {
        Value::Object(map) => {
            for (element, below) in set.children() {
                let Some(key) = element.strip_prefix("f:") else { continue };
                let Some(child) = map.get_mut(key) else { continue };
                remove(child, below, schema.child(key));
                let emptied = match child {
                    Value::Object(m) => m.is_empty(),
                    Value::Array(a) => a.is_empty(),
                    _ => true,
                };
                let leaf = below.children().next().is_none();
                if below.is_member() && (emptied || leaf) {
                    map.remove(key);
                }
            }
        }
        Value::Array(list) => {
            let kind = list_kind(schema);
            list.retain_mut(|item| {
                let Some(below) = set.child(&item_element(item, &kind, schema)) else { return true };
                if below.is_member() {
                    return false;
                }
                remove(item, below, schema.items());
                true
            });
        }
        _ => {}
    }
}
