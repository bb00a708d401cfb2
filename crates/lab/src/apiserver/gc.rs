//! The garbage collector: objects whose owners are all gone are deleted; an owner deleted in the foreground waits for
//! what blocks it; an orphaning one lets its dependents go free first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use causeway_kvstore::{WatchBatch, pb};
use futures::StreamExt;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::error::ApiResult;
use super::object::{is_terminating, list, name, namespace, text, uid};
use super::ops::{Part, Tracking};
use super::request::DeleteOptions;
use super::resources::Resource;
use super::{Api, bootstrap, crd, storage};

/// Pause after a watch that broke.
const RETRY: Duration = Duration::from_millis(250);

/// What is known of all objects: who exists, and who is owned by whom.
#[derive(Debug, Default)]
struct Graph {
    /// Key to uid and owners' uids.
    objects: BTreeMap<String, (String, BTreeSet<String>)>,
    /// Uids in existence, and their keys.
    alive: BTreeMap<String, String>,
    /// Owner's uid to dependents' keys.
    dependents: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn put(&mut self, key: &str, v: &Value) {
        self.remove(key);
        let owners: BTreeSet<String> =
            list(v, "metadata.ownerReferences").iter().map(|o| text(o, "uid").to_string()).collect();
        for o in &owners {
            self.dependents.entry(o.clone()).or_default().insert(key.to_string());
        }
        self.alive.insert(uid(v).to_string(), key.to_string());
        self.objects.insert(key.to_string(), (uid(v).to_string(), owners));
    }

    fn remove(&mut self, key: &str) {
        let Some((uid, owners)) = self.objects.remove(key) else { return };
        self.alive.remove(&uid);
        for o in owners {
            if let Some(set) = self.dependents.get_mut(&o) {
                set.remove(key);
                if set.is_empty() {
                    self.dependents.remove(&o);
                }
            }
        }
    }

    fn dependents_of(&self, uid: &str) -> Vec<String> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }
}

/// Runs until `shutdown`.
pub async fn run(api: Arc<Api>, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        if let Err(error) = follow(&api, &shutdown).await {
            tracing::debug!(%error, "garbage collector starts over");
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn follow(api: &Api, shutdown: &CancellationToken) -> ApiResult<()> {
    let page = api.storage.list(storage::ROOT, None, 0, 0)?;
    let mut graph = Graph::default();
    for item in &page.items {
        graph.put(&item.key, &item.value);
    }
    for item in &page.items {
        settle(api, &graph, &item.key, &item.value);
    }
    let mut changes = api.storage.watch(storage::ROOT, page.revision + 1);
    loop {
        let batch = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            batch = changes.next() => batch,
        };
        match batch {
            Some(Ok(batch)) => follow_batch(api, &mut graph, &batch)?,
            Some(Err(e)) => return Err(super::error::ApiError::internal(e)),
            None => return Ok(()),
        }
    }
}

fn follow_batch(api: &Api, graph: &mut Graph, batch: &WatchBatch) -> ApiResult<()> {
    for event in &batch.events {
        let Some(kv) = &event.kv else { continue };
        let key = String::from_utf8_lossy(&kv.key).into_owned();
        if event.r#type == pb::event::EventType::Delete as i32 {
            // A definition that is going may have waited for the last of its objects.
            if let Some(res) = resource_of(api, &key).filter(|r| r.schema.is_custom()) {
                look_at(
                    api,
                    graph,
                    &storage::key(crd::STORAGE, "", &format!("{}.{}", res.plural, res.group)),
                );
            }
            let Some((uid, owners)) = graph.objects.get(&key).cloned() else { continue };
            graph.remove(&key);
            for dependent in graph.dependents_of(&uid) {
                look_at(api, graph, &dependent);
            }
            // An owner that is deleted in the foreground may have waited for this one.
            for owner in owners {
                if let Some(key) = graph.alive.get(&owner).cloned() {
                    look_at(api, graph, &key);
                }
            }
        } else {
            let stored = storage::decode(&kv.key, &kv.value, kv.mod_revision)?;
            graph.put(&key, &stored.value);
            settle(api, graph, &key, &stored.value);
        }
    }
    Ok(())
}

fn look_at(api: &Api, graph: &Graph, key: &str) {
    if let Ok(Some(stored)) = api.storage.get(key) {
        settle(api, graph, key, &stored.value);
    }
}

/// Does what one object's state asks for.
fn settle(api: &Api, graph: &Graph, key: &str, v: &Value) {
    let Some(res) = resource_of(api, key) else { return };
    let result = if is_terminating(v) && has_finalizer(v, "orphan") {
        orphan(api, graph, &res, v)
    } else if is_terminating(v) && has_finalizer(v, "foregroundDeletion") {
        foreground(api, graph, &res, v)
    } else if is_terminating(v) && res.storage == crd::STORAGE && has_finalizer(v, crd::CLEANUP) {
        crd::cleanup(api, v)
    } else if is_terminating(v) {
        Ok(())
    } else {
        collect(api, graph, &res, v)
    };
    if let Err(error) = result
        && error.code != 404
    {
        tracing::debug!(key, %error, "garbage collection");
    }
}

