//! One sample of benchmark B9: datagrams of 60 bytes from outside to a service, through one node to its backends.
//!
//! `bench_b9 xdp|xdp-tunnel|tc|tc-tunnel|nft|iptables|drop|route FLOWS SERVICES SECONDS` prints one line of
//! JSON, `{"value": …}`: millions of packets a second that come out at the other side, with so many flows (a
//! power of two) and services present. The generator makes frames with XDP's live frames on a veth, the node
//! and a sink that drops are behind it, and all of it runs on one core. Backends are a hundred addresses behind
//! the sink's link, in the node's own network or, `-tunnel`, pods of another node. The anchors are the
//! kernel's routing between the same links with the rules of kube-proxy in its two manners, which give the
//! packets the node's address as source, as ours do; the limits are a program that drops what comes in, and
//! the kernel's routing alone.
//!
//! `bench_b9 maglev SIZE BACKENDS` prints `{"milliseconds": …, "moved": …}`: how long a table takes to build,
//! and what part of the entries of other backends moves when one goes.

#[path = "../tests/common/mod.rs"]
mod common;
mod load;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use aya::maps::PerCpuArray;
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use causeway_datapath::{Acceleration, Maglev, Sizes};
use causeway_model::lb::{Algorithm, Backend, Frontend, FrontendKind, L4Addr};
use causeway_model::{Event, IpEntry, NumericIdentity, Protocol, ServiceKey};
use common::testrun::{PEER, attach_peer, load_peer};
use common::vpc::{SGRO, STXCSUM, offload};
use common::{Node, Ns, ip};
use etherparse::PacketBuilder;
use load::pin;
use load::rules::Rules;

/// Backends of the service, and their port.
const BACKENDS: u16 = 100;
const PORT: u16 = 5000;
/// The service that is asked, at port 80.
const SERVICE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The node's addresses at both links, and the node that pods are on.
const NODE: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);
const INSIDE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 254);
const OTHER_NODE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 253);
/// The first client; the lower half of the address counts.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 0);
const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const SINK_MAC: &str = "02:00:00:00:00:03";
/// Frames a system call makes: few enough to look at the clock, many enough not to notice it.
const CHUNK: u32 = 1 << 14;
/// Frames that go through at once, as drivers have it.
const BATCH: u32 = 64;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u32>().unwrap_or_else(|_| panic!("{text} is no number"));
    match args[..] {
        ["maglev", size, backends] => {
            let (took, moved) = maglev(number(size), number(backends));
            println!("{{\"milliseconds\": {:.4}, \"moved\": {moved:.6}}}", took.as_secs_f64() * 1e3);
        }
        [side, flows, services, seconds] => {
            let duration = Duration::from_secs_f64(seconds.parse().expect("SECONDS is a number"));
            let value = rate(side, number(flows), number(services), duration);
            println!("{{\"value\": {value:.4}}}");
        }
        _ => {
            eprintln!(
                "usage: bench_b9 xdp|xdp-tunnel|tc|tc-tunnel|nft|iptables|drop|route FLOWS SERVICES SECONDS"
            );
            eprintln!("       bench_b9 maglev SIZE BACKENDS");
            std::process::exit(2);
        }
    }
}

/// Two links of the node: where the generator is, and where the sink is.
struct Wires {
    client: Ns,
    sink: Ns,
}

