//! Names, labels, annotations, owners and other metadata rules common to all kinds.

use serde_json::Value;

use crate::apiserver::error::{FieldErrorKind, FieldErrors};
use crate::apiserver::object::{at, list};

const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS1035_RULE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// How a resource's objects may be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 label (namespaces).
    Label,
    /// RFC 1123 subdomain (nearly everything).
    Subdomain,
    /// RFC 1035 label (services).
    Dns1035,
    /// Anything that fits a path segment (RBAC).
    PathSegment,
}

fn edge_alnum(s: &str) -> bool {
    let ok = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    ok(s.chars().next()) && ok(s.chars().last())
}

/// Whether `s` is an RFC 1123 label.
pub fn is_label(s: &str) -> bool {
    s.len() <= 63
        && edge_alnum(s)
        && s.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Whether `s` is an RFC 1123 subdomain.
pub fn is_subdomain(s: &str) -> bool {
    s.len() <= 253
        && s.split('.').all(|p| {
            edge_alnum(p) && p.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        })
}

impl NameRule {
    /// Why `name` is refused, if it is.
    pub fn refuse(self, name: &str) -> Option<&'static str> {
        match self {
            Self::Label if name.len() > 63 => Some("must be no more than 63 characters"),
            Self::Label => (!is_label(name)).then_some(LABEL_RULE),
            Self::Subdomain if name.len() > 253 => Some("must be no more than 253 characters"),
            Self::Subdomain => (!is_subdomain(name)).then_some(SUBDOMAIN_RULE),
            Self::Dns1035 if name.len() > 63 => Some("must be no more than 63 characters"),
            Self::Dns1035 => {
                let fine = is_label(name) && name.starts_with(|c: char| c.is_ascii_lowercase());
                (!fine).then_some(DNS1035_RULE)
            }
            Self::PathSegment => (matches!(name, "." | "..") || name.contains(['/', '%']))
                .then_some("may not contain '/' or '%', or be '.' or '..'"),
        }
    }

    /// The rule for a resource.
    pub fn of(group: &str, plural: &str) -> Self {
        match (group, plural) {
            ("", "namespaces") => Self::Label,
            ("", "services") => Self::Dns1035,
            ("rbac.authorization.k8s.io", _) => Self::PathSegment,
            _ => Self::Subdomain,
        }
    }
}

/// Checks a label or annotation key (or a finalizer): `[prefix/]name`.
pub fn qualified_name(key: &str) -> Result<(), String> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    if prefix.is_some_and(|p| !is_subdomain(p)) {
        return Err(format!("prefix part {SUBDOMAIN_RULE}"));
    }
    if name.is_empty() {
        return Err("name part must be non-empty".into());
    }
    if name.len() > 63 {
        return Err("name part must be no more than 63 characters".into());
    }
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let fine = edge(name.chars().next())
        && edge(name.chars().last())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if fine { Ok(()) } else { Err(QUALIFIED_RULE.into()) }
}

/// Checks a label's value.
pub fn label_value(value: &str) -> Result<(), String> {
    if value.len() > 63 {
        return Err("must be no more than 63 characters".into());
    }
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    let fine = edge(value.chars().next())
        && edge(value.chars().last())
        && value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if fine { Ok(()) } else { Err(LABEL_VALUE_RULE.into()) }
}

/// Checks a map of labels at `path`.
pub fn labels(map: Option<&Value>, path: &str, errors: &mut FieldErrors) {
    for (k, v) in map.and_then(Value::as_object).into_iter().flatten() {
        if let Err(why) = qualified_name(k) {
            errors.invalid(path, k.as_str(), why);
        }
        if let Err(why) = label_value(v.as_str().unwrap_or("")) {
            errors.invalid(path, v.clone(), why);
        }
    }
}

/// Checks `metadata` of an object that is about to be stored.
pub fn metadata(v: &Value, rule: NameRule, namespaced: bool, errors: &mut FieldErrors) {
    let meta = &v["metadata"];
    let name = meta["name"].as_str().unwrap_or("");
    if name.is_empty() {
        errors.required("metadata.name", "name or generateName is required");
    } else if let Some(why) = rule.refuse(name) {
        errors.invalid("metadata.name", name, why);
    }
    let ns = meta["namespace"].as_str().unwrap_or("");
    if namespaced && !is_label(ns) {
        errors.invalid("metadata.namespace", ns, LABEL_RULE);
    } else if !namespaced && !ns.is_empty() {
        errors.forbidden("metadata.namespace", "not allowed on this type");
    }
    labels(meta.get("labels"), "metadata.labels", errors);
    let mut total = 0;
    for (k, value) in meta.get("annotations").and_then(Value::as_object).into_iter().flatten() {
        total += k.len() + value.as_str().map_or(0, str::len);
        if let Err(why) = qualified_name(&k.to_lowercase()) {
            errors.invalid("metadata.annotations", k.as_str(), why);
        }
    }
    if total > 256 * 1024 {
        errors.push(
            "metadata.annotations",
            FieldErrorKind::TooLong,
            None,
            "may not be more than 262144 bytes",
        );
    }
    for (i, f) in list(meta, "finalizers").iter().enumerate() {
        let f = f.as_str().unwrap_or("");
        if let Err(why) = qualified_name(f) {
            errors.invalid(format!("metadata.finalizers[{i}]"), f, why);
        }
    }
    owner_references(meta, errors);
}

fn owner_references(meta: &Value, errors: &mut FieldErrors) {
    let mut controllers = 0;
    for (i, owner) in list(meta, "ownerReferences").iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().unwrap_or("").is_empty() {
                errors.invalid(
                    format!("metadata.ownerReferences[{i}].{field}"),
                    "",
                    format!("{field} must not be empty"),
                );
            }
        }
        controllers += usize::from(owner["controller"] == true);
    }
    if controllers > 1 {
        errors.invalid(
            "metadata.ownerReferences",
            meta["ownerReferences"].clone(),
            "Only one reference can have Controller set to true",
        );
    }
}

/// Rules for a change of metadata.
pub fn metadata_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        immutable(old, new, &format!("metadata.{field}"), errors);
    }
    if at(old, "metadata.deletionTimestamp").is_some() {
        let had = list(old, "metadata.finalizers");
        let added: Vec<&Value> =
            list(new, "metadata.finalizers").iter().filter(|f| !had.contains(f)).collect();
        if !added.is_empty() {
            errors.forbidden(
                "metadata.finalizers",
                &format!("no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"),
            );
        }
    }
}

/// Refuses a change of the field at a dotted path.
pub fn immutable(old: &Value, new: &Value, path: &str, errors: &mut FieldErrors) {
    let (before, after) = (at(old, path), at(new, path));
    if before != after {
        errors.invalid(path, after.cloned().unwrap_or(Value::Null), "field is immutable");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(NameRule::Subdomain.refuse("a.b-c.d").is_none());
        for bad in ["A", "a_b", "-a", "a-", "a..b", ""] {
            assert!(NameRule::Subdomain.refuse(bad).is_some(), "{bad}");
        }
        assert!(NameRule::Dns1035.refuse("1a").is_some());
        assert!(NameRule::Label.refuse("a.b").is_some());
        assert!(qualified_name("service.cilium.io/global").is_ok());
        assert!(qualified_name("a/b/c").is_err());
        assert!(label_value("").is_ok() && label_value("a b").is_err());
    }
}
