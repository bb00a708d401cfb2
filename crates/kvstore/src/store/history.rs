//! The versions of one key.

use std::sync::Arc;

use crate::pb;

/// A key, in one copy for the tree, the log and the leases.
pub(super) type Key = Arc<[u8]>;

/// One version of a key; without a value it is a tombstone.
#[derive(Debug, Clone, Default)]
pub(super) struct Version {
    pub(super) mod_revision: i64,
    pub(super) create_revision: i64,
    /// Writes since the key was created; 0 for a tombstone.
    pub(super) version: i64,
    pub(super) lease: i64,
    pub(super) value: Option<Arc<[u8]>>,
}

/// All kept versions of a key, oldest first. Most keys have one, so no search structure is needed.
#[derive(Debug, Clone, Default)]
pub(super) struct History(Vec<Version>);

impl History {
    /// The newest version, if the key exists now.
    pub(super) fn live(&self) -> Option<&Version> {
        self.0.last().filter(|v| v.value.is_some())
    }

    /// The version a reader at `revision` sees, if the key existed then.
    pub(super) fn at(&self, revision: i64) -> Option<&Version> {
        self.0.iter().rev().find(|v| v.mod_revision <= revision).filter(|v| v.value.is_some())
    }

    /// What was put at `revision`. The same transaction may have deleted it again, which no reader
    /// ever sees, but every watcher; it cannot have put it twice.
    pub(super) fn put_at(&self, revision: i64) -> Option<&Version> {
        let written = self.0.iter().rev().take_while(|v| v.mod_revision >= revision);
        written.filter(|v| v.mod_revision == revision).find(|v| v.value.is_some())
    }

    /// Adds a version.
    pub(super) fn push(&mut self, version: Version) {
        if self.0.is_empty() {
            // Most keys only ever have one version; a vector's first growth is to four.
            self.0.reserve_exact(1);
        }
        self.0.push(version);
    }

    /// Removes what was written at `revision` or later.
    pub(super) fn undo(&mut self, revision: i64) {
        self.0.truncate(self.0.partition_point(|v| v.mod_revision < revision));
    }

    /// Removes what neither a reader nor a watcher at `revision` or later can see.
    pub(super) fn compact(&mut self, revision: i64) -> impl Iterator<Item = Version> {
        let after = self.0.partition_point(|v| v.mod_revision < revision);
        let replaced = self.0.get(after).is_some_and(|v| v.mod_revision == revision);
        let seen = after.checked_sub(1).filter(|before| !replaced && self.0[*before].value.is_some());
        self.0.drain(..seen.unwrap_or(after))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Version {
    /// The version that says the key is gone.
    pub(super) fn tombstone(mod_revision: i64) -> Self {
        Self { mod_revision, ..Self::default() }
    }

    /// Bytes of the key and this value.
    pub(super) fn size(&self, key: &[u8]) -> i64 {
        (key.len() + self.value().len()) as i64
    }

    /// The value; empty for a tombstone.
    pub(super) fn value(&self) -> &[u8] {
        self.value.as_deref().unwrap_or_default()
    }

    /// As a message.
    pub(super) fn key_value(&self, key: &[u8]) -> pb::KeyValue {
        pb::KeyValue {
            key: key.to_vec().into(),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            value: self.value().to_vec().into(),
            lease: self.lease,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(revisions: &[(i64, bool)]) -> History {
        let mut history = History::default();
        for (mod_revision, put) in revisions {
            let value = put.then(|| Arc::from(&b"v"[..]));
            history.push(Version { mod_revision: *mod_revision, value, ..Version::default() });
        }
        history
    }

    fn compacted(revisions: &[(i64, bool)], at: i64) -> Vec<(i64, bool)> {
        let mut history = history(revisions);
        history.compact(at).for_each(drop);
        history.0.iter().map(|v| (v.mod_revision, v.value.is_some())).collect()
    }

    #[test]
    fn compaction_keeps_what_a_reader_or_a_watcher_can_see() {
        let all = [(2, true), (4, false), (6, true), (6, false), (8, true)];
        assert_eq!(compacted(&all, 2), all);
        assert_eq!(compacted(&all, 3), all, "a reader at 3 sees what was put at 2");
        assert_eq!(compacted(&all, 4), all[1..]);
        assert_eq!(compacted(&all, 5), all[2..], "who reads at 5 sees nothing, a tombstone or not");
        assert_eq!(compacted(&all, 6), all[2..], "a watcher from 6 sees the put and the delete");
        assert_eq!(compacted(&all, 7), all[4..]);
        assert_eq!(compacted(&all, 9), all[4..]);
        assert_eq!(compacted(&all[..2], 9), []);
    }

    #[test]
    fn a_put_and_a_delete_at_one_revision_are_both_there() {
        let history = history(&[(2, true), (6, true), (6, false)]);
        assert!(history.put_at(6).is_some() && history.at(6).is_none() && history.live().is_none());
        assert!(history.put_at(5).is_none() && history.at(5).is_some());
    }
}
