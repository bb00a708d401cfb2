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
use prost::Message;
use tokio_stream::Stream;

use super::Store;
use super::encode::Encoded;
use super::hub::{Inbox, Slot};
use super::pair::Pair;
use super::range::KeyRange;
use super::state::State;
use crate::pb;

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
    parts: Vec<Part>,
}

impl Events {
    /// Calls `each` with the events in order, each encoded as a field of a `WatchResponse`; several at
    /// once where they lie together and `together` allows it. How many events they are.
    pub(crate) fn encoded(&self, together: bool, mut each: impl FnMut(&[u8])) -> usize {
        self.parts.iter().map(|part| part.fields(together, &mut each)).sum()
    }
}

/// The events of a revision, and which of them the watcher wants.
#[derive(Debug)]
struct Part {
    encoded: Arc<Encoded>,
    wanted: Wanted,
}

#[derive(Debug)]
enum Wanted {
    /// All of so many.
    All(usize),
    /// Those of these numbers.
    Some(Vec<usize>),
}

impl Part {
    /// The numbers of the wanted events in order.
    fn numbers(&self) -> impl Iterator<Item = usize> {
        let (all, some) = match &self.wanted {
            Wanted::All(count) => (0..*count, &[][..]),
            Wanted::Some(numbers) => (0..0, &numbers[..]),
        };
        all.chain(some.iter().copied())
    }

    /// Calls `each` with the wanted events in order, each encoded as a field of a `WatchResponse`;
    /// all at once where they lie together and `together` allows it. How many events they are.
    fn fields(&self, together: bool, mut each: impl FnMut(&[u8])) -> usize {
        match &self.wanted {
            Wanted::All(_) if together => each(self.encoded.whole()),
            _ => self.numbers().for_each(|n| each(self.encoded.event(n))),
        }
        self.numbers().count()
    }

    /// The wanted events in order.
    fn messages(&self) -> impl Iterator<Item = pb::Event> {
        let message = |n| pb::Event::decode(self.encoded.message(n)).expect("it was encoded here");
        self.numbers().map(message)
    }
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
        Ok(self.take()?.map(|batch| WatchBatch {
            revision: batch.revision,
            events: batch.parts.iter().flat_map(Part::messages).collect(),
        }))
    }

    /// Like [`Watcher::poll_now`], without a copy of anything.
    pub(crate) fn take(&mut self) -> Result<Option<Events>, WatchError> {
        while self.slot.pending() != 0 {
            // One look at a time, so that others get the lock between two.
            let mut state = self.store.lock();
            if let Some(events) = self.look(&mut state)? {
                return Ok(Some(events));
            }
        }
        Ok(None)
    }

    /// Looks at the next revisions, up to a bound in number and size, and moves on past them.
    fn look(&self, state: &mut State) -> Result<Option<Events>, WatchError> {
        let compacted = WatchError::Compacted { compact_revision: state.compacted };
        let mut next = self.slot.pending().max(self.start);
        let (mut parts, mut size, mut left) = (Vec::new(), 0, SCAN);
        loop {
            // There need not be an entry: the first revision of a store is a write of nobody's.
            let Some(entry) = state.log_from(next).map_err(|_| compacted)?.next() else { break };
            if entry.revision > state.published || left == 0 || size >= BATCH {
                break;
            }
            (next, left) = (entry.revision + 1, left - 1);
            let Some(wanted) = self.wanted(entry) else { continue };
            let encoded = state.encoded(entry.revision, self.options.prev_kv);
            let part = Part { encoded, wanted };
            part.fields(true, |bytes| size += bytes.len());
            parts.push(part);
        }
        let seen = if left == 0 || size >= BATCH { next - 1 } else { state.published };
        self.slot.set_pending(if seen < state.published { seen + 1 } else { 0 });
        Ok((!parts.is_empty()).then_some(Events { revision: seen, parts }))
    }

    /// Which of the changes are wanted, if any.
    fn wanted(&self, changes: &[Pair]) -> Option<Wanted> {
        if changes.iter().all(|change| self.wants(change)) {
            return Some(Wanted::All(changes.len()));
        }
        let numbered = changes.iter().enumerate();
        let wanted: Vec<_> = numbered.filter(|(_, change)| self.wants(change)).map(|(n, _)| n).collect();
        (!wanted.is_empty()).then_some(Wanted::Some(wanted))
    }

    fn wants(&self, change: &Pair) -> bool {
        let unwanted = if change.is_put() { self.options.no_put } else { self.options.no_delete };
        !unwanted && self.options.range.contains(change.key())
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
