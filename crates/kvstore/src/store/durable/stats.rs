//! The log in numbers.

use std::sync::Mutex;
use std::time::Duration;

/// Upper bounds of the buckets in which the times of `fsync` are counted, seconds (etcd's).
const BUCKETS: [f64; 14] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192];

/// The log of a durable store in numbers. Counts are since it was opened.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogStats {
    /// Bytes written to logs.
    pub bytes: u64,
    /// Snapshots written.
    pub snapshots: u64,
    /// Times `fsync` was called for changes; each may speak for many.
    pub syncs: u64,
    /// Seconds all of these took.
    pub sync_seconds: f64,
    /// How many took at most so long ([`LogStats::bounds`]); each is counted once.
    pub sync_buckets: [u64; 14],
    /// Times changes were refused because they could not be written.
    pub failures: u64,
}

impl LogStats {
    /// Upper bounds of [`LogStats::sync_buckets`], seconds.
    pub fn bounds() -> &'static [f64] {
        &BUCKETS
    }
}

/// The numbers, while they are counted.
#[derive(Debug, Default)]
pub(super) struct Counting(Mutex<LogStats>);

impl Counting {
    pub(super) fn get(&self) -> LogStats {
        self.0.lock().expect("nothing panics while it is held").clone()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut LogStats)) {
        change(&mut self.0.lock().expect("nothing panics while it is held"));
    }

    pub(super) fn synced(&self, bytes: u64, took: Duration) {
        self.change(|stats| {
            stats.bytes += bytes;
            stats.syncs += 1;
            stats.sync_seconds += took.as_secs_f64();
            if let Some(bucket) = BUCKETS.iter().position(|bound| took.as_secs_f64() <= *bound) {
                stats.sync_buckets[bucket] += 1;
            }
        });
    }
}
