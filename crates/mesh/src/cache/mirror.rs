//! What the store is to hold of the remote clusters. Decisions only; the store is in memory, and the time
//! is told.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use causeway_kvstore::{Error, KeyRange, Pair, Store, WriteOp, pb};
use causeway_model::{ClusterConfig, ClusterName};
use tracing::{info, warn};

use super::Change;
use crate::keys::{self, Kind, Layout};
use crate::remote::RemoteStatus;
use crate::wire::{Reason, config, timestamp};

/// Most writes of one revision: readers get them in one message.
pub const MAX_BATCH: usize = 256;

/// What the store holds of one cluster. Arrays are in the order of [`Kind::ALL`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyStatus {
    /// Keys.
    pub keys: [usize; 5],
    /// Bytes of keys and values.
    pub bytes: i64,
    /// Whose marker is written.
    pub synced: [bool; 5],
    /// Values refused because the cluster has too many bytes already.
    pub refused: u64,
}

impl CopyStatus {
    /// Puts what is in the store in the place of what the session knows.
    pub(super) fn show(&self, status: &mut RemoteStatus) {
        let count = |kind: Kind| self.keys[kind as usize];
        let synced = |kind: Kind| self.synced[kind as usize];
        status.num_nodes = count(Kind::Nodes);
        status.num_endpoints = count(Kind::Ip);
        status.num_identities = count(Kind::Identities);
        status.num_shared_services = count(Kind::Services);
        status.num_service_exports = count(Kind::ServiceExports);
        status.synced.nodes = synced(Kind::Nodes);
        status.synced.endpoints = synced(Kind::Ip);
        status.synced.identities = synced(Kind::Identities);
        status.synced.services = synced(Kind::Services);
        status.synced.service_exports = status.synced.service_exports.map(|_| synced(Kind::ServiceExports));
        status.num_bytes = self.bytes.unsigned_abs();
        if self.refused > 0 {
            status.rejected.count += self.refused;
            *status.rejected.by_reason.entry(Reason::OverBudget).or_default() += self.refused;
        }
        if status.ready && !self.synced.contains(&false) {
            return;
        }
        if status.ready {
            status.status = "connected; writing what was read".to_owned();
        }
        status.ready = false;
    }
}

#[derive(Debug, Default)]
struct Copy {
    status: CopyStatus,
    /// Keys in the store that the listing under way has not named yet.
    unseen: BTreeMap<Kind, HashSet<Bytes>>,
}

/// Writes that belong to one kind of one cluster, or to none.
#[derive(Debug)]
struct Batch {
    of: Option<(ClusterName, Kind)>,
    ops: Vec<WriteOp>,
}

/// Writes of one kind of one cluster, of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// The cluster.
    pub cluster: ClusterName,
    /// The kind.
    pub kind: Kind,
    /// Keys to be put.
    pub puts: usize,
    /// Keys to be deleted.
    pub deletes: usize,
}

/// Writes of one kind that are being gathered.
#[derive(Debug)]
struct Open {
    kind: Kind,
    ops: Vec<WriteOp>,
    /// Most bytes they add.
    bytes: i64,
}

impl Open {
    fn new(kind: Kind) -> Self {
        Self { kind, ops: vec![], bytes: 0 }
    }
}

/// The cached content of a store. What it decides is queued, and [`Mirror::write`] carries it out; between
/// the two no other change may be applied.
#[derive(Debug)]
pub struct Mirror {
    store: Store,
    own: ClusterName,
    grace: Duration,
    max_cluster_bytes: i64,
    copies: BTreeMap<ClusterName, Copy>,
    /// Clusters that are no longer configured, and when their content goes.
    draining: BTreeMap<ClusterName, Duration>,
    queue: VecDeque<Batch>,
}

