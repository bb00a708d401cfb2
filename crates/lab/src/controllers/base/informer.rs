//! A store of all objects of one kind, fed by a list and watch, that tells handlers about every change with the state
//! before it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Key;

/// A kind an informer can hold.
pub(crate) trait Object:
    Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
}
impl<K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static> Object for K {}

/// One change: the object before (none when it is new) and after (none when it is gone).
pub(crate) struct Change<K> {
    /// Before.
    pub(crate) old: Option<Arc<K>>,
    /// After.
    pub(crate) new: Option<Arc<K>>,
}

impl<K> Change<K> {
    /// The states there are, old one first.
    pub(crate) fn states(&self) -> impl Iterator<Item = &Arc<K>> {
        self.old.iter().chain(self.new.iter())
    }
}

type Handler<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

/// Store and handlers of one kind.
pub(crate) struct Informer<K> {
    objects: RwLock<BTreeMap<Key, Arc<K>>>,
    handlers: Mutex<Vec<Handler<K>>>,
    /// Highest resourceVersion seen. Resource versions are compared as integers, which Kubernetes allows for objects
    /// of one kind.
    seen: AtomicU64,
    synced: watch::Sender<bool>,
}

impl<K: Object> Informer<K> {
    /// An empty store; fill it with [`Informer::run`].
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Informer {
            objects: RwLock::default(),
            handlers: Mutex::default(),
            seen: AtomicU64::new(0),
            synced: watch::channel(false).0,
        })
    }

    /// Calls `handler` with every change from now on. Handlers must be quick: they run in the watch task.
    pub(crate) fn on_change(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        self.handlers.lock().unwrap_or_else(|e| e.into_inner()).push(Box::new(handler));
    }

    /// The object of a key.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.objects.read().unwrap_or_else(|e| e.into_inner()).get(key).cloned()
    }

    /// All objects, in order of key.
    pub(crate) fn all(&self) -> Vec<Arc<K>> {
        self.objects.read().unwrap_or_else(|e| e.into_inner()).values().cloned().collect()
    }

    /// The objects of one namespace, in order of name.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let objects = self.objects.read().unwrap_or_else(|e| e.into_inner());
        let from = Key::new(namespace, "");
        objects.range(from..).take_while(|(k, _)| k.namespace == namespace).map(|(_, v)| v.clone()).collect()
    }

    /// Whether the watch has delivered everything up to this resourceVersion. Versions that are no numbers count as
    /// seen.
    pub(crate) fn has_seen(&self, resource_version: &str) -> bool {
        resource_version.parse().map_or(true, |v: u64| self.seen.load(Ordering::Acquire) >= v)
    }

    /// Waits until the first listing is complete.
    pub(crate) async fn synced(&self) {
        // An error means the sender is gone, which it cannot be while `self` is borrowed.
        let _ = self.synced.subscribe().wait_for(|s| *s).await;
    }

    /// Lists and watches until `shutdown`; failures are retried with growing pauses.
    pub(crate) async fn run(self: Arc<Self>, api: Api<K>, shutdown: CancellationToken) {
        let kind = K::kind(&());
        let mut stream = pin!(watcher(api, watcher::Config::default()).default_backoff());
        let mut listing: Option<BTreeMap<Key, Arc<K>>> = None;
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = stream.next() => event,
            };
            match event {
                None => return,
                Some(Err(error)) => tracing::warn!(%kind, %error, "watch failed, trying again"),
                Some(Ok(Event::Init)) => listing = Some(BTreeMap::new()),
                Some(Ok(Event::InitApply(object))) => {
                    if let Some(list) = &mut listing {
                        list.insert(Key::of(&object), Arc::new(object));
                    }
                }
                Some(Ok(Event::InitDone)) => {
                    self.replace(listing.take().unwrap_or_default());
                    self.synced.send_replace(true);
                }
                Some(Ok(Event::Apply(object))) => self.apply(object),
                Some(Ok(Event::Delete(object))) => self.delete(&object),
            }
        }
    }

    /// Takes in one object, as the watch delivers it.
    pub(crate) fn apply(&self, object: K) {
        let new = Arc::new(object);
        let old = self.objects.write().unwrap_or_else(|e| e.into_inner()).insert(Key::of(&*new), new.clone());
        self.saw(&*new);
        self.tell(&Change { old, new: Some(new) });
    }

    fn delete(&self, object: &K) {
        let old = self.objects.write().unwrap_or_else(|e| e.into_inner()).remove(&Key::of(object));
        self.saw(object);
        if old.is_some() {
            self.tell(&Change { old, new: None });
        }
    }

    fn replace(&self, objects: BTreeMap<Key, Arc<K>>) {
        let mut before = {
            let mut held = self.objects.write().unwrap_or_else(|e| e.into_inner());
            std::mem::replace(&mut *held, objects.clone())
        };
        for (key, new) in objects {
            self.saw(&*new);
            let old = before.remove(&key);
            if old.as_ref().is_none_or(|o| o.resource_version() != new.resource_version()) {
                self.tell(&Change { old, new: Some(new) });
            }
        }
        for old in before.into_values() {
            self.tell(&Change { old: Some(old), new: None });
        }
    }

    fn saw(&self, object: &K) {
        if let Some(version) = object.resource_version().and_then(|v| v.parse().ok()) {
            self.seen.fetch_max(version, Ordering::AcqRel);
        }
    }

    fn tell(&self, change: &Change<K>) {
        for handler in self.handlers.lock().unwrap_or_else(|e| e.into_inner()).iter() {
            handler(change);
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::ObjectMeta;

    use super::*;

    fn map(name: &str, version: u64) -> ConfigMap {
        let metadata = ObjectMeta {
            name: Some(name.into()),
            namespace: Some("ns".into()),
            resource_version: Some(version.to_string()),
            ..ObjectMeta::default()
        };
        ConfigMap { metadata, ..ConfigMap::default() }
    }

    #[test]
    fn a_new_listing_tells_only_differences() {
        let informer = Informer::<ConfigMap>::new();
        informer.apply(map("a", 1));
        informer.apply(map("b", 2));
        informer.apply(map("c", 3));
        let told = Arc::new(Mutex::new(Vec::new()));
        let log = told.clone();
        informer.on_change(move |c| {
            let name = |o: &Option<Arc<ConfigMap>>| o.as_ref().map(|o| o.name_any());
            log.lock().unwrap().push((name(&c.old), name(&c.new)));
        });
        let list = [map("a", 1), map("b", 5), map("d", 6)];
        informer.replace(list.into_iter().map(|m| (Key::of(&m), Arc::new(m))).collect());
        let s = |n: &str| Some(n.to_string());
        assert_eq!(*told.lock().unwrap(), [(s("b"), s("b")), (None, s("d")), (s("c"), None)]);
        assert!(informer.has_seen("6") && !informer.has_seen("7") && informer.has_seen("opaque"));
        assert_eq!(informer.in_namespace("ns").len(), 3);
        assert!(informer.in_namespace("n").is_empty());
    }
}
