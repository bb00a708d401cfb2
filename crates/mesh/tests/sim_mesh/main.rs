//! Clusters that read each other, in virtual time and without sockets: random changes, garbage,
//! partitions, crashes, restored and replaced stores, changed certificates, clock jumps, expired leases,
//! compactions, id conflicts, removed and returning peers. After every heal each reader knows exactly what
//! is published; before it, nothing foreign is accepted and nothing is withdrawn that was published all
//! the time.
//!
//! `SIM_SEED=n` replays one schedule of a failed run (with `SIM_CLUSTERS`, 3 by default);
//! `SIM_SCHEDULES=n` runs that many.

mod cluster;
mod content;
mod link;
mod random;
mod store;
mod view;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use causeway_mesh::wire::Reason;

use world::{Seen, World};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is not a number")))
}

fn schedule(seed: u64, clusters: usize, acts: usize) -> Seen {
    let mut world = World::new(seed, clusters);
    for _ in 0..2 {
        for _ in 0..acts {
            world.act();
        }
        world.heal();
    }
    world.finish()
}

/// Runs seeds `1..=count` on all processors.
fn schedules(count: u64, clusters: usize, acts: usize) -> Seen {
    if let Some(seed) = number("SIM_SEED") {
        let wanted = number("SIM_CLUSTERS").unwrap_or(3) as usize;
        return if wanted == clusters { schedule(seed, clusters, acts) } else { Seen::default() };
    }
    let next = AtomicU64::new(1);
    let (all, failed) = (Mutex::new(Seen::default()), Mutex::new(vec![]));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let mut seen = Seen::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > count {
                        break;
                    }
                    match catch_unwind(AssertUnwindSafe(|| schedule(seed, clusters, acts))) {
                        Ok(more) => seen.add(&more),
                        Err(_) => failed.lock().unwrap().push(seed),
                    }
                }
                all.lock().unwrap().add(&seen);
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "replay with SIM_CLUSTERS={clusters} SIM_SEED=<one of {failed:?}>");
    all.into_inner().unwrap()
}

#[test]
fn sim_three_clusters_converge() {
    let count = number("SIM_SCHEDULES").unwrap_or(10_000);
    let seen = schedules(count, 3, 25);
    println!("{seen:?}");
    if count < 1000 || number("SIM_SEED").is_some() {
        return;
    }
    // A simulation that stopped doing harm would prove nothing.
    assert!(seen.failures > count && seen.revocations > count / 100 && seen.reads > count * 10, "{seen:?}");
    for reason in [
        Reason::BadKey,
        Reason::BadValue,
        Reason::TooDeep,
        Reason::ValueTooLarge,
        Reason::ForeignCluster,
        Reason::ForeignIdentity,
        Reason::OverKeyLimit,
        Reason::IdConflict,
        Reason::OtherStore,
        Reason::RevisionBackwards,
    ] {
        assert!(seen.rejected.contains_key(&reason), "{reason} never happened: {seen:?}");
    }
}

#[test]
fn sim_twenty_clusters_converge() {
    let count = number("SIM_SCHEDULES").map_or(100, |count| count / 100);
    let seen = schedules(count, 20, 60);
    println!("{seen:?}");
}
