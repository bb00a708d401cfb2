//! The task that keeps a store equal to what a [`Publisher`] wants.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use causeway_kvstore::Pair;
use causeway_model::{EndpointSlice, Event, ExportRequest, Identity, IpEntry, Node, Service};
use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::sink::{BATCH_BYTES, MAX_BATCH};
use super::{Op, Publisher, Sink, SinkError};
use crate::keys::{self, Kind, Layout};
use crate::wire::{config, timestamp};

/// The watchers of this cluster, as streams of events.
pub struct Sources {
    /// CiliumNodes.
    pub nodes: BoxStream<'static, Event<Node>>,
    /// CiliumIdentities.
    pub identities: BoxStream<'static, Event<Identity>>,
    /// Addresses of CiliumEndpoints, each address once.
    pub addresses: BoxStream<'static, Event<IpEntry>>,
    /// Services.
    pub services: BoxStream<'static, Event<Service>>,
    /// EndpointSlices, without those that mirror other clusters.
    pub slices: BoxStream<'static, Event<EndpointSlice>>,
    /// ServiceExports; used only if the publisher has MCS-API on.
    pub exports: Option<BoxStream<'static, Event<ExportRequest>>>,
}

/// The protocol's timing (mesh-protocol 3.10).
#[derive(Debug, Clone)]
pub struct Options {
    /// Life of the lease every key is attached to; renewed at a third of it.
    pub lease_ttl: Duration,
    /// How often the heartbeat is written.
    pub heartbeat: Duration,
    /// How often the cluster configuration is compared with what it should be.
    pub enforce_config: Duration,
    /// Is told of every change that reached the store.
    pub observer: Option<Arc<dyn Observer>>,
}

/// Is told what happens, for metrics. It must not wait.
pub trait Observer: Debug + Send + Sync {
    /// A change of one key is in the store, `waited` after it was first known here.
    fn written(&self, kind: Kind, deleted: bool, waited: Duration);
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lease_ttl: Duration::from_secs(15 * 60),
            heartbeat: Duration::from_secs(60),
            enforce_config: Duration::from_secs(5 * 60),
            observer: None,
        }
    }
}

/// How far publishing is: for readiness and for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublishStatus {
    /// Keys written per kind, in the order of [`Kind::ALL`].
    pub keys: [usize; 5],
    /// Writes waiting per kind, in the same order.
    pub queued: [usize; 5],
    /// Which kinds are marked as complete, in the same order.
    pub marked: [bool; 5],
    /// How long it took from the start until all of them were, the first time.
    pub bootstrap: Option<Duration>,
    /// Every marker is in the store: a reader finds it complete. Only then should the Service send
    /// readers here.
    pub ready: bool,
    /// Writes waiting.
    pub pending: usize,
    /// Keys left out because their values are larger than the store takes.
    pub too_large: usize,
    /// The last failed write, if the latest attempt failed.
    pub last_error: Option<String>,
}

enum Input {
    Node(Event<Node>),
    Identity(Event<Identity>),
    Address(Event<IpEntry>),
    Service(Event<Service>),
    Slice(Event<EndpointSlice>),
    Export(Event<ExportRequest>),
}

