//! What longer-lived callers build on: list and watch as one stream, and a lease kept alive.

use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Client, ClientError, Listing, WatchMessage, WatchStream};
use crate::{KeyRange, WatchOptions, pb};

/// Keys of one page of a list (mesh-protocol 7.2).
pub const PAGE: i64 = 256;

/// What [`Client::list_watch`] says, in this order: any number of `Listed`, one `Synced`, then
/// `Changed` without a gap until the stream ends.
#[derive(Debug, Clone, PartialEq)]
pub enum ListWatch {
    /// Keys that existed when the list began.
    Listed(Vec<pb::KeyValue>),
    /// The list is complete, as of this header's revision; all that follows is later.
    Synced(pb::ResponseHeader),
    /// Changes, in order.
    Changed(pb::ResponseHeader, Vec<pb::Event>),
}

impl Client {
    /// Lists `range` at one revision in pages of [`PAGE`], then watches it from the next one. The
    /// stream ends with its first error; whether and when to begin again is the caller's decision,
    /// with a new list, since changes may have been missed.
    ///
    /// Errors are those of the calls, [`ClientError::AnotherStore`] and [`ClientError::WentBack`] when
    /// the way leads elsewhere meanwhile, [`ClientError::Compacted`] when the history needed is gone and
    /// [`ClientError::WatchCanceled`] when the server ended the watch.
    pub fn list_watch(&self, range: KeyRange) -> impl Stream<Item = Result<ListWatch, ClientError>> + use<> {
        let client = self.clone();
        let start = Following::List(Box::new(self.list(range.clone(), PAGE)), None);
        futures::stream::try_unfold(start, move |mut state| {
            let (client, range) = (client.clone(), range.clone());
            async move {
                loop {
                    state = match state {
                        Following::List(mut listing, first) => {
                            let Some(page) = listing.next().await? else {
                                let header = client.header(first)?;
                                let next = Following::Watch(header.revision + 1);
                                return Ok(Some((ListWatch::Synced(header), next)));
                            };
                            let first = first.or(page.header);
                            return Ok(Some((ListWatch::Listed(page.kvs), Following::List(listing, first))));
                        }
                        Following::Watch(from) => Following::Events(Box::new(
                            client.watch(WatchOptions::new(range.clone(), from)).await?,
                        )),
                        Following::Events(mut stream) => match stream.next().await.transpose()? {
                            None => return Ok(None),
                            Some(WatchMessage::Created(_)) => {
                                // A watch that begins after the newest revision is answered by
                                // nothing; a read tells when that is because the store went back.
                                client.get(range.start().clone()).await?;
                                Following::Events(stream)
                            }
                            Some(WatchMessage::Events(header, events)) => {
                                let changed = ListWatch::Changed(header, events);
                                return Ok(Some((changed, Following::Events(stream))));
                            }
                            Some(WatchMessage::Compacted { .. }) => return Err(ClientError::Compacted),
                            Some(WatchMessage::Canceled(reason)) => {
                                let endpoint = client.endpoint.clone();
                                return Err(ClientError::WatchCanceled { endpoint, reason });
                            }
                        },
                    }
                }
            }
        })
    }

    /// Renews a lease of `ttl` seconds three times as often as needed, on one stream, until that
    /// fails or this future is dropped. It never ends well: [`ClientError::LeaseNotFound`] when the
    /// lease is gone, [`ClientError::Timeout`] when no answer came for the whole `ttl`.
    pub async fn keep_lease(&self, id: i64, ttl: i64) -> ClientError {
        let whole = Duration::from_secs(ttl.max(1).unsigned_abs());
        let (sender, receiver) = mpsc::channel(1);
        let mut client = self.lease.clone();
        let ask = || sender.try_send(pb::LeaseKeepAliveRequest { id });
        // The first request goes ahead: etcd answers the call itself only with the first answer.
        let _ = ask();
        let renew = async {
            let mut answers = client.lease_keep_alive(ReceiverStream::new(receiver)).await?.into_inner();
            loop {
                let answer = tokio::time::timeout(whole, answers.message()).await;
                match answer.map_err(|_| self.timeout(whole)) {
                    Ok(answer) => match answer?.map(|a| a.ttl) {
                        Some(left) if left > 0 => {}
                        Some(_) => return Ok(ClientError::LeaseNotFound),
                        None => return Err(tonic::Status::unavailable("the server ended the stream")),
                    },
                    Err(timeout) => return Ok(timeout),
                }
                tokio::time::sleep(whole / 3).await;
                let _ = ask();
            }
        };
        renew.await.unwrap_or_else(|status| ClientError::from_status(&self.endpoint, status))
    }

    fn header(&self, header: Option<pb::ResponseHeader>) -> Result<pb::ResponseHeader, ClientError> {
        header.ok_or_else(|| ClientError::NoHeader { endpoint: self.endpoint.clone() })
    }

    fn timeout(&self, after: Duration) -> ClientError {
        ClientError::Timeout { endpoint: self.endpoint.clone(), after }
    }
}

/// How far a [`Client::list_watch`] is.
enum Following {
    /// In the list, with the header of its first page.
    List(Box<Listing>, Option<pb::ResponseHeader>),
    /// About to watch from this revision.
    Watch(i64),
    /// Watching.
    Events(Box<WatchStream>),
}
