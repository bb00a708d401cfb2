//! Tells the cluster what this agent sees of its peers, for `causeway clustermesh status`.

use std::collections::BTreeMap;
use std::time::Duration;

use causeway_mesh::remote::RemoteStatus;
use causeway_model::ClusterName;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clustermesh::report::{EVERY, Peer, Report};
use crate::names;

/// Changes within this time are told together.
const CALM: Duration = Duration::from_millis(300);

/// Writes a report on every change and every [`EVERY`], until cancelled. A report that cannot be
/// written is written later: it informs, nothing depends on it.
pub(super) async fn run(
    client: Client,
    namespace: String,
    node: String,
    mut status: watch::Receiver<BTreeMap<ClusterName, RemoteStatus>>,
    shutdown: CancellationToken,
) {
    let api: Api<ConfigMap> = Api::namespaced(client, &namespace);
    loop {
        let peers = status.borrow_and_update().values().map(peer).collect();
        let report = Report { node: node.clone(), time: Timestamp::now(), peers };
        let wait = match write(&api, &report).await {
            Ok(()) => EVERY,
            Err(error) => {
                tracing::warn!(%error, "the report for `clustermesh status` cannot be written yet");
                Duration::from_secs(2)
            }
        };
        tokio::select! {
            changed = status.changed() => {
                if changed.is_err() {
                    return;
                }
                tokio::time::sleep(CALM).await;
            }
            () = tokio::time::sleep(wait) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn write(api: &Api<ConfigMap>, report: &Report) -> anyhow::Result<()> {
    let name = format!("{}{}", names::STATUS_PREFIX, report.node);
    let (label, value) = names::STATUS_LABEL;
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": name, "labels": { label: value } },
        "data": { names::STATUS_KEY: serde_json::to_string(report)? },
    });
    api.patch(&name, &PatchParams::apply("causeway-agent").force(), &Patch::Apply(&object)).await?;
    Ok(())
}

fn peer(remote: &RemoteStatus) -> Peer {
    let synced = &remote.synced;
    let syncing = [
        ("nodes", synced.nodes),
        ("endpoints", synced.endpoints),
        ("identities", synced.identities),
        ("services", synced.services),
    ];
    Peer {
        name: remote.name.clone(),
        id: remote.config.cluster_id,
        connected: remote.connected,
        ready: remote.ready,
        syncing: syncing.into_iter().filter(|(_, done)| !done).map(|(kind, _)| kind.to_owned()).collect(),
        nodes: remote.num_nodes as u64,
        endpoints: remote.num_endpoints as u64,
        identities: remote.num_identities as u64,
        services: remote.num_shared_services as u64,
        failures: remote.num_failures,
        last_failure: remote.config_error.clone().or_else(|| remote.last_error.clone()),
        last_failure_time: remote.last_failure.as_deref().and_then(|time| time.parse().ok()),
    }
}
