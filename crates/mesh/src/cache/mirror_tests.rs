//! What is decided for the store, change by change.

use bytes::Bytes;
use causeway_kvstore::{Pair, StoreOptions, WatchOptions, pb};
use causeway_model::{ClusterConfig, ClusterName};
use futures::FutureExt;

use super::*;
use crate::keys::{self, Layout};
use crate::remote::{Intake, Keep, Limits, RejectedStatus};
use crate::wire::config;

const GRACE: Duration = Duration::from_secs(180);

fn name(text: &str) -> ClusterName {
    ClusterName::new(text).unwrap()
}

fn mirror(store: &Store) -> Mirror {
    Mirror::new(store.clone(), name("cls-a"), GRACE, 10_000)
}

fn announced(exports: Option<bool>) -> ClusterConfig {
    ClusterConfig {
        id: 2,
        synced_canaries: false,
        cached: false,
        max_connected_clusters: 255,
        service_exports_enabled: exports,
    }
}

fn key(kind: Kind, suffix: &str) -> Bytes {
    format!("{}{suffix}", keys::prefix(Layout::Cached, kind, &name("cls-b"))).into()
}

fn put(kind: Kind, suffix: &str, value: &str) -> Change {
    Change::Put(kind, Pair::new(key(kind, suffix), value))
}

fn content(store: &Store) -> BTreeMap<String, String> {
    let all = pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let kvs = store.range(&all).unwrap().kvs;
    kvs.into_iter().map(|kv| (text(kv.key), text(kv.value))).collect()
}

/// A store in memory answers at once.
fn written(mirror: &mut Mirror) -> Result<(), causeway_kvstore::Error> {
    mirror.write().now_or_never().unwrap()
}

fn apply(mirror: &mut Mirror, changes: Vec<Change>) {
    mirror.apply(Duration::ZERO, &name("cls-b"), changes);
    written(mirror).unwrap();
}

fn write(store: &Store, key: &str, value: &str) {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    store.put(pb::PutRequest { key, value, ..Default::default() }).unwrap();
}

fn marker(kind: Kind) -> String {
    keys::marker(&name("cls-b"), Layout::Cached, kind)
}

#[test]
fn a_marker_comes_after_the_whole_listing_and_once() {
    let store = Store::new(StoreOptions::default());
    let mut mirror = mirror(&store);
    apply(&mut mirror, vec![Change::Config(announced(Some(true)))]);
    let config = &content(&store)["cilium/cluster-config/cls-b"];
    assert_eq!(
        config,
        r#"{"id":2,"capabilities":{"syncedCanaries":true,"cached":true,"maxConnectedClusters":255,"serviceExportsEnabled":true}}"#
    );
    apply(&mut mirror, vec![Change::Begins(Kind::Ip), put(Kind::Ip, "10.2.0.1", "x")]);
    assert!(!content(&store).keys().any(|key| key.starts_with("cilium/synced/")));
    apply(&mut mirror, vec![put(Kind::Ip, "10.2.0.2", "y"), Change::Done(Kind::Ip)]);
    let mut watcher = store.watch(WatchOptions::prefix("cilium/", 2));
    let events = watcher.poll_now().unwrap().unwrap().events;
    let order: Vec<_> = events.into_iter().map(|event| event.kv.unwrap().key).collect();
    let want = [
        "cilium/cluster-config/cls-b",
        "cilium/cache/ip/v1/cls-b/10.2.0.1",
        "cilium/cache/ip/v1/cls-b/10.2.0.2",
        "cilium/synced/cls-b/cilium/cache/ip/v1",
    ];
    assert_eq!(order, want);
    // Another listing, as after a reconnection: nothing that is the same is written again.
    let before = store.revision();
    let again = [Change::Config(announced(Some(true))), Change::Begins(Kind::Ip)];
    apply(&mut mirror, again.to_vec());
    apply(&mut mirror, vec![put(Kind::Ip, "10.2.0.1", "x"), put(Kind::Ip, "10.2.0.2", "z")]);
    assert_eq!(store.revision(), before + 1);
    apply(&mut mirror, vec![Change::Done(Kind::Ip)]);
    assert_eq!(store.revision(), before + 1);
    let status = mirror.copy(&name("cls-b")).unwrap();
    assert_eq!((status.keys, status.synced), ([0, 0, 0, 0, 2], [false, false, false, false, true]));
}