/// Publishes until `shutdown`. Errors of the store are retried for ever with back-off and shown in
/// `status`; nothing is deleted at shutdown (leases run out by themselves).
pub async fn run<S: Sink>(
    publisher: Publisher,
    sources: Sources,
    sink: S,
    options: Options,
    status: watch::Sender<PublishStatus>,
    shutdown: CancellationToken,
) {
    let mut inputs: SelectAll<BoxStream<'static, Input>> = SelectAll::new();
    inputs.push(sources.nodes.map(Input::Node).boxed());
    inputs.push(sources.identities.map(Input::Identity).boxed());
    inputs.push(sources.addresses.map(Input::Address).boxed());
    inputs.push(sources.services.map(Input::Service).boxed());
    inputs.push(sources.slices.map(Input::Slice).boxed());
    inputs.extend(sources.exports.map(|exports| exports.map(Input::Export).boxed()));
    let now = Instant::now();
    let mut task = Task {
        heartbeat: every(now, options.heartbeat),
        renew: every(now + options.lease_ttl / 3, options.lease_ttl / 3),
        enforce: every(now + options.enforce_config, options.enforce_config),
        publisher,
        sink,
        options,
        status,
        lease: None,
        started: now,
        bootstrap: None,
        pending: BTreeMap::new(),
        queued: [0; 5],
        head: VecDeque::new(),
        reconciled: BTreeSet::new(),
        marked: BTreeSet::new(),
        too_large: BTreeSet::new(),
        failures: 0,
        retry_at: now,
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = task.run(inputs) => {}
    }
}

struct Task<S> {
    publisher: Publisher,
    sink: S,
    options: Options,
    status: watch::Sender<PublishStatus>,
    lease: Option<i64>,
    started: Instant,
    bootstrap: Option<Duration>,
    /// Data writes not in the store yet, one per key: a burst of changes of one key is one write.
    pending: BTreeMap<String, Waiting>,
    /// How many of them are of each kind.
    queued: [usize; 5],
    /// Writes that do not wait behind data: configuration and heartbeat.
    head: VecDeque<Op>,
    /// Kinds whose leftovers of an earlier process have been looked for.
    reconciled: BTreeSet<Kind>,
    marked: BTreeSet<Kind>,
    /// Keys whose values the store does not take.
    too_large: BTreeSet<String>,
    failures: u32,
    retry_at: Instant,
    heartbeat: Interval,
    renew: Interval,
    enforce: Interval,
}

/// A write that is not in the store yet.
struct Waiting {
    kind: Kind,
    op: Op,
    /// When the first change of the key since the last write came.
    since: Instant,
}

/// Most events taken before the store is written: what goes into one write. With more, the first change of a
/// burst would wait until thousands after it are decoded.
const MAX_EVENTS: usize = MAX_BATCH;

impl<S: Sink> Task<S> {
    async fn run(&mut self, mut inputs: SelectAll<BoxStream<'static, Input>>) {
        let config = config::encode(&self.publisher.config());
        let key = keys::cluster_config(&self.publisher.info().name);
        self.head.push_back(Op::Put(Pair::new(&key, config)));
        let mut changes = self.sink.changes(&key).fuse();
        let mut open = true;
        loop {
            let busy = self.is_busy();
            tokio::select! {
                // The heartbeat and the lease come first: they must not starve behind a burst.
                biased;
                _ = self.heartbeat.tick() => {
                    // One that still waits says the same.
                    self.head.retain(|op| op.key() != keys::HEARTBEAT);
                    self.head.push_back(Op::Put(Pair::new(keys::HEARTBEAT, timestamp())));
                }
                _ = self.renew.tick() => self.renew().await,
                _ = self.enforce.tick() => {
                    if changes.is_done() {
                        changes = self.sink.changes(&key).fuse();
                    }
                    self.enforce_config().await;
                }
                // Our own write is one too: it is found to be right.
                Some(()) = changes.next() => self.enforce_config().await,
                () = sleep_until(self.retry_at), if busy => {
                    // Events that are already there travel in the same batch.
                    self.take_ready(&mut inputs);
                    if let Err(error) = self.flush().await {
                        self.failed(&error);
                    }
                }
                input = inputs.next(), if open => match input {
                    Some(input) => {
                        self.apply(input);
                        self.take_ready(&mut inputs);
                    }
                    None => open = false,
                },
            }
            self.report();
        }
    }

    fn is_busy(&self) -> bool {
        !self.head.is_empty()
            || !self.pending.is_empty()
            || Kind::ALL.iter().any(|kind| self.publisher.is_synced(*kind) && !self.marked.contains(kind))
    }

