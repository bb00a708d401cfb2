//! `cw_pod_flows`: which pods, by the endpoint's number, have had flows of services. The kernel half
//! sets it, and looks up the flows of those pods only.

use aya::Ebpf;
use aya::maps::{Array, MapData};

use super::table;
use crate::Error;

const NAME: &str = "cw_pod_flows";

/// The marks of the pods; number 0 is the node itself.
pub(crate) struct PodFlows(Array<MapData, u32>);

impl std::fmt::Debug for PodFlows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PodFlows")
    }
}

impl PodFlows {
    pub(crate) fn take(object: &mut Ebpf) -> Result<Self, Error> {
        let map = table::take(object, NAME)?;
        Ok(Self(Array::try_from(map).map_err(|source| Error::Map { map: NAME, source })?))
    }

    /// Takes the mark off a pod; true if it had one.
    pub(crate) fn clear(&mut self, id: u16) -> Result<bool, Error> {
        let failed = |source| Error::Map { map: NAME, source };
        let marked = self.0.get(&id.into(), 0).map_err(failed)? != 0;
        if marked {
            self.0.set(id.into(), 0, 0).map_err(failed)?;
        }
        Ok(marked)
    }
}
