//! What happens to real processes on real connections: they are killed, links stall half open, peers send
//! garbage, or are not who they should be. Nothing is lost, nothing foreign is accepted, memory stays
//! bounded.

#[path = "../certificates/mod.rs"]
mod certificates;
mod liar;
mod process;
mod proxy;
#[path = "../publisher/mod.rs"]
mod publisher;
mod publishing;
mod reading;

use std::path::PathBuf;
use std::time::Duration;

use causeway_kvstore::pb;
use causeway_mesh::keys;
use causeway_mesh::wire::Reason;
use causeway_model::Event;
use tempfile::TempDir;
use tokio::time::Instant;

use certificates::{Authority, authority, certificate, files};
use liar::Lie;
use process::Process;
use proxy::Proxy;
use publisher::cluster;
use publishing::{Addresses, Publishing, address, publish};
use reading::{PATIENCE, Reading, configure, peers, read};

/// Certificates of both sides, and the reader's configuration towards a proxy.
struct Lab {
    dir: TempDir,
    ca: Authority,
    proxy: Proxy,
}

impl Lab {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = authority();
        certificate(dir.path(), "server", "x", &["*.mesh.cilium.io"], &ca, 100, &ca);
        // Nobody listens there yet.
        let proxy = Proxy::start("127.0.0.1:1".parse().unwrap()).await;
        let peers = peers(dir.path());
        let client = certificate(&peers, "client", "remote", &[], &ca, 100, &ca);
        configure(&peers, proxy.port, &client);
        Self { dir, ca, proxy }
    }

    fn peers(&self) -> PathBuf {
        peers(self.dir.path())
    }

    fn server(&self) -> causeway_kvstore::tls::TlsFiles {
        files(self.dir.path(), "server")
    }

    /// Publisher and reader, which knows these addresses.
    async fn running(&self, all: &Addresses) -> (Publishing, Reading) {
        let publishing = publish(cluster("cls-b", 2), self.server()).await;
        publishing.list(all);
        self.proxy.lead_to(publishing.listens);
        let mut reading = read(self.peers()).await;
        reading.until_known(all).await;
        reading.until("ready", |s| s.ready).await;
        (publishing, reading)
    }
}