impl Wires {
    fn new(node: &Ns) -> Self {
        let wires = Self { client: Ns::new(None), sink: Ns::new(None) };
        for (ns, name, peer) in [(&wires.client, "eth0", "c0"), (&wires.sink, "eth1", "s0")] {
            let tid = ns.tid();
            node.run(move || {
                // One queue: one core has it all.
                let queues = "numtxqueues 1 numrxqueues 1";
                ip(&format!("link add {name} {queues} type veth peer name {peer} {queues} netns {tid}"));
                [(SGRO, true), (STXCSUM, false)].iter().for_each(|(what, on)| offload(name, *what, *on));
            });
            ns.run(move || {
                [(SGRO, true), (STXCSUM, false)].iter().for_each(|(what, on)| offload(peer, *what, *on));
                let mac = if peer == "s0" { SINK_MAC.to_owned() } else { text(CLIENT_MAC) };
                ip(&format!("link set {peer} address {mac} up"));
            });
        }
        node.run(|| {
            ip(&format!("link set eth0 address {} up", text(NODE_MAC)));
            ip("link set eth1 up");
            ip(&format!("addr add {NODE}/24 dev eth0"));
            ip(&format!("addr add {INSIDE}/24 dev eth1"));
            let neighbours = (0..BACKENDS).map(backend).chain([OTHER_NODE]);
            neighbours.for_each(|to| ip(&format!("neigh add {to} lladdr {SINK_MAC} nud permanent dev eth1")));
            let set = |name: &str, value| {
                std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).expect("the namespace is ours");
            };
            set("ip_forward", "1");
            // Nobody has a route to the clients.
            ["all", "eth0"].iter().for_each(|scope| set(&format!("conf/{scope}/rp_filter"), "0"));
        });
        wires
    }
}

/// Address of a backend, and of a service nobody asks.
fn backend(n: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 30, 0, 1)) + u32::from(n))
}

fn other(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + n)
}

