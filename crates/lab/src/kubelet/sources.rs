//! Contents of config maps and secrets, tokens, and word of their changes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use kube::api::{Api, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::env::{Kind, Sources};
use super::volumes::TokenKey;

/// Something may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// This object.
    Object(Kind, String, String),
    /// Anything: a watch had to start anew.
    Anything,
}

/// Reads what is named; an object that does not exist is `None`.
///
/// # Errors
/// If the API server does not answer.
pub async fn fetch(
    client: &Client,
    namespace: &str,
    wanted: &BTreeSet<(Kind, String)>,
) -> Result<Sources, kube::Error> {
    let mut found = Sources::new();
    for (kind, name) in wanted {
        let content = match kind {
            Kind::ConfigMap => {
                let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
                api.get_opt(name).await?.map(|c| {
                    let text = c.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.into_bytes()));
                    text.chain(c.binary_data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0))).collect()
                })
            }
            Kind::Secret => {
                let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
                let found = api.get_opt(name).await?;
                found.map(|s| s.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect())
            }
        };
        found.insert((*kind, name.clone()), content);
    }
    Ok(found)
}

/// The tokens of a pod; each is renewed when four fifths of its life are over.
#[derive(Debug, Default)]
pub struct Tokens {
    held: BTreeMap<TokenKey, (String, Timestamp)>,
}

impl Tokens {
    /// The tokens wanted, asking for those that are missing or old. A token in hand is kept if asking fails.
    ///
    /// # Errors
    /// If a token is missing and the API server gives none.
    pub async fn get(
        &mut self,
        client: &Client,
        pod: &Pod,
        wanted: BTreeSet<TokenKey>,
    ) -> Result<BTreeMap<TokenKey, String>, kube::Error> {
        let now = Timestamp::now();
        for key in &wanted {
            let due = self.held.get(key).is_none_or(|(_, renew)| *renew <= now);
            if !due {
                continue;
            }
            match request(client, pod, key).await {
                Ok(token) => {
                    let renew = now + Duration::from_secs(key.1.unsigned_abs() * 4 / 5);
                    self.held.insert(key.clone(), (token, renew));
                }
                Err(error) if !self.held.contains_key(key) => return Err(error),
                Err(error) => tracing::warn!(%error, "service account token not renewed"),
            }
        }
        Ok(wanted.into_iter().filter_map(|k| Some((k.clone(), self.held.get(&k)?.0.clone()))).collect())
    }
}

async fn request(client: &Client, pod: &Pod, key: &TokenKey) -> Result<String, kube::Error> {
    let meta = &pod.metadata;
    let api: Api<ServiceAccount> =
        Api::namespaced(client.clone(), meta.namespace.as_deref().unwrap_or("default"));
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or("default");
    let body = TokenRequest {
        spec: TokenRequestSpec {
            audiences: if key.0.is_empty() { Vec::new() } else { vec![key.0.clone()] },
            expiration_seconds: Some(key.1),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: meta.name.clone(),
                uid: meta.uid.clone(),
            }),
        },
        ..TokenRequest::default()
    };
    let answer = api.create_token_request(account, &PostParams::default(), &body).await?;
    Ok(answer.status.map(|s| s.token).unwrap_or_default())
}

/// Watches all config maps and secrets and spreads word of changes until `shutdown`.
pub async fn watch(client: Client, changes: broadcast::Sender<Change>, shutdown: CancellationToken) {
    let both = async {
        tokio::join!(
            watch_kind::<ConfigMap>(Api::all(client.clone()), Kind::ConfigMap, &changes),
            watch_kind::<Secret>(Api::all(client.clone()), Kind::Secret, &changes),
        )
    };
    tokio::select! { _ = both => {}, () = shutdown.cancelled() => {} }
}

async fn watch_kind<K>(api: Api<K>, kind: Kind, changes: &broadcast::Sender<Change>)
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let mut stream = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Apply(o) | watcher::Event::Delete(o)) => {
                let meta = o.meta();
                let (ns, name) =
                    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
                let _ = changes.send(Change::Object(kind, ns, name));
            }
            Ok(watcher::Event::InitDone) => {
                let _ = changes.send(Change::Anything);
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, kind = kind.name(), "watch interrupted"),
        }
    }
}
