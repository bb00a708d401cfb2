//! What a store is after it was closed and opened: the same.

use std::time::{Duration, Instant};

use causeway_kvstore::auth::{Action, Auth, PasswordHash, Permission, ROOT};
use causeway_kvstore::server::Access;
use causeway_kvstore::{Error, KeyRange, Store, StoreOptions, pb};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::requests::{Call, call};
use super::{data_dir, events, open, prefix, put, value};

/// The answer without what tells two stores apart.
fn ask(store: &Store, call: Call, now: Instant) -> Result<String, Error> {
    let id = store.header().cluster_id;
    let member = store.header().member_id;
    let answer = match call {
        Call::Range(request) => format!("{:?}", store.range(&request)?),
        Call::Put(request) => format!("{:?}", store.put(request)?),
        Call::Delete(request) => format!("{:?}", store.delete_range(&request)?),
        Call::Txn(request) => format!("{:?}", store.txn(request)?),
        Call::Grant(id) => format!("{:?}", store.lease_grant(id, 3600, now)?),
        Call::Revoke(id) => format!("{:?}", store.lease_revoke(id)?),
        Call::Compact(revision) => format!("{:?}", store.compact(revision)?),
    };
    Ok(answer.replace(&id.to_string(), "ID").replace(&member.to_string(), "ID"))
}

/// Everything there is to know of a store.
fn everything(store: &Store, now: Instant) -> String {
    let (revision, compacted) = (store.revision(), store.compacted());
    let mut all = format!("{revision} {compacted} {:?}\n", store.live_bytes());
    for at in compacted.max(1)..=revision {
        let range = pb::RangeRequest {
            key: vec![0].into(),
            range_end: vec![0].into(),
            revision: at,
            ..Default::default()
        };
        all += &format!("{at}: {:?}\n", store.range(&range).unwrap().kvs);
    }
    for event in events(store, compacted.max(1)) {
        all += &format!("{event:?}\n");
    }
    for lease in store.leases() {
        let info = store.lease_info(lease, now).unwrap();
        all += &format!("{lease} {} {:?}\n", info.granted, info.keys);
    }
    all + &format!("{:?}", store.stats().total_bytes)
}

fn same(calls: Vec<(Call, bool)>) -> Result<(), TestCaseError> {
    let dir = data_dir();
    let options = StoreOptions { history_revisions: 16, snapshot_log_bytes: 512, ..StoreOptions::default() };
    let now = Instant::now();
    let memory = Store::new(options.clone());
    let open = || Store::open(dir.path(), options.clone()).unwrap();
    let mut durable = open();
    let ids = durable.header();
    for (mut call, restart) in calls {
        let present = memory.revision();
        call.resolve(present);
        if let Call::Compact(back) = &mut call {
            *back = (present - *back).max(1);
        }
        prop_assert_eq!(ask(&memory, call.clone(), now), ask(&durable, call, now), "left is in memory");
        if restart {
            drop(durable);
            durable = open();
        }
    }
    // While a snapshot is written, its history is kept and counted: it counts for nothing after a restart.
    drop(durable);
    let durable = open();
    prop_assert_eq!(everything(&memory, now), everything(&durable, now), "left is in memory");
    prop_assert_eq!(durable.header().cluster_id, ids.cluster_id);
    prop_assert_eq!(durable.header().member_id, ids.member_id);
    Ok(())
}

#[test]
fn random_requests_with_restarts_in_between() {
    let config = Config { cases: 100, failure_persistence: None, ..Config::default() };
    let calls = prop::collection::vec((call(), prop::bool::weighted(0.15)), 1..=40);
    TestRunner::new(config).run(&calls, same).unwrap();
}

#[test]
fn many_keys_and_versions_come_back_through_snapshots() {
    let dir = data_dir();
    let store = open(dir.path());
    let memory = Store::new(StoreOptions::default());
    // More than a page of keys and more than a frame of bytes, with changes while snapshots are made.
    for round in 0..3 {
        for n in 0..2500 {
            let request = put(&format!("k/{n:05}"), &format!("{round}-{}", "x".repeat(100)));
            memory.put(request.clone()).unwrap();
            drop(store.staged().put(request));
        }
        // What is not durable yet cannot be compacted: this put waits until everything before it is.
        memory.put(put("round", "")).unwrap();
        store.put(put("round", "")).unwrap();
        memory.compact(memory.revision() - 700).unwrap();
        store.compact(memory.revision() - 700).unwrap();
    }
    let deadline = Instant::now() + super::PATIENCE;
    while store.log_stats().unwrap().snapshots == 0 {
        assert!(Instant::now() < deadline, "no snapshot is made");
        store.put(put("nudge", "")).unwrap();
        memory.put(put("nudge", "")).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.cut_tail(), None);
    assert_eq!(store.hash(0).unwrap(), memory.hash(0).unwrap());
    let now = Instant::now();
    assert!(everything(&store, now) == everything(&memory, now), "history differs");
    let mut snapshots = 0;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.ends_with(".tmp"), "{name}");
        snapshots += usize::from(name.ends_with(".snapshot"));
    }
    assert_eq!(snapshots, 1, "older ones go");
}

