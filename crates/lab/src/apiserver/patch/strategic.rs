//! Strategic merge patch: like a merge patch, but lists that the type declares mergeable are merged by key, and
//! directives (`$patch`, `$deleteFromPrimitiveList/…`, `$setElementOrder/…`, `$retainKeys`) say the rest.

use serde_json::{Map, Value};

use crate::apiserver::error::{ApiError, ApiResult};
use crate::apiserver::schema::Schema;

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Applies a strategic merge patch.
///
/// # Errors
/// 400 for a patch that is no object, an unknown directive, or a list entry without its merge key.
pub fn strategic_merge(object: &mut Value, patch: &Value, schema: Schema<'_>) -> ApiResult<()> {
    let (Value::Object(map), Value::Object(patch)) = (&mut *object, patch) else {
        return Err(ApiError::bad_request("a strategic merge patch must be a JSON object"));
    };
    merge_map(map, patch, schema)
}

fn merge_map(map: &mut Map<String, Value>, patch: &Map<String, Value>, schema: Schema<'_>) -> ApiResult<()> {
    match patch.get(PATCH).and_then(Value::as_str) {
        Some("replace") => {
            *map = patch.iter().filter(|(k, _)| *k != PATCH).map(|(k, v)| (k.clone(), v.clone())).collect();
            return Ok(());
        }
        Some("delete") => {
            map.clear();
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(ApiError::bad_request(format!("unknown patch type: {other}"))),
    }
    if let Some(retain) = patch.get(RETAIN).and_then(Value::as_array) {
        map.retain(|k, _| retain.iter().any(|r| r == k));
    }
    for (key, value) in patch {
        if key == PATCH || key == RETAIN || key.starts_with(ORDER) {
            continue;
        }
        if let Some(field) = key.strip_prefix(DELETE_FROM) {
            let gone = value.as_array().map_or(&[][..], Vec::as_slice);
            if let Some(list) = map.get_mut(field).and_then(Value::as_array_mut) {
                list.retain(|x| !gone.contains(x));
            }
            continue;
        }
        merge_field(map, key, value, schema)?;
    }
    // Orders for lists the patch does not otherwise touch.
    for (key, order) in patch {
        if let (Some(field), Some(order)) = (key.strip_prefix(ORDER), order.as_array())
            && let Some(list) = map.get_mut(field).and_then(Value::as_array_mut)
        {
            let merge_key = schema.property(field).and_then(|_| merge_key_of(schema, field));
            reorder(list, order, merge_key);
        }
    }
    Ok(())
}

/// Extensions sit beside the `$ref` of the property, so they are read from the referring node.
fn merge_key_of<'a>(schema: Schema<'a>, field: &str) -> Option<&'a str> {
    schema.properties()?.get(field)?.get("x-kubernetes-patch-merge-key")?.as_str()
}

fn merges(schema: Schema<'_>, field: &str) -> bool {
    let strategy = schema
        .properties()
        .and_then(|p| p.get(field))
        .and_then(|p| p.get("x-kubernetes-patch-strategy"))
        .and_then(Value::as_str)
        .unwrap_or("");
    strategy.split(',').any(|s| s == "merge")
}

fn merge_field(map: &mut Map<String, Value>, key: &str, value: &Value, schema: Schema<'_>) -> ApiResult<()> {
    match value {
        Value::Null => {
            map.remove(key);
        }
        Value::Object(inner) => {
            let slot = map.entry(key.to_string()).or_insert_with(|| Value::Object(Map::new()));
            if !slot.is_object() {
                *slot = Value::Object(Map::new());
            }
            if let Value::Object(target) = slot {
                merge_map(target, inner, schema.child(key))?;
            }
            if inner.get(PATCH).and_then(Value::as_str) == Some("delete") {
                map.remove(key);
            }
        }
        Value::Array(entries) if merges(schema, key) => {
            let slot = map.entry(key.to_string()).or_insert_with(|| Value::Array(Vec::new()));
            if !slot.is_array() {
                *slot = Value::Array(Vec::new());
            }
            let Value::Array(list) = slot else { return Ok(()) };
            match merge_key_of(schema, key) {
                Some(merge_key) => merge_list(list, entries, merge_key, schema.child(key).items(), key)?,
                None => {
                    for e in entries {
                        if !list.contains(e) {
                            list.push(e.clone());
                        }
                    }
                }
            }
        }
        other => {
            let mut v = other.clone();
            strip_directives(&mut v);
            map.insert(key.to_string(), v);
        }
    }
    Ok(())
}

