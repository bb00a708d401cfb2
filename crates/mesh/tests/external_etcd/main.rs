//! A publisher whose store is a real etcd cluster of Debian's: what is in it is what is published,
//! through the loss of a leader, of the quorum and of the lease, and whoever else publishes.

#[path = "../certificates/mod.rs"]
mod certificates;
mod cluster;
#[path = "../publisher/mod.rs"]
mod publisher;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_kvstore::client::Balancer;
use causeway_kvstore::{KeyRange, Pair, pb};
use causeway_mesh::keys::{self, Kind};
use causeway_mesh::publish::{self, EtcdSink, Options, PublishStatus, Publisher};
use causeway_model::{ClusterInfo, Event, IpEntry, NumericIdentity};
use cluster::Cluster;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long anything in a test may take before it counts as lost. Far beyond what is needed.
const PATIENCE: Duration = Duration::from_secs(120);
/// After this a publisher is taken for dead; the heart beats thirty times as often.
const SILENCE: Duration = Duration::from_secs(15);

fn own() -> ClusterInfo {
    publisher::cluster("cls-a", 1)
}

fn address(n: u16) -> IpEntry {
    IpEntry {
        prefix: format!("10.1.{}.{}/32", n / 250, n % 250 + 1).parse().unwrap(),
        identity: NumericIdentity(65_600),
        host_ip: None,
        key_index: 0,
        pod: None,
    }
}

const CONFIG: &str = "cilium/cluster-config/cls-a";

/// A publisher of addresses, and what it should have published.
struct Publishing {
    events: mpsc::UnboundedSender<Event<IpEntry>>,
    status: watch::Receiver<PublishStatus>,
    wanted: Publisher,
    _stop: DropGuard,
}

impl Publishing {
    fn start(cluster: &Cluster) -> Self {
        Self::beating(cluster, SILENCE / 30)
    }

    /// With another time between two heartbeats.
    fn beating(cluster: &Cluster, heartbeat: Duration) -> Self {
        let stop = CancellationToken::new();
        let sink = EtcdSink::new(Balancer::new(cluster.config()), &own().name).with_silence(SILENCE);
        // Nothing that happens by the clock happens within the time of a test.
        let seldom = Duration::from_secs(3600);
        let options = Options { heartbeat, enforce_config: seldom, ..Options::default() };
        let (events, status) = publisher::start(own(), sink, options, stop.clone(), |_| {});
        let wanted = Publisher::new(own(), false);
        let mut publishing = Self { events, status, wanted, _stop: stop.drop_guard() };
        publishing.send(Event::Reset);
        publishing
    }

    fn send(&mut self, event: Event<IpEntry>) {
        self.wanted.apply_address(event.clone());
        self.events.send(event).unwrap();
    }

    fn wanted(&self) -> BTreeMap<String, Bytes> {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let all = self.wanted.desired(Kind::Ip);
        all.map(|pair| (text(pair.key()), Bytes::copy_from_slice(pair.value()))).collect()
    }

    async fn until(&mut self, what: &str, reached: impl FnMut(&PublishStatus) -> bool) {
        let status = self.status.clone();
        let waited = tokio::time::timeout(PATIENCE, self.status.wait_for(reached)).await;
        assert!(waited.is_ok(), "{what} is never reached: {:?}", status.borrow());
    }

