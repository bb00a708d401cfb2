//! The commands for looking at a mesh, run as their users run them, against servers in this process.

mod fixture;
mod kvstore;
mod kvstoremesh;
#[path = "../common/scrape.rs"]
mod scrape;
mod troubleshoot;
