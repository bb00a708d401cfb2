//! Environment and command line of a container: sources, references and `$(VAR)` expansion. Pure: values of config maps
//! and secrets are handed in.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, Pod};

/// A config map or a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// ConfigMap.
    ConfigMap,
    /// Secret.
    Secret,
}

impl Kind {
    /// As in messages.
    pub fn name(self) -> &'static str {
        match self {
            Kind::ConfigMap => "configmap",
            Kind::Secret => "secret",
        }
    }
}

/// Contents of config maps and secrets; `None` for one that does not exist.
pub type Sources = BTreeMap<(Kind, String), Option<BTreeMap<String, Vec<u8>>>>;

/// Facts about a pod that only its node knows.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Addresses of the pod, the primary first.
    pub pod_ips: Vec<String>,
    /// Addresses of the node, the primary first.
    pub host_ips: Vec<String>,
    /// `KUBERNETES_SERVICE_HOST`.
    pub api_host: String,
    /// `KUBERNETES_SERVICE_PORT`.
    pub api_port: u16,
    /// Host name inside the pod.
    pub hostname: String,
}

/// The config maps and secrets a container's environment refers to.
pub fn references(container: &Container) -> BTreeSet<(Kind, String)> {
    let mut all = BTreeSet::new();
    for from in container.env_from.iter().flatten() {
        all.extend(from.config_map_ref.iter().map(|r| (Kind::ConfigMap, r.name.clone())));
        all.extend(from.secret_ref.iter().map(|r| (Kind::Secret, r.name.clone())));
    }
    for from in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        all.extend(from.config_map_key_ref.iter().map(|r| (Kind::ConfigMap, r.name.clone())));
        all.extend(from.secret_key_ref.iter().map(|r| (Kind::Secret, r.name.clone())));
    }
    all
}

/// The whole environment of a container, later entries replacing earlier ones of the same name.
///
/// # Errors
/// A missing config map, secret or key that is not optional; a field that does not exist.
pub fn build(
    pod: &Pod,
    container: &Container,
    facts: &Facts,
    sources: &Sources,
) -> Result<Vec<(String, String)>, String> {
    let mut env = Env::default();
    env.set("PATH", crate::kubelet::process::container::DEFAULT_PATH);
    env.set("HOME", "/root");
    env.set("HOSTNAME", &facts.hostname);
    env.set("KUBERNETES_SERVICE_HOST", &facts.api_host);
    env.set("KUBERNETES_SERVICE_PORT", &facts.api_port.to_string());
    env.set("KUBERNETES_SERVICE_PORT_HTTPS", &facts.api_port.to_string());
    env.set("KUBERNETES_PORT", &format!("tcp://{}:{}", facts.api_host, facts.api_port));
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or("");
        let refs = [
            from.config_map_ref.as_ref().map(|r| (Kind::ConfigMap, &r.name, r.optional)),
            from.secret_ref.as_ref().map(|r| (Kind::Secret, &r.name, r.optional)),
        ];
        for (kind, name, optional) in refs.into_iter().flatten() {
            for (key, value) in content(sources, kind, name, optional)?.into_iter().flatten() {
                env.set(&format!("{prefix}{key}"), &String::from_utf8_lossy(value));
            }
        }
    }
    for entry in container.env.iter().flatten() {
        if let Some(value) = &entry.value {
            let value = expand(value, |name| env.get(name));
            env.set(&entry.name, &value);
            continue;
        }
        let Some(from) = &entry.value_from else {
            env.set(&entry.name, "");
            continue;
        };
        if let Some(f) = &from.field_ref {
            env.set(&entry.name, &field(pod, f, facts)?);
        } else if let Some(r) = &from.resource_field_ref {
            env.set(&entry.name, &resource(pod, container, r.container_name.as_deref(), &r.resource));
        } else {
            let refs = [
                from.config_map_key_ref.as_ref().map(|r| (Kind::ConfigMap, &r.name, &r.key, r.optional)),
                from.secret_key_ref.as_ref().map(|r| (Kind::Secret, &r.name, &r.key, r.optional)),
            ];
            for (kind, name, key, optional) in refs.into_iter().flatten() {
                match content(sources, kind, name, optional)?.and_then(|c| c.get(key)) {
                    Some(value) => env.set(&entry.name, &String::from_utf8_lossy(value)),
                    None if optional == Some(true) => {}
                    None => return Err(format!("couldn't find key {key} in {} {name}", kind.name())),
                }
            }
        }
    }
    Ok(env.entries)
}

type Content = BTreeMap<String, Vec<u8>>;

fn content<'a>(
    s: &'a Sources,
    kind: Kind,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<&'a Content>, String> {
    match s.get(&(kind, name.to_string())) {
        Some(Some(content)) => Ok(Some(content)),
        _ if optional == Some(true) => Ok(None),
        _ => Err(format!("{} {name:?} not found", kind.name())),
    }
}

#[derive(Debug, Default)]
struct Env {
    entries: Vec<(String, String)>,
}

impl Env {
    fn get(&self, name: &str) -> Option<String> {
        self.entries.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone())
    }

    fn set(&mut self, name: &str, value: &str) {
        match self.entries.iter_mut().find(|(n, _)| n == name) {
            Some((_, v)) => *v = value.into(),
            None => self.entries.push((name.into(), value.into())),
        }
    }
}

