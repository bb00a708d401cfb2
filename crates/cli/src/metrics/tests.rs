//! Scrapes over HTTP, compared with the list of names.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use causeway_daemon::health::Health;
use causeway_daemon::metrics::Metrics;
use causeway_datapath::inspect::Usage;
use causeway_kvstore::server::{Access, Server};
use causeway_kvstore::{Pair, Store, StoreOptions, WriteOp};
use causeway_mesh::cache::{self, Cache};
use causeway_mesh::health::{self, Way};
use causeway_mesh::keys::{self, Kind, Layout};
use causeway_mesh::publish::{
    self, Op, Options, PublishStatus, Publisher, Sink, SinkError, Sources, StoreSink,
};
use causeway_mesh::remote::{RejectedStatus, RemoteStatus};
use causeway_mesh::wire::Reason;
use causeway_model::{ClusterId, ClusterInfo, ClusterName, Event, IpEntry, MaxClusters, NumericIdentity};
use futures::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::cache::{CacheMetrics, Caching};
use super::health::{Latency, Statuses};
use super::kvstore::{KvstoreMetrics, Measured};
use super::pressure::Pressure;
use super::publish::Publishing;
use super::remotes::Remotes;
use super::{AGENT, APISERVER, KVSTOREMESH, packets};
use scrape::compare;

#[path = "../../tests/common/scrape.rs"]
pub(super) mod scrape;

fn cluster() -> ClusterInfo {
    let max_clusters = MaxClusters::C255;
    ClusterInfo {
        name: ClusterName::new("cls-a").unwrap(),
        id: ClusterId::new(1, max_clusters).unwrap(),
        max_clusters,
    }
}

/// What `GET /metrics` answers.
async fn scrape(metrics: Metrics) -> String {
    let listener = Health::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    tokio::spawn(Health::new(metrics).serve(listener, stop));
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    socket.write_all(request).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}

