//! The namespace controller: what belongs into every namespace, and the emptying of those being deleted.

use std::sync::Arc;
use std::time::Duration;

use causeway_kvstore::pb;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::error::ApiResult;
use super::object::{is_terminating, list, name};
use super::ops::{Part, Tracking};
use super::request::DeleteOptions;
use super::{Api, bootstrap, storage};

/// How often a namespace whose content does not go (finalizers, running pods) is looked at again.
const RETRY: Duration = Duration::from_millis(250);

/// Runs until `shutdown`.
pub async fn run(api: Arc<Api>, shutdown: CancellationToken) {
    let prefix = storage::prefix("core/namespaces", "");
    while !shutdown.is_cancelled() {
        // Listing first and watching from there misses nothing, also after a watch that broke.
        let start = api.storage.revision() + 1;
        let mut waiting = settle_all(&api);
        let mut changes = api.storage.watch(&prefix, start);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                batch = changes.next() => match batch {
                    Some(Ok(batch)) => {
                        let written = batch.events.iter().any(|e| e.r#type == pb::event::EventType::Put as i32);
                        if written {
                            waiting = settle_all(&api);
                        }
                    }
                    Some(Err(_)) | None => break,
                },
                () = tokio::time::sleep(RETRY), if waiting => waiting = settle_all(&api),
            }
        }
    }
}

/// Brings every namespace on; whether some still wait for their content to go.
fn settle_all(api: &Api) -> bool {
    let Ok(page) = api.storage.list(&storage::prefix("core/namespaces", ""), None, 0, 0) else { return true };
    let mut waiting = false;
    for ns in page.items {
        let result =
            if is_terminating(&ns.value) { empty(api, &ns.value) } else { furnish(api, name(&ns.value)) };
        match result {
            Ok(done) => waiting |= !done,
            Err(error) => {
                tracing::debug!(namespace = name(&ns.value), %error, "namespace");
                waiting = true;
            }
        }
    }
    waiting
}

fn furnish(api: &Api, namespace: &str) -> ApiResult<bool> {
    let has = |storage: &str, name: &str| {
        api.storage.get(&storage::key(storage, namespace, name)).map(|o| o.is_some())
    };
    if !has("core/configmaps", "kube-root-ca.crt")? {
        bootstrap::root_ca(api, namespace)?;
    }
    if !has("core/serviceaccounts", "default")? {
        bootstrap::default_account(api, namespace)?;
    }
    Ok(true)
}

/// Deletes the content; when there is none left, takes the `kubernetes` finalizer off, which removes the namespace.
fn empty(api: &Api, ns: &Value) -> ApiResult<bool> {
    let namespace = name(ns);
    let mut left: Vec<String> = Vec::new();
    let mut rows: Vec<_> = api.catalog.stored().into_iter().filter(|r| r.namespaced).collect();
    // Makers before what they make, so that nothing is made again.
    rows.sort_by_key(|r| matches!(r.plural.as_str(), "replicasets" | "pods" | "events") as u8);
    for res in rows {
        let page = api.storage.list(&storage::prefix(&res.storage, namespace), None, 0, 0)?;
        for item in page.items {
            if !is_terminating(&item.value) {
                match api.delete(&res, namespace, name(&item.value), &DeleteOptions::default()) {
                    Err(e) if e.code != 404 => return Err(e),
                    _ => {}
                }
            }
        }
        let rest = api.storage.list(&storage::prefix(&res.storage, namespace), None, 1, 0)?;
        if !rest.items.is_empty() {
            left.push(format!(
                "{} has {} resource instances",
                res.plural,
                rest.items.len() as i64 + rest.remaining
            ));
        }
    }
    let Some(res) = api.catalog.find("", "v1", "namespaces") else { return Ok(true) };
    let own = bootstrap::own_writes("kube-controller-manager");
    let condition = json!({
        "type": "NamespaceContentRemaining", "status": if left.is_empty() { "False" } else { "True" },
        "reason": if left.is_empty() { "ContentRemoved" } else { "SomeResourcesRemain" },
        "message": if left.is_empty() { "All content successfully removed".to_string() } else { format!("Some resources are remaining: {}", left.join(", ")) },
    });
    let result = api.update(&res, ("", namespace), Part::Internal, &own, |current| {
        let mut v = current.clone();
        let mut conditions: Vec<Value> = list(&v, "status.conditions").to_vec();
        let same = |c: &Value| ["type", "status", "message"].iter().all(|k| c[k] == condition[k]);
        if !conditions.iter().any(same) {
            conditions.retain(|c| c["type"] != condition["type"]);
            let mut c = condition.clone();
            c["lastTransitionTime"] = super::object::now().into();
            conditions.push(c);
            v["status"]["conditions"] = conditions.into();
        }
        if left.is_empty() {
            let rest: Vec<Value> =
                list(&v, "spec.finalizers").iter().filter(|f| *f != "kubernetes").cloned().collect();
            v["spec"]["finalizers"] = rest.into();
        }
        Ok((v, Tracking::Applied))
    });
    match result {
        Ok(_) => Ok(left.is_empty()),
        Err(e) if e.code == 404 => Ok(true),
        Err(e) => Err(e),
    }
}
