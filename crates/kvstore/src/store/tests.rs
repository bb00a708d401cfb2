//! What etcd promises, held against the store alone.

use std::time::{Duration, Instant};

use futures::StreamExt;

use super::*;
use crate::pb::request_op::Request;

fn store() -> Store {
    Store::new(StoreOptions::default())
}

fn put(store: &Store, key: &str, value: &str) -> i64 {
    let request =
        pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
    store.put(request).unwrap().header.unwrap().revision
}

fn delete(store: &Store, key: &str) -> i64 {
    let request = pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
    store.delete_range(&request).unwrap().deleted
}

fn prefix(text: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: text.to_owned().into(),
        range_end: prefix_end(text.as_bytes()),
        ..Default::default()
    }
}

fn list(store: &Store, request: &pb::RangeRequest) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    store.range(request).unwrap().kvs.iter().map(|kv| (text(&kv.key), text(&kv.value))).collect()
}

#[test]
fn versions_and_revisions_count_as_in_etcd() {
    let store = store();
    assert_eq!(store.revision(), 1);
    assert_eq!(put(&store, "a", "1"), 2);
    assert_eq!(put(&store, "a", "2"), 3);
    let kv = store.range(&prefix("a")).unwrap().kvs.remove(0);
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 3, 2));
    assert_eq!(delete(&store, "a"), 1);
    assert_eq!(store.revision(), 4);
    assert_eq!(delete(&store, "a"), 0);
    assert_eq!(store.revision(), 4, "a delete that deletes nothing is no revision");
    put(&store, "a", "3");
    let kv = store.range(&prefix("a")).unwrap().kvs.remove(0);
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (5, 5, 1));
}

#[test]
fn pages_at_a_pinned_revision_do_not_move() {
    let store = store();
    for n in 0..5 {
        put(&store, &format!("k{n}"), "old");
    }
    let first = store.range(&pb::RangeRequest { limit: 2, ..prefix("k") }).unwrap();
    assert_eq!((first.kvs.len(), first.more, first.count), (2, true, 5));
    let pinned = first.header.unwrap().revision;
    delete(&store, "k3");
    put(&store, "k4", "new");
    put(&store, "k2a", "new");
    let rest = pb::RangeRequest { key: "k1\0".into(), revision: pinned, ..prefix("k") };
    assert_eq!(
        list(&store, &rest).iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(),
        ["k2=old", "k3=old", "k4=old"]
    );
    assert_eq!(store.range(&rest).unwrap().header.unwrap().revision, store.revision());
}

#[test]
fn compaction_refuses_older_reads_and_keeps_what_is_live() {
    let store = store();
    put(&store, "a", "1");
    put(&store, "b", "1");
    put(&store, "a", "2");
    delete(&store, "b");
    put(&store, "c", "1");
    store.compact(5).unwrap();
    let at = |revision| pb::RangeRequest { revision, ..prefix("") };
    let all = |revision| pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..at(revision) };
    assert_eq!(store.range(&all(4)).unwrap_err(), Error::Compacted);
    assert_eq!(list(&store, &all(5)), [("a".into(), "2".into())]);
    assert_eq!(store.range(&all(99)).unwrap_err(), Error::FutureRevision);
    assert_eq!(store.compact(5).unwrap_err(), Error::Compacted);
    assert_eq!(store.compact(99).unwrap_err(), Error::FutureRevision);
}

#[test]
fn history_is_bounded_by_itself() {
    let store = Store::new(StoreOptions { history_revisions: 100, ..Default::default() });
    for n in 0..1000 {
        put(&store, "same", &n.to_string());
    }
    let state = store.lock();
    assert!(state.compacted >= 900, "{}", state.compacted);
    assert!(state.log_from(state.compacted).unwrap().count() <= 101);
}

#[test]
fn a_transaction_is_one_revision_or_nothing() {
    let store = store();
    let op = |key: &str, lease| pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
            key: key.to_owned().into(),
            value: "v".into(),
            lease,
            ..Default::default()
        })),
    };
    let create = pb::Compare { key: "a".into(), target: 1, ..Default::default() };
    let txn = |ops: Vec<pb::RequestOp>| pb::TxnRequest {
        compare: vec![create.clone()],
        success: ops,
        failure: vec![],
    };
    let done = store.txn(txn(vec![op("a", 0), op("b", 0)])).unwrap();
    assert!(done.succeeded);
    assert_eq!(store.revision(), 2);
    assert!(!store.txn(txn(vec![op("a", 0)])).unwrap().succeeded);
    assert_eq!(store.txn(txn(vec![op("x", 0), op("x", 0)])).unwrap_err(), Error::DuplicateKey);
    let failing = pb::TxnRequest { success: vec![op("x", 0), op("y", 77)], ..Default::default() };
    assert_eq!(store.txn(failing).unwrap_err(), Error::LeaseNotFound);
    assert!(list(&store, &prefix("x")).is_empty(), "nothing of a refused transaction stays");
}

