//! Writes of this process itself: many keys in one call, without the form of requests.

use bytes::Bytes;

use super::history::Version;
use super::pair::Pair;
use super::state::{Put, State, What, Write};
use super::{Store, quota};
use crate::Error;

/// One write of [`Store::apply`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOp {
    /// Key and value; the store shares their memory.
    Put(Pair),
    /// Key.
    Delete(Bytes),
}

/// What [`Store::apply`] changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Keys more than before; negative when keys went.
    pub keys: i64,
    /// Bytes of keys and values more than before.
    pub bytes: i64,
}

impl WriteOp {
    fn key(&self) -> &[u8] {
        match self {
            WriteOp::Put(pair) => pair.key(),
            WriteOp::Delete(key) => key,
        }
    }
}

impl Store {
    /// Carries out writes in their order, attached to no lease. All of them are one revision; only
    /// where a key occurs again the next one begins, so that watchers see each of its values. A put
    /// of the value that is there, and a delete of a key that is not, change nothing.
    ///
    /// # Errors
    /// [`Error::EmptyKey`], [`Error::RequestTooLarge`] for a single key with its value and
    /// [`Error::NoSpace`]; nothing is changed then.
    pub fn apply(&self, ops: Vec<WriteOp>) -> Result<Applied, Error> {
        self.staged().apply(ops).wait()
    }

    /// The same with what is put attached to a lease, 0 for none: a put changes nothing only where the key has that
    /// lease already.
    ///
    /// # Errors
    /// As [`Store::apply`], and [`Error::LeaseNotFound`].
    pub fn apply_leased(&self, ops: Vec<WriteOp>, lease: i64) -> Result<Applied, Error> {
        self.staged().apply_leased(ops, lease).wait()
    }
}

/// Refuses malformed writes; else how many bytes all of them may add.
pub(super) fn check(store: &Store, ops: &[WriteOp]) -> Result<usize, Error> {
    let mut cost = 0;
    for op in ops {
        if op.key().is_empty() {
            return Err(Error::EmptyKey);
        }
        if let WriteOp::Put(pair) = op {
            store.check_size(pair.size())?;
            cost += quota::write_cost(pair.key(), pair.value());
        }
    }
    Ok(cost)
}

/// Carries out checked writes. `commit` ends a revision.
pub(super) fn run(
    state: &mut State,
    ops: Vec<WriteOp>,
    lease: i64,
    mut commit: impl FnMut(&mut State, Write),
) -> Applied {
    let (mut applied, mut write) = (Applied::default(), Write::default());
    for op in ops {
        if state.is_written(op.key()) {
            commit(state, std::mem::take(&mut write));
        }
        let held = state.live(op.key());
        let size = held.map(Version::size);
        match op {
            WriteOp::Put(pair) if held.is_some_and(|held| *held.pair == pair && held.lease == lease) => {}
            WriteOp::Put(pair) => {
                applied.keys += i64::from(size.is_none());
                applied.bytes += pair.size() as i64 - size.unwrap_or(0);
                state.put(Put { what: What::Pair(pair), lease: Some(lease), prev_kv: false }, &mut write);
            }
            WriteOp::Delete(key) => {
                let Some(size) = size else { continue };
                applied.keys -= 1;
                applied.bytes -= size;
                state.delete(&key, &mut write);
            }
        }
    }
    commit(state, write);
    applied
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{StoreOptions, WatchOptions, pb};

    fn put(key: &'static str, value: &'static str) -> WriteOp {
        WriteOp::Put(Pair::new(key, value))
    }

    fn events(store: &Store) -> Vec<(i64, String)> {
        let mut watcher = store.watch(WatchOptions::prefix("k/", 2));
        let events = watcher.poll_now().unwrap().map(|batch| batch.events).unwrap_or_default();
        let shown = |event: pb::Event| {
            let deleted = event.r#type == pb::event::EventType::Delete as i32;
            let kv = event.kv.unwrap();
            let value = if deleted { "gone".into() } else { String::from_utf8_lossy(&kv.value).into_owned() };
            (kv.mod_revision, format!("{} {value}", String::from_utf8_lossy(&kv.key)))
        };
        events.into_iter().map(shown).collect()
    }

    #[test]
    fn one_revision_unless_a_key_comes_again() {
        let store = Store::new(StoreOptions::default());
        let delete = |key: &'static str| WriteOp::Delete(key.into());
        let applied = store.apply(vec![put("k/a", "1"), put("k/b", "1"), delete("k/none")]).unwrap();
        assert_eq!((applied, store.revision()), (Applied { keys: 2, bytes: 8 }, 2));
        let again = vec![put("k/a", "22"), delete("k/b"), put("k/b", "3"), delete("k/a"), put("k/c", "4")];
        assert_eq!(store.apply(again).unwrap(), Applied { keys: 0, bytes: 0 });
        let want = ["k/a 1", "k/b 1", "k/a 22", "k/b gone", "k/b 3", "k/a gone", "k/c 4"];
        let revisions = [2, 2, 3, 3, 4, 4, 4];
        let want: Vec<_> = revisions.into_iter().zip(want.map(str::to_owned)).collect();
        assert_eq!(events(&store), want);
    }

    #[test]
    fn what_is_there_already_changes_nothing() {
        let store = Store::new(StoreOptions::default());
        store.apply(vec![put("k/a", "1")]).unwrap();
        let same = vec![put("k/a", "1"), WriteOp::Delete("k/b".into()), put("k/a", "1")];
        assert_eq!((store.apply(same).unwrap(), store.revision()), (Applied::default(), 2));
        assert_eq!(store.apply(vec![]).unwrap(), Applied::default());
    }

    #[test]
    fn what_is_put_is_shared_and_attached() {
        let store = Store::new(StoreOptions::default());
        let (pair, now) = (Pair::new("k/a", "1"), std::time::Instant::now());
        let put = || vec![WriteOp::Put(pair.clone())];
        assert_eq!(store.apply_leased(put(), 7), Err(Error::LeaseNotFound));
        store.lease_grant(7, 60, now).unwrap();
        store.apply_leased(put(), 7).unwrap();
        let held = store.lock().live(b"k/a").unwrap().pair.clone();
        assert!(std::ptr::eq(held.value(), pair.value()), "one copy, here and in the store");
        store.apply_leased(put(), 7).unwrap();
        assert_eq!(store.revision(), 2, "the same value under the same lease");
        assert_eq!(store.lease_info(7, now).unwrap().keys, ["k/a"]);
        store.lease_grant(8, 60, now).unwrap();
        store.apply_leased(put(), 8).unwrap();
        assert_eq!((store.revision(), store.lease_info(7, now).unwrap().keys), (3, vec![]));
        store.lease_revoke(8).unwrap();
        assert_eq!(store.live_bytes(), 0);
    }

    #[test]
    fn refused_as_a_whole() {
        let small = StoreOptions { quota_backend_bytes: 1000, max_request_bytes: 100, ..Default::default() };
        let store = Store::new(small);
        let long = WriteOp::Put(Pair::new("k/l", [b'x'; 98]));
        assert_eq!(store.apply(vec![put("k/a", "1"), long]), Err(Error::RequestTooLarge));
        assert_eq!(store.apply(vec![put("k/a", "1"), put("", "1")]), Err(Error::EmptyKey));
        let many = ["k/a", "k/b", "k/c", "k/d"].map(|key| put(key, "1")).to_vec();
        assert_eq!(store.apply(many), Err(Error::NoSpace));
        assert_eq!((store.revision(), store.live_bytes()), (1, 0));
    }
}