#[test]
fn only_a_complete_listing_takes_away() {
    let store = Store::new(StoreOptions::default());
    // What an earlier process left in a store that outlives it, and what is somebody else's.
    for left in ["cilium/cache/ip/v1/cls-b/10.2.9.9", "cilium/cache/ip/v1/cls-b/10.2.0.1"] {
        write(&store, left, "old");
    }
    let others = ["cilium/state/ip/v1/default/10.1.0.1", "cilium/cache/ip/v1/cls-bb/10.4.0.1"];
    others.iter().for_each(|key| write(&store, key, "other"));
    let mut mirror = mirror(&store);
    apply(&mut mirror, vec![Change::Config(announced(Some(false))), Change::Begins(Kind::Ip)]);
    apply(&mut mirror, vec![put(Kind::Ip, "10.2.0.1", "new")]);
    assert_eq!(mirror.copy(&name("cls-b")).unwrap().keys[Kind::Ip as usize], 2);
    assert!(content(&store).contains_key("cilium/cache/ip/v1/cls-b/10.2.9.9"));
    // The listing is interrupted and begins again; a refused value is there all the same.
    apply(&mut mirror, vec![Change::Begins(Kind::Ip), Change::Held(Kind::Ip, key(Kind::Ip, "10.2.0.1"))]);
    apply(&mut mirror, vec![Change::Done(Kind::Ip)]);
    let now = content(&store);
    assert_eq!(now["cilium/cache/ip/v1/cls-b/10.2.0.1"], "new");
    assert!(!now.contains_key("cilium/cache/ip/v1/cls-b/10.2.9.9"));
    assert!(others.iter().all(|key| now[*key] == "other"));
    let status = mirror.copy(&name("cls-b")).unwrap().clone();
    assert_eq!(status.keys[Kind::Ip as usize], 1);
    assert_eq!(status.bytes, "cilium/cache/ip/v1/cls-b/10.2.0.1new".len() as i64);
    // Between listings, only what is named goes.
    apply(&mut mirror, vec![Change::Gone(Kind::Ip, key(Kind::Ip, "10.2.0.1"))]);
    assert_eq!(mirror.copy(&name("cls-b")).unwrap().bytes, 0);
}

#[test]
fn a_removed_cluster_loses_its_configuration_now_and_its_data_later() {
    let store = Store::new(StoreOptions::default());
    write(&store, "cilium/cluster-config/cls-a", "own");
    write(&store, "cilium/synced/cls-a/cilium/state/ip/v1", "own");
    let mut mirror = mirror(&store);
    let all = vec![
        Change::Config(announced(None)),
        Change::Begins(Kind::Ip),
        put(Kind::Ip, "10.2.0.1", "x"),
        Change::Done(Kind::Ip),
    ];
    apply(&mut mirror, all.clone());
    assert!(content(&store).contains_key(&marker(Kind::ServiceExports)), "owed although there are none");
    apply(&mut mirror, vec![Change::Removed]);
    assert_eq!(mirror.copy(&name("cls-b")), None);
    assert_eq!(mirror.deadline(), Some(GRACE));
    assert!(!content(&store).contains_key("cilium/cluster-config/cls-b"));
    assert!(content(&store).contains_key(&marker(Kind::Ip)));
    // It comes back in time: nothing goes.
    apply(&mut mirror, vec![Change::Config(announced(None))]);
    assert_eq!(mirror.deadline(), None);
    assert_eq!(mirror.copy(&name("cls-b")).unwrap().keys[Kind::Ip as usize], 1, "counted from the store");
    apply(&mut mirror, vec![Change::Removed]);
    mirror.tick(GRACE - Duration::from_millis(1));
    written(&mut mirror).unwrap();
    assert!(content(&store).contains_key(&marker(Kind::Ip)));
    mirror.tick(GRACE);
    written(&mut mirror).unwrap();
    let left: Vec<_> = content(&store).into_keys().collect();
    assert_eq!(left, ["cilium/cluster-config/cls-a", "cilium/synced/cls-a/cilium/state/ip/v1"]);
    // What an earlier process left of clusters nobody configures goes too, own content never.
    apply(&mut mirror, all);
    let mut later = super::mirror_tests::mirror(&store);
    later.drain_others(Duration::ZERO, &[name("cls-c")].into());
    later.tick(GRACE);
    written(&mut later).unwrap();
    assert_eq!(content(&store).len(), 2);
}

#[test]
fn another_id_drops_everything_first() {
    let store = Store::new(StoreOptions::default());
    let mut mirror = mirror(&store);
    let mut changes = vec![Change::Config(announced(Some(true)))];
    for kind in Kind::ALL {
        changes.extend([Change::Begins(kind), put(kind, "10.2.0.1", "x"), Change::Done(kind)]);
    }
    apply(&mut mirror, changes);
    let revision = store.revision();
    let mut changes: Vec<_> = Kind::ALL.map(Change::Dropped).to_vec();
    changes.push(Change::Config(ClusterConfig { id: 3, ..announced(Some(true)) }));
    apply(&mut mirror, changes);
    assert_eq!(content(&store).into_keys().collect::<Vec<_>>(), ["cilium/cluster-config/cls-b"]);
    let mut watcher = store.watch(WatchOptions::prefix("cilium/", revision + 1));
    let events = watcher.poll_now().unwrap().unwrap().events;
    assert_eq!(events[0].kv.as_ref().unwrap().key, marker(Kind::Nodes), "a marker goes before its data");
    assert_eq!(*mirror.copy(&name("cls-b")).unwrap(), CopyStatus::default());
}

