//! One reader of one remote cluster: the session under test, and the network between.

use std::collections::BTreeMap;
use std::time::Duration;

use causeway_mesh::remote::{
    Action, Body, Change, Ids, Input, LostReason, Options, Output, RemoteChange, Session, StreamId,
};
use causeway_mesh::wire::Reason;
use causeway_model::ClusterName;

use crate::cluster::Cluster;
use crate::random::Random;
use crate::view::View;

/// The way to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Net {
    Up,
    /// Everything fails at once.
    Cut,
    /// Half open: nothing arrives, and nobody is told.
    Stalled,
    /// Our certificate is refused.
    Refused,
}

struct Watch {
    op: u64,
    process: u64,
    start: Vec<u8>,
    end: Vec<u8>,
    next: i64,
}

/// An answer on its way, and the step of the world in which it was given.
struct Answer {
    slot: Option<StreamId>,
    input: Input,
    at: u64,
}

pub(crate) struct Link {
    pub(crate) session: Session,
    options: Options,
    pub(crate) net: Net,
    /// How far this reader's clock is ahead.
    pub(crate) skew: Duration,
    conn: u64,
    /// The store and process that the connection was made to, and the highest revision it told.
    connected: (u64, u64),
    told: i64,
    pending: Vec<Action>,
    watches: BTreeMap<StreamId, Watch>,
    inbox: Vec<Answer>,
    /// The step up to which a stream's answers speak of the store: those that follow are of later changes.
    known_at: BTreeMap<StreamId, u64>,
    pub(crate) view: View,
    /// Longest message the reader takes, bytes.
    message: usize,
    pub(crate) reads: u64,
}

impl Link {
    pub(crate) fn new(peer: &ClusterName, options: Options, message: usize, seed: u64) -> Self {
        Self {
            session: Session::new(peer.clone(), options.clone(), seed),
            options,
            net: Net::Up,
            skew: Duration::ZERO,
            conn: 0,
            connected: (0, 0),
            told: 0,
            pending: vec![],
            watches: BTreeMap::new(),
            inbox: vec![],
            known_at: BTreeMap::new(),
            view: View::default(),
            message,
            reads: 0,
        }
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.session.deadline().saturating_sub(self.skew)
    }

    pub(crate) fn tick(&mut self, now: Duration, peer: &Cluster, step: u64) {
        let out = self.session.tick(now + self.skew);
        self.output(out, peer, step);
    }

    /// The certificate or an endpoint changed.
    pub(crate) fn reconfigure(&mut self, now: Duration, peer: &Cluster, step: u64) {
        let out = self.session.reconfigured(now + self.skew);
        self.output(out, peer, step);
    }

    /// No longer configured, and configured again.
    pub(crate) fn remove(&mut self, ids: &mut Ids, peer: &Cluster, step: u64, seed: u64) {
        let out = self.session.close(ids);
        self.output(out, peer, step);
        assert!(self.view.entries.is_empty());
        let name = peer.info.name.clone();
        *self = Self {
            skew: self.skew,
            net: self.net,
            ..Self::new(&name, self.options.clone(), self.message, seed)
        };
    }

    pub(crate) fn set_net(&mut self, net: Net) {
        if net == Net::Cut && self.net != Net::Cut && !self.watches.is_empty() {
            self.fail("connection reset", 0);
        }
        self.net = net;
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.inbox.is_empty()
    }

    fn fail(&mut self, text: &str, at: u64) {
        self.answer(None, Body::Failed(text.to_owned()), at);
    }

    fn answer(&mut self, slot: Option<StreamId>, body: Body, at: u64) {
        self.inbox.push(Answer { slot, input: Input { conn: self.conn, body }, at });
    }

    fn output(&mut self, out: Output<RemoteChange>, peer: &Cluster, at: u64) {
        let may_revoke = !self.options.cache_ttl.is_zero();
        for change in out.events {
            self.view.apply(change, peer, at, may_revoke);
        }
        for action in out.actions {
            match &action {
                Action::Disconnect => {
                    self.pending.clear();
                    self.watches.clear();
                    continue;
                }
                Action::Connect { conn } => {
                    self.conn = *conn;
                    self.pending.clear();
                    self.watches.clear();
                }
                Action::List { stream, .. } | Action::Watch { stream, .. } => {
                    self.watches.remove(stream);
                    self.pending.retain(|other| stream_of(other) != Some(*stream));
                }
                Action::ReadConfig { .. } => {}
            }
            self.pending.push(action);
        }
    }

    /// One step of the network: a request is answered, a watch looked after, or an answer arrives.
    pub(crate) fn step(
        &mut self,
        now: Duration,
        random: &mut Random,
        peer: &Cluster,
        ids: &mut Ids,
        step: u64,
    ) -> bool {
        let choice = random.below(3);
        for kind in 0..3 {
            let done = match (choice + kind) % 3 {
                0 => self.serve(random, peer, step),
                1 => self.poll(random, peer, step),
                _ => self.deliver(now, random, peer, ids),
            };
            if done {
                return true;
            }
        }
        false
    }