fn has_finalizer(v: &Value, which: &str) -> bool {
    list(v, "metadata.finalizers").iter().any(|f| f == which)
}

fn resource_of(api: &Api, key: &str) -> Option<Arc<Resource>> {
    let mut parts = key.strip_prefix(storage::ROOT)?.split('/');
    let wanted = format!("{}/{}", parts.next()?, parts.next()?);
    api.catalog.stored().into_iter().find(|r| r.storage == wanted)
}

/// Whether the owner a reference names exists; one not seen yet is looked up, the graph may lag behind.
fn owner_state(api: &Api, graph: &Graph, dependent: &Value, reference: &Value) -> Option<Value> {
    let wanted = text(reference, "uid");
    let key = match graph.alive.get(wanted) {
        Some(key) => key.clone(),
        None => {
            let res = api.catalog.find_kind(text(reference, "apiVersion"), text(reference, "kind"))?;
            let ns = if res.namespaced { namespace(dependent) } else { "" };
            storage::key(&res.storage, ns, text(reference, "name"))
        }
    };
    api.storage.get(&key).ok().flatten().map(|s| s.value).filter(|v| uid(v) == wanted)
}

/// Deletes an object if it has owners and none is left (or all that are left wait for it in the foreground).
fn collect(api: &Api, graph: &Graph, res: &Arc<Resource>, v: &Value) -> ApiResult<()> {
    let references = list(v, "metadata.ownerReferences");
    if references.is_empty() {
        return Ok(());
    }
    let owners: Vec<Value> = references.iter().filter_map(|r| owner_state(api, graph, v, r)).collect();
    let waited_for = |o: &Value| is_terminating(o) && has_finalizer(o, "foregroundDeletion");
    if owners.iter().any(|o| !waited_for(o)) {
        return Ok(());
    }
    let propagation = if owners.is_empty() { "Background" } else { "Foreground" };
    let has_dependents = !graph.dependents_of(uid(v)).is_empty();
    let options = DeleteOptions {
        uid: Some(uid(v).to_string()),
        propagation: if has_dependents { propagation.into() } else { String::new() },
        ..DeleteOptions::default()
    };
    api.delete(res, namespace(v), name(v), &options).map(|_| ())
}

/// Deletes the dependents; when none is left that blocks, lets the owner go.
fn foreground(api: &Api, graph: &Graph, res: &Arc<Resource>, owner: &Value) -> ApiResult<()> {
    let mut blocked = false;
    for key in graph.dependents_of(uid(owner)) {
        let (Some(stored), Some(dependent)) = (api.storage.get(&key)?, resource_of(api, &key)) else {
            continue;
        };
        let reference =
            list(&stored.value, "metadata.ownerReferences").iter().find(|r| text(r, "uid") == uid(owner));
        let Some(reference) = reference else { continue };
        blocked |= reference["blockOwnerDeletion"] == true;
        if !is_terminating(&stored.value) {
            collect(api, graph, &dependent, &stored.value)?;
            // It may be gone already; then its removal is the next event and comes back here.
        }
    }
    if blocked { Ok(()) } else { drop_finalizer(api, res, owner, "foregroundDeletion") }
}

/// Takes the reference off all dependents, then lets the owner go.
fn orphan(api: &Api, graph: &Graph, res: &Arc<Resource>, owner: &Value) -> ApiResult<()> {
    for key in graph.dependents_of(uid(owner)) {
        let (Some(stored), Some(dependent)) = (api.storage.get(&key)?, resource_of(api, &key)) else {
            continue;
        };
        let own = bootstrap::own_writes("kube-controller-manager");
        let at = (namespace(&stored.value).to_string(), name(&stored.value).to_string());
        let result = api.update(&dependent, (&at.0, &at.1), Part::Internal, &own, |current| {
            let mut v = current.clone();
            let rest: Vec<Value> = list(&v, "metadata.ownerReferences")
                .iter()
                .filter(|r| text(r, "uid") != uid(owner))
                .cloned()
                .collect();
            let meta = super::object::metadata(&mut v);
            if rest.is_empty() {
                meta.remove("ownerReferences")
            } else {
                meta.insert("ownerReferences".into(), rest.into())
            };
            Ok((v, Tracking::Applied))
        });
        match result {
            Err(e) if e.code != 404 => return Err(e),
            _ => {}
        }
    }
    drop_finalizer(api, res, owner, "orphan")
}

fn drop_finalizer(api: &Api, res: &Arc<Resource>, v: &Value, which: &str) -> ApiResult<()> {
    let own = bootstrap::own_writes("kube-controller-manager");
    api.update(res, (namespace(v), name(v)), Part::Internal, &own, |current| {
        let mut v = current.clone();
        let rest: Vec<Value> =
            list(&v, "metadata.finalizers").iter().filter(|f| *f != which).cloned().collect();
        let meta = super::object::metadata(&mut v);
        if rest.is_empty() {
            meta.remove("finalizers")
        } else {
            meta.insert("finalizers".into(), rest.into())
        };
        Ok((v, Tracking::Applied))
    })
    .map(|_| ())
}
