//! Watchers: each reads the shared history by revision, at its own pace.
//!
//! There are no queues to overflow: a slow watcher holds nothing but the number of the first
//! revision it has not seen, delays nobody, and when the history it needs has been compacted away
//! it is told so. A write marks only the watchers of its keys (the hub); whoever is not marked has
//! seen everything, however long ago it last ran.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio_stream::Stream;

use super::Store;
use super::hub::{Inbox, Slot};
use super::range::KeyRange;
use super::revision::Revision;
use super::state::State;
use crate::pb::{self, event::EventType};

/// Revisions a watcher looks at in one go, so that one far behind does not hold the lock for long.
const SCAN: usize = 1024;
/// Bytes of keys and values after which a batch is handed out.
const BATCH: usize = 256 << 10;

/// What to watch.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// The keys.
    pub range: KeyRange,
    /// First revision of interest; 0 or less = the next one.
    pub start_revision: i64,
    /// Hand out previous values.
    pub prev_kv: bool,
    /// Leave out puts.
    pub no_put: bool,
    /// Leave out deletes.
    pub no_delete: bool,
}

impl WatchOptions {
    /// All changes of a range from a revision on.
    pub fn new(range: KeyRange, start_revision: i64) -> Self {
        Self { range, start_revision, prev_kv: false, no_put: false, no_delete: false }
    }

    /// All changes below a prefix from a revision on.
    pub fn prefix(prefix: impl Into<Bytes>, start_revision: i64) -> Self {
        Self::new(KeyRange::prefix(prefix), start_revision)
    }
}

/// Events of one or more whole revisions.
#[derive(Debug, Clone)]
pub struct WatchBatch {
    /// Everything up to this revision has now been handed out.
    pub revision: i64,
    /// The events in order; empty when nothing up to `revision` concerned this watcher.
    pub events: Vec<pb::Event>,
}

/// Why a watch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The history it needed is gone; list again and watch from there.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted {
        /// The oldest revision that can be watched.
        compact_revision: i64,
    },
}

/// A running watch: a stream of batches that never ends by itself, except after an error.
#[derive(Debug)]
pub struct Watcher {
    store: Store,
    options: WatchOptions,
    /// The first revision of interest; it may be still to come.
    start: i64,
    inbox: Arc<Inbox>,
    slot: Arc<Slot>,
    done: bool,
}

/// Events of one or more whole revisions in the form shared by all watchers.
#[derive(Debug)]
pub(crate) struct Events {
    /// Everything up to this revision has now been handed out.
    pub(crate) revision: i64,
    /// Each has an event for the watcher.
    entries: Vec<Arc<Revision>>,
}

impl Watcher {
    pub(super) fn new(store: Store, options: WatchOptions, inbox: Arc<Inbox>, token: i64) -> Self {
        let slot = Arc::new(Slot::new(inbox.clone(), token));
        let mut state = store.lock();
        let present = state.published;
        let start = if options.start_revision > 0 { options.start_revision } else { present + 1 };
        if start <= present {
            // Its reader, which is just being made, looks before it first sleeps.
            let _ = slot.mark(start);
        }
        state.hub.insert(&options.range, slot.clone());
        drop(state);
        Self { store, options, start, inbox, slot, done: false }
    }

    /// The keys watched.
    pub fn range(&self) -> &KeyRange {
        &self.options.range
    }

    /// The first revision not handed out yet.
    pub fn next_revision(&self) -> i64 {
        let state = self.store.lock();
        match self.slot.pending() {
            0 => (state.published + 1).max(self.start),
            pending => pending.max(self.start),
        }
    }

    /// Whether it has been handed everything; to be asked under the store's lock.
    pub(super) fn is_idle(&self) -> bool {
        self.slot.pending() == 0
    }

    /// What is there now, without waiting: `None` when there is nothing for this watcher. Revisions
    /// that do not concern it are passed over.
    ///
    /// # Errors
    /// [`WatchError::Compacted`]; the watcher is of no use after it.
    pub fn poll_now(&mut self) -> Result<Option<WatchBatch>, WatchError> {
        Ok(self.take()?.map(|batch| {
            let events = batch.entries.iter().flat_map(|entry| &entry.events);
            let events = events.filter(|event| self.wants(event)).map(|event| pb::Event {
                prev_kv: event.prev_kv.clone().filter(|_| self.options.prev_kv),
                ..event.clone()
            });
            WatchBatch { revision: batch.revision, events: events.collect() }
        }))
    }

    /// Like [`Watcher::poll_now`], without a copy of anything.
    pub(crate) fn take(&mut self) -> Result<Option<Events>, WatchError> {
        while self.slot.pending() != 0 {
            // One look at a time, so that others get the lock between two.
            let state = self.store.lock();
            if let Some(events) = self.look(&state)? {
                return Ok(Some(events));
            }
        }
        Ok(None)
    }

    /// Looks at the next revisions, up to a bound in number and size, and moves on past them.
    fn look(&self, state: &State) -> Result<Option<Events>, WatchError> {
        let from = self.slot.pending().max(self.start);
        let log =
            state.log_from(from).map_err(|_| WatchError::Compacted { compact_revision: state.compacted })?;
        let log = log.take_while(|entry| entry.revision <= state.published);
        let (mut entries, mut size, mut left) = (Vec::new(), 0, SCAN);
        // There need not be an entry: the first revision of a store is a write of nobody's.
        let mut seen = state.published;
        for entry in log {
            if left == 0 || size >= BATCH {
                seen = entry.revision - 1;
                break;
            }
            left -= 1;
            if entry.events.iter().any(|event| self.wants(event)) {
                size += entry.size();
                entries.push(entry.clone());
            }
        }
        self.slot.set_pending(if seen < state.published { seen + 1 } else { 0 });
        Ok((!entries.is_empty()).then_some(Events { revision: seen, entries }))
    }

    /// Calls `each` with the wanted events of a batch in order, each encoded as a field of a
    /// `WatchResponse`; several at once where they lie together. How many events they are.
    pub(crate) fn encoded(
        &self,
        batch: &Events,
        whole_revisions: bool,
        mut each: impl FnMut(&[u8]),
    ) -> usize {
        let mut events = 0;
        for entry in &batch.entries {
            let encoded = entry.encoded(self.options.prev_kv);
            if whole_revisions && entry.events.iter().all(|event| self.wants(event)) {
                each(encoded.whole());
                events += entry.events.len();
                continue;
            }
            let wanted = entry.events.iter().enumerate().filter(|(_, event)| self.wants(event));
            for (n, _) in wanted {
                each(encoded.event(n));
                events += 1;
            }
        }
        events
    }

    fn wants(&self, event: &pb::Event) -> bool {
        let put = event.r#type == EventType::Put as i32;
        let unwanted = if put { self.options.no_put } else { self.options.no_delete };
        !unwanted && event.kv.as_ref().is_some_and(|kv| self.options.range.contains(&kv.key))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.store.unwatch(&self.options.range, &self.slot);
    }
}

impl Stream for Watcher {
    type Item = Result<WatchBatch, WatchError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.done {
            return Poll::Ready(None);
        }
        // Registered before looking: what comes between the two wakes us.
        self.inbox.take(context.waker(), &mut Vec::new());
        match self.poll_now() {
            Ok(Some(batch)) => Poll::Ready(Some(Ok(batch))),
            Ok(None) => Poll::Pending,
            Err(error) => {
                self.done = true;
                Poll::Ready(Some(Err(error)))
            }
        }
    }
}
