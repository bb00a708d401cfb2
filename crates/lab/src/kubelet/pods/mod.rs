//! The pods of the node: a watch that starts one [`worker`] per pod, and what all workers share.

mod network;
mod record;
mod sandbox;
mod start;
mod status;
mod volumes;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
pub use network::maintain as maintain_network;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::KubeletConfig;
use super::cni::Cni;
use super::events::{About, Events};
use super::logs::Logs;
use super::process::Spawner;
use super::sources::Change;

/// What all workers share.
pub struct Shared {
    /// The node.
    pub config: KubeletConfig,
    /// Starts processes.
    pub spawner: Spawner,
    /// The network.
    pub cni: Cni,
    /// Whether the network is ready.
    pub network: watch::Receiver<Result<(), String>>,
    /// Container logs.
    pub logs: Logs,
    /// Where events go.
    pub events: Events,
    /// Word of changed config maps and secrets.
    pub changes: broadcast::Sender<Change>,
    /// Attachments (sandbox, interface) that are in use or being made.
    pub attachments: Mutex<BTreeSet<(String, String)>>,
}

impl Shared {
    /// cgroup directory of a pod.
    fn pod_cgroup(&self, uid: &str) -> PathBuf {
        kubepods(&self.config).join(format!("pod{uid}"))
    }

    /// Directory of a pod's volumes and files.
    fn pod_dir(&self, uid: &str) -> PathBuf {
        self.config.state_dir.join("pods").join(uid)
    }

    fn attached(&self) -> std::sync::MutexGuard<'_, BTreeSet<(String, String)>> {
        self.attachments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The cgroup above all pods of a node.
pub fn kubepods(config: &KubeletConfig) -> PathBuf {
    config.cgroup.join("kubepods")
}

/// Who a pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodId {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

impl PodId {
    fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        PodId {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
        }
    }

    fn about(&self) -> About {
        About {
            kind: "Pod",
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
        }
    }
}

/// What a worker is told.
#[derive(Debug)]
enum Order {
    /// The pod as it is now.
    Pod(Arc<Pod>),
    /// The pod is no longer in the API.
    Gone,
}

/// Watches the node's pods and runs their workers until `shutdown`; then returns at once, the processes end with the
/// kubelet.
pub async fn run(shared: Arc<Shared>, shutdown: CancellationToken) {
    let api: Api<Pod> = Api::all(shared.config.client.clone());
    let wanted = watcher::Config::default().fields(&format!("spec.nodeName={}", shared.config.node_name));
    let mut stream = std::pin::pin!(watcher(api, wanted).default_backoff());
    let mut workers: BTreeMap<String, mpsc::UnboundedSender<Order>> = BTreeMap::new();
    let mut tasks: JoinSet<String> = JoinSet::new();
    let mut listed: BTreeSet<String> = BTreeSet::new();
    loop {
        let event = tokio::select! {
            event = stream.next() => match event { Some(e) => e, None => return },
            Some(ended) = tasks.join_next() => {
                match ended {
                    Ok(uid) => { workers.remove(&uid); }
                    Err(error) => tracing::error!(%error, "a pod worker ended unexpectedly"),
                }
                continue;
            }
            () = shutdown.cancelled() => return,
        };
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(pod)) => {
                listed.insert(pod.metadata.uid.clone().unwrap_or_default());
                assign(&shared, pod, &mut workers, &mut tasks);
            }
            Ok(watcher::Event::InitDone) => {
                for (_, worker) in workers.iter().filter(|(uid, _)| !listed.contains(*uid)) {
                    let _ = worker.send(Order::Gone);
                }
            }
            Ok(watcher::Event::Apply(pod)) => assign(&shared, pod, &mut workers, &mut tasks),
            Ok(watcher::Event::Delete(pod)) => {
                if let Some(worker) = workers.get(pod.metadata.uid.as_deref().unwrap_or_default()) {
                    let _ = worker.send(Order::Gone);
                }
            }
            Err(error) => tracing::warn!(%error, "watch of pods interrupted"),
        }
    }
}

fn assign(
    shared: &Arc<Shared>,
    pod: Pod,
    workers: &mut BTreeMap<String, mpsc::UnboundedSender<Order>>,
    tasks: &mut JoinSet<String>,
) {
    let id = PodId::of(&pod);
    let pod = Arc::new(pod);
    if let Some(worker) = workers.get(&id.uid)
        && worker.send(Order::Pod(pod.clone())).is_ok()
    {
        return;
    }
    // A pod that ended under an earlier kubelet has nothing to run; deleting it still needs someone.
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    if matches!(phase, "Succeeded" | "Failed") && pod.metadata.deletion_timestamp.is_none() {
        return;
    }
    let (orders, queue) = mpsc::unbounded_channel();
    workers.insert(id.uid.clone(), orders);
    tasks.spawn(worker::run(shared.clone(), pod, queue));
}