#[test]
fn leases_begin_their_time_anew_and_end_for_good() {
    let dir = data_dir();
    let store = open(dir.path());
    let (id, _) = store.lease_grant(7, 30, Instant::now() - Duration::from_secs(29)).unwrap();
    store.put(pb::PutRequest { lease: id, ..put("leased", "v") }).unwrap();
    store.put(put("free", "v")).unwrap();
    drop(store);
    let store = open(dir.path());
    let soon = Instant::now() + Duration::from_secs(20);
    store.expire_leases(soon);
    assert_eq!(value(&store, "leased").as_deref(), Some("v"), "nobody could keep it alive meanwhile");
    let before = store.revision();
    store.expire_leases(soon + Duration::from_secs(11));
    // Nobody waits for an expiry; a write behind it does.
    store.put(put("after", "v")).unwrap();
    assert_eq!((value(&store, "leased"), store.revision()), (None, before + 2));
    drop(store);
    let store = open(dir.path());
    assert_eq!((value(&store, "leased"), store.revision(), store.leases()), (None, before + 2, vec![]));
    assert_eq!(store.lease_revoke(7), Err(Error::LeaseNotFound));
    assert_eq!(store.put(put("next", "v")).unwrap().header.unwrap().revision, before + 3);
}

#[test]
fn the_alarm_stays_until_disarmed() {
    let dir = data_dir();
    let open = || {
        let options = StoreOptions { quota_backend_bytes: 4096, ..StoreOptions::default() };
        Store::open(dir.path(), options).unwrap()
    };
    let store = open();
    let refused = (0..100).find_map(|n| store.put(put(&format!("k/{n}"), &"x".repeat(500))).err());
    assert_eq!(refused, Some(Error::NoSpace));
    drop(store);
    let store = open();
    assert!(store.space_alarm());
    let all = prefix("k/");
    let all = pb::DeleteRangeRequest { key: all.key, range_end: all.range_end, prev_kv: false };
    store.delete_range(&all).unwrap();
    store.compact(store.revision()).unwrap();
    assert_eq!(store.put(put("a", "1")), Err(Error::NoSpace));
    assert_eq!(store.set_space_alarm(false), Ok(true));
    drop(store);
    let store = open();
    assert!(!store.space_alarm());
    store.put(put("a", "1")).unwrap();
}

#[tokio::test]
async fn users_and_roles_come_back() {
    let dir = data_dir();
    let store = open(dir.path());
    let access = Access::kept_in(&store, Auth::default()).unwrap();
    let permission = Permission::new(Action::ReadWrite, &KeyRange::prefix("a/"));
    access
        .change(|auth| {
            auth.user_add(ROOT, Some(PasswordHash::new("secret")))?;
            auth.user_grant_role(ROOT, ROOT)?;
            auth.role_add("a")?;
            auth.role_grant("a", permission.clone())?;
            auth.user_add("u", None)?;
            auth.user_grant_role("u", "a")?;
            auth.enable()
        })
        .await
        .unwrap();
    let before = access.auth();
    drop((access, store));
    for _ in 0..2 {
        let store = open(dir.path());
        let access = Access::kept_in(&store, Auth::default()).unwrap();
        assert_eq!(access.auth(), before);
        assert!(access.auth().user(ROOT).unwrap().password.as_ref().unwrap().verify("secret"));
        assert_eq!(access.change(|auth| auth.user_add("u", None)).await, Err(Error::UserExists));
        // Enough to have the next round read them from a snapshot.
        for n in 0..200 {
            store.staged().put(put(&format!("{n}"), &"x".repeat(200))).done().await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_answered_write_is_seen_by_everybody() {
    let dir = data_dir();
    let store = open(dir.path());
    let mut watcher = store.watch(causeway_kvstore::WatchOptions::prefix("k", 1));
    for n in 0..500 {
        let pending = store.staged().put(put("k", &n.to_string()));
        let (visible, listed) = (store.revision(), store.range(&prefix("k")).unwrap());
        assert!(listed.header.unwrap().revision >= visible);
        let done = pending.done().await.unwrap().header.unwrap().revision;
        assert_eq!(done, n + 2);
        assert!(store.revision() >= done, "an answered write is visible");
        assert_eq!(value(&store, "k"), Some(n.to_string()));
    }
    let mut revisions = Vec::new();
    while let Some(batch) = watcher.poll_now().unwrap() {
        revisions.extend(batch.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision));
    }
    assert_eq!(revisions, (2..502).collect::<Vec<_>>());
}
