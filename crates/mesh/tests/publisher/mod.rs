//! A publisher as a test runs it: it has of everything nothing, unless told otherwise, and its addresses
//! come from the test.

use causeway_mesh::publish::{self, Options, PublishStatus, Publisher, Sink, Sources};
use causeway_model::{ClusterId, ClusterInfo, ClusterName, Event, IpEntry, Keyed, MaxClusters};
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

pub(crate) fn cluster(name: &str, id: u32) -> ClusterInfo {
    let max_clusters = MaxClusters::C255;
    ClusterInfo {
        name: ClusterName::new(name).unwrap(),
        id: ClusterId::new(id, max_clusters).unwrap(),
        max_clusters,
    }
}

/// A source that lists these once and then stays as it is.
pub(crate) fn listing<T: Keyed<Key: Send> + Send + 'static>(items: Vec<T>) -> BoxStream<'static, Event<T>> {
    let events =
        [Event::Reset].into_iter().chain(items.into_iter().map(Event::Upsert)).chain([Event::Synced]);
    stream::iter(events.collect::<Vec<_>>()).chain(stream::pending()).boxed()
}

/// Starts it; `also` may give it more sources.
pub(crate) fn start(
    info: ClusterInfo,
    sink: impl Sink,
    options: Options,
    stop: CancellationToken,
    also: impl FnOnce(&mut Sources),
) -> (mpsc::UnboundedSender<Event<IpEntry>>, watch::Receiver<PublishStatus>) {
    let (addresses, received) = mpsc::unbounded_channel();
    let mut sources = Sources {
        nodes: listing(vec![]),
        identities: listing(vec![]),
        addresses: UnboundedReceiverStream::new(received).boxed(),
        services: listing(vec![]),
        slices: listing(vec![]),
        exports: None,
    };
    also(&mut sources);
    let (sender, status) = watch::channel(PublishStatus::default());
    tokio::spawn(publish::run(Publisher::new(info, false), sources, sink, options, sender, stop));
    (addresses, status)
}
