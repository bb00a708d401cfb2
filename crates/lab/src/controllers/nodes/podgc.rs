//! Pods nobody will ever finish: those of nodes that are gone, and those being deleted that never had a node.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::Instant;

use crate::controllers::Shared;
use crate::controllers::base::writes::{Error, Writable, Writes};
use crate::controllers::pods;

/// How often pods are looked at, as part of the grace period.
const LOOKS: u32 = 8;

/// Nodes that pods name and that are not there, with the time since when.
#[derive(Default)]
struct Missing {
    since: HashMap<String, Instant>,
}

impl Missing {
    /// The nodes that have been missing for longer than `grace`.
    fn gone(
        &mut self,
        pods: &[Arc<Pod>],
        nodes: &HashSet<String>,
        grace: Duration,
        now: Instant,
    ) -> HashSet<String> {
        let named: HashSet<&str> = pods.iter().map(|p| pods::node_of(p)).filter(|n| !n.is_empty()).collect();
        self.since.retain(|name, _| named.contains(name.as_str()) && !nodes.contains(name));
        for name in named.into_iter().filter(|n| !nodes.contains(*n)) {
            self.since.entry(name.to_string()).or_insert(now);
        }
        self.since.iter().filter(|(_, since)| now - **since > grace).map(|(name, _)| name.clone()).collect()
    }
}

/// Starts; the future works until shutdown.
pub(crate) fn start(shared: Arc<Shared>) -> impl Future<Output = ()> + Send {
    let writes = shared.writes("pod-garbage-collector");
    async move {
        shared.synced().await;
        let mut missing = Missing::default();
        let mut ticks = tokio::time::interval(shared.config.node_grace / LOOKS);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shared.shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let pods = shared.pods.all();
            let nodes = shared.nodes.all().iter().map(|n| n.name_any()).collect();
            let gone = missing.gone(&pods, &nodes, shared.config.node_grace, Instant::now());
            for pod in pods {
                let result = if gone.contains(pods::node_of(&pod)) {
                    collect(&writes, &pod).await
                } else if pods::node_of(&pod).is_empty() && pods::is_terminating(&pod) {
                    writes.delete(&*pod, Some(0)).await
                } else {
                    Ok(())
                };
                if let Err(error) = result {
                    tracing::debug!(%error, "pod not collected, trying again");
                }
            }
        }
    }
}

/// Fails and removes a pod whose node is gone; the server is asked first, the store may not know of a new node.
async fn collect(writes: &Writes, pod: &Pod) -> Result<(), Error> {
    let name = pods::node_of(pod);
    match Node::api(writes.client(), "").get_opt(name).await {
        Ok(None) => {}
        Ok(Some(_)) | Err(_) => return Ok(()),
    }
    if !pods::is_finished(pod) {
        let mut failed = pod.clone();
        let status = failed.status.get_or_insert_default();
        status.phase = Some("Failed".into());
        status.conditions.get_or_insert_default().push(PodCondition {
            type_: "DisruptionTarget".into(),
            status: "True".into(),
            reason: Some("DeletionByPodGC".into()),
            message: Some("PodGC: node no longer exists".into()),
            last_transition_time: Some(Time(Timestamp::now())),
            ..PodCondition::default()
        });
        writes.status(&failed).await?;
    }
    tracing::info!(pod = %pod.name_any(), node = %name, "removing the pod of a node that is gone");
    writes.delete(pod, Some(0)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::pods::make;

    #[test]
    fn nodes_must_be_missing_for_a_while() {
        let pods = [
            Arc::new(make::pod("a", "n1", None)),
            Arc::new(make::pod("b", "n2", None)),
            Arc::new(make::pod("c", "", None)),
        ];
        let nodes = HashSet::from(["n1".to_string()]);
        let mut missing = Missing::default();
        let start = Instant::now();
        let grace = Duration::from_secs(40);
        assert!(missing.gone(&pods, &nodes, grace, start).is_empty());
        assert_eq!(missing.gone(&pods, &nodes, grace, start + grace * 2), HashSet::from(["n2".to_string()]));
        // It came back, and went again: the time starts over.
        let both = HashSet::from(["n1".to_string(), "n2".to_string()]);
        assert!(missing.gone(&pods, &both, grace, start + grace * 2).is_empty());
        assert!(missing.gone(&pods, &nodes, grace, start + grace * 3).is_empty());
    }
}
