//! Listing in pages at one revision, and watching from there.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tokio::sync::oneshot;
use tonic::Streaming;

use super::{Client, ClientError, Seen};
use crate::pb::{self, watch_create_request::FilterType, watch_request::RequestUnion};
use crate::{KeyRange, WatchOptions, prefix_end};

/// A list in progress: all pages are of the revision of the first.
#[derive(Debug)]
pub struct Listing {
    client: Client,
    request: Option<pb::RangeRequest>,
}

impl Listing {
    pub(super) fn new(client: Client, range: KeyRange, page: i64) -> Self {
        Self { client, request: Some(pb::RangeRequest { limit: page, ..(&range).into() }) }
    }

    /// The next page; `None` after the last. Its header's revision is the server's present one for
    /// the first page; watch from the revision after that of the first page.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::TooLarge`] when one value alone is, [`ClientError::Compacted`]
    /// when listing took so long that its revision is gone.
    pub async fn next(&mut self) -> Result<Option<pb::RangeResponse>, ClientError> {
        let Some(mut request) = self.request.take() else { return Ok(None) };
        let response = loop {
            match self.client.range(request.clone()).await {
                // Large values: fewer of them at a time.
                Err(ClientError::TooLarge { .. }) if request.limit > 1 => request.limit /= 2,
                answer => break answer?,
            }
        };
        let header = response.header.unwrap_or_default();
        if let (true, Some(last)) = (response.more, response.kvs.last()) {
            let key: Bytes = [&last.key[..], &[0]].concat().into();
            let revision = if request.revision > 0 { request.revision } else { header.revision };
            self.request = Some(pb::RangeRequest { key, revision, ..request });
        }
        Ok(Some(response))
    }
}

/// What a watch says.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchMessage {
    /// The server has the watch; what follows is complete from its start revision on.
    Created(pb::ResponseHeader),
    /// Events in order, or none: progress up to the header's revision. The events of a revision that
    /// changed very many keys come in several of these.
    Events(pb::ResponseHeader, Vec<pb::Event>),
    /// The start revision is gone; list again.
    Compacted {
        /// The oldest revision that can be watched.
        compact_revision: i64,
    },
    /// The server ended the watch for this reason.
    Canceled(String),
}

/// One watch on a stream of its own; dropping it ends the watch.
#[derive(Debug)]
pub struct WatchStream {
    endpoint: String,
    seen: Arc<Seen>,
    answers: Streaming<pb::WatchResponse>,
    /// Dropped with this: then the requests end, and with them the stream.
    _open: oneshot::Sender<()>,
}

pub(super) async fn watch(client: &Client, options: WatchOptions) -> Result<WatchStream, ClientError> {
    let mut filters = Vec::new();
    if options.no_put {
        filters.push(FilterType::Noput as i32);
    }
    if options.no_delete {
        filters.push(FilterType::Nodelete as i32);
    }
    let create = pb::WatchCreateRequest {
        key: options.range.start().clone(),
        range_end: options.range.range_end(),
        start_revision: options.start_revision,
        prev_kv: options.prev_kv,
        filters,
        // A change of very many keys comes in pieces instead of as one huge message.
        fragment: true,
        ..Default::default()
    };
    let (open, closed) = oneshot::channel();
    let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let end = stream::once(closed).filter_map(|_| std::future::ready(None));
    let requests = stream::once(std::future::ready(request)).chain(end);
    // etcd answers only after the first request, so opening is bounded like a unary call.
    // What opening needs is freed then: a reader has a watch for each kind of each cluster.
    let mut watch = client.watch.clone();
    let opening = Box::pin(client.unary(watch.watch(requests)));
    let answers = opening.await?;
    let (endpoint, seen) = (client.endpoint.clone(), client.seen.clone());
    Ok(WatchStream { endpoint, seen, answers, _open: open })
}

impl Stream for WatchStream {
    type Item = Result<WatchMessage, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.answers).poll_next(context).map(|answer| match answer? {
            Ok(response) => Some(message(&self.endpoint, &self.seen, response)),
            Err(status) => Some(Err(ClientError::from_status(&self.endpoint, status))),
        })
    }
}

fn message(endpoint: &str, seen: &Seen, response: pb::WatchResponse) -> Result<WatchMessage, ClientError> {
    let header = *seen.check(endpoint, response.header.as_ref())?;
    Ok(if response.compact_revision > 0 {
        WatchMessage::Compacted { compact_revision: response.compact_revision }
    } else if response.canceled {
        WatchMessage::Canceled(response.cancel_reason)
    } else if response.created {
        WatchMessage::Created(header)
    } else {
        WatchMessage::Events(header, response.events)
    })
}

impl Client {
    /// Reads every key below a prefix, in pages of 256 at one revision. For small prefixes.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn list_all(&self, prefix: &[u8]) -> Result<Vec<pb::KeyValue>, ClientError> {
        let range = KeyRange::new(Bytes::copy_from_slice(prefix), prefix_end(prefix));
        let mut listing = self.list(range, 256);
        let mut all = Vec::new();
        while let Some(page) = listing.next().await? {
            all.extend(page.kvs);
        }
        Ok(all)
    }
}
