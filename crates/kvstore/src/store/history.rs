//! The versions of one key.

use super::pair::Pair;
use crate::pb;

/// One version of a key, as it is shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Version<'a> {
    pub(super) pair: &'a Pair,
    pub(super) mod_revision: i64,
    pub(super) create_revision: i64,
    /// Writes since the key was created; 0 for a tombstone.
    pub(super) version: i64,
    pub(super) lease: i64,
}

/// One version of a key, as it is kept.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) pair: Pair,
    pub(super) mod_revision: i64,
    pub(super) create_revision: i64,
    pub(super) version: i64,
    pub(super) lease: i64,
}

/// All kept versions of a key; there is one at least.
#[derive(Debug, Clone)]
pub(super) struct History(Versions);

/// There may be hundreds of thousands of keys, and most of a mesh are written once: these need no memory of their own.
#[derive(Debug, Clone)]
enum Versions {
    /// The first version since the key was created.
    First {
        pair: Pair,
        revision: i64,
        lease: i64,
    },
    Many(Box<Many>),
}

#[derive(Debug, Clone)]
struct Many {
    newest: Kept,
    /// Most keys have none: a pointer takes a third of a vector.
    older: Option<Box<Older>>,
}

/// Oldest first.
#[derive(Debug, Clone)]
struct Older(Vec<Kept>);

impl History {
    /// A history that begins with a new key.
    pub(super) fn first(pair: Pair, revision: i64, lease: i64) -> Self {
        Self(Versions::First { pair, revision, lease })
    }

    /// A history that begins with some version.
    pub(super) fn new(newest: Kept) -> Self {
        let Kept { pair, mod_revision, create_revision, version, lease } = newest;
        match pair.is_put() && version == 1 && create_revision == mod_revision {
            true => Self::first(pair, mod_revision, lease),
            false => Self(Versions::Many(Box::new(Many {
                newest: Kept { pair, mod_revision, create_revision, version, lease },
                older: None,
            }))),
        }
    }

    /// The newest version's pair, which may be a tombstone.
    pub(super) fn pair(&self) -> &Pair {
        self.newest().pair
    }

    pub(super) fn key(&self) -> &[u8] {
        self.pair().key()
    }

    fn newest(&self) -> Version<'_> {
        match &self.0 {
            Versions::First { pair, revision, lease } => Version {
                pair,
                mod_revision: *revision,
                create_revision: *revision,
                version: 1,
                lease: *lease,
            },
            Versions::Many(many) => many.newest.shown(),
        }
    }

    /// All but the newest, oldest first.
    fn older(&self) -> &[Kept] {
        match &self.0 {
            Versions::First { .. } => &[],
            Versions::Many(many) => many.older.as_deref().map_or(&[], |older| &older.0),
        }
    }

    /// The revision of the last change.
    pub(super) fn last_changed(&self) -> i64 {
        self.newest().mod_revision
    }

    /// The newest version, if the key exists now.
    pub(super) fn live(&self) -> Option<Version<'_>> {
        // A first version is a put: its pair, which is elsewhere in memory, need not be looked at.
        let put = matches!(self.0, Versions::First { .. }) || self.pair().is_put();
        put.then(|| self.newest())
    }

    /// The version a reader at `revision` sees, if the key existed then.
    pub(super) fn at(&self, revision: i64) -> Option<Version<'_>> {
        if self.last_changed() <= revision {
            return self.live();
        }
        let older = self.older();
        let seen = older[older.partition_point(|v| v.mod_revision <= revision).checked_sub(1)?].shown();
        Some(seen).filter(|version| version.pair.is_put())
    }

    /// What was put at `revision`. The same transaction may have deleted it again, which no reader
    /// ever sees, but every watcher; it cannot have put it twice.
    pub(super) fn put_at(&self, revision: i64) -> Option<Version<'_>> {
        let put = |v: &Version<'_>| v.mod_revision == revision && v.pair.is_put();
        if put(&self.newest()) {
            return Some(self.newest());
        }
        let older = self.older();
        let first = older.partition_point(|v| v.mod_revision < revision);
        older[first..].iter().map(Kept::shown).take_while(|v| v.mod_revision == revision).find(put)
    }

    /// The versions, the first of which becomes one of many.
    fn many(&mut self) -> &mut Many {
        if let Versions::First { .. } = self.0 {
            let newest = self.newest().kept();
            self.0 = Versions::Many(Box::new(Many { newest, older: None }));
        }
        match &mut self.0 {
            Versions::Many(many) => many,
            Versions::First { .. } => unreachable!("it was just replaced"),
        }
    }

    /// Adds a version.
    pub(super) fn push(&mut self, version: Kept) {
        let many = self.many();
        let replaced = std::mem::replace(&mut many.newest, version);
        // Of a key that has two versions most have no more: a vector's first growth is to four.
        let older = many.older.get_or_insert_with(|| Box::new(Older(Vec::with_capacity(1))));
        older.0.push(replaced);
    }

    /// Removes what was written at `revision` or later; true if nothing is left.
    pub(super) fn undo(&mut self, revision: i64) -> bool {
        while self.newest().mod_revision >= revision {
            let many = self.many();
            let Some(before) = many.older.as_deref_mut().and_then(|older| older.0.pop()) else { return true };
            many.newest = before;
            many.tidy();
        }
        false
    }

    /// Removes what neither a reader nor a watcher at `revision` or later can see; `dropped` is called with each. True
    /// if nothing is left.
    pub(super) fn compact(&mut self, revision: i64, mut dropped: impl FnMut(Version<'_>)) -> bool {
        let Versions::Many(many) = &mut self.0 else { return false };
        if let Some(Older(older)) = many.older.as_deref_mut() {
            let before = older.partition_point(|v| v.mod_revision < revision);
            let next = older.get(before).unwrap_or(&many.newest).mod_revision;
            // The last one before it is what a reader there sees, unless that was replaced or deleted by then.
            let seen = next > revision && before > 0 && older[before - 1].pair.is_put();
            older.drain(..before - usize::from(seen)).for_each(|version| dropped(version.shown()));
        }
        many.tidy();
        let gone = many.newest.mod_revision < revision && !many.newest.pair.is_put();
        if gone {
            dropped(many.newest.shown());
        }
        gone
    }
}

