//! All keys in their order, each with its history.
//!
//! A search tree of two levels: rows of histories, and the list of rows. With hundreds of thousands of keys what counts
//! is memory, and how many cache lines a search touches: a key costs its history's 24 bytes, and nothing else.

use std::ops::Bound;

use super::history::History;
use super::pair::Pair;
use super::range::KeyRange;

/// Most histories of a row: 6 KiB, what an insertion moves half of.
const MOST: usize = 256;

/// Histories by key.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// None is empty.
    rows: Vec<Row>,
    len: usize,
}

#[derive(Debug)]
struct Row {
    /// No key of the row is before this one, and all of the rows before are. It need not be there any more.
    from: Pair,
    histories: Vec<History>,
}

/// Where a key is, or would be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    row: usize,
    at: usize,
}

impl Tree {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Where a key is; else where it is to be inserted.
    pub(super) fn find(&self, key: &[u8]) -> Result<Place, Place> {
        let row = self.rows.partition_point(|row| row.from.key() <= key).saturating_sub(1);
        let histories = self.rows.get(row).map_or(&[][..], |row| &row.histories);
        match histories.binary_search_by(|history| history.key().cmp(key)) {
            Ok(at) => Ok(Place { row, at }),
            Err(at) => Err(Place { row, at }),
        }
    }

    pub(super) fn at(&self, Place { row, at }: Place) -> &History {
        &self.rows[row].histories[at]
    }