#[test]
fn a_lease_takes_its_keys_in_one_revision() {
    let store = store();
    let now = Instant::now();
    let (id, ttl) = store.lease_grant(0, 5, now).unwrap();
    assert_eq!(ttl, 5);
    for key in ["a", "b"] {
        store.put(pb::PutRequest { key: key.into(), lease: id, ..Default::default() }).unwrap();
    }
    put(&store, "b", "no longer leased");
    store.expire_leases(now + Duration::from_secs(4));
    assert_eq!(store.range(&prefix("")).unwrap_err(), Error::EmptyKey);
    assert_eq!(store.range(&prefix("a")).unwrap().count, 1);
    store.lease_keep_alive(id, now + Duration::from_secs(4)).unwrap();
    store.expire_leases(now + Duration::from_secs(6));
    assert_eq!(store.range(&prefix("a")).unwrap().count, 1);
    let before = store.revision();
    store.expire_leases(now + Duration::from_secs(9));
    assert_eq!((store.range(&prefix("a")).unwrap().count, store.range(&prefix("b")).unwrap().count), (0, 1));
    assert_eq!(store.revision(), before + 1);
    assert!(store.lease_keep_alive(id, now).is_none());
}

#[tokio::test]
async fn a_watcher_from_the_past_sees_everything_once() {
    let store = store();
    put(&store, "p/a", "1");
    put(&store, "q/a", "other");
    let mut watcher = store.watch(WatchOptions::prefix("p/", 1));
    let batch = watcher.next().await.unwrap().unwrap();
    assert_eq!((batch.events.len(), batch.revision), (1, 3));
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for n in 0..3000 {
                put(&store, &format!("p/{n}"), "v");
                if n % 100 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
    });
    let mut seen = Vec::new();
    while seen.len() < 3000 {
        let batch = watcher.next().await.unwrap().unwrap();
        seen.extend(batch.events.iter().map(|e| e.kv.as_ref().unwrap().mod_revision));
    }
    writer.await.unwrap();
    assert_eq!(seen, (4..3004).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_watcher_left_behind_is_told() {
    let store = store();
    put(&store, "a", "1");
    let mut watcher = store.watch(WatchOptions::prefix("a", 2));
    put(&store, "a", "2");
    put(&store, "a", "3");
    store.compact(4).unwrap();
    assert_eq!(watcher.next().await.unwrap().unwrap_err(), WatchError::Compacted { compact_revision: 4 });
    assert!(watcher.next().await.is_none());
}

#[tokio::test]
async fn a_watch_from_the_first_revision_of_an_empty_store_waits() {
    let store = store();
    for start in [1, 2] {
        let mut watcher = store.watch(WatchOptions::prefix("", start));
        assert!(watcher.poll_now().unwrap().is_none());
        assert_eq!(watcher.next_revision(), 2);
    }
    let mut watcher = store.watch(WatchOptions::prefix("", 1));
    let revision = put(&store, "a", "1");
    assert_eq!(watcher.next().await.unwrap().unwrap().revision, revision);
    assert_eq!(watcher.next_revision(), revision + 1);
}

#[test]
fn the_previous_value_is_that_of_the_revision_before() {
    let store = store();
    put(&store, "k", "old");
    // etcd lets a put follow a delete of everything from a key on.
    let everything = pb::DeleteRangeRequest { key: "k".into(), range_end: "\0".into(), prev_kv: true };
    let again = pb::PutRequest { key: "k".into(), value: "new".into(), prev_kv: true, ..Default::default() };
    let op = |request| pb::RequestOp { request: Some(request) };
    let success = vec![op(Request::RequestDeleteRange(everything)), op(Request::RequestPut(again))];
    store.txn(pb::TxnRequest { success, ..Default::default() }).unwrap();
    let mut watcher =
        store.watch(WatchOptions { prev_kv: true, ..WatchOptions::new(KeyRange::single("k"), 3) });
    let events = watcher.poll_now().unwrap().unwrap().events;
    assert_eq!(events[0].prev_kv.as_ref().unwrap().value, "old");
    let kv = events[1].kv.as_ref().unwrap();
    assert_eq!((kv.create_revision, kv.version), (3, 1), "it is a new key");
    assert_eq!(events[1].prev_kv, None, "and so has no value before");
    // From the revision compacted to on everything is there but what was before it. (etcd 3.4 has
    // lost the delete as well: a watcher that begins there never learns of it.)
    store.compact(3).unwrap();
    let mut watcher =
        store.watch(WatchOptions { prev_kv: true, ..WatchOptions::new(KeyRange::single("k"), 3) });
    let again = watcher.poll_now().unwrap().unwrap().events;
    assert_eq!((&again[0].kv, &again[1].kv), (&events[0].kv, &events[1].kv));
    assert_eq!((&again[0].prev_kv, &again[1].prev_kv), (&None, &None));
}

#[test]
fn a_defragmented_store_is_the_same_store() {
    let store = store();
    store.lease_grant(7, 60, Instant::now()).unwrap();
    for n in 0..300 {
        let key = format!("k{n:03}").into();
        store.put(pb::PutRequest { key, value: "v".into(), lease: n % 2 * 7, ..Default::default() }).unwrap();
    }
    put(&store, "k001", "again");
    delete(&store, "k002");
    let (before, stats) = (store.range(&prefix("k")).unwrap(), store.stats());
    let mut watcher = store.watch(WatchOptions::prefix("k", 300));
    store.defragment();
    let after = store.range(&prefix("k")).unwrap();
    assert_eq!((after.kvs, after.count), (before.kvs, 299));
    assert_eq!(StoreStats { ranges: stats.ranges, ..store.stats() }, stats);
    assert_eq!(watcher.poll_now().unwrap().unwrap().events.len(), 4, "history is as it was");
    assert_eq!(put(&store, "k0015", "between"), 304);
    store.lease_revoke(7).unwrap();
    assert_eq!(list(&store, &prefix("k")).len(), 151, "k001 was put again without the lease");
}
