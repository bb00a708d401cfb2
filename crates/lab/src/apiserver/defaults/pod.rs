//! Defaults of pods and pod templates.

use serde_json::{Value, json};

use crate::apiserver::object::{default, default_text, each, object};

/// A pod: its specification's defaults and the phase it starts in.
pub fn pod(v: &mut Value) {
    object(v, "spec");
    if let Some(spec) = v.get_mut("spec") {
        pod_spec(spec);
        default(spec, "enableServiceLinks", true);
        default(spec, "preemptionPolicy", "PreemptLowerPriority");
        default(spec, "priority", 0);
        default_text(spec, "serviceAccountName", "default");
        let account = spec["serviceAccountName"].clone();
        default(spec, "serviceAccount", account);
        default_tolerations(spec);
    }
    let qos = qos_class(&v["spec"]);
    let status = object(v, "status");
    status.entry("phase").or_insert_with(|| "Pending".into());
    status.entry("qosClass").or_insert_with(|| qos.into());
}

/// What the DefaultTolerationSeconds admission plugin adds.
fn default_tolerations(spec: &mut Value) {
    default(spec, "tolerations", json!([]));
    let Some(list) = spec["tolerations"].as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = list.iter().any(|t| {
            let (k, effect) = (t["key"].as_str().unwrap_or(""), t["effect"].as_str().unwrap_or(""));
            (k == key || (k.is_empty() && t["operator"] == "Exists"))
                && (effect == "NoExecute" || effect.is_empty())
        });
        if !tolerated {
            list.push(
                json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}),
            );
        }
    }
}

fn qos_class(spec: &Value) -> &'static str {
    let containers = spec["containers"].as_array().map_or(&[][..], Vec::as_slice);
    let has = |c: &Value, which: &str| c["resources"][which].as_object().is_some_and(|m| !m.is_empty());
    if containers.iter().all(|c| !has(c, "limits") && !has(c, "requests")) {
        return "BestEffort";
    }
    let guaranteed = containers.iter().all(|c| {
        let (limits, requests) = (&c["resources"]["limits"], &c["resources"]["requests"]);
        ["cpu", "memory"]
            .iter()
            .all(|r| !limits[r].is_null() && (requests[r].is_null() || requests[r] == limits[r]))
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

/// A pod specification, in a pod or a template.
pub fn pod_spec(spec: &mut Value) {
    default_text(spec, "restartPolicy", "Always");
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "schedulerName", "default-scheduler");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "securityContext", json!({}));
    let host_network = spec["hostNetwork"] == true;
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for c in each(spec, list) {
            container(c, host_network);
        }
    }
    for volume in each(spec, "volumes") {
        self::volume(volume);
    }
}

fn container(c: &mut Value, host_network: bool) {
    default_text(c, "terminationMessagePath", "/dev/termination-log");
    default_text(c, "terminationMessagePolicy", "File");
    let image = c["image"].as_str().unwrap_or("").to_string();
    if !image.is_empty() {
        let last = image.rsplit('/').next().unwrap_or("");
        let latest = !image.contains('@') && (!last.contains(':') || last.ends_with(":latest"));
        default_text(c, "imagePullPolicy", if latest { "Always" } else { "IfNotPresent" });
    }
    default(c, "resources", json!({}));
    if let Some(limits) = c["resources"].get("limits").and_then(Value::as_object).cloned() {
        let requests = object(&mut c["resources"], "requests");
        for (k, v) in limits {
            requests.entry(k).or_insert(v);
        }
    }
    for port in each(c, "ports") {
        default_text(port, "protocol", "TCP");
        if host_network && let Some(number) = port.get("containerPort").cloned() {
            default(port, "hostPort", number);
        }
    }
    for env in each(c, "env") {
        if let Some(field) = env.get_mut("valueFrom").and_then(|f| f.get_mut("fieldRef")) {
            default_text(field, "apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = c.get_mut(name) {
            default(probe, "timeoutSeconds", 1);
            default(probe, "periodSeconds", 10);
            default(probe, "successThreshold", 1);
            default(probe, "failureThreshold", 3);
            handler(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(h) = c.get_mut("lifecycle").and_then(|l| l.get_mut(hook)) {
            handler(h);
        }
    }
}

fn handler(h: &mut Value) {
    if let Some(http) = h.get_mut("httpGet") {
        default_text(http, "path", "/");
        default_text(http, "scheme", "HTTP");
    }
    if let Some(grpc) = h.get_mut("grpc") {
        default(grpc, "service", "");
    }
}

fn volume(v: &mut Value) {
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(s) = v.get_mut(source) {
            default(s, "defaultMode", 420);
        }
    }
    if let Some(host) = v.get_mut("hostPath") {
        default(host, "type", "");
    }
    for source in v.get_mut("projected").into_iter().flat_map(|p| each(p, "sources")) {
        if let Some(token) = source.get_mut("serviceAccountToken") {
            default(token, "expirationSeconds", 3600);
        }
    }
    let items = |v: &mut Value| {
        for item in each(v, "items") {
            if let Some(field) = item.get_mut("fieldRef") {
                default_text(field, "apiVersion", "v1");
            }
        }
    };
    if let Some(d) = v.get_mut("downwardAPI") {
        items(d);
    }
    for source in v.get_mut("projected").into_iter().flat_map(|p| each(p, "sources")) {
        if let Some(d) = source.get_mut("downwardAPI") {
            items(d);
        }
    }
    let sources = [
        "secret",
        "configMap",
        "emptyDir",
        "hostPath",
        "projected",
        "downwardAPI",
        "persistentVolumeClaim",
        "csi",
        "nfs",
        "ephemeral",
        "image",
    ];
    if sources.iter().all(|s| v.get(s).is_none()) && v.as_object().is_some_and(|m| m.len() == 1) {
        default(v, "emptyDir", json!({}));
    }
}
