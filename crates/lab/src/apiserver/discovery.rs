//! Discovery: which groups, versions and resources there are, in the old form and the aggregated one.

use serde_json::{Value, json};

use super::Api;
use super::error::{ApiError, ApiResult};
use super::resources::Resource;

/// `/version`. The version says which Kubernetes' behaviour is followed.
pub fn version() -> Value {
    json!({
        "major": "1", "minor": "33", "gitVersion": "v1.33.0+causeway", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", a => a }),
    })
}

/// Answers a discovery path; the content type and the document.
///
/// # Errors
/// 404 for groups and versions there are not.
pub fn answer(api: &Api, parts: &[String], accept: &str) -> ApiResult<(String, Value)> {
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let plain = |v: Value| Ok(("application/json".to_string(), v));
    if let (["api"] | ["apis"], Some(version)) = (parts.as_slice(), wants_aggregated(accept)) {
        let content_type =
            format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
        return Ok((content_type, aggregated(api, parts[0] == "api", version)));
    }
    match parts.as_slice() {
        ["api"] => plain(json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{
                "clientCIDR": "0.0.0.0/0",
                "serverAddress": format!("{}:{}", api.options.advertise, api.options.advertise_port),
            }],
        })),
        ["apis"] => plain(json!({
            "kind": "APIGroupList", "apiVersion": "v1",
            "groups": groups(api).iter().map(|(g, vs)| group(g, vs)).collect::<Vec<_>>(),
        })),
        ["apis", name] => {
            let (g, versions) =
                groups(api).into_iter().find(|(g, _)| g == name).ok_or_else(ApiError::no_such_path)?;
            let mut v = group(&g, &versions);
            v["kind"] = "APIGroup".into();
            v["apiVersion"] = "v1".into();
            plain(v)
        }
        ["api", version] => plain(resource_list(api, "", version)?),
        ["apis", group, version] => plain(resource_list(api, group, version)?),
        _ => Err(ApiError::no_such_path()),
    }
}

fn wants_aggregated(accept: &str) -> Option<&'static str> {
    for range in accept.split(',') {
        if range.contains("as=APIGroupDiscoveryList") && range.contains("g=apidiscovery.k8s.io") {
            for (text, version) in [("v=v2beta1", "v2beta1"), ("v=v2", "v2")] {
                if range.split(';').any(|p| p.trim() == text) {
                    return Some(version);
                }
            }
        } else if range.trim().starts_with("application/json") {
            return None;
        }
    }
    None
}

/// Groups other than core with their versions, best version first.
pub fn groups(api: &Api) -> Vec<(String, Vec<String>)> {
    let mut out: Vec<(String, Vec<String>)> = Vec::new();
    for r in api.catalog.all().into_iter().filter(|r| !r.group.is_empty()) {
        match out.iter_mut().find(|(g, _)| *g == r.group) {
            Some((_, versions)) if versions.contains(&r.version) => {}
            Some((_, versions)) => versions.push(r.version.clone()),
            None => out.push((r.group.clone(), vec![r.version.clone()])),
        }
    }
    for (_, versions) in &mut out {
        versions.sort_by_key(|v| version_rank(v));
    }
    out
}

/// Kubernetes' order of versions: v2 before v1 before v2beta1 before v1alpha1, then the rest by name.
pub fn version_rank(v: &str) -> (u8, i64, i64, String) {
    let parse = || -> Option<(u8, i64, i64)> {
        let rest = v.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major: i64 = rest[..digits].parse().ok()?;
        let tail = &rest[digits..];
        if tail.is_empty() {
            return Some((0, -major, 0));
        }
        let (stage, minor) = match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
            (Some(n), _) => (1, n),
            (_, Some(n)) => (2, n),
            _ => return None,
        };
        Some((stage, -major, -minor.parse::<i64>().ok()?))
    };
    match parse() {
        Some((stage, major, minor)) => (stage, major, minor, String::new()),
        None => (3, 0, 0, v.to_string()),
    }
}

fn group(name: &str, versions: &[String]) -> Value {
    let all: Vec<Value> =
        versions.iter().map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v})).collect();
    json!({"name": name, "versions": all, "preferredVersion": all.first()})
}