    fn deliver(&mut self, now: Duration, random: &mut Random, peer: &Cluster, ids: &mut Ids) -> bool {
        if self.net == Net::Stalled || self.inbox.is_empty() {
            return false;
        }
        let slot = self.inbox[random.below(self.inbox.len())].slot;
        // In order within a stream, in any order between them.
        let first = self.inbox.iter().position(|answer| answer.slot == slot).unwrap_or(0);
        let answer = self.inbox.remove(first);
        let out = self.session.handle(now + self.skew, answer.input, ids);
        self.output(out, peer, answer.at);
        true
    }

    fn serve(&mut self, random: &mut Random, peer: &Cluster, at: u64) -> bool {
        if self.net == Net::Stalled || self.pending.is_empty() {
            return false;
        }
        self.reads += 1;
        let action = self.pending.swap_remove(random.below(self.pending.len()));
        if self.net == Net::Cut {
            self.fail("connection refused", at);
            return true;
        }
        let (store, process, now) = (peer.store.id, peer.store.process, peer.store.revision);
        if matches!(action, Action::Connect { .. }) {
            (self.connected, self.told) = ((store, process), now);
        }
        // A process takes its connections with it. A client may connect again by itself; its reads notice the
        // same store put back as long as that is behind what it told before, and it is taken as noticed after.
        let (before, of) = self.connected;
        if before == store && of != process {
            if now >= self.told {
                self.fail("connection reset", at);
                return true;
            }
            if matches!(action, Action::List { .. } | Action::ReadConfig { .. }) {
                let text = format!("revision {} and then {now}", self.told);
                self.answer(None, Body::Wrong(Reason::RevisionBackwards, text), at);
                return true;
            }
        }
        self.told = self.told.max(now);
        match action {
            Action::Disconnect => {}
            Action::Connect { .. } if self.net == Net::Refused => self.fail("certificate refused", at),
            Action::Connect { .. } => self.answer(None, Body::Connected, at),
            Action::ReadConfig { key, .. } => {
                let value = peer.store.get(key.as_bytes()).map(|value| value.to_vec());
                self.answer(None, Body::Config { store, value }, at);
            }
            Action::List { stream, op, start, end, revision, limit, keys_only, .. } => {
                if revision == 0 {
                    self.known_at.insert(stream, at);
                }
                let at = self.known_at[&stream];
                if revision > peer.store.revision {
                    self.fail("required revision is a future revision", at);
                    return true;
                }
                let body = match peer.store.range(&start, &end, revision, limit as usize, keys_only) {
                    None => Body::Lost { stream, op, reason: LostReason::Compacted },
                    Some((entries, _)) if weight(&entries) > self.message => Body::TooLarge { stream, op },
                    Some((entries, more)) => {
                        let entries =
                            entries.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
                        Body::Page { stream, op, store, revision: peer.store.revision, entries, more }
                    }
                };
                self.answer(Some(stream), body, at);
            }
            Action::Watch { stream, op, start, end, start_revision: next, .. } => {
                self.watches.insert(stream, Watch { op, process, start, end, next });
                let changes = vec![];
                self.answer(Some(stream), Body::Batch { stream, op, store, revision: now, changes }, at);
            }
        }
        true
    }

    /// Sends what a watch has to say; false when no watch has.
    fn poll(&mut self, random: &mut Random, peer: &Cluster, at: u64) -> bool {
        if matches!(self.net, Net::Cut | Net::Stalled) || self.watches.is_empty() {
            return false;
        }
        let skip = random.below(self.watches.len());
        let ids: Vec<StreamId> =
            self.watches.keys().copied().cycle().skip(skip).take(self.watches.len()).collect();
        ids.into_iter().any(|id| self.poll_one(id, peer, at))
    }

    fn poll_one(&mut self, stream: StreamId, peer: &Cluster, at: u64) -> bool {
        let Some(watch) = self.watches.get_mut(&stream) else { return false };
        let op = watch.op;
        if watch.process != peer.store.process {
            self.watches.remove(&stream);
            self.fail("the stream was reset", at);
            return true;
        }
        if watch.next <= peer.store.compacted {
            self.watches.remove(&stream);
            self.answer(Some(stream), Body::Lost { stream, op, reason: LostReason::Compacted }, at);
            return true;
        }
        let before = self.known_at.insert(stream, at).unwrap_or(0);
        let changes: Vec<Change> = peer
            .store
            .since(watch.next, &watch.start, &watch.end)
            .map(|(key, value)| match value {
                Some(value) => Change::Put(key.to_vec().into(), value.to_vec().into()),
                None => Change::Delete(key.to_vec().into()),
            })
            .collect();
        // A store that went back has nothing to say until it is where the watch begins.
        watch.next = watch.next.max(peer.store.revision + 1);
        let (store, revision) = (peer.store.id, peer.store.revision);
        for change in &changes {
            let (Change::Put(key, value), limit) = (change, self.message) else { continue };
            if key.len() + value.len() > limit {
                self.watches.remove(&stream);
                self.answer(Some(stream), Body::TooLarge { stream, op }, at);
                return true;
            }
        }
        let any = !changes.is_empty();
        if any {
            self.answer(Some(stream), Body::Batch { stream, op, store, revision, changes }, before);
        }
        any
    }
}

fn stream_of(action: &Action) -> Option<StreamId> {
    match action {
        Action::List { stream, .. } | Action::Watch { stream, .. } => Some(*stream),
        _ => None,
    }
}

fn weight(entries: &[(Vec<u8>, Vec<u8>)]) -> usize {
    entries.iter().map(|(key, value)| key.len() + value.len()).sum()
}