impl Many {
    /// An empty list of older versions is none.
    fn tidy(&mut self) {
        self.older.take_if(|older| older.0.is_empty());
    }
}

impl Kept {
    /// The version that says the key is gone.
    pub(super) fn tombstone(key: &[u8], mod_revision: i64) -> Self {
        Self { pair: Pair::tombstone(key), mod_revision, create_revision: 0, version: 0, lease: 0 }
    }

    pub(super) fn shown(&self) -> Version<'_> {
        let Self { pair, mod_revision, create_revision, version, lease } = self;
        Version {
            pair,
            mod_revision: *mod_revision,
            create_revision: *create_revision,
            version: *version,
            lease: *lease,
        }
    }
}

impl From<&pb::KeyValue> for Kept {
    fn from(kv: &pb::KeyValue) -> Self {
        Self {
            pair: Pair::new(&kv.key, &kv.value),
            mod_revision: kv.mod_revision,
            create_revision: kv.create_revision,
            version: kv.version,
            lease: kv.lease,
        }
    }
}

impl<'a> Version<'a> {
    /// What is shown of a key that is gone.
    pub(super) fn tombstone(pair: &'a Pair, mod_revision: i64) -> Self {
        Self { pair, mod_revision, create_revision: 0, version: 0, lease: 0 }
    }

    fn kept(self) -> Kept {
        let Self { pair, mod_revision, create_revision, version, lease } = self;
        Kept { pair: pair.clone(), mod_revision, create_revision, version, lease }
    }

    /// Bytes of the key and this value.
    pub(super) fn size(self) -> i64 {
        self.pair.size() as i64
    }

    /// As a message.
    pub(super) fn key_value(self) -> pb::KeyValue {
        pb::KeyValue {
            key: self.pair.key().to_vec().into(),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            value: self.pair.value().to_vec().into(),
            lease: self.lease,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(mod_revision: i64, put: bool) -> Kept {
        let version = Kept::tombstone(b"k", mod_revision);
        if put { Kept { pair: Pair::new("k", "v"), version: 1, ..version } } else { version }
    }

    fn history(revisions: &[(i64, bool)]) -> History {
        let mut all = revisions.iter().map(|(revision, put)| kept(*revision, *put));
        let mut history = History::new(all.next().expect("a history has a version"));
        all.for_each(|version| history.push(version));
        history
    }

    fn versions(history: &History) -> Vec<(i64, bool)> {
        let all = history.older().iter().map(Kept::shown).chain([history.newest()]);
        all.map(|v| (v.mod_revision, v.pair.is_put())).collect()
    }

    fn compacted(revisions: &[(i64, bool)], at: i64) -> Vec<(i64, bool)> {
        let mut history = history(revisions);
        let mut dropped = 0;
        let gone = history.compact(at, |_| dropped += 1);
        let kept = if gone { vec![] } else { versions(&history) };
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

    #[test]
    fn what_is_undone_was_never_there() {
        let mut history = history(&[(2, true), (6, true), (6, false)]);
        assert!(!history.undo(7) && versions(&history).len() == 3);
        assert!(!history.undo(6));
        assert_eq!(versions(&history), [(2, true)]);
        assert!(history.undo(2));
    }

    #[test]
    fn a_new_key_is_told_from_one_that_was_written_before() {
        let first = History::new(Kept { create_revision: 5, ..kept(5, true) });
        assert!(matches!(first.0, Versions::First { .. }));
        for other in [
            Kept { create_revision: 4, ..kept(5, true) },
            Kept { create_revision: 5, version: 2, ..kept(5, true) },
            kept(5, false),
        ] {
            let history = History::new(other.clone());
            assert!(matches!(history.0, Versions::Many(_)));
            assert_eq!(
                (history.newest().create_revision, history.newest().version),
                (other.create_revision, other.version)
            );
        }
    }
}
