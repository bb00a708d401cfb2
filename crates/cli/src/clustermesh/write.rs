//! Carries changes out, and takes them back when one fails.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use super::facts::{Data, Facts};
use super::plan::Change;

/// Owner of the fields `connect` writes.
const FIELD_MANAGER: &str = "causeway-clustermesh";

/// Writes the changes in order; on an error, what was written is restored and the error says so.
pub(crate) async fn apply(
    clients: &[Client],
    facts: &[Facts],
    namespace: &str,
    changes: &[Change],
) -> Result<()> {
    for (done, change) in changes.iter().enumerate() {
        let context = &facts[change.cluster].context;
        let Err(e) = write(&clients[change.cluster], namespace, change).await else { continue };
        let error = e.context(format!("{context}: write Secret {namespace}/{}", change.secret));
        // The failed one too: it may have been carried out although its answer was lost.
        let mut left = Vec::new();
        for change in changes[..=done].iter().rev() {
            let back = inverse(change, &facts[change.cluster]);
            if let Err(e) = write(&clients[change.cluster], namespace, &back).await {
                let context = &facts[change.cluster].context;
                left.push(format!("{context}: Secret {namespace}/{}: {e:#}", change.secret));
            }
        }
        // The cluster that failed usually cannot be restored either; only others are news.
        let written = done > 0;
        return Err(match (left.is_empty(), written) {
            (true, true) => error.context("nothing is connected: the other side was restored"),
            (true, false) => error.context("nothing was changed"),
            (false, _) => error.context(anyhow!("partly written; could not restore {}", left.join("; "))),
        });
    }
    Ok(())
}

/// What restores the content the facts remember.
fn inverse(change: &Change, facts: &Facts) -> Change {
    let empty = Data::new();
    let before = facts.secrets.get(change.secret).unwrap_or(&empty);
    let keys = change.keys.keys().map(|key| (key.clone(), before.get(key).cloned())).collect();
    Change { keys, ..change.clone() }
}

async fn write(client: &Client, namespace: &str, change: &Change) -> Result<()> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..Default::default() };
    // A merge patch names only our keys, so peers written by someone else meanwhile stay.
    let patch = json!({ "data": change.keys });
    match api.patch(change.secret, &params, &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(e)) if e.code == 404 => create(&api, change).await,
        Err(e) => Err(e.into()),
    }
}

async fn create(api: &Api<Secret>, change: &Change) -> Result<()> {
    let data: BTreeMap<String, ByteString> =
        change.keys.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?))).collect();
    if data.is_empty() {
        return Ok(());
    }
    let mut secret = Secret { data: Some(data), type_: Some("Opaque".into()), ..Default::default() };
    secret.metadata.name = Some(change.secret.to_owned());
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..Default::default() };
    api.create(&params, &secret).await.context("create it")?;
    Ok(())
}
