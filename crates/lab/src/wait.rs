//! Waiting for a lab's clusters.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};

use crate::error::{Error, Result};
use crate::lab::Lab;

/// How long nodes may take to register and to become Ready.
const NODES: Duration = Duration::from_secs(120);

/// Waits until every node of the topology is known to its API server.
///
/// # Errors
/// If some are not there in time, naming them.
pub(crate) async fn nodes_registered(lab: &Lab) -> Result<()> {
    until(lab, "registered", &|_| {}, |_| true).await
}

/// Waits until every node of the topology is Ready; tells each as it is.
///
/// # Errors
/// If some are not Ready in time, naming them and what they say.
pub(crate) async fn nodes_ready(lab: &Lab, say: &(dyn Fn(&str) + Sync)) -> Result<()> {
    until(lab, "Ready", say, |node| ready(node).0).await
}

async fn until(
    lab: &Lab,
    what: &str,
    say: &(dyn Fn(&str) + Sync),
    good: impl Fn(&Node) -> bool,
) -> Result<()> {
    let deadline = Instant::now() + NODES;
    let mut clients: BTreeMap<&str, Client> = BTreeMap::new();
    let mut missing: Vec<(&str, &str)> = Vec::new();
    for cluster in &lab.plan().clusters {
        clients.insert(&cluster.name, lab.client(&cluster.name).await?);
        missing.extend(cluster.nodes.iter().map(|n| (cluster.name.as_str(), n.name.as_str())));
    }
    loop {
        let mut reasons = Vec::new();
        let mut still = Vec::new();
        for (cluster, name) in missing {
            let Some(client) = clients.get(cluster) else { continue };
            match Api::<Node>::all(client.clone()).get_opt(name).await {
                Ok(Some(node)) if good(&node) => say(&format!("node {name} of {cluster} is {what}")),
                Ok(Some(node)) => {
                    still.push((cluster, name));
                    reasons.push(format!("{name} of {cluster}: {}", ready(&node).1));
                }
                Ok(None) => {
                    still.push((cluster, name));
                    reasons.push(format!("{name} of {cluster}: not registered"));
                }
                Err(e) => {
                    still.push((cluster, name));
                    reasons.push(format!("{name} of {cluster}: {e}"));
                }
            }
        }
        missing = still;
        if missing.is_empty() {
            return Ok(());
        }
        // A crash is said now, not when the time is over.
        lab.status()?;
        if Instant::now() > deadline {
            let text = format!("nodes are not {what} after {} s:\n{}", NODES.as_secs(), reasons.join("\n"));
            return Err(Error::refused(text));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whether a node is Ready, and what it says about it.
pub(crate) fn ready(node: &Node) -> (bool, String) {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    match conditions.into_iter().find(|c| c.type_ == "Ready") {
        Some(c) => (c.status == "True", c.message.clone().or(c.reason.clone()).unwrap_or_default()),
        None => (false, "it says nothing about being ready".into()),
    }
}
