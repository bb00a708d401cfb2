//! Remote clusters, the cache in one store, and a reader of that store, in virtual time and without
//! sockets: partitions, restarts, compactions, changed ids, removed and returning clusters. The reader is a second
//! cache, so that every byte it was given can be compared.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use causeway_kvstore::{KeyRange, StoreOptions, pb};
use causeway_model::{ClusterId, MaxClusters};

mod network;

use super::*;
use crate::keys::{self, Layout};
use crate::remote::{Body, SessionOf};
use crate::wire::config;
use network::{Hop, Link, Source};

const GRACE: Duration = Duration::from_secs(180);

fn name(text: &str) -> ClusterName {
    ClusterName::new(text).unwrap()
}

fn local() -> ClusterInfo {
    let max_clusters = MaxClusters::C255;
    ClusterInfo { name: name("cls-z"), id: ClusterId::new(9, max_clusters).unwrap(), max_clusters }
}

fn put(store: &Store, key: impl Into<Bytes>, value: impl Into<Bytes>) {
    let request = pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() };
    store.put(request).unwrap();
}

fn below(store: &Store, prefix: &str) -> BTreeMap<String, Bytes> {
    let range = KeyRange::prefix(prefix.to_owned());
    let kvs = store.range(&(&range).into()).unwrap().kvs;
    kvs.into_iter().map(|kv| (String::from_utf8(kv.key.to_vec()).unwrap(), kv.value)).collect()
}

/// Small, seeded, good enough.
struct Random(u64);

