//! Clusters that read each other, and what happens to them.

use std::time::Duration;

use causeway_mesh::keys::Kind;
use causeway_mesh::remote::{Ids, Limits, Options};
use causeway_mesh::wire::Reason;
use causeway_model::{ClusterConfig, ClusterId, ClusterInfo, ClusterName, MaxClusters};

use crate::cluster::Cluster;
use crate::content;
use crate::link::{Link, Net};
use crate::random::Random;

/// Entries of a kind that may exist at once.
const NUMBERS: usize = 5;
/// How long everything may take to be known everywhere once nothing is broken any more.
const PATIENCE: Duration = Duration::from_secs(1800);

/// What a schedule made happen; the sum over all schedules must not lack anything.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    pub(crate) failures: u64,
    pub(crate) revocations: u64,
    pub(crate) reads: u64,
    pub(crate) rejected: std::collections::BTreeMap<Reason, u64>,
}

impl Seen {
    pub(crate) fn add(&mut self, other: &Seen) {
        self.failures += other.failures;
        self.revocations += other.revocations;
        self.reads += other.reads;
        for (reason, count) in &other.rejected {
            *self.rejected.entry(*reason).or_default() += count;
        }
    }
}

pub(crate) struct World {
    random: Random,
    now: Duration,
    step: u64,
    max: MaxClusters,
    kinds: Vec<Kind>,
    /// Entries of a kind that readers accept.
    limit: usize,
    message: usize,
    clusters: Vec<Cluster>,
    ids: Vec<Ids>,
    options: Vec<Options>,
    /// `links[reader][remote]`; none to itself.
    links: Vec<Vec<Option<Link>>>,
    seen: Seen,
}

impl World {
    pub(crate) fn new(seed: u64, count: usize) -> Self {
        let mut random = Random(seed);
        let max = if random.one_in(4) { MaxClusters::C511 } else { MaxClusters::C255 };
        let mut kinds = Kind::ALL.to_vec();
        while kinds.len() > 2 {
            kinds.remove(random.below(kinds.len()));
        }
        let limit = if random.one_in(4) { 3 } else { 100 };
        let message = if random.one_in(4) { 1500 } else { usize::MAX };
        let ttl = if random.one_in(3) { Duration::from_secs(300) } else { Duration::ZERO };
        let clusters: Vec<Cluster> = (0..count)
            .map(|index| {
                let name = ClusterName::new(format!("cls-{index}")).unwrap();
                let info = ClusterInfo {
                    name,
                    id: ClusterId::new(index as u32 + 1, max).unwrap(),
                    max_clusters: max,
                };
                let config = ClusterConfig {
                    id: info.id.get(),
                    synced_canaries: !random.one_in(6),
                    cached: random.one_in(3),
                    max_connected_clusters: max.max_id(),
                    service_exports_enabled: (!random.one_in(4)).then_some(true),
                };
                Cluster::new(info, index, config)
            })
            .collect();
        let options: Vec<Options> = clusters
            .iter()
            .map(|cluster| {
                let mut options = Options::agent(cluster.info.clone());
                options.kinds.clone_from(&kinds);
                options.timing.page = 2;
                options.cache_ttl = ttl;
                let (nodes, services, identities, addresses) = (limit, limit, limit, limit);
                let (service_exports, bytes) = (limit, 1 << 20);
                options.limits = Limits { nodes, services, service_exports, identities, addresses, bytes };
                options
            })
            .collect();
        let mut world = Self {
            random,
            now: Duration::ZERO,
            step: 1,
            max,
            kinds,
            limit,
            message,
            ids: vec![],
            links: (0..count).map(|_| vec![]).collect(),
            clusters,
            options,
            seen: Seen::default(),
        };
        for reader in 0..count {
            let own = &world.clusters[reader].info;
            world.ids.push(Ids::new(own.id, own.name.clone()));
            world.start_reader(reader);
        }
        for index in 0..count {
            for _ in 0..4 {
                world.change(index);
            }
            world.clusters[index].publish(usize::MAX, 0);
        }
        world
    }

    fn new_link(&mut self, reader: usize, remote: usize) -> Link {
        let seed = self.random.next();
        Link::new(&self.clusters[remote].info.name, self.options[reader].clone(), self.message, seed)
    }

    /// A reader's process begins: it knows nothing.
    fn start_reader(&mut self, reader: usize) {
        let own = &self.clusters[reader].info;
        self.ids[reader] = Ids::new(own.id, own.name.clone());
        let links: Vec<Option<Link>> = (0..self.clusters.len())
            .map(|remote| (remote != reader).then(|| self.new_link(reader, remote)))
            .collect();
        let before = std::mem::replace(&mut self.links[reader], links);
        for (remote, old) in before.into_iter().enumerate() {
            if let (Some(old), Some(new)) = (old, &mut self.links[reader][remote]) {
                new.net = old.net;
                self.count(old);
            }
        }
    }

