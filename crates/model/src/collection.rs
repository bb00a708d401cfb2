//! The state behind a stream of [`Event`]s, with the swap of generations done once, here.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Event, Keyed};

/// A keyed collection fed by events. It keeps the old generation in force between `Reset` and
/// `Synced`, and reports only what really changed.
#[derive(Debug, Clone)]
pub struct Collection<T: Keyed> {
    items: BTreeMap<T::Key, T>,
    /// Keys of the old generation that the listing under way has not named yet.
    stale: Option<BTreeSet<T::Key>>,
    synced: bool,
}

/// What one event changed in a [`Collection`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<T: Keyed> {
    /// The value is new or differs; the value before, if there was one.
    Set(T::Key, Option<T>),
    /// The value is gone; this was it.
    Gone(T::Key, T),
}

impl<T: Keyed> Change<T> {
    /// The key that changed.
    pub fn key(&self) -> &T::Key {
        match self {
            Change::Set(key, _) | Change::Gone(key, _) => key,
        }
    }

    /// The key that changed, and the value before if there was one.
    pub fn into_parts(self) -> (T::Key, Option<T>) {
        match self {
            Change::Set(key, before) => (key, before),
            Change::Gone(key, before) => (key, Some(before)),
        }
    }
}

impl<T: Keyed> Default for Collection<T> {
    fn default() -> Self {
        Self { items: BTreeMap::new(), stale: None, synced: false }
    }
}

impl<T: Keyed + PartialEq> Collection<T> {
    /// An empty collection, not synced.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one event and says what it changed, in key order. An upsert of an equal value
    /// changes nothing; a `Synced` without a `Reset` before it only marks the collection synced.
    pub fn apply(&mut self, event: Event<T>) -> Vec<Change<T>> {
        match event {
            Event::Reset => {
                self.stale = Some(self.items.keys().cloned().collect());
                vec![]
            }
            Event::Upsert(value) => {
                let key = value.key();
                if let Some(stale) = &mut self.stale {
                    stale.remove(&key);
                }
                if self.items.get(&key) == Some(&value) {
                    return vec![];
                }
                let before = self.items.insert(key.clone(), value);
                vec![Change::Set(key, before)]
            }
            Event::Remove(key) => {
                if let Some(stale) = &mut self.stale {
                    stale.remove(&key);
                }
                self.items.remove(&key).map(|old| Change::Gone(key, old)).into_iter().collect()
            }
            Event::Synced => {
                self.synced = true;
                let stale = self.stale.take().unwrap_or_default();
                stale
                    .into_iter()
                    .filter_map(|key| self.items.remove(&key).map(|old| Change::Gone(key, old)))
                    .collect()
            }
        }
    }
}

impl<T: Keyed> Collection<T> {
    /// The value of a key.
    pub fn get(&self, key: &T::Key) -> Option<&T> {
        self.items.get(key)
    }

    /// All values in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&T::Key, &T)> {
        self.items.iter()
    }

    /// How many values.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True without values.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// True once a full listing has been seen; a later listing under way does not unset it.
    pub fn is_synced(&self) -> bool {
        self.synced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Item(u8, u8);
    impl Keyed for Item {
        type Key = u8;
        fn key(&self) -> u8 {
            self.0
        }
    }

    #[test]
    fn generations_swap_without_a_gap() {
        let mut c = Collection::new();
        for event in [Event::Reset, Event::Upsert(Item(1, 1)), Event::Upsert(Item(2, 2))] {
            c.apply(event);
        }
        assert!(!c.is_synced());
        assert_eq!(c.apply(Event::Synced), vec![]);
        assert!(c.is_synced());
        // A relist that breaks off and starts again deletes nothing before it is complete.
        for event in [Event::Reset, Event::Upsert(Item(2, 2)), Event::Reset] {
            assert_eq!(c.apply(event), vec![]);
        }
        assert_eq!(c.len(), 2);
        assert_eq!(c.apply(Event::Upsert(Item(1, 9))), vec![Change::Set(1, Some(Item(1, 1)))]);
        assert_eq!(c.apply(Event::Synced), vec![Change::Gone(2, Item(2, 2))]);
        assert_eq!(c.apply(Event::Upsert(Item(1, 9))), vec![]);
        assert_eq!(c.apply(Event::Remove(1)), vec![Change::Gone(1, Item(1, 9))]);
        assert!(c.is_empty());
    }
}
