//! Services made true: frontends and their tables of backends.

mod plan;
mod references;
mod steps;

use std::collections::{BTreeMap, BTreeSet};

use aya::Ebpf;
use causeway_model::lb;
use causeway_model::{Change, Collection, Event};
use ipnet::IpNet;

use crate::maps::Table;
use crate::maps::lb::{Frontend, L4, Match, Slot, TableKey};
use crate::maps::lookup::{LookupTables, SourceRanges};
use crate::{Balance, Error};
use plan::Plan;
use references::{References, between};
use steps::{difference, steps};

/// The single writer of the load-balancer maps.
#[derive(Debug)]
pub(crate) struct Frontends {
    balance: Balance,
    /// Under native routing.
    native: bool,
    desired: Collection<lb::Frontend>,
    /// Of all of them; asked after every change, whatever it was.
    backends: usize,
    maps: Maps,
    references: References,
    /// What the slots of a frontend's list hold, in their order, where we have written or read them.
    written: BTreeMap<L4, Vec<L4>>,
    /// The source ranges this process has written.
    ranged: BTreeMap<(u32, u32), Vec<IpNet>>,
    next_service: u32,
    /// An earlier process has written frontends.
    adopted: bool,
}

#[derive(Debug)]
struct Maps {
    frontends: Table<L4, Frontend>,
    slots: Table<Slot, L4>,
    tables: LookupTables,
    matches: Table<Match, u32>,
    ranges: SourceRanges,
}

impl Frontends {
    /// Takes the maps out of a loaded object and adopts what an earlier process left in them.
    pub(crate) fn take(object: &mut Ebpf, balance: Balance, native: bool) -> Result<Self, Error> {
        let maps = Maps {
            frontends: Table::take(object, "cw_lb_frontends")?,
            slots: Table::take(object, "cw_lb_slots")?,
            tables: LookupTables::take(object)?,
            matches: Table::take(object, "cw_lb_matches")?,
            ranges: SourceRanges::take(object)?,
        };
        let references = References::new(Table::take(object, "cw_lb_backends")?);
        let highest = maps.frontends.entries()?.iter().map(|(_, f)| f.service).max().unwrap_or(0);
        Ok(Self {
            balance,
            native,
            desired: Collection::new(),
            backends: 0,
            maps,
            references,
            written: BTreeMap::new(),
            ranged: BTreeMap::new(),
            next_service: highest + 1,
            adopted: highest > 0,
        })
    }

    /// Applies one change; see [`crate::Datapath::apply_frontend`].
    pub(crate) fn apply(&mut self, event: Event<lb::Frontend>) -> Result<(), Error> {
        let synced = matches!(event, Event::Synced);
        // Every change is tried and counted: one the kernel refuses keeps none of the others back.
        let mut result = Ok(());
        for change in self.desired.apply(event) {
            result = result.and(match change {
                Change::Set(address, before) => {
                    let now = self.desired.get(&address).expect("it has just been set").clone();
                    self.backends += now.backends.len();
                    self.backends -= before.as_ref().map_or(0, |before| before.backends.len());
                    let (gone, new) = between(before.as_ref(), Some(&now));
                    // New backends are known before a frontend names them, old ones as long as it does.
                    let added = self.references.add(&new);
                    let set = self.set(&now, before.as_ref());
                    added.and(set).and(self.references.release(&gone))
                }
                Change::Gone(address, before) => {
                    self.backends -= before.backends.len();
                    let removed = self.remove(address.into());
                    removed.and(self.references.release(&between(Some(&before), None).0))
                }
            });
        }
        if synced { result.and_then(|()| self.sweep()) } else { result }
    }

    /// Makes a frontend's lists what they should be, in place where few of many backends change.
    fn set(&mut self, now: &lb::Frontend, before: Option<&lb::Frontend>) -> Result<(), Error> {
        let balance = self.balance.clone();
        let before = before.map(|before| Plan::of(before, &balance, self.native)).unwrap_or_default();
        for plan in Plan::of(now, &balance, self.native) {
            let like = before.iter().find(|before| before.is_like(&plan));
            let changed = like.map_or(Ok(false), |before| self.change(before, &plan))?;
            if !changed {
                self.program(&plan)?;
            }
        }
        if now.internal.is_none() && before.len() > 1 {
            self.remove_list(L4::from(now.address).internal())?;
        }
        Ok(())
    }

