//! Which cluster id belongs to whom.

use std::collections::BTreeMap;

use causeway_model::{ClusterId, ClusterName};

/// The ids in use: ours and one per accepted remote. An id has one owner at a time.
#[derive(Debug, Clone, Default)]
pub struct Ids {
    owners: BTreeMap<ClusterId, ClusterName>,
}

impl Ids {
    /// With our own id reserved.
    pub fn new(own: ClusterId, name: ClusterName) -> Self {
        Self { owners: BTreeMap::from([(own, name)]) }
    }

    /// Reserves an id. Reserving one's own again succeeds.
    ///
    /// # Errors
    /// The name of the cluster that holds it.
    pub fn reserve(&mut self, id: ClusterId, name: &ClusterName) -> Result<(), ClusterName> {
        match self.owners.get(&id) {
            Some(owner) if owner != name => Err(owner.clone()),
            _ => {
                self.owners.insert(id, name.clone());
                Ok(())
            }
        }
    }

    /// Gives an id back, if it is this cluster's.
    pub fn release(&mut self, id: ClusterId, name: &ClusterName) {
        if self.owners.get(&id) == Some(name) {
            self.owners.remove(&id);
        }
    }
}
