//! One session against a simulated store, in virtual time: what must hold, one thing at a time. Random
//! schedules of whole meshes are in `tests/sim_mesh`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use causeway_model::{ClusterId, ClusterName, Collection, Event, MaxClusters, PodRef};

use super::*;
use crate::keys::{self, Layout, cluster_config, marker, prefix};
use crate::wire::{Entry, config};

fn info(name: &str, id: u32) -> ClusterInfo {
    let max_clusters = MaxClusters::C255;
    ClusterInfo {
        name: ClusterName::new(name).unwrap(),
        id: ClusterId::new(id, max_clusters).unwrap(),
        max_clusters,
    }
}

/// Small, seeded, good enough.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// An etcd as far as readers see it.
struct Store {
    id: u64,
    revision: i64,
    data: BTreeMap<Vec<u8>, Vec<u8>>,
    history: Vec<(i64, super::Change)>,
    compacted: i64,
}

impl Store {
    fn new(id: u64) -> Self {
        Self { id, revision: 1, data: BTreeMap::new(), history: vec![], compacted: 0 }
    }

    fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        let (key, value) = (key.into(), value.into());
        self.revision += 1;
        self.history.push((self.revision, super::Change::Put(key.clone().into(), value.clone().into())));
        self.data.insert(key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        if self.data.remove(key).is_some() {
            self.revision += 1;
            self.history.push((self.revision, super::Change::Delete(key.to_vec().into())));
        }
    }
}

struct Watch {
    op: u64,
    start: Vec<u8>,
    end: Vec<u8>,
    next: i64,
    created: bool,
}

struct World {
    random: Random,
    now: Duration,
    store: Store,
    layout: Layout,
    /// The content at the last compaction; history begins here.
    base: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What the publisher wants in the store, and what of it is published already after a restart.
    desired: BTreeMap<String, Vec<u8>>,
    reachable: bool,
    session: Session,
    ids: Ids,
    pending: Vec<Action>,
    watches: BTreeMap<StreamId, Watch>,
    conn: u64,
    last_beat: Duration,
    addresses: Collection<IpEntry>,
    /// Addresses that were published at every moment since they were first seen here.
    steady: BTreeSet<ipnet::IpNet>,
    /// Addresses deleted since the last heal: their removal may still be on its way.
    deleted: BTreeSet<ipnet::IpNet>,
}

fn address(n: u64, version: u64) -> (String, Vec<u8>, IpEntry) {
    let entry = IpEntry {
        prefix: format!("10.2.{}.{}/32", n / 200, n % 200 + 1).parse().unwrap(),
        identity: causeway_model::NumericIdentity((2 << 16) + version as u32),
        host_ip: Some("172.20.0.11".parse().unwrap()),
        key_index: 0,
        pod: Some(PodRef { namespace: "ns".into(), name: format!("p{n}") }),
    };
    let (suffix, value) = Entry::Address(entry.clone()).encode();
    (suffix, value, entry)
}

impl World {
    fn new(seed: u64, layout: Layout) -> Self {
        let mut options = Options::agent(info("cls-a", 1));
        options.timing.page = 3;
        let mut world = Self {
            random: Random(seed),
            now: Duration::ZERO,
            store: Store::new(77),
            layout,
            base: BTreeMap::new(),
            desired: BTreeMap::new(),
            reachable: true,
            session: Session::new(ClusterName::new("cls-b").unwrap(), options, seed),
            ids: Ids::new(ClusterId::new(1, MaxClusters::C255).unwrap(), ClusterName::new("cls-a").unwrap()),
            pending: vec![],
            watches: BTreeMap::new(),
            conn: 0,
            last_beat: Duration::ZERO,
            addresses: Collection::new(),
            steady: BTreeSet::new(),
            deleted: BTreeSet::new(),
        };
        world.publish_all();
        world
    }

    fn key(&self, suffix: &str) -> String {
        format!("{}{suffix}", prefix(self.layout, Kind::Ip, &ClusterName::new("cls-b").unwrap()))
    }

