//! `causeway operator` as a process, against an API server and the stores of other clusters in this process:
//! what it writes, what it leaves alone, and what it holds while a cluster cannot be asked.

#[path = "../tools/fixture.rs"]
#[allow(dead_code)]
mod fixture;
mod kubernetes;
mod mcs;
mod replicas;
#[path = "../common/scrape.rs"]
mod scrape;
mod slices;
