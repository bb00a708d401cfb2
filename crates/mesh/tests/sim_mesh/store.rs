//! An etcd as far as readers can tell: revisions, history, compaction, and what can happen to it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

pub(crate) type Bytes = Rc<[u8]>;

/// A key with its value, as answers have it.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

pub(crate) struct Store {
    /// `cluster_id` of its answers: another one for every store that begins empty.
    pub(crate) id: u64,
    /// Number of the process: connections end with it.
    pub(crate) process: u64,
    pub(crate) revision: i64,
    pub(crate) compacted: i64,
    data: BTreeMap<Bytes, Vec<(i64, Option<Bytes>)>>,
    history: Vec<(i64, Bytes, Option<Bytes>)>,
}

impl Store {
    pub(crate) fn new(id: u64) -> Self {
        Self { id, process: id << 32, revision: 1, compacted: 0, data: BTreeMap::new(), history: vec![] }
    }

    /// Writes keys in one revision.
    pub(crate) fn write(&mut self, writes: impl IntoIterator<Item = (Vec<u8>, Option<Vec<u8>>)>) {
        let revision = self.revision + 1;
        for (key, value) in writes {
            let key: Bytes = key.into();
            let value: Option<Bytes> = value.map(Into::into);
            if value.is_none() && self.get(&key).is_none() {
                continue;
            }
            self.revision = revision;
            self.history.push((revision, key.clone(), value.clone()));
            self.data.entry(key).or_default().push((revision, value));
        }
    }

    pub(crate) fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.write([(key.into(), Some(value.into()))]);
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Bytes> {
        self.data.get(key)?.last()?.1.as_ref()
    }

    pub(crate) fn keys(&self) -> Vec<Vec<u8>> {
        let there = self.data.iter().filter(|(_, versions)| versions.last().is_some_and(|v| v.1.is_some()));
        there.map(|(key, _)| key.to_vec()).collect()
    }

    /// A page at a revision; 0 = now. `None`: compacted away.
    pub(crate) fn range(
        &self,
        start: &[u8],
        end: &[u8],
        revision: i64,
        limit: usize,
        keys_only: bool,
    ) -> Option<(Vec<Pair>, bool)> {
        if revision != 0 && revision < self.compacted {
            return None;
        }
        let at = if revision == 0 { self.revision } else { revision };
        let mut out = vec![];
        for (key, versions) in self.data.range::<[u8], _>((Bound::Included(start), Bound::Excluded(end))) {
            let Some((_, Some(value))) = versions.iter().rfind(|(since, _)| *since <= at) else { continue };
            if out.len() == limit {
                return Some((out, true));
            }
            out.push((key.to_vec(), if keys_only { vec![] } else { value.to_vec() }));
        }
        Some((out, false))
    }

    /// Changes within a range from a revision on.
    pub(crate) fn since<'a>(
        &'a self,
        revision: i64,
        start: &'a [u8],
        end: &'a [u8],
    ) -> impl Iterator<Item = (&'a Bytes, Option<&'a Bytes>)> {
        let from = self.history.partition_point(|(at, ..)| *at < revision);
        let inside = move |key: &[u8]| start <= key && key < end;
        self.history[from..]
            .iter()
            .filter(move |(_, key, _)| inside(key))
            .map(|(_, key, value)| (key, value.as_ref()))
    }

    pub(crate) fn compact(&mut self) {
        self.compacted = self.revision;
        self.history.clear();
    }

    /// Restored from a backup: the same store at an earlier revision.
    pub(crate) fn restore(&mut self, revision: i64) {
        let revision = revision.max(self.compacted).max(1);
        self.process += 1;
        for versions in self.data.values_mut() {
            versions.retain(|(at, _)| *at <= revision);
        }
        self.data.retain(|_, versions| !versions.is_empty());
        self.history.retain(|(at, ..)| *at <= revision);
        self.revision = revision;
    }
}
