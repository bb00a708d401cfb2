//! The durable store against restarts, kills, damaged files and full disks.

#[path = "../common/requests.rs"]
mod requests;

mod crash;
mod damage;
mod full;
mod restart;

use std::path::Path;
use std::time::Duration;

use causeway_kvstore::{KeyRange, Store, StoreOptions, WatchOptions, pb, prefix_end};

/// How long anything in a test may take before it counts as lost. Far beyond what is needed.
const PATIENCE: Duration = Duration::from_secs(120);

/// A directory whose syncs cost nothing, where there is one.
fn data_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// With a snapshot after every few kilobytes.
fn open(dir: &Path) -> Store {
    Store::open(dir, StoreOptions { snapshot_log_bytes: 8 << 10, ..StoreOptions::default() }).unwrap()
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn prefix(key: &str) -> pb::RangeRequest {
    let range_end = prefix_end(key.as_bytes());
    pb::RangeRequest { key: key.to_owned().into(), range_end, ..Default::default() }
}

fn value(store: &Store, key: &str) -> Option<String> {
    let request = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
    let kv = store.range(&request).unwrap().kvs.pop()?;
    Some(String::from_utf8(kv.value.to_vec()).unwrap())
}

/// Every event from a revision on.
fn events(store: &Store, from: i64) -> Vec<pb::Event> {
    let all = KeyRange::new(vec![0].into(), vec![0].into());
    let mut watcher = store.watch(WatchOptions { prev_kv: true, ..WatchOptions::new(all, from) });
    let mut events = Vec::new();
    while let Some(batch) = watcher.poll_now().unwrap() {
        events.extend(batch.events);
    }
    events
}
