//! The publishing task against a store that misbehaves, in virtual time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use causeway_model::{ClusterId, ClusterInfo, ClusterName, MaxClusters, NumericIdentity};
use futures::StreamExt;
use tokio::sync::mpsc;

use super::*;

#[derive(Default)]
struct Fake {
    data: BTreeMap<String, (Bytes, i64)>,
    log: Vec<String>,
    lease: i64,
    alive: bool,
    broken: bool,
    largest: usize,
}

#[derive(Clone, Default)]
struct FakeSink(Arc<Mutex<Fake>>, Arc<tokio::sync::Notify>);

impl FakeSink {
    fn with<R>(&self, f: impl FnOnce(&mut Fake) -> R) -> R {
        f(&mut self.0.lock().unwrap())
    }

    fn check(&self) -> Result<(), SinkError> {
        self.with(|s| if s.broken { Err(SinkError::Failed("store is down".into())) } else { Ok(()) })
    }
}

impl Sink for FakeSink {
    async fn write(&self, ops: Vec<Op>, lease: i64) -> Result<(), SinkError> {
        tokio::task::yield_now().await;
        self.check()?;
        self.with(|s| {
            if !s.alive || lease != s.lease {
                return Err(SinkError::LeaseLost);
            }
            s.largest = s.largest.max(ops.len());
            for op in ops {
                s.log.push(op.key().to_owned());
                match op {
                    Op::Put(ref pair) => {
                        let value = Bytes::copy_from_slice(pair.value());
                        drop(s.data.insert(op.key().to_owned(), (value, lease)));
                    }
                    Op::Delete { key } => drop(s.data.remove(&key)),
                }
            }
            Ok(())
        })
    }
    async fn keys(&self, prefix: &str) -> Result<Vec<String>, SinkError> {
        self.check()?;
        Ok(self.with(|s| s.data.keys().filter(|key| key.starts_with(prefix)).cloned().collect()))
    }
    async fn get(&self, key: &str) -> Result<Option<(Bytes, i64)>, SinkError> {
        self.check()?;
        Ok(self.with(|s| s.data.get(key).cloned()))
    }
    async fn grant(&self, _: i64) -> Result<i64, SinkError> {
        self.check()?;
        Ok(self.with(|s| {
            s.lease += 1;
            s.alive = true;
            s.lease
        }))
    }
    fn changes(&self, _: &str) -> BoxStream<'static, ()> {
        let told = self.1.clone();
        let next = |told: Arc<tokio::sync::Notify>| async move {
            told.notified().await;
            Some(((), told))
        };
        futures::stream::unfold(told, next).boxed()
    }
    async fn keep_alive(&self, lease: i64) -> Result<(), SinkError> {
        self.check()?;
        self.with(|s| if s.alive && s.lease == lease { Ok(()) } else { Err(SinkError::LeaseLost) })
    }
}

