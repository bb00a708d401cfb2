//! This cluster and the others made one: what the datapath programs.
//!
//! Both mergers are pure and incremental: an event goes in, the changes of the merged state come
//! out, and the cost of a change is the size of the change.

mod addresses;
mod backends;
mod claims;
mod reach;
mod selection;
mod services;
mod unreachable;

pub use addresses::AddressMerger;
pub use selection::Location;
pub use services::{BackendState, BackendView, FrontendView, HealthCheck, ServiceMerger, ServiceView};
pub use unreachable::UnreachableAddresses;
