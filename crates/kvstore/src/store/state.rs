//! The multi-version state: keys, revisions, history. Pure; one writer at a time by `&mut`.

use std::sync::Arc;

use bytes::Bytes;

use super::changes::{ChangeLog, Revision};
use super::encode::{Encoded, Encoder};
use super::history::{History, Kept, Version};
use super::hub::{Hub, Wakeups};
use super::lease::Leases;
use super::pair::{ByKey, Pair};
use super::quota::Space;
use super::range::KeyRange;
use super::select::{Counts, Order};
use super::tree::{Place, Tree};
use crate::pb;
use crate::{Error, StoreOptions};

#[derive(Debug)]
pub(super) struct State {
    pub(super) options: StoreOptions,
    keys: Tree,
    /// Revision of the last write; 1 in a new store, as in etcd.
    pub(super) revision: i64,
    /// Revision readers see: the last one that is durable, or simply the last one in memory.
    pub(super) published: i64,
    /// Readers below this revision are refused. Never beyond `published`.
    pub(super) compacted: i64,
    /// While an image of this revision is written, what it needs is not dropped.
    pub(super) pinned: Option<i64>,
    /// The changes of all revisions from `compacted` on.
    log: ChangeLog,
    pub(super) leases: Leases,
    pub(super) hub: Hub,
    /// For listings in pages.
    pub(super) counts: Counts,
    /// Bytes of live keys and values.
    pub(super) live_bytes: i64,
    /// Bytes of keys and values of older versions, and of tombstones.
    old_bytes: i64,
    pub(super) space: Space,
    /// What the server keeps about users and roles, in its own form.
    pub(super) auth: Option<Bytes>,
}

/// What is put to a key.
#[derive(Debug)]
pub(super) struct Put<'a> {
    pub(super) what: What<'a>,
    /// 0 is none; `None` leaves it as it is.
    pub(super) lease: Option<i64>,
    /// What was there before is wanted.
    pub(super) prev_kv: bool,
}

#[derive(Debug)]
pub(super) enum What<'a> {
    /// This.
    Pair(Pair),
    /// What the key has already.
    Same(&'a [u8]),
}

impl What<'_> {
    fn key(&self) -> &[u8] {
        match self {
            What::Pair(pair) => pair.key(),
            What::Same(key) => key,
        }
    }
}

impl<'a> From<&'a pb::PutRequest> for Put<'a> {
    fn from(request: &'a pb::PutRequest) -> Self {
        let what = match request.ignore_value {
            true => What::Same(&request.key),
            false => What::Pair(Pair::new(&request.key, &request.value)),
        };
        Self { what, lease: (!request.ignore_lease).then_some(request.lease), prev_kv: request.prev_kv }
    }
}

/// The changes of the write in progress.
#[derive(Debug, Default)]
pub(super) struct Write {
    changes: Vec<Pair>,
}

impl State {
    pub(super) fn new(options: StoreOptions) -> Self {
        Self {
            space: Space::new(options.quota_backend_bytes),
            old_bytes: 0,
            options,
            keys: Tree::default(),
            revision: 1,
            published: 1,
            compacted: 0,
            pinned: None,
            log: ChangeLog::default(),
            leases: Leases::default(),
            hub: Hub::default(),
            counts: Counts::default(),
            live_bytes: 0,
            auth: None,
        }
    }

    /// Answers a range read of somebody for whom `current` is the newest revision.
    pub(super) fn range(&self, request: &pb::RangeRequest, current: i64) -> Result<pb::RangeResponse, Error> {
        Ok(self.select(request, current, None)?.response())
    }

    /// Refuses what would add `cost` bytes where there is no space.
    pub(super) fn admit(&mut self, cost: usize) -> Result<(), Error> {
        self.space.admit(self.total_bytes(), cost)
    }

    /// Bytes of keys and values, live and old.
    pub(super) fn total_bytes(&self) -> i64 {
        self.live_bytes + self.old_bytes
    }

