//! Whether nodes are alive. A kubelet renews its node's Lease; when that stops for the grace period, what the node last
//! said about itself is not believed any more: its conditions become Unknown and its pods not ready, so that services
//! send nothing there. A kubelet that comes back says itself what is so.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::Instant;

use crate::controllers::Shared;
use crate::controllers::base::Key;
use crate::controllers::base::recorder::Recorder;
use crate::controllers::base::writes::{Error, Writes};
use crate::controllers::pods;

/// Namespace of the Leases.
const LEASES: &str = "kube-node-lease";
/// How often nodes are looked at, as part of the grace period.
const LOOKS: u32 = 8;
/// Conditions a node always has.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Signs of life of nodes, timed by this process's clock: a node's own clock may be wrong.
#[derive(Default)]
struct Pulse {
    last: HashMap<String, (String, Instant)>,
}

impl Pulse {
    /// Notes a node's sign of life and says how long ago it changed.
    fn silent(&mut self, node: &str, sign: String, now: Instant) -> Duration {
        let entry = self.last.entry(node.to_string()).or_insert_with(|| (sign.clone(), now));
        if entry.0 != sign {
            *entry = (sign, now);
        }
        now - entry.1
    }
}

/// The status of a node that is silent; none if it says so already.
fn lost(status: &NodeStatus, now: Timestamp) -> Option<NodeStatus> {
    let mut status = status.clone();
    let conditions = status.conditions.get_or_insert_default();
    let mut changed = false;
    for kind in CONDITIONS {
        let had = conditions.iter().position(|c| c.type_ == kind);
        if had.is_some_and(|i| conditions[i].status == "Unknown") {
            continue;
        }
        changed = true;
        let heartbeat = had.and_then(|i| conditions[i].last_heartbeat_time.clone());
        let condition = NodeCondition {
            type_: kind.into(),
            status: "Unknown".into(),
            reason: Some("NodeStatusUnknown".into()),
            message: Some("Kubelet stopped posting node status.".into()),
            last_heartbeat_time: heartbeat,
            last_transition_time: Some(Time(now)),
        };
        match had {
            Some(i) => conditions[i] = condition,
            None => conditions.push(condition),
        }
    }
    changed.then_some(status)
}

/// A pod of a lost node: not ready; none if it says so already.
fn unready(pod: &Pod, now: Timestamp) -> Option<Pod> {
    let mut pod = pod.clone();
    let conditions = pod.status.as_mut()?.conditions.as_mut()?;
    let ready = conditions.iter_mut().find(|c| c.type_ == "Ready" && c.status != "False")?;
    ready.status = "False".into();
    ready.reason = Some("NodeNotReady".into());
    ready.message = Some("The node stopped renewing its Lease.".into());
    ready.last_transition_time = Some(Time(now));
    Some(pod)
}

struct Controller {
    shared: Arc<Shared>,
    writes: Writes,
    events: Recorder,
}

/// Starts; the future works until shutdown.
pub(crate) fn start(shared: Arc<Shared>) -> impl Future<Output = ()> + Send {
    let controller = Controller {
        writes: shared.writes("node-controller"),
        events: shared.recorder("node-controller"),
        shared: shared.clone(),
    };
    async move {
        shared.synced().await;
        let mut pulse = Pulse::default();
        let mut ticks = tokio::time::interval(shared.config.node_grace / LOOKS);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shared.shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let nodes = shared.nodes.all();
            pulse.last.retain(|name, _| nodes.iter().any(|n| n.name_any() == *name));
            for node in nodes {
                if let Err(error) = controller.look(&node, &mut pulse).await {
                    tracing::debug!(node = %node.name_any(), %error, "node not updated, trying again");
                }
            }
        }
    }
}

impl Controller {
    async fn look(&self, node: &Node, pulse: &mut Pulse) -> Result<(), Error> {
        let name = node.name_any();
        let lease = self.shared.leases.get(&Key::new(LEASES, &name));
        let renewed = lease.and_then(|l| l.spec.as_ref()?.renew_time.as_ref().map(|t| t.0.to_string()));
        let status = node.status.clone().unwrap_or_default();
        let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready");
        let heartbeat = ready.and_then(|c| c.last_heartbeat_time.as_ref()).map(|t| t.0.to_string());
        let sign = format!("{} {}", renewed.unwrap_or_default(), heartbeat.unwrap_or_default());
        if pulse.silent(&name, sign, Instant::now()) <= self.shared.config.node_grace {
            return Ok(());
        }
        let now = Timestamp::now();
        if let Some(status) = lost(&status, now) {
            self.writes.status(&Node { status: Some(status), ..node.clone() }).await?;
            let message = format!("Node {name} status is now: NodeNotReady");
            self.events.normal(node, "NodeNotReady", message);
            tracing::warn!(node = %name, "node stopped renewing its Lease");
        }
        for pod in self.shared.pods.all() {
            if pods::node_of(&pod) == name
                && let Some(pod) = unready(&pod, now)
            {
                self.events.warning(&pod, "NodeNotReady", "Node is not ready".into());
                match self.writes.status(&pod).await {
                    Ok(_) => {}
                    Err(error) if error.is_race() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::pods::make;

    #[test]
    fn silence_is_measured_from_the_last_change() {
        let mut pulse = Pulse::default();
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(pulse.silent("n", "1".into(), at(0)), Duration::ZERO);
        assert_eq!(pulse.silent("n", "1".into(), at(41)), Duration::from_secs(41));
        assert_eq!(pulse.silent("n", "2".into(), at(42)), Duration::ZERO);
    }

    #[test]
    fn lost_nodes_are_unknown_once() {
        let status = NodeStatus::default();
        let now = Timestamp::from_second(5).unwrap();
        let gone = lost(&status, now).unwrap();
        let kinds: Vec<String> =
            gone.conditions.iter().flatten().map(|c| format!("{}={}", c.type_, c.status)).collect();
        assert_eq!(
            kinds,
            ["Ready=Unknown", "MemoryPressure=Unknown", "DiskPressure=Unknown", "PIDPressure=Unknown"]
        );
        assert_eq!(lost(&gone, now), None);
        let pod = unready(&make::pod("p", "n", Some(1)), now).unwrap();
        assert!(!pods::is_ready(&pod));
        assert_eq!(unready(&pod, now), None);
    }
}