/// Replaces `$(NAME)` by its value; `$$` stands for `$`; a name without value stays as it is.
pub fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match value(name) {
                Some(v) => out.push_str(&v),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// The value of a `fieldRef`.
///
/// # Errors
/// For a field that cannot be referred to.
pub fn field(pod: &Pod, selector: &ObjectFieldSelector, facts: &Facts) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.clone().unwrap_or_default();
    let path = selector.field_path.as_str();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let map = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(format!("field {path:?} cannot be referred to")),
        };
        return Ok(map.and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let lines = |map: Option<&BTreeMap<String, String>>| {
        let lines: Vec<String> = map.into_iter().flatten().map(|(k, v)| format!("{k}={v:?}")).collect();
        lines.join("\n")
    };
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => spec.node_name.unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.unwrap_or_default(),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        _ => return Err(format!("field {path:?} cannot be referred to")),
    })
}

/// The value of a `resourceFieldRef`: what the container declares, or `0`; the lab limits nothing.
fn resource(pod: &Pod, container: &Container, other: Option<&str>, resource: &str) -> String {
    let containers = pod.spec.iter().flat_map(|s| &s.containers);
    let of = other.and_then(|name| containers.into_iter().find(|c| c.name == name)).unwrap_or(container);
    let declared = of.resources.as_ref().and_then(|r| {
        let (which, name) = resource.split_once('.')?;
        let map = if which == "limits" { r.limits.as_ref() } else { r.requests.as_ref() };
        map?.get(name).map(|q| q.0.clone())
    });
    declared.unwrap_or_else(|| "0".into())
}

/// What a container executes: `command` and `args`, expanded. The image is the host's root filesystem and has no entry
/// point, except the image `causeway`.
///
/// # Errors
/// If there is nothing to execute.
pub fn command_line(container: &Container, env: &[(String, String)]) -> Result<Vec<String>, String> {
    let image = container.image.as_deref().unwrap_or("");
    let mut argv: Vec<String> = container.command.clone().unwrap_or_default();
    if argv.is_empty() && is_causeway(image) {
        argv.push("/usr/local/bin/causeway".into());
    }
    argv.extend(container.args.clone().unwrap_or_default());
    if argv.is_empty() {
        return Err(format!(
            "no command specified: image {image:?} has no entry point in the lab, whose containers run commands of the \
             host; set \"command\""
        ));
    }
    let value = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    Ok(argv.iter().map(|a| expand(a, value)).collect())
}

/// Whether an image is ours: `causeway`, `registry.example/causeway:v1`.
fn is_causeway(image: &str) -> bool {
    let last = image.rsplit('/').next().unwrap_or("");
    last.split([':', '@']).next() == Some("causeway")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web-0", "namespace": "shop", "uid": "u", "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "serviceAccountName": "sa", "containers": []}}))
        .unwrap()
    }

    fn container(v: serde_json::Value) -> Container {
        serde_json::from_value(v).unwrap()
    }

    fn facts() -> Facts {
        let pod_ips = vec!["10.1.0.9".to_string()];
        Facts {
            pod_ips,
            host_ips: vec!["10.0.0.1".into(), "fd00::1".into()],
            api_host: "10.0.0.10".into(),
            api_port: 6443,
            hostname: "web-0".into(),
        }
    }

    #[test]
    fn expansion_as_kubernetes_documents_it() {
        let value = |n: &str| (n == "A").then(|| "1".to_string());
        for (text, want) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
        ] {
            assert_eq!(expand(text, value), want, "{text}");
        }
    }

    #[test]
    fn sources_fields_and_precedence() {
        let c = container(serde_json::json!({"name": "c",
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "gone", "optional": true}}],
            "env": [
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                {"name": "URL", "value": "http://$(IP):$(P_port)/$(KUBERNETES_SERVICE_PORT)"},
                {"name": "HOME", "value": "/x"}]}));
        let wanted: Vec<_> = references(&c).into_iter().map(|(k, n)| format!("{}/{n}", k.name())).collect();
        assert_eq!(wanted, ["configmap/cm", "secret/gone", "secret/s"]);
        let mut sources = Sources::new();
        sources.insert((Kind::ConfigMap, "cm".into()), Some([("port".to_string(), b"80".to_vec())].into()));
        sources.insert((Kind::Secret, "s".into()), Some([("k".to_string(), b"pw".to_vec())].into()));
        let env: BTreeMap<_, _> = build(&pod(), &c, &facts(), &sources).unwrap().into_iter().collect();
        assert_eq!(env["URL"], "http://10.1.0.9:80/6443");
        assert_eq!((env["APP"].as_str(), env["S"].as_str(), env["HOME"].as_str()), ("web", "pw", "/x"));
        sources.insert((Kind::Secret, "s".into()), None);
        assert_eq!(build(&pod(), &c, &facts(), &sources).unwrap_err(), "secret \"s\" not found");
    }

    #[test]
    fn command_lines() {
        let env = [("A".to_string(), "1".to_string())];
        let line = |v| command_line(&container(v), &env);
        assert_eq!(
            line(serde_json::json!({"name": "c", "command": ["echo"], "args": ["$(A)"]})).unwrap(),
            ["echo", "1"]
        );
        let ours = line(serde_json::json!({"name": "c", "image": "ghcr.io/x/causeway:1", "args": ["agent"]}))
            .unwrap();
        assert_eq!(ours, ["/usr/local/bin/causeway", "agent"]);
        let error = line(serde_json::json!({"name": "c", "image": "nginx"})).unwrap_err();
        assert!(error.starts_with("no command specified"), "{error}");
    }
}