    /// Keys there are, and those deleted but not compacted away.
    pub(super) fn key_count(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn visible(&self, range: &KeyRange, at: i64) -> impl Iterator<Item = Version<'_>> {
        self.keys.range(range).filter_map(move |history| history.at(at))
    }

    pub(super) fn live(&self, key: &[u8]) -> Option<Version<'_>> {
        self.keys.get(key)?.live()
    }

    /// Whether the write in progress has changed the key.
    pub(super) fn is_written(&self, key: &[u8]) -> bool {
        self.keys.get(key).is_some_and(|history| history.last_changed() > self.revision)
    }

    /// Refuses what [`State::put`] could not carry out.
    pub(super) fn check_put(&self, request: &pb::PutRequest) -> Result<(), Error> {
        check_put_form(request)?;
        self.check_lease(request.lease)?;
        self.check_put_exists(request)
    }

    /// Refuses a lease that is not there; 0 is none.
    pub(super) fn check_lease(&self, lease: i64) -> Result<(), Error> {
        let missing = lease != 0 && !self.leases.exists(lease);
        if missing { Err(Error::LeaseNotFound) } else { Ok(()) }
    }

    /// What is to be left as it is must be there.
    pub(super) fn check_put_exists(&self, request: &pb::PutRequest) -> Result<(), Error> {
        let keeps = request.ignore_value || request.ignore_lease;
        if keeps && self.live(&request.key).is_none() { Err(Error::KeyNotFound) } else { Ok(()) }
    }

    /// Refuses a read of a transaction whose revision is not there before the transaction begins.
    pub(super) fn check_range(&self, request: &pb::RangeRequest) -> Result<(), Error> {
        match request.revision {
            0 => Ok(()),
            revision if revision > self.revision => Err(Error::FutureRevision),
            revision if revision < self.compacted => Err(Error::Compacted),
            _ => Order::of(request).map(drop),
        }
    }

    /// Carries out a checked put in the write in progress.
    pub(super) fn put(&mut self, put: Put<'_>, write: &mut Write) -> pb::PutResponse {
        let revision = self.revision + 1;
        let place = self.keys.find(put.what.key());
        let previous = place.ok().and_then(|place| self.keys.at(place).live());
        let prev_kv = previous.filter(|_| put.prev_kv).map(Version::key_value);
        let held_by = previous.map_or(0, |old| old.lease);
        let version = Kept {
            mod_revision: revision,
            create_revision: previous.map_or(revision, |old| old.create_revision),
            version: previous.map_or(1, |old| old.version + 1),
            lease: put.lease.unwrap_or(held_by),
            pair: match put.what {
                What::Pair(pair) => pair,
                What::Same(key) => previous.map_or_else(|| Pair::new(key, ""), |old| old.pair.clone()),
            },
        };
        let replaced = previous.map_or(0, Version::size);
        self.live_bytes += version.shown().size() - replaced;
        self.old_bytes += replaced;
        self.leases.attach(&version.pair, held_by, version.lease);
        write.changes.push(version.pair.clone());
        self.add(place, version);
        pb::PutResponse { header: None, prev_kv }
    }

    /// Adds a version of the key that was found there, or not found.
    fn add(&mut self, place: Result<Place, Place>, version: Kept) {
        match place {
            Ok(place) => self.keys.at_mut(place).push(version),
            Err(place) => self.keys.insert(place, History::new(version)),
        }
    }

    /// Deletes every live key of the range in the write in progress.
    pub(super) fn delete_range(
        &mut self,
        request: &pb::DeleteRangeRequest,
        write: &mut Write,
    ) -> pb::DeleteRangeResponse {
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        let doomed: Vec<Pair> = self.visible(&range, i64::MAX).map(|version| version.pair.clone()).collect();
        let mut prev_kvs = Vec::new();
        for pair in &doomed {
            let previous = self.delete(pair.key(), write);
            if request.prev_kv {
                prev_kvs.extend(previous);
            }
        }
        pb::DeleteRangeResponse { header: None, deleted: doomed.len() as i64, prev_kvs }
    }

    /// Deletes one key; its last value if it existed.
    pub(super) fn delete(&mut self, key: &[u8], write: &mut Write) -> Option<pb::KeyValue> {
        let place = self.keys.find(key).ok()?;
        let old = self.keys.at(place).live()?;
        let (prev_kv, size, lease) = (old.key_value(), old.size(), old.lease);
        self.leases.detach(key, lease);
        let tombstone = Kept::tombstone(key, self.revision + 1);
        self.live_bytes -= size;
        self.old_bytes += size + tombstone.shown().size();
        write.changes.push(tombstone.pair.clone());
        self.keys.at_mut(place).push(tombstone);
        Some(prev_kv)
    }

    /// Ends a write: if it changed anything it becomes the next revision. True if it did.
    pub(super) fn commit(&mut self, write: Write) -> bool {
        if write.changes.is_empty() {
            return false;
        }
        self.revision += 1;
        self.log.push(self.revision, write.changes);
        if self.log.len() > self.options.history_revisions {
            let target = self.revision - (self.options.history_revisions / 2) as i64;
            self.forget(target.min(self.published));
        }
        true
    }

    /// Puts back a key as it was when history began.
    pub(super) fn restore_key(&mut self, kv: &pb::KeyValue) {
        let version = Kept::from(kv);
        self.live_bytes += version.shown().size();
        self.leases.attach(&version.pair, 0, version.lease);
        let place = self.keys.find(&kv.key);
        self.add(place, version);
    }

    /// Begins an empty state anew with the history before `revision` gone.
    pub(super) fn restore_at(&mut self, revision: i64) {
        (self.compacted, self.revision) = (revision, revision.max(1));
        self.published = self.revision;
    }

    /// Puts back the events of the revision that history begins with. Its keys are there already,
    /// but not what the same revision has replaced or deleted.
    pub(super) fn restore_first(&mut self, events: &[pb::Event]) {
        let revision = self.revision;
        let version = |event: &pb::Event| {
            let kv = event.kv.as_ref()?;
            let put = event.r#type == pb::event::EventType::Put as i32;
            Some(if put { Kept::from(kv) } else { Kept::tombstone(&kv.key, revision) })
        };
        let versions: Vec<Kept> = events.iter().filter_map(version).collect();
        for version in &versions {
            if let Ok(place) = self.keys.find(version.pair.key())
                && self.keys.at_mut(place).undo(revision)
            {
                self.keys.remove(place);
            }
        }
        let changes = versions.iter().map(|version| version.pair.clone()).collect();
        for version in versions {
            let place = self.keys.find(version.pair.key());
            let replaced = place.ok().and_then(|place| self.keys.at(place).live());
            self.old_bytes += replaced.map_or(0, Version::size);
            self.old_bytes += if version.pair.is_put() { 0 } else { version.shown().size() };
            self.add(place, version);
        }
        self.log.push(revision, changes);
    }

    /// Lets readers see everything up to `revision`. The watchers to wake when the lock is free.
    pub(super) fn publish(&mut self, revision: i64) -> Wakeups {
        let mut wakeups = Wakeups::default();
        for news in self.log.from(self.published + 1).take_while(|news| news.revision <= revision) {
            self.hub.mark(news.revision, news, &mut wakeups);
        }
        self.published = revision;
        wakeups
    }

    /// Compacts up to `revision`.
    pub(super) fn compact(&mut self, revision: i64) -> Result<(), Error> {
        if revision <= self.compacted {
            return Err(Error::Compacted);
        }
        if revision > self.published {
            return Err(Error::FutureRevision);
        }
        self.forget(revision);
        Ok(())
    }

    /// Refuses readers below `revision` from now on, and drops the history they would need.
    fn forget(&mut self, revision: i64) {
        self.compacted = revision.max(self.compacted);
        // What was before it is not shown any more.
        self.log.encoded().forget(self.compacted);
        self.drop_below(self.pinned.map_or(self.compacted, |pinned| pinned.min(self.compacted)));
    }

    /// Ends a pin; what it has kept from being dropped is.
    pub(super) fn unpin(&mut self) {
        self.pinned = None;
        self.drop_below(self.compacted);
    }

    /// Drops the history below `revision`. Only keys that changed since the last compaction can
    /// have anything to drop, and the log names them.
    fn drop_below(&mut self, revision: i64) {
        while let Some(dropped) = self.log.pop_before(revision) {
            self.old_bytes -= drop_versions(&mut self.keys, &dropped, revision);
        }
        if let Some(first) = self.log.first().filter(|first| first.revision == revision) {
            self.old_bytes -= drop_versions(&mut self.keys, first, revision);
        }
    }

    /// The last logged revision.
    pub(super) fn newest(&self) -> Option<&Revision> {
        self.log.last()
    }

    /// The logged revisions from `from` on.
    ///
    /// # Errors
    /// [`Error::Compacted`] when changes at or after `from` may be gone.
    pub(super) fn log_from(&self, from: i64) -> Result<impl Iterator<Item = &Revision>, Error> {
        if from < self.compacted {
            return Err(Error::Compacted);
        }
        Ok(self.log.from(from))
    }

    /// The logged revisions from `from` on, for whoever has pinned it.
    pub(super) fn pinned_log(&self, from: i64) -> impl Iterator<Item = &Revision> {
        self.log.from(from)
    }

    /// The events of a logged revision, encoded once for all watchers.
    pub(super) fn encoded(&mut self, revision: i64, prev_kv: bool) -> Arc<Encoded> {
        if let Some(encoded) = self.log.encoded().get(revision, prev_kv) {
            return encoded;
        }
        let encoded = Arc::new(self.encode(revision, prev_kv));
        self.log.encoded().keep(revision, prev_kv, encoded.clone());
        encoded
    }

    fn encode(&self, revision: i64, prev_kv: bool) -> Encoded {
        let changes = self.log.from(revision).next().map(|changes| &changes[..]).unwrap_or_default();
        let mut encoder = Encoder::with_events(changes.len());
        // As in etcd: what cannot be read any more is not shown as what was before either, and a new
        // key has no value before, also where the same transaction has deleted one.
        let readable = prev_kv && revision > self.compacted;
        for change in changes {
            let now = self.change(change, revision);
            let before = Some(change.key()).filter(|_| readable && now.create_revision != revision);
            encoder.add(now, before.and_then(|key| self.keys.get(key)?.at(revision - 1)));
        }
        encoder.finish()
    }

    /// The version that a change of a logged revision has made.
    pub(super) fn change<'a>(&'a self, change: &'a Pair, revision: i64) -> Version<'a> {
        let history = self.keys.get(change.key()).filter(|_| change.is_put());
        history.and_then(|history| history.put_at(revision)).unwrap_or(Version::tombstone(change, revision))
    }

    /// Builds the search trees anew, full.
    pub(super) fn defragment(&mut self) {
        self.keys.defragment();
        self.leases.defragment();
    }

    /// Deletes the keys of a lease in one revision and forgets it.
    pub(super) fn revoke(&mut self, id: i64) -> Result<bool, Error> {
        let keys = self.leases.revoke(id)?;
        let mut write = Write::default();
        for ByKey(pair) in &keys {
            self.delete(pair.key(), &mut write);
        }
        Ok(self.commit(write))
    }
}

impl Write {
    /// Whether anything has been changed yet.
    pub(super) fn pending(&self) -> bool {
        !self.changes.is_empty()
    }
}

/// Refuses a put that contradicts itself.
pub(super) fn check_put_form(request: &pb::PutRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

/// Drops what nobody from `revision` on can see of the keys that changed; how many bytes that were.
fn drop_versions(keys: &mut Tree, changed: &[Pair], revision: i64) -> i64 {
    let mut bytes = 0;
    for key in changed.iter().map(Pair::key) {
        let Ok(place) = keys.find(key) else { continue };
        if keys.at_mut(place).compact(revision, |version| bytes += version.size()) {
            keys.remove(place);
        }
    }
    bytes
}
