//! What the store counts about itself.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Store;

/// Counters that only ever grow.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) ranges: Counter,
    pub(super) puts: Counter,
    pub(super) deletes: Counter,
    pub(super) txns: Counter,
    pub(super) leases_granted: Counter,
    pub(super) leases_renewed: Counter,
    pub(super) leases_revoked: Counter,
    pub(super) leases_expired: Counter,
}

/// One of them.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A store in numbers. Counts are since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// The revision of the last write.
    pub revision: i64,
    /// The revision compacted to, 0 for none.
    pub compacted: i64,
    /// Keys there are, and those deleted but not compacted away.
    pub keys: usize,
    /// Leases there are.
    pub leases: usize,
    /// Bytes of live keys and values.
    pub live_bytes: i64,
    /// Bytes of these and of the history.
    pub total_bytes: i64,
    /// The quota in bytes, if there is one.
    pub quota_bytes: Option<i64>,
    /// Reads.
    pub ranges: u64,
    /// Puts outside of transactions.
    pub puts: u64,
    /// Deletes outside of transactions.
    pub deletes: u64,
    /// Transactions.
    pub txns: u64,
    /// Leases granted.
    pub leases_granted: u64,
    /// Times a lease was kept alive.
    pub leases_renewed: u64,
    /// Leases revoked.
    pub leases_revoked: u64,
    /// Leases run out.
    pub leases_expired: u64,
}

impl Store {
    /// The store in numbers.
    pub fn stats(&self) -> StoreStats {
        let counters = &self.0.counters;
        let state = self.lock();
        StoreStats {
            revision: state.published,
            compacted: state.compacted,
            keys: state.key_count(),
            leases: state.leases.len(),
            live_bytes: state.live_bytes,
            total_bytes: state.total_bytes(),
            quota_bytes: state.space.limit(),
            ranges: counters.ranges.get(),
            puts: counters.puts.get(),
            deletes: counters.deletes.get(),
            txns: counters.txns.get(),
            leases_granted: counters.leases_granted.get(),
            leases_renewed: counters.leases_renewed.get(),
            leases_revoked: counters.leases_revoked.get(),
            leases_expired: counters.leases_expired.get(),
        }
    }
}
