//! One cluster's store and what writes into it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use causeway_mesh::keys::{self, Kind, Layout};
use causeway_mesh::wire::{Entry, EntryKey, config};
use causeway_model::{ClusterConfig, ClusterId, ClusterInfo};

use crate::content;
use crate::store::Store;

/// How often the heartbeat is written, and the life of the lease of all keys (mesh-protocol 3.10).
const BEAT: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_secs(900);

type Write = (Vec<u8>, Option<Vec<u8>>);

/// What is no longer published once a write is made.
enum Gone {
    Nothing,
    One(EntryKey),
    /// Whatever was left by somebody else.
    Any,
}

pub(crate) struct Cluster {
    pub(crate) info: ClusterInfo,
    pub(crate) index: usize,
    pub(crate) store: Store,
    pub(crate) config: ClusterConfig,
    /// What it wants to be known of it: kind and number, with version.
    pub(crate) desired: BTreeMap<(Kind, usize), u32>,
    /// Writes the publisher has not made yet.
    backlog: VecDeque<(Write, Gone)>,
    /// The publisher runs and reaches the store.
    pub(crate) publishing: bool,
    next_beat: Duration,
    lease_until: Duration,
    /// Keys with garbage in them.
    pub(crate) garbage: BTreeSet<Vec<u8>>,
    /// When (in steps of the world) an entry was last not published.
    pub(crate) gone_at: BTreeMap<EntryKey, u64>,
    /// When all of them were.
    pub(crate) all_gone_at: u64,
    pub(crate) id_changed: bool,
    /// Its stores wrote markers always, so that half of a store was never the whole.
    pub(crate) always_marked: bool,
}

impl Cluster {
    pub(crate) fn new(info: ClusterInfo, index: usize, config: ClusterConfig) -> Self {
        let mut cluster = Self {
            always_marked: config.synced_canaries,
            info,
            index,
            store: Store::new(1000 * (index as u64 + 1)),
            config,
            desired: BTreeMap::new(),
            backlog: VecDeque::new(),
            publishing: true,
            next_beat: Duration::ZERO,
            lease_until: LEASE,
            garbage: BTreeSet::new(),
            gone_at: BTreeMap::new(),
            all_gone_at: 0,
            id_changed: false,
        };
        cluster.publish_all(0);
        cluster
    }

    pub(crate) fn entry(&self, kind: Kind, n: usize, version: u32) -> Entry {
        content::entry(&self.info, self.index, kind, n, version)
    }

    fn layout(&self) -> Layout {
        if self.config.cached { Layout::Cached } else { Layout::Native }
    }

    pub(crate) fn prefix(&self, kind: Kind) -> Vec<u8> {
        keys::prefix(self.layout(), kind, &self.info.name).into_bytes()
    }

    fn write_of(&self, kind: Kind, n: usize, version: u32) -> Write {
        let (suffix, value) = self.entry(kind, n, version).encode();
        ([self.prefix(kind), suffix.into_bytes()].concat(), Some(value))
    }

    /// Wants an entry, or wants it no more.
    pub(crate) fn want(&mut self, kind: Kind, n: usize, version: Option<u32>) {
        let (key, value) = self.write_of(kind, n, version.unwrap_or(1));
        match version {
            Some(version) => self.desired.insert((kind, n), version),
            None => self.desired.remove(&(kind, n)),
        };
        let withdrawn = version.is_none_or(|version| kind == Kind::Services && !content::is_shared(version));
        let gone = if withdrawn { Gone::One(self.entry(kind, n, 1).key()) } else { Gone::Nothing };
        self.garbage.remove(&key);
        self.backlog.push_back(((key, value.filter(|_| version.is_some())), gone));
    }

    /// Everything the publisher owes the store, markers last.
    pub(crate) fn publish_all(&mut self, step: u64) {
        for (_, gone) in std::mem::take(&mut self.backlog) {
            self.note(gone, step);
        }
        let mut all = VecDeque::new();
        let name = &self.info.name;
        all.push_back((keys::HEARTBEAT.as_bytes().to_vec(), Some(b"t".to_vec())));
        all.push_back((keys::cluster_config(name).into_bytes(), Some(config::encode(&self.config))));
        let mut withdrawn = vec![];
        for ((kind, n), version) in &self.desired {
            let write = self.write_of(*kind, *n, *version);
            if *kind == Kind::Services && !content::is_shared(*version) {
                withdrawn.push((write.0.clone(), self.entry(*kind, *n, *version).key()));
            }
            all.push_back(write);
        }
        if self.config.synced_canaries {
            for kind in Kind::ALL {
                let marker = keys::marker(name, self.layout(), kind);
                all.push_back((marker.into_bytes(), Some(b"t".to_vec())));
            }
        }
        let wanted: BTreeSet<&Vec<u8>> = all.iter().map(|(key, _)| key).collect();
        // What an earlier process left is reconciled away before the markers say anything.
        let left: Vec<Write> =
            self.store.keys().into_iter().filter(|k| !wanted.contains(k)).map(|k| (k, None)).collect();
        self.garbage.clear();
        let left = left.into_iter().map(|write| (write, Gone::Any));
        let all = all.into_iter().map(|write| match withdrawn.iter().find(|(key, _)| *key == write.0) {
            Some((_, entry)) => (write, Gone::One(entry.clone())),
            None => (write, Gone::Nothing),
        });
        self.backlog = left.chain(all).collect();
    }

