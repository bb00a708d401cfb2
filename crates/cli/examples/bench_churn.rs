//! What one change of one endpoint costs a node that has many services: to merge it, and to bring it into the kernel's
//! maps, in CPU time. A run prints one JSON line.
//!
//! ```text
//! bench_churn SERVICES [CHANGES]     # services of 50 backends each; default 1000 changes
//! ```
//! Everything happens in a network namespace of its own.

#[path = "../../mesh/examples/common/cpu.rs"]
mod cpu;
#[path = "../../datapath/tests/common/node.rs"]
mod node;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use causeway_datapath::Datapath;
use causeway_mesh::merge::ServiceMerger;
use causeway_model::lb::Frontend;
use causeway_model::{
    EndpointConditions, EndpointSlice, Event, Protocol, Service, ServiceKey, ServicePort, SliceEndpoint,
    SliceKey, SlicePort,
};

/// Backends of a service.
const BACKENDS: u32 = 50;

fn key(n: u32) -> ServiceKey {
    ServiceKey { namespace: "shop".into(), name: format!("service-{n:05}") }
}

fn service(n: u32) -> Service {
    let port = ServicePort {
        name: String::new(),
        protocol: Protocol::TCP,
        app_protocol: None,
        port: 80,
        node_port: 0,
    };
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 10)) + n);
    Service { cluster_ips: vec![ip.into()], ports: vec![port], ..Service::new(key(n)) }
}

/// The endpoints of a service; the first one is another after each change.
fn slice(n: u32, change: u32) -> EndpointSlice {
    let address = |i: u32| {
        let at = if i == 0 { 0x0100_0000 + change } else { n * BACKENDS + i };
        IpAddr::from(Ipv4Addr::from(u32::from(Ipv4Addr::new(20, 0, 0, 0)) + at))
    };
    let endpoint = |i| SliceEndpoint {
        addresses: vec![address(i)],
        hostname: String::new(),
        node: None,
        zone: None,
        for_zones: Vec::new(),
        conditions: EndpointConditions { ready: true, serving: true, terminating: false },
    };
    EndpointSlice {
        key: SliceKey { namespace: "shop".into(), name: format!("service-{n:05}") },
        service: key(n),
        ports: vec![SlicePort { name: String::new(), protocol: Protocol::TCP, port: 8080 }],
        endpoints: (0..BACKENDS).map(endpoint).collect(),
        source_cluster: None,
        import: None,
    }
}

fn program(datapath: &mut Datapath, events: Vec<Event<Frontend>>) {
    for event in events {
        datapath.apply_frontend(event).expect("the maps have room");
    }
}

fn measure(datapath: &mut Datapath, services: u32, changes: u32) -> serde_json::Value {
    let mut merger = ServiceMerger::new();
    let began = Instant::now();
    program(datapath, merger.apply_service(Event::Reset));
    program(datapath, merger.apply_slice(Event::Reset));
    for n in 0..services {
        program(datapath, merger.apply_slice(Event::Upsert(slice(n, n))));
        program(datapath, merger.apply_service(Event::Upsert(service(n))));
    }
    program(datapath, merger.apply_service(Event::Synced));
    program(datapath, merger.apply_slice(Event::Synced));
    datapath.apply_frontend(Event::Synced).expect("the maps have room");
    let load = began.elapsed();
    let (mut merge, mut write) = (vec![], vec![]);
    for change in 0..changes {
        // Far from the one before: nothing of it is in a cache by chance.
        let n = change.wrapping_mul(7919) % services;
        let event = Event::Upsert(slice(n, services + change));
        let start = cpu::time();
        let events = merger.apply_slice(event);
        let merged = cpu::time();
        assert_eq!(events.len(), 1, "one address has another backend");
        program(datapath, events);
        write.push(cpu::time() - merged);
        merge.push(merged - start);
    }
    serde_json::json!({
        "services": services, "load_seconds": load.as_secs_f64(),
        "merge_us": cpu::median(merge), "write_us": cpu::median(write),
    })
}

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u32>().expect("a number").max(1));
    let services = args.next().expect("usage: bench_churn SERVICES [CHANGES]");
    let changes = args.next().unwrap_or(1_000);
    let mut node = node::Node::new("churn", 1, None);
    node.open();
    println!("{}", node.datapath(move |datapath| measure(datapath, services, changes)));
}
