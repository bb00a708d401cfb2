//! Leases: keys that vanish together when nobody keeps them alive. Time is passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::pair::{ByKey, Pair};
use crate::Error;

/// etcd's longest lease in seconds (`lease.MaxLeaseTTL`).
const MAX_TTL: i64 = 9_000_000_000;

#[derive(Debug)]
struct Lease {
    ttl: i64,
    expires: Instant,
    keys: BTreeSet<ByKey>,
}

/// All leases of a store.
#[derive(Debug, Default)]
pub(super) struct Leases {
    by_id: BTreeMap<i64, Lease>,
    by_expiry: BTreeSet<(Instant, i64)>,
}

/// A lease as asked for with `LeaseTimeToLive`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Seconds left.
    pub remaining: i64,
    /// Seconds granted.
    pub granted: i64,
    /// The keys attached, in order.
    pub keys: Vec<Bytes>,
}

impl Leases {
    /// Grants a lease of `ttl` seconds (at least 1) under `id`, or under an id of our choice for 0.
    pub(super) fn grant(&mut self, id: i64, ttl: i64, now: Instant) -> Result<(i64, i64), Error> {
        if ttl > MAX_TTL {
            return Err(Error::LeaseTtlTooLarge);
        }
        let ttl = ttl.max(1);
        let id = match id {
            0 => loop {
                let id = (rand::random::<u64>() >> 1) as i64;
                if id != 0 && !self.by_id.contains_key(&id) {
                    break id;
                }
            },
            id if self.by_id.contains_key(&id) => return Err(Error::LeaseExists),
            id => id,
        };
        let expires = now + Duration::from_secs(ttl as u64);
        self.by_id.insert(id, Lease { ttl, expires, keys: BTreeSet::new() });
        self.by_expiry.insert((expires, id));
        Ok((id, ttl))
    }

    /// Gives a lease its whole time again and returns it; `None` when there is no such lease.
    pub(super) fn keep_alive(&mut self, id: i64, now: Instant) -> Option<i64> {
        let lease = self.by_id.get_mut(&id)?;
        self.by_expiry.remove(&(lease.expires, id));
        lease.expires = now + Duration::from_secs(lease.ttl as u64);
        self.by_expiry.insert((lease.expires, id));
        Some(lease.ttl)
    }

    /// Forgets a lease and returns its keys in order.
    pub(super) fn revoke(&mut self, id: i64) -> Result<BTreeSet<ByKey>, Error> {
        let lease = self.by_id.remove(&id).ok_or(Error::LeaseNotFound)?;
        self.by_expiry.remove(&(lease.expires, id));
        Ok(lease.keys)
    }

    /// A lease that has run out, if any.
    pub(super) fn expired(&self, now: Instant) -> Option<i64> {
        self.by_expiry.first().filter(|(expires, _)| *expires <= now).map(|(_, id)| *id)
    }

    /// When the next lease runs out.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.by_expiry.first().map(|(expires, _)| *expires)
    }

    pub(super) fn exists(&self, id: i64) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn ids(&self) -> Vec<i64> {
        self.by_id.keys().copied().collect()
    }

    /// All ids, each with the seconds granted.
    pub(super) fn granted(&self) -> Vec<(i64, i64)> {
        self.by_id.iter().map(|(id, lease)| (*id, lease.ttl)).collect()
    }

    pub(super) fn info(&self, id: i64, now: Instant) -> Option<LeaseInfo> {
        let lease = self.by_id.get(&id)?;
        Some(LeaseInfo {
            remaining: lease.expires.saturating_duration_since(now).as_secs() as i64,
            granted: lease.ttl,
            keys: lease.keys.iter().map(|ByKey(pair)| Bytes::copy_from_slice(pair.key())).collect(),
        })
    }

    /// Builds the search trees of keys anew, full.
    pub(super) fn defragment(&mut self) {
        for lease in self.by_id.values_mut() {
            lease.keys = std::mem::take(&mut lease.keys).into_iter().collect();
        }
    }

    /// Attaches what was put to a lease instead of the one that held its key; 0 stands for none.
    pub(super) fn attach(&mut self, pair: &Pair, from: i64, to: i64) {
        if from != to {
            self.detach(pair.key(), from);
        }
        // Also where the key has it already: what was put before is not to be kept for it.
        if let Some(lease) = self.by_id.get_mut(&to).filter(|_| to != 0) {
            lease.keys.replace(ByKey(pair.clone()));
        }
    }

    /// Takes a key from the lease that holds it.
    pub(super) fn detach(&mut self, key: &[u8], from: i64) {
        if let Some(lease) = self.by_id.get_mut(&from).filter(|_| from != 0) {
            lease.keys.remove(key);
        }
    }
}
