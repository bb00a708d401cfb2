//! Requests, fuzzed at every run of the tests: the inputs of `corpus/<target>` as they are, then mutations of
//! them with a fixed seed. Whatever comes, nothing panics, a refused request changes nothing, and one that is
//! carried out leaves the store as its answer says. An input that once failed is kept by adding its file
//! there. `FUZZ_ROUNDS` sets the mutations per file.

use std::cell::Cell;
use std::time::Instant;

use causeway_kvstore::pb;
use causeway_kvstore::{KeyRange, Store, StoreOptions, WatchOptions};
use prost::Message;

#[path = "common/fuzz.rs"]
mod fuzz;

/// A length or number that is as large as can be.
const PIECES: [&[u8]; 1] = [&[0xff, 0xff, 0xff, 0xff, 0x0f]];

fn replay(target: &str, check: impl Fn(&[u8])) {
    fuzz::replay(target, 1000, &PIECES, check);
}

/// Decodes; what decodes is written and read again as the same.
fn decode<M: Message + Default + PartialEq + std::fmt::Debug>(input: &[u8]) -> Option<M> {
    let message = M::decode(input).ok()?;
    let again = M::decode(message.encode_to_vec().as_slice()).unwrap();
    assert!(again == message, "{again:?} is not {message:?}");
    Some(message)
}

/// A store with a few keys, a lease and a history.
fn store() -> Store {
    let store = Store::new(StoreOptions::default());
    store.lease_grant(1, 60, Instant::now()).unwrap();
    for (key, value) in [("a", "1"), ("b", "2"), ("cilium/.heartbeat", "t"), ("k", "3"), ("a", "4")] {
        let put = pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() };
        store.put(put).unwrap();
    }
    store
}

fn content(store: &Store) -> Vec<pb::KeyValue> {
    let all = pb::RangeRequest { key: b"\0"[..].into(), range_end: b"\0"[..].into(), ..Default::default() };
    store.range(&all).unwrap().kvs
}

#[test]
fn fuzz_ranges() {
    let (store, answered) = (store(), Cell::new(0));
    let there = content(&store);
    replay("range", |input| {
        let Some(request) = decode::<pb::RangeRequest>(input) else { return };
        let Ok(answer) = store.range(&request) else { return };
        answered.set(answered.get() + 1);
        assert!(answer.count >= answer.kvs.len() as i64);
        assert!(!request.count_only || answer.kvs.is_empty());
        if request.limit > 0 {
            assert!(answer.kvs.len() as i64 <= request.limit);
        }
        for kv in &answer.kvs {
            assert!(kv.create_revision <= kv.mod_revision && kv.version > 0);
            assert!(!request.keys_only || kv.value.is_empty());
            assert!(there.iter().any(|known| known.key == kv.key));
        }
    });
    assert!(answered.get() > 100, "{} requests were answered: the corpus tests nothing", answered.get());
}

#[test]
fn fuzz_puts() {
    let (store, carried_out) = (store(), Cell::new(0));
    replay("put", |input| {
        let Some(request) = decode::<pb::PutRequest>(input) else { return };
        let (before, revision) = (content(&store), store.revision());
        match store.put(request.clone()) {
            Ok(answer) => {
                carried_out.set(carried_out.get() + 1);
                assert_eq!(answer.header.unwrap().revision, revision + 1);
                let one = pb::RangeRequest { key: request.key.clone(), ..Default::default() };
                let kv = store.range(&one).unwrap().kvs.remove(0);
                assert_eq!(kv.mod_revision, revision + 1);
                assert!(request.ignore_value || kv.value == request.value);
                // Not one key more than before, lest later rounds take ever longer.
                if !before.iter().any(|known| known.key == kv.key) {
                    store
                        .delete_range(&pb::DeleteRangeRequest { key: kv.key, ..Default::default() })
                        .unwrap();
                }
            }
            Err(_) => assert!(store.revision() == revision && content(&store) == before),
        }
    });
    assert!(
        carried_out.get() > 100,
        "{} requests were carried out: the corpus tests nothing",
        carried_out.get()
    );
}

#[test]
fn fuzz_transactions() {
    let carried_out = Cell::new(0);
    replay("txn", |input| {
        let Some(request) = decode::<pb::TxnRequest>(input) else { return };
        let store = store();
        let (before, revision) = (content(&store), store.revision());
        match store.txn(request) {
            Ok(answer) => {
                carried_out.set(carried_out.get() + 1);
                let now = store.revision();
                assert_eq!(answer.header.unwrap().revision, now);
                // All of it in one revision, or no write at all.
                assert!(now == revision + 1 || (now == revision && content(&store) == before));
                assert!(content(&store).iter().all(|kv| kv.mod_revision <= now && kv.version > 0));
            }
            Err(_) => assert!(store.revision() == revision && content(&store) == before),
        }
    });
    assert!(
        carried_out.get() > 100,
        "{} requests were carried out: the corpus tests nothing",
        carried_out.get()
    );
}

#[test]
fn fuzz_watches() {
    let (store, created) = (store(), Cell::new(0));
    replay("watch", |input| {
        use pb::watch_request::RequestUnion;
        let request = decode::<pb::WatchRequest>(input).and_then(|request| request.request_union);
        let Some(RequestUnion::CreateRequest(create)) = request else { return };
        created.set(created.get() + 1);
        let range = KeyRange::new(create.key, create.range_end);
        let mut watcher = store.watch(WatchOptions {
            range: range.clone(),
            start_revision: create.start_revision,
            prev_kv: create.prev_kv,
            no_put: create.filters.contains(&0),
            no_delete: create.filters.contains(&1),
        });
        while let Ok(Some(batch)) = watcher.poll_now() {
            for event in &batch.events {
                let kv = event.kv.as_ref().unwrap();
                assert!(kv.mod_revision >= create.start_revision && kv.mod_revision <= batch.revision);
                assert!(kv.key >= *range.start());
            }
        }
        assert!(watcher.next_revision() >= create.start_revision);
    });
    assert!(created.get() > 100, "{} watches were created: the corpus tests nothing", created.get());
}
