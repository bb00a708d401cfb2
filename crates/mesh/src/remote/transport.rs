//! What a session needs of a store's client.

use std::future::Future;

use bytes::Bytes;
use futures::stream::BoxStream;

use super::Change;
use crate::config_dir::RemoteConfig;
use crate::wire::Reason;

/// Why a request ended.
#[derive(Debug)]
pub(super) enum TransportError {
    /// The connection does not work.
    Broken(String),
    /// The history asked for is gone.
    Compacted,
    /// The peer answered as no etcd can, or as not the one it was.
    Wrong(Reason, String),
    /// The answer was longer than a message may be.
    TooLarge,
    /// The peer answered with a refusal.
    Refused(String),
}

/// One page of a list. `store` is the header's `cluster_id`, 0 without header.
#[derive(Debug)]
pub(super) struct RangeReply {
    pub(super) store: u64,
    pub(super) revision: i64,
    pub(super) entries: Vec<(Bytes, Bytes)>,
    pub(super) more: bool,
}

/// One message of a watch; no changes when it was created.
#[derive(Debug)]
pub(super) struct WatchReply {
    pub(super) store: u64,
    pub(super) revision: i64,
    pub(super) changes: Vec<Change>,
}

pub(super) type WatchStream = BoxStream<'static, Result<WatchReply, TransportError>>;

/// Makes clients.
pub(super) trait Transport: Send + Sync + 'static {
    type Client: Client;
    fn connect(
        &self,
        config: &RemoteConfig,
    ) -> impl Future<Output = Result<Self::Client, TransportError>> + Send;
}

/// Reads from one store.
pub(super) trait Client: Clone + Send + Sync + 'static {
    /// Keys of `[start, end)`, or the key `start` if `end` is empty; at `revision`, or now if 0.
    /// At most `limit`; `keys_only` without their values.
    fn range(
        &self,
        start: Vec<u8>,
        end: Vec<u8>,
        revision: i64,
        limit: i64,
        keys_only: bool,
    ) -> impl Future<Output = Result<RangeReply, TransportError>> + Send;
    /// Changes of `[start, end)` from `start_revision` on.
    fn watch(
        &self,
        start: Vec<u8>,
        end: Vec<u8>,
        start_revision: i64,
    ) -> impl Future<Output = Result<WatchStream, TransportError>> + Send;
}
