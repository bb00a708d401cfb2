//! The whole content of a store at one revision: read in pages, so that nobody waits for it, and
//! hashed.

use bytes::Bytes;

use super::history::Version;
use super::range::KeyRange;
use super::{Core, LeaseInfo, Store};
use crate::{Error, pb};

/// Keys read while the store is locked.
const PAGE: usize = 1000;

/// FNV-1a with 64 bits: stable for ever, as what other replicas compare must be; not for secrets.
pub(crate) fn fnv1a(bytes: &[u8], hash: u64) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What [`fnv1a`] begins with.
pub(crate) const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// A hash with what it speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentHash {
    /// The same for the same keys, values, leases, versions and revisions. Not etcd's function.
    pub hash: u32,
    /// The revision the content is of.
    pub revision: i64,
    /// The revision compacted to; -1 when nothing was.
    pub compact_revision: i64,
}

/// Reads all keys at a revision, a page at a time.
pub(super) struct Pages<'a> {
    core: &'a Core,
    revision: i64,
    /// The first key of the next page.
    start: Option<Bytes>,
}

impl<'a> Pages<'a> {
    pub(super) fn new(core: &'a Core, revision: i64) -> Self {
        Self { core, revision, start: Some(Bytes::from_static(&[0])) }
    }

    /// The next page; `None` after the last. Whoever has not pinned the revision looks afterwards
    /// whether it has been compacted meanwhile.
    pub(super) fn next(&mut self) -> Option<Vec<pb::KeyValue>> {
        let range = KeyRange::new(self.start.take()?, Bytes::from_static(&[0]));
        let state = self.core.lock();
        let keys = state.visible(&range, self.revision).take(PAGE);
        let page: Vec<_> = keys.map(Version::key_value).collect();
        // The next key there can be is the last one with a zero byte.
        let after = |kv: &pb::KeyValue| [&kv.key[..], &[0]].concat().into();
        self.start = page.last().filter(|_| page.len() == PAGE).map(after);
        Some(page)
    }
}

impl Store {
    /// Calls `each` with every key at `revision`, in order of the keys.
    ///
    /// # Errors
    /// [`Error::Compacted`], also when that happens meanwhile; [`Error::FutureRevision`].
    pub(crate) fn content(&self, revision: i64, mut each: impl FnMut(pb::KeyValue)) -> Result<(), Error> {
        if revision > self.revision() {
            return Err(Error::FutureRevision);
        }
        let mut pages = Pages::new(&self.0.core, revision);
        while let Some(page) = pages.next() {
            if self.compacted() > revision {
                return Err(Error::Compacted);
            }
            page.into_iter().for_each(&mut each);
        }
        Ok(())
    }

    /// Hashes the content at a revision; 0 is the current one.
    ///
    /// # Errors
    /// [`Error::Compacted`], as in etcd also for the very revision compacted to;
    /// [`Error::FutureRevision`].
    pub fn hash(&self, revision: i64) -> Result<ContentHash, Error> {
        if revision > 0 && revision <= self.compacted() {
            return Err(Error::Compacted);
        }
        let revision = if revision == 0 { self.revision() } else { revision };
        let mut hash = FNV_OFFSET;
        self.content(revision, |kv| {
            for bytes in [&kv.key, &kv.value] {
                hash = fnv1a(bytes, fnv1a(&(bytes.len() as u64).to_le_bytes(), hash));
            }
            for number in [kv.create_revision, kv.mod_revision, kv.version, kv.lease] {
                hash = fnv1a(&number.to_le_bytes(), hash);
            }
        })?;
        let compacted = self.compacted();
        Ok(ContentHash {
            hash: (hash ^ (hash >> 32)) as u32,
            revision,
            compact_revision: if compacted == 0 { -1 } else { compacted },
        })
    }

    /// All leases with what is known of them, in order of their ids.
    pub(crate) fn lease_infos(&self, now: std::time::Instant) -> Vec<(i64, LeaseInfo)> {
        let state = self.lock();
        state.leases.ids().into_iter().filter_map(|id| Some((id, state.leases.info(id, now)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreOptions;

    fn put(store: &Store, key: String, value: &'static str) {
        store.put(pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() }).unwrap();
    }

    #[test]
    fn equal_content_has_equal_hashes() {
        let filled = |n: usize, value| {
            let store = Store::new(StoreOptions::default());
            (0..n).for_each(|i| put(&store, format!("{i:05}"), "v"));
            put(&store, "last".into(), value);
            store
        };
        // Around the size of a page, so that one that is lost or read twice shows.
        for n in [0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE] {
            let (a, b) = (filled(n, "x"), filled(n, "x"));
            let hash = a.hash(0).unwrap();
            assert_eq!(hash, b.hash(0).unwrap());
            assert_ne!(hash.hash, filled(n, "y").hash(0).unwrap().hash);
            let mut seen = 0;
            a.content(a.revision(), |_| seen += 1).unwrap();
            assert_eq!(seen, n + 1);
            put(&a, "later".into(), "v");
            assert_eq!(a.hash(hash.revision).unwrap().hash, hash.hash, "an old revision stays as it is");
            assert_ne!(a.hash(0).unwrap().hash, hash.hash);
            a.compact(a.revision()).unwrap();
            assert_eq!(a.hash(hash.revision), Err(Error::Compacted));
            assert_eq!(a.hash(a.revision() + 1), Err(Error::FutureRevision));
        }
    }
}
