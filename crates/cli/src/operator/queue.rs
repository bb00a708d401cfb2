//! What is to be looked at, and when: changes of one thing within a while are one, and what fails is tried
//! again ever more slowly. Pure: time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

/// The first wait after a failure; each further one doubles it.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest wait.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Keys that wait for their turn; none is worked on twice at a time.
#[derive(Debug)]
pub(super) struct Queue<K> {
    delay: Duration,
    waiting: BTreeMap<K, Instant>,
    order: BTreeSet<(Instant, K)>,
    /// Those that are worked on; true when they changed meanwhile.
    running: BTreeMap<K, bool>,
    failures: BTreeMap<K, u32>,
}

impl<K: Ord + Clone> Queue<K> {
    /// Keys wait this long for more changes.
    pub(super) fn new(delay: Duration) -> Self {
        let (waiting, order) = (BTreeMap::new(), BTreeSet::new());
        Self { delay, waiting, order, running: BTreeMap::new(), failures: BTreeMap::new() }
    }

    /// Something about a key changed.
    pub(super) fn add(&mut self, key: K, now: Instant) {
        match self.running.get_mut(&key) {
            Some(again) => *again = true,
            None => self.schedule(key, now + self.delay),
        }
    }

    /// The next key that is due; it counts as worked on then.
    pub(super) fn pop(&mut self, now: Instant) -> Option<K> {
        let (due, _) = self.order.first()?;
        if *due > now {
            return None;
        }
        let (_, key) = self.order.pop_first()?;
        self.waiting.remove(&key);
        self.running.insert(key.clone(), false);
        Some(key)
    }

    /// When the next key is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.order.first().map(|(due, _)| *due)
    }

    /// A key is as it should be.
    pub(super) fn done(&mut self, key: K, now: Instant) {
        self.failures.remove(&key);
        if self.running.remove(&key) == Some(true) {
            self.schedule(key, now + self.delay);
        }
    }

    /// A key could not be made as it should be; how often in a row.
    pub(super) fn failed(&mut self, key: K, now: Instant) -> u32 {
        self.running.remove(&key);
        let failures = self.failures.entry(key.clone()).or_default();
        *failures = failures.saturating_add(1);
        let count = *failures;
        let wait = FIRST_RETRY.saturating_mul(1 << (count - 1).min(10)).min(LAST_RETRY);
        self.schedule(key, now + wait);
        count
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The earlier one of two times counts.
    fn schedule(&mut self, key: K, due: Instant) {
        if let Some(before) = self.waiting.get(&key) {
            if *before <= due {
                return;
            }
            self.order.remove(&(*before, key.clone()));
        }
        self.waiting.insert(key.clone(), due);
        self.order.insert((due, key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn changes_within_the_delay_are_one() {
        let start = Instant::now();
        let mut queue = Queue::new(Duration::from_millis(500));
        queue.add("a", start);
        queue.add("b", at(start, 100));
        queue.add("a", at(start, 400));
        assert_eq!((queue.pop(at(start, 499)), queue.next_due()), (None, Some(at(start, 500))));
        assert_eq!(queue.pop(at(start, 500)), Some("a"));
        assert_eq!(queue.pop(at(start, 500)), None);
        // Changed while it is worked on: once more, but not at the same time.
        queue.add("a", at(start, 510));
        assert_eq!(queue.pop(at(start, 5000)), Some("b"));
        assert_eq!(queue.pop(at(start, 5000)), None);
        queue.done("a", at(start, 5000));
        assert_eq!(queue.pop(at(start, 5500)), Some("a"));
        queue.done("a", at(start, 5500));
        queue.done("b", at(start, 5500));
        assert_eq!((queue.len(), queue.next_due()), (0, None));
    }

    #[test]
    fn failures_wait_longer_and_longer_until_one_succeeds() {
        let start = Instant::now();
        let mut queue = Queue::new(Duration::from_millis(100));
        queue.add("a", start);
        let mut now = at(start, 100);
        let mut waits = vec![];
        for n in 1..=9 {
            assert_eq!(queue.pop(now), Some("a"));
            assert_eq!(queue.failed("a", now), n);
            let due = queue.next_due().unwrap();
            waits.push((due - now).as_millis());
            now = due;
        }
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        // A change does not wait for the end of the pause.
        assert_eq!(queue.pop(now), Some("a"));
        queue.failed("a", now);
        queue.add("a", now);
        assert_eq!(queue.next_due(), Some(now + Duration::from_millis(100)));
        now += Duration::from_millis(100);
        assert_eq!(queue.pop(now), Some("a"));
        queue.done("a", now);
        queue.add("a", now);
        now += Duration::from_millis(100);
        assert_eq!(queue.pop(now), Some("a"));
        assert_eq!(queue.failed("a", now), 1);
    }
}
