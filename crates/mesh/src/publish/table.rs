//! The desired keys of one kind.

use std::collections::{BTreeMap, BTreeSet};

use causeway_kvstore::Value;

use super::Op;

/// Keys and values of one prefix, with the swap of generations between `Reset` and `Synced`.
#[derive(Debug)]
pub(super) struct Table {
    prefix: String,
    /// By what follows the prefix. There may be a hundred thousand, and all are kept in case that the lease is
    /// lost: of each value the embedded store has no other copy.
    desired: BTreeMap<Box<str>, Value>,
    stale: Option<BTreeSet<Box<str>>>,
    synced: bool,
}

impl Table {
    pub(super) fn new(prefix: String) -> Self {
        Self { prefix, desired: BTreeMap::new(), stale: None, synced: false }
    }

    pub(super) fn is_synced(&self) -> bool {
        self.synced
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (String, Value)> {
        self.desired.iter().map(|(suffix, value)| (self.key(suffix), value.clone()))
    }

    fn key(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.prefix)
    }

    pub(super) fn len(&self) -> usize {
        self.desired.len()
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        key.strip_prefix(&self.prefix).is_some_and(|suffix| self.desired.contains_key(suffix))
    }

    pub(super) fn reset(&mut self) {
        self.stale = Some(self.desired.keys().cloned().collect());
    }

    /// Nothing if the value is the one already wanted.
    pub(super) fn put(&mut self, suffix: &str, value: Value) -> Option<Op> {
        if let Some(stale) = &mut self.stale {
            stale.remove(suffix);
        }
        if self.desired.get(suffix) == Some(&value) {
            return None;
        }
        self.desired.insert(suffix.into(), value.clone());
        Some(Op::Put { key: self.key(suffix), value })
    }

    pub(super) fn delete(&mut self, suffix: &str) -> Option<Op> {
        if let Some(stale) = &mut self.stale {
            stale.remove(suffix);
        }
        self.desired.remove(suffix).map(|_| Op::Delete { key: self.key(suffix) })
    }

    pub(super) fn synced(&mut self) -> Vec<Op> {
        self.synced = true;
        let stale = self.stale.take().unwrap_or_default();
        let gone = stale.into_iter().filter(|suffix| self.desired.remove(suffix).is_some());
        let gone =
            gone.map(|suffix| format!("{}{suffix}", self.prefix)).map(|key| Op::Delete { key }).collect();
        // A tree that grew key by key is two fifths empty; built at once it is full.
        self.desired = std::mem::take(&mut self.desired).into_iter().collect();
        gone
    }
}
