//! The part of JSONPath that printer columns and scale paths use: fields, indices, `[*]`, quoted keys, and filters of
//! the form `[?(@.type=="Ready")]`.

use serde_json::Value;

use crate::apiserver::object::object;

/// All values a path like `.status.conditions[?(@.type=="Ready")].status` leads to.
pub fn json_path<'a>(v: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut here = vec![v];
    let mut rest = path.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('$');
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let Some(close) = closing(inner) else { return Vec::new() };
            here = step(&here, inner[..close].trim());
            rest = &inner[close + 1..];
        } else {
            rest = rest.trim_start_matches('.');
            let mut end = rest.len();
            let mut escaped = false;
            for (i, c) in rest.char_indices() {
                if !escaped && matches!(c, '.' | '[') {
                    end = i;
                    break;
                }
                escaped = c == '\\' && !escaped;
            }
            let key = rest[..end].replace('\\', "");
            if !key.is_empty() {
                here = here.into_iter().filter_map(|v| v.get(&key)).collect();
            }
            rest = &rest[end..];
        }
    }
    here.into_iter().filter(|v| !v.is_null()).collect()
}

fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(i),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn step<'a>(here: &[&'a Value], inner: &str) -> Vec<&'a Value> {
    let all = |v: &'a Value| -> Vec<&'a Value> {
        match v {
            Value::Array(a) => a.iter().collect(),
            Value::Object(m) => m.values().collect(),
            _ => Vec::new(),
        }
    };
    if inner == "*" {
        return here.iter().flat_map(|v| all(v)).collect();
    }
    if let Some(filter) = inner.strip_prefix("?(").and_then(|f| f.strip_suffix(')')) {
        let (path, op, want) = ["==", "!="]
            .iter()
            .find_map(|op| filter.split_once(op).map(|(p, w)| (p.trim(), *op, w.trim())))
            .unwrap_or((filter.trim(), "", ""));
        let want = want.trim_matches(['"', '\'']);
        let path = path.trim_start_matches('@');
        return here
            .iter()
            .flat_map(|v| all(v))
            .filter(|v| {
                let got = json_path(v, path);
                let equal = got.iter().any(|g| match g {
                    Value::String(s) => s == want,
                    Value::Bool(b) => *b == (want == "true"),
                    Value::Number(n) => n.to_string().as_str() == want,
                    _ => false,
                });
                match op {
                    "==" => equal,
                    "!=" => !equal,
                    _ => !got.is_empty(),
                }
            })
            .collect();
    }
    if let Ok(n) = inner.parse::<i64>() {
        return here
            .iter()
            .filter_map(|v| v.as_array())
            .filter_map(|a| {
                usize::try_from(if n < 0 { a.len() as i64 + n } else { n }).ok().and_then(|i| a.get(i))
            })
            .collect();
    }
    let key = inner.trim_matches(['"', '\'']);
    here.iter().filter_map(|v| v.get(key)).collect()
}

/// Sets the value at a dotted path, making the objects on the way.
pub fn set_path(v: &mut Value, path: &str, value: Value) {
    let mut keys: Vec<&str> = path.split('.').filter(|k| !k.is_empty()).collect();
    let Some(last) = keys.pop() else { return };
    let mut here = v;
    for key in keys {
        object(here, key);
        here = &mut here[key];
    }
    if let Value::Object(map) = here {
        map.insert(last.to_string(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths() {
        let v = json!({"a": {"b.c": 1}, "l": [{"type": "Ready", "status": "True"}, {"type": "X", "status": "False"}]});
        let texts = |p: &str| json_path(&v, p).iter().map(|v| v.to_string()).collect::<Vec<_>>();
        assert_eq!(texts(".a['b.c']"), ["1"]);
        assert_eq!(texts(r".a.b\.c"), ["1"]);
        assert_eq!(texts(".l[?(@.type==\"Ready\")].status"), ["\"True\""]);
        assert_eq!(texts(".l[*].status"), ["\"True\"", "\"False\""]);
        assert_eq!(texts(".l[-1].type"), ["\"X\""]);
        assert!(texts(".gone.x").is_empty());
    }
}
