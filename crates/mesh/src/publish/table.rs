//! The desired keys of one kind.

use std::collections::BTreeSet;

use causeway_kvstore::{ByKey, Pair};

use super::{Op, text};

/// Keys and values of one prefix, with the swap of generations between `Reset` and `Synced`.
#[derive(Debug)]
pub(super) struct Table {
    prefix: String,
    /// There may be a hundred thousand, and all are kept in case that the lease is lost: of none the embedded store
    /// has another copy.
    desired: BTreeSet<ByKey>,
    stale: Option<BTreeSet<ByKey>>,
    synced: bool,
}

impl Table {
    pub(super) fn new(prefix: String) -> Self {
        Self { prefix, desired: BTreeSet::new(), stale: None, synced: false }
    }

    pub(super) fn is_synced(&self) -> bool {
        self.synced
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Pair> {
        self.desired.iter().map(|ByKey(pair)| pair)
    }

    fn key(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.prefix)
    }

    pub(super) fn len(&self) -> usize {
        self.desired.len()
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.desired.contains(key.as_bytes())
    }

    pub(super) fn reset(&mut self) {
        self.stale = Some(self.desired.clone());
    }

    /// Nothing if the value is the one already wanted.
    pub(super) fn put(&mut self, suffix: &str, value: &[u8]) -> Option<Op> {
        let pair = Pair::new(self.key(suffix), value);
        if let Some(stale) = &mut self.stale {
            stale.remove(pair.key());
        }
        if self.desired.get(pair.key()).is_some_and(|ByKey(held)| *held == pair) {
            return None;
        }
        self.desired.replace(ByKey(pair.clone()));
        Some(Op::Put(pair))
    }

    pub(super) fn delete(&mut self, suffix: &str) -> Option<Op> {
        let key = self.key(suffix);
        if let Some(stale) = &mut self.stale {
            stale.remove(key.as_bytes());
        }
        self.desired.remove(key.as_bytes()).then_some(Op::Delete { key })
    }

    pub(super) fn synced(&mut self) -> Vec<Op> {
        self.synced = true;
        let stale = self.stale.take().unwrap_or_default();
        let gone = stale.into_iter().filter(|pair| self.desired.remove(pair));
        let gone = gone.map(|ByKey(pair)| Op::Delete { key: text(&pair).to_owned() }).collect();
        // A tree that grew key by key is two fifths empty; built at once it is full.
        self.desired = std::mem::take(&mut self.desired).into_iter().collect();
        gone
    }
}
