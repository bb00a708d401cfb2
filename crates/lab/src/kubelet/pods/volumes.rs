//! Keeping a pod's volumes: made before its sandbox, refreshed when a config map or secret changes or a token ages.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Volume};
use tokio::sync::{Mutex, broadcast, watch};

use super::{PodId, Shared};
use crate::kubelet::env::Facts;
use crate::kubelet::sources::{self, Change, Tokens};
use crate::kubelet::volumes::{self, Render};

/// How often volumes are looked at without a change being reported: tokens age.
const PERIOD: Duration = Duration::from_secs(60);

/// The volumes of one pod.
pub(super) struct Volumes {
    shared: Arc<Shared>,
    pod: watch::Receiver<Arc<Pod>>,
    tokens: Mutex<Tokens>,
}

impl Volumes {
    pub(super) fn new(shared: Arc<Shared>, pod: watch::Receiver<Arc<Pod>>) -> Self {
        Volumes { shared, pod, tokens: Mutex::default() }
    }

    fn dir(&self, id: &PodId) -> PathBuf {
        self.shared.pod_dir(&id.uid).join("volumes")
    }

    /// Makes all volumes.
    ///
    /// # Errors
    /// What is missing or impossible, for an event.
    pub(super) async fn prepare(&self) -> Result<(), String> {
        let pod = self.pod.borrow().clone();
        let dir = self.dir(&PodId::of(&pod));
        for volume in volumes::all(&pod) {
            let own = dir.join(&volume.name);
            volumes::prepare(&volume, &own).map_err(|why| format!("MountVolume.SetUp failed: {why}"))?;
            if volumes::is_rendered(&volume) {
                let failed = |why| format!("MountVolume.SetUp failed for volume {:?} : {why}", volume.name);
                self.render(&pod, &volume).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    async fn render(&self, pod: &Pod, volume: &Volume) -> Result<bool, String> {
        let id = PodId::of(pod);
        let client = &self.shared.config.client;
        let text = |e: kube::Error| e.to_string();
        let wanted = volumes::references(volume);
        let contents = sources::fetch(client, &id.namespace, &wanted).await.map_err(text)?;
        let tokens =
            self.tokens.lock().await.get(client, pod, volumes::tokens(volume)).await.map_err(text)?;
        let host_ips = self.shared.config.node_ips().iter().map(ToString::to_string).collect();
        let facts = Facts { host_ips, ..Facts::default() };
        let payload = Render { pod, facts: &facts, sources: &contents, tokens: &tokens }.volume(volume)?;
        volumes::write_atomic(&self.dir(&id).join(&volume.name), &payload).map_err(|e| e.to_string())
    }

    /// Refreshes until dropped. What cannot be rendered keeps its old content.
    pub(super) async fn keep_fresh(self: Arc<Self>) {
        let mut changes = self.shared.changes.subscribe();
        let mut pods = self.pod.clone();
        let rendered =
            |pod: &Pod| volumes::all(pod).into_iter().filter(volumes::is_rendered).collect::<Vec<_>>();
        if rendered(&self.pod.borrow()).is_empty() {
            return;
        }
        // A change may have come between the first rendering and this subscription.
        let mut only: Option<BTreeSet<_>> = None;
        loop {
            let pod = self.pod.borrow().clone();
            for volume in rendered(&pod) {
                let references = volumes::references(&volume);
                if only.as_ref().is_some_and(|o| references.is_disjoint(o)) {
                    continue;
                }
                let name = volume.name.clone();
                match self.render(&pod, &volume).await {
                    Ok(true) => tracing::debug!(pod = pod.metadata.name, volume = name, "volume updated"),
                    Ok(false) => {}
                    Err(why) => tracing::warn!(
                        pod = pod.metadata.name,
                        volume = name,
                        why,
                        "volume keeps its content"
                    ),
                }
            }
            only = loop {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                tokio::select! {
                    change = changes.recv() => match change {
                        Ok(Change::Object(kind, ns, name)) if ns == namespace => break Some([(kind, name)].into()),
                        Ok(Change::Object(..)) => {}
                        Ok(Change::Anything) | Err(broadcast::error::RecvError::Lagged(_)) => break None,
                        Err(broadcast::error::RecvError::Closed) => return,
                    },
                    changed = pods.changed() => if changed.is_err() { return } else { break None },
                    () = tokio::time::sleep(PERIOD) => break None,
                }
            };
        }
    }
}