    fn take_ready(&mut self, inputs: &mut SelectAll<BoxStream<'static, Input>>) {
        for _ in 0..MAX_EVENTS {
            match inputs.next().now_or_never() {
                Some(Some(input)) => self.apply(input),
                _ => break,
            }
        }
    }

    fn apply(&mut self, input: Input) {
        let ops = match input {
            Input::Node(event) => self.publisher.apply_node(event),
            Input::Identity(event) => self.publisher.apply_identity(event),
            Input::Address(event) => self.publisher.apply_address(event),
            Input::Service(event) => self.publisher.apply_service(event),
            Input::Slice(event) => self.publisher.apply_slice(event),
            Input::Export(event) => self.publisher.apply_export(event),
        };
        ops.into_iter().for_each(|op| self.queue(op));
    }

    fn queue(&mut self, op: Op) {
        let Some(kind) = keys::kind(op.key()) else {
            debug_assert!(false, "{} is no key of data", op.key());
            return;
        };
        match self.pending.get_mut(op.key()) {
            Some(waiting) => waiting.op = op,
            None => {
                self.queued[kind as usize] += 1;
                self.pending.insert(op.key().to_owned(), Waiting { kind, op, since: Instant::now() });
            }
        }
    }

    /// Writes everything that waits; the markers strictly last.
    async fn flush(&mut self) -> Result<(), SinkError> {
        let lease = match self.lease {
            Some(lease) => lease,
            None => {
                let lease = self.sink.grant(self.options.lease_ttl.as_secs() as i64).await?;
                debug!(lease, "lease granted");
                *self.lease.insert(lease)
            }
        };
        while let Some(op) = self.head.front() {
            self.sink.write(vec![op.clone()], lease).await?;
            self.head.pop_front();
        }
        self.write_pending(lease).await?;
        for kind in Kind::ALL {
            if self.publisher.is_synced(kind) && !self.reconciled.contains(&kind) {
                self.find_leftovers(kind).await?;
                self.reconciled.insert(kind);
            }
        }
        self.write_pending(lease).await?;
        for kind in Kind::ALL {
            if self.publisher.is_synced(kind) && !self.marked.contains(&kind) {
                let key = keys::marker(&self.publisher.info().name, Layout::Native, kind);
                self.sink.write(vec![Op::Put(Pair::new(key, timestamp()))], lease).await?;
                self.marked.insert(kind);
                info!(kind = kind.word(), keys = self.publisher.count(kind), "published completely");
            }
        }
        self.failures = 0;
        Ok(())
    }

    async fn write_pending(&mut self, lease: i64) -> Result<(), SinkError> {
        let mut most = MAX_BATCH;
        while !self.pending.is_empty() {
            let batch = self.batch(most);
            let keys: Vec<String> = batch.iter().map(|op| op.key().to_owned()).collect();
            match self.sink.write(batch, lease).await {
                Err(SinkError::TooLarge) if keys.len() > 1 => {
                    // One by one, to find out which it is.
                    most = 1;
                    continue;
                }
                Err(SinkError::TooLarge) => {
                    warn!(key = keys[0], "not published: the value is larger than the store takes");
                    self.too_large.insert(keys[0].clone());
                }
                result => {
                    result?;
                    self.too_large.retain(|key| !keys.contains(key));
                }
            }
            let now = Instant::now();
            for waiting in keys.iter().filter_map(|key| self.pending.remove(key)) {
                self.queued[waiting.kind as usize] -= 1;
                if let Some(observer) = &self.options.observer {
                    let deleted = matches!(waiting.op, Op::Delete { .. });
                    observer.written(waiting.kind, deleted, now - waiting.since);
                }
            }
        }
        Ok(())
    }

