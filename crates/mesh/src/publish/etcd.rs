//! An etcd cluster as the store, shared with nobody who publishes the same cluster.
//!
//! Replicas, or an old and a new process during an update, may publish the same cluster to the same
//! etcd. Only one of them writes: the one whose lease holds the cluster configuration. Every write is
//! a transaction that compares this, so that one that has been replaced cannot write any more, not
//! even what was on its way. A process that starts takes over at once. One that was replaced, or
//! finds itself not alone later, stands by, and takes over when the other has neither written its
//! heartbeat nor its configuration for as long as readers would wait for it.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use causeway_kvstore::client::{Balancer, Client, ClientError, WatchMessage, WatchStream};
use causeway_kvstore::pb::{
    self,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request,
    response_op::Response,
};
use causeway_kvstore::{KeyRange, WatchOptions};
use causeway_model::ClusterName;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, info};

use super::sinks::{first, key_texts, keys_only, one, transaction};
use super::{Op, Sink, SinkError};
use crate::keys;

/// How long another publisher may be silent (mesh-protocol 3.5: two missed heartbeats).
const SILENCE: Duration = Duration::from_secs(120);
/// Keys of one page of a list.
const PAGE: i64 = 1000;
/// How long a watch that ended waits for its next beginning.
const WATCH_AGAIN: Duration = Duration::from_millis(500);

/// An etcd cluster, through a client whose certificate may write.
#[derive(Debug)]
pub struct EtcdSink {
    etcd: Balancer,
    /// Whoever holds this key publishes.
    config: String,
    silence: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The next claim is the first of this process.
    fresh: bool,
    /// The key was not there when it was claimed: the first write makes it.
    absent: bool,
    /// What another publisher was last seen to have written, and since when.
    other: Option<(Signs, Instant)>,
}

/// The revisions of what a publisher writes again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Signs {
    config: i64,
    heartbeat: i64,
}

impl EtcdSink {
    /// The store of cluster `own`.
    pub fn new(etcd: Balancer, own: &ClusterName) -> Self {
        let state = State { fresh: true, absent: false, other: None };
        Self { etcd, config: keys::cluster_config(own), silence: SILENCE, state: Mutex::new(state) }
    }

    /// Another time after which a silent publisher is replaced; the default is two minutes.
    #[must_use]
    pub fn with_silence(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it is held")
    }

    async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, ClientError> {
        self.etcd.call(|client| call(client, request.clone(), async |c, r| c.range(r).await)).await
    }

    async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, ClientError> {
        self.etcd.call(|client| call(client, request.clone(), async |c, r| c.txn(r).await)).await
    }

    /// Decides whether to publish now, seeing what is there.
    fn decide(&self, config: Option<&pb::KeyValue>, heartbeat: i64, now: Instant) -> Result<(), SinkError> {
        let mut state = self.state();
        state.absent = config.is_none();
        let fresh = std::mem::take(&mut state.fresh);
        // Every publisher holds the key with a lease. Without one it was written by hand: nobody publishes.
        let Some(config) = config.filter(|config| config.lease != 0) else {
            state.other = None;
            return Ok(());
        };
        let signs = Signs { config: config.mod_revision, heartbeat };
        if fresh {
            return Ok(());
        }
        match state.other {
            Some((seen, since)) if seen == signs && now - since >= self.silence => {
                info!(key = self.config, silent = ?(now - since), "the other publisher is silent: taking over");
                state.other = None;
                Ok(())
            }
            Some((seen, _)) if seen == signs => Err(SinkError::Replaced),
            _ => {
                state.other = Some((signs, now));
                Err(SinkError::Replaced)
            }
        }
    }
}

/// Calls with what it owns, so that the future does not borrow.
async fn call<R, T>(
    client: Client,
    request: R,
    ask: impl AsyncFn(&Client, R) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    ask(&client, request).await
}

/// Tells whenever a watch begins, since what happened before is not known, and at every change; what is
/// told while nobody listens is told once. A watch that ends is begun again, for ever.
async fn follow(etcd: Balancer, range: KeyRange, told: &mpsc::Sender<()>) {
    loop {
        match watch(&etcd, &range).await {
            Ok((client, mut messages)) => loop {
                match messages.next().await {
                    Some(Ok(WatchMessage::Created(_) | WatchMessage::Events(..))) => drop(told.try_send(())),
                    Some(Err(error)) if error.is_of_endpoint() => break etcd.failed(&client).await,
                    _ => break,
                }
            },
            Err(error) => debug!(%error, "the cluster configuration cannot be watched yet"),
        }
        sleep(WATCH_AGAIN).await;
    }
}

/// A watch of what is written from now on.
async fn watch(etcd: &Balancer, range: &KeyRange) -> Result<(Client, WatchStream), ClientError> {
    let client = etcd.client().await?;
    match client.watch(WatchOptions::new(range.clone(), 0)).await {
        Ok(messages) => Ok((client, messages)),
        Err(error) => {
            if error.is_of_endpoint() {
                etcd.failed(&client).await;
            }
            Err(error)
        }
    }
}

fn compare(key: &str, target: CompareTarget, wanted: TargetUnion) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: target.into(),
        key: key.to_owned().into(),
        target_union: Some(wanted),
        ..Default::default()
    }
}