    /// Changes a few of many backends in the table as it is; false where it is better written anew.
    fn change(&mut self, before: &Plan<'_>, now: &Plan<'_>) -> Result<bool, Error> {
        // Forgotten until all of it is written: an error leaves the rest to a repair.
        let Some(mut slots) = self.written.remove(&now.key) else { return Ok(false) };
        if !before.is_plain() || !now.is_plain() || slots.len() != before.slots.len() {
            return Ok(false);
        }
        let Some((gone, new)) = difference(&before.slots, &now.slots) else { return Ok(false) };
        let Some(steps) = steps(&gone, &new, &mut slots) else { return Ok(false) };
        let Some(mut frontend) = self.maps.frontends.get(&now.key)? else { return Ok(false) };
        let Frontend { service, generation, .. } = frontend;
        if now.affinity > 0 {
            new.iter()
                .try_for_each(|backend| self.maps.matches.set(Match { backend: *backend, service }, 1))?;
        }
        for step in steps {
            if let Some((index, backend)) = step.write {
                self.maps.slots.set(Slot { service, generation, index }, backend)?;
            }
            // The memory of the slot that was written is used again by the next one: a lookup that
            // still reads it must see that the frontend is another.
            frontend.count = step.count;
            frontend.version = frontend.version.wrapping_add(1);
            self.maps.frontends.set(now.key, frontend)?;
            if let Some(index) = step.remove {
                self.maps.slots.remove(&Slot { service, generation, index })?;
            }
        }
        if now.affinity > 0 {
            gone.iter()
                .try_for_each(|backend| self.maps.matches.remove(&Match { backend: *backend, service }))?;
        }
        self.written.insert(now.key, slots);
        Ok(true)
    }

    /// Writes a new generation of a list's tables, switches to it, and removes the old one. What is
    /// already as it should be, as after a restart, is left alone.
    fn program(&mut self, plan: &Plan<'_>) -> Result<(), Error> {
        self.written.remove(&plan.key);
        let table = plan.table(&self.balance);
        let old = self.maps.frontends.get(&plan.key)?;
        if let Some(old) = old
            && let Some(slots) = self.holds(old, plan, &table)?
        {
            self.written.insert(plan.key, slots);
            return Ok(());
        }
        let (service, generation, version) = match old {
            Some(old) => (old.service, old.generation.wrapping_add(1), old.version.wrapping_add(1)),
            None => {
                self.next_service += 1;
                (self.next_service - 1, 0, 0)
            }
        };
        let tables = TableKey { service, generation };
        let count = u32::try_from(plan.slots.len()).unwrap_or(u32::MAX);
        for (index, backend) in (0..count).zip(&plan.slots) {
            self.maps.slots.set(Slot { service, generation, index }, *backend)?;
            if plan.affinity > 0 {
                self.maps.matches.set(Match { backend: *backend, service }, 1)?;
            }
        }
        if !table.is_empty() {
            self.maps.tables.set(tables, &table)?;
        }
        if !plan.ranges.is_empty() {
            self.ranged.insert((service, generation), plan.ranges.to_vec());
            plan.ranges.iter().try_for_each(|range| self.maps.ranges.add(tables, *range))?;
        }
        let Plan { kind, flags, affinity, .. } = *plan;
        let entries = u32::try_from(table.len()).unwrap_or(u32::MAX);
        let frontend =
            Frontend { service, generation, count, version, entries, affinity, kind, flags, pad: 0 };
        self.maps.frontends.set(plan.key, frontend)?;
        if let Some(old) = old {
            let kept: BTreeSet<L4> = plan.slots.iter().copied().filter(|_| affinity > 0).collect();
            self.remove_tables(old, &kept)?;
        }
        self.written.insert(plan.key, plan.slots.clone());
        Ok(())
    }

    /// The slots of a list in the kernel, if it is what it should be. Without a lookup table the slots
    /// may be in any order.
    fn holds(&self, frontend: Frontend, plan: &Plan<'_>, table: &[u16]) -> Result<Option<Vec<L4>>, Error> {
        let Frontend { service, generation, count, entries, affinity, kind, flags, .. } = frontend;
        let same = |number: u32, list: usize| usize::try_from(number).ok() == Some(list);
        if !same(count, plan.slots.len())
            || !same(entries, table.len())
            || (affinity, kind, flags) != (plan.affinity, plan.kind, plan.flags)
        {
            return Ok(None);
        }
        // Those of an earlier process are written anew.
        if self.ranged.get(&(service, generation)).map_or(&[][..], Vec::as_slice) != plan.ranges {
            return Ok(None);
        }
        let mut slots = Vec::with_capacity(plan.slots.len());
        for index in 0..count {
            let Some(backend) = self.maps.slots.get(&Slot { service, generation, index })? else {
                return Ok(None);
            };
            if affinity > 0 && self.maps.matches.get(&Match { backend, service })?.is_none() {
                return Ok(None);
            }
            slots.push(backend);
        }
        if !table.is_empty() {
            let held = self.maps.tables.get(TableKey { service, generation }, entries)?;
            return Ok((slots == plan.slots && held.as_deref() == Some(table)).then_some(slots));
        }
        let sorted = |backends: &[L4]| {
            let mut backends = backends.to_vec();
            backends.sort_unstable();
            backends
        };
        Ok((sorted(&slots) == sorted(&plan.slots)).then_some(slots))
    }

