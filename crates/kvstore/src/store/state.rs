//! The multi-version state: keys, revisions, history. Pure; one writer at a time by `&mut`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::history::{History, Version};
use super::hub::{Hub, Wakeups};
use super::lease::Leases;
use super::quota::Space;
use super::range::KeyRange;
use super::revision::Revision;
use super::select::{Counts, Order};
use crate::pb::{self, event::EventType};
use crate::{Error, StoreOptions};

/// Revisions whose encoded events are kept for the watchers that are not far behind.
const KEEP_ENCODED: usize = 4096;

#[derive(Debug)]
pub(super) struct State {
    pub(super) options: StoreOptions,
    keys: BTreeMap<Bytes, History>,
    /// Revision of the last write; 1 in a new store, as in etcd.
    pub(super) revision: i64,
    /// Revision readers see: the last one that is durable, or simply the last one in memory.
    pub(super) published: i64,
    /// Readers below this revision are refused. Never beyond `published`.
    pub(super) compacted: i64,
    /// While an image of this revision is written, what it needs is not dropped.
    pub(super) pinned: Option<i64>,
    /// The events of all revisions from `compacted` on, oldest first, without a gap.
    log: VecDeque<Arc<Revision>>,
    pub(super) leases: Leases,
    pub(super) hub: Hub,
    /// For listings in pages.
    pub(super) counts: Counts,
    /// Bytes of live keys and values.
    pub(super) live_bytes: i64,
    /// Bytes of the logged events' keys and values.
    log_bytes: i64,
    pub(super) space: Space,
    /// What the server keeps about users and roles, in its own form.
    pub(super) auth: Option<Bytes>,
}

/// The events of the write in progress.
#[derive(Debug, Default)]
pub(super) struct Write {
    events: Vec<pb::Event>,
}

