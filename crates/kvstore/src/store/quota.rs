//! How much a store may hold, and the alarm that says it was too much. Pure.

use crate::Error;
use crate::pb::{self, request_op::Request};

/// What etcd counts for a key beyond its own bytes, and for a lease.
const PUT: usize = 256;
const LEASE: usize = 64;

/// The quota of a store. Once exceeded, nothing is added until space was freed *and* the alarm
/// disarmed, as in etcd: a store that hovers at its limit would refuse writes at random.
#[derive(Debug)]
pub(super) struct Space {
    limit: i64,
    alarm: bool,
}

impl Space {
    /// A quota in bytes; 0 or less is none.
    pub(super) fn new(limit: i64) -> Self {
        Self { limit: if limit > 0 { limit } else { i64::MAX }, alarm: false }
    }

    /// Refuses what would add `cost` bytes to the `used` ones where there is no space for it.
    pub(super) fn admit(&mut self, used: i64, cost: usize) -> Result<(), Error> {
        if cost == 0 {
            return Ok(());
        }
        if used.saturating_add_unsigned(cost as u64) >= self.limit && !self.alarm {
            tracing::warn!(used, limit = self.limit, "the store is full; deletes and reads go on");
            self.alarm = true;
        }
        if self.alarm { Err(Error::NoSpace) } else { Ok(()) }
    }

    /// Whether the alarm is raised.
    pub(super) fn alarm(&self) -> bool {
        self.alarm
    }

    /// Raises or disarms the alarm; true if that changed it.
    pub(super) fn set_alarm(&mut self, raised: bool) -> bool {
        std::mem::replace(&mut self.alarm, raised) != raised
    }

    /// The quota in bytes, if there is one.
    pub(super) fn limit(&self) -> Option<i64> {
        Some(self.limit).filter(|limit| *limit < i64::MAX)
    }
}

/// What a put may add.
pub(super) fn put_cost(request: &pb::PutRequest) -> usize {
    write_cost(&request.key, &request.value)
}

/// What a key with this value may add.
pub(super) fn write_cost(key: &[u8], value: &[u8]) -> usize {
    PUT + key.len() + value.len()
}

/// What a lease may add.
pub(super) const fn lease_cost() -> usize {
    LEASE
}

/// What the more expensive branch of a transaction may add; 0 if it only reads and deletes.
pub(super) fn txn_cost(request: &pb::TxnRequest) -> usize {
    let branch = |ops: &[pb::RequestOp]| {
        ops.iter()
            .map(|op| match &op.request {
                Some(Request::RequestPut(put)) => put_cost(put),
                Some(Request::RequestTxn(txn)) => txn_cost(txn),
                _ => 0,
            })
            .sum::<usize>()
    };
    branch(&request.success).max(branch(&request.failure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_until_disarmed() {
        let mut space = Space::new(1000);
        assert_eq!(space.admit(500, 499), Ok(()));
        assert_eq!(space.admit(500, 500), Err(Error::NoSpace));
        assert_eq!(space.admit(0, 1), Err(Error::NoSpace), "space alone does not end it");
        assert_eq!(space.admit(5000, 0), Ok(()), "what adds nothing is always allowed");
        assert!(space.set_alarm(false) && !space.alarm());
        assert_eq!(space.admit(0, 1), Ok(()));
        assert_eq!(Space::new(0).admit(i64::MAX - 10, 5), Ok(()), "no quota");
    }

    #[test]
    fn the_dearer_branch_counts() {
        let put = |value: &str| pb::RequestOp {
            request: Some(Request::RequestPut(pb::PutRequest {
                key: "k".into(),
                value: value.to_owned().into(),
                ..Default::default()
            })),
        };
        let delete = pb::RequestOp { request: Some(Request::RequestDeleteRange(Default::default())) };
        let inner = pb::TxnRequest { success: vec![put("12345")], ..Default::default() };
        let inner = pb::RequestOp { request: Some(Request::RequestTxn(inner)) };
        let txn = pb::TxnRequest { success: vec![put("1"), inner], failure: vec![delete], compare: vec![] };
        assert_eq!(txn_cost(&txn), 258 + 262);
    }
}
