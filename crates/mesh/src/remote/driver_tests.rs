//! Drivers, manager and configuration directory together, over stores in memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use causeway_model::{ClusterId, ClusterInfo, ClusterName, Event, MaxClusters};
use futures::StreamExt;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::sync::CancellationToken;

use super::transport::{Client, RangeReply, Transport, TransportError, WatchReply, WatchStream};
use super::*;
use crate::config_dir::RemoteConfig;
use crate::keys::{self, Layout};

/// A store with one writer; the host name of the endpoint picks it.
#[derive(Clone)]
struct Store(Arc<Mutex<Inner>>);

struct Inner {
    revision: i64,
    data: BTreeMap<Vec<u8>, Vec<u8>>,
    up: bool,
    feed: broadcast::Sender<Result<(i64, Change), String>>,
}

impl Store {
    fn new(cluster: &str, id: u32) -> Self {
        let inner = Inner { revision: 1, data: BTreeMap::new(), up: true, feed: broadcast::channel(1000).0 };
        let store = Self(Arc::new(Mutex::new(inner)));
        let name = ClusterName::new(cluster).unwrap();
        store.put(keys::HEARTBEAT, "t");
        store.put(
            &keys::cluster_config(&name),
            &format!(r#"{{"id":{id},"capabilities":{{"syncedCanaries":true}}}}"#),
        );
        for kind in Kind::ALL {
            store.put(&keys::marker(&name, Layout::Native, kind), "t");
        }
        store
    }

    fn put(&self, key: &str, value: &str) {
        let mut inner = self.0.lock().unwrap();
        inner.revision += 1;
        let (key, value) = (key.as_bytes().to_vec(), value.as_bytes().to_vec());
        inner.data.insert(key.clone(), value.clone());
        let event = (inner.revision, Change::Put(key.into(), value.into()));
        drop(inner.feed.send(Ok(event)));
    }

    fn cut(&self, up: bool) {
        let mut inner = self.0.lock().unwrap();
        inner.up = up;
        drop(inner.feed.send(Err("connection reset by peer".to_owned())));
    }
}

impl Client for Store {
    async fn range(
        &self,
        start: Vec<u8>,
        end: Vec<u8>,
        _: i64,
        limit: i64,
        _: bool,
    ) -> Result<RangeReply, TransportError> {
        let inner = self.0.lock().unwrap();
        if !inner.up {
            return Err(TransportError::Broken("connection refused".to_owned()));
        }
        let end = if end.is_empty() { [&start[..], &[0]].concat() } else { end };
        let all: Vec<_> =
            inner.data.range(start..end).map(|(k, v)| (k.clone().into(), v.clone().into())).collect();
        let more = all.len() > limit as usize;
        let entries = all.into_iter().take(limit as usize).collect();
        Ok(RangeReply { store: 7, revision: inner.revision, entries, more })
    }

