//! The embedded store, and what it has in common with any etcd.

use std::future::ready;
use std::time::Instant;

use bytes::Bytes;
use causeway_kvstore::client::ClientError;
use causeway_kvstore::pb::request_op::Request;
use causeway_kvstore::{Error, KeyRange, Store, WatchOptions, WriteOp, pb};
use futures::StreamExt;
use futures::stream::BoxStream;

use super::{Op, Sink, SinkError};

/// The embedded store of this process.
#[derive(Debug, Clone)]
pub struct StoreSink(pub Store);

/// One revision per batch: a reader sees it whole.
pub(super) fn transaction(ops: Vec<Op>, lease: i64) -> pb::TxnRequest {
    let request = |op| match op {
        Op::Put(pair) => {
            let (key, value) = (Bytes::copy_from_slice(pair.key()), Bytes::copy_from_slice(pair.value()));
            Request::RequestPut(pb::PutRequest { key, value, lease, ..Default::default() })
        }
        Op::Delete { key } => {
            Request::RequestDeleteRange(pb::DeleteRangeRequest { key: key.into(), ..Default::default() })
        }
    };
    let success = ops.into_iter().map(|op| pb::RequestOp { request: Some(request(op)) }).collect();
    pb::TxnRequest { success, ..Default::default() }
}

pub(super) fn keys_only(prefix: &str) -> pb::RangeRequest {
    pb::RangeRequest { keys_only: true, ..(&KeyRange::prefix(prefix.to_owned())).into() }
}

pub(super) fn one(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

pub(super) fn key_texts(response: pb::RangeResponse) -> Vec<String> {
    response.kvs.into_iter().filter_map(|kv| String::from_utf8(kv.key.to_vec()).ok()).collect()
}

pub(super) fn first(response: pb::RangeResponse) -> Option<(Bytes, i64)> {
    response.kvs.into_iter().next().map(|kv| (kv.value, kv.lease))
}

impl From<Error> for SinkError {
    fn from(error: Error) -> Self {
        match error {
            Error::LeaseNotFound => Self::LeaseLost,
            Error::RequestTooLarge => Self::TooLarge,
            Error::NoSpace => Self::Full,
            error => Self::Failed(error.to_string()),
        }
    }
}

impl From<ClientError> for SinkError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::LeaseNotFound => Self::LeaseLost,
            ClientError::RequestTooLarge { .. } => Self::TooLarge,
            error => Self::Failed(error.to_string()),
        }
    }
}

impl Sink for StoreSink {
    async fn write(&self, ops: Vec<Op>, lease: i64) -> Result<(), SinkError> {
        let write = |op| match op {
            Op::Put(pair) => WriteOp::Put(pair),
            Op::Delete { key } => WriteOp::Delete(key.into()),
        };
        let ops = ops.into_iter().map(write).collect();
        Ok(self.0.staged().apply_leased(ops, lease).done().await.map(drop)?)
    }
    async fn keys(&self, prefix: &str) -> Result<Vec<String>, SinkError> {
        Ok(self.0.range(&keys_only(prefix)).map(key_texts)?)
    }
    async fn get(&self, key: &str) -> Result<Option<(Bytes, i64)>, SinkError> {
        Ok(self.0.range(&one(key)).map(first)?)
    }
    async fn grant(&self, ttl_seconds: i64) -> Result<i64, SinkError> {
        Ok(self.0.staged().lease_grant(0, ttl_seconds, Instant::now()).done().await?.0)
    }
    fn changes(&self, key: &str) -> BoxStream<'static, ()> {
        let watcher = self.0.watch(WatchOptions::new(KeyRange::single(key.to_owned()), 0));
        watcher.take_while(|batch| ready(batch.is_ok())).map(drop).boxed()
    }
    async fn keep_alive(&self, lease: i64) -> Result<(), SinkError> {
        self.0.lease_keep_alive(lease, Instant::now()).map(drop).ok_or(SinkError::LeaseLost)
    }
}
