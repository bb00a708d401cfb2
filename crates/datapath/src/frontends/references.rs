//! Which backends there are: every one of any list of any frontend, also those that get no new
//! connections. Whoever talks to one that is not there may be told.

use std::collections::BTreeMap;
use std::sync::Arc;

use causeway_model::lb::{Backend, Frontend};

use super::steps::difference;
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

/// What one version of a frontend names that another does not, and the other way round.
pub(super) fn between(before: Option<&Frontend>, now: Option<&Frontend>) -> (Vec<L4>, Vec<L4>) {
    let external = |frontend: &Frontend| Some(frontend.backends.clone());
    let internal = |frontend: &Frontend| frontend.internal.clone();
    let (mut gone, mut new) = (vec![], vec![]);
    for list in [&external as &dyn Fn(&Frontend) -> Option<Arc<[Backend]>>, &internal] {
        let (before, now) = (before.and_then(list), now.and_then(list));
        if before == now {
            continue;
        }
        let addresses = |list: Option<Arc<[Backend]>>| -> Vec<L4> {
            list.iter().flat_map(|list| list.iter()).map(|backend| backend.address.into()).collect()
        };
        let (before, now) = (addresses(before), addresses(now));
        let (less, more) = difference(&before, &now).unwrap_or((before, now));
        gone.extend(less);
        new.extend(more);
    }
    (gone, new)
}

impl References {
    /// Adopts what an earlier process left in the map.
    pub(super) fn new(map: Table<L4, u32>) -> Self {
        Self { map, counts: BTreeMap::new(), vanished: vec![] }
    }

    /// Counts backends that a list names now and puts new ones into the map.
    pub(super) fn add(&mut self, backends: &[L4]) -> Result<(), Error> {
        let mut result = Ok(());
        for backend in backends {
            let count = self.counts.entry(*backend).or_insert(0);
            *count += 1;
            if *count == 1 {
                result = result.and(self.map.set(*backend, 1));
            }
        }
        result
    }

    /// The opposite of [`References::add`].
    pub(super) fn release(&mut self, backends: &[L4]) -> Result<(), Error> {
        let mut result = Ok(());
        for backend in backends {
            let Some(count) = self.counts.get_mut(backend) else { continue };
            *count -= 1;
            if *count == 0 {
                self.counts.remove(backend);
                result = result.and(self.map.remove(backend));
                self.vanished.push(*backend);
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