impl Mirror {
    /// A mirror in the store of cluster `own`. `grace`: how long content outlives its cluster's
    /// configuration. `max_cluster_bytes`: most bytes of keys and values of one cluster.
    pub fn new(store: Store, own: ClusterName, grace: Duration, max_cluster_bytes: i64) -> Self {
        Self {
            store,
            own,
            grace,
            max_cluster_bytes,
            copies: BTreeMap::new(),
            draining: BTreeMap::new(),
            queue: VecDeque::new(),
        }
    }

    /// What the store holds of a cluster; `None` if it is not configured or never was reached.
    pub fn copy(&self, cluster: &ClusterName) -> Option<&CopyStatus> {
        self.copies.get(cluster).map(|copy| &copy.status)
    }

    /// What an earlier process left of clusters that are not `configured` goes as if they had been
    /// removed now.
    pub fn drain_others(&mut self, now: Duration, configured: &BTreeSet<ClusterName>) {
        for cluster in self.cached_clusters() {
            if cluster != self.own && !configured.contains(&cluster) {
                self.removed(now, &cluster);
            }
        }
    }

    /// Changes of one cluster, in their order.
    pub fn apply(&mut self, now: Duration, cluster: &ClusterName, changes: Vec<Change>) {
        if *cluster == self.own {
            return;
        }
        let mut open: Option<Open> = None;
        for change in changes {
            let kind = match &change {
                Change::Put(kind, ..) | Change::Gone(kind, _) => Some(*kind),
                _ => None,
            };
            if let Some(full) = open.take_if(|open| Some(open.kind) != kind || open.ops.len() >= MAX_BATCH) {
                self.close(cluster, full);
            }
            match change {
                Change::Put(kind, pair) => {
                    self.seen(cluster, kind, pair.key());
                    let open = open.get_or_insert_with(|| Open::new(kind));
                    if let Some(added) = self.admit(cluster, open.bytes, &pair) {
                        open.bytes += added;
                        open.ops.push(WriteOp::Put(pair));
                    }
                }
                Change::Gone(kind, key) => {
                    self.seen(cluster, kind, &key);
                    open.get_or_insert_with(|| Open::new(kind)).ops.push(WriteOp::Delete(key));
                }
                Change::Held(kind, key) => self.seen(cluster, kind, &key),
                Change::Config(config) => self.config(cluster, config),
                Change::Begins(kind) => self.begins(cluster, kind),
                Change::Done(kind) => self.done(cluster, kind),
                Change::Dropped(kind) => self.dropped(cluster, kind),
                Change::Removed => self.removed(now, cluster),
            }
        }
        if let Some(open) = open {
            self.close(cluster, open);
        }
    }

    /// When [`Self::tick`] has something to do.
    pub fn deadline(&self) -> Option<Duration> {
        self.draining.values().min().copied()
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) {
        let due: Vec<_> =
            self.draining.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        for cluster in due {
            info!(%cluster, "removing what is cached of a cluster that is no longer configured");
            self.draining.remove(&cluster);
            let markers = self.keys_below(keys::marker_prefix(&cluster));
            self.delete(None, markers);
            for kind in Kind::ALL {
                let data = self.keys_below(keys::prefix(Layout::Cached, kind, &cluster));
                self.delete(None, data);
            }
        }
    }

    /// The store's own sign of life.
    pub fn beat(&mut self) {
        self.put(Pair::new(keys::HEARTBEAT, timestamp()));
    }

    /// The writes of the clusters' keys that were decided and are not in the store, in their order.
    pub fn queued(&self) -> Vec<Queued> {
        let of = |batch: &Batch| {
            let (cluster, kind) = batch.of.clone()?;
            let deletes = batch.ops.iter().filter(|op| matches!(op, WriteOp::Delete(_))).count();
            Some(Queued { cluster, kind, puts: batch.ops.len() - deletes, deletes })
        };
        self.queue.iter().filter_map(of).collect()
    }