fn info() -> ClusterInfo {
    ClusterInfo {
        name: ClusterName::new("cls-a").unwrap(),
        id: ClusterId::new(1, MaxClusters::C255).unwrap(),
        max_clusters: MaxClusters::C255,
    }
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

struct Bench {
    addresses: mpsc::UnboundedSender<Event<IpEntry>>,
    services: mpsc::UnboundedSender<Event<Service>>,
    status: watch::Receiver<PublishStatus>,
    shutdown: CancellationToken,
}

fn start(sink: FakeSink) -> Bench {
    start_with(sink, futures::stream::empty().boxed())
}

/// With addresses that are there before those of the channel.
fn start_with(sink: FakeSink, first: BoxStream<'static, Event<IpEntry>>) -> Bench {
    let (addresses, received) = mpsc::unbounded_channel();
    let (services, received_services) = mpsc::unbounded_channel();
    let received = tokio_stream::wrappers::UnboundedReceiverStream::new(received);
    let sources = Sources {
        nodes: futures::stream::iter([Event::Reset, Event::Synced]).chain(futures::stream::pending()).boxed(),
        identities: futures::stream::iter([Event::Reset, Event::Synced])
            .chain(futures::stream::pending())
            .boxed(),
        addresses: first.chain(received).boxed(),
        services: tokio_stream::wrappers::UnboundedReceiverStream::new(received_services).boxed(),
        slices: futures::stream::iter([Event::Reset, Event::Synced])
            .chain(futures::stream::pending())
            .boxed(),
        exports: None,
    };
    let (sender, status) = watch::channel(PublishStatus::default());
    let shutdown = CancellationToken::new();
    let publisher = Publisher::new(info(), false);
    tokio::spawn(run(publisher, sources, sink.clone(), Options::default(), sender, shutdown.clone()));
    Bench { addresses, services, status, shutdown }
}

async fn ready(bench: &mut Bench) {
    bench.status.wait_for(|status| status.ready && status.pending == 0).await.unwrap();
}

/// What others keep in the same store.
const FOREIGN: [&str; 8] = [
    "cilium/state/nodes/v1/cls-other/n",
    "cilium/state/nodes/v1/cls-aa/n",
    "cilium/state/identities/v1/value/k8s:app=x;/10.0.0.1",
    "cilium/state/ip/v1/other-space/10.1.9.9",
    "cilium/cache/ip/v1/cls-b/10.2.0.1",
    "cilium/cluster-config/cls-b",
    "cilium/synced/cls-b/cilium/cache/ip/v1",
    "unrelated",
];

#[tokio::test(start_paused = true)]
async fn sim_markers_come_last_and_leftovers_go() {
    let sink = FakeSink::default();
    sink.with(|s| {
        let left = "cilium/state/ip/v1/default/10.1.9.9";
        s.data.insert(left.into(), ("old".into(), 0));
        for key in FOREIGN {
            s.data.insert(key.into(), ("foreign".into(), 0));
        }
    });
    let mut bench = start(sink.clone());
    bench.addresses.send(Event::Reset).unwrap();
    for n in 0..1000 {
        bench.addresses.send(Event::Upsert(address(n))).unwrap();
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let marker = "cilium/synced/cls-a/cilium/state/ip/v1";
    sink.with(|s| {
        assert_eq!(s.log[0], "cilium/cluster-config/cls-a");
        assert_eq!(s.data.keys().filter(|key| key.starts_with("cilium/state/ip/v1/default/")).count(), 1001);
        assert!(
            s.data.contains_key("cilium/synced/cls-a/cilium/state/serviceexports/v1"),
            "owed although off"
        );
        assert!(!s.data.contains_key(marker));
        assert!(s.largest > 1 && s.largest <= MAX_BATCH);
    });
    assert!(!bench.status.borrow().ready);
    bench.addresses.send(Event::Synced).unwrap();
    bench.services.send(Event::Synced).unwrap();
    ready(&mut bench).await;
    sink.with(|s| {
        assert!(!s.data.contains_key("cilium/state/ip/v1/default/10.1.9.9"), "a leftover");
        for key in FOREIGN {
            assert_eq!(s.data.get(key), Some(&("foreign".into(), 0)), "{key} is somebody else's");
        }
        let at = s.log.iter().position(|key| key == marker).unwrap();
        let last = s.log.iter().rposition(|key| key.starts_with("cilium/state/ip/")).unwrap();
        assert!(last < at);
        let ours = |key: &String| !FOREIGN.contains(&key.as_str());
        assert!(s.data.iter().all(|(key, (_, lease))| *lease == s.lease || !ours(key)));
    });
    bench.shutdown.cancel();
}

#[tokio::test(start_paused = true)]
async fn sim_a_lost_lease_and_a_broken_store_lose_nothing() {
    let sink = FakeSink::default();
    let mut bench = start(sink.clone());
    for event in [Event::Reset, Event::Upsert(address(1)), Event::Synced] {
        bench.addresses.send(event).unwrap();
    }
    bench.services.send(Event::Synced).unwrap();
    ready(&mut bench).await;
    // Expiry deletes everything of the lease.
    sink.with(|s| {
        s.alive = false;
        s.data.clear();
    });
    tokio::time::sleep(Duration::from_secs(400)).await;
    let all = |s: &mut Fake| {
        let synced = s.data.keys().filter(|key| key.starts_with("cilium/synced/")).count();
        (
            s.data.contains_key("cilium/state/ip/v1/default/10.1.0.2"),
            synced,
            s.data.contains_key("cilium/cluster-config/cls-a"),
        )
    };
    assert_eq!(sink.with(all), (true, 5, true));
    // A store that is down: the changes wait, and the status says why.
    sink.with(|s| s.broken = true);
    bench.addresses.send(Event::Upsert(address(2))).unwrap();
    bench.addresses.send(Event::Remove(address(1).prefix)).unwrap();
    bench.status.wait_for(|status| status.last_error.is_some()).await.unwrap();
    assert!(bench.status.borrow().last_error.as_ref().unwrap().contains("store is down"));
    sink.with(|s| s.broken = false);
    bench.status.wait_for(|status| status.last_error.is_none() && status.pending == 0).await.unwrap();
    sink.with(|s| {
        assert!(s.data.contains_key("cilium/state/ip/v1/default/10.1.0.3"));
        assert!(!s.data.contains_key("cilium/state/ip/v1/default/10.1.0.2"));
    });
    bench.shutdown.cancel();
}

#[tokio::test(start_paused = true)]
async fn sim_the_heartbeat_beats_and_the_configuration_is_enforced() {
    let sink = FakeSink::default();
    let bench = start(sink.clone());
    tokio::time::sleep(Duration::from_secs(601)).await;
    let beats = sink.with(|s| s.log.iter().filter(|key| *key == keys::HEARTBEAT).count());
    assert!((10..=12).contains(&beats), "{beats}");
    sink.with(|s| s.data.insert("cilium/cluster-config/cls-a".into(), ("tampered".into(), 0)));
    tokio::time::sleep(Duration::from_secs(301)).await;
    let (value, _) = sink.with(|s| s.data["cilium/cluster-config/cls-a"].clone());
    assert!(value.starts_with(b"{\"id\":1,"));
    // A store that tells of it: at once.
    sink.with(|s| s.data.insert("cilium/cluster-config/cls-a".into(), ("tampered".into(), 0)));
    sink.1.notify_one();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (value, _) = sink.with(|s| s.data["cilium/cluster-config/cls-a"].clone());
    assert!(value.starts_with(b"{\"id\":1,"));
    bench.shutdown.cancel();
}

#[tokio::test(start_paused = true)]
async fn sim_the_first_of_a_burst_does_not_wait_for_the_last() {
    const BURST: u16 = 4000;
    let (sink, most) = (FakeSink::default(), Arc::new(AtomicUsize::new(0)));
    let (store, waiting) = (sink.clone(), most.clone());
    let burst = futures::stream::iter(0..BURST).map(move |n| {
        let address_key = |key: &&String| key.starts_with("cilium/state/ip/");
        let written = store.with(|s| s.log.iter().filter(address_key).count());
        waiting.fetch_max(usize::from(n) - written, Ordering::Relaxed);
        Event::Upsert(address(n))
    });
    let mut bench = start_with(sink, burst.boxed());
    let all =
        |status: &PublishStatus| status.keys[Kind::Ip as usize] == usize::from(BURST) && status.pending == 0;
    bench.status.wait_for(all).await.unwrap();
    let most = most.load(Ordering::Relaxed);
    assert!(most <= 3 * MAX_BATCH, "{most} changes were taken before any of them was written");
    bench.shutdown.cancel();
}