    fn count(&mut self, link: Link) {
        let status = link.session.status(|_| String::new());
        let rejected = status.rejected.by_reason;
        let (failures, revocations) = (status.num_failures, status.num_cache_revocations);
        self.seen.add(&Seen { failures, revocations, reads: link.reads, rejected });
    }

    /// A random change of what a cluster publishes.
    fn change(&mut self, index: usize) {
        let (kind, n) = (self.kinds[self.random.below(self.kinds.len())], self.random.below(NUMBERS));
        let version = (!self.random.one_in(4)).then(|| 1 + self.random.below(300) as u32);
        self.clusters[index].want(kind, n, version);
    }

    fn any_link(&mut self) -> (usize, usize) {
        let count = self.clusters.len();
        let reader = self.random.below(count);
        (reader, (reader + 1 + self.random.below(count - 1)) % count)
    }

    fn with_link(
        &mut self,
        pair: (usize, usize),
        act: impl FnOnce(&mut Link, Duration, &Cluster, &mut Ids, u64),
    ) {
        let (reader, remote) = pair;
        let link = self.links[reader][remote].as_mut().expect("no cluster reads itself");
        act(link, self.now, &self.clusters[remote], &mut self.ids[reader], self.step);
    }

    /// Something happens.
    pub(crate) fn act(&mut self) {
        self.step += 1;
        let step = self.step;
        let index = self.random.below(self.clusters.len());
        match self.random.below(100) {
            0..=24 => self.change(index),
            25..=31 => self.throw_garbage(index),
            32..=41 => {
                let pair = self.any_link();
                let net = [Net::Up, Net::Cut, Net::Stalled, Net::Refused][self.random.below(4)];
                self.with_link(pair, |link, _, _, _, _| link.set_net(net));
            }
            42..=44 => self.clusters[index].publishing = !self.clusters[index].publishing,
            45..=47 => self.clusters[index].replace_store(step),
            48..=49 => {
                let back = 1 + self.random.below(6) as i64;
                self.clusters[index].restore(step, back);
            }
            50..=54 => self.clusters[index].store.compact(),
            55..=57 => {
                let pair = self.any_link();
                self.with_link(pair, |link, now, peer, _, step| link.reconfigure(now, peer, step));
            }
            58..=59 => {
                let (pair, seed) = (self.any_link(), self.random.next());
                self.with_link(pair, |link, _, peer, ids, step| link.remove(ids, peer, step, seed));
            }
            60 => self.start_reader(index),
            61..=62 => self.change_config(index),
            63 => self.change_id(index),
            64..=65 => {
                let (pair, skew) = (self.any_link(), Duration::from_secs(self.random.below(400) as u64));
                self.with_link(pair, |link, _, _, _, _| link.skew += skew);
            }
            66..=79 => {
                let longest = [1, 5, 60, 200, 1200][self.random.below(5)];
                let by = self.random.below(longest * 1000) as u64;
                self.advance(self.now + Duration::from_millis(by));
            }
            _ => self.clusters[index].publish(3, step),
        }
        let count = self.random.below(6 * self.clusters.len());
        self.network(count);
    }

    fn throw_garbage(&mut self, index: usize) {
        let other = (index + 1) % self.clusters.len();
        let (kind, n) = (self.kinds[self.random.below(self.kinds.len())], self.random.below(NUMBERS));
        let huge = if self.message == usize::MAX { 100 } else { self.message + 1 };
        let (cluster, sort) = (&self.clusters[index], self.random.below(content::GARBAGE));
        let (from, foreign) = (&cluster.info, &self.clusters[other].info);
        let (suffix, value) = content::garbage(sort, from, foreign, index, kind, n, huge);
        let key = [cluster.prefix(kind), suffix].concat();
        self.clusters[index].put_garbage(key, value);
    }

    fn change_config(&mut self, index: usize) {
        let which = self.random.below(3);
        self.clusters[index].set_config(self.step, |config| match which {
            0 => config.synced_canaries = !config.synced_canaries,
            1 => config.cached = !config.cached,
            _ => {
                let before = config.service_exports_enabled;
                config.service_exports_enabled = if before.is_some() { None } else { Some(false) };
            }
        });
    }

    /// Sometimes a free id, sometimes another cluster's.
    fn change_id(&mut self, index: usize) {
        let number = 1 + self.random.below(self.clusters.len() + 3);
        self.set_id(index, number as u32);
    }

    /// A cluster with another id is installed anew: its own readers too.
    fn set_id(&mut self, index: usize, id: u32) {
        let id = ClusterId::new(id, self.max).unwrap();
        self.clusters[index].change_id(id, self.step);
        self.options[index].local.id = id;
        self.start_reader(index);
    }