    fn note(&mut self, gone: Gone, step: u64) {
        match gone {
            Gone::Nothing => {}
            Gone::One(key) => {
                self.gone_at.insert(key, step);
            }
            Gone::Any => self.all_gone_at = step,
        }
    }

    /// Carries out some of the writes that wait.
    pub(crate) fn publish(&mut self, count: usize, step: u64) {
        for _ in 0..count {
            let next = if self.publishing { self.backlog.pop_front() } else { None };
            let Some((write, gone)) = next else { return };
            self.store.write([write]);
            self.note(gone, step);
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.backlog.is_empty()
    }

    /// An empty store in place of the old one.
    pub(crate) fn replace_store(&mut self, step: u64) {
        let id = self.store.id + 1;
        self.store = Store::new(id);
        self.publish_all(step);
    }

    /// The same store as it was some revisions ago; the publisher looks after what is missing.
    pub(crate) fn restore(&mut self, step: u64, back: i64) {
        self.store.restore(self.store.revision - back);
        self.all_gone_at = step;
        self.publish_all(step);
    }

    /// Another id, with all numbers that follow from it, in a new store.
    pub(crate) fn change_id(&mut self, id: ClusterId, step: u64) {
        self.id_changed = true;
        self.info.id = id;
        self.config.id = id.get();
        self.replace_store(step);
    }

    pub(crate) fn set_config(&mut self, step: u64, change: impl FnOnce(&mut ClusterConfig)) {
        change(&mut self.config);
        self.always_marked &= self.config.synced_canaries;
        self.replace_store(step);
    }

    pub(crate) fn put_garbage(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.store.put(key.clone(), value);
        self.garbage.insert(key);
    }

    /// Garbage goes: by the right value, or by nothing.
    pub(crate) fn clean(&mut self) {
        let wanted: BTreeMap<Vec<u8>, Option<Vec<u8>>> =
            self.desired.iter().map(|((kind, n), version)| self.write_of(*kind, *n, *version)).collect();
        for key in std::mem::take(&mut self.garbage) {
            let value = wanted.get(&key).cloned().flatten();
            self.backlog.push_back(((key, value), Gone::Nothing));
        }
    }

    pub(crate) fn deadline(&self) -> Duration {
        if self.publishing { self.next_beat } else { self.lease_until }
    }

    /// Time has passed: heartbeats, or the end of the lease of a publisher that is away.
    pub(crate) fn tick(&mut self, now: Duration, step: u64) {
        if self.publishing && now >= self.lease_until {
            // It was away for longer than its lease and has come back: all its keys are gone.
            self.expire(step);
            self.publish_all(step);
        }
        if self.publishing {
            self.lease_until = now + LEASE;
            if now >= self.next_beat {
                self.next_beat = now + BEAT;
                self.store.put(keys::HEARTBEAT, "t");
            }
        } else if now >= self.lease_until {
            self.expire(step);
            self.publish_all(step);
            self.lease_until = Duration::MAX;
        }
    }

    fn expire(&mut self, step: u64) {
        let keys = self.store.keys();
        self.store.write(keys.into_iter().map(|key| (key, None)));
        self.garbage.clear();
        self.all_gone_at = step;
    }

    /// What readers of these kinds are to know of it.
    pub(crate) fn published(&self, kinds: &[Kind]) -> BTreeMap<EntryKey, Entry> {
        let wanted = self.desired.iter().filter(|((kind, _), version)| {
            let known = *kind != Kind::ServiceExports || self.config.service_exports_enabled.is_some();
            let shared = *kind != Kind::Services || content::is_shared(**version);
            kinds.contains(kind) && known && shared
        });
        wanted
            .map(|((kind, n), version)| {
                let entry = self.entry(*kind, *n, *version);
                (entry.key(), entry)
            })
            .collect()
    }
}
