//! The store itself: many versions of keys in memory, one writer at a time, watchers that read the
//! shared history by revision. The only clock is the `now` of leases, and the only I/O is that of
//! [`durable`] stores, on a thread of its own.

mod apply;
mod changes;
mod compaction;
mod content;
mod durable;
mod encode;
mod history;
mod hub;
mod lease;
mod pair;
mod quota;
mod range;
mod select;
mod staged;
mod state;
mod stats;
mod tree;
mod txn;
mod watch;

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio_util::sync::CancellationToken;

use crate::{Error, pb};
pub use apply::{Applied, WriteOp};
pub use compaction::{AutoCompaction, BadRetention};
pub use content::ContentHash;
pub(crate) use content::{FNV_OFFSET, fnv1a};
pub use durable::{CutTail, LogStats, OpenError};
use durable::{Gate, Log};
pub(crate) use hub::Inbox;
pub use lease::LeaseInfo;
pub use pair::{ByKey, Pair};
pub use range::{KeyRange, prefix_end};
pub use staged::{Pending, Staged};
use state::State;
use stats::Counters;
pub use stats::StoreStats;
pub(crate) use watch::Events;
pub use watch::{WatchBatch, WatchError, WatchOptions, Watcher};

/// Bounds of a store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Revisions of history kept for watchers and old reads; beyond it the older half is compacted.
    pub history_revisions: usize,
    /// Operations in one branch of a transaction (etcd's `--max-txn-ops`, 128).
    pub max_txn_ops: usize,
    /// Bytes of one request (etcd's `--max-request-bytes`, 1.5 MiB).
    pub max_request_bytes: usize,
    /// Bytes of keys, values and history after which nothing is added any more (etcd's
    /// `--quota-backend-bytes`, 2 GiB); 0 or less is no limit.
    pub quota_backend_bytes: i64,
    /// What [`Store::run_compaction`] does.
    pub auto_compaction: AutoCompaction,
    /// Bytes of log of a durable store after which a snapshot replaces it, if the last snapshot was
    /// not larger: so a store is read again in the time for twice its content.
    pub snapshot_log_bytes: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            history_revisions: 100_000,
            max_txn_ops: 128,
            max_request_bytes: 3 << 19,
            quota_backend_bytes: 2 << 30,
            auto_compaction: AutoCompaction::Off,
            snapshot_log_bytes: 16 << 20,
        }
    }
}

/// A multi-version key-value store with etcd's semantics: in memory ([`Store::new`]), or durable on
/// disk as well ([`Store::open`]). Cheap to clone; all clones are the same store.
///
/// In memory no call blocks for longer than its own work. In a durable store the changes block until
/// they are durable; async tasks make them through [`Store::staged`] and wait without blocking.
#[derive(Debug, Clone)]
pub struct Store(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    core: Arc<Core>,
    log: Option<Log>,
    cluster_id: u64,
    member_id: u64,
    max_request_bytes: usize,
    auto_compaction: AutoCompaction,
    counters: Counters,
}

/// What the thread of the log shares with the store.
#[derive(Debug)]
struct Core {
    state: Mutex<State>,
    /// Follows the published revision.
    revision: AtomicI64,
}

impl Core {
    fn new(state: State) -> Arc<Self> {
        let revision = AtomicI64::new(state.published);
        Arc::new(Self { state: Mutex::new(state), revision })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock is held is a defect of the store itself; going on with a state
        // that may be half changed would be worse than stopping.
        self.state.lock().expect("the store's state is never left half changed")
    }

    /// Lets readers see what was written: the revision first, then, with the lock free again, the
    /// watchers of what has changed.
    fn publish(&self, mut state: MutexGuard<'_, State>, revision: i64) {
        let wakeups = state.publish(revision);
        self.revision.store(revision, Ordering::Release);
        drop(state);
        wakeups.wake();
    }
}

impl Store {
    /// An empty store at revision 1 with a cluster id of its own: content that starts empty must
    /// never be taken for the continuation of earlier content (mesh-protocol 8, trap 2).
    pub fn new(options: StoreOptions) -> Self {
        let (cluster_id, member_id) = (rand::random::<u64>().max(1), rand::random::<u64>().max(1));
        Self::assemble(Core::new(State::new(options.clone())), None, cluster_id, member_id, &options)
    }

