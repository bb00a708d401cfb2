//! The state machine of one remote cluster (mesh-protocol 3).
//!
//! It is told what happened and what time it is, and answers with what to do and what changed.
//! Connection: heartbeat list (which proves the connection), then the cluster configuration, then the
//! sync markers if the peer writes them, then each kind as its marker appears. The configuration is
//! followed too: another one is judged on a new connection. Whatever fails, what
//! was accepted stays in force; it goes when a complete list no longer names it, when the peer's id
//! changes, when the peer is no longer configured, and, for services and exports, when the cache TTL
//! runs out. Answers that no etcd can give end the connection and are counted.

use std::collections::BTreeMap;
use std::time::Duration;

use causeway_model::{ClusterConfig, ClusterInfo, ClusterName};
use tracing::warn;

use super::keep::{Intake, Keep};
use super::known::Known;
use super::messages::{Action, Body, Input, StreamId};
use super::stream::{State, Stream};
use super::{Ids, Options, RejectedStatus};
use crate::keys::{self, Kind};
use crate::wire::Reason;

/// A connection that is younger than this is not given up for another configuration of the peer.
const SETTLE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Until the next attempt.
    Waiting { until: Duration },
    /// No answer yet.
    Connecting { since: Duration },
    /// Asking for the cluster configuration; `ask_at` when it was not there.
    Config { since: Duration, attempts: u32, ask_at: Option<Duration> },
    /// Configuration accepted.
    Running { since: Duration },
}

/// The session of one remote cluster, as an agent has it.
pub type Session = SessionOf<Known>;

/// What to do and what changed.
pub(super) type Output<K> = super::messages::Output<<K as Keep>::Change>;

/// The session of one remote cluster; `K` says what becomes of the keys.
#[derive(Debug)]
pub struct SessionOf<K> {
    pub(super) name: ClusterName,
    pub(super) options: Options,
    pub(super) phase: Phase,
    pub(super) conn: u64,
    /// The store this connection talks to; another one must not be mixed in (mesh-protocol 3.6).
    store: Option<u64>,
    /// The peer as last accepted; its data are in force under this id.
    pub(super) peer: Option<(ClusterInfo, ClusterConfig)>,
    pub(super) streams: BTreeMap<StreamId, Stream>,
    pub(super) known: BTreeMap<Kind, K>,
    /// Bytes of keys and values in force.
    pub(super) used: u64,
    pub(super) heartbeat_at: Duration,
    retries: u32,
    pub(super) failures: u64,
    pub(super) last_failure: Option<(Duration, String)>,
    pub(super) rejected: RejectedStatus,
    /// Since when there is no connection; `None` while there is one, and after the cache TTL.
    down_since: Option<Duration>,
    pub(super) cache_revocations: u64,
    random: u64,
}

impl<K: Keep> SessionOf<K> {
    /// A session that wants to connect at once. `seed` only spreads the waiting times.
    pub fn new(name: ClusterName, options: Options, seed: u64) -> Self {
        let known = options.kinds.iter().map(|kind| (*kind, K::new(*kind))).collect();
        Self {
            name,
            options,
            phase: Phase::Waiting { until: Duration::ZERO },
            conn: 0,
            store: None,
            peer: None,
            streams: BTreeMap::new(),
            known,
            used: 0,
            heartbeat_at: Duration::ZERO,
            retries: 0,
            failures: 0,
            last_failure: None,
            rejected: RejectedStatus::default(),
            down_since: None,
            cache_revocations: 0,
            random: seed | 1,
        }
    }

    /// The number of the present connection.
    pub fn conn(&self) -> u64 {
        self.conn
    }

    /// When [`Session::tick`] has something to do.
    pub fn deadline(&self) -> Duration {
        let timing = &self.options.timing;
        let revoke = self.revoke_at().unwrap_or(Duration::MAX);
        let phase = match self.phase {
            Phase::Waiting { until } => return until.min(revoke),
            Phase::Connecting { since } => return (since + timing.connect).min(revoke),
            Phase::Config { since, ask_at, .. } => {
                let give_up = since + timing.config;
                ask_at.map_or(give_up, |at| at.min(give_up))
            }
            Phase::Running { .. } => Duration::MAX,
        };
        let waiting = self.streams.values().filter_map(|stream| match stream.state {
            State::Waiting { until } => Some(until),
            State::Watching { since, confirmed: false } => Some(since + timing.connect),
            _ => None,
        });
        waiting.fold(phase.min(self.heartbeat_at + timing.heartbeat).min(revoke), Duration::min)
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) -> Output<K> {
        let mut out = Output::<K>::default();
        if self.revoke_at().is_some_and(|at| now >= at) {
            self.revoke(&mut out);
        }
        match self.phase {
            Phase::Waiting { until } if now >= until => self.connect(now, &mut out),
            Phase::Waiting { .. } => {}
            _ => match self.overdue(now) {
                Some(text) => self.fail(now, text, &mut out),
                None => self.ask_again(now, &mut out),
            },
        }
        out
    }