fn resource_list(api: &Api, group: &str, version: &str) -> ApiResult<Value> {
    let rows: Vec<_> =
        api.catalog.all().into_iter().filter(|r| r.group == group && r.version == version).collect();
    if rows.is_empty() {
        return Err(ApiError::no_such_path());
    }
    let mut resources = Vec::new();
    for r in &rows {
        let mut main = json!({
            "name": r.plural, "singularName": r.singular, "namespaced": r.namespaced, "kind": r.kind, "verbs": r.verbs(),
        });
        if !r.short.is_empty() {
            main["shortNames"] = r.short.clone().into();
        }
        if !r.categories.is_empty() {
            main["categories"] = r.categories.clone().into();
        }
        resources.push(main);
        for (name, group, version, kind, verbs) in subresources(r) {
            let mut sub = json!({
                "name": format!("{}/{name}", r.plural), "singularName": "", "namespaced": r.namespaced, "kind": kind,
                "verbs": verbs,
            });
            if (group.as_str(), version.as_str()) != (r.group.as_str(), r.version.as_str()) {
                sub["group"] = group.into();
                sub["version"] = version.into();
            }
            resources.push(sub);
        }
    }
    let gv = if group.is_empty() { version.to_string() } else { format!("{group}/{version}") };
    Ok(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": gv, "resources": resources}))
}

type Sub = (String, String, String, String, &'static [&'static str]);

fn subresources(r: &Resource) -> Vec<Sub> {
    let own = |name: &str, kind: &str, verbs| -> Sub {
        (name.into(), r.group.clone(), r.version.clone(), kind.into(), verbs)
    };
    let mut out = Vec::new();
    if r.status {
        out.push(own("status", &r.kind, &["get", "patch", "update"]));
    }
    if r.scale.is_some() {
        out.push((
            "scale".into(),
            "autoscaling".into(),
            "v1".into(),
            "Scale".into(),
            &["get", "patch", "update"],
        ));
    }
    for (name, kind) in &r.extra {
        out.push(match name.as_str() {
            "log" => own(name, kind, &["get"]),
            "finalize" => own(name, kind, &["update"]),
            "eviction" => (name.clone(), "policy".into(), "v1".into(), kind.clone(), &["create"]),
            "token" => (name.clone(), "authentication.k8s.io".into(), "v1".into(), kind.clone(), &["create"]),
            _ => own(name, kind, &["create"]),
        });
    }
    out
}

fn aggregated(api: &Api, core: bool, version: &str) -> Value {
    let groups = if core { vec![(String::new(), vec!["v1".to_string()])] } else { groups(api) };
    let rows = api.catalog.all();
    let items: Vec<Value> = groups
        .iter()
        .map(|(g, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|v| {
                    let resources: Vec<Value> = rows
                        .iter()
                        .filter(|r| r.group == *g && r.version == *v)
                        .map(|r| aggregated_row(r))
                        .collect();
                    json!({"version": v, "freshness": "Current", "resources": resources})
                })
                .collect();
            let mut meta = json!({"creationTimestamp": null});
            if !g.is_empty() {
                meta["name"] = g.as_str().into();
            }
            json!({"metadata": meta, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {},
        "items": items,
    })
}

fn aggregated_row(r: &Resource) -> Value {
    let subs: Vec<Value> = subresources(r)
        .into_iter()
        .map(|(name, group, version, kind, verbs)| {
            json!({
                "subresource": name, "verbs": verbs,
                "responseKind": {"group": group, "version": version, "kind": kind},
            })
        })
        .collect();
    let mut v = json!({
        "resource": r.plural, "singularResource": r.singular, "verbs": r.verbs(),
        "scope": if r.namespaced { "Namespaced" } else { "Cluster" },
        "responseKind": {"group": r.group, "version": r.version, "kind": r.kind},
    });
    for (key, list) in [("shortNames", &r.short), ("categories", &r.categories)] {
        if !list.is_empty() {
            v[key] = list.clone().into();
        }
    }
    if !subs.is_empty() {
        v["subresources"] = subs.into();
    }
    v
}

#[cfg(test)]
mod tests {
    use super::version_rank;

    #[test]
    fn versions_in_kubernetes_order() {
        let mut v = ["v1alpha1", "v1", "foo", "v2beta1", "v10", "v2", "v1beta2"];
        v.sort_by_key(|v| version_rank(v));
        assert_eq!(v, ["v10", "v2", "v1", "v2beta1", "v1beta2", "v1alpha1", "foo"]);
    }
}
