//! Writing a pod's status: only when it changed, the latest only, again after a failure.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::PodId;

/// Pauses between attempts.
const RETRY: Duration = Duration::from_millis(500);

/// Condition types the kubelet owns; others are left as they are.
const OWN: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// Adds conditions of others (readiness gates and the like) to a status.
pub(super) fn keep_foreign(status: &mut Value, pod: &Pod) {
    let foreign = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let foreign =
        foreign.filter(|c| !OWN.contains(&c.type_.as_str())).filter_map(|c| serde_json::to_value(c).ok());
    if let Some(list) = status["conditions"].as_array_mut() {
        list.extend(foreign);
    }
}

/// Writes each new status until the sender is gone.
pub(super) async fn publish(client: kube::Client, id: PodId, mut statuses: watch::Receiver<Value>) {
    let api: Api<Pod> = Api::namespaced(client, &id.namespace);
    let mut written = Value::Null;
    while statuses.changed().await.is_ok() {
        loop {
            let status = statuses.borrow_and_update().clone();
            if status == written {
                break;
            }
            let patch = json!({"metadata": {"uid": id.uid}, "status": status});
            match api.patch_status(&id.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => {
                    written = status;
                    break;
                }
                // Gone, or another pod of the same name.
                Err(kube::Error::Api(e)) if matches!(e.code, 404 | 409) => break,
                Err(error) => {
                    tracing::warn!(namespace = id.namespace, pod = id.name, %error, "pod status not written");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// Removes the pod from the API server for good; tries until it is gone.
pub(super) async fn delete(client: kube::Client, id: &PodId) {
    let api: Api<Pod> = Api::namespaced(client, &id.namespace);
    let mut params = DeleteParams::default().grace_period(0);
    params.preconditions = Some(Preconditions { uid: Some(id.uid.clone()), ..Preconditions::default() });
    loop {
        match api.delete(&id.name, &params).await {
            Ok(_) => return,
            Err(kube::Error::Api(e)) if matches!(e.code, 404 | 409) => return,
            Err(error) => {
                tracing::warn!(namespace = id.namespace, pod = id.name, %error, "pod not removed from the API server");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
