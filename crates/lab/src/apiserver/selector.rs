//! Label and field selectors: their text syntax and matching.

use causeway_model::{Operator, Requirement};
use serde_json::Value;

use super::error::{ApiError, ApiResult};
use super::object::{at, name, namespace};

/// A parsed `labelSelector`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector(causeway_model::LabelSelector);

impl LabelSelector {
    /// Parses Kubernetes' text form: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.
    ///
    /// # Errors
    /// 400 with the part that cannot be understood.
    pub fn parse(text: &str) -> ApiResult<Self> {
        let bad = |e| ApiError::bad_request(format!("unable to parse requirement: {e}"));
        causeway_model::LabelSelector::parse(text).map(Self).map_err(bad)
    }

    /// Reads a `metav1.LabelSelector` object (`matchLabels`, `matchExpressions`).
    pub fn from_object(selector: &Value) -> Self {
        let mut out = Vec::new();
        let mut require = |key: &str, operator| out.push(Requirement { key: key.to_owned(), operator });
        for (k, v) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            require(k, Operator::In(vec![v.as_str().unwrap_or("").to_string()]));
        }
        for e in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let values = e["values"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let values: Vec<String> = values.map(String::from).collect();
            let operator = match e["operator"].as_str() {
                Some("In") => Operator::In(values),
                Some("NotIn") => Operator::NotIn(values),
                Some("Exists") => Operator::Exists,
                Some("DoesNotExist") => Operator::Absent,
                _ => Operator::In(Vec::new()),
            };
            require(e["key"].as_str().unwrap_or(""), operator);
        }
        Self(causeway_model::LabelSelector(out))
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.0.is_empty()
    }

    /// Whether an object's labels match.
    pub fn matches(&self, object: &Value) -> bool {
        self.matches_labels(object.get("metadata").and_then(|m| m.get("labels")))
    }

    /// Whether a map of labels matches.
    pub fn matches_labels(&self, labels: Option<&Value>) -> bool {
        self.0.matches(|key| labels.and_then(|l| l.get(key)).and_then(Value::as_str))
    }
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