    /// A few steps of the network.
    fn network(&mut self, count: usize) {
        for _ in 0..count {
            let pair = self.any_link();
            let mut random = Random(self.random.next());
            self.with_link(pair, |link, now, peer, ids, step| {
                link.step(now, &mut random, peer, ids, step);
            });
        }
    }

    fn next_deadline(&self) -> Duration {
        let links = self.links.iter().flatten().flatten().map(Link::deadline);
        let clusters = self.clusters.iter().map(Cluster::deadline);
        links.chain(clusters).fold(Duration::MAX, Duration::min)
    }

    /// Timers may fire late, as on a busy machine: a long wait is made in few steps.
    fn advance(&mut self, until: Duration) {
        let least = Duration::from_millis(10).max((until - self.now) / 32);
        while self.now < until {
            self.now = self.next_deadline().max(self.now + least).min(until);
            self.tick();
        }
    }

    fn tick(&mut self) {
        self.step += 1;
        for cluster in &mut self.clusters {
            if cluster.deadline() <= self.now {
                cluster.tick(self.now, self.step);
            }
        }
        for links in &mut self.links {
            for (remote, link) in links.iter_mut().enumerate() {
                if let Some(link) = link.as_mut().filter(|link| link.deadline() <= self.now) {
                    link.tick(self.now, &self.clusters[remote], self.step);
                }
            }
        }
    }

    /// Nothing is broken any more.
    fn repair(&mut self) {
        // Giving one its first id back may make another one a double.
        while let Some(index) = (0..self.clusters.len()).find(|index| self.is_double(*index)) {
            self.set_id(index, index as u32 + 1);
        }
        for cluster in &mut self.clusters {
            cluster.publishing = true;
            cluster.clean();
            for kind in &self.kinds {
                let there: Vec<usize> =
                    (0..NUMBERS).filter(|n| cluster.desired.contains_key(&(*kind, *n))).collect();
                for n in there.into_iter().skip(self.limit) {
                    cluster.want(*kind, n, None);
                }
            }
        }
        for link in self.links.iter_mut().flatten().flatten() {
            link.set_net(Net::Up);
        }
    }

    /// Another cluster has its id, which is not its first one.
    fn is_double(&self, index: usize) -> bool {
        let id = self.clusters[index].info.id;
        let holders = self.clusters.iter().filter(|cluster| cluster.info.id == id).count();
        holders > 1 && id.get() as usize != index + 1
    }

    /// Repairs everything, and lets time pass until every reader knows exactly what is published.
    pub(crate) fn heal(&mut self) {
        self.repair();
        let end = self.now + PATIENCE;
        loop {
            self.settle();
            let wrong = self.first_difference();
            let Some(wrong) = wrong else { return };
            assert!(self.now < end, "after {PATIENCE:?} of peace: {wrong}");
            self.now = self.next_deadline().max(self.now + Duration::from_millis(500));
            self.tick();
        }
    }

    /// Everything that is on its way arrives.
    fn settle(&mut self) {
        for cluster in &mut self.clusters {
            self.step += 1;
            cluster.publish(usize::MAX, self.step);
            assert!(cluster.is_idle());
        }
        let (now, step) = (self.now, self.step);
        for (reader, links) in self.links.iter_mut().enumerate() {
            for (remote, link) in links.iter_mut().enumerate() {
                let Some(link) = link else { continue };
                let (peer, ids) = (&self.clusters[remote], &mut self.ids[reader]);
                while link.step(now, &mut self.random, peer, ids, step) {}
                assert!(link.is_idle());
            }
        }
    }

    fn first_difference(&self) -> Option<String> {
        let published: Vec<_> = self.clusters.iter().map(|cluster| cluster.published(&self.kinds)).collect();
        for (reader, links) in self.links.iter().enumerate() {
            for (remote, link) in links.iter().enumerate() {
                let Some(link) = link else { continue };
                let status = link.session.status(|at| format!("{at:?}"));
                let pair = || format!("{reader} reads {remote}");
                if !status.ready {
                    return Some(format!("{}: {status:?}", pair()));
                }
                if link.view.entries != published[remote] {
                    let (is, wanted) = (&link.view.entries, &published[remote]);
                    return Some(format!("{}: knows {is:#?}, not {wanted:#?}; {status:?}", pair()));
                }
                let known = status.num_nodes
                    + status.num_endpoints
                    + status.num_identities
                    + status.num_shared_services
                    + status.num_service_exports;
                assert_eq!(known, link.view.entries.len(), "{}", pair());
                assert_eq!(status.num_bytes == 0, known == 0, "{}", pair());
            }
        }
        None
    }

    pub(crate) fn finish(mut self) -> Seen {
        for link in std::mem::take(&mut self.links).into_iter().flatten().flatten() {
            self.count(link);
        }
        self.seen
    }
}
