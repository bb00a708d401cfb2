//! Sessions, caches and remote clusters, with a network between them that does nothing by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use causeway_kvstore::{KeyRange, Store, StoreOptions, WatchOptions, Watcher, pb};
use causeway_model::{ClusterConfig, ClusterName};
use futures::FutureExt;

use super::super::*;
use super::{GRACE, local, put};
use crate::keys::{self, Layout};
use crate::remote::{Action, Body, Ids, Input, LostReason, Output, SessionOf, StreamId};
use crate::wire::config;

/// One session with what the network owes it.
pub(super) struct Link {
    pub(super) session: SessionOf<Copied>,
    pub(super) pending: Vec<Action>,
    /// Number of the request, id of the store, and the watch.
    pub(super) watches: BTreeMap<StreamId, (u64, u64, Watcher)>,
    pub(super) up: bool,
}

impl Link {
    pub(super) fn new(peer: &ClusterName, seed: u64) -> Self {
        let timing = Timing { page: 3, ..Timing::default() };
        let kinds = Kind::ALL.to_vec();
        let options = remote::Options { kinds, timing, ..remote::Options::agent(local()) };
        let session = SessionOf::new(peer.clone(), options, seed);
        Self { session, pending: vec![], watches: BTreeMap::new(), up: true }
    }

    pub(super) fn perform(&mut self, out: Output<Change>) -> Vec<Change> {
        for action in out.actions {
            match action {
                Action::Disconnect => self.cut(),
                Action::Connect { .. } => {
                    self.cut();
                    self.pending.push(action);
                }
                action => self.pending.push(action),
            }
        }
        out.events
    }

    pub(super) fn cut(&mut self) {
        self.pending.clear();
        self.watches.clear();
    }

    pub(super) fn input(&mut self, now: Duration, ids: &mut Ids, body: Body) -> Vec<Change> {
        let input = Input { conn: self.session.conn(), body };
        let out = self.session.handle(now, input, ids);
        self.perform(out)
    }

    /// Answers one waiting request, or takes one message of a watch.
    pub(super) fn deliver(
        &mut self,
        now: Duration,
        ids: &mut Ids,
        store: &Store,
        choice: usize,
    ) -> Vec<Change> {
        let count = self.pending.len() + self.watches.len();
        let Some(choice) = choice.checked_rem(count) else { return vec![] };
        let body = match choice.checked_sub(self.pending.len()) {
            None => self.answer(choice, store),
            // Half-open: nothing comes, not even an error.
            Some(watch) if self.up => self.poll(watch),
            Some(_) => None,
        };
        body.map(|body| self.input(now, ids, body)).unwrap_or_default()
    }

    pub(super) fn answer(&mut self, choice: usize, at: &Store) -> Option<Body> {
        let action = self.pending.remove(choice);
        if !self.up {
            return Some(Body::Failed("unreachable".into()));
        }
        let store = at.cluster_id();
        Some(match action {
            Action::Connect { .. } => Body::Connected,
            Action::Disconnect => return None,
            Action::ReadConfig { key, .. } => {
                let kvs = at.range(&pb::RangeRequest { key: key.into(), ..Default::default() }).unwrap().kvs;
                Body::Config { store, value: kvs.first().map(|kv| kv.value.to_vec()) }
            }
            Action::List { stream, op, start, end, revision, limit, .. } => {
                self.watches.remove(&stream);
                let (key, range_end) = (start.into(), end.into());
                match at.range(&pb::RangeRequest { key, range_end, revision, limit, ..Default::default() }) {
                    Ok(reply) => {
                        let entries = reply.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect();
                        let revision = at.revision();
                        Body::Page { stream, op, store, revision, entries, more: reply.more }
                    }
                    Err(_) => Body::Lost { stream, op, reason: LostReason::Compacted },
                }
            }
            Action::Watch { stream, op, start, end, start_revision, .. } => {
                let range = KeyRange::new(start.into(), end.into());
                let watcher = at.watch(WatchOptions::new(range, start_revision));
                self.watches.insert(stream, (op, store, watcher));
                Body::Batch { stream, op, store, revision: at.revision(), changes: vec![] }
            }
        })
    }