    /// Carries out what was decided. What was written is not tried again.
    ///
    /// # Errors
    /// The store's refusal; everything from the refused write on is kept, in order.
    pub async fn write(&mut self) -> Result<(), Error> {
        while let Some(batch) = self.queue.front() {
            let applied = self.store.staged().apply(batch.ops.clone()).done().await?;
            let batch = self.queue.pop_front().expect("the front was just seen");
            if let Some((cluster, kind)) = batch.of
                && let Some(copy) = self.copies.get_mut(&cluster)
            {
                let count = &mut copy.status.keys[kind as usize];
                *count = count.saturating_add_signed(applied.keys as isize);
                copy.status.bytes += applied.bytes;
            }
        }
        Ok(())
    }

    /// What the cluster announces, as this store announces it. It comes before its data.
    fn config(&mut self, cluster: &ClusterName, config: ClusterConfig) {
        self.draining.remove(cluster);
        found(&mut self.copies, &self.store, cluster);
        let exports = config.service_exports_enabled.is_some();
        let cached = ClusterConfig { synced_canaries: true, cached: true, ..config };
        self.put(Pair::new(keys::cluster_config(cluster), config::encode(&cached)));
        if !exports {
            // There are none, and its marker is owed all the same (mesh-protocol 6.6).
            self.begins(cluster, Kind::ServiceExports);
            self.done(cluster, Kind::ServiceExports);
        }
    }

    fn begins(&mut self, cluster: &ClusterName, kind: Kind) {
        let present = self.keys_below(keys::prefix(Layout::Cached, kind, cluster));
        let copy = found(&mut self.copies, &self.store, cluster);
        copy.unseen.insert(kind, present.into_iter().collect());
    }

    fn done(&mut self, cluster: &ClusterName, kind: Kind) {
        let copy = found(&mut self.copies, &self.store, cluster);
        let first = !std::mem::replace(&mut copy.status.synced[kind as usize], true);
        let gone: Vec<Bytes> = copy.unseen.remove(&kind).unwrap_or_default().into_iter().collect();
        self.delete(Some((cluster, kind)), gone);
        if first {
            self.put(Pair::new(keys::marker(cluster, Layout::Cached, kind), timestamp()));
        }
    }

    fn dropped(&mut self, cluster: &ClusterName, kind: Kind) {
        let copy = found(&mut self.copies, &self.store, cluster);
        copy.status.synced[kind as usize] = false;
        copy.unseen.remove(&kind);
        // A marker promises a complete listing, so it goes first.
        self.delete(None, vec![keys::marker(cluster, Layout::Cached, kind).into()]);
        let data = self.keys_below(keys::prefix(Layout::Cached, kind, cluster));
        self.delete(Some((cluster, kind)), data);
    }

    fn removed(&mut self, now: Duration, cluster: &ClusterName) {
        self.copies.remove(cluster);
        self.delete(None, vec![keys::cluster_config(cluster).into()]);
        self.draining.insert(cluster.clone(), now + self.grace);
    }

    fn put(&mut self, pair: Pair) {
        self.queue.push_back(Batch { of: None, ops: vec![WriteOp::Put(pair)] });
    }

    fn delete(&mut self, of: Option<(&ClusterName, Kind)>, keys: Vec<Bytes>) {
        for keys in keys.chunks(MAX_BATCH) {
            let ops = keys.iter().cloned().map(WriteOp::Delete).collect();
            self.queue.push_back(Batch { of: of.map(|(cluster, kind)| (cluster.clone(), kind)), ops });
        }
    }

    fn close(&mut self, cluster: &ClusterName, Open { kind, ops, .. }: Open) {
        if !ops.is_empty() {
            self.queue.push_back(Batch { of: Some((cluster.clone(), kind)), ops });
        }
    }

