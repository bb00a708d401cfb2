//! Random requests, for tests that compare the answers of two stores.

use causeway_kvstore::pb::{
    self,
    compare::{CompareResult, CompareTarget, TargetUnion},
    range_request::SortTarget,
    request_op::Request as Op,
};
use proptest::prelude::*;

const KEYS: [&[u8]; 7] = [b"a", b"ab", b"ab\0", b"abc", b"b", b"b\xff", b"c"];
const ENDS: [&[u8]; 8] = [b"", b"", b"", b"\0", b"ab", b"b", b"c", b"d"];

/// A request. Revisions are relative to the present one until [`Call::resolve`] is called.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Grant(i64),
    Revoke(i64),
    /// Compacts this many revisions before the first of the case, which its watch needs.
    Compact(i64),
}

fn bytes(choices: &'static [&'static [u8]]) -> impl Strategy<Value = bytes::Bytes> {
    prop::sample::select(choices).prop_map(bytes::Bytes::from_static)
}

fn key() -> impl Strategy<Value = bytes::Bytes> {
    // An empty key now and then: refused alike.
    prop_oneof![30 => bytes(&KEYS), 1 => Just(bytes::Bytes::new())]
}

fn value() -> impl Strategy<Value = bytes::Bytes> {
    prop::sample::select(vec!["", "1", "2", "3"]).prop_map(bytes::Bytes::from)
}

/// Revisions are written relative to the present one (-1000 = none) and resolved when sent.
fn relative() -> impl Strategy<Value = i64> {
    prop_oneof![6 => Just(-1000i64), 3 => -6..=0i64, 1 => 1..=2i64]
}

fn range() -> impl Strategy<Value = pb::RangeRequest> {
    let bounds = (relative(), relative(), relative(), relative());
    let sort = prop_oneof![
        3 => Just((0, 0)),
        1 => (0..=2i32).prop_map(|order| (order, 0)),
        1 => (0..=2i32, 1..=4i32).boxed(),
    ];
    let shape = (0..=4i64, any::<bool>(), prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    (key(), bytes(&ENDS), shape, relative(), sort, prop::option::weighted(0.2, bounds)).prop_map(
        |(
            key,
            range_end,
            (limit, serializable, keys_only, count_only),
            revision,
            (order, target),
            bounds,
        )| {
            let (a, b, c, d) = bounds.unwrap_or((-1000, -1000, -1000, -1000));
            pb::RangeRequest {
                key,
                range_end,
                // Keys that are equal in what is sorted by may come in any order, so no limit then.
                limit: if target == SortTarget::Key as i32 { limit } else { 0 },
                revision,
                sort_order: order,
                sort_target: target,
                serializable,
                keys_only,
                count_only,
                min_mod_revision: a,
                max_mod_revision: b,
                min_create_revision: c,
                max_create_revision: d,
            }
        },
    )
}

fn put() -> impl Strategy<Value = pb::PutRequest> {
    let rarely = || prop::bool::weighted(0.15);
    (key(), value(), prop_oneof![3 => Just(0i64), 1 => 1..=3i64], any::<bool>(), rarely(), rarely()).prop_map(
        |(key, value, lease, prev_kv, ignore_value, ignore_lease)| {
            let value = if ignore_value && lease != 2 { bytes::Bytes::new() } else { value };
            let lease = if ignore_lease && lease != 2 { 0 } else { lease };
            pb::PutRequest { key, value, lease, prev_kv, ignore_value, ignore_lease }
        },
    )
}

fn delete() -> impl Strategy<Value = pb::DeleteRangeRequest> {
    (key(), bytes(&ENDS), any::<bool>()).prop_map(|(key, range_end, prev_kv)| pb::DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn comparison() -> impl Strategy<Value = pb::Compare> {
    let number = prop_oneof![Just(-1000i64), -6..=0i64];
    (key(), bytes(&ENDS), 0..=4i32, 0..=3i32, number, 0..=3i64, value()).prop_map(
        |(key, range_end, target, result, revision, small, value)| {
            let union = match CompareTarget::try_from(target).unwrap() {
                CompareTarget::Version => TargetUnion::Version(small),
                CompareTarget::Create => TargetUnion::CreateRevision(revision),
                CompareTarget::Mod => TargetUnion::ModRevision(revision),
                CompareTarget::Value => TargetUnion::Value(value),
                CompareTarget::Lease => TargetUnion::Lease(small),
            };
            let result: i32 = CompareResult::try_from(result).unwrap().into();
            pb::Compare { result, target, key, range_end, target_union: Some(union) }
        },
    )
}

fn txn() -> impl Strategy<Value = pb::TxnRequest> {
    let leaf = prop_oneof![
        3 => range().prop_map(Op::RequestRange),
        4 => put().prop_map(Op::RequestPut),
        2 => delete().prop_map(Op::RequestDeleteRange),
    ]
    .prop_map(op)
    .boxed();
    let of = |inner: BoxedStrategy<pb::RequestOp>| {
        let ops = move || prop::collection::vec(inner.clone(), 0..=3);
        (prop::collection::vec(comparison(), 0..=2), ops(), ops())
            .prop_map(|(compare, success, failure)| pb::TxnRequest { compare, success, failure })
    };
    let nest = |deeper: BoxedStrategy<pb::TxnRequest>| {
        prop_oneof![3 => leaf.clone(), 1 => deeper.prop_map(|txn| op(Op::RequestTxn(txn)))].boxed()
    };
    of(nest(of(nest(of(leaf.clone()).boxed())).boxed()))
}

/// Any request, with few keys, so that they meet.
pub(crate) fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        4 => range().prop_map(Call::Range),
        6 => put().prop_map(Call::Put),
        3 => delete().prop_map(Call::Delete),
        5 => txn().prop_map(Call::Txn),
        1 => (1..=2i64).prop_map(Call::Grant),
        1 => (1..=3i64).prop_map(Call::Revoke),
        1 => (0..=4i64).prop_map(Call::Compact),
    ]
}

impl Call {
    /// Makes relative revisions absolute.
    pub(crate) fn resolve(&mut self, present: i64) {
        match self {
            Self::Range(range) => resolve_range(range, present),
            Self::Txn(txn) => resolve_txn(txn, present),
            _ => {}
        }
    }
}

fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn resolve(relative: &mut i64, present: i64) {
    *relative = if *relative == -1000 { 0 } else { (present + *relative).max(0) };
}

fn resolve_range(range: &mut pb::RangeRequest, present: i64) {
    resolve(&mut range.revision, present);
    for bound in [
        &mut range.min_mod_revision,
        &mut range.max_mod_revision,
        &mut range.min_create_revision,
        &mut range.max_create_revision,
    ] {
        resolve(bound, present);
    }
}

fn resolve_txn(txn: &mut pb::TxnRequest, present: i64) {
    for compare in &mut txn.compare {
        if let Some(TargetUnion::CreateRevision(r) | TargetUnion::ModRevision(r)) = &mut compare.target_union
        {
            resolve(r, present);
        }
    }
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Op::RequestRange(range)) => resolve_range(range, present),
            Some(Op::RequestTxn(inner)) => resolve_txn(inner, present),
            _ => {}
        }
    }
}