    /// Removes a frontend with all its lists; first the one that names the other.
    fn remove(&mut self, key: L4) -> Result<(), Error> {
        self.remove_list(key)?;
        self.remove_list(key.internal())
    }

    fn remove_list(&mut self, key: L4) -> Result<(), Error> {
        self.written.remove(&key);
        let Some(old) = self.maps.frontends.get(&key)? else { return Ok(()) };
        self.maps.frontends.remove(&key)?;
        self.remove_tables(old, &BTreeSet::new())
    }

    /// Removes what belongs to a list that is no longer used, but not the matches of `kept` backends.
    fn remove_tables(&mut self, old: Frontend, kept: &BTreeSet<L4>) -> Result<(), Error> {
        let Frontend { service, generation, count, .. } = old;
        for index in 0..count {
            let slot = Slot { service, generation, index };
            if old.affinity > 0
                && let Some(backend) = self.maps.slots.get(&slot)?.filter(|backend| !kept.contains(backend))
            {
                self.maps.matches.remove(&Match { backend, service })?;
            }
            self.maps.slots.remove(&slot)?;
        }
        let tables = TableKey { service, generation };
        if old.entries > 0 {
            self.maps.tables.remove(tables)?;
        }
        let ranges = self.ranged.remove(&(service, generation)).unwrap_or_default();
        ranges.into_iter().try_for_each(|range| self.maps.ranges.remove(tables, range))
    }

    /// Makes every frontend what it should be. Once a full listing is known, also removes every
    /// frontend beyond it and every entry of no frontend; before, those may still be wanted.
    pub(crate) fn sweep(&mut self) -> Result<(), Error> {
        let all_known = self.desired.is_synced();
        self.references.sweep(false)?;
        let wanted: Vec<lb::Frontend> = self.desired.iter().map(|(_, frontend)| frontend.clone()).collect();
        let mut lists = BTreeSet::new();
        for frontend in &wanted {
            for plan in Plan::of(frontend, &self.balance.clone(), self.native) {
                self.program(&plan)?;
                lists.insert(plan.key);
            }
        }
        if !all_known {
            return Ok(());
        }
        let mut live = BTreeMap::new();
        for (key, value) in self.maps.frontends.entries()? {
            match lists.contains(&key) {
                true => drop(live.insert(value.service, value)),
                false => self.remove_list(key)?,
            }
        }
        let uses =
            |service, generation| live.get(&service).filter(|f: &&Frontend| f.generation == generation);
        for (slot, _) in self.maps.slots.entries()? {
            if uses(slot.service, slot.generation).is_none_or(|f| slot.index >= f.count) {
                self.maps.slots.remove(&slot)?;
            }
        }
        for key in self.maps.tables.keys()? {
            if uses(key.service, key.generation).is_none_or(|f| f.entries == 0) {
                self.maps.tables.remove(key)?;
            }
        }
        self.maps.ranges.retain(|key| uses(key.service, key.generation).is_some())?;
        let matched: BTreeSet<Match> = lists
            .iter()
            .filter_map(|key| Some((self.maps.frontends.get(key).ok()??, self.written.get(key)?)))
            .filter(|(frontend, _)| frontend.affinity > 0)
            .flat_map(|(f, slots)| slots.iter().map(move |slot| Match { backend: *slot, service: f.service }))
            .collect();
        for (key, _) in self.maps.matches.entries()? {
            if !matched.contains(&key) {
                self.maps.matches.remove(&key)?;
            }
        }
        self.references.sweep(true)
    }

    /// The backends that no frontend has any more since the last call.
    pub(crate) fn take_vanished(&mut self) -> Vec<L4> {
        self.references.take_vanished()
    }

    /// Whether an earlier process had written frontends when this was made.
    pub(crate) fn is_adopted(&self) -> bool {
        self.adopted
    }

    /// How many frontends, and how many backends they have together.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.desired.len(), self.backends)
    }
}