    pub(super) fn at_mut(&mut self, Place { row, at }: Place) -> &mut History {
        &mut self.rows[row].histories[at]
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&History> {
        self.find(key).ok().map(|place| self.at(place))
    }

    /// Inserts a history where its key was not found.
    pub(super) fn insert(&mut self, Place { row, at }: Place, history: History) {
        self.len += 1;
        let Some(found) = self.rows.get_mut(row) else {
            return self.rows.push(Row { from: history.pair().clone(), histories: vec![history] });
        };
        if at == 0 && history.key() < found.from.key() {
            found.from = history.pair().clone();
        }
        if found.histories.len() < MOST {
            return found.histories.insert(at, history);
        }
        // Keys that come in their order, as those of a listing do, leave full rows behind.
        let mut behind = found.histories.split_off(if at == MOST { MOST } else { MOST / 2 });
        match at.checked_sub(found.histories.len()) {
            Some(at) => behind.insert(at, history),
            None => found.histories.insert(at, history),
        }
        self.rows.insert(row + 1, Row { from: behind[0].pair().clone(), histories: behind });
    }

    pub(super) fn remove(&mut self, Place { row, at }: Place) {
        self.len -= 1;
        self.rows[row].histories.remove(at);
        let size = |rows: &[Row], row: usize| rows.get(row).map(|row| row.histories.len());
        match (size(&self.rows, row), size(&self.rows, row + 1)) {
            (Some(0), _) => drop(self.rows.remove(row)),
            // So that many removals do not leave many small rows.
            (Some(one), Some(next)) if one + next <= MOST / 2 => {
                let next = self.rows.remove(row + 1);
                self.rows[row].histories.extend(next.histories);
            }
            _ => {}
        }
    }

    /// The histories of a range, in order of their keys. Both ends are looked for once, so that no key between them is
    /// looked at.
    pub(super) fn range(&self, range: &KeyRange) -> impl Iterator<Item = &History> {
        let place = |key| self.find(key).unwrap_or_else(|place| place);
        let first = place(range.start());
        let end = match range.last() {
            Bound::Included(key) => match self.find(key) {
                Ok(Place { row, at }) => Place { row, at: at + 1 },
                Err(place) => place,
            },
            Bound::Excluded(key) => place(key),
            Bound::Unbounded => Place { row: self.rows.len(), at: 0 },
        };
        (first.row..self.rows.len().min(end.row + 1)).flat_map(move |row| {
            let all = &self.rows[row].histories;
            let from = if row == first.row { first.at } else { 0 };
            let to = if row == end.row { end.at } else { all.len() };
            all.get(from..to).unwrap_or_default()
        })
    }

    /// Makes all rows full: those that have grown key by key are not.
    pub(super) fn defragment(&mut self) {
        let mut left = self.len;
        let mut all = std::mem::take(&mut self.rows).into_iter().flat_map(|row| row.histories);
        self.rows.reserve_exact(left.div_ceil(MOST));
        while left > 0 {
            let size = left.min(MOST);
            let mut histories = Vec::with_capacity(size);
            histories.extend(all.by_ref().take(size));
            left -= size;
            self.rows.push(Row { from: histories[0].pair().clone(), histories });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn insert(tree: &mut Tree, n: u16) -> bool {
        let key = format!("{n:05}");
        let place = tree.find(key.as_bytes());
        if let Err(place) = place {
            tree.insert(place, History::first(Pair::new(key, ""), n.into(), 0));
        }
        place.is_err()
    }

    fn keys(tree: &Tree, range: &KeyRange) -> Vec<String> {
        tree.range(range).map(|history| String::from_utf8_lossy(history.key()).into_owned()).collect()
    }

    fn sound(tree: &Tree) {
        let all = KeyRange::new("\0".into(), "\0".into());
        assert_eq!(keys(tree, &all).len(), tree.len());
        assert!(tree.rows.iter().all(|row| (1..=MOST).contains(&row.histories.len())));
        assert!(tree.rows.iter().all(|row| row.from.key() <= row.histories[0].key()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(50))]

        #[test]
        fn it_is_a_map(
            steps in prop::collection::vec((0..4u8, 0..3000u16, 0..600u16), 1..40),
            asked in (0..3000u16, 0..3000u16),
        ) {
            let (mut tree, mut map) = (Tree::default(), BTreeMap::new());
            // Runs of keys, in their order, backwards, and removed again.
            for (what, from, count) in steps {
                for n in from..from + count {
                    match what {
                        0 => prop_assert_eq!(insert(&mut tree, n), map.insert(n, ()).is_none()),
                        1 => {
                            let n = 2 * from + count - n;
                            prop_assert_eq!(insert(&mut tree, n), map.insert(n, ()).is_none());
                        }
                        2 => {
                            let place = tree.find(format!("{n:05}").as_bytes());
                            prop_assert_eq!(place.is_ok(), map.remove(&n).is_some());
                            if let Ok(place) = place {
                                tree.remove(place);
                            }
                        }
                        _ => {}
                    }
                }
                if what == 3 {
                    tree.defragment();
                    prop_assert!(tree.rows.iter().rev().skip(1).all(|row| row.histories.len() == MOST));
                }
                sound(&tree);
            }
            prop_assert_eq!(tree.len(), map.len());
            let (start, end) = (asked.0.min(asked.1), asked.0.max(asked.1));
            let key = |n: u16| bytes::Bytes::from(format!("{n:05}"));
            let want: Vec<_> = map.range(start..end).map(|(n, ())| format!("{n:05}")).collect();
            prop_assert_eq!(keys(&tree, &KeyRange::new(key(start), key(end))), if start < end { want } else { vec![] });
            let want: Vec<_> = map.range(start..).map(|(n, ())| format!("{n:05}")).collect();
            prop_assert_eq!(keys(&tree, &KeyRange::new(key(start), "\0".into())), want);
            let found = keys(&tree, &KeyRange::single(key(start)));
            prop_assert_eq!(found.len(), usize::from(map.contains_key(&start)));
            prop_assert_eq!(tree.get(&key(start)).is_some(), map.contains_key(&start));
        }
    }

    #[test]
    fn keys_in_their_order_leave_full_rows() {
        let mut tree = Tree::default();
        assert!((0..1000).all(|n| insert(&mut tree, n)));
        assert_eq!(tree.rows.len(), 1000usize.div_ceil(MOST));
        assert_eq!(size_of::<History>(), 24);
    }
}
