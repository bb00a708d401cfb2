//! Services made true: frontends and their tables of backends.

use std::collections::BTreeMap;

use causeway_model::lb::{self, Backend, L4Addr};
use causeway_model::{Change, Collection, Event};

use crate::Error;
use crate::maps::Table;
use crate::maps::lb::{Frontend, L4, Slot, kind_number};

/// The single writer of the load-balancer maps.
#[derive(Debug)]
pub(crate) struct Frontends {
    desired: Collection<lb::Frontend>,
    frontends: Table<L4, Frontend>,
    slots: Table<Slot, L4>,
    /// What the slots of a frontend hold, in their order, where we have written or read them.
    written: BTreeMap<L4Addr, Vec<L4>>,
    next_service: u32,
}

impl Frontends {
    /// Adopts what an earlier process left in the maps.
    pub(crate) fn new(frontends: Table<L4, Frontend>, slots: Table<Slot, L4>) -> Result<Self, Error> {
        let highest = frontends.entries()?.iter().map(|(_, f)| f.service).max().unwrap_or(0);
        let written = BTreeMap::new();
        Ok(Self { desired: Collection::new(), frontends, slots, written, next_service: highest + 1 })
    }

    /// Applies one change; see [`crate::Datapath::apply_frontend`].
    pub(crate) fn apply(&mut self, event: Event<lb::Frontend>) -> Result<(), Error> {
        let synced = matches!(event, Event::Synced);
        for change in self.desired.apply(event) {
            match change {
                Change::Set(address, before) => {
                    let before = before.map(|frontend| frontend.backends).unwrap_or_default();
                    if !self.change(address, &before)? {
                        self.program(address)?;
                    }
                }
                Change::Gone(address, _) => {
                    self.written.remove(&address);
                    self.remove(&address.into())?;
                }
            }
        }
        if synced { self.sweep() } else { Ok(()) }
    }

    /// Changes a few of many backends in the table as it is; false where it is better written anew.
    fn change(&mut self, address: L4Addr, before: &[Backend]) -> Result<bool, Error> {
        // Forgotten until all of it is written: an error leaves the rest to a repair.
        let Some(mut slots) = self.written.remove(&address) else { return Ok(false) };
        let now = &self.desired.get(&address).expect("the caller has found it there").backends;
        let (key, steps) = (L4::from(address), steps(before, now, &mut slots));
        let (Some(steps), Some(mut frontend)) = (steps, self.frontends.get(&key)?) else { return Ok(false) };
        for step in steps {
            let Frontend { service, generation, .. } = frontend;
            if let Some((index, backend)) = step.write {
                self.slots.set(Slot { service, generation, index }, backend)?;
            }
            // The memory of the slot that was written is used again by the next one: a lookup that
            // still reads it must see that the frontend is another.
            frontend.count = step.count;
            frontend.version = frontend.version.wrapping_add(1);
            self.frontends.set(key, frontend)?;
            if let Some(index) = step.remove {
                self.slots.remove(&Slot { service, generation, index })?;
            }
        }
        self.written.insert(address, slots);
        Ok(true)
    }

    /// Writes a new generation of a frontend's table, switches to it, and removes the old one.
    /// What is already as it should be, as after a restart, is left alone.
    fn program(&mut self, address: L4Addr) -> Result<(), Error> {
        self.written.remove(&address);
        let key = L4::from(address);
        let wanted = self.desired.get(&address).expect("the caller has found it there");
        let backends: Vec<L4> = wanted.backends.iter().map(|b| b.address.into()).collect();
        let old = self.frontends.get(&key)?;
        if let Some(old) = old
            && let Some(slots) = self.holds(old, &backends)?
        {
            self.written.insert(address, slots);
            return Ok(());
        }
        let (service, generation, version) = match old {
            Some(old) => (old.service, old.generation.wrapping_add(1), old.version.wrapping_add(1)),
            None => {
                self.next_service += 1;
                (self.next_service - 1, 0, 0)
            }
        };
        let count = u32::try_from(backends.len()).unwrap_or(u32::MAX);
        for (index, backend) in (0..count).zip(&backends) {
            self.slots.set(Slot { service, generation, index }, *backend)?;
        }
        let kind = kind_number(wanted.kind);
        let affinity = wanted.balancing.affinity_seconds;
        let frontend =
            Frontend { service, generation, count, version, entries: 0, affinity, kind, flags: 0, pad: 0 };
        self.frontends.set(key, frontend)?;
        if let Some(old) = old {
            self.remove_slots(old)?;
        }
        self.written.insert(address, backends);
        Ok(())
    }

    /// The table of a frontend, if it has exactly these backends, in whatever order.
    fn holds(&self, frontend: Frontend, backends: &[L4]) -> Result<Option<Vec<L4>>, Error> {
        let Frontend { service, generation, count, .. } = frontend;
        if usize::try_from(count).ok() != Some(backends.len()) {
            return Ok(None);
        }
        let mut slots = Vec::with_capacity(backends.len());
        for index in 0..count {
            slots.extend(self.slots.get(&Slot { service, generation, index })?);
        }
        let sorted = |backends: &[L4]| {
            let mut backends = backends.to_vec();
            backends.sort_unstable();
            backends
        };
        Ok((sorted(&slots) == sorted(backends)).then_some(slots))
    }

    fn remove(&mut self, key: &L4) -> Result<(), Error> {
        let Some(old) = self.frontends.get(key)? else { return Ok(()) };
        self.frontends.remove(key)?;
        self.remove_slots(old)
    }

