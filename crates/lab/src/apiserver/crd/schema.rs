//! Structural schemas at work: pruning, defaulting, checking. CEL rules (`x-kubernetes-validations`) are accepted in a
//! definition and not evaluated.

use serde_json::{Map, Value};

use crate::apiserver::error::{FieldErrorKind, FieldErrors};
use crate::apiserver::object::list;
use crate::apiserver::schema::check::{Findings, join};

fn flag(s: &Value, key: &str) -> bool {
    s[key] == true
}

/// Refuses schemas that say nothing about the type of a value, which pruning and merging rely on.
pub(super) fn structural(s: &Value, path: &str, errors: &mut FieldErrors) {
    let typed = s.get("type").is_some()
        || flag(s, "x-kubernetes-int-or-string")
        || flag(s, "x-kubernetes-preserve-unknown-fields");
    if !typed {
        errors.required(format!("{path}.type"), "must not be empty for specified object fields");
    }
    if s["type"] == "array" && s.get("items").is_none() {
        errors.required(format!("{path}.items"), "must be specified");
    }
    if let Some(pattern) = s["pattern"].as_str()
        && let Err(e) = regex::Regex::new(pattern)
    {
        errors.invalid(
            format!("{path}.pattern"),
            pattern,
            format!("must be a valid regular expression, but isn't: {e}"),
        );
    }
    for (k, p) in s["properties"].as_object().into_iter().flatten() {
        structural(p, &format!("{path}.properties[{k}]"), errors);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = s.get(key).filter(|i| i.is_object()) {
            structural(inner, &format!("{path}.{key}"), errors);
        }
    }
}

/// Drops unknown fields.
pub(super) fn prune(v: &mut Value, s: &Value, path: &str, root: bool, found: &mut Findings) {
    match v {
        Value::Object(map) => {
            let (properties, additional) = (s["properties"].as_object(), s.get("additionalProperties"));
            let keep =
                flag(s, "x-kubernetes-preserve-unknown-fields") || additional.is_some_and(|a| *a == true);
            let embedded = root || flag(s, "x-kubernetes-embedded-resource");
            map.retain(|key, child| {
                let here = join(path, key);
                if embedded && matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
                    return true;
                }
                if let Some(p) = properties.and_then(|p| p.get(key)) {
                    prune(child, p, &here, false, found);
                } else if let Some(a) = additional.filter(|a| a.is_object()) {
                    prune(child, a, &here, false, found);
                } else if !keep {
                    found.unknown.insert(here);
                    return false;
                }
                true
            });
        }
        Value::Array(entries) => {
            if let Some(items) = s.get("items") {
                for (i, e) in entries.iter_mut().enumerate() {
                    prune(e, items, &format!("{path}[{i}]"), false, found);
                }
            }
        }
        _ => {}
    }
}

/// Sets defaults of absent fields (and of nulls that may not be null), all the way down.
pub(super) fn fill_defaults(v: &mut Value, s: &Value) {
    match v {
        Value::Object(map) => {
            for (key, p) in s["properties"].as_object().into_iter().flatten() {
                if let Some(d) = p.get("default") {
                    let absent = map.get(key).is_none_or(|v| v.is_null() && !flag(p, "nullable"));
                    if absent {
                        map.insert(key.clone(), d.clone());
                    }
                }
                if let Some(child) = map.get_mut(key) {
                    fill_defaults(child, p);
                }
            }
            if let Some(a) = s.get("additionalProperties").filter(|a| a.is_object()) {
                let declared = s["properties"].as_object();
                for (k, child) in map.iter_mut() {
                    if declared.is_none_or(|d| !d.contains_key(k)) {
                        fill_defaults(child, a);
                    }
                }
            }
        }
        Value::Array(entries) => {
            if let Some(items) = s.get("items") {
                entries.iter_mut().for_each(|e| fill_defaults(e, items));
            }
        }
        _ => {}
    }
}

