//! Transactions: compare, then one of two lists of operations, in one revision.
//!
//! The order is etcd's: everything is checked for form, then all comparisons (those of nested
//! transactions too) are decided against the state before the transaction, then the chosen
//! operations are checked, and only then does the first of them run.

use std::collections::HashSet;

use bytes::Bytes;

use super::range::KeyRange;
use super::state::{State, Write};
use crate::Error;
use crate::pb::{self, compare, request_op::Request, response_op::Response};

/// Carries out a transaction in the write in progress.
///
/// # Errors
/// When any operation of either branch is malformed or one of the chosen branch cannot be carried
/// out; nothing is changed then.
pub(super) fn run(
    state: &mut State,
    request: pb::TxnRequest,
    write: &mut Write,
) -> Result<pb::TxnResponse, Error> {
    check(&request, state.options.max_txn_ops)?;
    Touched::of(&request.success)?;
    Touched::of(&request.failure)?;
    let plan = Plan::decide(state, request);
    plan.check_puts(state)?;
    plan.check_ranges(state)?;
    plan.execute(state, write)
}

/// True if neither branch could change anything.
pub(super) fn only_reads(request: &pb::TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).all(|op| match &op.request {
        Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) => false,
        Some(Request::RequestTxn(txn)) => only_reads(txn),
        Some(Request::RequestRange(_)) | None => true,
    })
}

/// Refuses malformed transactions, whichever branch would be taken. A nested transaction may have
/// as many operations as its parent has left.
fn check(request: &pb::TxnRequest, most: usize) -> Result<(), Error> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    let left = most.checked_sub(longest).ok_or(Error::TooManyOps)?;
    if request.compare.iter().any(|c| c.key.is_empty()) {
        return Err(Error::EmptyKey);
    }
    for branch in [&request.success, &request.failure] {
        for op in branch {
            match &op.request {
                Some(Request::RequestTxn(txn)) => check(txn, left)?,
                Some(Request::RequestPut(put)) => super::state::check_put_form(put)?,
                Some(Request::RequestDeleteRange(delete)) if delete.key.is_empty() => {
                    return Err(Error::EmptyKey);
                }
                Some(Request::RequestRange(range)) if range.key.is_empty() => return Err(Error::EmptyKey),
                Some(_) => {}
                // etcd's answer to an operation it does not know.
                None => return Err(Error::KeyNotFound),
            }
        }
    }
    Ok(())
}

/// The keys a list of operations changes; none may be put twice, or put and deleted (etcd's
/// `checkIntervals`, including that a nested delete after a nested put of the same key passes).
#[derive(Default)]
struct Touched {
    puts: HashSet<Bytes>,
    deletes: Vec<KeyRange>,
}

impl Touched {
    fn of(ops: &[pb::RequestOp]) -> Result<Self, Error> {
        let mut all = Self::default();
        for op in ops {
            if let Some(Request::RequestDeleteRange(delete)) = &op.request {
                // etcd takes the zero byte that means "no end" for an end here, so that such a delete
                // clashes with nothing. Its clients may rely on it; the outcome is well defined.
                if delete.range_end != b"\0"[..] {
                    all.deletes.push(KeyRange::new(delete.key.clone(), delete.range_end.clone()));
                }
            }
        }
        for op in ops {
            let Some(Request::RequestTxn(txn)) = &op.request else { continue };
            let (then, otherwise) = (Self::of(&txn.success)?, Self::of(&txn.failure)?);
            for key in &then.puts {
                all.put(key)?;
            }
            // Only one branch runs, so both may put the same key.
            for key in otherwise.puts.iter().filter(|key| !then.puts.contains(*key)) {
                all.put(key)?;
            }
            all.deletes.extend(then.deletes);
            all.deletes.extend(otherwise.deletes);
        }
        for op in ops {
            if let Some(Request::RequestPut(put)) = &op.request {
                all.put(&put.key)?;
            }
        }
        Ok(all)
    }

    fn put(&mut self, key: &Bytes) -> Result<(), Error> {
        if self.deletes.iter().any(|d| d.contains(key)) || !self.puts.insert(key.clone()) {
            return Err(Error::DuplicateKey);
        }
        Ok(())
    }
}

/// A transaction with its comparisons decided.
struct Plan {
    succeeded: bool,
    ops: Vec<Op>,
}

enum Op {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(Plan),
}

impl Plan {
    fn decide(state: &State, request: pb::TxnRequest) -> Self {
        let succeeded = request.compare.iter().all(|c| holds(state, c));
        let ops = if succeeded { request.success } else { request.failure };
        let decided = ops.into_iter().filter_map(|op| {
            Some(match op.request? {
                Request::RequestRange(range) => Op::Range(range),
                Request::RequestPut(put) => Op::Put(put),
                Request::RequestDeleteRange(delete) => Op::Delete(delete),
                Request::RequestTxn(txn) => Op::Txn(Self::decide(state, txn)),
            })
        });
        Self { succeeded, ops: decided.collect() }
    }

