//! Objects whose definition may be missing, now or for ever.

use std::time::Duration;

use causeway_model::{Event, Keyed};
use futures::{Stream, StreamExt, stream};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client};
use tracing::{debug, info};

use crate::readable;

/// How often a definition that is missing is looked for.
const POLL: Duration = Duration::from_secs(5);
/// How soon the question is asked again when the API server does not answer it.
const RETRY: Duration = Duration::from_millis(500);

/// The stream, as soon as the definition is there; `watch` is told the versions that are served. Until then there are no
/// such objects, which is a complete listing: `Reset` and `Synced`.
pub(super) fn once_defined<T, S>(
    client: Client,
    definition: &'static str,
    watch: impl FnOnce(Vec<String>) -> S + Send + 'static,
) -> impl Stream<Item = Event<T>> + Send + 'static
where
    T: Keyed + Send + 'static,
    T::Key: Send,
    S: Stream<Item = Event<T>> + Send + 'static,
{
    let api: Api<CustomResourceDefinition> = Api::all(client);
    let later = api.clone();
    let first = async move {
        if served(&api, definition).await.is_some() {
            return vec![];
        }
        info!(definition, "not there: no such objects until it is created");
        vec![Event::Reset, Event::Synced]
    };
    let rest = async move {
        loop {
            if let Some(versions) = served(&later, definition).await {
                return watch(versions);
            }
            tokio::time::sleep(POLL).await;
        }
    };
    stream::once(first).flat_map(stream::iter).chain(stream::once(rest).flatten())
}

/// The versions that are served, once it is established. Asks until there is an answer.
async fn served(api: &Api<CustomResourceDefinition>, definition: &str) -> Option<Vec<String>> {
    loop {
        match api.get_opt(definition).await {
            Ok(found) => {
                let found = found?;
                let conditions = found.status.and_then(|status| status.conditions).unwrap_or_default();
                if !conditions.iter().any(|c| c.type_ == "Established" && c.status == "True") {
                    return None;
                }
                let versions = found.spec.versions.into_iter().filter(|version| version.served);
                return Some(versions.map(|version| version.name).collect());
            }
            Err(error) => {
                debug!(definition, error = readable(&error), "cannot ask for a definition");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
