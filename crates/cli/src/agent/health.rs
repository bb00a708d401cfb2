//! Node-to-node health: what this node probes, what it answers, and who is told.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use causeway_daemon::config::{Config, Key};
use causeway_daemon::duration::GoDuration;
use causeway_daemon::metrics::Metrics;
use causeway_daemon::shutdown::Shutdown;
use causeway_mesh::health::responder::{self, Faults};
use causeway_mesh::health::{Input, Monitor, Options, Outputs, Prober, Reachability, Report, Target};
use causeway_model::{ClusterName, Event, Keyed, Node, NodeKey};
use tokio::sync::{mpsc, watch};

use super::files;
use crate::metrics::health::{Latency, Statuses};

/// The first three are Cilium's.
pub(super) const KEYS: [Key; 5] = [
    Key::with_default("enable-health-checking", "true"),
    Key::with_default("cluster-health-port", "4240"),
    Key::with_default("health-check-icmp-failure-threshold", "3"),
    Key::with_default("health-check-interval", "1s"),
    Key::with_default("health-check-timeout", "500ms"),
];

/// What the state task has of it. Where health checking is off, nobody listens and nothing ever changes.
pub(super) struct Feed {
    own: ClusterName,
    inputs: mpsc::UnboundedSender<Input>,
    changes: mpsc::UnboundedReceiver<Vec<Reachability>>,
}

/// What is known, for whoever asks.
#[derive(Debug, Clone)]
pub(super) struct NodeHealth {
    report: watch::Receiver<Arc<Report>>,
    faults: watch::Receiver<Faults>,
}

impl Feed {
    /// A change of a node of this cluster (`None`) or of another one.
    pub(super) fn node(&self, cluster: Option<&ClusterName>, event: &Event<Node>) {
        let event = match event {
            Event::Reset => Event::Reset,
            Event::Upsert(node) => Event::Upsert(Target::of(node)),
            Event::Remove(key) => Event::Remove(key.clone()),
            Event::Synced => Event::Synced,
        };
        // Nobody listens where it is off.
        let _ = self.inputs.send(Input::Node(cluster.unwrap_or(&self.own).clone(), event));
    }

    /// A cluster is no longer a peer.
    pub(super) fn removed(&self, cluster: &ClusterName) {
        let _ = self.inputs.send(Input::Removed(cluster.clone()));
    }

    /// The next changes, all that there are; none where it is off.
    pub(super) async fn changes(&mut self) -> Option<Vec<Reachability>> {
        let mut changes = self.changes.recv().await?;
        while let Ok(more) = self.changes.try_recv() {
            changes.extend(more);
        }
        Some(changes)
    }
}

impl NodeHealth {
    pub(super) fn report(&self) -> Report {
        let faults = self.faults.borrow();
        let faults = faults.iter().map(|(address, fault)| format!("{address}: {fault}"));
        Report { responder_faults: faults.collect(), ..Report::clone(&self.report.borrow()) }
    }
}

/// Begins to probe all nodes but `own`, and to answer at the addresses it announces.
pub(super) fn start(
    config: &Config,
    own: &Node,
    metrics: &Metrics,
    shutdown: &Shutdown,
) -> Result<(Feed, NodeHealth)> {
    let (inputs, told) = mpsc::unbounded_channel();
    let (told_changes, changes) = mpsc::unbounded_channel();
    let (report, seen) = watch::channel(Arc::new(Report::default()));
    let (faults, seen_faults) = watch::channel(Faults::new());
    let feed = Feed { own: own.cluster.clone(), inputs, changes };
    let health = NodeHealth { report: seen.clone(), faults: seen_faults };
    if !config.require::<bool>("enable-health-checking")? {
        tracing::info!("health checking is off: no node is probed, and none's backends leave the selection");
        return Ok((feed, health));
    }
    let port: u16 = config.require("cluster-health-port")?;
    let options = Options {
        interval: config.require::<GoDuration>("health-check-interval")?.0,
        timeout: config.require::<GoDuration>("health-check-timeout")?.0,
        failures: config.require("health-check-icmp-failure-threshold")?,
    };
    options.check().context("health-check-interval, health-check-timeout")?;
    tracing::info!(port, within = ?options.worst_case(), "nodes that stop answering are noticed");
    let mut monitor = Monitor::new(own.key(), options, rand::random(), Instant::now());
    let memory = config.require::<PathBuf>("state-dir")?.join("unreachable-nodes.json");
    monitor.remember(recall(&memory));
    let source = vec![("source_cluster", own.cluster.to_string()), ("source_node_name", own.name.clone())];
    metrics.collect(Statuses { source: source.clone(), report: seen });
    let latency = Latency::register(metrics, source);
    let outputs = Outputs {
        changes: told_changes,
        report,
        measured: Box::new(move |way, kind, took| latency.measured(way, kind, took)),
        remember: Box::new(move |monitor| remember(&memory, &monitor.unreachable())),
    };
    let prober = Prober::open(monitor, port, rand::random());
    shutdown.spawn(prober.run(told, outputs, shutdown.token()));
    let announced = own.addresses.iter().map(|address| address.ip);
    let announced: BTreeSet<_> =
        announced.chain([own.health_v4, own.health_v6].into_iter().flatten()).collect();
    let addresses = announced.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
    shutdown.spawn(responder::run(addresses, faults, shutdown.token()));
    Ok((feed, health))
}

/// Cluster and name of each node, in a file that outlives the agent.
type Memory = Vec<(String, String)>;

/// What an earlier agent found unreachable. A node that is down says nothing to a new agent either.
fn recall(path: &Path) -> Vec<NodeKey> {
    let Ok(text) = std::fs::read_to_string(path) else { return vec![] };
    let nodes: Memory = serde_json::from_str(&text).unwrap_or_else(|error| {
        tracing::warn!(%error, file = %path.display(), "not what an agent writes; ignored");
        vec![]
    });
    let key = |(cluster, name)| Some(NodeKey { cluster: ClusterName::new(cluster).ok()?, name });
    nodes.into_iter().filter_map(key).collect()
}

/// A memory that cannot be written costs a later agent its knowledge, and this one nothing.
fn remember(path: &Path, nodes: &BTreeSet<NodeKey>) {
    let nodes: Memory = nodes.iter().map(|node| (node.cluster.to_string(), node.name.clone())).collect();
    let text = serde_json::to_vec(&nodes).expect("names are plain data");
    if let Err(error) = files::replace(path, |new| std::fs::write(new, text)) {
        tracing::warn!("unreachable nodes are not remembered: {error:#}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_outlives_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nodes.json");
        assert_eq!(recall(&path), []);
        let node = |name: &str| NodeKey { cluster: ClusterName::new("cls-b").unwrap(), name: name.into() };
        let nodes = BTreeSet::from([node("n1"), node("n2")]);
        remember(&path, &nodes);
        assert_eq!(recall(&path).into_iter().collect::<BTreeSet<_>>(), nodes);
        remember(&path, &BTreeSet::new());
        assert_eq!(recall(&path), []);
        std::fs::write(&path, "nonsense").unwrap();
        assert_eq!(recall(&path), []);
        remember(&dir.path().join("missing/nodes.json"), &nodes);
    }
}
