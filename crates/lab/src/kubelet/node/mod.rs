//! The Node object and its lease: registered at start, its readiness follows the network, its lease shows that the
//! kubelet lives.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::KubeletConfig;
use super::cni::Cni;

/// How often the lease is renewed.
const LEASE: Duration = Duration::from_secs(10);
/// How long a lease lasts, in seconds.
const LEASE_SECONDS: i32 = 40;
/// How often the network is asked while it is not ready, and while it is.
const ASK: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// How often the status is written even if nothing changed.
const REPORT: Duration = Duration::from_secs(300);

/// Labels of a node: those every node has, and the configured ones.
fn labels(config: &KubeletConfig) -> BTreeMap<String, String> {
    let arch = arch();
    let mut all: BTreeMap<String, String> = [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_string(), v.to_string()))
    .collect();
    all.extend(config.labels.clone());
    all
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map(|t| t.trim().to_string()).unwrap_or_default()
}

fn resources() -> Value {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = read("/proc/meminfo");
    let kib = memory
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:")?.split_whitespace().next())
        .unwrap_or("1048576");
    json!({"cpu": cpus.to_string(), "memory": format!("{kib}Ki"), "ephemeral-storage": "10Gi", "pods": "110"})
}

/// The status of the node, as a strategic merge patch. `since` is when its readiness last changed.
fn status(config: &KubeletConfig, network: &Result<(), String>, since: Timestamp, now: Timestamp) -> Value {
    let condition = |kind: &str, status: bool, reason: &str, message: &str, since: Timestamp| {
        json!({"type": kind, "status": if status { "True" } else { "False" }, "reason": reason, "message": message,
            "lastHeartbeatTime": Time(now), "lastTransitionTime": Time(since)})
    };
    let ready = match network {
        Ok(()) => condition("Ready", true, "KubeletReady", "kubelet is posting ready status", since),
        Err(why) => {
            let message = format!(
                "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: {why}"
            );
            condition("Ready", false, "KubeletNotReady", &message, since)
        }
    };
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let image =
        release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"');
    let internal = config.node_ips().into_iter().map(|ip| ("InternalIP", ip.to_string()));
    let addresses: Vec<Value> = internal
        .chain([("Hostname", config.node_name.clone())])
        .map(|(kind, address)| json!({"type": kind, "address": address}))
        // A patch would merge addresses by their type, and there may be two of one.
        .chain([json!({"$patch": "replace"})])
        .collect();
    json!({
        "addresses": addresses,
        "capacity": resources(),
        "allocatable": resources(),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": config.listen.port()}},
        "nodeInfo": {
            "architecture": arch(), "operatingSystem": "linux", "osImage": image,
            "kernelVersion": read("/proc/sys/kernel/osrelease"), "bootID": read("/proc/sys/kernel/random/boot_id"),
            "machineID": config.node_name, "systemUUID": config.node_name,
            "containerRuntimeVersion": concat!("causeway-lab://", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": concat!("v1.33.0-causeway-lab.", env!("CARGO_PKG_VERSION")), "kubeProxyVersion": "",
        },
        "conditions": [
            condition("MemoryPressure", false, "KubeletHasSufficientMemory", "kubelet has sufficient memory available", since),
            condition("DiskPressure", false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure", since),
            condition("PIDPressure", false, "KubeletHasSufficientPID", "kubelet has sufficient PID available", since),
            ready,
        ],
    })
}

/// Asks the network until `shutdown` and publishes the answer: ready, or why not.
pub async fn watch_network(cni: Cni, answer: watch::Sender<Result<(), String>>, shutdown: CancellationToken) {
    loop {
        let now = cni.status().await.map_err(|e| e.to_string());
        let pause = if now.is_ok() { ASK.1 } else { ASK.0 };
        answer.send_if_modified(|old| {
            let changed = *old != now;
            *old = now;
            changed
        });
        tokio::select! { () = tokio::time::sleep(pause) => {}, () = shutdown.cancelled() => return }
    }
}

/// Registers the node and keeps its status until `shutdown`.
pub async fn run(
    config: KubeletConfig,
    mut network: watch::Receiver<Result<(), String>>,
    shutdown: CancellationToken,
) {
    let mut since = Timestamp::now();
    let mut ready = None;
    loop {
        let state = network.borrow_and_update().clone();
        let now = Timestamp::now();
        if ready != Some(state.is_ok()) {
            since = now;
            ready = Some(state.is_ok());
            match &state {
                Ok(()) => tracing::info!(node = config.node_name, "node is ready"),
                Err(why) => tracing::info!(node = config.node_name, why, "node is not ready"),
            }
        }
        let pause = match publish(&config, status(&config, &state, since, now)).await {
            Ok(()) => REPORT,
            Err(error) => {
                tracing::warn!(%error, node = config.node_name, "node status not written");
                Duration::from_secs(1)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = network.changed() => if changed.is_err() { return },
            () = shutdown.cancelled() => return,
        }
    }
}

async fn publish(config: &KubeletConfig, status: Value) -> Result<(), kube::Error> {
    let api: Api<Node> = Api::all(config.client.clone());
    let name = &config.node_name;
    let meta = json!({"metadata": {"labels": labels(config)}});
    let params = PatchParams::default();
    match api.patch(name, &params, &Patch::Merge(&meta)).await {
        Ok(_) => {}
        Err(kube::Error::Api(e)) if e.code == 404 => {
            let mut node = Node::default();
            node.metadata.name = Some(name.clone());
            node.metadata.labels = Some(labels(config));
            node.metadata.annotations = Some(
                [("node.alpha.kubernetes.io/provided-node-ip".to_string(), config.node_ip.to_string())]
                    .into(),
            );
            if let Some(first) = config.pod_cidrs.first() {
                let spec = node.spec.get_or_insert_default();
                spec.pod_cidr = Some(first.to_string());
                spec.pod_cidrs = Some(config.pod_cidrs.iter().map(ToString::to_string).collect());
            }
            api.create(&PostParams::default(), &node).await?;
        }
        Err(error) => return Err(error),
    }
    api.patch_status(name, &params, &Patch::Strategic(&json!({"status": status}))).await?;
    Ok(())
}

/// Renews the node's lease in `kube-node-lease` until `shutdown`.
pub async fn renew_lease(config: KubeletConfig, shutdown: CancellationToken) {
    loop {
        let pause = match renew(&config).await {
            Ok(()) => LEASE,
            Err(error) => {
                tracing::warn!(%error, node = config.node_name, "node lease not renewed");
                Duration::from_secs(1)
            }
        };
        tokio::select! { () = tokio::time::sleep(pause) => {}, () = shutdown.cancelled() => return }
    }
}

async fn renew(config: &KubeletConfig) -> Result<(), kube::Error> {
    let api: Api<Lease> = Api::namespaced(config.client.clone(), "kube-node-lease");
    let name = &config.node_name;
    let now = MicroTime(Timestamp::now());
    let patch =
        json!({"spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now}});
    match api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Err(kube::Error::Api(e)) if e.code == 404 => {}
        other => return other.map(|_| ()),
    }
    let nodes: Api<Node> = Api::all(config.client.clone());
    let owner = nodes.get_opt(name).await?.and_then(|n| n.metadata.uid).map(|uid| OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.clone(),
        uid,
        ..OwnerReference::default()
    });
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            owner_references: owner.map(|o| vec![o]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    api.create(&PostParams::default(), &lease).await.map(|_| ())
}
