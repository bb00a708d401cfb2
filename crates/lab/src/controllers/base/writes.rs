//! Writes to the API server and the memory of them.
//!
//! A controller sees its own writes only when the watch delivers them. [`Own`] remembers, per owner, the resource
//! version of the latest object it made and the uids it deleted, so that a look at a store which is behind waits
//! instead of making the same objects again.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Mutex;
use std::time::Duration;

use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use super::Key;
use super::informer::{Informer, Object};

/// How long a store may be behind before it is believed anyway: a relist may have skipped over an object that was
/// made and deleted in between.
const PATIENCE: Duration = Duration::from_secs(10);
/// When to look again at a store that is behind.
pub(crate) const BEHIND: Duration = Duration::from_millis(20);

/// Why a controller could not do what it wanted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API server refused or did not answer.
    #[error("{verb} {kind} {key}: {source}")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// On what.
        kind: String,
        /// Which.
        key: Key,
        /// The answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// The file of load balancers could not be written.
    #[error(transparent)]
    LoadBalancers(#[from] crate::runtime::Error),
}

impl Error {
    fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Error::Api { source, .. } => match &**source {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether somebody else changed or removed the object first; a later look settles it.
    pub(crate) fn is_race(&self) -> bool {
        self.status().is_some_and(|s| s.is_conflict() || s.is_not_found() || s.is_already_exists())
    }

    /// Whether the object is gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.status().is_some_and(|s| s.is_not_found())
    }

    /// Whether the name is taken.
    pub(crate) fn is_taken(&self) -> bool {
        self.status().is_some_and(|s| s.is_already_exists())
    }

    /// The server's sentence, for events.
    pub(crate) fn message(&self) -> String {
        self.status().map_or_else(|| self.to_string(), |s| s.message.clone())
    }
}

/// Kinds that are written: all live in namespaces or are nodes.
pub(crate) trait Writable: Object + Serialize {
    /// The API of a namespace ("" for cluster-scoped kinds).
    fn api(client: &Client, namespace: &str) -> Api<Self>;
}

macro_rules! namespaced {
    ($($kind:ty),+ $(,)?) => {$(
        impl Writable for $kind {
            fn api(client: &Client, namespace: &str) -> Api<Self> {
                Api::namespaced(client.clone(), namespace)
            }
        }
    )+};
}

namespaced!(
    k8s_openapi::api::core::v1::Pod,
    k8s_openapi::api::core::v1::Service,
    k8s_openapi::api::apps::v1::Deployment,
    k8s_openapi::api::apps::v1::ReplicaSet,
    k8s_openapi::api::apps::v1::DaemonSet,
    k8s_openapi::api::apps::v1::StatefulSet,
    k8s_openapi::api::batch::v1::Job,
    k8s_openapi::api::discovery::v1::EndpointSlice,
);

impl Writable for k8s_openapi::api::core::v1::Node {
    fn api(client: &Client, _: &str) -> Api<Self> {
        Api::all(client.clone())
    }
}

/// Writes as one controller.
#[derive(Clone)]
pub(crate) struct Writes {
    client: Client,
    manager: &'static str,
}

impl Writes {
    /// Writes under the field manager `manager`.
    pub(crate) fn new(client: Client, manager: &'static str) -> Self {
        Writes { client, manager }
    }

    /// The client, for requests that are none of the below.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Parameters of writes made with [`Writes::client`].
    pub(crate) fn params(&self) -> PostParams {
        PostParams { field_manager: Some(self.manager.into()), ..PostParams::default() }
    }

    fn patch_params(&self) -> PatchParams {
        PatchParams { field_manager: Some(self.manager.into()), ..PatchParams::default() }
    }

    /// Creates.
    pub(crate) async fn create<K: Writable>(&self, object: &K) -> Result<K, Error> {
        let mut key = Key::of(object);
        if let (None, Some(prefix)) = (&object.meta().name, &object.meta().generate_name) {
            key.name = format!("{prefix}*");
        }
        K::api(&self.client, &key.namespace)
            .create(&self.params(), object)
            .await
            .map_err(|e| failed::<K>("create", key, e))
    }

    /// Replaces; the object's resourceVersion must be the present one.
    pub(crate) async fn replace<K: Writable>(&self, object: &K) -> Result<K, Error> {
        let key = Key::of(object);
        let api = K::api(&self.client, &key.namespace);
        api.replace(&key.name, &self.params(), object).await.map_err(|e| failed::<K>("update", key, e))
    }