#[tokio::test]
async fn an_agent_exposes_every_name() {
    let metrics = Metrics::new("agent", "test");
    let name = ClusterName::new("cls-b").unwrap();
    let remote = RemoteStatus {
        name: name.to_string(),
        ready: true,
        num_nodes: 3,
        num_failures: 2,
        last_failure: Some("2026-03-01T08:15:30Z".into()),
        num_cache_revocations: 1,
        rejected: RejectedStatus {
            count: 5,
            by_reason: [(Reason::BadKey, 4), (Reason::ForeignCluster, 1)].into(),
            last_reasons: vec![],
        },
        ..Default::default()
    };
    let (status, receiver) = watch::channel(BTreeMap::from([(name.clone(), remote)]));
    metrics.collect(Remotes {
        prefix: AGENT,
        source: vec![("source_cluster", "cls-a".into()), ("source_node_name", "n1".into())],
        status: receiver,
        global_services: Some(Arc::new(AtomicUsize::new(4))),
    });
    metrics.collect(packets::given());
    let source = vec![("source_cluster", "cls-a".to_owned()), ("source_node_name", "n1".to_owned())];
    let (_report, report) = watch::channel(Arc::default());
    metrics.collect(Statuses { source: source.clone(), report });
    Latency::register(&metrics, source).measured(Way::Tunnel, health::Kind::Icmp, Duration::from_millis(1));
    let pressure = Pressure::default();
    pressure.set(vec![Usage { name: "cw_lb_frontends", entries: 16_384, max: 65_536 }]);
    metrics.collect(pressure);
    let text = scrape(metrics.clone()).await;
    compare("agent", &text, true);
    assert!(text.contains("cilium_bpf_map_pressure{map_name=\"cw_lb_frontends\"} 0.25"), "{text}");
    let labels = "{source_cluster=\"cls-a\",source_node_name=\"n1\",target_cluster=\"cls-b\"}";
    for (tail, value) in [
        ("failures", "2.0"),
        ("nodes", "3.0"),
        ("readiness_status", "1.0"),
        ("last_failure_ts", "1772352930.0"),
    ] {
        let line = format!("\ncilium_clustermesh_remote_cluster_{tail}{labels} {value}\n");
        assert!(text.contains(&line), "{line} in\n{text}");
    }
    let labels = "source_cluster=\"cls-a\",source_node_name=\"n1\",target_cluster=\"cls-b\"";
    for line in [
        format!("causeway_clustermesh_rejected_total{{{labels},reason=\"bad-key\"}} 4"),
        format!("causeway_clustermesh_rejected_total{{{labels},reason=\"foreign-cluster\"}} 1"),
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
    // What is no peer any more is not exposed any more.
    status.send_modify(|all| all.clear());
    let text = scrape(metrics).await;
    assert!(!text.contains("cls-b") && text.contains("remote_clusters{"), "{text}");
}

/// A store that is not there for a while.
struct Flaky(StoreSink, AtomicBool);

impl Flaky {
    fn check(&self) -> Result<(), SinkError> {
        match self.1.swap(false, Ordering::SeqCst) {
            true => Err(SinkError::Failed("no answer".into())),
            false => Ok(()),
        }
    }
}

impl Sink for Flaky {
    async fn write(&self, ops: Vec<Op>, lease: i64) -> Result<(), SinkError> {
        if ops.iter().any(|op| op.key().starts_with("cilium/state/ip/")) {
            self.check()?;
        }
        self.0.write(ops, lease).await
    }
    async fn keys(&self, prefix: &str) -> Result<Vec<String>, SinkError> {
        self.0.keys(prefix).await
    }
    async fn get(&self, key: &str) -> Result<Option<(Bytes, i64)>, SinkError> {
        self.0.get(key).await
    }
    async fn grant(&self, ttl_seconds: i64) -> Result<i64, SinkError> {
        self.0.grant(ttl_seconds).await
    }
    async fn keep_alive(&self, lease: i64) -> Result<(), SinkError> {
        self.0.keep_alive(lease).await
    }
}

#[tokio::test]
async fn a_mesh_server_exposes_every_name() {
    let metrics = Metrics::new("clustermesh-apiserver", "test");
    let info = cluster();
    let kvstore = Arc::new(KvstoreMetrics::register(&metrics, APISERVER, &info.name, publish::MAX_BATCH));
    let (sender, status) = watch::channel(PublishStatus::default());
    metrics.collect(Publishing { prefix: APISERVER, cluster: info.name.clone(), status: status.clone() });
    let before = scrape(metrics.clone()).await;
    assert!(before.contains("_bootstrap_seconds{source_cluster=\"cls-a\"} 0.0\n"), "{before}");
    let address = IpEntry {
        prefix: "10.1.0.5/32".parse().unwrap(),
        identity: NumericIdentity(65_600),
        host_ip: None,
        key_index: 0,
        pod: None,
    };
    let addresses = [Event::Reset, Event::Upsert(address), Event::Synced];
    let sources = Sources {
        nodes: stream::iter([Event::Reset, Event::Synced]).chain(stream::pending()).boxed(),
        identities: stream::iter([Event::Reset, Event::Synced]).chain(stream::pending()).boxed(),
        addresses: stream::iter(addresses).chain(stream::pending()).boxed(),
        services: stream::iter([Event::Reset, Event::Synced]).chain(stream::pending()).boxed(),
        slices: stream::iter([Event::Reset, Event::Synced]).chain(stream::pending()).boxed(),
        exports: None,
    };
    let sink = Flaky(StoreSink(Store::new(StoreOptions::default())), AtomicBool::new(true));
    let options = Options { observer: Some(kvstore.clone()), ..Default::default() };
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let publisher = Publisher::new(info, false);
    let sink = Measured { sink, metrics: kvstore };
    tokio::spawn(publish::run(publisher, sources, sink, options, sender, stop));
    let mut waiting = status.clone();
    let complete = waiting.wait_for(|status| status.ready && status.pending == 0);
    let complete = tokio::time::timeout(Duration::from_secs(60), complete).await.unwrap().unwrap().clone();
    assert!(complete.bootstrap.is_some_and(|time| time > Duration::ZERO));
    let text = scrape(metrics).await;
    compare("apiserver", &text, true);
    for line in [
        "kvstore_initial_sync_completed{scope=\"ip/v1\",source_cluster=\"cls-a\",action=\"write\"} 1.0",
        "kvstore_sync_errors_total{scope=\"ip/v1\",source_cluster=\"cls-a\"} 1",
        "kvstore_sync_queue_size{scope=\"ip/v1\",source_cluster=\"cls-a\"} 0.0",
        "controllers_group_runs_total{status=\"success\",group_name=\"kvstore-heartbeat\"} 1",
        "api_limiter_requests_in_flight{api_call=\"write\",value=\"in-flight\"} 0",
        "kvstore_events_queue_seconds_count{action=\"modify\",scope=\"ip/v1\"} 1",
    ] {
        assert!(text.contains(&format!("\n{APISERVER}_{line}\n")), "{line} in\n{text}");
    }
}

/// The store of cls-b, published by hand.
fn published(b: &ClusterName) -> Store {
    let store = Store::new(StoreOptions::default());
    let put = |key: String, value: &'static str| WriteOp::Put(Pair::new(key, value));
    let config = r#"{"id":2,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255}}"#;
    let mut ops = vec![
        put(keys::HEARTBEAT.to_owned(), "t"),
        put(keys::cluster_config(b), config),
        put(keys::prefix(Layout::Native, Kind::Ip, b) + "10.2.0.21", "an address"),
    ];
    ops.extend(Kind::ALL.map(|kind| put(keys::marker(b, Layout::Native, kind), "t")));
    store.apply(ops).unwrap();
    store
}

#[tokio::test]
async fn a_cache_exposes_every_name() {
    let (own, b) = (cluster(), ClusterName::new("cls-b").unwrap());
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let source = published(&b);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(Server::plaintext(source.clone(), Access::open()).serve(listener, stop.clone()));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("cls-b"), format!("endpoints:\n- http://127.0.0.1:{port}\n")).unwrap();

    let metrics = Metrics::new("kvstoremesh", "test");
    let store = Store::new(StoreOptions::default());
    let options = cache::Options {
        heartbeat: Some(Duration::from_secs(60)),
        observer: Some(Arc::new(CacheMetrics::register(&metrics, &own.name))),
        ..cache::Options::new(own.clone())
    };
    let cache = Cache::spawn(options, dir.path().to_owned(), store.clone(), stop).await;
    let bootstrap = Arc::new(OnceLock::new());
    metrics.collect(Caching { own: own.name.clone(), cache: cache.clone(), bootstrap: bootstrap.clone() });
    metrics.collect(Remotes {
        prefix: KVSTOREMESH,
        source: vec![("source_cluster", own.name.to_string())],
        status: cache.clone(),
        global_services: None,
    });
    assert!(
        scrape(metrics.clone())
            .await
            .contains("kvstoremesh_bootstrap_seconds{source_cluster=\"cls-a\"} 0.0\n")
    );
    let ready = cache.wait_for(|all| all.get(&b).is_some_and(|status| status.ready));
    tokio::time::timeout(Duration::from_secs(60), ready).await.unwrap();
    bootstrap.set(Duration::from_millis(1500)).unwrap();

    // A store that is full for a while: what waits is told, and that it was refused.
    store.set_space_alarm(true).unwrap();
    let address = keys::prefix(Layout::Native, Kind::Ip, &b) + "10.2.0.22";
    source.apply(vec![WriteOp::Put(Pair::new(address, "an address"))]).unwrap();
    let says = async |line: &str| {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let text = scrape(metrics.clone()).await;
            if text.contains(&format!("\n{KVSTOREMESH}_{line}\n")) {
                return text;
            }
            assert!(tokio::time::Instant::now() < deadline, "{line} in\n{text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let of_ip = "scope=\"ip/v1\",source_cluster=\"cls-b\"";
    says(&format!("kvstore_sync_queue_size{{{of_ip}}} 1")).await;
    store.set_space_alarm(false).unwrap();
    let text = says(&format!("kvstore_sync_queue_size{{{of_ip}}} 0")).await;
    compare("kvstoremesh", &text, true);
    for line in [
        "bootstrap_seconds{source_cluster=\"cls-a\"} 1.5",
        "remote_cluster_readiness_status{source_cluster=\"cls-a\",target_cluster=\"cls-b\"} 1.0",
        "kvstore_initial_sync_completed{scope=\"ip/v1\",source_cluster=\"cls-b\",action=\"read\"} 1.0",
        "kvstore_initial_sync_completed{scope=\"ip/v1\",source_cluster=\"cls-b\",action=\"write\"} 1.0",
        "kvstore_events_queue_seconds_count{action=\"modify\",scope=\"ip/v1\"} 2",
        "controllers_group_runs_total{status=\"success\",group_name=\"kvstore-heartbeat\"} 1",
    ] {
        assert!(text.contains(&format!("\n{KVSTOREMESH}_{line}\n")), "{line} in\n{text}");
    }
    let errors =
        text.lines().find(|line| line.starts_with(&format!("{KVSTOREMESH}_kvstore_sync_errors_total")));
    assert!(errors.is_some_and(|line| line.contains(of_ip)), "{text}");
    let quorum = format!("{KVSTOREMESH}_kvstore_quorum_errors_total{{error=\"full\"}}");
    assert!(text.contains(&quorum), "{text}");
}