    /// Configuration, data, markers: in this order, as the publisher does.
    fn publish_all(&mut self) {
        let b = ClusterName::new("cls-b").unwrap();
        let config = causeway_model::ClusterConfig {
            id: 2,
            synced_canaries: true,
            cached: self.layout == Layout::Cached,
            max_connected_clusters: 255,
            service_exports_enabled: Some(false),
        };
        self.store.put(keys::HEARTBEAT, "t");
        self.store.put(cluster_config(&b), config::encode(&config));
        for (suffix, value) in self.desired.clone() {
            self.store.put(self.key(&suffix), value);
        }
        for kind in Kind::ALL {
            self.store.put(marker(&b, self.layout, kind), "t");
        }
    }

    fn output(&mut self, out: Output<RemoteChange>) {
        for change in out.events {
            if let RemoteChange::Address(event) = change {
                if let Event::Remove(key) = &event {
                    assert!(!self.steady.contains(key), "{key} was published all the time and was withdrawn");
                }
                self.addresses.apply(event);
            }
        }
        for action in out.actions {
            match action {
                Action::Disconnect => {
                    self.pending.clear();
                    self.watches.clear();
                }
                Action::Connect { conn } => {
                    self.pending.clear();
                    self.watches.clear();
                    self.conn = conn;
                    self.pending.push(Action::Connect { conn });
                }
                other => self.pending.push(other),
            }
        }
    }

    fn input(&mut self, body: Body) {
        let input = Input { conn: self.conn, body };
        let out = self.session.handle(self.now, input, &mut self.ids);
        self.output(out);
    }

    /// Answers one waiting request.
    fn answer(&mut self, action: Action) {
        if !self.reachable {
            return self.input(Body::Failed("unreachable".into()));
        }
        let store = self.store.id;
        match action {
            Action::Connect { .. } => self.input(Body::Connected),
            Action::Disconnect => {}
            Action::ReadConfig { key, .. } => {
                let value = self.store.data.get(key.as_bytes()).cloned();
                self.input(Body::Config { store, value });
            }
            Action::List { stream, op, start, end, revision, limit, .. } => {
                self.watches.remove(&stream);
                if revision != 0 && revision < self.store.compacted {
                    return self.input(Body::Lost { stream, op, reason: LostReason::Compacted });
                }
                // Pages at an old revision: undo what happened since.
                let mut data = self.store.data.clone();
                if revision != 0 && revision < self.store.revision {
                    data = self.at(revision);
                }
                let all: Vec<_> =
                    data.range(start..end).map(|(k, v)| (k.clone().into(), v.clone().into())).collect();
                let more = all.len() > limit as usize;
                let entries = all.into_iter().take(limit as usize).collect();
                let revision = self.store.revision;
                self.input(Body::Page { stream, op, store, revision, entries, more });
            }
            Action::Watch { stream, op, start, end, start_revision, .. } => {
                self.watches.insert(stream, Watch { op, start, end, next: start_revision, created: false });
            }
        }
    }