    /// The store in the directory `dir`, which is created if need be: with the content, the revision
    /// and the ids it had when the last process left it, in whatever way. What was still being
    /// written when that process was killed, and so was never answered, is cut off
    /// ([`Store::cut_tail`]). Leases begin their time anew, as with etcd after an election.
    ///
    /// # Errors
    /// [`OpenError`]: another process has it open, its files are damaged, or they cannot be read
    /// and written. Nothing is changed then.
    pub fn open(dir: impl AsRef<Path>, options: StoreOptions) -> Result<Self, OpenError> {
        let (core, log, meta) = Log::open(dir.as_ref(), &options)?;
        Ok(Self::assemble(core, Some(log), meta.cluster_id, meta.member_id, &options))
    }

    fn assemble(
        core: Arc<Core>,
        log: Option<Log>,
        cluster_id: u64,
        member_id: u64,
        options: &StoreOptions,
    ) -> Self {
        Self(Arc::new(Shared {
            core,
            log,
            cluster_id,
            member_id,
            max_request_bytes: options.max_request_bytes,
            auto_compaction: options.auto_compaction,
            counters: Counters::default(),
        }))
    }

    /// The changes, for those who wait for an answer without blocking.
    pub fn staged(&self) -> Staged<'_> {
        Staged(self)
    }

    /// What [`Store::open`] has cut off, if anything.
    pub fn cut_tail(&self) -> Option<&CutTail> {
        self.0.log.as_ref()?.cut_tail()
    }

    /// The log of a durable store in numbers.
    pub fn log_stats(&self) -> Option<LogStats> {
        Some(self.0.log.as_ref()?.stats())
    }

    /// The id of this store's content; other content has another.
    pub fn cluster_id(&self) -> u64 {
        self.0.cluster_id
    }

    /// The revision of the last write; in a durable store of the last durable one.
    pub fn revision(&self) -> i64 {
        self.0.core.revision.load(Ordering::Acquire)
    }

    /// Bytes of the largest request.
    pub(crate) fn max_request_bytes(&self) -> usize {
        self.0.max_request_bytes
    }

    /// Bytes of live keys and values.
    pub fn live_bytes(&self) -> i64 {
        self.lock().live_bytes
    }

    /// A response header for this moment.
    pub fn header(&self) -> pb::ResponseHeader {
        self.header_at(self.revision())
    }

    /// A response header that speaks for `revision`.
    pub fn header_at(&self, revision: i64) -> pb::ResponseHeader {
        pb::ResponseHeader {
            cluster_id: self.0.cluster_id,
            member_id: self.0.member_id,
            revision,
            raft_term: 1,
        }
    }

    /// Reads keys.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`], [`Error::EmptyKey`], [`Error::InvalidSort`].
    pub fn range(&self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
        self.0.counters.ranges.add(1);
        let state = self.lock();
        let mut response = state.range(request, state.published)?;
        response.header = Some(self.header_at(state.published));
        Ok(response)
    }

    /// The encoded answer to [`Store::range`] after `prefix` bytes of zero, without a copy in between.
    ///
    /// # Errors
    /// As [`Store::range`].
    pub(crate) fn range_encoded(&self, request: &pb::RangeRequest, prefix: usize) -> Result<BytesMut, Error> {
        self.0.counters.ranges.add(1);
        let mut state = self.lock();
        let known = state.counts.take(request);
        let current = state.published;
        let header = self.header_at(current);
        let selection = state.select(request, current, known)?;
        let rest = selection.rest(request);
        let encoded = selection.encode(&header, prefix);
        if let Some(rest) = rest {
            state.counts.put(rest);
        }
        Ok(encoded)
    }

    /// Writes one key.
    ///
    /// # Errors
    /// [`Error::EmptyKey`], [`Error::LeaseNotFound`], [`Error::RequestTooLarge`],
    /// [`Error::NoSpace`] and the contradictions of `ignore_value` and `ignore_lease`.
    pub fn put(&self, request: pb::PutRequest) -> Result<pb::PutResponse, Error> {
        self.staged().put(request).wait()
    }

    /// Deletes keys.
    ///
    /// # Errors
    /// [`Error::EmptyKey`].
    pub fn delete_range(&self, request: &pb::DeleteRangeRequest) -> Result<pb::DeleteRangeResponse, Error> {
        self.staged().delete_range(request).wait()
    }

    /// Carries out a transaction: all of it in one revision, or none.
    ///
    /// # Errors
    /// Those of its operations, [`Error::DuplicateKey`], [`Error::TooManyOps`],
    /// [`Error::RequestTooLarge`], [`Error::NoSpace`].
    pub fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        self.staged().txn(request).wait()
    }

    /// Drops the history before `revision`.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`].
    pub fn compact(&self, revision: i64) -> Result<(), Error> {
        // Who is behind, and so may have lost what it needs, has been woken already.
        self.staged().compact(revision).wait()
    }

    /// The revision below which history is gone.
    pub fn compacted(&self) -> i64 {
        self.lock().compacted
    }

    /// Watches keys; dropping the watcher ends it.
    pub fn watch(&self, options: WatchOptions) -> Watcher {
        self.watch_in(options, Arc::default(), 0)
    }

    /// Watches keys and reports to `inbox`, as `token`, that there is something to take.
    pub(crate) fn watch_in(&self, options: WatchOptions, inbox: Arc<Inbox>, token: i64) -> Watcher {
        Watcher::new(self.clone(), options, inbox, token)
    }

    fn unwatch(&self, range: &KeyRange, slot: &hub::Slot) {
        // Also called while a panic unwinds, when there may be no state left to speak of.
        if let Ok(mut state) = self.0.core.state.lock() {
            state.hub.remove(range, slot);
        }
    }

    /// The present revision, if each of these watchers has been handed everything up to it.
    pub(crate) fn caught_up<'a>(&self, watchers: impl IntoIterator<Item = &'a Watcher>) -> Option<i64> {
        let state = self.lock();
        watchers.into_iter().all(Watcher::is_idle).then_some(state.published)
    }

    /// Grants a lease of at least one second; id 0 lets the store choose. Returns id and seconds.
    ///
    /// # Errors
    /// [`Error::LeaseExists`], [`Error::LeaseTtlTooLarge`], [`Error::NoSpace`].
    pub fn lease_grant(&self, id: i64, ttl: i64, now: Instant) -> Result<(i64, i64), Error> {
        self.staged().lease_grant(id, ttl, now).wait()
    }

    /// Renews a lease; its seconds, or `None` when it does not exist (any more).
    pub fn lease_keep_alive(&self, id: i64, now: Instant) -> Option<i64> {
        let renewed = self.lock().leases.keep_alive(id, now);
        self.0.counters.leases_renewed.add(usize::from(renewed.is_some()));
        renewed
    }

    /// Ends a lease; its keys go in one revision.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`].
    pub fn lease_revoke(&self, id: i64) -> Result<(), Error> {
        self.staged().lease_revoke(id).wait()
    }

    /// What is known of a lease.
    pub fn lease_info(&self, id: i64, now: Instant) -> Option<LeaseInfo> {
        self.lock().leases.info(id, now)
    }

    /// All leases in order of their ids.
    pub fn leases(&self) -> Vec<i64> {
        self.lock().leases.ids()
    }

    /// Ends every lease that has run out by `now`. Returns when to look again: a second from now,
    /// or earlier if a lease runs out before. Does not wait for it to be durable.
    pub fn expire_leases(&self, now: Instant) -> Instant {
        self.staged().expire(now);
        let soon = now + Duration::from_secs(1);
        // What ran out already and is still there could not be logged: that may take a while.
        let next = self.lock().leases.next_expiry().filter(|next| *next > now);
        next.map_or(soon, |next| next.min(soon))
    }

    /// Ends leases as they run out, until cancelled.
    pub async fn run_leases(self, shutdown: CancellationToken) {
        loop {
            let next = self.expire_leases(Instant::now());
            tokio::select! {
                () = tokio::time::sleep_until(next.into()) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Builds the search trees anew: those that have grown key by key are two fifths empty, and what is empty is free
    /// then. As with etcd everybody waits for it, for some 50 ms with a million keys.
    pub fn defragment(&self) {
        self.lock().defragment();
    }

    /// Whether nothing more can be added: the quota was exceeded and the alarm not disarmed since,
    /// or the disk of a durable store cannot be written.
    pub fn space_alarm(&self) -> bool {
        self.lock().space.alarm() || self.0.log.as_ref().is_some_and(|log| log.pass(Gate::Write).is_err())
    }

    /// Raises the alarm of an exceeded quota, or disarms it; true if that changed it.
    ///
    /// # Errors
    /// Only those of the log of a durable store.
    pub fn set_space_alarm(&self, raised: bool) -> Result<bool, Error> {
        self.staged().set_space_alarm(raised).wait()
    }

    /// What the server last kept of users and roles.
    pub(crate) fn auth(&self) -> Option<bytes::Bytes> {
        self.lock().auth.clone()
    }

    fn check_size(&self, bytes: usize) -> Result<(), Error> {
        if bytes > self.0.max_request_bytes { Err(Error::RequestTooLarge) } else { Ok(()) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.core.lock()
    }
}

#[cfg(test)]
mod tests;
