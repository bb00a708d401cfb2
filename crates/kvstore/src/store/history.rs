//! The versions of one key.

use std::sync::Arc;

use super::value::Value;
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
    pub(super) value: Option<Value>,
}

/// All kept versions of a key. There may be a hundred thousand keys and most have one version: a pointer in
/// the tree, and one piece of memory behind it.
#[derive(Debug, Clone, Default)]
pub(super) struct History(Option<Box<Versions>>);

#[derive(Debug, Clone)]
struct Versions {
    newest: Version,
    /// Most keys have none: a pointer takes a third of a vector.
    older: Option<Box<Older>>,
}

/// Oldest first.
#[derive(Debug, Clone)]
struct Older(Vec<Version>);

impl History {
    fn newest(&self) -> Option<&Version> {
        Some(&self.0.as_ref()?.newest)
    }

    /// All but the newest, oldest first.
    fn older(&self) -> &[Version] {
        self.0.as_ref().and_then(|versions| versions.older.as_deref()).map_or(&[][..], |older| &older.0[..])
    }

    /// The revision of the last change; 0 if there is none.
    pub(super) fn last_changed(&self) -> i64 {
        self.newest().map_or(0, |newest| newest.mod_revision)
    }

    /// The newest version, if the key exists now.
    pub(super) fn live(&self) -> Option<&Version> {
        self.newest().filter(|v| v.value.is_some())
    }

    /// The version a reader at `revision` sees, if the key existed then.
    pub(super) fn at(&self, revision: i64) -> Option<&Version> {
        let newest = self.newest()?;
        let seen = match newest.mod_revision <= revision {
            true => newest,
            false => {
                let older = self.older();
                &older[older.partition_point(|v| v.mod_revision <= revision).checked_sub(1)?]
            }
        };
        Some(seen).filter(|v| v.value.is_some())
    }

    /// What was put at `revision`. The same transaction may have deleted it again, which no reader
    /// ever sees, but every watcher; it cannot have put it twice.
    pub(super) fn put_at(&self, revision: i64) -> Option<&Version> {
        let newest = self.newest()?;
        let put = |v: &&Version| v.mod_revision == revision && v.value.is_some();
        if put(&newest) {
            return Some(newest);
        }
        let older = self.older();
        let first = older.partition_point(|v| v.mod_revision < revision);
        older[first..].iter().take_while(|v| v.mod_revision == revision).find(put)
    }

    /// Adds a version.
    pub(super) fn push(&mut self, version: Version) {
        match &mut self.0 {
            None => self.0 = Some(Box::new(Versions { newest: version, older: None })),
            Some(versions) => {
                let replaced = std::mem::replace(&mut versions.newest, version);
                // Of a key that has two versions most have no more: a vector's first growth is to four.
                let older = versions.older.get_or_insert_with(|| Box::new(Older(Vec::with_capacity(1))));
                older.0.push(replaced);
            }
        }
    }

    /// Removes what was written at `revision` or later.
    pub(super) fn undo(&mut self, revision: i64) {
        while self.newest().is_some_and(|newest| newest.mod_revision >= revision) {
            self.pop();
        }
    }

    /// Removes the newest version.
    fn pop(&mut self) {
        let Some(versions) = &mut self.0 else { return };
        match versions.older.as_deref_mut().and_then(|older| older.0.pop()) {
            Some(before) => versions.newest = before,
            None => self.0 = None,
        }
        self.tidy();
    }

    /// An empty list of older versions is none.
    fn tidy(&mut self) {
        if let Some(versions) = &mut self.0 {
            versions.older.take_if(|older| older.0.is_empty());
        }
    }

    /// Removes what neither a reader nor a watcher at `revision` or later can see; `dropped` is called with each.
    pub(super) fn compact(&mut self, revision: i64, mut dropped: impl FnMut(Version)) {
        let Some(versions) = &mut self.0 else { return };
        if let Some(Older(older)) = versions.older.as_deref_mut() {
            let before = older.partition_point(|v| v.mod_revision < revision);
            let next = older.get(before).unwrap_or(&versions.newest).mod_revision;
            // The last one before it is what a reader there sees, unless that was replaced or deleted by then.
            let seen = next > revision && before > 0 && older[before - 1].value.is_some();
            older.drain(..before - usize::from(seen)).for_each(&mut dropped);
        }
        self.tidy();
        let gone = |newest: &Version| newest.mod_revision < revision && newest.value.is_none();
        if self.newest().is_some_and(gone)
            && let Some(versions) = self.0.take()
        {
            dropped(versions.newest);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
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
            let value = put.then(|| "v".into());
            history.push(Version { mod_revision: *mod_revision, value, ..Version::default() });
        }
        history
    }

    fn compacted(revisions: &[(i64, bool)], at: i64) -> Vec<(i64, bool)> {
        let mut history = history(revisions);
        let mut dropped = 0;
        history.compact(at, |_| dropped += 1);
        let kept: Vec<_> = history
            .older()
            .iter()
            .chain(history.newest())
            .map(|v| (v.mod_revision, v.value.is_some()))
            .collect();
        assert_eq!(kept.len() + dropped, revisions.len());
        kept
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