    async fn watch(&self, start: Vec<u8>, end: Vec<u8>, from: i64) -> Result<WatchStream, TransportError> {
        let feed = BroadcastStream::new(self.0.lock().unwrap().feed.subscribe());
        let created =
            futures::stream::iter([Ok(WatchReply { store: 7, revision: from - 1, changes: vec![] })]);
        let events = feed.filter_map(move |event| {
            let reply = match event {
                Ok(Ok((revision, change))) => {
                    let (Change::Put(key, _) | Change::Delete(key)) = &change;
                    let inside = *key >= start && *key < end && revision >= from;
                    inside.then_some(Ok(WatchReply { store: 7, revision, changes: vec![change] }))
                }
                Ok(Err(text)) => Some(Err(TransportError::Broken(text))),
                Err(_) => Some(Err(TransportError::Compacted)),
            };
            std::future::ready(reply)
        });
        Ok(created.chain(events).boxed())
    }
}

struct Stores(BTreeMap<String, Store>);

impl Transport for Stores {
    type Client = Store;
    async fn connect(&self, config: &RemoteConfig) -> Result<Store, TransportError> {
        let host = config.endpoints[0].trim_start_matches("https://").trim_end_matches(":2379");
        self.0.get(host).cloned().ok_or_else(|| TransportError::Broken(format!("no such host: {host}")))
    }
}

fn local() -> ClusterInfo {
    ClusterInfo {
        name: ClusterName::new("cls-a").unwrap(),
        id: ClusterId::new(1, MaxClusters::C255).unwrap(),
        max_clusters: MaxClusters::C255,
    }
}

fn file(dir: &Path, name: &str, host: &str) {
    std::fs::write(dir.join(name), format!("endpoints:\n- https://{host}:2379\n")).unwrap();
}

const ADDRESS: &str =
    r#"{"IP":"10.2.0.21","Mask":null,"HostIP":"172.20.0.11","ID":140013,"Key":0,"Metadata":""}"#;
const KEY: &str = "cilium/state/ip/v1/default/10.2.0.21";

#[tokio::test]
async fn peers_come_change_break_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let (b, c) = (Store::new("cls-b", 2), Store::new("cls-c", 2));
    b.put(KEY, ADDRESS);
    let stores = Stores(
        [("b".to_owned(), b.clone()), ("b2".to_owned(), b.clone()), ("c".to_owned(), c.clone())].into(),
    );
    file(dir.path(), "cls-b", "b");
    let shutdown = CancellationToken::new();
    let options = Options::agent(local());
    let (remotes, mut events) =
        RemoteClusters::spawn_over::<_, Known>(stores, options, dir.path().to_owned(), shutdown.clone())
            .await;
    let mut status = remotes.status();
    let name = |n: &str| ClusterName::new(n).unwrap();
    let wait =
        async |status: &mut tokio::sync::watch::Receiver<_>, cluster: &str, f: fn(&RemoteStatus) -> bool| {
            let cluster = name(cluster);
            let found =
                status.wait_for(|all: &BTreeMap<ClusterName, RemoteStatus>| all.get(&cluster).is_some_and(f));
            let found = tokio::time::timeout(Duration::from_secs(60), found).await.expect("in time").unwrap();
            found[&cluster].clone()
        };
    let ready = wait(&mut status, "cls-b", |s| s.ready).await;
    assert_eq!((ready.num_endpoints, ready.config.cluster_id), (1, 2));

    // Another peer announces the same id: refused, named, and the first one is not disturbed.
    file(dir.path(), "cls-c", "c");
    let refused = wait(&mut status, "cls-c", |s| s.last_error.is_some()).await;
    assert!(refused.last_error.unwrap().contains("cluster cls-b holds already"));
    assert!(status.borrow()[&name("cls-b")].ready);

    // A malformed file: reported, and the connection goes on.
    std::fs::write(dir.path().join("cls-b"), "endpoints: [\n").unwrap();
    let bad = wait(&mut status, "cls-b", |s| s.config_error.is_some()).await;
    assert!(bad.ready && bad.config_error.unwrap().contains("YAML"));
    // Another endpoint: reconnected, state kept.
    file(dir.path(), "cls-b", "b2");
    wait(&mut status, "cls-b", |s| s.config_error.is_none() && s.ready).await;

    // The link is cut: not connected, state kept; it heals and follows.
    b.cut(false);
    let cut = wait(&mut status, "cls-b", |s| !s.connected && s.last_error.is_some()).await;
    assert_eq!(cut.num_endpoints, 1);
    b.cut(true);
    b.put(&KEY.replace("21", "22"), &ADDRESS.replace("10.2.0.21", "10.2.0.22"));
    wait(&mut status, "cls-b", |s| s.ready && s.num_endpoints == 2).await;

    // The file goes: everything of it is withdrawn, and its id is free for the other.
    std::fs::remove_file(dir.path().join("cls-b")).unwrap();
    wait(&mut status, "cls-c", |s| s.ready).await;
    let mut seen = vec![];
    while let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(200), events.recv()).await {
        if event.cluster == name("cls-b") {
            seen.push(event.change);
        }
    }
    let upserts = |c: &&RemoteChange| matches!(c, RemoteChange::Address(Event::Upsert(_)));
    assert_eq!(seen.iter().filter(upserts).count(), 2, "reconnections announce nothing twice");
    assert!(!seen.iter().any(|c| matches!(c, RemoteChange::Address(Event::Remove(_)))));
    assert_eq!(seen.last(), Some(&RemoteChange::Removed));
    shutdown.cancel();
}
