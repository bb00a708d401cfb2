//! Who is told about a write: an index from keys to the watchers whose ranges hold them.
//!
//! A write finds the watchers of its keys without looking at any other: a watch of another prefix
//! costs it nothing. All of it is used under the store's lock, except for the wake-ups themselves.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::Waker;

use bytes::Bytes;
use futures::task::AtomicWaker;

use super::pair::Pair;
use super::range::KeyRange;

/// Where the watches of one reader are reported that have something to read. Many may share it.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    ready: Mutex<Vec<i64>>,
    waker: AtomicWaker,
}

impl Inbox {
    /// Moves the tokens of ready watches to `into`; `waker` is woken when there are more.
    pub(crate) fn take(&self, waker: &Waker, into: &mut impl Extend<i64>) {
        self.waker.register(waker);
        into.extend(self.ready.lock().expect("nothing panics while it is held").drain(..));
    }

    /// True when the reader must be woken: it has been told of nothing since it last looked.
    fn push(&self, token: i64) -> bool {
        let mut ready = self.ready.lock().expect("nothing panics while it is held");
        ready.push(token);
        ready.len() == 1
    }
}

/// One watch in the hub.
#[derive(Debug)]
pub(super) struct Slot {
    inbox: Arc<Inbox>,
    token: i64,
    /// The first revision with something for it; 0 = it has seen everything.
    pending: AtomicI64,
    /// Its place in its group.
    place: AtomicUsize,
}

impl Slot {
    pub(super) fn new(inbox: Arc<Inbox>, token: i64) -> Self {
        Self { inbox, token, pending: AtomicI64::new(0), place: AtomicUsize::new(0) }
    }

    /// The first revision to look at; 0 when there is none.
    pub(super) fn pending(&self) -> i64 {
        self.pending.load(Relaxed)
    }

    /// Sets where to look next, without a report: for its reader.
    pub(super) fn set_pending(&self, revision: i64) {
        self.pending.store(revision, Relaxed);
    }

    /// Notes that `revision` concerns it; the inbox to wake, if it must be.
    pub(super) fn mark(&self, revision: i64) -> Option<&Arc<Inbox>> {
        if self.pending() != 0 {
            return None;
        }
        self.set_pending(revision);
        self.inbox.push(self.token).then_some(&self.inbox)
    }
}

/// Wake-ups owed after a write; carried out when the store's lock is free again.
#[derive(Debug, Default)]
#[must_use = "watchers sleep until they are woken"]
pub(super) struct Wakeups(Vec<Arc<Inbox>>);

impl Wakeups {
    pub(super) fn wake(self) {
        for inbox in self.0 {
            inbox.waker.wake();
        }
    }
}

type Group = Vec<Arc<Slot>>;

/// All watches of a store.
#[derive(Debug, Default)]
pub(super) struct Hub {
    keys: HashMap<Bytes, Group>,
    ranges: Ranges,
}

impl Hub {
    pub(super) fn insert(&mut self, range: &KeyRange, slot: Arc<Slot>) {
        let group = match range.is_single() {
            true => self.keys.entry(range.start().clone()).or_default(),
            false => self.ranges.group(range),
        };
        slot.place.store(group.len(), Relaxed);
        group.push(slot);
    }

    pub(super) fn remove(&mut self, range: &KeyRange, slot: &Slot) {
        let group = match range.is_single() {
            true => self.keys.get_mut(range.start()),
            false => Some(self.ranges.group(range)),
        };
        let Some(group) = group else { return };
        let place = slot.place.load(Relaxed);
        group.swap_remove(place);
        if let Some(moved) = group.get(place) {
            moved.place.store(place, Relaxed);
        }
        if group.is_empty() {
            match range.is_single() {
                true => drop(self.keys.remove(range.start())),
                false => self.ranges.remove(range),
            }
        }
    }

    /// Marks every watch of a key that `revision` has changed.
    pub(super) fn mark(&mut self, revision: i64, changes: &[Pair], wakeups: &mut Wakeups) {
        if self.keys.is_empty() && self.ranges.sorted.is_empty() {
            return;
        }
        let mut mark = |group: &Group| {
            wakeups.0.extend(group.iter().filter_map(|slot| slot.mark(revision)).cloned());
        };
        for key in changes.iter().map(Pair::key) {
            if let Some(group) = self.keys.get(key) {
                mark(group);
            }
            self.ranges.holding(key, &mut mark);
        }
    }
}

