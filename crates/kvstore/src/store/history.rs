//! The versions of one key.

use bytes::Bytes;

use crate::pb;

/// One version of a key; without a value it is a tombstone.
#[derive(Debug, Clone)]
pub(super) struct Version {
    pub(super) mod_revision: i64,
    pub(super) create_revision: i64,
    /// Writes since the key was created; 0 for a tombstone.
    pub(super) version: i64,
    pub(super) lease: i64,
    pub(super) value: Option<Bytes>,
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

    /// Adds a version. Two writes in one transaction share a revision: the later one replaces the
    /// earlier, which no reader can ever see.
    pub(super) fn push(&mut self, version: Version) {
        if self.0.last().is_some_and(|last| last.mod_revision == version.mod_revision) {
            self.0.pop();
        }
        if self.0.is_empty() {
            // Most keys only ever have one version; a vector's first growth is to four.
            self.0.reserve_exact(1);
        }
        self.0.push(version);
    }

    /// Drops what no reader at or after `revision` can see; true when nothing is left.
    pub(super) fn compact(&mut self, revision: i64) -> bool {
        if let Some(seen) = self.0.iter().rposition(|v| v.mod_revision <= revision) {
            let tombstone = self.0[seen].value.is_none();
            self.0.drain(..seen + usize::from(tombstone));
        }
        self.0.is_empty()
    }
}

impl Version {
    /// As the wire shows it.
    pub(super) fn key_value(&self, key: &Bytes) -> pb::KeyValue {
        pb::KeyValue {
            key: key.clone(),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            value: self.value.clone().unwrap_or_default(),
            lease: self.lease,
        }
    }
}
