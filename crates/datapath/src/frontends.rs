//! Services made true: frontends and their tables of backends.

use causeway_model::lb::{self, L4Addr};
use causeway_model::{Change, Collection, Event};

use crate::Error;
use crate::maps::Table;
use crate::maps::lb::{Frontend, L4, Slot};

/// The single writer of the load-balancer maps.
#[derive(Debug)]
pub(crate) struct Frontends {
    desired: Collection<lb::Frontend>,
    frontends: Table<L4, Frontend>,
    slots: Table<Slot, L4>,
    next_service: u32,
}

impl Frontends {
    /// Adopts what an earlier process left in the maps.
    pub(crate) fn new(frontends: Table<L4, Frontend>, slots: Table<Slot, L4>) -> Result<Self, Error> {
        let highest = frontends.entries()?.iter().map(|(_, f)| f.service).max().unwrap_or(0);
        Ok(Self { desired: Collection::new(), frontends, slots, next_service: highest + 1 })
    }

    /// Applies one change; see [`crate::Datapath::apply_frontend`].
    pub(crate) fn apply(&mut self, event: Event<lb::Frontend>) -> Result<(), Error> {
        let synced = matches!(event, Event::Synced);
        for change in self.desired.apply(event) {
            match change {
                Change::Set(address, _) => self.program(address)?,
                Change::Gone(address, _) => self.remove(&address.into())?,
            }
        }
        if synced { self.sweep() } else { Ok(()) }
    }

    /// Writes a new generation of a frontend's table, switches to it, and removes the old one.
    /// What is already as it should be, as after a restart, is left alone.
    fn program(&mut self, address: L4Addr) -> Result<(), Error> {
        let key = L4::from(address);
        let wanted = self.desired.get(&address).expect("the caller has found it there");
        let backends: Vec<L4> = wanted.backends.iter().map(|b| b.address.into()).collect();
        let old = self.frontends.get(&key)?;
        if let Some(old) = old
            && self.holds(old, &backends)?
        {
            return Ok(());
        }
        let (service, generation) = match old {
            Some(old) => (old.service, old.generation.wrapping_add(1)),
            None => {
                self.next_service += 1;
                (self.next_service - 1, 0)
            }
        };
        let count = u32::try_from(backends.len()).unwrap_or(u32::MAX);
        for (index, backend) in (0..count).zip(&backends) {
            self.slots.set(Slot { service, generation, index }, *backend)?;
        }
        self.frontends.set(key, Frontend { service, generation, count })?;
        old.map_or(Ok(()), |old| self.remove_slots(old))
    }

    /// Whether the table of a frontend has exactly these backends.
    fn holds(&self, frontend: Frontend, backends: &[L4]) -> Result<bool, Error> {
        let Frontend { service, generation, count } = frontend;
        if usize::try_from(count).ok() != Some(backends.len()) {
            return Ok(false);
        }
        for (index, backend) in (0..count).zip(backends) {
            if self.slots.get(&Slot { service, generation, index })? != Some(*backend) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn remove(&mut self, key: &L4) -> Result<(), Error> {
        let Some(old) = self.frontends.get(key)? else { return Ok(()) };
        self.frontends.remove(key)?;
        self.remove_slots(old)
    }

    fn remove_slots(&mut self, old: Frontend) -> Result<(), Error> {
        let Frontend { service, generation, count } = old;
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
