//! Where published keys go.

use std::future::Future;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::Op;

/// Why a sink refused.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The lease is gone, and with it every key attached to it.
    #[error("the lease has expired; all keys are written again under a new one")]
    LeaseLost,
    /// Another process publishes this cluster to this store.
    #[error("another process publishes this cluster to the same store; standing by until it is silent")]
    Replaced,
    /// The store takes no request of this size.
    #[error("the store takes no request of this size")]
    TooLarge,
    /// The store is full.
    #[error(
        "the store is full: give it a larger quota (quota-backend-bytes), or compact it and disarm its alarm"
    )]
    Full,
    /// Anything else; the write is tried again.
    #[error("{0}")]
    Failed(String),
}

/// A store that takes published keys: the embedded one, or an etcd.
pub trait Sink: Send + Sync + 'static {
    /// Applies these writes in one transaction; puts are attached to the lease. At most
    /// [`MAX_BATCH`] of them, no key twice.
    fn write(&self, ops: Vec<Op>, lease: i64) -> impl Future<Output = Result<(), SinkError>> + Send;
    /// All keys that begin with `prefix`.
    fn keys(&self, prefix: &str) -> impl Future<Output = Result<Vec<String>, SinkError>> + Send;
    /// The value and lease of one key.
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<(Bytes, i64)>, SinkError>> + Send;
    /// A new lease of so many seconds.
    fn grant(&self, ttl_seconds: i64) -> impl Future<Output = Result<i64, SinkError>> + Send;
    /// An item whenever somebody has written or deleted this key, from now on. It ends when that can no
    /// longer be told; a store that cannot tell at all never says anything.
    fn changes(&self, key: &str) -> BoxStream<'static, ()> {
        let _ = key;
        futures::stream::pending().boxed()
    }
    /// Renews a lease; [`SinkError::LeaseLost`] if it is gone.
    fn keep_alive(&self, lease: i64) -> impl Future<Output = Result<(), SinkError>> + Send;
}

/// Most writes of one batch: etcd's default limit for a transaction.
pub const MAX_BATCH: usize = 128;
/// Bytes of keys and values after which a batch is closed. With one more value of the largest size
/// seen in practice it is still below etcd's limit of 1.5 MiB for a request.
pub const BATCH_BYTES: usize = 512 << 10;
