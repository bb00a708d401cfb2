//! What waits for the log: changes, and those who wait for them.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;

use super::super::staged::Receipt;
use super::record::Entry;
use crate::Error;

/// What somebody wants to do who asks whether the log allows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Gate {
    /// Look at the newest state.
    Read,
    /// Change it.
    Write,
}

/// What the log can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    /// Changes.
    Good,
    /// None for this reason. The state is that of what is durable.
    Refusing(Error),
    /// None for this reason, and the state is ahead of what is durable.
    Undoing(Error),
}

/// Shared by the store, which queues, and the log's thread.
#[derive(Debug)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    wake: Condvar,
}

#[derive(Debug)]
struct Inner {
    next: Batch,
    health: Health,
    /// A batch is being written.
    busy: bool,
    /// The thread has something else to look after.
    nudged: bool,
    closed: bool,
}

/// Changes that become durable together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The entries, as a frame's payload.
    pub(super) payload: Vec<u8>,
    /// The revision of the state after them.
    pub(super) revision: i64,
    pub(super) waiters: Vec<oneshot::Sender<Result<(), Error>>>,
    /// Those who wait for nothing of this batch, only for the one before it, which was being written when they came.
    behind: Vec<oneshot::Sender<Result<(), Error>>>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.payload.is_empty() && self.waiters.is_empty() && self.behind.is_empty()
    }

    pub(super) fn answer(self, result: Result<(), Error>) {
        // Who does not listen any more does not want to know.
        for waiter in self.waiters.into_iter().chain(self.behind) {
            let _ = waiter.send(result);
        }
    }

    /// The batch before this one is durable, whatever becomes of this one.
    pub(super) fn answer_behind(&mut self) {
        for waiter in self.behind.drain(..) {
            let _ = waiter.send(Ok(()));
        }
    }
}