    /// The configuration file changed: connect anew at once, keeping what is known.
    pub fn reconfigured(&mut self, now: Duration) -> Output<K> {
        let mut out = Output::<K>::default();
        self.retries = 0;
        self.connect(now, &mut out);
        out
    }

    /// The cluster is no longer configured: everything of it goes.
    pub fn close(&mut self, ids: &mut Ids) -> Output<K> {
        if let Some((peer, _)) = self.peer.take() {
            ids.release(peer.id, &self.name);
        }
        Output::<K> { actions: vec![Action::Disconnect], events: vec![K::removed()] }
    }

    /// Something happened.
    pub fn handle(&mut self, now: Duration, input: Input, ids: &mut Ids) -> Output<K> {
        let mut out = Output::<K>::default();
        if input.conn != self.conn || matches!(self.phase, Phase::Waiting { .. }) {
            return out;
        }
        if let Body::Config { store, .. } | Body::Page { store, .. } | Body::Batch { store, .. } = &input.body
            && let Err((reason, text)) = self.check_store(*store)
        {
            self.violation(now, reason, text, &mut out);
            return out;
        }
        match input.body {
            Body::Connected => self.start_named(StreamId::Heartbeat, keys::HEARTBEAT.to_owned(), &mut out),
            Body::Failed(text) => self.fail(now, text, &mut out),
            Body::Wrong(reason, text) => self.violation(now, reason, text, &mut out),
            Body::Config { value, .. } => self.config_read(now, value, ids, &mut out),
            Body::Page { stream, op, revision, entries, more, .. } => {
                if self.is_current(stream, op) {
                    self.page(now, stream, revision, &entries, more, &mut out);
                }
            }
            Body::TooLarge { stream, op } => {
                if self.is_current(stream, op) {
                    self.too_large(now, stream, &mut out);
                }
            }
            Body::Batch { stream, op, revision, changes, .. } => {
                if self.is_current(stream, op) {
                    self.batch(now, stream, revision, changes, &mut out);
                }
            }
            Body::Lost { stream, op, reason } => {
                if self.is_current(stream, op) {
                    self.lost(now, stream, reason, &mut out);
                }
            }
        }
        out
    }

    fn is_current(&self, stream: StreamId, op: u64) -> bool {
        self.streams.get(&stream).is_some_and(|stream| stream.op == op)
    }

    /// What should have happened by now, in words.
    fn overdue(&self, now: Duration) -> Option<String> {
        let timing = &self.options.timing;
        if let Phase::Connecting { since } = self.phase {
            return (now >= since + timing.connect)
                .then(|| format!("no answer within {} s", timing.connect.as_secs()));
        }
        if now >= self.heartbeat_at + timing.heartbeat {
            return Some(format!(
                "no heartbeat for {} s: the peer's publisher or the way to it is gone",
                timing.heartbeat.as_secs()
            ));
        }
        if let Phase::Config { since, .. } = self.phase
            && now >= since + timing.config
        {
            return Some(format!(
                "no {} within {} s: the peer does not publish under the name {}",
                keys::cluster_config(&self.name),
                timing.config.as_secs(),
                self.name
            ));
        }
        let silent = self.streams.values().find(|stream| {
            matches!(stream.state, State::Watching { since, confirmed: false } if now >= since + timing.connect)
        });
        silent.map(|stream| {
            let seconds = timing.connect.as_secs();
            format!("the watch of {} was not confirmed within {seconds} s", stream.prefix)
        })
    }

    /// Repeats the requests that are due.
    fn ask_again(&mut self, now: Duration, out: &mut Output<K>) {
        if let Phase::Config { since, attempts, ask_at: Some(at) } = self.phase
            && now >= at
        {
            self.phase = Phase::Config { since, attempts, ask_at: None };
            out.actions.push(Action::ReadConfig { conn: self.conn, key: keys::cluster_config(&self.name) });
        }
        self.retry_streams(now, out);
    }

    fn connect(&mut self, now: Duration, out: &mut Output<K>) {
        self.leave(now);
        self.conn += 1;
        self.phase = Phase::Connecting { since: now };
        out.actions.push(Action::Connect { conn: self.conn });
    }

