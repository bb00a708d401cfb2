//! The desired keys of one kind.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::Op;

/// Keys and values of one prefix, with the swap of generations between `Reset` and `Synced`.
#[derive(Debug)]
pub(super) struct Table {
    prefix: String,
    /// The values are shared with the embedded store, not copied.
    desired: BTreeMap<String, Bytes>,
    stale: Option<BTreeSet<String>>,
    synced: bool,
}

impl Table {
    pub(super) fn new(prefix: String) -> Self {
        Self { prefix, desired: BTreeMap::new(), stale: None, synced: false }
    }

    pub(super) fn is_synced(&self) -> bool {
        self.synced
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.desired.iter().map(|(key, value)| (key.as_str(), value))
    }

    pub(super) fn len(&self) -> usize {
        self.desired.len()
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.desired.contains_key(key)
    }

    pub(super) fn reset(&mut self) {
        self.stale = Some(self.desired.keys().cloned().collect());
    }

    /// Nothing if the value is the one already wanted.
    pub(super) fn put(&mut self, suffix: &str, value: Bytes) -> Option<Op> {
        let key = format!("{}{suffix}", self.prefix);
        if let Some(stale) = &mut self.stale {
            stale.remove(&key);
        }
        if self.desired.get(&key) == Some(&value) {
            return None;
        }
        self.desired.insert(key.clone(), value.clone());
        Some(Op::Put { key, value })
    }

    pub(super) fn delete(&mut self, suffix: &str) -> Option<Op> {
        let key = format!("{}{suffix}", self.prefix);
        if let Some(stale) = &mut self.stale {
            stale.remove(&key);
        }
        self.desired.remove(&key).map(|_| Op::Delete { key })
    }

    pub(super) fn synced(&mut self) -> Vec<Op> {
        self.synced = true;
        let stale = self.stale.take().unwrap_or_default();
        stale
            .into_iter()
            .filter(|key| self.desired.remove(key).is_some())
            .map(|key| Op::Delete { key })
            .collect()
    }
}