#[test]
fn one_cluster_cannot_fill_the_store() {
    let store = Store::new(StoreOptions::default());
    let mut mirror = Mirror::new(store.clone(), name("cls-a"), GRACE, 300);
    let long = "x".repeat(100);
    let page = |value: &str| ["1", "2", "3"].map(|n| put(Kind::Ip, &format!("10.2.0.{n}"), value)).to_vec();
    apply(&mut mirror, vec![Change::Config(announced(None)), Change::Begins(Kind::Ip)]);
    apply(&mut mirror, page(&long));
    let status = mirror.copy(&name("cls-b")).unwrap().clone();
    assert_eq!((status.keys[Kind::Ip as usize], status.refused), (2, 1));
    // What is there may change while it does not grow, also in one batch, and is not taken away.
    apply(&mut mirror, vec![Change::Begins(Kind::Ip)]);
    apply(&mut mirror, page(&long.replace('x', "y")));
    apply(&mut mirror, vec![Change::Done(Kind::Ip)]);
    let status = mirror.copy(&name("cls-b")).unwrap().clone();
    assert_eq!((status.keys[Kind::Ip as usize], status.refused), (2, 2));
    assert!(content(&store)["cilium/cache/ip/v1/cls-b/10.2.0.2"].starts_with('y'));
    let mut shown = RemoteStatus::default();
    status.show(&mut shown);
    assert_eq!((shown.num_endpoints, shown.rejected.count), (2, 2));
}

#[test]
fn a_full_store_loses_nothing() {
    let store = Store::new(StoreOptions { quota_backend_bytes: 1700, ..Default::default() });
    write(&store, "other", &"x".repeat(1000));
    let mut mirror = mirror(&store);
    let changes = vec![
        Change::Config(announced(Some(true))),
        Change::Begins(Kind::Ip),
        put(Kind::Ip, "10.2.0.1", &"x".repeat(500)),
        Change::Done(Kind::Ip),
    ];
    mirror.apply(Duration::ZERO, &name("cls-b"), changes);
    assert!(written(&mut mirror).is_err() && written(&mut mirror).is_err());
    assert!(!content(&store).contains_key(&marker(Kind::Ip)), "not before what it promises");
    let range = pb::DeleteRangeRequest { key: "other".into(), ..Default::default() };
    store.delete_range(&range).unwrap();
    store.compact(store.revision()).unwrap();
    assert!(store.set_space_alarm(false).unwrap());
    written(&mut mirror).unwrap();
    let now = content(&store);
    assert!(now.contains_key(&marker(Kind::Ip)) && now.contains_key("cilium/cache/ip/v1/cls-b/10.2.0.1"));
    assert_eq!(mirror.copy(&name("cls-b")).unwrap().keys[Kind::Ip as usize], 1);
}

#[test]
fn keys_are_checked_and_values_kept_as_they_are() {
    let from = ClusterInfo {
        name: name("cls-b"),
        id: causeway_model::ClusterId::new(2, causeway_model::MaxClusters::C255).unwrap(),
        max_clusters: causeway_model::MaxClusters::C255,
    };
    let mut rejected = RejectedStatus::default();
    let mut put = |kind: Kind, suffix: &str, value: &[u8]| {
        let prefix = keys::prefix(Layout::Native, kind, &from.name);
        let key = format!("{prefix}{suffix}");
        let (limits, mut used) = (Limits::default(), 0);
        let rejected = &mut rejected;
        let mut intake = Intake { from: &from, limits: &limits, own: &[], used: &mut used, rejected };
        Copied::new(kind).put(&prefix, key.as_bytes(), value, &mut intake)
    };
    let any = b"\xff of a version to come";
    let cached = key(Kind::Identities, "140013");
    assert_eq!(
        put(Kind::Identities, "140013", any),
        Some(Change::Put(Kind::Identities, Pair::new(&cached, any)))
    );
    assert_eq!(cached, "cilium/cache/identities/v1/cls-b/id/140013");
    let long = vec![b' '; crate::wire::MAX_VALUE + 1];
    assert_eq!(put(Kind::Identities, "140013", &long), Some(Change::Held(Kind::Identities, cached)));
    let far = "9".repeat(keys::MAX_KEY);
    for (kind, bad) in [
        (Kind::Identities, "x"),
        (Kind::Ip, "10.2.0.1/33"),
        (Kind::Ip, "../../../state/ip/v1/default/10.1.0.1"),
        (Kind::Nodes, "a/b"),
        (Kind::Nodes, ""),
        (Kind::Services, "shop"),
        (Kind::ServiceExports, "a/b/c"),
        (Kind::Nodes, &far),
    ] {
        assert_eq!(put(kind, bad, b"x"), None, "{bad}");
    }
    assert_eq!(rejected.count, 9);
    // The configuration is written as decoded: nothing else of it crosses.
    let decoded = config::decode(&from.name, &config::encode(&announced(None))).unwrap();
    assert_eq!(decoded, announced(None));
}
