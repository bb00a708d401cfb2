//! What a request is about: the path, the query, and the options of writes.

use std::collections::BTreeMap;

use serde_json::Value;

use super::error::{ApiError, ApiResult};

/// A path below `/api/v1` or `/apis/<group>/<version>` that names a resource.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// API group, "" for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural resource name.
    pub plural: String,
    /// Namespace, if the path has one.
    pub namespace: Option<String>,
    /// Object name, if the path has one.
    pub name: Option<String>,
    /// Subresource, if the path has one.
    pub sub: Option<String>,
}

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/api`, `/apis`, `/apis/<group>`, `/api/v1`, `/apis/<group>/<version>`; the segments after `/`.
    Discovery(Vec<String>),
    /// A resource.
    Resource(Target),
    /// Anything else, e.g. `/version`.
    Other(String),
}

/// Reads a path.
pub fn route(path: &str) -> Route {
    let parts: Vec<String> = path.split('/').filter(|p| !p.is_empty()).map(percent_decode).collect();
    let (group, version, rest) = match parts.first().map(String::as_str) {
        Some("api") if parts.len() >= 3 => (String::new(), parts[1].clone(), &parts[2..]),
        Some("apis") if parts.len() >= 4 => (parts[1].clone(), parts[2].clone(), &parts[3..]),
        Some("api" | "apis") => return Route::Discovery(parts),
        _ => return Route::Other(path.to_string()),
    };
    let mut t = Target { group, version, ..Target::default() };
    let rest = match rest {
        [ns, namespace, rest @ ..] if ns == "namespaces" && !rest.is_empty() => {
            let own_sub = rest.len() == 1 && matches!(rest[0].as_str(), "status" | "finalize");
            if t.group.is_empty() && own_sub {
                t.plural = "namespaces".into();
                t.name = Some(namespace.clone());
                t.sub = Some(rest[0].clone());
                return Route::Resource(t);
            }
            t.namespace = Some(namespace.clone());
            rest
        }
        rest => rest,
    };
    let mut rest = rest.iter();
    t.plural = rest.next().cloned().unwrap_or_default();
    t.name = rest.next().cloned();
    let sub: Vec<String> = rest.cloned().collect();
    t.sub = (!sub.is_empty()).then(|| sub.join("/"));
    Route::Resource(t)
}

/// Decodes `%xx` and leaves the rest as it is.
pub fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let decoded = (bytes[i] == b'%')
            .then(|| text.get(i + 1..i + 3).and_then(|h| u8::from_str_radix(h, 16).ok()))
            .flatten();
        match decoded {
            Some(b) => {
                out.push(b);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Query parameters; a key may occur more than once.
#[derive(Debug, Clone, Default)]
pub struct Query(BTreeMap<String, Vec<String>>);

impl Query {
    /// Reads a query string.
    pub fn parse(text: &str) -> Self {
        let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in text.split('&').filter(|p| !p.is_empty()) {
            let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
            let decode = |s: &str| percent_decode(&s.replace('+', " "));
            out.entry(decode(k)).or_default().push(decode(v));
        }
        Query(out)
    }

    /// The first value of a key, or "".
    pub fn get(&self, key: &str) -> &str {
        self.0.get(key).and_then(|v| v.first()).map_or("", String::as_str)
    }

    /// Whether the key is there.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// All values of a key.
    pub fn all(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// A boolean; `true`, `1` and the empty value count as set.
    pub fn flag(&self, key: &str) -> bool {
        self.has(key) && matches!(self.get(key), "true" | "1" | "True" | "")
    }

    /// A number.
    ///
    /// # Errors
    /// 400 when it is there and is none.
    pub fn number(&self, key: &str) -> ApiResult<Option<i64>> {
        match self.get(key) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax for {key}"))
            }),
        }
    }
}

/// What is done about unknown and duplicate fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Dropped silently.
    Ignore,
    /// Dropped, with a warning header.
    #[default]
    Warn,
    /// Refused.
    Strict,
}

/// Options of a write.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Everything but the writing.
    pub dry_run: bool,
    /// Who owns the fields being set.
    pub field_manager: String,
    /// Unknown and duplicate fields.
    pub field_validation: FieldValidation,
    /// Server-side apply takes over conflicting fields.
    pub force: bool,
}

impl WriteOptions {
    /// Reads them from the query; the manager defaults to the first word of the user agent.
    ///
    /// # Errors
    /// 400 for values Kubernetes does not know, 422-like texts as Kubernetes words them.
    pub fn read(query: &Query, user_agent: &str) -> ApiResult<Self> {
        let dry_run = match query.all("dryRun") {
            [] => false,
            all if all.iter().all(|v| v == "All") => true,
            _ => return Err(ApiError::bad_request("dryRun: Unsupported value: supported values: \"All\"")),
        };
        let field_validation = match query.get("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                return Err(ApiError::bad_request(format!(
                    "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
                )));
            }
        };
        let named = query.get("fieldManager");
        if named.len() > 128 {
            return Err(ApiError::bad_request("fieldManager: Too long: may not be more than 128 bytes"));
        }
        let agent = user_agent.split('/').next().filter(|s| !s.is_empty()).unwrap_or("unknown");
        let field_manager = if named.is_empty() { agent } else { named }.chars().take(128).collect();
        Ok(WriteOptions { dry_run, field_manager, field_validation, force: query.flag("force") })
    }
}

/// Options of a deletion.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds a pod gets.
    pub grace_period: Option<i64>,
    /// `Background`, `Foreground` or `Orphan`; "" is the default (background).
    pub propagation: String,
    /// Only if the object has this uid.
    pub uid: Option<String>,
    /// Only if the object has this resourceVersion.
    pub resource_version: Option<String>,
    /// Everything but the deleting.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Reads body (a `DeleteOptions` object or nothing) and query.
    ///
    /// # Errors
    /// 400 for a body that is no JSON or an unknown propagation policy.
    pub fn read(body: &[u8], query: &Query) -> ApiResult<Self> {
        let v: Value = if body.iter().all(u8::is_ascii_whitespace) {
            Value::Null
        } else if body.starts_with(b"k8s\0") {
            super::schema::wire::decode(body)
                .ok_or_else(|| ApiError::bad_request("couldn't decode DeleteOptions"))?
        } else {
            serde_json::from_slice(body)
                .map_err(|e| ApiError::bad_request(format!("couldn't decode DeleteOptions: {e}")))?
        };
        let text = |k: &str| {
            v[k].as_str().map(String::from).or_else(|| query.has(k).then(|| query.get(k).to_string()))
        };
        let mut propagation = text("propagationPolicy").unwrap_or_default();
        if propagation.is_empty()
            && (v["orphanDependents"] == true || query.get("orphanDependents") == "true")
        {
            propagation = "Orphan".into();
        }
        if !matches!(propagation.as_str(), "" | "Background" | "Foreground" | "Orphan") {
            return Err(ApiError::bad_request(format!(
                "propagationPolicy: Unsupported value: {propagation:?}: supported values: \"Foreground\", \"Background\", \"Orphan\""
            )));
        }
        let grace_period = match v["gracePeriodSeconds"].as_i64() {
            Some(n) => Some(n),
            None => query.number("gracePeriodSeconds")?,
        };
        Ok(DeleteOptions {
            grace_period,
            propagation,
            uid: v["preconditions"]["uid"].as_str().map(String::from),
            resource_version: v["preconditions"]["resourceVersion"].as_str().map(String::from),
            dry_run: v["dryRun"].as_array().is_some_and(|a| !a.is_empty()) || query.has("dryRun"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let t = |p: &str| match route(p) {
            Route::Resource(t) => (
                t.group,
                t.plural,
                t.namespace.unwrap_or_default(),
                t.name.unwrap_or_default(),
                t.sub.unwrap_or_default(),
            ),
            other => panic!("{other:?}"),
        };
        let s = |a: [&str; 5]| (a[0].into(), a[1].into(), a[2].into(), a[3].into(), a[4].into());
        assert_eq!(t("/api/v1/pods"), s(["", "pods", "", "", ""]));
        assert_eq!(t("/api/v1/namespaces"), s(["", "namespaces", "", "", ""]));
        assert_eq!(t("/api/v1/namespaces/a"), s(["", "namespaces", "", "a", ""]));
        assert_eq!(t("/api/v1/namespaces/a/finalize"), s(["", "namespaces", "", "a", "finalize"]));
        assert_eq!(t("/api/v1/namespaces/a/pods/b/log"), s(["", "pods", "a", "b", "log"]));
        assert_eq!(t("/apis/apps/v1/namespaces/a/deployments"), s(["apps", "deployments", "a", "", ""]));
        assert_eq!(
            t("/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node"),
            s(["rbac.authorization.k8s.io", "clusterroles", "", "system:node", ""])
        );
        assert!(matches!(route("/apis/apps/v1"), Route::Discovery(p) if p.len() == 3));
        assert!(matches!(route("/version"), Route::Other(_)));
        assert_eq!(Query::parse("a=b%2Cc&d=x+y").get("a"), "b,c");
    }
}
