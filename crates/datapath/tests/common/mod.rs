//! What the tests of the datapath have in common.

#![allow(dead_code, missing_docs, unreachable_pub, unused_imports)]

pub mod capture;
pub mod client;
pub mod node;
pub mod testrun;
pub mod vpc;

pub use node::*;
