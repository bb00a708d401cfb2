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

/// The stream, as soon as the definition is there. Until then there are no such objects, which is a
/// complete listing: `Reset` and `Synced`.
pub(super) fn once_defined<T, S>(
    client: Client,
    definition: &'static str,
    watch: impl FnOnce() -> S + Send + 'static,
) -> impl Stream<Item = Event<T>> + Send + 'static
where
    T: Keyed + Send + 'static,
    T::Key: Send,
    S: Stream<Item = Event<T>> + Send + 'static,
{
    let api: Api<CustomResourceDefinition> = Api::all(client);
    let later = api.clone();
    let first = async move {
        if is_served(&api, definition).await {
            return vec![];
        }
        info!(definition, "not there: no such objects until it is created");
        vec![Event::Reset, Event::Synced]
    };
    let rest = async move {
        while !is_served(&later, definition).await {
            tokio::time::sleep(POLL).await;
        }
        watch()
    };
    stream::once(first).flat_map(stream::iter).chain(stream::once(rest).flatten())
}

/// Asks until there is an answer.
async fn is_served(api: &Api<CustomResourceDefinition>, definition: &str) -> bool {
    loop {
        match api.get_opt(definition).await {
            Ok(found) => {
                let conditions = found.and_then(|found| found.status?.conditions).unwrap_or_default();
                return conditions.iter().any(|c| c.type_ == "Established" && c.status == "True");
            }
            Err(error) => {
                debug!(definition, error = readable(&error), "cannot ask for a definition");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
