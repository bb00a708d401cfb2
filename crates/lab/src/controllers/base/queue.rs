//! A queue of keys to look at: a key waits once however often it is added, is never worked on twice at a time, and
//! comes back later with growing pauses when its work failed.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Display;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What a look at a key came to.
pub(crate) type Outcome = Result<Option<Duration>, super::writes::Error>;

struct State<T> {
    ready: VecDeque<T>,
    queued: HashSet<T>,
    working: HashSet<T>,
    later: BTreeMap<(Instant, u64), T>,
    /// When each key in `later` comes; the soonest counts.
    timers: HashMap<T, (Instant, u64)>,
    failures: HashMap<T, u32>,
    serial: u64,
}

/// The queue. Shared by handlers (which add) and workers.
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

impl<T: Clone + Eq + Hash + Display + Send + Sync + 'static> Queue<T> {
    /// An empty queue.
    pub(crate) fn new() -> Arc<Self> {
        let state = State {
            ready: VecDeque::new(),
            queued: HashSet::new(),
            working: HashSet::new(),
            later: BTreeMap::new(),
            timers: HashMap::new(),
            failures: HashMap::new(),
            serial: 0,
        };
        Arc::new(Queue { state: Mutex::new(state), changed: Notify::new() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Asks for a look at `key`.
    pub(crate) fn add(&self, key: T) {
        let mut state = self.lock();
        if state.queued.insert(key.clone()) && !state.working.contains(&key) {
            state.ready.push_back(key);
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Asks for a look at `key` after `pause`, or sooner if it was asked for sooner.
    pub(crate) fn add_after(&self, key: T, pause: Duration) {
        let mut state = self.lock();
        let at = Instant::now() + pause;
        match state.timers.get(&key).copied() {
            Some(sooner) if sooner.0 <= at => return,
            Some(other) => {
                state.later.remove(&other);
            }
            None => {}
        }
        state.serial += 1;
        let at = (at, state.serial);
        state.later.insert(at, key.clone());
        state.timers.insert(key, at);
        drop(state);
        self.changed.notify_one();
    }

    async fn next(&self) -> T {
        loop {
            let wake = {
                let mut state = self.lock();
                let now = Instant::now();
                while let Some(entry) = state.later.first_entry().filter(|e| e.key().0 <= now) {
                    let key = entry.remove();
                    state.timers.remove(&key);
                    if state.queued.insert(key.clone()) && !state.working.contains(&key) {
                        state.ready.push_back(key);
                    }
                }
                if let Some(key) = state.ready.pop_front() {
                    state.queued.remove(&key);
                    state.working.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.changed.notify_one();
                    }
                    return key;
                }
                state.later.first_key_value().map(|(at, _)| at.0)
            };
            match wake {
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at) => {}
                    () = self.changed.notified() => {}
                },
                None => self.changed.notified().await,
            }
        }
    }

    fn done(&self, key: T, outcome: Result<Option<Duration>, ()>) {
        let pause = {
            let mut state = self.lock();
            state.working.remove(&key);
            // Asked for again while it was being worked on.
            if state.queued.contains(&key) {
                state.ready.push_back(key.clone());
            }
            match outcome {
                Ok(again) => {
                    state.failures.remove(&key);
                    again
                }
                Err(()) => {
                    let failures = state.failures.entry(key.clone()).or_default();
                    *failures += 1;
                    Some(FIRST_PAUSE.saturating_mul(1 << (*failures - 1).min(12)).min(LONGEST_PAUSE))
                }
            }
        };
        self.changed.notify_one();
        if let Some(pause) = pause {
            self.add_after(key, pause);
        }
    }

    /// Looks at keys with `workers` tasks until `shutdown`. `look` returns when it wants to look again on its own.
    pub(crate) async fn work<F, Fut>(
        self: Arc<Self>,
        controller: &'static str,
        workers: usize,
        shutdown: CancellationToken,
        look: F,
    ) where
        F: Fn(T) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        for _ in 0..workers {
            let (queue, shutdown, look) = (self.clone(), shutdown.clone(), look.clone());
            tasks.spawn(async move {
                loop {
                    let key = tokio::select! {
                        () = shutdown.cancelled() => return,
                        key = queue.next() => key,
                    };
                    let outcome = look(key.clone()).await.map_err(|error| match error.is_race() {
                        true => tracing::debug!(controller, %key, %error, "lost a race, trying again"),
                        false => tracing::warn!(controller, %key, %error, "failed, trying again"),
                    });
                    queue.done(key, outcome);
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keys_wait_once_and_failures_pause() {
        let queue = Queue::<String>::new();
        queue.add("a".into());
        queue.add("a".into());
        queue.add("b".into());
        let a = queue.next().await;
        // Added while being worked on: comes again, but only after it is done.
        queue.add("a".into());
        assert_eq!(queue.next().await, "b");
        queue.done(a, Err(()));
        assert_eq!(queue.next().await, "a");
        queue.done("a".into(), Err(()));
        let before = Instant::now();
        assert_eq!(queue.next().await, "a");
        assert!(Instant::now() - before >= FIRST_PAUSE);
    }

    #[tokio::test]
    async fn a_key_comes_back_when_it_asked_to() {
        let queue = Queue::<String>::new();
        queue.add("a".into());
        let key = queue.next().await;
        let soon = Duration::from_millis(30);
        let before = Instant::now();
        queue.done(key, Ok(Some(soon)));
        assert_eq!(queue.next().await, "a");
        assert!(Instant::now() - before >= soon);
    }

    #[tokio::test]
    async fn a_key_has_one_timer() {
        let queue = Queue::<String>::new();
        let soon = Duration::from_millis(10);
        for pause in [Duration::from_secs(3600), soon, Duration::from_secs(60)] {
            queue.add_after("a".into(), pause);
        }
        assert_eq!(queue.lock().later.len(), 1);
        assert_eq!(queue.next().await, "a");
        assert!(queue.lock().later.is_empty() && queue.lock().timers.is_empty());
    }
}
