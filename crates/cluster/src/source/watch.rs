//! One watcher as a stream of model events.

use std::fmt::Debug;

use causeway_model::{Event, Keyed, ServiceKey, SliceKey};
use futures::{Stream, StreamExt};
use k8s_openapi::api::discovery::v1::EndpointSlice as KubeSlice;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tracing::{debug, warn};

use crate::convert::names;
use crate::readable;

/// Watches all objects of `api`. `convert` makes the value, or `None` for an object that stands for
/// nothing here; `key` names it for a removal.
pub(super) fn watch<K, T>(
    api: Api<K>,
    convert: impl Fn(&K) -> Option<T> + Send + 'static,
    key: impl Fn(&K) -> Option<T::Key> + Send + 'static,
) -> impl Stream<Item = Event<T>> + Send + 'static
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    T: Keyed + Send + 'static,
{
    watch_as(K::plural(&()).into_owned(), api, watcher::Config::default(), convert, key)
}

/// The same for the objects that `config` selects, also of a type that is known only at run time; `what` is for the log.
pub(super) fn watch_as<K, T>(
    what: String,
    api: Api<K>,
    config: watcher::Config,
    convert: impl Fn(&K) -> Option<T> + Send + 'static,
    key: impl Fn(&K) -> Option<T::Key> + Send + 'static,
) -> impl Stream<Item = Event<T>> + Send + 'static
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    T: Keyed + Send + 'static,
{
    watcher(api, config).default_backoff().filter_map(move |event| {
        let event = match event {
            Ok(event) => translate(event, &convert, &key),
            Err(error) => {
                report(&what, &error);
                None
            }
        };
        std::future::ready(event)
    })
}

/// The key of a Service, and of what is named like one.
pub(super) fn service_key(object: &impl ResourceExt) -> Option<ServiceKey> {
    let (namespace, name) = names(object.meta());
    Some(ServiceKey { namespace, name })
}

/// The key of an EndpointSlice.
pub(super) fn slice_key(object: &KubeSlice) -> Option<SliceKey> {
    let (namespace, name) = names(&object.metadata);
    Some(SliceKey { namespace, name })
}

fn translate<K, T: Keyed>(
    event: watcher::Event<K>,
    convert: impl Fn(&K) -> Option<T>,
    key: impl Fn(&K) -> Option<T::Key>,
) -> Option<Event<T>> {
    match event {
        watcher::Event::Init => Some(Event::Reset),
        watcher::Event::InitApply(object) => convert(&object).map(Event::Upsert),
        watcher::Event::InitDone => Some(Event::Synced),
        watcher::Event::Apply(object) => match convert(&object) {
            Some(value) => Some(Event::Upsert(value)),
            None => key(&object).map(Event::Remove),
        },
        watcher::Event::Delete(object) => key(&object).map(Event::Remove),
    }
}

fn report(what: &str, error: &watcher::Error) {
    let text = match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => readable(error),
        // The history was compacted: the watcher lists again, nothing is lost.
        watcher::Error::WatchError(status) if status.code == 410 => {
            debug!(resource = what, "the watch is too old; listing again");
            return;
        }
        watcher::Error::WatchError(status) => status.message.clone(),
        other => other.to_string(),
    };
    warn!(resource = what, error = text, "watching failed; trying again");
}
