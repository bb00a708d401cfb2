//! Making and removing a pod's sandbox: volumes, cgroup, the process that holds the namespaces, the network.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::volumes::Volumes;
use super::{PodId, Shared};
use crate::kubelet::cni::Attachment;
use crate::kubelet::files;
use crate::kubelet::process::{Process, SandboxSpec, cgroup};

/// The interface of every pod.
const IFNAME: &str = "eth0";
/// How long a network that cannot be detached holds a pod's end up. Then garbage collection takes over.
const DETACH_PATIENCE: Duration = Duration::from_secs(60);
/// How long processes may take to vanish after SIGKILL.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// The longest pauses between attempts: when the network is not ready yet, and otherwise.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// A sandbox that is there.
#[derive(Debug, Clone)]
pub(super) struct Sandbox {
    /// Identifier the network plugin knows it by; empty for host network.
    pub(super) id: String,
    /// Its process; none for host network.
    pub(super) pid: Option<u32>,
    /// Addresses of the pod.
    pub(super) ips: Vec<IpAddr>,
}

/// Why there is none.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) retry: Duration,
}

fn failure(reason: &'static str, message: String) -> Failure {
    Failure { reason, message, retry: RETRY.1 }
}

/// Makes the sandbox; its process is handed out to be waited for.
pub(super) async fn create(
    shared: &Arc<Shared>,
    pod: &Pod,
    volumes: &Volumes,
) -> Result<(Sandbox, Option<Process>), Failure> {
    let id = PodId::of(pod);
    let spec = pod.spec.clone().unwrap_or_default();
    let host_network = spec.host_network == Some(true);
    if !host_network && let Err(why) = shared.network.borrow().clone() {
        let message = format!("network is not ready: container runtime network not ready: {why}");
        return Err(Failure { reason: "NetworkNotReady", message, retry: RETRY.0 });
    }
    volumes.prepare().await.map_err(|why| failure("FailedMount", why))?;
    let pod_cgroup = shared.pod_cgroup(&id.uid);
    cgroup::create(&pod_cgroup)
        .map_err(|e| failure("FailedCreatePodContainer", format!("cgroup {}: {e}", pod_cgroup.display())))?;
    if host_network {
        let sandbox = Sandbox { id: String::new(), pid: None, ips: shared.config.node_ips() };
        return Ok((sandbox, None));
    }
    let failed =
        |why: String| failure("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {why}"));
    shared
        .cni
        .status()
        .await
        .map_err(|e| Failure { retry: RETRY.0, ..failed(format!("network is not ready: {e}")) })?;
    let sandbox_id = format!("{}{:x}", id.uid.replace('-', ""), jiff::Timestamp::now().as_nanosecond());
    let sandbox_cgroup = pod_cgroup.join("sandbox");
    cgroup::create(&sandbox_cgroup)
        .map_err(|e| failed(format!("cgroup {}: {e}", sandbox_cgroup.display())))?;
    let hostname = files::hostname(&spec, &id.name);
    let program = SandboxSpec { hostname, cgroup: sandbox_cgroup.clone() }.program();
    let process = shared.spawner.spawn(program).await.map_err(|e| failed(e.to_string()))?;
    let key = (sandbox_id.clone(), IFNAME.to_string());
    shared.attached().insert(key.clone());
    let at = attachment(pod, &id, &sandbox_id, process.pid);
    match shared.cni.add(&at).await {
        Ok(result) if !result.ips.is_empty() => {
            tracing::info!(namespace = id.namespace, pod = id.name, ips = ?result.ips, "network attached");
            let sandbox = Sandbox { id: sandbox_id, pid: Some(process.pid), ips: result.ips };
            Ok((sandbox, Some(process)))
        }
        other => {
            let why = match other {
                Err(e) => e.to_string(),
                Ok(_) => {
                    let _ = shared.cni.del(&at).await;
                    "the network plugin returned no address".into()
                }
            };
            shared.attached().remove(&key);
            cgroup::kill(&sandbox_cgroup);
            let _ = process.wait().await;
            Err(failed(format!("failed to setup network for sandbox {sandbox_id:?}: {why}")))
        }
    }
}

fn attachment(pod: &Pod, id: &PodId, sandbox_id: &str, pid: u32) -> Attachment {
    let arg = |k: &str, v: &str| (k.to_string(), v.to_string());
    Attachment {
        container_id: sandbox_id.into(),
        netns: Some(PathBuf::from(format!("/proc/{pid}/ns/net"))),
        ifname: IFNAME.into(),
        args: vec![
            // Unknown arguments are not an error for the plugin.
            arg("IgnoreUnknown", "1"),
            arg("K8S_POD_NAMESPACE", &id.namespace),
            arg("K8S_POD_NAME", &id.name),
            arg("K8S_POD_INFRA_CONTAINER_ID", sandbox_id),
            arg("K8S_POD_UID", &id.uid),
        ],
        capabilities: capabilities(pod),
    }
}

/// What plugins may ask for by declaring a capability.
fn capabilities(pod: &Pod) -> BTreeMap<String, Value> {
    let ports = pod.spec.iter().flat_map(|s| &s.containers).flat_map(|c| c.ports.iter().flatten());
    let mappings: Vec<Value> = ports
        .filter(|p| p.host_port.is_some_and(|h| h > 0))
        .map(|p| {
            json!({"hostPort": p.host_port, "containerPort": p.container_port,
                "protocol": p.protocol.as_deref().unwrap_or("TCP").to_lowercase(),
                "hostIP": p.host_ip.clone().unwrap_or_default()})
        })
        .collect();
    let mut all = BTreeMap::from([(
        "io.kubernetes.cri.pod-annotations".to_string(),
        json!(pod.metadata.annotations.clone().unwrap_or_default()),
    )]);
    if !mappings.is_empty() {
        all.insert("portMappings".into(), Value::Array(mappings));
    }
    all
}

/// Detaches the network and ends the sandbox's process and everything else of the pod. A network that refuses is tried
/// again for a while; `complain` is told why.
pub(super) async fn remove(shared: &Arc<Shared>, pod: &Pod, sandbox: &Sandbox, complain: impl Fn(&str)) {
    let id = PodId::of(pod);
    if let Some(pid) = sandbox.pid {
        let at = attachment(pod, &id, &sandbox.id, pid);
        let end = tokio::time::Instant::now() + DETACH_PATIENCE;
        let mut pause = Duration::from_millis(500);
        while let Err(error) = shared.cni.del(&at).await {
            complain(&format!("failed to destroy network for sandbox {:?}: {error}", sandbox.id));
            if tokio::time::Instant::now() > end {
                tracing::warn!(sandbox = sandbox.id, "network not detached: left to garbage collection");
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
        shared.attached().remove(&(sandbox.id.clone(), IFNAME.to_string()));
    }
    let dir = shared.pod_cgroup(&id.uid);
    if let Err(error) = cgroup::remove(&dir, KILL_PATIENCE).await {
        tracing::warn!(path = %dir.display(), %error, "cgroup of a pod not removed");
    }
}