fn some(count: u32) -> Addresses {
    (1..=count).map(|n| (n, n % 7)).collect()
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// Some changes, which the publisher is told.
fn change(random: &mut Random, wanted: &mut Addresses, publisher: &mut Process) {
    for _ in 0..1 + random.below(30) {
        let n = 1 + random.below(300) as u32;
        if random.below(3) == 0 {
            wanted.remove(&n);
            publisher.say(&format!("delete {n}"));
        } else {
            let identity = random.below(1000) as u32;
            wanted.insert(n, identity);
            publisher.say(&format!("put {n} {identity}"));
        }
    }
}

/// Polls the reader's process until it knows exactly these.
fn until_known(reader: &mut Process, wanted: &Addresses, what: &str) {
    let end = std::time::Instant::now() + PATIENCE;
    loop {
        let known = reader.dump();
        if known == *wanted {
            return;
        }
        assert!(std::time::Instant::now() < end, "{what}: {known:?}, not {wanted:?}; {:?}", reader.status());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_are_killed_at_random_times_and_nothing_is_lost() {
    let lab = Lab::new().await;
    let seed = std::env::var("FAULTS_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let mut random = Random(seed);
    let mut wanted = some(200);
    let (mut publisher, listens) = Process::publisher(lab.dir.path());
    publisher.list(&wanted);
    lab.proxy.lead_to(listens);
    let mut reader = Process::reader(lab.dir.path());
    until_known(&mut reader, &wanted, "at first");
    for round in 0..10 {
        let what = format!("round {round} of FAULTS_SEED={seed}");
        let before = wanted.clone();
        change(&mut random, &mut wanted, &mut publisher);
        std::thread::sleep(Duration::from_micros(random.below(5000)));
        let (kill_publisher, kill_reader) = (random.below(3) > 0, random.below(2) == 0);
        if kill_reader {
            reader.kill();
            reader = Process::reader(lab.dir.path());
        }
        if kill_publisher {
            publisher.kill();
            if !kill_reader {
                // Some of the changes may have come through; what did not change stays.
                let known = reader.dump();
                for (n, identity) in before.iter().filter(|(n, identity)| wanted.get(n) == Some(identity)) {
                    assert_eq!(known.get(n), Some(identity), "{what}: {n} was withdrawn");
                }
            }
            let (again, listens) = Process::publisher(lab.dir.path());
            publisher = again;
            lab.proxy.lead_to(listens);
            publisher.list(&wanted);
        }
        change(&mut random, &mut wanted, &mut publisher);
        until_known(&mut reader, &wanted, &what);
    }
    let status = reader.status().unwrap();
    assert_eq!(status.rejected.count, 0, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_stalls_half_open_is_noticed_and_nothing_is_lost() {
    let lab = Lab::new().await;
    let mut all = some(300);
    let (publishing, mut reading) = lab.running(&all).await;
    for round in 0..2 {
        lab.proxy.stall(true);
        all.insert(1000 + round, 5);
        all.remove(&(1 + round));
        publishing.addresses.send(Event::Upsert(address(1000 + round, 5))).unwrap();
        publishing.addresses.send(Event::Remove(address(1 + round, 0).prefix)).unwrap();
        let stalled = reading.until("noticed", |s| !s.connected).await;
        assert!(stalled.last_error.unwrap().contains("no heartbeat for 5 s"));
        // New connections get nowhere either.
        let failures = stalled.num_failures;
        reading.until("tried again", |s| s.num_failures > failures).await;
        assert_eq!(reading.told.borrow().numbers().len(), 300, "the old state is in force");
        lab.proxy.stall(false);
        reading.until_known(&all).await;
        reading.until("ready", |s| s.ready).await;
    }
    let told = reading.told.borrow();
    assert_eq!((told.upserts, told.removed.len()), (302, 2), "differences only");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_send_garbage_change_nothing() {
    let lab = Lab::new().await;
    let all = some(50);
    let (publishing, mut reading) = lab.running(&all).await;
    for lie in [Lie::Bytes, Lie::NoHttp, Lie::NoMessages, Lie::NoHeader] {
        let before = reading.until("ready", |s| s.ready).await.num_failures;
        lab.proxy.lead_to(liar::start(lie, &lab.server()).await);
        let status = reading.until("refused", |s| !s.connected && s.num_failures > before + 2).await;
        assert!(status.last_error.is_some() && status.num_endpoints == 50, "{lie:?}: {status:?}");
        assert_eq!(status.rejected.of(Reason::NoHeader) > 0, lie == Lie::NoHeader, "{lie:?}: {status:?}");
        lab.proxy.lead_to(publishing.listens);
        reading.until("recovered", |s| s.ready).await;
    }
    let told = reading.told.borrow();
    assert_eq!((told.upserts, told.removed.len(), told.numbers()), (50, 0, all));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_in_a_peers_store_is_refused_key_by_key() {
    let lab = Lab::new().await;
    let all = some(50);
    let (publishing, mut reading) = lab.running(&all).await;
    let ip = "cilium/state/ip/v1/default/";
    let address = |ip: &str, id: u32| {
        format!(r#"{{"IP":"{ip}","Mask":null,"HostIP":"172.20.0.11","ID":{id},"Key":0}}"#).into_bytes()
    };
    let node = |name: &str, cluster: &str, id: u32| {
        format!(r#"{{"Name":"{name}","Cluster":"{cluster}","ClusterID":{id}}}"#).into_bytes()
    };
    let nodes = "cilium/state/nodes/v1/cls-b/";
    for (key, value, reason) in [
        (format!("{ip}10.2.0.1"), b"\xff\xfe".to_vec(), Reason::BadValue),
        (format!("{ip}10.2.0.2"), address("10.2.0.3", 131_072), Reason::BadKey),
        (format!("{ip}10.2.0.3"), address("10.2.0.3", 70_000), Reason::ForeignIdentity),
        (format!("{ip}127.0.0.1"), address("127.0.0.1", 131_072), Reason::ForeignAddress),
        (format!("{ip}{}", "1".repeat(3000)), address("10.2.0.3", 131_072), Reason::BadKey),
        (format!("{ip}10.2.0.4"), "[".repeat(100_000).into_bytes(), Reason::TooDeep),
        (format!("{nodes}n1"), node("n1", "cls-c", 2), Reason::ForeignCluster),
        (format!("{nodes}n1"), node("n1", "cls-b", 3), Reason::ForeignCluster),
        (format!("{nodes}n2"), node("n1", "cls-b", 2), Reason::BadKey),
    ] {
        let before = reading.status.borrow().values().next().unwrap().rejected.of(reason);
        let put = pb::PutRequest { key: key.clone().into(), value: value.into(), ..Default::default() };
        publishing.store.put(put).unwrap();
        reading.until(&key, |s| s.rejected.of(reason) == before + 1 && s.ready).await;
    }
    let told = reading.told.borrow();
    assert_eq!((told.numbers(), told.nodes.len(), told.upserts), (all, 0, 50));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_are_not_who_they_should_be_are_refused() {
    let lab = Lab::new().await;
    let all = some(50);
    let (publishing, mut reading) = lab.running(&all).await;
    let other = authority();
    let impostor = |file: &str, names: &[&str], issuer: &Authority| {
        certificate(lab.dir.path(), file, "x", names, issuer, 100, &lab.ca)
    };
    let wanted = ["*.mesh.cilium.io"];
    let lying = some(10);
    for (who, certificate, says) in [
        // Another cluster at this address; it does not even let us ask for the name we know.
        (cluster("cls-c", 3), lab.server(), "permission denied"),
        // Our own id.
        (cluster("cls-b", 1), lab.server(), "which is this cluster's own"),
        (cluster("cls-b", 2), impostor("elsewhere", &["cls-b.elsewhere.io"], &lab.ca), "is not for the name"),
        (cluster("cls-b", 2), impostor("stranger", &wanted, &other), "an authority that is not in"),
    ] {
        let liar = publish(who, certificate).await;
        liar.list(&lying);
        lab.proxy.lead_to(liar.listens);
        let status = reading
            .until(says, |s| !s.connected && s.last_error.as_ref().is_some_and(|e| e.contains(says)))
            .await;
        assert_eq!(status.num_endpoints, 50, "{says}: {status:?}");
        lab.proxy.lead_to(publishing.listens);
        reading.until("recovered", |s| s.ready).await;
    }
    let status = reading.until("ready", |s| s.ready).await;
    assert!(status.rejected.of(Reason::IdConflict) > 0);
    // The name under which it publishes is part of every key: that of another is not even looked at.
    let key = keys::cluster_config(&cluster("cls-c", 3).name);
    let put = pb::PutRequest { key: key.into(), value: "{}".into(), ..Default::default() };
    publishing.store.put(put).unwrap();
    let told = reading.told.borrow();
    assert_eq!((told.upserts, told.removed.len(), told.numbers()), (50, 0, all));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peer_sends_without_end_does_not_fill_the_memory() {
    for (lie, reason, count) in [
        (Lie::EndlessList, Reason::BadPage, 1),
        (Lie::LargeValues, Reason::BadValue, 200),
        (Lie::EndlessChanges, Reason::OverKeyLimit, 100_000),
    ] {
        let lab = Lab::new().await;
        lab.proxy.lead_to(liar::start(lie, &lab.server()).await);
        let mut reader = Process::reader(lab.dir.path());
        let end = Instant::now() + PATIENCE;
        loop {
            let status = reader.status().unwrap_or_default();
            if status.rejected.of(reason) >= count {
                assert!(status.num_endpoints <= 20_000, "{lie:?}: {status:?}");
                break;
            }
            assert!(Instant::now() < end, "{lie:?}: {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let peak = reader.peak_memory();
        println!("{lie:?}: {} MiB", peak >> 20);
        assert!(peak < 200 << 20, "{lie:?}: {peak} bytes");
    }
}