    /// The listing under way, if there is one, has named the key.
    fn seen(&mut self, cluster: &ClusterName, kind: Kind, key: &[u8]) {
        let copy = found(&mut self.copies, &self.store, cluster);
        // In the first listing of all there is nothing to compare with.
        if let Some(unseen) = copy.unseen.get_mut(&kind).filter(|unseen| !unseen.is_empty()) {
            unseen.remove(key);
        }
    }

    /// The bytes a key with its value may add, beyond the `open` ones of the same batch; `None` if the
    /// cluster has too many already, and then what is held of the key stays.
    fn admit(&mut self, cluster: &ClusterName, open: i64, pair: &Pair) -> Option<i64> {
        let copy = found(&mut self.copies, &self.store, cluster);
        let (held, new) = (copy.status.bytes + open, pair.size() as i64);
        if held + new <= self.max_cluster_bytes {
            return Some(new);
        }
        // Near the bound it matters what the key has now.
        let before = list(&self.store, KeyRange::single(Bytes::copy_from_slice(pair.key())), 1);
        let added = new - before.first().map_or(0, |kv| (kv.key.len() + kv.value.len()) as i64);
        if held + added <= self.max_cluster_bytes {
            return Some(added);
        }
        if copy.status.refused == 0 {
            warn!(
                %cluster, most = self.max_cluster_bytes,
                "a remote cluster has more bytes than are cached of one; what is more is refused"
            );
        }
        copy.status.refused += 1;
        None
    }

    fn keys_below(&self, prefix: String) -> Vec<Bytes> {
        let keys = list(&self.store, KeyRange::prefix(prefix), 0);
        keys.into_iter().map(|kv| kv.key).collect()
    }

    /// The clusters of which the store holds something cached.
    fn cached_clusters(&self) -> BTreeSet<ClusterName> {
        let mut clusters = BTreeSet::new();
        let data = Kind::ALL.map(|kind| format!("{}/{}/v1/", keys::CACHE, kind.word()));
        let others = [keys::SYNCED, keys::CLUSTER_CONFIG].map(|base| format!("{base}/"));
        for base in data.into_iter().chain(others) {
            let end = keys::range_end(base.as_bytes());
            let mut start = base.clone().into_bytes();
            // From the first key of one cluster to the first of the next.
            while let Some(kv) = list(&self.store, KeyRange::new(start.into(), end.clone().into()), 1).pop() {
                let name = kv.key[base.len()..].split(|byte| *byte == b'/').next().unwrap_or_default();
                clusters.extend(std::str::from_utf8(name).ok().and_then(|name| ClusterName::new(name).ok()));
                // Past all keys of it: '0' is the byte after '/', and a configuration is one key.
                let past = if kv.key.len() > base.len() + name.len() { b"0" } else { b"\0" };
                start = [base.as_bytes(), name, past].concat();
            }
        }
        clusters
    }
}

/// The copy of a cluster; a new one begins with what the store holds of it.
fn found<'a>(
    copies: &'a mut BTreeMap<ClusterName, Copy>,
    store: &Store,
    cluster: &ClusterName,
) -> &'a mut Copy {
    // A name is only copied for a new one: this is asked for every key.
    if !copies.contains_key(cluster) {
        let mut copy = Copy::default();
        for kind in Kind::ALL {
            let held = list(store, KeyRange::prefix(keys::prefix(Layout::Cached, kind, cluster)), 0);
            copy.status.keys[kind as usize] = held.len();
            copy.status.bytes += held.iter().map(|kv| (kv.key.len() + kv.value.len()) as i64).sum::<i64>();
        }
        copies.insert(cluster.clone(), copy);
    }
    copies.get_mut(cluster).expect("it is there, or was just put there")
}

/// Keys of a range with their values; at most `limit` of them, or all for 0.
fn list(store: &Store, range: KeyRange, limit: i64) -> Vec<pb::KeyValue> {
    let request = pb::RangeRequest { limit, ..(&range).into() };
    store.range(&request).expect("a read of the present with a key is never refused").kvs
}
