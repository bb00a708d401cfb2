//! What changed at which revision: the pairs that were put, and the keys that were deleted.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;
use std::sync::Arc;

use super::encode::Encoded;
use super::pair::Pair;

/// Bytes of encoded events kept for the watchers to come: those that are not far behind.
const KEEP_ENCODED: usize = 4 << 20;

/// The changes of one revision, in the order they happened.
#[derive(Debug)]
pub(super) struct Revision {
    pub(super) revision: i64,
    changes: Changes,
}

/// Most revisions are one change, which then needs no memory of its own.
#[derive(Debug)]
enum Changes {
    One(Pair),
    Many(Box<[Pair]>),
}

impl Deref for Revision {
    type Target = [Pair];

    fn deref(&self) -> &[Pair] {
        match &self.changes {
            Changes::One(change) => std::slice::from_ref(change),
            Changes::Many(changes) => changes,
        }
    }
}

/// The changes of all revisions from some revision on, oldest first, without a gap.
#[derive(Debug, Default)]
pub(super) struct ChangeLog {
    revisions: VecDeque<Revision>,
    encoded: EncodedEvents,
}

impl ChangeLog {
    pub(super) fn push(&mut self, revision: i64, mut changes: Vec<Pair>) {
        let changes = match changes.len() {
            1 => Changes::One(changes.remove(0)),
            _ => Changes::Many(changes.into()),
        };
        self.revisions.push_back(Revision { revision, changes });
    }

    pub(super) fn len(&self) -> usize {
        self.revisions.len()
    }

    pub(super) fn first(&self) -> Option<&Revision> {
        self.revisions.front()
    }

    pub(super) fn last(&self) -> Option<&Revision> {
        self.revisions.back()
    }

    /// The revisions from `from` on.
    pub(super) fn from(&self, from: i64) -> impl Iterator<Item = &Revision> {
        let skip = self.first().map_or(0, |first| from - first.revision);
        self.revisions.range(usize::try_from(skip).unwrap_or(0).min(self.len())..)
    }

    /// Removes the oldest revision if it is before `revision`.
    pub(super) fn pop_before(&mut self, revision: i64) -> Option<Revision> {
        self.first().filter(|first| first.revision < revision)?;
        self.revisions.pop_front()
    }

    pub(super) fn encoded(&mut self) -> &mut EncodedEvents {
        &mut self.encoded
    }
}

/// Events encoded for one watcher and kept for the next, by revision and whether previous values are
/// in them; the newest are kept longest.
#[derive(Debug, Default)]
pub(super) struct EncodedEvents {
    events: BTreeMap<(i64, bool), Arc<Encoded>>,
    bytes: usize,
}

impl EncodedEvents {
    pub(super) fn get(&self, revision: i64, prev_kv: bool) -> Option<Arc<Encoded>> {
        self.events.get(&(revision, prev_kv)).cloned()
    }

    pub(super) fn keep(&mut self, revision: i64, prev_kv: bool, encoded: Arc<Encoded>) {
        self.bytes += encoded.whole().len();
        self.events.insert((revision, prev_kv), encoded);
        while self.bytes > KEEP_ENCODED {
            self.forget_first();
        }
    }

    /// Forgets what is not after `revision`.
    pub(super) fn forget(&mut self, revision: i64) {
        while self.events.first_key_value().is_some_and(|((first, _), _)| *first <= revision) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, encoded)) = self.events.pop_first() {
            self.bytes -= encoded.whole().len();
        }
    }
}