    fn remove_slots(&mut self, old: Frontend) -> Result<(), Error> {
        let Frontend { service, generation, count, .. } = old;
        (0..count).try_for_each(|index| self.slots.remove(&Slot { service, generation, index }))
    }

    /// Makes every frontend what it should be. Once a full listing is known, also removes every
    /// frontend beyond it and every slot of no frontend; before, those may still be wanted.
    pub(crate) fn sweep(&mut self) -> Result<(), Error> {
        let wanted: Vec<L4Addr> = self.desired.iter().map(|(address, _)| *address).collect();
        wanted.into_iter().try_for_each(|address| self.program(address))?;
        if !self.desired.is_synced() {
            return Ok(());
        }
        let mut live = std::collections::BTreeMap::new();
        for (key, value) in self.frontends.entries()? {
            match key.model().filter(|address| self.desired.get(address).is_some()) {
                Some(_) => drop(live.insert(value.service, value)),
                None => self.remove(&key)?,
            }
        }
        for (slot, _) in self.slots.entries()? {
            let used = live
                .get(&slot.service)
                .is_some_and(|f| f.generation == slot.generation && slot.index < f.count);
            if !used {
                self.slots.remove(&slot)?;
            }
        }
        Ok(())
    }

    /// How many frontends, and how many backends they have together.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.desired.len(), self.desired.iter().map(|(_, f)| f.backends.len()).sum())
    }
}

/// A table that has this many times the backends that change is changed in place.
const MANY: usize = 8;

/// One step of a change in place: first a slot is written, then the frontend, then a slot removed.
/// Whenever a lookup comes, the slots below `count` hold backends of the old list or of the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    write: Option<(u32, L4)>,
    count: u32,
    remove: Option<u32>,
}

/// The way from one list of backends to another, both sorted, where few of many differ. `slots` is the
/// table, as it is and then as it will be.
fn steps(before: &[Backend], now: &[Backend], slots: &mut Vec<L4>) -> Option<Vec<Step>> {
    let (gone, new) = difference(before, now)?;
    if gone.len().max(new.len()) * MANY > before.len() || slots.len() != before.len() {
        return None;
    }
    let mut steps = vec![];
    let count = |slots: &[L4]| u32::try_from(slots.len()).ok();
    let (mut gone, mut new) = (gone.into_iter(), new.into_iter());
    loop {
        steps.push(match (gone.next(), new.next()) {
            (Some(gone), Some(new)) => {
                let at = slots.iter().position(|held| *held == gone)?;
                slots[at] = new;
                Step { write: Some((u32::try_from(at).ok()?, new)), count: count(slots)?, remove: None }
            }
            (None, Some(new)) => {
                slots.push(new);
                let count = count(slots)?;
                Step { write: Some((count - 1, new)), count, remove: None }
            }
            // The last one takes the place of the one that goes.
            (Some(gone), None) => {
                let at = slots.iter().position(|held| *held == gone)?;
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
fn difference(before: &[Backend], now: &[Backend]) -> Option<(Vec<L4>, Vec<L4>)> {
    let sorted = |list: &[Backend]| list.is_sorted_by(|a, b| a.address < b.address);
    if !sorted(before) || !sorted(now) {
        return None;
    }
    let (mut gone, mut new) = (vec![], vec![]);
    let (mut before, mut now) = (before.iter().peekable(), now.iter().peekable());
    loop {
        let order = match (before.peek(), now.peek()) {
            (Some(b), Some(n)) => b.address.cmp(&n.address),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => return Some((gone, new)),
        };
        let gone_one = before.next_if(|_| order.is_le());
        let new_one = now.next_if(|_| order.is_ge());
        if !order.is_eq() {
            gone.extend(gone_one.map(|backend| L4::from(backend.address)));
            new.extend(new_one.map(|backend| L4::from(backend.address)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use causeway_model::Protocol;

    use super::*;

    fn list(numbers: &[u16]) -> Vec<Backend> {
        let address = |n: &u16| L4Addr { ip: "10.0.0.1".parse().unwrap(), port: *n, protocol: Protocol::TCP };
        numbers.iter().map(|n| Backend::new(address(n), None)).collect()
    }

    fn set(list: &[Backend]) -> BTreeSet<L4> {
        list.iter().map(|backend| backend.address.into()).collect()
    }

    /// Every list of 16 to 20 backends that differs by up to two from the one before, for a while.
    #[test]
    fn a_table_changed_in_place_is_whole_after_every_step() {
        let mut numbers: Vec<u16> = (100..118).collect();
        let mut slots: Vec<L4> = set(&list(&numbers)).into_iter().collect();
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
            for step in steps(&before, &now, &mut slots).expect("few of many differ") {
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
        let table = |list: &[Backend]| list.iter().map(|b| b.address.into()).collect::<Vec<L4>>();
        assert_eq!(steps(&few, &list(&[1, 2]), &mut table(&few)), None, "few backends");
        assert_eq!(
            steps(&many, &list(&(0..69).collect::<Vec<_>>()), &mut table(&many)),
            None,
            "much changes"
        );
        assert_eq!(
            steps(&many, &list(&(0..70).collect::<Vec<_>>()), &mut table(&many)).map(|s| s.len()),
            Some(10)
        );
        assert_eq!(steps(&list(&[2; 80]), &list(&[2; 80]), &mut table(&many)), None, "not sorted");
        assert_eq!(steps(&many, &many, &mut table(&few)), None, "not the table");
    }
}