fn merge_list(
    list: &mut Vec<Value>,
    entries: &[Value],
    merge_key: &str,
    items: Schema<'_>,
    field: &str,
) -> ApiResult<()> {
    if entries.iter().any(|e| {
        e.get(PATCH).and_then(Value::as_str) == Some("replace") && e.as_object().is_some_and(|m| m.len() == 1)
    }) {
        *list = entries.iter().filter(|e| e.get(PATCH).is_none()).cloned().collect();
        return Ok(());
    }
    for e in entries {
        let Value::Object(entry) = e else {
            return Err(ApiError::bad_request(format!(
                "list {field}: entries of a merged list must be objects"
            )));
        };
        let directive = entry.get(PATCH).and_then(Value::as_str);
        let Some(id) = entry.get(merge_key) else {
            return Err(ApiError::bad_request(format!(
                "map: {e} does not contain declared merge key: {merge_key}"
            )));
        };
        let found = list.iter_mut().find(|x| x.get(merge_key) == Some(id));
        match (directive, found) {
            (Some("delete"), _) => list.retain(|x| x.get(merge_key) != Some(id)),
            (_, Some(Value::Object(target))) => merge_map(target, entry, items)?,
            (_, _) => {
                let mut fresh = Map::new();
                merge_map(&mut fresh, entry, items)?;
                list.push(Value::Object(fresh));
            }
        }
    }
    Ok(())
}

/// Puts the entries the order names into that order; the others keep their place relative to their neighbours.
fn reorder(list: &mut Vec<Value>, order: &[Value], merge_key: Option<&str>) {
    let id = |v: &Value| -> Value {
        match merge_key {
            Some(k) => v.get(k).cloned().unwrap_or(Value::Null),
            None => v.clone(),
        }
    };
    type Placed = Vec<(usize, Value)>;
    let wanted: Vec<Value> = order.iter().map(id).collect();
    let (mut named, mut rest): (Placed, Placed) =
        list.drain(..).enumerate().partition(|(_, v)| wanted.contains(&id(v)));
    named.sort_by_key(|(_, v)| wanted.iter().position(|w| *w == id(v)));
    // Merge: an entry the order does not name goes before those that stood behind it.
    rest.reverse();
    let mut out = Vec::new();
    for (at, v) in named {
        while rest.last().is_some_and(|(r, _)| *r < at) {
            out.extend(rest.pop().map(|(_, v)| v));
        }
        out.push(v);
    }
    out.extend(rest.into_iter().rev().map(|(_, v)| v));
    *list = out;
}

fn strip_directives(v: &mut Value) {
    match v {
        Value::Object(map) => {
            map.retain(|k, _| {
                k != PATCH && k != RETAIN && !k.starts_with(ORDER) && !k.starts_with(DELETE_FROM)
            });
            map.values_mut().for_each(strip_directives);
        }
        Value::Array(list) => list.iter_mut().for_each(strip_directives),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn apply(object: Value, patch: Value) -> Value {
        let mut v = object;
        strategic_merge(&mut v, &patch, Schema::named("io.k8s.api.core.v1.Pod")).unwrap();
        v
    }

    #[test]
    fn lists_merge_by_key() {
        let pod = json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}});
        let got =
            apply(pod.clone(), json!({"spec": {"containers": [{"name": "b", "image": "2"}, {"name": "c"}]}}));
        assert_eq!(
            got["spec"]["containers"],
            json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c"}])
        );
        let got = apply(pod.clone(), json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}));
        assert_eq!(got["spec"]["containers"], json!([{"name": "b", "image": "1"}]));
        let got = apply(pod.clone(), json!({"spec": {"containers": [{"name": "z"}, {"$patch": "replace"}]}}));
        assert_eq!(got["spec"]["containers"], json!([{"name": "z"}]));
        let got = apply(
            pod,
            json!({"spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b", "image": "3"}]}}),
        );
        assert_eq!(
            got["spec"]["containers"],
            json!([{"name": "b", "image": "3"}, {"name": "a", "image": "1"}])
        );
    }

    #[test]
    fn primitive_lists_directives_and_atomic_lists() {
        let pod = json!({"metadata": {"finalizers": ["a", "b"]}, "spec": {"tolerations": [{"key": "x"}], "volumes": [{"name": "v", "emptyDir": {}}]}});
        let got = apply(
            pod.clone(),
            json!({"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]}}),
        );
        assert_eq!(got["metadata"]["finalizers"], json!(["b", "c"]));
        let got = apply(pod.clone(), json!({"spec": {"tolerations": [{"key": "y"}]}}));
        assert_eq!(got["spec"]["tolerations"], json!([{"key": "y"}]));
        let got = apply(
            pod.clone(),
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}}),
        );
        assert_eq!(got["spec"]["volumes"], json!([{"name": "v", "hostPath": {"path": "/x"}}]));
        let got = apply(pod, json!({"spec": {"$patch": "replace", "nodeName": "n"}}));
        assert_eq!(got["spec"], json!({"nodeName": "n"}));
    }
}