    pub(super) fn poll(&mut self, choice: usize) -> Option<Body> {
        let (stream, (op, store, watcher)) = self.watches.iter_mut().nth(choice)?;
        let (stream, op, store) = (*stream, *op, *store);
        match watcher.poll_now() {
            Ok(None) => None,
            Ok(Some(batch)) => {
                let change = |event: pb::Event| {
                    let kv = event.kv.unwrap();
                    match event.r#type == pb::event::EventType::Delete as i32 {
                        true => remote::Change::Delete(kv.key),
                        false => remote::Change::Put(kv.key, kv.value),
                    }
                };
                let changes = batch.events.into_iter().map(change).collect();
                Some(Body::Batch { stream, op, store, revision: batch.revision, changes })
            }
            Err(_) => {
                self.watches.remove(&stream);
                Some(Body::Lost { stream, op, reason: LostReason::Compacted })
            }
        }
    }
}

/// A cache: links to stores, and what it writes to.
pub(super) struct Hop {
    pub(super) links: BTreeMap<ClusterName, Link>,
    pub(super) ids: Ids,
    pub(super) store: Store,
    pub(super) mirror: Mirror,
}

impl Hop {
    pub(super) fn new(store: Store) -> Self {
        let ids = Ids::new(local().id, local().name);
        let mirror = Mirror::new(store.clone(), local().name, GRACE, 1 << 20);
        Self { links: BTreeMap::new(), ids, store, mirror }
    }

    pub(super) fn take(&mut self, now: Duration, cluster: &ClusterName, changes: Vec<Change>) {
        if !changes.is_empty() {
            self.mirror.apply(now, cluster, changes);
            self.mirror.write().now_or_never().unwrap().unwrap();
        }
    }

    pub(super) fn deliver(&mut self, now: Duration, cluster: &ClusterName, from: &Store, choice: usize) {
        let Some(link) = self.links.get_mut(cluster) else { return };
        let changes = link.deliver(now, &mut self.ids, from, choice);
        self.take(now, cluster, changes);
    }

    pub(super) fn close(&mut self, now: Duration, cluster: &ClusterName) {
        let Some(mut link) = self.links.remove(cluster) else { return };
        let out = link.session.close(&mut self.ids);
        self.take(now, cluster, out.events);
    }

    pub(super) fn tick(&mut self, now: Duration) {
        if self.mirror.deadline().is_some_and(|at| at <= now) {
            self.mirror.tick(now);
            self.mirror.write().now_or_never().unwrap().unwrap();
        }
        for cluster in self.links.keys().cloned().collect::<Vec<_>>() {
            let Some(link) = self.links.get_mut(&cluster) else { continue };
            if link.session.deadline() <= now {
                let out = link.session.tick(now);
                let changes = link.perform(out);
                self.take(now, &cluster, changes);
            }
        }
    }

    pub(super) fn beat(&mut self) {
        self.mirror.beat();
        self.mirror.write().now_or_never().unwrap().unwrap();
    }
}

/// A remote cluster.
pub(super) struct Source {
    pub(super) store: Store,
    pub(super) id: u32,
    pub(super) exports: Option<bool>,
    /// What it wants to have published.
    pub(super) desired: BTreeMap<(Kind, String), Bytes>,
}

impl Source {
    pub(super) fn new(id: u32) -> Self {
        let store = Store::new(StoreOptions::default());
        Self { store, id, exports: Some(true), desired: BTreeMap::new() }
    }

    pub(super) fn announce(&self, cluster: &ClusterName) {
        let announced = ClusterConfig {
            id: self.id,
            synced_canaries: true,
            cached: false,
            max_connected_clusters: 255,
            service_exports_enabled: self.exports,
        };
        put(&self.store, keys::HEARTBEAT, "t");
        put(&self.store, keys::cluster_config(cluster), config::encode(&announced));
    }

    /// Configuration, data, markers: in this order, as a publisher does.
    pub(super) fn publish_all(&self, cluster: &ClusterName) {
        self.announce(cluster);
        for ((kind, suffix), value) in &self.desired {
            put(&self.store, keys::prefix(Layout::Native, *kind, cluster) + suffix, value.clone());
        }
        for kind in Kind::ALL {
            put(&self.store, keys::marker(cluster, Layout::Native, kind), "t");
        }
    }
}
