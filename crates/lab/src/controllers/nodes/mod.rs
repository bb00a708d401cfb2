//! Controllers of nodes: their pod CIDRs, whether they are alive, and the pods of those that are gone.

pub(crate) mod ipam;
pub(crate) mod lifecycle;
pub(crate) mod podgc;