    /// The next writes, up to a bound in number and size.
    fn batch(&self, most: usize) -> Vec<Op> {
        let mut bytes = 0;
        let fits = |op: &&Op| {
            let before = bytes;
            bytes += op.size();
            before < BATCH_BYTES
        };
        self.pending.values().map(|waiting| &waiting.op).take(most).take_while(fits).cloned().collect()
    }

    /// Keys an earlier process left under our own prefix and nobody wants any more.
    async fn find_leftovers(&mut self, kind: Kind) -> Result<(), SinkError> {
        let prefix = keys::prefix(Layout::Native, kind, &self.publisher.info().name);
        let leftover: Vec<_> = self
            .sink
            .keys(&prefix)
            .await?
            .into_iter()
            .filter(|key| !self.publisher.wants(kind, key))
            .collect();
        if !leftover.is_empty() {
            info!(kind = kind.word(), keys = leftover.len(), "removing keys an earlier process left");
        }
        for key in leftover {
            self.queue(Op::Delete { key });
        }
        Ok(())
    }

    async fn renew(&mut self) {
        let Some(lease) = self.lease else { return };
        if let Err(error) = self.sink.keep_alive(lease).await {
            self.failed(&error);
        }
    }

    /// Someone may have changed or deleted our announcement.
    async fn enforce_config(&mut self) {
        if self.lease.is_none() {
            return;
        }
        let key = keys::cluster_config(&self.publisher.info().name);
        let value = config::encode(&self.publisher.config());
        match self.sink.get(&key).await {
            Ok(Some((found, lease))) if found == value && Some(lease) == self.lease => {}
            Ok(_) => self.head.push_back(Op::Put(Pair::new(key, value))),
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &SinkError) {
        let lost = matches!(error, SinkError::LeaseLost | SinkError::Replaced);
        if lost && self.lease.take().is_some() {
            warn!(%error, "the published keys are no longer ours; writing everything again under a new lease");
            // What the other process has published meanwhile may be more than we want.
            self.reconciled.clear();
            let all = Kind::ALL.into_iter().flat_map(|kind| self.publisher.desired(kind));
            let all: Vec<_> = all.cloned().map(Op::Put).collect();
            all.into_iter().for_each(|op| self.queue(op));
            self.marked.clear();
            self.head.clear();
            let key = keys::cluster_config(&self.publisher.info().name);
            self.head.push_back(Op::Put(Pair::new(key, config::encode(&self.publisher.config()))));
            self.head.push_back(Op::Put(Pair::new(keys::HEARTBEAT, timestamp())));
        }
        self.failures += 1;
        let wait = Duration::from_millis(50 << self.failures.min(9)).min(Duration::from_secs(10));
        self.retry_at = Instant::now() + wait;
        let (waits, failures) = (self.pending.len(), self.failures);
        match error {
            // Whoever stands by does so for a long time.
            SinkError::Replaced if failures > 1 => debug!(%error, "standing by"),
            _ => warn!(%error, failures, pending = waits, retry_in = ?wait, "publishing failed"),
        }
        self.status.send_modify(|status| status.last_error = Some(error.to_string()));
    }

    fn report(&mut self) {
        let marked = Kind::ALL.map(|kind| self.marked.contains(&kind));
        let ready = marked.iter().all(|marked| *marked);
        if ready && self.bootstrap.is_none() {
            self.bootstrap = Some(self.started.elapsed());
        }
        let now = PublishStatus {
            keys: Kind::ALL.map(|kind| self.publisher.count(kind)),
            queued: self.queued,
            marked,
            bootstrap: self.bootstrap,
            ready,
            pending: self.pending.len(),
            too_large: self.too_large.len(),
            last_error: self.status.borrow().last_error.clone().filter(|_| self.failures > 0),
        };
        self.status.send_if_modified(|status| {
            let differs = *status != now;
            *status = now;
            differs
        });
    }
}

/// Ticks that were missed (a suspended machine) are not made up for.
fn every(start: Instant, period: Duration) -> Interval {
    let mut interval = interval_at(start, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