/// Ranges ordered by their first keys, as an interval tree without pointers: the root is the middle
/// of the slice, its subtrees are the halves beside it, and each node knows the largest end below it.
///
/// A change costs a move of what lies behind it and, before the next write, one pass over all
/// *different* ranges; there are a few for each cluster, however many watch them.
#[derive(Debug, Default)]
struct Ranges {
    sorted: Vec<(KeyRange, Group)>,
    /// The largest end in the subtree of each, `None` = no end; stale when of another length.
    reach: Vec<Option<Bytes>>,
}

impl Ranges {
    fn find(&self, range: &KeyRange) -> Result<usize, usize> {
        let order = |r: &KeyRange| (r.start().clone(), r.range_end());
        self.sorted.binary_search_by(|(other, _)| {
            other.start().cmp(range.start()).then_with(|| order(other).cmp(&order(range)))
        })
    }

    fn group(&mut self, range: &KeyRange) -> &mut Group {
        let at = self.find(range).unwrap_or_else(|at| {
            self.reach.clear();
            self.sorted.insert(at, (range.clone(), Vec::new()));
            at
        });
        &mut self.sorted[at].1
    }

    fn remove(&mut self, range: &KeyRange) {
        if let Ok(at) = self.find(range) {
            self.reach.clear();
            self.sorted.remove(at);
        }
    }

    /// Calls `found` with the watches of every range that holds `key`.
    fn holding(&mut self, key: &[u8], found: &mut impl FnMut(&Group)) {
        if self.reach.len() != self.sorted.len() {
            self.reach = vec![Some(Bytes::new()); self.sorted.len()];
            measure(&self.sorted, &mut self.reach);
        }
        search(&self.sorted, &self.reach, key, found);
    }
}

/// Fills in `reach` for a subtree and returns its root's.
fn measure(sorted: &[(KeyRange, Group)], reach: &mut [Option<Bytes>]) -> Option<Bytes> {
    if sorted.is_empty() {
        return Some(Bytes::new());
    }
    let root = sorted.len() / 2;
    let (left, rest) = reach.split_at_mut(root);
    let below = [measure(&sorted[..root], left), measure(&sorted[root + 1..], &mut rest[1..])];
    let own = (!sorted[root].0.is_open()).then(|| sorted[root].0.range_end());
    // `None` is the largest of all.
    rest[0] = below.into_iter().chain([own]).reduce(|a, b| Some(a?.max(b?))).flatten();
    rest[0].clone()
}

fn search(sorted: &[(KeyRange, Group)], reach: &[Option<Bytes>], key: &[u8], found: &mut impl FnMut(&Group)) {
    let root = sorted.len() / 2;
    let Some((range, group)) = sorted.get(root) else { return };
    if reach[root].as_ref().is_some_and(|end| end[..] <= *key) {
        return;
    }
    search(&sorted[..root], &reach[..root], key, found);
    if range.start()[..] <= *key {
        if range.contains(key) {
            found(group);
        }
        search(&sorted[root + 1..], &reach[root + 1..], key, found);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = KeyRange> {
        let ends = prop_oneof![Just(String::new()), Just("\0".to_owned()), "[a-d]{1,3}".boxed()];
        ("[a-d]{1,3}", ends).prop_map(|(key, end)| KeyRange::new(key.into(), end.into()))
    }

    proptest! {
        #[test]
        fn exactly_the_watches_of_a_key_are_marked(
            ranges in prop::collection::vec(range(), 0..40),
            gone in prop::collection::vec(any::<bool>(), 40),
            keys in prop::collection::vec("[a-d]{1,4}", 1..20),
        ) {
            let mut hub = Hub::default();
            let inbox = Arc::new(Inbox::default());
            let slot = |token| Arc::new(Slot::new(inbox.clone(), token));
            let mut watches: Vec<_> =
                ranges.into_iter().enumerate().map(|(n, range)| (range, slot(n as i64))).collect();
            for (range, slot) in &watches {
                hub.insert(range, slot.clone());
            }
            let mut removed = gone.iter();
            watches.retain(|(range, slot)| {
                let gone = *removed.next().unwrap();
                if gone {
                    hub.remove(range, slot);
                }
                !gone
            });
            for key in keys {
                let mut wakeups = Wakeups::default();
                hub.mark(7, &[Pair::new(&key, "v")], &mut wakeups);
                let mut told = Vec::new();
                inbox.take(Waker::noop(), &mut told);
                told.sort_unstable();
                let expected: Vec<i64> =
                    watches.iter().filter(|(r, _)| r.contains(key.as_bytes())).map(|(_, s)| s.token).collect();
                prop_assert_eq!(wakeups.0.len(), usize::from(!expected.is_empty()), "one wake-up an inbox");
                prop_assert_eq!(told, expected);
                watches.iter().for_each(|(_, slot)| slot.set_pending(0));
            }
        }
    }
}
