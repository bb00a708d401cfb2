//! Which backends there are: every one of any list of any frontend, also those that get no new
//! connections. Whoever talks to one that is not there may be told.

use std::collections::BTreeMap;

use causeway_model::lb::Frontend;

use crate::Error;
use crate::maps::Table;
use crate::maps::lb::L4;

/// The single writer of `cw_lb_backends`.
#[derive(Debug)]
pub(super) struct References {
    map: Table<L4, u32>,
    /// In how many lists each is.
    counts: BTreeMap<L4, u32>,
    /// Those that have left the map since they were last asked for.
    vanished: Vec<L4>,
}

fn backends(frontend: &Frontend) -> impl Iterator<Item = L4> {
    let internal = frontend.internal.iter().flat_map(|list| list.iter());
    frontend.backends.iter().chain(internal).map(|backend| backend.address.into())
}

impl References {
    /// Adopts what an earlier process left in the map.
    pub(super) fn new(map: Table<L4, u32>) -> Self {
        Self { map, counts: BTreeMap::new(), vanished: vec![] }
    }

    /// Counts the backends of a frontend and puts new ones into the map.
    pub(super) fn add(&mut self, frontend: &Frontend) -> Result<(), Error> {
        let mut result = Ok(());
        for backend in backends(frontend) {
            let count = self.counts.entry(backend).or_insert(0);
            *count += 1;
            if *count == 1 {
                result = result.and(self.map.set(backend, 1));
            }
        }
        result
    }

    /// The opposite of [`References::add`].
    pub(super) fn release(&mut self, frontend: &Frontend) -> Result<(), Error> {
        let mut result = Ok(());
        for backend in backends(frontend) {
            let Some(count) = self.counts.get_mut(&backend) else { continue };
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&backend);
                result = result.and(self.map.remove(&backend));
                self.vanished.push(backend);
            }
        }
        result
    }

    /// Makes the map what was counted; what was not is removed only where all is known.
    pub(super) fn sweep(&mut self, all_known: bool) -> Result<(), Error> {
        let there: BTreeMap<L4, u32> = self.map.entries()?.into_iter().collect();
        for backend in self.counts.keys().filter(|backend| !there.contains_key(backend)) {
            self.map.set(*backend, 1)?;
        }
        for backend in there.into_keys().filter(|backend| all_known && !self.counts.contains_key(backend)) {
            self.map.remove(&backend)?;
            self.vanished.push(backend);
        }
        Ok(())
    }

    /// The backends that are gone since the last call.
    pub(super) fn take_vanished(&mut self) -> Vec<L4> {
        let mut vanished = std::mem::take(&mut self.vanished);
        vanished.retain(|backend| !self.counts.contains_key(backend));
        vanished.sort_unstable();
        vanished.dedup();
        vanished
    }
}
