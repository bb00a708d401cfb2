//! The other clusters: publish, watch, reflect, merge.
//!
//! [`publish`] turns this cluster's state into keys of the mesh protocol, [`remote`] reads those of
//! the other clusters, [`merge`] joins both into what the datapath programs. [`cache`] keeps
//! what they publish in this cluster's own store, [`health`] finds out which
//! nodes answer. [`slices`] and [`mcs`] decide what the operator writes of
//! it into this cluster's Kubernetes. [`keys`] and [`wire`] are the protocol itself,
//! [`config_dir`] says which clusters there are, [`access`] who may read what.

pub mod access;
pub mod cache;
pub mod config_dir;
pub mod health;
pub mod keys;
pub mod mcs;
pub mod merge;
pub mod publish;
pub mod remote;
pub mod slices;
mod valid;
pub mod wire;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod fuzz_tests;
