//! Label and field selectors: their text syntax and matching.

use serde_json::Value;

use super::error::{ApiError, ApiResult};
use super::object::{at, name, namespace};

/// A parsed `labelSelector`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
    Greater(String, i64),
    Less(String, i64),
}

impl LabelSelector {
    /// Parses Kubernetes' text form: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.
    ///
    /// # Errors
    /// 400 with the part that cannot be understood.
    pub fn parse(text: &str) -> ApiResult<Self> {
        split_outside_parens(text)
            .into_iter()
            .map(|p| p.trim())
            .filter(|p| !p.is_empty())
            .map(parse_one)
            .collect::<ApiResult<_>>()
            .map(Self)
    }

    /// Reads a `metav1.LabelSelector` object (`matchLabels`, `matchExpressions`).
    pub fn from_object(selector: &Value) -> Self {
        let mut out = Vec::new();
        for (k, v) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            out.push(Requirement::In(k.clone(), vec![v.as_str().unwrap_or("").to_string()]));
        }
        for e in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let key = e["key"].as_str().unwrap_or("").to_string();
            let values: Vec<String> = e["values"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(String::from)
                .collect();
            match e["operator"].as_str() {
                Some("In") => out.push(Requirement::In(key, values)),
                Some("NotIn") => out.push(Requirement::NotIn(key, values)),
                Some("Exists") => out.push(Requirement::Exists(key)),
                Some("DoesNotExist") => out.push(Requirement::Absent(key)),
                _ => out.push(Requirement::In(key, Vec::new())),
            }
        }
        Self(out)
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object's labels match.
    pub fn matches(&self, object: &Value) -> bool {
        self.matches_labels(object.get("metadata").and_then(|m| m.get("labels")))
    }

    /// Whether a map of labels matches.
    pub fn matches_labels(&self, labels: Option<&Value>) -> bool {
        let get = |k: &str| labels.and_then(|l| l.get(k)).and_then(Value::as_str);
        self.0.iter().all(|r| match r {
            Requirement::In(k, vs) => get(k).is_some_and(|v| vs.iter().any(|x| x == v)),
            Requirement::NotIn(k, vs) => get(k).is_none_or(|v| vs.iter().all(|x| x != v)),
            Requirement::Exists(k) => get(k).is_some(),
            Requirement::Absent(k) => get(k).is_none(),
            Requirement::Greater(k, n) => get(k).and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v > *n),
            Requirement::Less(k, n) => get(k).and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v < *n),
        })
    }
}

fn split_outside_parens(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut out) = (0i32, 0, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                out.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out
}

fn parse_one(part: &str) -> ApiResult<Requirement> {
    let bad =
        || ApiError::bad_request(format!("unable to parse requirement: {part:?} is not a label selector"));
    let key = |k: &str| -> ApiResult<String> {
        let k = k.trim();
        let fine = !k.is_empty() && k.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
        if fine { Ok(k.to_string()) } else { Err(bad()) }
    };
    if let Some(rest) = part.strip_prefix('!') {
        return Ok(Requirement::Absent(key(rest)?));
    }
    if let Some(open) = part.find('(') {
        let inner = part[open + 1..].strip_suffix(')').ok_or_else(bad)?;
        let values: Vec<String> = inner.split(',').map(|v| v.trim().to_string()).collect();
        let mut words = part[..open].split_whitespace();
        let (k, op) = (words.next().ok_or_else(bad)?, words.next().ok_or_else(bad)?);
        return match (op, words.next()) {
            ("in", None) => Ok(Requirement::In(key(k)?, values)),
            ("notin", None) => Ok(Requirement::NotIn(key(k)?, values)),
            _ => Err(bad()),
        };
    }
    for (op, negated) in [("!=", true), ("==", false), ("=", false)] {
        if let Some((k, v)) = part.split_once(op) {
            let value = v.trim();
            if value.chars().any(|c| !(c.is_ascii_alphanumeric() || "-_.".contains(c))) {
                return Err(bad());
            }
            let values = vec![value.to_string()];
            return Ok(if negated {
                Requirement::NotIn(key(k)?, values)
            } else {
                Requirement::In(key(k)?, values)
            });
        }
    }
    if let Some((k, v)) = part.split_once('>') {
        return Ok(Requirement::Greater(key(k)?, v.trim().parse().map_err(|_| bad())?));
    }
    if let Some((k, v)) = part.split_once('<') {
        return Ok(Requirement::Less(key(k)?, v.trim().parse().map_err(|_| bad())?));
    }
    Ok(Requirement::Exists(key(part)?))
}