impl Queue {
    pub(super) fn new() -> Self {
        let inner =
            Inner { next: Batch::default(), health: Health::Good, busy: false, nudged: false, closed: false };
        Self { inner: Mutex::new(inner), wake: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while it is held")
    }

    /// Whether the log allows it; to be asked under the store's lock.
    pub(super) fn pass(&self, gate: Gate) -> Result<(), Error> {
        match (self.lock().health, gate) {
            (Health::Good, _) | (Health::Refusing(_), Gate::Read) => Ok(()),
            (Health::Refusing(error) | Health::Undoing(error), _) => Err(error),
        }
    }

    /// Queues a change that leads to `revision`, in the order of the calls: to be called under the
    /// store's lock. The batch may be taken at once, before anybody waits for it.
    pub(super) fn push(&self, entry: Entry, revision: i64) {
        let mut inner = self.lock();
        entry.append(&mut inner.next.payload);
        inner.next.revision = revision;
    }

    /// What to wait for until everything queued so far is durable, if that is not so already. To be called under the
    /// store's lock, as [`Queue::push`] is: so what is in the queue is the caller's own at the latest.
    pub(super) fn receipt(&self) -> Option<Receipt> {
        let mut inner = self.lock();
        if inner.next.payload.is_empty() && !inner.busy {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        let taken = inner.next.payload.is_empty();
        if taken { &mut inner.next.behind } else { &mut inner.next.waiters }.push(sender);
        self.wake.notify_one();
        Some(receiver)
    }

    /// Waits for work, at most so long. `None` when it is closed and nothing is left.
    pub(super) fn take(&self, at_most: Option<Duration>) -> Option<Batch> {
        let mut inner = self.lock();
        inner.busy = false;
        while inner.next.is_empty() && !inner.nudged && !inner.closed {
            inner = match at_most {
                None => self.wake.wait(inner).expect("nothing panics while it is held"),
                Some(at_most) => {
                    let waited = self.wake.wait_timeout(inner, at_most);
                    inner = waited.expect("nothing panics while it is held").0;
                    break;
                }
            };
        }
        if inner.closed && inner.next.is_empty() {
            return None;
        }
        inner.nudged = false;
        Some(inner.begin())
    }

    /// Takes what is there; to be called under the store's lock to know what the state includes.
    pub(super) fn take_now(&self) -> Batch {
        self.lock().begin()
    }

    pub(super) fn set_health(&self, health: Health) {
        self.lock().health = health;
    }

    pub(super) fn health(&self) -> Health {
        self.lock().health
    }

    /// Lets [`Queue::take`] return even if nothing is queued.
    pub(super) fn nudge(&self) {
        self.lock().nudged = true;
        self.wake.notify_one();
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }
}

impl Inner {
    fn begin(&mut self) -> Batch {
        self.busy = true;
        let revision = self.next.revision;
        std::mem::replace(&mut self.next, Batch { revision, ..Batch::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_meanwhile_shares_the_next_batch() {
        let queue = Queue::new();
        assert!(queue.receipt().is_none(), "everything is durable");
        queue.push(Entry::Revoke(1), 2);
        let mut first = queue.receipt().unwrap();
        let batch = queue.take(None).unwrap();
        assert_eq!((batch.revision, batch.waiters.len()), (2, 1));
        // These come while the first is being written; one of them changes nothing itself.
        let mut others = Vec::new();
        for n in 3..6 {
            queue.push(Entry::Revoke(n), n);
            others.push(queue.receipt().unwrap());
        }
        others.push(queue.receipt().unwrap());
        batch.answer(Ok(()));
        assert_eq!(first.try_recv(), Ok(Ok(())));
        let batch = queue.take(None).unwrap();
        assert_eq!((batch.revision, batch.waiters.len()), (5, 4));
        assert!(others[3].try_recv().is_err(), "what it was told may not be durable yet");
        batch.answer(Err(Error::NoSpace));
        assert!(others.iter_mut().all(|other| other.try_recv() == Ok(Err(Error::NoSpace))));
        queue.close();
        assert!(queue.take(None).is_none());
    }

    #[test]
    fn a_batch_that_is_taken_before_anybody_waits_speaks_for_its_revision() {
        let queue = Queue::new();
        queue.push(Entry::Revoke(1), 2);
        let batch = queue.take_now();
        assert_eq!((batch.revision, batch.waiters.len()), (2, 0));
        // Who waits for it now waits for the one behind it, which is answered after it.
        let _receipt = queue.receipt().unwrap();
        let behind = queue.take(None).unwrap();
        assert_eq!((behind.payload.len(), behind.revision, behind.behind.len()), (0, 2, 1));
    }

    #[test]
    fn what_is_durable_is_not_refused_with_what_comes_after_it() {
        let queue = Queue::new();
        queue.push(Entry::Revoke(1), 2);
        let first = queue.take_now();
        let mut of_first = queue.receipt().unwrap();
        queue.push(Entry::Revoke(2), 3);
        let mut of_second = queue.receipt().unwrap();
        first.answer(Ok(()));
        let mut second = queue.take(None).unwrap();
        second.answer_behind();
        second.answer(Err(Error::NoSpace));
        assert_eq!(of_first.try_recv(), Ok(Ok(())));
        assert_eq!(of_second.try_recv(), Ok(Err(Error::NoSpace)));
    }

    #[test]
    fn a_refusing_log_lets_readers_pass_only_when_all_is_undone() {
        let queue = Queue::new();
        let passes = |health| {
            queue.set_health(health);
            [Gate::Read, Gate::Write].map(|gate| queue.pass(gate))
        };
        let no_space = Err(Error::NoSpace);
        assert_eq!(passes(Health::Good), [Ok(()), Ok(())]);
        assert_eq!(passes(Health::Undoing(Error::NoSpace)), [no_space, no_space]);
        assert_eq!(passes(Health::Refusing(Error::NoSpace)), [Ok(()), no_space]);
    }
}