impl State {
    pub(super) fn new(options: StoreOptions) -> Self {
        Self {
            space: Space::new(options.quota_backend_bytes),
            log_bytes: 0,
            options,
            keys: BTreeMap::new(),
            revision: 1,
            published: 1,
            compacted: 0,
            pinned: None,
            log: VecDeque::new(),
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

    /// Bytes of live keys and values and of the history.
    pub(super) fn total_bytes(&self) -> i64 {
        self.live_bytes + self.log_bytes
    }

    /// Keys there are, and those deleted but not compacted away.
    pub(super) fn key_count(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn visible(&self, range: &KeyRange, at: i64) -> impl Iterator<Item = (&Bytes, &Version)> {
        range
            .bounds()
            .into_iter()
            .flat_map(|bounds| self.keys.range::<[u8], _>(bounds))
            .filter_map(move |(key, history)| Some((key, history.at(at)?)))
    }

    pub(super) fn live(&self, key: &[u8]) -> Option<&Version> {
        self.keys.get(key)?.live()
    }

    /// Refuses what [`State::put`] could not carry out.
    pub(super) fn check_put(&self, request: &pb::PutRequest) -> Result<(), Error> {
        check_put_form(request)?;
        self.check_put_lease(request)?;
        self.check_put_exists(request)
    }

    pub(super) fn check_put_lease(&self, request: &pb::PutRequest) -> Result<(), Error> {
        let missing = request.lease != 0 && !self.leases.exists(request.lease);
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
    pub(super) fn put(&mut self, request: pb::PutRequest, write: &mut Write) -> pb::PutResponse {
        let revision = self.revision + 1;
        // What a request holds are slices of a network buffer many times larger, which they would
        // keep alive: the store copies what it keeps, and shares one copy of a key.
        let entry = self.keys.entry(Bytes::copy_from_slice(&request.key));
        let key = entry.key().clone();
        let history = entry.or_default();
        let previous = history.live().cloned();
        // To a watcher the previous value is that of the revision before, also where the same
        // transaction has deleted the key meanwhile.
        let before = history.at(revision - 1).map(|seen| seen.key_value(&key));
        let value = match &previous {
            Some(old) if request.ignore_value => old.value.clone().unwrap_or_default(),
            _ => Bytes::copy_from_slice(&request.value),
        };
        let lease = match &previous {
            Some(old) if request.ignore_lease => old.lease,
            _ => request.lease,
        };
        let version = Version {
            mod_revision: revision,
            create_revision: previous.as_ref().map_or(revision, |old| old.create_revision),
            version: previous.as_ref().map_or(1, |old| old.version + 1),
            lease,
            value: Some(value),
        };
        self.live_bytes += size(&key, &version) - previous.as_ref().map_or(0, |old| size(&key, old));
        let kv = version.key_value(&key);
        history.push(version);
        self.leases.reattach(&key, previous.as_ref().map_or(0, |old| old.lease), lease);
        let prev_kv = previous.filter(|_| request.prev_kv).map(|old| old.key_value(&key));
        write.events.push(pb::Event { r#type: EventType::Put as i32, kv: Some(kv), prev_kv: before });
        pb::PutResponse { header: None, prev_kv }
    }

    /// Deletes every live key of the range in the write in progress.
    pub(super) fn delete_range(
        &mut self,
        request: &pb::DeleteRangeRequest,
        write: &mut Write,
    ) -> pb::DeleteRangeResponse {
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        let doomed: Vec<Bytes> = self.visible(&range, i64::MAX).map(|(key, _)| key.clone()).collect();
        let mut prev_kvs = Vec::new();
        for key in &doomed {
            let previous = self.delete(key, write);
            if request.prev_kv {
                prev_kvs.extend(previous);
            }
        }
        pb::DeleteRangeResponse { header: None, deleted: doomed.len() as i64, prev_kvs }
    }

    /// Deletes one key; its last value if it existed.
    pub(super) fn delete(&mut self, key: &Bytes, write: &mut Write) -> Option<pb::KeyValue> {
        let revision = self.revision + 1;
        let history = self.keys.get_mut(key)?;
        let old = history.live()?.clone();
        // As in a put: what this transaction has put meanwhile is not what was there before.
        let before = history.at(revision - 1).map(|seen| seen.key_value(key));
        history.push(Version {
            mod_revision: revision,
            create_revision: 0,
            version: 0,
            lease: 0,
            value: None,
        });
        self.live_bytes -= size(key, &old);
        self.leases.reattach(key, old.lease, 0);
        let prev_kv = Some(old.key_value(key));
        let kv = Some(pb::KeyValue { key: key.clone(), mod_revision: revision, ..Default::default() });
        write.events.push(pb::Event { r#type: EventType::Delete as i32, kv, prev_kv: before });
        prev_kv
    }

    /// Ends a write: if it changed anything it becomes the next revision. True if it did.
    pub(super) fn commit(&mut self, write: Write) -> bool {
        if write.events.is_empty() {
            return false;
        }
        self.revision += 1;
        self.push_log(self.revision, write.events);
        if self.log.len() > self.options.history_revisions {
            let target = self.revision - (self.options.history_revisions / 2) as i64;
            self.forget(target.min(self.published));
        }
        true
    }

    fn push_log(&mut self, revision: i64, events: Vec<pb::Event>) {
        self.log_bytes += events_size(&events);
        self.log.push_back(Arc::new(Revision::new(revision, events)));
        if let Some(old) = self.log.len().checked_sub(KEEP_ENCODED + 1) {
            self.log[old].forget_encoded();
        }
    }

    /// Puts back a key as it was when history began.
    pub(super) fn restore_key(&mut self, kv: pb::KeyValue) {
        let version = Version {
            mod_revision: kv.mod_revision,
            create_revision: kv.create_revision,
            version: kv.version,
            lease: kv.lease,
            // Its own memory, not a slice of what was read.
            value: Some(Bytes::copy_from_slice(&kv.value)),
        };
        let key = Bytes::copy_from_slice(&kv.key);
        self.live_bytes += size(&key, &version);
        self.leases.reattach(&key, 0, kv.lease);
        self.keys.entry(key).or_default().push(version);
    }

    /// Begins an empty state anew with the history before `revision` gone.
    pub(super) fn restore_at(&mut self, revision: i64) {
        (self.compacted, self.revision) = (revision, revision.max(1));
        self.published = self.revision;
    }

    /// Puts back the events of the revision that history begins with; its keys are there already.
    pub(super) fn restore_first(&mut self, events: Vec<pb::Event>) {
        self.push_log(self.revision, events);
    }

    /// Lets readers see everything up to `revision`. The watchers to wake when the lock is free.
    pub(super) fn publish(&mut self, revision: i64) -> Wakeups {
        let mut wakeups = Wakeups::default();
        let news = self.log.len() - usize::try_from(self.revision - self.published).unwrap_or(0);
        for entry in self.log.range(news..).take_while(|entry| entry.revision <= revision) {
            self.hub.mark(entry.revision, &entry.events, &mut wakeups);
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
        while self.log.front().is_some_and(|entry| entry.revision < revision) {
            let entry = self.log.pop_front().expect("the front was just seen");
            self.log_bytes -= events_size(&entry.events);
            for kv in entry.events.iter().filter_map(|event| event.kv.as_ref()) {
                if self.keys.get_mut(&kv.key).is_some_and(|history| history.compact(revision)) {
                    self.keys.remove(&kv.key);
                }
            }
        }
    }

    /// The last logged revision.
    pub(super) fn newest(&self) -> Option<&Arc<Revision>> {
        self.log.back()
    }

    /// The logged revisions from `from` on.
    ///
    /// # Errors
    /// [`Error::Compacted`] when events at or after `from` may be gone.
    pub(super) fn log_from(&self, from: i64) -> Result<impl Iterator<Item = &Arc<Revision>>, Error> {
        if from < self.compacted {
            return Err(Error::Compacted);
        }
        let first = self.log.front().map_or(self.revision + 1, |entry| entry.revision);
        let skip = usize::try_from(from - first).unwrap_or(0).min(self.log.len());
        Ok(self.log.range(skip..))
    }

    /// Deletes the keys of a lease in one revision and forgets it.
    pub(super) fn revoke(&mut self, id: i64) -> Result<bool, Error> {
        let keys = self.leases.revoke(id)?;
        let mut write = Write::default();
        for key in &keys {
            self.delete(key, &mut write);
        }
        Ok(self.commit(write))
    }
}

impl Write {
    /// Whether anything has been written yet.
    pub(super) fn pending(&self) -> bool {
        !self.events.is_empty()
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

fn events_size(events: &[pb::Event]) -> i64 {
    events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| (kv.key.len() + kv.value.len()) as i64).sum()
}

fn size(key: &Bytes, version: &Version) -> i64 {
    (key.len() + version.value.as_ref().map_or(0, Bytes::len)) as i64
}
