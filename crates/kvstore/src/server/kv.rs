//! `etcdserverpb.KV`: from the bytes of a call to the bytes of its answer; at once, except where a
//! durable store is still writing.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use prost::Message;
use tonic::Status;

use super::access::Caller;
use super::metrics::Metrics;
use super::unary;
use crate::pb::{self, request_op};
use crate::{Error, KeyRange, Pending, Store};

/// A store with who calls.
#[derive(Debug)]
pub(super) struct Kv {
    pub(super) store: Store,
    pub(super) caller: Arc<Caller>,
    pub(super) metrics: Arc<Metrics>,
}

/// The methods of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Range,
    Put,
    DeleteRange,
    Txn,
    Compact,
}

impl Method {
    /// The method behind a path, if it is one of this service.
    pub(super) fn of(path: &str) -> Option<Self> {
        Some(match path.strip_prefix("/etcdserverpb.KV/")? {
            "Range" => Self::Range,
            "Put" => Self::Put,
            "DeleteRange" => Self::DeleteRange,
            "Txn" => Self::Txn,
            "Compact" => Self::Compact,
            _ => return None,
        })
    }
}

impl Kv {
    /// The same for another caller.
    pub(super) fn of(&self, caller: Arc<Caller>) -> Self {
        Self { store: self.store.clone(), caller, metrics: self.metrics.clone() }
    }

    /// Carries out a call: an encoded request in, an encoded and framed answer out.
    pub(super) fn call(&self, method: Method, request: Bytes) -> Reply {
        let reply = match method {
            Method::Range => decode(request).and_then(|request| Ok(Reply::Ready(Ok(self.range(request)?)))),
            Method::Put => decode(request).and_then(|request| Ok(reply(self.put(request)?))),
            Method::DeleteRange => decode(request).and_then(|request| Ok(reply(self.delete_range(request)?))),
            Method::Txn => decode(request).and_then(|request| Ok(reply(self.txn(request)?))),
            Method::Compact => decode(request).and_then(|request| self.compact(request)),
        };
        reply.unwrap_or_else(|status| Reply::Ready(Err(status)))
    }

    fn range(&self, request: pb::RangeRequest) -> Result<Bytes, Error> {
        self.may_read(&request)?;
        Ok(unary::sealed(self.store.range_encoded(&request, unary::PREFIX)?))
    }

    fn put(&self, request: pb::PutRequest) -> Result<Pending<pb::PutResponse>, Error> {
        self.may_put(&request)?;
        Ok(self.store.staged().put(request))
    }

    fn delete_range(
        &self,
        request: pb::DeleteRangeRequest,
    ) -> Result<Pending<pb::DeleteRangeResponse>, Error> {
        self.may_delete(&request)?;
        Ok(self.store.staged().delete_range(&request))
    }

    fn txn(&self, request: pb::TxnRequest) -> Result<Pending<pb::TxnResponse>, Error> {
        self.may_run(&request)?;
        Ok(self.store.staged().txn(request))
    }

    fn compact(&self, request: pb::CompactionRequest) -> Result<Reply, Status> {
        self.caller.administer()?;
        let store = self.store.clone();
        let answer = move |()| pb::CompactionResponse { header: Some(store.header()) };
        Ok(reply_with(self.store.staged().compact(request.revision), answer))
    }

    fn may_read(&self, request: &pb::RangeRequest) -> Result<(), Error> {
        self.caller.read(&KeyRange::new(request.key.clone(), request.range_end.clone()))
    }

    /// Who wants to see the previous value must be allowed to read it.
    fn may_put(&self, request: &pb::PutRequest) -> Result<(), Error> {
        let key = KeyRange::single(request.key.clone());
        self.caller.write(&key)?;
        if request.lease != 0 {
            // Who could not end the lease must not bind more keys to it.
            let attached = self.store.lease_info(request.lease, std::time::Instant::now());
            self.caller.writes_all(&attached.map_or_else(Vec::new, |lease| lease.keys))?;
        }
        if request.prev_kv { self.caller.read(&key) } else { Ok(()) }
    }

    fn may_delete(&self, request: &pb::DeleteRangeRequest) -> Result<(), Error> {
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        self.caller.write(&range)?;
        if request.prev_kv { self.caller.read(&range) } else { Ok(()) }
    }

    /// A transaction needs what its parts need, whichever branch would run.
    fn may_run(&self, txn: &pb::TxnRequest) -> Result<(), Error> {
        for compare in &txn.compare {
            self.caller.read(&KeyRange::new(compare.key.clone(), compare.range_end.clone()))?;
        }
        for op in txn.success.iter().chain(&txn.failure) {
            match &op.request {
                Some(request_op::Request::RequestRange(range)) => self.may_read(range)?,
                Some(request_op::Request::RequestPut(put)) => self.may_put(put)?,
                Some(request_op::Request::RequestDeleteRange(delete)) => self.may_delete(delete)?,
                Some(request_op::Request::RequestTxn(inner)) => self.may_run(inner)?,
                None => {}
            }
        }
        Ok(())
    }
}

/// The answer of a call.
pub(super) enum Reply {
    Ready(Result<Bytes, Status>),
    /// It is durable before it is told.
    Later(BoxFuture<'static, Result<Bytes, Status>>),
}

fn reply<T: Message + 'static>(pending: Pending<T>) -> Reply {
    reply_with(pending, |message| message)
}

fn reply_with<T: Send + 'static, M: Message>(
    pending: Pending<T>,
    message: impl FnOnce(T) -> M + Send + 'static,
) -> Reply {
    match pending.ready() {
        Ok(result) => Reply::Ready(result.map(|done| unary::framed(&message(done))).map_err(Status::from)),
        Err(pending) => {
            let later = async move { Ok(unary::framed(&message(pending.done().await?))) };
            Reply::Later(later.boxed())
        }
    }
}

fn decode<T: Message + Default>(request: Bytes) -> Result<T, Status> {
    T::decode(request)
        .map_err(|error| Status::internal(format!("grpc: failed to unmarshal the request: {error}")))
}