impl Sink for EtcdSink {
    async fn write(&self, ops: Vec<Op>, lease: i64) -> Result<(), SinkError> {
        let absent = self.state().absent;
        let makes = absent && ops.iter().any(|op| op.key() == self.config);
        let mut request = transaction(ops, lease);
        request.compare.push(match absent {
            true => compare(&self.config, CompareTarget::Create, TargetUnion::CreateRevision(0)),
            false => compare(&self.config, CompareTarget::Lease, TargetUnion::Lease(lease)),
        });
        request.failure.push(pb::RequestOp { request: Some(Request::RequestRange(one(&self.config))) });
        let answer = self.txn(request).await?;
        if answer.succeeded {
            if makes {
                self.state().absent = false;
            }
            return Ok(());
        }
        let found = answer.responses.into_iter().next().and_then(|op| match op.response {
            Some(Response::ResponseRange(range)) => range.kvs.into_iter().next(),
            _ => None,
        });
        match found {
            // Written by a call that was repeated because its first answer was lost.
            Some(kv) if kv.lease == lease && absent => {
                self.state().absent = false;
                Err(SinkError::Failed("the cluster configuration was there already; writing again".into()))
            }
            Some(_) => Err(SinkError::Replaced),
            None => Err(SinkError::LeaseLost),
        }
    }

    async fn keys(&self, prefix: &str) -> Result<Vec<String>, SinkError> {
        let mut request = pb::RangeRequest { limit: PAGE, ..keys_only(prefix) };
        let mut keys = Vec::new();
        loop {
            let page = self.range(request.clone()).await?;
            let (more, last) = (page.more, page.kvs.last().map(|kv| kv.key.clone()));
            keys.extend(key_texts(page));
            match last {
                Some(last) if more => request.key = [&last[..], &[0]].concat().into(),
                _ => return Ok(keys),
            }
        }
    }

    async fn get(&self, key: &str) -> Result<Option<(Bytes, i64)>, SinkError> {
        Ok(self.range(one(key)).await.map(first)?)
    }

    /// Grants a lease and moves the cluster configuration to it, if it is this process that is to
    /// publish.
    async fn grant(&self, ttl_seconds: i64) -> Result<i64, SinkError> {
        let config = self.range(one(&self.config)).await?.kvs.into_iter().next();
        let heartbeat = self.range(one(keys::HEARTBEAT)).await?.kvs.first().map_or(0, |kv| kv.mod_revision);
        self.decide(config.as_ref(), heartbeat, Instant::now())?;
        let granted =
            self.etcd.call(|c| call(c, ttl_seconds, async |c, ttl| c.lease_grant(ttl).await)).await?;
        let Some(config) = config else { return Ok(granted.id) };
        let put =
            pb::PutRequest { key: config.key, lease: granted.id, ignore_value: true, ..Default::default() };
        let seen = compare(&self.config, CompareTarget::Mod, TargetUnion::ModRevision(config.mod_revision));
        let request = pb::TxnRequest {
            compare: vec![seen],
            success: vec![pb::RequestOp { request: Some(Request::RequestPut(put)) }],
            ..Default::default()
        };
        match self.txn(request).await?.succeeded {
            true => Ok(granted.id),
            // Somebody else was quicker, or the first answer of a repeated call was lost.
            false => match self.get(&self.config).await? {
                Some((_, lease)) if lease == granted.id => Ok(granted.id),
                _ => Err(SinkError::Replaced),
            },
        }
    }

    fn changes(&self, key: &str) -> BoxStream<'static, ()> {
        let (told, changes) = mpsc::channel(1);
        let (etcd, range) = (self.etcd.clone(), KeyRange::single(key.to_owned()));
        // A task of its own: whoever holds the stream makes calls between two looks at it, and these wait
        // for a connection that is being made.
        tokio::spawn(async move {
            tokio::select! {
                () = told.closed() => {}
                () = follow(etcd, range, &told) => {}
            }
        });
        ReceiverStream::new(changes).boxed()
    }

    async fn keep_alive(&self, lease: i64) -> Result<(), SinkError> {
        match self.etcd.call(|c| call(c, lease, async |c, lease| c.lease_keep_alive(lease).await)).await? {
            1.. => Ok(()),
            _ => Err(SinkError::LeaseLost),
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_kvstore::client::ClientConfig;

    use super::*;

    fn sink() -> EtcdSink {
        let endpoints = vec!["http://127.0.0.1:1".into()];
        let config = ClientConfig { endpoints, tls: None, resolve: Default::default(), timeout: SILENCE };
        EtcdSink::new(Balancer::new(config), &ClusterName::new("cls-a").unwrap())
    }

    fn kv(mod_revision: i64) -> pb::KeyValue {
        pb::KeyValue { mod_revision, lease: 7, ..Default::default() }
    }

    #[test]
    fn the_newest_process_publishes_and_the_others_wait_for_its_silence() {
        let sink = sink();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let replaced = |answer: Result<(), SinkError>| matches!(answer, Err(SinkError::Replaced));
        sink.decide(Some(&kv(5)), 9, at(0)).expect("a new process takes over");
        assert!(replaced(sink.decide(Some(&kv(6)), 9, at(10))), "another one has");
        assert!(replaced(sink.decide(Some(&kv(6)), 9, at(129))));
        assert!(replaced(sink.decide(Some(&kv(6)), 11, at(131))), "its heart beats");
        assert!(replaced(sink.decide(Some(&kv(6)), 11, at(250))));
        sink.decide(Some(&kv(6)), 11, at(251)).expect("it has been silent for two minutes");
        assert!(replaced(sink.decide(Some(&kv(8)), 11, at(300))), "its silence is measured anew");
        sink.decide(None, 0, at(301)).expect("nobody publishes");
        let by_hand = pb::KeyValue { lease: 0, ..kv(9) };
        sink.decide(Some(&by_hand), 11, at(302)).expect("no publisher writes it without a lease");
    }

    #[test]
    fn who_was_the_first_of_all_is_not_new_for_ever() {
        let sink = sink();
        let now = Instant::now();
        sink.decide(None, 0, now).expect("nobody publishes");
        assert!(matches!(sink.decide(Some(&kv(6)), 9, now), Err(SinkError::Replaced)));
    }
}