    /// Connects anew because of what the peer says: at once, but not again and again, whatever it says.
    pub(super) fn reconnect(&mut self, now: Duration, since: Duration, out: &mut Output<K>) {
        let wait = SETTLE.saturating_sub(now.saturating_sub(since));
        if wait.is_zero() {
            return self.connect(now, out);
        }
        self.leave(now);
        self.phase = Phase::Waiting { until: now + wait };
        out.actions.push(Action::Disconnect);
    }

    pub(super) fn fail(&mut self, now: Duration, text: String, out: &mut Output<K>) {
        let max = self.options.timing.max_backoff;
        // A connection that held for a while was a good one; others count on, so that a peer that
        // accepts and then misbehaves is asked ever less often.
        if matches!(self.phase, Phase::Running { since } if now.saturating_sub(since) >= max) {
            self.retries = 0;
        }
        self.failures += 1;
        self.retries = self.retries.saturating_add(1);
        let wait = self.jitter(Duration::from_secs(self.retries.into()).min(max));
        warn!(cluster = %self.name, error = text, retry_in = ?wait, "the connection to a remote cluster failed; its state is kept");
        self.last_failure = Some((now, text));
        self.leave(now);
        self.phase = Phase::Waiting { until: now + wait };
        out.actions.push(Action::Disconnect);
    }

    /// The peer answered as no etcd can, or as none we may accept.
    pub(super) fn violation(&mut self, now: Duration, reason: Reason, text: String, out: &mut Output<K>) {
        self.rejected.add(reason, text.clone());
        self.fail(now, text, out);
    }

    /// Forgets what belongs to the connection.
    fn leave(&mut self, now: Duration) {
        if matches!(self.phase, Phase::Running { .. }) {
            self.down_since = Some(now);
        }
        self.streams.clear();
        self.store = None;
    }

    /// The connection is complete: configuration read and accepted.
    pub(super) fn running(&mut self, now: Duration) {
        self.phase = Phase::Running { since: now };
        self.down_since = None;
    }

    /// When the cache TTL runs out.
    fn revoke_at(&self) -> Option<Duration> {
        let ttl = self.options.cache_ttl;
        self.down_since.filter(|_| !ttl.is_zero()).map(|since| since.saturating_add(ttl))
    }

    /// The peer has been gone for the cache TTL: its services and exports are withdrawn, so that
    /// clients use other clusters. Nodes, identities and addresses stay: they send nobody anywhere.
    fn revoke(&mut self, out: &mut Output<K>) {
        self.down_since = None;
        self.cache_revocations += 1;
        let kinds = [Kind::Services, Kind::ServiceExports];
        let dropped: usize = kinds.iter().filter_map(|kind| self.known.get(kind)).map(K::count).sum();
        warn!(cluster = %self.name, entries = dropped, ttl = ?self.options.cache_ttl, "no connection for the cache TTL; services are withdrawn");
        for kind in kinds {
            let Some(known) = self.known.get_mut(&kind) else { continue };
            out.events.extend(known.drop_all(&mut self.used));
        }
    }

    /// Between 80 % and 120 %, so that a thousand readers do not come back in one instant.
    fn jitter(&mut self, wait: Duration) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        wait.mul_f64(0.8 + (self.random % 1000) as f64 * 0.0004)
    }

    fn check_store(&mut self, store: u64) -> Result<(), (Reason, String)> {
        match self.store {
            _ if store == 0 => {
                Err((Reason::NoHeader, "a response without header: the peer is no etcd".to_owned()))
            }
            Some(pinned) if pinned != store => Err((
                Reason::OtherStore,
                format!(
                    "responses of two stores on one connection ({pinned:x} and {store:x}): replicas must not be mixed"
                ),
            )),
            _ => {
                self.store = Some(store);
                Ok(())
            }
        }
    }

    /// What is known of a kind, with what its entries are held against; `None` before the peer has
    /// been accepted.
    pub(super) fn intake(&mut self, kind: Kind) -> Option<(&mut K, &str, Intake<'_>)> {
        let known = self.known.get_mut(&kind)?;
        let (from, _) = self.peer.as_ref()?;
        let stream = self.streams.get(&StreamId::Data(kind))?;
        let intake = Intake {
            from,
            limits: &self.options.limits,
            own: &self.options.own_prefixes,
            used: &mut self.used,
            rejected: &mut self.rejected,
        };
        Some((known, &stream.prefix, intake))
    }
}
