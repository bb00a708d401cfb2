//! What one change of one backend costs where a service has many: in the publisher of its cluster (join and
//! encode), in the store (a write, and the event for one watcher), and in a reader of another (decode, and
//! decode and merge), in CPU time. A run prints one JSON line.
//!
//! ```text
//! bench_service [BACKENDS [CHANGES]]     # default 5000 backends with two ports each, 100 changes
//! ```
//! The wire format has one JSON value per service, so all of them grow with the backends.

#[path = "common/cpu.rs"]
mod cpu;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use causeway_kvstore::{Store, StoreOptions, WatchOptions, WriteOp};
use causeway_mesh::keys::{self, Kind};
use causeway_mesh::merge::ServiceMerger;
use causeway_mesh::publish::{Op, Publisher};
use causeway_mesh::wire::{self, Entry};
use causeway_model::{
    ClusterId, ClusterInfo, ClusterName, EndpointConditions, EndpointSlice, Event, MaxClusters, Protocol,
    Service, ServiceKey, ServicePort, Sharing, SliceEndpoint, SliceKey, SlicePort,
};

/// Endpoints of a slice (Kubernetes' default).
const SLICE: usize = 100;

fn info(name: &str, id: u32) -> ClusterInfo {
    let max_clusters = MaxClusters::C255;
    ClusterInfo {
        name: ClusterName::new(name).expect("a legal name"),
        id: ClusterId::new(id, max_clusters).expect("a legal id"),
        max_clusters,
    }
}

fn key() -> ServiceKey {
    ServiceKey { namespace: "shop".into(), name: "cart".into() }
}

fn service() -> Service {
    let port = |name: &str, port| ServicePort {
        name: name.into(),
        protocol: Protocol::TCP,
        app_protocol: None,
        port,
        node_port: 0,
    };
    Service {
        cluster_ips: vec![Ipv4Addr::new(10, 96, 0, 10).into()],
        ports: vec![port("http", 80), port("metrics", 9090)],
        labels: BTreeMap::from([("app".into(), "cart".into())]),
        selector: BTreeMap::from([("app".into(), "cart".into())]),
        sharing: Sharing { global: true, shared: true, ..Sharing::default() },
        ..Service::new(key())
    }
}

/// A slice; `changed` endpoints of it have another address than at the beginning.
fn slice(n: usize, endpoints: usize, changed: u32) -> EndpointSlice {
    let address = |i: usize| {
        let base = u32::from(Ipv4Addr::new(10, 0, 0, 0)) + (n * SLICE + i) as u32;
        IpAddr::from(Ipv4Addr::from(if i == 0 { base + (1 << 20) + changed } else { base }))
    };
    let endpoint = |i| SliceEndpoint {
        addresses: vec![address(i)],
        hostname: String::new(),
        node: None,
        zone: None,
        for_zones: Vec::new(),
        conditions: EndpointConditions { ready: true, serving: true, terminating: false },
    };
    let port = |name: &str, port| SlicePort { name: name.into(), protocol: Protocol::TCP, port };
    EndpointSlice {
        key: SliceKey { namespace: "shop".into(), name: format!("cart-{n:04}") },
        service: key(),
        ports: vec![port("http", 8080), port("metrics", 9090)],
        endpoints: (0..endpoints).map(endpoint).collect(),
        source_cluster: None,
        import: None,
    }
}

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse().expect("a number"));
    let backends: usize = args.next().unwrap_or(5_000).max(1);
    let changes: u32 = u32::try_from(args.next().unwrap_or(100).max(1)).expect("a small number");
    let (theirs, mut publisher) = (info("cls-b", 2), Publisher::new(info("cls-b", 2), false));
    let slices = backends.div_ceil(SLICE);
    let size = |n: usize| SLICE.min(backends - n * SLICE);
    for event in [Event::Reset, Event::Upsert(service()), Event::Synced] {
        publisher.apply_service(event);
    }
    publisher.apply_slice(Event::Reset);
    (0..slices).for_each(|n| drop(publisher.apply_slice(Event::Upsert(slice(n, size(n), 0)))));
    publisher.apply_slice(Event::Synced);
    let mut merger = ServiceMerger::new();
    for event in [Event::Reset, Event::Upsert(service()), Event::Synced] {
        merger.apply_service(event);
    }
    let store = Store::new(StoreOptions::default());
    let mut watcher = store.watch(WatchOptions::prefix(keys::STATE, 1));
    let (mut publish, mut stored, mut decode, mut ingest, mut bytes) = (vec![], vec![], vec![], vec![], 0);
    for change in 1..=changes {
        let n = change as usize % slices;
        let event = Event::Upsert(slice(n, size(n), change));
        let start = cpu::time();
        let ops = publisher.apply_slice(event);
        publish.push(cpu::time() - start);
        let [Op::Put(pair)] = &ops[..] else { panic!("a change is one write: {ops:?}") };
        let put = WriteOp::Put(pair.clone());
        let start = cpu::time();
        store.apply(vec![put]).expect("room");
        let seen = watcher.poll_now().expect("in time").expect("the write");
        stored.push(cpu::time() - start);
        assert_eq!(seen.events.len(), 1);
        let suffix = "shop/cart";
        let start = cpu::time();
        let entry =
            wire::decode(Kind::Services, ops[0].key(), suffix, pair.value(), &theirs).expect("our own value");
        decode.push(cpu::time() - start);
        let Entry::Service(shared) = entry else { panic!("a service") };
        let events = merger.apply_remote(&theirs.name, Event::Upsert(shared));
        ingest.push(cpu::time() - start);
        assert_eq!(events.len(), 2, "both ports have another backend");
        bytes = pair.value().len();
    }
    println!(
        "{}",
        serde_json::json!({
            "backends": backends, "bytes": bytes, "publish_us": cpu::median(publish),
            "store_us": cpu::median(stored), "decode_us": cpu::median(decode), "ingest_us": cpu::median(ingest),
        })
    );
}