    fn check_puts(&self, state: &State) -> Result<(), Error> {
        self.ops.iter().try_for_each(|op| match op {
            Op::Put(put) => state.check_put_exists(put).and_then(|()| state.check_lease(put.lease)),
            Op::Txn(plan) => plan.check_puts(state),
            Op::Range(_) | Op::Delete(_) => Ok(()),
        })
    }

    fn check_ranges(&self, state: &State) -> Result<(), Error> {
        self.ops.iter().try_for_each(|op| match op {
            Op::Range(range) => state.check_range(range),
            Op::Txn(plan) => plan.check_ranges(state),
            Op::Put(_) | Op::Delete(_) => Ok(()),
        })
    }

    /// The headers inside a transaction say at which revision each operation ran, and nothing else.
    fn execute(self, state: &mut State, write: &mut Write) -> Result<pb::TxnResponse, Error> {
        let mut responses = Vec::with_capacity(self.ops.len());
        for op in self.ops {
            let response = match op {
                Op::Range(range) => {
                    let mut response = state.range(&range, state.revision + i64::from(write.pending()))?;
                    response.header = Some(inner_header(state, write));
                    Response::ResponseRange(response)
                }
                Op::Put(put) => {
                    let mut response = state.put((&put).into(), write);
                    response.header = Some(inner_header(state, write));
                    Response::ResponsePut(response)
                }
                Op::Delete(delete) => {
                    let mut response = state.delete_range(&delete, write);
                    response.header = Some(inner_header(state, write));
                    Response::ResponseDeleteRange(response)
                }
                Op::Txn(plan) => {
                    let mut response = plan.execute(state, write)?;
                    response.header = Some(pb::ResponseHeader::default());
                    Response::ResponseTxn(response)
                }
            };
            responses.push(pb::ResponseOp { response: Some(response) });
        }
        Ok(pb::TxnResponse { header: None, succeeded: self.succeeded, responses })
    }
}

fn inner_header(state: &State, write: &Write) -> pb::ResponseHeader {
    let revision = state.revision + i64::from(write.pending());
    pb::ResponseHeader { revision, ..Default::default() }
}

/// Whether a comparison holds. Over a range it must hold for every key; where there is no key it
/// is made with version, revisions and lease 0, and a value is never equal, greater or less.
fn holds(state: &State, compare: &pb::Compare) -> bool {
    let range = KeyRange::new(compare.key.clone(), compare.range_end.clone());
    let mut found = false;
    for version in state.visible(&range, i64::MAX) {
        found = true;
        if !holds_for(compare, Some(&version.key_value())) {
            return false;
        }
    }
    found || holds_for(compare, None)
}

fn holds_for(compare: &pb::Compare, kv: Option<&pb::KeyValue>) -> bool {
    use compare::{CompareResult, CompareTarget, TargetUnion};
    let (Ok(target), Ok(result)) =
        (CompareTarget::try_from(compare.target), CompareResult::try_from(compare.result))
    else {
        return false;
    };
    let wanted =
        |get: fn(&TargetUnion) -> Option<i64>| compare.target_union.as_ref().and_then(get).unwrap_or(0);
    let number = |get: fn(&pb::KeyValue) -> i64| kv.map_or(0, get);
    let order = match target {
        CompareTarget::Value => {
            let Some(kv) = kv else { return false };
            let wanted = match &compare.target_union {
                Some(TargetUnion::Value(value)) => &value[..],
                _ => &[],
            };
            kv.value[..].cmp(wanted)
        }
        CompareTarget::Version => number(|kv| kv.version)
            .cmp(&wanted(|t| if let TargetUnion::Version(x) = t { Some(*x) } else { None })),
        CompareTarget::Create => number(|kv| kv.create_revision)
            .cmp(&wanted(|t| if let TargetUnion::CreateRevision(x) = t { Some(*x) } else { None })),
        CompareTarget::Mod => number(|kv| kv.mod_revision)
            .cmp(&wanted(|t| if let TargetUnion::ModRevision(x) = t { Some(*x) } else { None })),
        CompareTarget::Lease => number(|kv| kv.lease)
            .cmp(&wanted(|t| if let TargetUnion::Lease(x) = t { Some(*x) } else { None })),
    };
    match result {
        CompareResult::Equal => order.is_eq(),
        CompareResult::NotEqual => order.is_ne(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
    }
}