fn type_of(v: &Value) -> &'static str {
    match v {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Checks a value.
pub(super) fn check(v: &Value, s: &Value, path: &str, errors: &mut FieldErrors) {
    if v.is_null() && flag(s, "nullable") {
        return;
    }
    let got = type_of(v);
    let fits = match s["type"].as_str() {
        _ if flag(s, "x-kubernetes-int-or-string") => matches!(got, "integer" | "string"),
        Some("number") => matches!(got, "integer" | "number"),
        Some("integer") => got == "integer" || v.as_f64().is_some_and(|f| f.fract() == 0.0),
        Some(want) => got == want,
        None => true,
    };
    if !fits {
        let want = s["type"].as_str().unwrap_or("integer or string");
        let detail = format!("{path} in body must be of type {want}: \"{got}\"");
        errors.push(path, FieldErrorKind::TypeInvalid, Some(&Value::from(got)), detail);
        return;
    }
    if let Some(allowed) = s["enum"].as_array()
        && !allowed.contains(v)
    {
        let shown: Vec<String> = allowed.iter().map(Value::to_string).collect();
        errors.push(
            path,
            FieldErrorKind::NotSupported,
            Some(v),
            format!("supported values: {}", shown.join(", ")),
        );
    }
    match v {
        Value::String(text) => check_text(text, s, path, errors),
        Value::Number(n) => check_number(n.as_f64().unwrap_or(0.0), v, s, path, errors),
        Value::Array(entries) => check_list(entries, s, path, errors),
        Value::Object(map) => check_map(map, v, s, path, errors),
        _ => {}
    }
    check_logic(v, s, path, errors);
}

fn check_text(text: &str, s: &Value, path: &str, errors: &mut FieldErrors) {
    let chars = text.chars().count() as u64;
    if let Some(n) = s["maxLength"].as_u64().filter(|n| chars > *n) {
        errors.push(path, FieldErrorKind::TooLong, None, format!("may not be more than {n} bytes"));
    }
    if let Some(n) = s["minLength"].as_u64().filter(|n| chars < *n) {
        errors.invalid(path, text, format!("{path} in body should be at least {n} chars long"));
    }
    if let Some(pattern) = s["pattern"].as_str()
        && regex::Regex::new(pattern).is_ok_and(|r| !r.is_match(text))
    {
        errors.invalid(path, text, format!("{path} in body should match '{pattern}'"));
    }
    let bad_format = match s["format"].as_str() {
        Some("date-time") => text.parse::<jiff::Timestamp>().is_err(),
        Some("ipv4") => text.parse::<std::net::Ipv4Addr>().is_err(),
        Some("ipv6") => text.parse::<std::net::Ipv6Addr>().is_err(),
        Some("cidr") => text.parse::<ipnet::IpNet>().is_err(),
        _ => false,
    };
    if bad_format {
        errors.invalid(
            path,
            text,
            format!("{path} in body must be of type {}: \"{text}\"", s["format"].as_str().unwrap_or("")),
        );
    }
}

fn check_number(n: f64, v: &Value, s: &Value, path: &str, errors: &mut FieldErrors) {
    if let Some(min) = s["minimum"].as_f64() {
        let exclusive = flag(s, "exclusiveMinimum");
        if n < min || (exclusive && n == min) {
            let or = if exclusive { "" } else { " or equal to" };
            errors.invalid(
                path,
                v.clone(),
                format!("{path} in body should be greater than{or} {}", s["minimum"]),
            );
        }
    }
    if let Some(max) = s["maximum"].as_f64() {
        let exclusive = flag(s, "exclusiveMaximum");
        if n > max || (exclusive && n == max) {
            let or = if exclusive { "" } else { " or equal to" };
            errors.invalid(
                path,
                v.clone(),
                format!("{path} in body should be less than{or} {}", s["maximum"]),
            );
        }
    }
    if let Some(m) = s["multipleOf"].as_f64().filter(|m| *m != 0.0 && (n / m).fract() != 0.0) {
        errors.invalid(path, v.clone(), format!("{path} in body should be a multiple of {m}"));
    }
}

fn check_list(entries: &[Value], s: &Value, path: &str, errors: &mut FieldErrors) {
    let n = entries.len() as u64;
    if let Some(max) = s["maxItems"].as_u64().filter(|m| n > *m) {
        errors.push(path, FieldErrorKind::TooMany, None, format!("must have at most {max} items"));
    }
    if let Some(min) = s["minItems"].as_u64().filter(|m| n < *m) {
        errors.invalid(path, n, format!("{path} in body should have at least {min} items"));
    }
    let keys: Vec<&str> = list(s, "x-kubernetes-list-map-keys").iter().filter_map(Value::as_str).collect();
    let unique = matches!(s["x-kubernetes-list-type"].as_str(), Some("set" | "map"));
    for (i, e) in entries.iter().enumerate() {
        let here = format!("{path}[{i}]");
        let same = |x: &Value| if keys.is_empty() { x == e } else { keys.iter().all(|k| x[k] == e[k]) };
        if unique && entries[..i].iter().any(same) {
            errors.duplicate(here.as_str(), e.clone());
        }
        if let Some(items) = s.get("items") {
            check(e, items, &here, errors);
        }
    }
}

fn check_map(map: &Map<String, Value>, v: &Value, s: &Value, path: &str, errors: &mut FieldErrors) {
    for required in list(s, "required").iter().filter_map(Value::as_str) {
        if !map.contains_key(required) {
            errors.required(join(path, required), "");
        }
    }
    let n = map.len() as u64;
    if let Some(max) = s["maxProperties"].as_u64().filter(|m| n > *m) {
        errors.push(path, FieldErrorKind::TooMany, None, format!("must have at most {max} items"));
    }
    if let Some(min) = s["minProperties"].as_u64().filter(|m| n < *m) {
        errors.invalid(path, v.clone(), format!("{path} in body should have at least {min} properties"));
    }
    for (key, child) in map {
        let shape =
            s["properties"].get(key).or_else(|| s.get("additionalProperties").filter(|a| a.is_object()));
        if let Some(shape) = shape {
            check(child, shape, &join(path, key), errors);
        }
    }
}

fn check_logic(v: &Value, s: &Value, path: &str, errors: &mut FieldErrors) {
    let holds = |s: &Value| {
        let mut inner = FieldErrors::default();
        check(v, s, path, &mut inner);
        inner.0.is_empty()
    };
    for part in list(s, "allOf") {
        check(v, part, path, errors);
    }
    let any = list(s, "anyOf");
    if !any.is_empty() && !any.iter().any(holds) {
        errors.invalid(path, v.clone(), format!("{path} in body must validate at least one schema (anyOf)"));
    }
    let one = list(s, "oneOf");
    if !one.is_empty() && one.iter().filter(|s| holds(s)).count() != 1 {
        errors.invalid(
            path,
            v.clone(),
            format!("{path} in body must validate one and only one schema (oneOf)"),
        );
    }
    if s.get("not").is_some_and(holds) {
        errors.invalid(path, v.clone(), format!("{path} in body must not validate the schema (not)"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn prunes_defaults_and_checks() {
        let s = json!({"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string", "pattern": "^[a-z]+$"},
            "n": {"type": "integer", "minimum": 1, "default": 3},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "port": {"x-kubernetes-int-or-string": true},
            "mode": {"type": "string", "enum": ["a", "b"]},
        }});
        let mut v = json!({"name": "x", "junk": 1, "free": {"y": 2}, "port": "http"});
        let mut found = Findings::default();
        prune(&mut v, &s, "spec", false, &mut found);
        fill_defaults(&mut v, &s);
        assert_eq!(v, json!({"name": "x", "n": 3, "free": {"y": 2}, "port": "http"}));
        assert_eq!(found.unknown.into_iter().collect::<Vec<_>>(), ["spec.junk"]);
        let mut e = FieldErrors::default();
        check(&json!({"name": "X1", "n": 0, "mode": "c", "port": true}), &s, "spec", &mut e);
        let paths: Vec<&str> = e.0.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(paths, ["spec.mode", "spec.n", "spec.name", "spec.port"]);
        let mut e = FieldErrors::default();
        check(&json!({}), &s, "spec", &mut e);
        assert_eq!(e.0[0].path, "spec.name");
    }
}