    /// Waits until the cluster holds exactly what is wanted, all of it with one lease: that lease.
    async fn equals(&self, etcd: &Balancer) -> i64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = content(etcd).await;
            let ips: BTreeMap<_, _> = found
                .iter()
                .filter(|kv| kv.0.starts_with("cilium/state/"))
                .map(|kv| (kv.0.clone(), kv.1.0.clone()))
                .collect();
            let leases: Vec<i64> = found.values().map(|(_, lease)| *lease).collect();
            let synced = found.keys().filter(|key| key.starts_with("cilium/synced/cls-a/")).count();
            let one_lease = leases.windows(2).all(|pair| pair[0] == pair[1]);
            let config = found.get(CONFIG).is_some_and(|(value, _)| value.starts_with(b"{\"id\":1,"));
            if ips == self.wanted() && one_lease && synced == 5 && config && leases[0] != 0 {
                return leases[0];
            }
            assert!(
                Instant::now() < deadline,
                "{} keys instead of {}, {synced} markers, one lease: {one_lease}, configuration: {config}, {:?}",
                ips.len(),
                self.wanted().len(),
                self.status.borrow()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Everything below `cilium/` with its lease.
async fn content(etcd: &Balancer) -> BTreeMap<String, (Bytes, i64)> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match etcd.call(|client| async move { client.list_all(b"cilium/").await }).await {
            Ok(found) => {
                let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
                return found.into_iter().map(|kv| (text(&kv.key), (kv.value, kv.lease))).collect();
            }
            Err(error) => assert!(Instant::now() < deadline, "the cluster does not answer: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn put(etcd: &Balancer, key: &'static str) {
    etcd.call(|client| async move { client.put(key, "x", 0).await }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_content_survives_leaders_quorum_and_lease() {
    let mut cluster = Cluster::start().await;
    let etcd = Balancer::new(cluster.config());
    // What an earlier process has left, and what is somebody else's.
    put(&etcd, "cilium/state/ip/v1/default/10.1.200.1").await;
    put(&etcd, "other/10.1.200.1").await;
    let mut publishing = Publishing::start(&cluster);
    (0..1000).for_each(|n| publishing.send(Event::Upsert(address(n))));
    publishing.send(Event::Synced);
    publishing.until("everything", |status| status.ready && status.pending == 0).await;
    let first_lease = publishing.equals(&etcd).await;

    let leader = cluster.leader().await;
    cluster.kill(leader);
    (500..1500).for_each(|n| publishing.send(Event::Upsert(address(n))));
    (0..100).for_each(|n| publishing.send(Event::Remove(address(n).prefix)));
    assert_eq!(publishing.equals(&etcd).await, first_lease, "a new leader is no reason for a new lease");

    let other = (leader + 1) % cluster::MEMBERS;
    cluster.kill(other);
    (1500..1700).for_each(|n| publishing.send(Event::Upsert(address(n))));
    publishing.until("an error without a quorum", |status| status.last_error.is_some()).await;
    cluster.restart(leader);
    publishing
        .until("the end of the error", |status| status.last_error.is_none() && status.pending == 0)
        .await;
    assert_eq!(publishing.equals(&etcd).await, first_lease);
    cluster.restart(other);

    let revoked = etcd.call(|client| async move { client.lease_revoke(first_lease).await }).await;
    revoked.unwrap();
    publishing.send(Event::Upsert(address(2000)));
    let second_lease = publishing.equals(&etcd).await;
    assert_ne!(second_lease, first_lease);
    let foreign = etcd.call(|client| async move { client.get("other/10.1.200.1").await }).await.unwrap();
    assert_eq!(foreign.count, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_publishers_the_newer_one_writes_until_it_is_silent() {
    let cluster = Cluster::start().await;
    let etcd = Balancer::new(cluster.config());
    let mut older = Publishing::start(&cluster);
    older.send(Event::Upsert(address(1)));
    older.send(Event::Synced);
    let first = older.equals(&etcd).await;

    let mut newer = Publishing::start(&cluster);
    newer.send(Event::Upsert(address(2)));
    newer.send(Event::Synced);
    let second = newer.equals(&etcd).await;
    assert_ne!(second, first);
    older
        .until("standing by", |status| status.last_error.as_ref().is_some_and(|e| e.contains("standing by")))
        .await;
    older.send(Event::Upsert(address(3)));
    // For as long as it takes to take over from one that is silent, and longer, nothing changes.
    let start = Instant::now();
    while start.elapsed() < SILENCE + SILENCE / 3 {
        let found = content(&etcd).await;
        assert!(!found.contains_key("cilium/state/ip/v1/default/10.1.0.4"), "both write");
        assert_eq!(found[CONFIG].1, second);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    drop(newer);
    let third = older.equals(&etcd).await;
    assert!(third != first && third != second);
    older.until("ready again", |status| status.ready && status.last_error.is_none()).await;
}

/// Deletes a key, or with `prefix` all keys that begin with it.
async fn delete(etcd: &Balancer, key: &'static str, prefix: bool) {
    let range = if prefix { KeyRange::prefix(key) } else { KeyRange::single(key) };
    let pb::RangeRequest { key: first, range_end, .. } = (&range).into();
    let request = pb::DeleteRangeRequest { key: first, range_end, ..Default::default() };
    let deleted = etcd.call(|client| {
        let request = request.clone();
        async move { client.delete(request).await }
    });
    assert!(deleted.await.unwrap().deleted > 0, "{key}");
}

/// Nothing is written and nothing compared for an hour: only a watch can tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_do_to_the_announcement_is_undone_at_once() {
    let mut cluster = Cluster::start().await;
    let etcd = Balancer::new(cluster.config());
    let mut publishing = Publishing::beating(&cluster, Duration::from_secs(3600));
    publishing.send(Event::Upsert(address(1)));
    publishing.send(Event::Synced);
    publishing.until("everything", |status| status.ready && status.pending == 0).await;
    publishing.equals(&etcd).await;

    delete(&etcd, CONFIG, false).await;
    publishing.equals(&etcd).await;
    delete(&etcd, "cilium/", true).await;
    publishing.equals(&etcd).await;
    // By hand, so without a lease: nobody else publishes.
    put(&etcd, CONFIG).await;
    publishing.equals(&etcd).await;
    // Whichever member the watch was at, it goes on at another one.
    for n in 0..cluster::MEMBERS {
        cluster.kill(n);
        cluster.leader().await;
        put(&etcd, CONFIG).await;
        publishing.equals(&etcd).await;
        cluster.restart(n);
        cluster.leader().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_too_large_for_etcd_hold_nobody_up() {
    let cluster = Cluster::start().await;
    let etcd = Balancer::new(cluster.config());
    let sink = EtcdSink::new(etcd.clone(), &own().name);
    use causeway_mesh::publish::{Op, Sink, SinkError};
    let lease = sink.grant(600).await.unwrap();
    let put = |key: &str, bytes: usize| Op::Put(Pair::new(key, vec![b'x'; bytes]));
    let config = keys::cluster_config(&own().name);
    sink.write(vec![put(&config, 1)], lease).await.unwrap();
    // Beyond etcd's limit for a request, and beyond that of its transport.
    for bytes in [1_700_000, 2 << 20] {
        let large = sink.write(vec![put("cilium/state/services/v1/cls-a/n/s", bytes)], lease).await;
        assert!(matches!(large, Err(SinkError::TooLarge)), "{large:?}");
    }
    let many =
        (0..publish::MAX_BATCH).map(|n| put(&format!("cilium/state/nodes/v1/cls-a/{n}"), 4096)).collect();
    sink.write(many, lease).await.expect("a full batch is taken");
    let nodes = pb::RangeRequest {
        key: "cilium/state/nodes/".into(),
        range_end: "cilium/state/nodes0".into(),
        count_only: true,
        ..Default::default()
    };
    let counted = etcd.call(|client| {
        let nodes = nodes.clone();
        async move { client.range(nodes).await }
    });
    assert_eq!(counted.await.unwrap().count, publish::MAX_BATCH as i64);
}
