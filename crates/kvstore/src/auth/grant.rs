//! What one user may do, ready to be asked on every call.

use super::Action;
use crate::{Error, KeyRange};

/// The union of a user's permissions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Everything, administration too.
    all: bool,
    read: Vec<KeyRange>,
    write: Vec<KeyRange>,
}

impl Grant {
    pub(crate) fn all() -> Self {
        Self { all: true, ..Self::default() }
    }

    pub(super) fn add(&mut self, action: Action, range: KeyRange) {
        match action {
            Action::Read => self.read.push(range),
            Action::Write => self.write.push(range),
            Action::ReadWrite => {
                self.read.push(range.clone());
                self.write.push(range);
            }
        }
    }

    /// Refuses a read that is not wholly inside the granted ranges.
    pub(crate) fn read(&self, range: &KeyRange) -> Result<(), Error> {
        allow(self.all || range.is_covered_by(&self.read))
    }

    /// Refuses a write that is not wholly inside the granted ranges.
    pub(crate) fn write(&self, range: &KeyRange) -> Result<(), Error> {
        allow(self.all || range.is_covered_by(&self.write))
    }

    /// Refuses those who may write nothing: leases are writers' tools.
    pub(crate) fn lease(&self) -> Result<(), Error> {
        allow(self.all || !self.write.is_empty())
    }

    /// Refuses those who may not read everything, and so have nothing more to learn.
    pub(crate) fn inspect(&self) -> Result<(), Error> {
        let zero = || bytes::Bytes::from_static(&[0]);
        self.read(&KeyRange::new(zero(), zero()))
    }

    /// Refuses all but those who may do everything.
    pub(crate) fn administer(&self) -> Result<(), Error> {
        allow(self.all)
    }
}

fn allow(allowed: bool) -> Result<(), Error> {
    if allowed { Ok(()) } else { Err(Error::PermissionDenied) }
}
