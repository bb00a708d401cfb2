//! The state of a store as entries, and the way back.
//!
//! A state is written as the keys at the revision its history begins with, followed by the changes
//! since. So the same code that replays a log replays a snapshot, and all that can be derived from
//! the changes (versions, previous values, attached leases, sizes) is not kept twice.

use std::ops::RangeInclusive;

use bytes::Bytes;

use super::super::Core;
use super::super::changes::Revision;
use super::super::content::Pages;
use super::super::state::State;
use super::record::{Entry, Granted, Written};
use crate::pb;

/// Changes read while the store is locked.
const PAGE: usize = 1000;

/// What a snapshot needs of a moment; keys and history are read later, a page at a time.
#[derive(Debug)]
pub(super) struct Image {
    /// The revision its history begins with. It is pinned until the snapshot is written.
    pub(super) compacted: i64,
    /// The revision its history ends with.
    last: i64,
    leases: Vec<(i64, i64)>,
    alarm: bool,
    auth: Option<Bytes>,
}

impl Image {
    /// The state of this moment.
    pub(super) fn take(state: &mut State) -> Self {
        state.pinned = Some(state.compacted);
        Self {
            compacted: state.compacted,
            last: state.revision,
            leases: state.leases.granted(),
            alarm: state.space.alarm(),
            auth: state.auth.clone(),
        }
    }

    /// Hands out the entries in the order in which they are to be replayed, until `each` fails.
    pub(super) fn entries<E>(
        self,
        core: &Core,
        mut each: impl FnMut(Entry) -> Result<(), E>,
    ) -> Result<(), E> {
        for (id, ttl) in self.leases {
            each(Entry::Grant(Granted { id, ttl }))?;
        }
        let mut pages = Pages::new(core, self.compacted);
        while let Some(page) = pages.next() {
            page.into_iter().try_for_each(|kv| each(Entry::Key(kv)))?;
        }
        let mut next = self.compacted;
        loop {
            let page = history(&core.lock(), self.compacted, next..=self.last);
            let Some((last, _)) = page.last() else { break };
            next = last + 1;
            page.into_iter().try_for_each(|(_, entry)| each(entry))?;
        }
        self.auth.map_or(Ok(()), |auth| each(Entry::Auth(auth)))?;
        each(Entry::Alarm(self.alarm))
    }
}

/// The first of these revisions, as many as make a page, of a history that begins with `first`.
fn history(state: &State, first: i64, revisions: RangeInclusive<i64>) -> Vec<(i64, Entry)> {
    let mut changes = 0;
    let logged = state.pinned_log(*revisions.start()).take_while(|logged| {
        let before = changes;
        changes += logged.len();
        revisions.contains(&logged.revision) && before < PAGE
    });
    let entry = |logged: &Revision| match logged.revision == first {
        true => Entry::first(state, logged),
        false => Entry::write(state, logged),
    };
    logged.map(|logged| (logged.revision, entry(logged))).collect()
}

impl State {
    /// Makes the change that an entry speaks of once more.
    ///
    /// # Errors
    /// When it does not follow from the state: entries are missing.
    pub(super) fn replay(&mut self, entry: Entry) -> Result<(), &'static str> {
        match entry {
            Entry::Write(written) => self.replay_write(written)?,
            Entry::Grant(Granted { id, ttl }) => {
                let now = std::time::Instant::now();
                self.leases.grant(id, ttl, now).map_err(|_| "a lease is granted twice")?;
            }
            Entry::Revoke(id) => drop(self.revoke(id).map_err(|_| "a lease is revoked that does not exist")?),
            // What was dropped by itself meanwhile may already be more.
            Entry::Compact(revision) if revision <= self.compacted => {}
            Entry::Compact(revision) => {
                self.compact(revision).map_err(|_| "a revision is compacted that does not exist")?;
            }
            Entry::Alarm(raised) => drop(self.space.set_alarm(raised)),
            Entry::Auth(auth) => self.auth = Some(auth),
            Entry::Key(kv) => self.restore_key(&kv),
            Entry::First(first) => self.restore_first(&first.events),
            Entry::Meta(_) | Entry::End(_) => return Err("a record that belongs elsewhere"),
        }
        self.published = self.revision;
        Ok(())
    }

    fn replay_write(&mut self, Written { revision, changes }: Written) -> Result<(), &'static str> {
        if revision != self.revision + 1 || changes.is_empty() {
            return Err("a revision is missing or comes twice");
        }
        let mut write = super::super::state::Write::default();
        for change in changes {
            match change.value {
                Some(value) => {
                    let lease = change.lease;
                    let put = pb::PutRequest { key: change.key, value, lease, ..Default::default() };
                    self.put((&put).into(), &mut write);
                }
                None => {
                    drop(self.delete(&change.key, &mut write).ok_or("a key is deleted that is not there")?)
                }
            }
        }
        self.commit(write);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Store, StoreOptions};

    fn put(store: &Store, key: String, value: &'static str) -> i64 {
        let put = pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() };
        store.put(put).unwrap().header.unwrap().revision
    }

    #[test]
    fn an_image_is_whole_though_its_revision_is_compacted_meanwhile() {
        let store = Store::new(StoreOptions::default());
        for n in 0..2001 {
            put(&store, format!("{n:05}"), "v");
        }
        store.compact(store.revision()).unwrap();
        let image = Image::take(&mut store.lock());
        let mut keys = Vec::new();
        image
            .entries(&store.0.core, |entry| {
                if let Entry::Key(kv) = entry {
                    let newest = put(&store, "02000".into(), "w");
                    store.compact(newest).unwrap();
                    keys.push((kv.key, kv.value));
                }
                Ok::<_, ()>(())
            })
            .unwrap();
        assert_eq!(keys.len(), 2001);
        assert!(keys.iter().all(|(_, value)| *value == "v"));
    }
}