    /// Merges `patch` into the object `seen`, unless it has changed since.
    pub(crate) async fn patch<K: Writable>(&self, seen: &K, patch: Value) -> Result<K, Error> {
        let key = Key::of(seen);
        let patch = pinned(seen, patch);
        let api = K::api(&self.client, &key.namespace);
        api.patch(&key.name, &self.patch_params(), &Patch::Merge(&patch))
            .await
            .map_err(|e| failed::<K>("patch", key, e))
    }

    /// Replaces the status; the object's resourceVersion must be the present one.
    pub(crate) async fn status<K: Writable>(&self, object: &K) -> Result<K, Error> {
        let key = Key::of(object);
        let api = K::api(&self.client, &key.namespace);
        let done = api.replace_status(&key.name, &self.params(), object).await;
        done.map_err(|e| failed::<K>("update status of", key, e))
    }

    /// Deletes the object `seen`, not one that has taken its name since. One that is gone already is fine.
    pub(crate) async fn delete<K: Writable>(&self, seen: &K, grace: Option<u32>) -> Result<(), Error> {
        let key = Key::of(seen);
        let params = DeleteParams {
            grace_period_seconds: grace,
            preconditions: Some(Preconditions { uid: seen.uid(), resource_version: None }),
            ..DeleteParams::background()
        };
        match K::api(&self.client, &key.namespace).delete(&key.name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(s)) if s.is_not_found() || s.is_conflict() => Ok(()),
            Err(e) => Err(failed::<K>("delete", key, e)),
        }
    }
}

fn failed<K: Resource<DynamicType = ()>>(verb: &'static str, key: Key, source: kube::Error) -> Error {
    Error::Api { verb, kind: K::kind(&()).into_owned(), key, source: Box::new(source) }
}

fn pinned<K: Resource + DeserializeOwned + Debug>(seen: &K, mut patch: Value) -> Value {
    patch["metadata"]["resourceVersion"] = seen.resource_version().into();
    patch["metadata"]["uid"] = seen.uid().into();
    patch
}

#[derive(Default)]
struct Pending {
    version: Option<(String, Instant)>,
    deleted: HashSet<String>,
}

/// What a controller wrote for each owner and its store has not shown yet.
#[derive(Default)]
pub(crate) struct Own {
    pending: Mutex<HashMap<Key, Pending>>,
}

impl Own {
    /// `object` was created or changed for `owner`.
    pub(crate) fn wrote<K: Resource>(&self, owner: &Key, object: &K) {
        let Some(version) = object.meta().resource_version.clone() else { return };
        let mut pending = self.pending.lock().unwrap_or_else(|e| e.into_inner());
        let entry = pending.entry(owner.clone()).or_default();
        let number = |v: &str| v.parse::<u64>().unwrap_or(0);
        if entry.version.as_ref().is_none_or(|(v, _)| number(v) < number(&version)) {
            entry.version = Some((version, Instant::now() + PATIENCE));
        }
    }

    /// `object` was deleted for `owner`: it does not count any more, even while the store shows it alive.
    pub(crate) fn deleted<K: Resource>(&self, owner: &Key, object: &K) {
        if let Some(uid) = object.meta().uid.clone() {
            let mut pending = self.pending.lock().unwrap_or_else(|e| e.into_inner());
            pending.entry(owner.clone()).or_default().deleted.insert(uid);
        }
    }

    /// Whether the store has shown everything written for `owner`.
    pub(crate) fn is_fresh<K: Object>(&self, owner: &Key, store: &Informer<K>) -> bool {
        let mut pending = self.pending.lock().unwrap_or_else(|e| e.into_inner());
        let Some(entry) = pending.get_mut(owner) else { return true };
        match &entry.version {
            Some((version, until)) if !store.has_seen(version) && Instant::now() < *until => false,
            _ => {
                entry.version = None;
                true
            }
        }
    }

    /// The uids deleted for `owner`, after dropping those not among `alive` any more.
    pub(crate) fn deleted_of(&self, owner: &Key, alive: &HashSet<String>) -> HashSet<String> {
        let mut pending = self.pending.lock().unwrap_or_else(|e| e.into_inner());
        let Some(entry) = pending.get_mut(owner) else { return HashSet::new() };
        entry.deleted.retain(|uid| alive.contains(uid));
        entry.deleted.clone()
    }

    /// The owner is gone.
    pub(crate) fn forget(&self, owner: &Key) {
        self.pending.lock().unwrap_or_else(|e| e.into_inner()).remove(owner);
    }
}