impl Random {
    fn next(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

struct World {
    random: Random,
    now: Duration,
    sources: BTreeMap<ClusterName, Source>,
    configured: BTreeSet<ClusterName>,
    /// From the sources to the cache's store, and from there to the reader's.
    hops: [Hop; 2],
    /// Keys of the reader that were published at every moment since it first had them.
    steady: BTreeSet<String>,
    /// Keys deleted since the last heal: their removal may still be on its way.
    deleted: BTreeSet<String>,
    next_beat: Duration,
}

const OWN: &str = "cilium/state/ip/v1/default/10.9.0.1";

impl World {
    fn new(seed: u64) -> Self {
        let hops = [(); 2].map(|()| Hop::new(Store::new(StoreOptions::default())));
        let mut world = Self {
            random: Random(seed),
            now: Duration::ZERO,
            sources: [("cls-a", 1), ("cls-b", 2), ("cls-a-b", 3)]
                .map(|(n, id)| (name(n), Source::new(id)))
                .into(),
            configured: BTreeSet::new(),
            hops,
            steady: BTreeSet::new(),
            deleted: BTreeSet::new(),
            next_beat: Duration::ZERO,
        };
        put(&world.hops[0].store, OWN, "own");
        for cluster in world.clusters() {
            world.sources[&cluster].publish_all(&cluster);
            world.configure(&cluster, true);
        }
        world
    }

    fn clusters(&self) -> Vec<ClusterName> {
        self.sources.keys().cloned().collect()
    }

    fn configure(&mut self, cluster: &ClusterName, wanted: bool) {
        if wanted == self.configured.contains(cluster) {
            return;
        }
        if wanted {
            self.configured.insert(cluster.clone());
            for hop in 0..2 {
                let link = Link::new(cluster, self.random.next(u64::MAX >> 1));
                self.hops[hop].links.insert(cluster.clone(), link);
            }
        } else {
            self.configured.remove(cluster);
            self.unsettle(cluster);
            self.hops.iter_mut().for_each(|hop| hop.close(self.now, cluster));
        }
    }

    /// Nothing of the cluster is sure to stay.
    fn unsettle(&mut self, cluster: &ClusterName) {
        for kind in Kind::ALL {
            let prefix = keys::prefix(Layout::Cached, kind, cluster);
            self.steady.retain(|key| !key.starts_with(&prefix));
            let keys = self.sources[cluster].desired.keys().filter(|(of, _)| *of == kind);
            self.deleted.extend(keys.map(|(_, suffix)| format!("{prefix}{suffix}")));
            self.deleted.extend(below(&self.hops[1].store, &prefix).into_keys());
        }
    }

    fn deliver(&mut self, count: usize) {
        for _ in 0..count {
            let hop = self.random.next(2) as usize;
            let clusters = self.clusters();
            let cluster = &clusters[self.random.next(clusters.len() as u64) as usize];
            let from =
                if hop == 0 { self.sources[cluster].store.clone() } else { self.hops[0].store.clone() };
            let choice = self.random.next(1 << 20) as usize;
            self.hops[hop].deliver(self.now, cluster, &from, choice);
        }
        self.check_steady();
    }

    fn check_steady(&mut self) {
        let held = below(&self.hops[1].store, "cilium/cache/");
        for key in &self.steady {
            assert!(held.contains_key(key), "{key} was published all the time and was withdrawn");
        }
        let configs = below(&self.hops[1].store, "cilium/cluster-config/");
        for cluster in &self.configured {
            // A reader drops everything when it finds another id.
            let announced = configs.get(&keys::cluster_config(cluster));
            let id = announced.map(|value| config::decode(cluster, value).unwrap().id);
            if id != Some(self.sources[cluster].id) {
                continue;
            }
            for (kind, suffix) in self.sources[cluster].desired.keys() {
                let key = keys::prefix(Layout::Cached, *kind, cluster) + suffix;
                if held.contains_key(&key) && !self.deleted.contains(&key) {
                    self.steady.insert(key);
                }
            }
        }
    }

    fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while self.now < end {
            self.now += Duration::from_secs(1).min(end - self.now);
            if self.now >= self.next_beat {
                self.next_beat = self.now + Duration::from_secs(60);
                self.sources.values().for_each(|source| put(&source.store, keys::HEARTBEAT, "t"));
                self.hops[0].beat();
            }
            self.hops.iter_mut().for_each(|hop| hop.tick(self.now));
        }
    }

    fn step(&mut self) {
        let clusters = self.clusters();
        let cluster = clusters[self.random.next(clusters.len() as u64) as usize].clone();
        match self.random.next(100) {
            0..=34 => self.publish(&cluster),
            35..=39 => {
                let hop = self.random.next(2) as usize;
                if let Some(link) = self.hops[hop].links.get_mut(&cluster) {
                    link.up = !link.up;
                }
            }
            40..=41 => self.restart_source(&cluster),
            42 => self.restart_cache(),
            43..=44 => {
                let wanted = !self.configured.contains(&cluster);
                self.configure(&cluster, wanted);
            }
            45..=47 => {
                for store in [&self.sources[&cluster].store, &self.hops[0].store] {
                    // Compacting twice at one revision is refused, and changes nothing.
                    let _ = store.compact(store.revision());
                }
            }
            48..=55 => {
                let seconds = 1 + self.random.next(70);
                self.advance(Duration::from_secs(seconds));
            }
            _ => self.deliver(2),
        }
    }

    fn publish(&mut self, cluster: &ClusterName) {
        let kind = Kind::ALL[self.random.next(5) as usize];
        let n = self.random.next(7);
        let suffix = match kind {
            Kind::Nodes => format!("node-{n}"),
            Kind::Services | Kind::ServiceExports => format!("shop/s{n}"),
            Kind::Identities => format!("{}", 70_000 + n),
            Kind::Ip => format!("10.2.0.{n}"),
        };
        let remove = self.random.next(4) == 0;
        let value = Bytes::from(format!("value {}", self.random.next(50)));
        let source = self.sources.get_mut(cluster).unwrap();
        let key = keys::prefix(Layout::Native, kind, cluster) + &suffix;
        if remove {
            let cached = keys::prefix(Layout::Cached, kind, cluster) + &suffix;
            self.steady.remove(&cached);
            self.deleted.insert(cached);
            source.desired.remove(&(kind, suffix));
            source
                .store
                .delete_range(&pb::DeleteRangeRequest { key: key.into(), ..Default::default() })
                .unwrap();
        } else {
            source.desired.insert((kind, suffix), value.clone());
            put(&source.store, key, value);
        }
    }

    /// The publisher comes back with an empty store, now and then under another id.
    fn restart_source(&mut self, cluster: &ClusterName) {
        if self.random.next(3) == 0 {
            self.unsettle(cluster);
            let source = self.sources.get_mut(cluster).unwrap();
            source.id = if source.id < 100 { source.id + 100 } else { source.id - 100 };
        }
        let source = self.sources.get_mut(cluster).unwrap();
        source.store = Store::new(StoreOptions::default());
        let announced = self.random.next(2) == 0;
        if announced {
            self.sources[cluster].announce(cluster);
        }
        if let Some(link) = self.hops[0].links.get_mut(cluster) {
            link.cut();
            let changes = link.input(self.now, &mut self.hops[0].ids, Body::Failed("reset".into()));
            self.hops[0].take(self.now, cluster, changes);
        }
        if announced {
            // Readers look while it is still filling: nothing may be withdrawn.
            self.deliver(20);
            self.advance(Duration::from_secs(3));
            self.deliver(20);
        }
        self.sources[cluster].publish_all(cluster);
    }

    /// The cache comes back, with its store as it was or with an empty one.
    fn restart_cache(&mut self) {
        let kept = self.random.next(2) == 0;
        let store = if kept { self.hops[0].store.clone() } else { Store::new(StoreOptions::default()) };
        put(&store, OWN, "own");
        self.hops[0] = Hop::new(store);
        self.hops[0].mirror.drain_others(self.now, &self.configured);
        self.hops[0].beat();
        for cluster in self.configured.clone() {
            let seed = self.random.next(u64::MAX >> 1);
            self.hops[0].links.insert(cluster.clone(), Link::new(&cluster, seed));
            if let Some(link) = self.hops[1].links.get_mut(&cluster).filter(|_| !kept) {
                link.cut();
                let changes = link.input(self.now, &mut self.hops[1].ids, Body::Failed("reset".into()));
                self.hops[1].take(self.now, &cluster, changes);
            }
        }
    }

    /// Everything works again and time goes by until nothing more happens.
    fn heal(&mut self) {
        for hop in &mut self.hops {
            hop.links.values_mut().for_each(|link| link.up = true);
        }
        for _ in 0..90 {
            self.deliver(200);
            self.advance(Duration::from_secs(5));
        }
        self.deliver(400);
        self.deleted.clear();
        let mut want = BTreeMap::new();
        for cluster in &self.configured {
            let source = &self.sources[cluster];
            for ((kind, suffix), value) in &source.desired {
                want.insert(keys::prefix(Layout::Cached, *kind, cluster) + suffix, value.clone());
            }
        }
        for (at, hop) in self.hops.iter().enumerate() {
            assert_eq!(below(&hop.store, "cilium/cache/"), want, "hop {at}");
            let markers: BTreeSet<String> = below(&hop.store, "cilium/synced/").into_keys().collect();
            let all =
                self.configured.iter().flat_map(|c| Kind::ALL.map(|k| keys::marker(c, Layout::Cached, k)));
            assert_eq!(markers, all.collect(), "hop {at}");
            let configs = below(&hop.store, "cilium/cluster-config/");
            assert_eq!(configs.len(), self.configured.len(), "hop {at}");
            for cluster in &self.configured {
                let announced = config::decode(cluster, &configs[&keys::cluster_config(cluster)]).unwrap();
                // Also of one whose id changed behind a cache that stayed.
                let id = self.sources[cluster].id;
                assert_eq!((announced.id, announced.cached, announced.synced_canaries), (id, true, true));
                let status = hop.mirror.copy(cluster).unwrap();
                let mine = want.iter().filter(|(key, _)| {
                    Kind::ALL
                        .iter()
                        .any(|kind| key.starts_with(&keys::prefix(Layout::Cached, *kind, cluster)))
                });
                let bytes: usize = mine.map(|(key, value)| key.len() + value.len()).sum();
                assert_eq!((status.bytes, status.synced), (bytes as i64, [true; 5]), "hop {at} {cluster}");
            }
        }
        assert_eq!(below(&self.hops[0].store, "cilium/state/").into_keys().collect::<Vec<_>>(), [OWN]);
    }
}

#[test]
fn sim_random_schedules_converge() {
    let count = std::env::var("SIM_SCHEDULES").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    for seed in 1..=count {
        let outcome = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..3 {
                for _ in 0..150 {
                    world.step();
                }
                world.heal();
            }
        });
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

/// How often it connected although no connection had failed.
fn unprovoked(session: &SessionOf<Copied>) -> u64 {
    session.conn() - session.status(|_| String::new()).num_failures
}

/// The reader keeps its connection to the cache while the cluster behind it changes its id.
#[test]
fn sim_another_id_behind_a_cache_is_noticed_at_once() {
    let mut world = World::new(1);
    let cluster = name("cls-b");
    world
        .sources
        .get_mut(&cluster)
        .unwrap()
        .desired
        .insert((Kind::Ip, "10.2.0.1".into()), "an address".into());
    world.sources[&cluster].publish_all(&cluster);
    world.heal();
    // Connections that are not explained by a failure of the one before.
    let conn = |world: &World| unprovoked(&world.hops[1].links[&cluster].session);
    let before = conn(&world);
    world.unsettle(&cluster);
    world.sources.get_mut(&cluster).unwrap().id = 202;
    world.sources[&cluster].announce(&cluster);
    let announced = |world: &World| {
        let configs = below(&world.hops[1].store, "cilium/cluster-config/");
        config::decode(&cluster, &configs[&keys::cluster_config(&cluster)]).unwrap().id
    };
    assert_eq!(announced(&world), 2);
    // No time passes: neither a heartbeat that is missing nor a new attempt tells of it.
    for _ in 0..100 {
        world.deliver(20);
    }
    assert_eq!((announced(&world), conn(&world)), (202, before + 1));
    world.heal();
    assert_eq!(conn(&world), before + 1, "one change, one connection");
    // The same announcement once more changes nothing.
    world.sources[&cluster].announce(&cluster);
    world.heal();
    assert_eq!(conn(&world), before + 1);
}

/// A peer that changes its mind all the time is asked about once in five seconds.
#[test]
fn sim_a_configuration_that_flaps_costs_little() {
    let mut world = World::new(1);
    let cluster = name("cls-b");
    world.heal();
    let conn = |world: &World| unprovoked(&world.hops[0].links[&cluster].session);
    let before = conn(&world);
    for second in 0..60 {
        world.unsettle(&cluster);
        world.sources.get_mut(&cluster).unwrap().id = 202 + second % 2;
        world.sources[&cluster].announce(&cluster);
        world.deliver(200);
        world.advance(Duration::from_secs(1));
    }
    let connections = conn(&world) - before;
    assert!((5..=13).contains(&connections), "{connections} connections in a minute");
    world.heal();
}

#[test]
fn interop_caching_the_recorded_store_gives_the_recorded_cache() {
    let text = include_str!("../../../tests/interop/kvstore-recorded.json");
    let all: serde_json::Value = serde_json::from_str(text).unwrap();
    let recorded = |store: &str| -> BTreeMap<String, Bytes> {
        let entry = |e: &serde_json::Value| {
            let text = |field: &str| e[field].as_str().unwrap().to_owned();
            (text("key"), text("value").into())
        };
        all[store].as_array().unwrap().iter().map(entry).collect()
    };
    let source = Store::new(StoreOptions::default());
    for (key, value) in recorded("published-by-cls-a") {
        put(&source, key, value);
    }
    let peer = name("cls-a");
    let mut cache = Hop::new(Store::new(StoreOptions::default()));
    cache.links.insert(peer.clone(), Link::new(&peer, 1));
    for second in 0..20 {
        cache.tick(Duration::from_secs(second));
        for choice in 0..20 {
            cache.deliver(Duration::from_secs(second), &peer, &source, choice);
        }
    }
    let (got, want) = (below(&cache.store, "cilium/"), recorded("cached-by-cls-b"));
    let want: BTreeMap<_, _> = want.into_iter().filter(|(key, _)| key != keys::HEARTBEAT).collect();
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    for (key, value) in want.into_iter().filter(|(key, _)| !key.starts_with("cilium/synced/")) {
        assert_eq!(got[&key], value, "{key}");
    }
}