    /// The content at an earlier revision: the history since the last compaction, replayed.
    fn at(&self, revision: i64) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut data = self.base.clone();
        for (_, change) in self.store.history.iter().filter(|(at, _)| *at <= revision) {
            match change {
                super::Change::Put(key, value) => drop(data.insert(key.to_vec(), value.to_vec())),
                super::Change::Delete(key) => drop(data.remove(&key[..])),
            }
        }
        data
    }

    fn poll_watch(&mut self, id: StreamId) {
        let Some(watch) = self.watches.get_mut(&id) else { return };
        let op = watch.op;
        if !self.reachable {
            // Half-open: nothing comes, not even an error.
            return;
        }
        if watch.next <= self.store.compacted {
            self.watches.remove(&id);
            return self.input(Body::Lost { stream: id, op, reason: LostReason::Compacted });
        }
        let inside = |key: &[u8]| watch.start.as_slice() <= key && key < watch.end.as_slice();
        let changes: Vec<_> = self
            .store
            .history
            .iter()
            .filter(|(at, _)| *at >= watch.next)
            .map(|(_, change)| change.clone())
            .filter(|change| match change {
                super::Change::Put(key, _) | super::Change::Delete(key) => inside(key),
            })
            .collect();
        watch.next = self.store.revision + 1;
        let created = std::mem::replace(&mut watch.created, true);
        if created && changes.is_empty() {
            return;
        }
        let (store, revision) = (self.store.id, self.store.revision);
        self.input(Body::Batch { stream: id, op, store, revision, changes });
    }

    fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while self.now < end {
            self.now = self.session.deadline().clamp(self.now, end).max(self.now + Duration::from_millis(10));
            if self.now >= self.last_beat + Duration::from_secs(60) {
                self.last_beat = self.now;
                self.store.put(keys::HEARTBEAT, "t");
            }
            let out = self.session.tick(self.now);
            self.output(out);
        }
    }

    fn deliver(&mut self, count: usize) {
        for _ in 0..count {
            let ids: Vec<_> = self.watches.keys().copied().collect();
            let choice = self.random.next((self.pending.len() + ids.len()).max(1) as u64) as usize;
            if choice < self.pending.len() {
                let action = self.pending.remove(choice);
                self.answer(action);
            } else if let Some(id) = ids.get(choice - self.pending.len()) {
                self.poll_watch(*id);
            }
        }
        self.note_steady();
    }

    fn note_steady(&mut self) {
        for (prefix, _) in self.addresses.iter() {
            if self.desired.contains_key(&keys::address_suffix(prefix)) && !self.deleted.contains(prefix) {
                self.steady.insert(*prefix);
            }
        }
    }

    /// Everything works again and time goes by until nothing more happens.
    fn heal(&mut self) {
        self.reachable = true;
        for _ in 0..60 {
            self.deliver(60);
            self.advance(Duration::from_secs(5));
            self.deliver(60);
        }
        self.deleted.clear();
        let status = self.session.status(|at| format!("{at:?}"));
        assert!(status.ready, "{status:?}");
        let known: BTreeMap<String, IpEntry> =
            self.addresses.iter().map(|(p, e)| (keys::address_suffix(p), e.clone())).collect();
        let mut wanted = BTreeMap::new();
        for (suffix, value) in &self.desired {
            let Ok(Entry::Address(entry)) =
                crate::wire::decode(Kind::Ip, suffix, suffix, value, &info("cls-b", 2))
            else {
                panic!("{suffix}")
            };
            wanted.insert(suffix.clone(), entry);
        }
        assert_eq!(known, wanted);
        assert_eq!(status.num_endpoints, wanted.len());
    }
}

/// Drives a session without a partition until it is quiet.
fn quiet(world: &mut World) {
    world.deliver(200);
    world.advance(Duration::from_secs(1));
    world.deliver(200);
}

fn put_address(world: &mut World, n: u64, version: u64) {
    let (suffix, value, _) = address(n, version);
    world.desired.insert(suffix.clone(), value.clone());
    let key = world.key(&suffix);
    world.store.put(key, value);
}

#[test]
fn sim_data_wait_for_configuration_and_markers() {
    let mut world = World::new(1, Layout::Native);
    put_address(&mut world, 1, 5);
    let b = ClusterName::new("cls-b").unwrap();
    world.store.delete(marker(&b, Layout::Native, Kind::Ip).as_bytes());
    world.advance(Duration::from_secs(1));
    quiet(&mut world);
    let status = world.session.status(|_| String::new());
    assert!(status.connected && !status.ready, "{status:?}");
    assert!(status.synced.nodes && !status.synced.endpoints);
    assert!(status.status.contains("waiting for ip"), "{}", status.status);
    assert!(world.addresses.is_empty() && !world.addresses.is_synced());
    world.store.put(marker(&b, Layout::Native, Kind::Ip), "t");
    quiet(&mut world);
    assert_eq!(world.addresses.len(), 1);
    assert!(world.addresses.is_synced());
}

#[test]
fn sim_a_silent_peer_is_noticed_and_its_state_kept() {
    let mut world = World::new(2, Layout::Cached);
    put_address(&mut world, 1, 5);
    world.advance(Duration::from_secs(1));
    quiet(&mut world);
    assert!(world.session.status(|_| String::new()).ready);
    world.reachable = false;
    world.advance(Duration::from_secs(100));
    assert!(world.session.status(|_| String::new()).connected);
    world.advance(Duration::from_secs(30));
    let status = world.session.status(|at| format!("{}", at.as_secs()));
    assert!(!status.connected && !status.ready);
    assert!(status.last_error.unwrap().contains("no heartbeat for 120 s"));
    assert_eq!((status.num_endpoints, status.num_failures), (1, 1));
    assert_eq!(world.addresses.len(), 1);
    world.heal();
}

