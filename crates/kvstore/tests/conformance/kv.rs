//! Range, Put, DeleteRange, Txn, Compact.

use super::conformance;

conformance!(
    revisions_and_versions,
    paging_at_a_pinned_revision,
    sorting_and_filtering,
    put_options,
    transactions,
    comparisons,
    nested_comparisons_see_the_state_before,
    duplicate_keys,
    compaction,
    refusals,
);

mod cases {
    use causeway_kvstore::pb::{
        self,
        compare::{CompareResult, CompareTarget, TargetUnion},
        range_request::{SortOrder, SortTarget},
        request_op::Request as Op,
        response_op::Response as Done,
    };
    use tonic::Code;

    use super::super::common::Target;
    use super::super::{delete, get, op, prefix, put, refusal};

    fn keys(response: &pb::RangeResponse) -> Vec<String> {
        response.kvs.iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect()
    }

    pub(super) async fn revisions_and_versions(t: Target) {
        let mut kv = t.kv();
        let header = |h: Option<pb::ResponseHeader>| {
            let header = h.expect("every answer has a header");
            assert!(header.cluster_id != 0 && header.member_id != 0);
            header.revision
        };
        let start = header(kv.range(get("none")).await.unwrap().into_inner().header);
        assert_eq!(header(kv.put(put("a", "1")).await.unwrap().into_inner().header), start + 1);
        assert_eq!(header(kv.put(put("a", "2")).await.unwrap().into_inner().header), start + 2);
        let found = kv.range(get("a")).await.unwrap().into_inner();
        let a = &found.kvs[0];
        assert_eq!((a.create_revision, a.mod_revision, a.version, a.lease), (start + 1, start + 2, 2, 0));
        let nothing = kv.delete_range(delete("zzz")).await.unwrap().into_inner();
        assert_eq!((nothing.deleted, header(nothing.header)), (0, start + 2));
        let one = kv
            .delete_range(pb::DeleteRangeRequest { prev_kv: true, ..delete("a") })
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            (one.deleted, one.prev_kvs[0].value.as_ref(), header(one.header)),
            (1, &b"2"[..], start + 3)
        );
        kv.put(put("a", "3")).await.unwrap();
        let again = kv.range(get("a")).await.unwrap().into_inner();
        assert_eq!((again.kvs[0].create_revision, again.kvs[0].version), (start + 4, 1));
        let past = kv.range(pb::RangeRequest { revision: start + 2, ..get("a") }).await.unwrap().into_inner();
        assert_eq!((past.kvs[0].value.as_ref(), header(past.header)), (&b"2"[..], start + 4));
    }

    pub(super) async fn paging_at_a_pinned_revision(t: Target) {
        let mut kv = t.kv();
        for n in 0..10 {
            kv.put(put(&format!("p/{n}"), "old")).await.unwrap();
        }
        let first = pb::RangeRequest { limit: 4, serializable: true, ..prefix("p/") };
        let first = kv.range(first).await.unwrap().into_inner();
        assert_eq!((first.kvs.len(), first.more, first.count), (4, true, 10));
        let revision = first.header.unwrap().revision;
        kv.delete_range(delete("p/5")).await.unwrap();
        kv.put(put("p/55", "new")).await.unwrap();
        let rest = pb::RangeRequest { key: "p/3\0".into(), limit: 6, revision, ..prefix("p/") };
        let rest = kv.range(rest).await.unwrap().into_inner();
        assert_eq!(keys(&rest), ["p/4", "p/5", "p/6", "p/7", "p/8", "p/9"]);
        assert_eq!((rest.more, rest.count), (false, 6));
        assert!(rest.header.unwrap().revision > revision);
        let counted = pb::RangeRequest { count_only: true, ..prefix("p/") };
        let counted = kv.range(counted).await.unwrap().into_inner();
        assert_eq!((counted.kvs.len(), counted.more, counted.count), (0, false, 10));
        let bare = kv.range(pb::RangeRequest { keys_only: true, ..get("p/1") }).await.unwrap().into_inner();
        assert_eq!((bare.kvs[0].value.len(), bare.kvs[0].version), (0, 1));
        let all = pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
        assert_eq!(kv.range(all).await.unwrap().into_inner().count, 10);
        let from = pb::RangeRequest { range_end: vec![0].into(), ..get("p/8") };
        assert_eq!(keys(&kv.range(from).await.unwrap().into_inner()), ["p/8", "p/9"]);
        let inverted = pb::RangeRequest { range_end: "p/1".into(), ..get("p/8") };
        assert_eq!(kv.range(inverted).await.unwrap().into_inner().count, 0);
    }

    pub(super) async fn sorting_and_filtering(t: Target) {
        let mut kv = t.kv();
        let mut last = 0;
        for (key, value) in
            [("s/b", "1"), ("s/c", "3"), ("s/a", "2"), ("s/c", "0"), ("s/c", "4"), ("s/a", "2")]
        {
            last = kv.put(put(key, value)).await.unwrap().into_inner().header.unwrap().revision;
        }
        let first = last - 5;
        for (target, order, limit, expect) in [
            (SortTarget::Key, SortOrder::Descend, 0, vec!["s/c", "s/b", "s/a"]),
            (SortTarget::Key, SortOrder::Descend, 2, vec!["s/c", "s/b"]),
            (SortTarget::Value, SortOrder::Ascend, 0, vec!["s/b", "s/a", "s/c"]),
            (SortTarget::Version, SortOrder::Descend, 1, vec!["s/c"]),
            (SortTarget::Create, SortOrder::Ascend, 0, vec!["s/b", "s/c", "s/a"]),
            (SortTarget::Mod, SortOrder::Descend, 0, vec!["s/a", "s/c", "s/b"]),
            (SortTarget::Mod, SortOrder::None, 0, vec!["s/b", "s/c", "s/a"]),
        ] {
            let request = pb::RangeRequest {
                sort_target: target.into(),
                sort_order: order.into(),
                limit,
                ..prefix("s/")
            };
            let found = kv.range(request).await.unwrap().into_inner();
            assert_eq!(keys(&found), expect, "{target:?} {order:?} {limit}");
            assert_eq!((found.count, found.more), (3, found.kvs.len() < 3), "{target:?} {order:?} {limit}");
        }
        for (request, expect) in [
            (pb::RangeRequest { min_mod_revision: last - 1, ..prefix("s/") }, vec!["s/a", "s/c"]),
            (pb::RangeRequest { max_mod_revision: last - 1, ..prefix("s/") }, vec!["s/b", "s/c"]),
            (pb::RangeRequest { min_create_revision: first + 1, ..prefix("s/") }, vec!["s/a", "s/c"]),
            (pb::RangeRequest { max_create_revision: first + 1, limit: 1, ..prefix("s/") }, vec!["s/b"]),
        ] {
            let found = kv.range(request.clone()).await.unwrap().into_inner();
            assert_eq!((keys(&found), found.count), (expect.iter().map(|k| k.to_string()).collect(), 3));
        }
    }

    pub(super) async fn put_options(t: Target) {
        let mut kv = t.kv();
        let keep_value = pb::PutRequest { ignore_value: true, prev_kv: true, ..put("o", "") };
        let missing = (Code::InvalidArgument, "etcdserver: key not found".into());
        assert_eq!(refusal(kv.put(keep_value.clone()).await.unwrap_err()), missing);
        let lease = t.lease().lease_grant(pb::LeaseGrantRequest { ttl: 600, id: 77 }).await.unwrap();
        let lease = lease.into_inner().id;
        kv.put(pb::PutRequest { lease, ..put("o", "1") }).await.unwrap();
        let kept = kv.put(pb::PutRequest { ignore_lease: true, ..put("o", "2") }).await.unwrap().into_inner();
        assert_eq!(kept.prev_kv, None, "the previous value only for who asks");
        let found = kv.range(get("o")).await.unwrap().into_inner();
        assert_eq!((found.kvs[0].lease, found.kvs[0].value.as_ref()), (lease, &b"2"[..]));
        let before = kv.put(keep_value).await.unwrap().into_inner().prev_kv.unwrap();
        assert_eq!((before.value.as_ref(), before.lease), (&b"2"[..], lease));
        let found = kv.range(get("o")).await.unwrap().into_inner();
        assert_eq!((found.kvs[0].lease, found.kvs[0].value.as_ref()), (0, &b"2"[..]));
    }

    pub(super) async fn transactions(t: Target) {
        let mut kv = t.kv();
        let txn = pb::TxnRequest {
            compare: vec![pb::Compare {
                key: "lock".into(),
                target: CompareTarget::Create.into(),
                target_union: Some(TargetUnion::CreateRevision(0)),
                ..Default::default()
            }],
            success: vec![
                op(Op::RequestRange(get("lock"))),
                op(Op::RequestPut(put("lock", "mine"))),
                op(Op::RequestPut(put("also", "1"))),
                op(Op::RequestRange(get("lock"))),
                op(Op::RequestDeleteRange(delete("absent"))),
            ],
            failure: vec![op(Op::RequestRange(get("lock")))],
        };
        let before = kv.range(get("lock")).await.unwrap().into_inner().header.unwrap().revision;
        let done = kv.txn(txn.clone()).await.unwrap().into_inner();
        assert!(done.succeeded);
        assert_eq!(done.header.unwrap().revision, before + 1);
        let counts: Vec<_> = done
            .responses
            .iter()
            .map(|r| match r.response.as_ref().unwrap() {
                Done::ResponseRange(r) => (r.count, r.header.as_ref().unwrap().revision),
                Done::ResponsePut(r) => (-1, r.header.as_ref().unwrap().revision),
                Done::ResponseDeleteRange(r) => (r.deleted, r.header.as_ref().unwrap().revision),
                Done::ResponseTxn(_) => unreachable!("there is none"),
            })
            .collect();
        let after = before + 1;
        assert_eq!(counts, [(0, before), (-1, after), (-1, after), (1, after), (0, after)]);
        let again = kv.txn(txn).await.unwrap().into_inner();
        assert!(!again.succeeded);
        assert_eq!(again.header.unwrap().revision, after, "reading is no revision");
        let both = kv.range(pb::RangeRequest { revision: after, ..get("also") }).await.unwrap().into_inner();
        assert_eq!(both.kvs[0].mod_revision, after);
    }

    pub(super) async fn comparisons(t: Target) {
        use CompareResult::{Equal, Greater, Less, NotEqual};
        let mut kv = t.kv();
        kv.put(put("c/1", "m")).await.unwrap();
        let made = kv.put(put("c/2", "n")).await.unwrap().into_inner().header.unwrap().revision;
        let changed = kv.put(put("c/2", "n")).await.unwrap().into_inner().header.unwrap().revision;
        let value = |v: &str| Some(TargetUnion::Value(v.to_owned().into()));
        let version = |v| Some(TargetUnion::Version(v));
        let end = Some("c0");
        for (key, range_end, target, result, union, expect) in [
            ("c/2", None, CompareTarget::Value, Equal, value("n"), true),
            ("c/2", None, CompareTarget::Value, Less, value("o"), true),
            ("c/2", None, CompareTarget::Value, NotEqual, value("n"), false),
            ("c/2", None, CompareTarget::Version, Greater, version(1), true),
            ("c/2", None, CompareTarget::Create, Equal, Some(TargetUnion::CreateRevision(made)), true),
            ("c/2", None, CompareTarget::Mod, Less, Some(TargetUnion::ModRevision(changed)), false),
            ("c/2", None, CompareTarget::Lease, Equal, Some(TargetUnion::Lease(0)), true),
            ("none", None, CompareTarget::Version, Equal, version(0), true),
            ("none", None, CompareTarget::Version, Equal, None, true),
            ("none", None, CompareTarget::Value, Equal, value(""), false),
            ("none", None, CompareTarget::Value, NotEqual, value("x"), false),
            ("c/", end, CompareTarget::Version, Greater, version(0), true),
            ("c/", end, CompareTarget::Version, Greater, version(1), false),
            ("d/", Some("d0"), CompareTarget::Version, Equal, version(0), true),
            ("d/", Some("d0"), CompareTarget::Create, Greater, Some(TargetUnion::CreateRevision(0)), false),
            ("d/", Some("d0"), CompareTarget::Value, NotEqual, value("x"), false),
        ] {
            let compare = pb::Compare {
                key: key.to_owned().into(),
                range_end: range_end.unwrap_or_default().into(),
                target: target.into(),
                result: result.into(),
                target_union: union,
            };
            let txn = pb::TxnRequest { compare: vec![compare.clone()], ..Default::default() };
            assert_eq!(kv.txn(txn).await.unwrap().into_inner().succeeded, expect, "{compare:?}");
        }
    }

    pub(super) async fn nested_comparisons_see_the_state_before(t: Target) {
        let mut kv = t.kv();
        let exists = pb::Compare {
            key: "n".into(),
            target: CompareTarget::Version.into(),
            result: CompareResult::Greater.into(),
            target_union: Some(TargetUnion::Version(0)),
            ..Default::default()
        };
        let inner = pb::TxnRequest {
            compare: vec![exists],
            success: vec![],
            failure: vec![op(Op::RequestPut(put("seen", "the state before")))],
        };
        let success = vec![op(Op::RequestPut(put("n", "1"))), op(Op::RequestTxn(inner))];
        let done = kv.txn(pb::TxnRequest { success, ..Default::default() }).await.unwrap().into_inner();
        let Some(Done::ResponseTxn(inner)) = &done.responses[1].response else { panic!("no inner answer") };
        assert!(!inner.succeeded);
        assert_eq!(kv.range(get("seen")).await.unwrap().into_inner().count, 1);
    }

    pub(super) async fn duplicate_keys(t: Target) {
        let mut kv = t.kv();
        let put = |key| op(Op::RequestPut(put(key, "v")));
        let drop = |key| op(Op::RequestDeleteRange(delete(key)));
        let drop_all =
            || op(Op::RequestDeleteRange(pb::DeleteRangeRequest { range_end: "z".into(), ..delete("a") }));
        let txn = |success, failure| op(Op::RequestTxn(pb::TxnRequest { compare: vec![], success, failure }));
        for (ops, ok) in [
            (vec![put("k"), put("k")], false),
            (vec![put("k"), drop("k")], false),
            (vec![drop("k"), put("k")], false),
            (vec![put("k"), drop_all()], false),
            (vec![drop("k"), drop("k"), drop_all()], true),
            (vec![put("k"), txn(vec![put("k")], vec![])], false),
            (vec![put("k"), txn(vec![], vec![put("k")])], false),
            (vec![txn(vec![put("k")], vec![put("k")])], true),
            (vec![txn(vec![put("k")], vec![]), txn(vec![put("k")], vec![])], false),
            (vec![txn(vec![put("k")], vec![]), txn(vec![], vec![put("k")])], false),
            (vec![txn(vec![drop("k")], vec![]), txn(vec![put("k")], vec![])], false),
            (vec![txn(vec![put("k")], vec![]), txn(vec![drop("k")], vec![])], true),
            (vec![put("k"), txn(vec![drop("k")], vec![])], false),
        ] {
            let answer = kv.txn(pb::TxnRequest { success: ops.clone(), ..Default::default() }).await;
            let expect = (Code::InvalidArgument, "etcdserver: duplicate key given in txn request".into());
            match answer {
                Ok(_) => assert!(ok, "accepted: {ops:?}"),
                Err(status) => {
                    assert!(!ok, "refused: {ops:?}");
                    assert_eq!(refusal(status), expect);
                }
            }
        }
    }

    pub(super) async fn compaction(t: Target) {
        let mut kv = t.kv();
        for n in 0..5 {
            kv.put(put("k", &n.to_string())).await.unwrap();
        }
        kv.put(put("gone", "1")).await.unwrap();
        let last = kv.delete_range(delete("gone")).await.unwrap().into_inner().header.unwrap().revision;
        let compact = |revision| pb::CompactionRequest { revision, physical: true };
        kv.compact(compact(last)).await.unwrap();
        let compacted = (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted".into());
        let future = (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision".into());
        assert_eq!(refusal(kv.compact(compact(last)).await.unwrap_err()), compacted);
        assert_eq!(refusal(kv.compact(compact(last + 1)).await.unwrap_err()), future);
        let at = |revision| pb::RangeRequest { revision, ..get("k") };
        assert_eq!(refusal(kv.range(at(last - 1)).await.unwrap_err()), compacted);
        assert_eq!(refusal(kv.range(at(last + 1)).await.unwrap_err()), future);
        assert_eq!(kv.range(at(last)).await.unwrap().into_inner().kvs[0].value, "4");
    }

    pub(super) async fn refusals(t: Target) {
        let mut kv = t.kv();
        let invalid = |text: &str| (Code::InvalidArgument, format!("etcdserver: {text}"));
        assert_eq!(refusal(kv.range(get("")).await.unwrap_err()), invalid("key is not provided"));
        assert_eq!(refusal(kv.put(put("", "v")).await.unwrap_err()), invalid("key is not provided"));
        assert_eq!(refusal(kv.delete_range(delete("")).await.unwrap_err()), invalid("key is not provided"));
        let both = pb::PutRequest { ignore_value: true, ..put("k", "v") };
        assert_eq!(refusal(kv.put(both).await.unwrap_err()), invalid("value is provided"));
        let both = pb::PutRequest { ignore_lease: true, lease: 5, ..put("k", "v") };
        assert_eq!(refusal(kv.put(both).await.unwrap_err()), invalid("lease is provided"));
        let unknown = pb::PutRequest { lease: 12345, ..put("k", "v") };
        let expect = (Code::NotFound, "etcdserver: requested lease not found".to_owned());
        assert_eq!(refusal(kv.put(unknown.clone()).await.unwrap_err()), expect);
        let in_txn = pb::TxnRequest { success: vec![op(Op::RequestPut(unknown))], ..Default::default() };
        assert_eq!(refusal(kv.txn(in_txn).await.unwrap_err()), expect);
        let large = put("k", &"x".repeat(1_600_000));
        assert_eq!(refusal(kv.put(large).await.unwrap_err()), invalid("request is too large"));
        let many = (0..129).map(|n| op(Op::RequestPut(put(&n.to_string(), "v")))).collect();
        let many = pb::TxnRequest { success: many, ..Default::default() };
        assert_eq!(refusal(kv.txn(many).await.unwrap_err()), invalid("too many operations in txn request"));
        let empty = pb::TxnRequest { success: vec![pb::RequestOp { request: None }], ..Default::default() };
        assert_eq!(refusal(kv.txn(empty).await.unwrap_err()), invalid("key not found"));
        assert_eq!(kv.range(prefix("k")).await.unwrap().into_inner().count, 0, "nothing was written");
    }
}