/// A parsed `fieldSelector`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<(String, bool, String)>);

impl FieldSelector {
    /// Parses `a=b,c!=d`, allowing only fields in `supported` besides metadata.name and metadata.namespace
    /// (`None` = any field, used nowhere but in tests).
    ///
    /// # Errors
    /// 400 naming the field that is not supported, or the part that cannot be understood.
    pub fn parse(text: &str, supported: Option<&[String]>) -> ApiResult<Self> {
        let mut out = Vec::new();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (field, equal, value) = if let Some((f, v)) = part.split_once("!=") {
                (f, false, v)
            } else if let Some((f, v)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (f, true, v)
            } else {
                return Err(ApiError::bad_request(format!(
                    "invalid selector: '{part}'; can't understand '{part}'"
                )));
            };
            let known = matches!(field, "metadata.name" | "metadata.namespace")
                || supported.is_none_or(|s| s.iter().any(|x| x == field));
            if !known {
                return Err(ApiError::bad_request(format!(
                    "Unable to find \"{field}\" that match field selector: field label not supported: {field}"
                )));
            }
            out.push((field.to_string(), equal, value.to_string()));
        }
        Ok(Self(out))
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name this selector pins, if it does.
    pub fn exact_name(&self) -> Option<&str> {
        self.0.iter().find(|(f, eq, _)| f == "metadata.name" && *eq).map(|(_, _, v)| v.as_str())
    }

    /// Whether an object matches.
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(field, equal, want)| {
            let got = match field.as_str() {
                "metadata.name" => name(object).to_string(),
                "metadata.namespace" => namespace(object).to_string(),
                "spec.unschedulable" => {
                    at(object, field).and_then(Value::as_bool).unwrap_or(false).to_string()
                }
                _ => match at(object, field) {
                    Some(Value::String(s)) => s.clone(),
                    Some(Value::Null) | None => String::new(),
                    Some(other) => other.to_string(),
                },
            };
            (got == *want) == *equal
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn label_selectors() {
        let obj = json!({"metadata": {"labels": {"app": "web", "tier": "front", "n": "5"}}});
        for (text, want) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier!=back", true),
            ("app in (web, db),!gone", true),
            ("app notin (web)", false),
            ("missing notin (x)", true),
            ("tier", true),
            ("!tier", false),
            ("n>4,n<6", true),
            ("n>5", false),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap().matches(&obj), want, "{text}");
        }
        assert!(LabelSelector::parse("a in b").is_err());
        assert!(LabelSelector::parse("a=(").is_err());
    }

    #[test]
    fn field_selectors() {
        let obj = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"nodeName": ""}, "status": {"phase": "Running"}});
        let ok = ["spec.nodeName".to_string(), "status.phase".to_string()];
        for (text, want) in [
            ("metadata.name=a", true),
            ("spec.nodeName=", true),
            ("status.phase!=Running", false),
            ("status.phase==Running,metadata.namespace=n", true),
        ] {
            assert_eq!(FieldSelector::parse(text, Some(&ok)).unwrap().matches(&obj), want, "{text}");
        }
        assert_eq!(FieldSelector::parse("spec.x=1", Some(&ok)).unwrap_err().code, 400);
    }
}