#[test]
fn sim_ids_are_checked_and_conflicts_refused() {
    let b = ClusterName::new("cls-b").unwrap();
    let announce = |world: &mut World, id: u32| {
        let value = format!("{{\"id\":{id},\"capabilities\":{{\"syncedCanaries\":true}}}}");
        world.store.put(cluster_config(&b), value);
        world.input(Body::Failed("cut".into()));
        for _ in 0..60 {
            world.advance(Duration::from_secs(1));
            world.deliver(20);
        }
        world.session.status(|_| String::new())
    };
    let mut world = World::new(3, Layout::Native);
    put_address(&mut world, 1, 5);
    world.advance(Duration::from_secs(1));
    quiet(&mut world);
    world
        .ids
        .reserve(ClusterId::new(9, MaxClusters::C255).unwrap(), &ClusterName::new("cls-z").unwrap())
        .unwrap();
    for (id, says) in
        [(0, "between 1 and 255"), (256, "between 1 and 255"), (1, "this cluster's own"), (9, "cls-z")]
    {
        let status = announce(&mut world, id);
        assert!(!status.connected, "{id}");
        assert!(status.last_error.as_ref().unwrap().contains(says), "{id}: {status:?}");
        // Another cluster's id is an id all the same: the peer no longer has the one it had.
        assert_eq!(world.addresses.len(), if id == 9 { 0 } else { 1 }, "{id}: the old state stays");
    }
    // A legal new id drops everything of the old one; the old identities are then out of range.
    world.steady.clear();
    let status = announce(&mut world, 3);
    assert!(status.connected && status.config.cluster_id == 3);
    assert_eq!(world.addresses.len(), 0);
    assert_eq!(status.rejected.of(crate::wire::Reason::ForeignIdentity), 1);
    assert!(status.rejected.last_reasons[0].contains("range of cluster cls-b"), "{:?}", status.rejected);
    // The old id is free again, and closing frees the new one.
    let two = ClusterId::new(2, MaxClusters::C255).unwrap();
    world.ids.reserve(two, &ClusterName::new("cls-y").unwrap()).unwrap();
    let out = world.session.close(&mut world.ids);
    assert_eq!(out.events, [RemoteChange::Removed]);
    let three = ClusterId::new(3, MaxClusters::C255).unwrap();
    world.ids.reserve(three, &ClusterName::new("cls-x").unwrap()).unwrap();
}

#[test]
fn sim_two_stores_on_one_connection_are_not_mixed() {
    let mut world = World::new(4, Layout::Native);
    world.advance(Duration::from_secs(1));
    quiet(&mut world);
    world.store.id += 1;
    put_address(&mut world, 1, 5);
    world.deliver(50);
    let status = world.session.status(|_| String::new());
    assert!(!status.connected);
    assert!(status.last_error.unwrap().contains("two stores"));
    world.heal();
    world.store.id = 0;
    put_address(&mut world, 2, 5);
    world.deliver(50);
    assert!(world.session.status(|_| String::new()).last_error.unwrap().contains("without header"));
}

#[test]
fn sim_bad_values_leave_the_old_one_in_force() {
    let mut world = World::new(5, Layout::Native);
    put_address(&mut world, 1, 5);
    world.advance(Duration::from_secs(1));
    quiet(&mut world);
    let (suffix, good, entry) = address(1, 5);
    let good = String::from_utf8(good).unwrap();
    let foreign = good.replace(&entry.identity.0.to_string(), "70000");
    let other_ip = good.replace(&suffix, "10.2.0.99");
    let oversized = format!("{good}{}", " ".repeat(crate::wire::MAX_VALUE));
    for (bad, says) in [
        ("{".to_owned(), "not valid JSON"),
        (foreign, "70000"),
        (other_ip, "not the address in the key"),
        (oversized, "bytes long"),
    ] {
        let key = world.key(&suffix);
        world.store.put(key, bad);
        quiet(&mut world);
        let status = world.session.status(|_| String::new());
        assert!(
            status.ready && status.rejected.last_reasons[0].contains(says),
            "{says}: {:?}",
            status.rejected
        );
        assert_eq!(world.addresses.get(&entry.prefix), Some(&entry));
    }
    // Also over a complete relist.
    world.input(Body::Failed("cut".into()));
    world.advance(Duration::from_secs(5));
    quiet(&mut world);
    assert_eq!(world.addresses.get(&entry.prefix), Some(&entry));
    // A key that is no address at all.
    let key = world.key("10.2.0.1/33");
    world.store.put(key, good);
    quiet(&mut world);
    assert_eq!(world.addresses.len(), 1);
}
