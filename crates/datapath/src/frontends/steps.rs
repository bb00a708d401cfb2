//! The way from one table of slots to another where few of many backends differ: the slots are
//! written in place, one by one, and whenever a lookup comes, it finds the old list or the new one.

use crate::maps::lb::L4;

/// A table that has this many times the backends that change is changed in place.
const MANY: usize = 8;

/// One step of a change in place: first a slot is written, then the frontend, then a slot removed.
/// Whenever a lookup comes, the slots below `count` hold backends of the old list or of the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) write: Option<(u32, L4)>,
    pub(super) count: u32,
    pub(super) remove: Option<u32>,
}

/// The steps from one list of backends to another, both sorted, where few of many differ: these are
/// `gone`, and these `new`. `slots` is the table, as it is and then as it will be.
pub(super) fn steps(gone: &[L4], new: &[L4], slots: &mut Vec<L4>) -> Option<Vec<Step>> {
    if gone.len().max(new.len()) * MANY > slots.len() {
        return None;
    }
    let mut steps = vec![];
    let count = |slots: &[L4]| u32::try_from(slots.len()).ok();
    let (mut gone, mut new) = (gone.iter(), new.iter());
    loop {
        steps.push(match (gone.next(), new.next()) {
            (Some(gone), Some(new)) => {
                let at = slots.iter().position(|held| held == gone)?;
                slots[at] = *new;
                Step { write: Some((u32::try_from(at).ok()?, *new)), count: count(slots)?, remove: None }
            }
            (None, Some(new)) => {
                slots.push(*new);
                let count = count(slots)?;
                Step { write: Some((count - 1, *new)), count, remove: None }
            }
            // The last one takes the place of the one that goes.
            (Some(gone), None) => {
                let at = slots.iter().position(|held| held == gone)?;
                slots.swap_remove(at);
                let count = count(slots)?;
                let moved = slots.get(at).map(|moved| Some((u32::try_from(at).ok()?, *moved)));
                Step { write: moved.flatten(), count, remove: Some(count) }
            }
            (None, None) => return Some(steps),
        });
    }
}

/// What is only in the one list and only in the other; `None` if they are not sorted, as lists are
/// that name a backend twice.
pub(super) fn difference(before: &[L4], now: &[L4]) -> Option<(Vec<L4>, Vec<L4>)> {
    let sorted = |list: &[L4]| list.is_sorted_by(|a, b| a < b);
    if !sorted(before) || !sorted(now) {
        return None;
    }
    let (mut gone, mut new) = (vec![], vec![]);
    let (mut before, mut now) = (before.iter().peekable(), now.iter().peekable());
    loop {
        let order = match (before.peek(), now.peek()) {
            (Some(b), Some(n)) => b.cmp(n),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => return Some((gone, new)),
        };
        let gone_one = before.next_if(|_| order.is_le());
        let new_one = now.next_if(|_| order.is_ge());
        if !order.is_eq() {
            gone.extend(gone_one);
            new.extend(new_one);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use causeway_model::Protocol;
    use causeway_model::lb::L4Addr;

    use super::*;

    fn list(numbers: &[u16]) -> Vec<L4> {
        let address = |n: &u16| L4Addr { ip: "10.0.0.1".parse().unwrap(), port: *n, protocol: Protocol::TCP };
        numbers.iter().map(|n| address(n).into()).collect()
    }

    fn set(list: &[L4]) -> BTreeSet<L4> {
        list.iter().copied().collect()
    }

    fn between(before: &[L4], now: &[L4], slots: &mut Vec<L4>) -> Option<Vec<Step>> {
        let (gone, new) = difference(before, now)?;
        steps(&gone, &new, slots)
    }

    /// Every list of 16 to 20 backends that differs by up to two from the one before, for a while.
    #[test]
    fn a_table_changed_in_place_is_whole_after_every_step() {
        let mut numbers: Vec<u16> = (100..118).collect();
        let mut slots = list(&numbers);
        let mut table: BTreeMap<u32, L4> = (0..).zip(slots.clone()).collect();
        for round in 0..500u16 {
            let before = list(&numbers);
            let (add, drop) = ((round / 7) % 3, (round / 3) % 3);
            for n in 0..drop.min(numbers.len().saturating_sub(16) as u16) {
                numbers.remove((round * 31 + n * 7) as usize % numbers.len());
            }
            (0..add).for_each(|n| {
                let number = 1000 + round * 3 + n;
                if numbers.len() < 20 {
                    numbers.push(number);
                }
            });
            let now = list(&numbers);
            let old_or_new: BTreeSet<L4> = set(&before).union(&set(&now)).copied().collect();
            for step in between(&before, &now, &mut slots).expect("few of many differ") {
                table.extend(step.write);
                let live: Vec<_> = (0..step.count).map(|index| table.get(&index)).collect();
                assert!(
                    live.iter().all(|slot| slot.is_some_and(|slot| old_or_new.contains(slot))),
                    "{live:?}"
                );
                if let Some(index) = step.remove {
                    assert_eq!(index, step.count);
                    table.remove(&index);
                }
            }
            assert_eq!(table.values().copied().collect::<BTreeSet<_>>(), set(&now));
            assert_eq!(table.into_values().collect::<Vec<_>>(), slots);
            table = (0..).zip(slots.clone()).collect();
        }
    }

    #[test]
    fn what_is_better_written_anew() {
        let (few, many) = (list(&[1, 2, 3]), list(&(0..80).collect::<Vec<_>>()));
        assert_eq!(between(&few, &list(&[1, 2]), &mut few.clone()), None, "few backends");
        let with = |count| between(&many, &list(&(0..count).collect::<Vec<_>>()), &mut many.clone());
        assert_eq!(with(69), None, "much changes");
        assert_eq!(with(70).map(|s| s.len()), Some(10));
        assert_eq!(difference(&list(&[2; 80]), &list(&[2; 80])), None, "not sorted");
        assert_eq!(
            between(&many, &list(&(1..80).collect::<Vec<_>>()), &mut list(&(1..80).collect::<Vec<_>>())),
            None,
            "not the table"
        );
    }
}