/// The services of the anchors.
fn rules(services: u32) -> Rules {
    Rules {
        services,
        protocol: "udp",
        service: SERVICE,
        other,
        backends: BACKENDS,
        backend: |n| (backend(n), PORT).into(),
        outside: true,
    }
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn rate(side: &str, flows: u32, services: u32, duration: Duration) -> f64 {
    assert!(flows.is_power_of_two(), "FLOWS is a power of two");
    let to = if side == "route" { (backend(0), PORT) } else { (SERVICE, 80) };
    match side {
        "xdp" | "xdp-tunnel" | "tc" | "tc-tunnel" => {
            let mut node = Node::new("b9", 1, None);
            let wires = Wires::new(&node.ns);
            let balance = &mut node.config.balance;
            balance.sizes = Sizes::default();
            balance.algorithm = Algorithm::Maglev;
            balance.devices = vec!["eth0".into(), "eth1".into()];
            if side.starts_with("xdp") {
                balance.acceleration = Acceleration::Native;
            }
            node.open();
            serve(&mut node, services, side.ends_with("tunnel"));
            measure(&wires, flows, to, duration)
        }
        "nft" | "iptables" | "route" | "drop" => {
            let node = Ns::new(None);
            let wires = Wires::new(&node);
            match side {
                "nft" => node.run(move || rules(services).nft()),
                "iptables" => node.run(move || rules(services).iptables()),
                _ => {}
            }
            if side == "drop" {
                return measure_at(&wires, &node, "eth0", flows, to, duration);
            }
            measure(&wires, flows, to, duration)
        }
        _ => panic!("there is no side {side}"),
    }
}

/// Tells the node about the services, of which one is asked.
fn serve(node: &mut Node, services: u32, by_tunnel: bool) {
    node.datapath(move |d| {
        let entries = (0..BACKENDS).map(|n| IpEntry {
            prefix: std::net::IpAddr::from(backend(n)).into(),
            identity: NumericIdentity(70_000),
            host_ip: by_tunnel.then_some(OTHER_NODE.into()),
            key_index: 0,
            pod: None,
        });
        if by_tunnel {
            d.apply_addresses(entries.map(Event::Upsert)).unwrap();
        }
        let udp = |ip: Ipv4Addr, port| L4Addr { ip: ip.into(), port, protocol: Protocol::UDP };
        for n in 0..services {
            let (ip, count) = if n == services / 2 { (SERVICE, BACKENDS) } else { (other(n), 1) };
            let backends: Vec<_> = (0..count).map(|n| Backend::new(udp(backend(n), PORT), None)).collect();
            let service = ServiceKey { namespace: "bench".into(), name: format!("s{n}") };
            let frontend = Frontend::new(udp(ip, 80), service, backends);
            let frontend = Frontend { kind: FrontendKind::LoadBalancer, ..frontend };
            d.apply_frontend(Event::Upsert(frontend)).unwrap();
        }
        d.apply_frontend(Event::Synced).unwrap();
    });
}

fn measure(wires: &Wires, flows: u32, to: (Ipv4Addr, u16), duration: Duration) -> f64 {
    measure_at(wires, &wires.sink, "s0", flows, to, duration)
}

/// Millions of packets a second that arrive at an interface, which drops them.
fn measure_at(
    wires: &Wires,
    ns: &Ns,
    interface: &'static str,
    flows: u32,
    (service, port): (Ipv4Addr, u16),
    duration: Duration,
) -> f64 {
    let sink = ns.run(move || attach_peer("sink", interface));
    let arrived = move || count(&sink, 1);
    wires.client.run(move || {
        pin(true);
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(CLIENT_MAC, NODE_MAC)
            .ipv4(CLIENT.octets(), service.octets(), 64)
            .udp(0, port)
            .write(&mut frame, &[7; 18])
            .unwrap();
        // No checksum, as generators have it: the kernel verifies none that only passes either.
        frame[40..42].fill(0);
        let out = nix::net::if_::if_nametoindex("c0").expect("the link was made");
        let mut loader = EbpfLoader::new();
        loader.override_global("FRAME", &frame[..], true);
        loader.override_global("FLOWS", &flows, true).override_global("OUT_IFINDEX", &out, true);
        let mut object = loader.load(PEER).unwrap();
        let generator = load_peer(&mut object, "generate");
        let chunk = || {
            let mut options = TestRunOptions::new();
            options.data_in = Some(&frame);
            options.repeat = CHUNK;
            options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
            generator.test_run(options).unwrap_or_else(|error| panic!("the generator: {error}"));
        };
        let run = |limit: Duration, least: u32| {
            let (start, mut chunks) = (Instant::now(), 0);
            while start.elapsed() < limit || chunks * CHUNK < least {
                chunk();
                chunks += 1;
            }
            start.elapsed()
        };
        // Every flow is there before the clock starts.
        run(duration / 4, 2 * flows);
        let before = arrived();
        let elapsed = run(duration, 0);
        let packets = arrived() - before;
        assert!(packets > 0, "nothing arrives at {interface}");
        packets as f64 / elapsed.as_secs_f64() / 1e6
    })
}

/// What a counter of the links' other ends stands at, of all cores.
fn count(object: &Ebpf, which: u32) -> u64 {
    let counters: PerCpuArray<_, u64> = object.map("counters").unwrap().try_into().unwrap();
    counters.get(&which, 0).unwrap().iter().sum()
}

/// How long a table takes, and what part of the entries of those that stay moves when one goes.
fn maglev(size: u32, count: u32) -> (Duration, f64) {
    pin(true);
    let maglev = Maglev { size, ..Maglev::default() };
    let address = |n: u32| L4Addr {
        ip: Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + n).into(),
        port: PORT,
        protocol: Protocol::UDP,
    };
    let all: Vec<L4Addr> = (0..count).map(address).collect();
    let before = maglev.assign(&all);
    // The fastest of some, as nothing else should run.
    let took = (0..5).map(|_| {
        let start = Instant::now();
        std::hint::black_box(maglev.assign(&all));
        start.elapsed()
    });
    let took = took.min().expect("five times");
    let (mut moved, mut stay) = (0u64, 0u64);
    let gone = all.len() / 2;
    let left: Vec<L4Addr> = all.iter().enumerate().filter(|(n, _)| *n != gone).map(|(_, b)| *b).collect();
    for (old, new) in before.iter().zip(maglev.assign(&left)) {
        let (old, new) = (all[usize::from(*old)], left[usize::from(new)]);
        if old != all[gone] {
            stay += 1;
            moved += u64::from(old != new);
        }
    }
    (took, moved as f64 / stay as f64)
}
