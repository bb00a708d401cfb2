//! One sample of benchmark B11: pod to pod between nodes, over VXLAN.
//!
//! `bench_b11 ours|anchor rr|crr|tcp SECONDS` prints one line of JSON, `{"value": …}`: microseconds an
//! exchange for `rr` (one byte there and back) and `crr` (connect, one byte there and back, close),
//! gigabits a second for `tcp`. The anchor is the kernel's own routing with a plain VXLAN device
//! between the same namespaces. Exchanges run on one core, so that the time is the CPU cost of the
//! whole path (benchmarks 6.1, rule 2).

#[path = "../tests/common/mod.rs"]
mod common;
mod load;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use common::{Node, Ns, ip, underlay};
use load::{connect, exchange, per_exchange, pin};

/// Bytes a write of the throughput case.
const CHUNK: usize = 128 << 10;
/// Exchanges before the clock starts.
const WARM_UP: Duration = Duration::from_secs(1);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [side, case, seconds] = &args[..] else {
        eprintln!("usage: bench_b11 ours|anchor rr|crr|tcp SECONDS");
        std::process::exit(2);
    };
    let duration = Duration::from_secs_f64(seconds.parse().expect("SECONDS is a number"));
    let value = match side.as_str() {
        "ours" => ours(case, duration),
        "anchor" => anchor(case, duration),
        _ => panic!("the side is ours or anchor, not {side}"),
    };
    println!("{{\"value\": {value:.4}}}");
}

fn ours(case: &str, duration: Duration) -> f64 {
    let (mut a, mut b) = (Node::new("b11", 1, None), Node::new("b11", 2, None));
    underlay(&a, &b);
    a.open();
    b.open();
    let (client, server) = (a.pod(5, 65_600), b.pod(5, 131_100));
    a.learn(&[(&server, b.ip)], &[&b]);
    b.learn(&[(&client, a.ip)], &[&a]);
    measure(case, duration, &client.ns, &server.ns, server.ip)
}

/// The same namespaces with nothing but the kernel between them.
fn anchor(case: &str, duration: Duration) -> f64 {
    let nodes = [Ns::new(None), Ns::new(None)];
    let pods = [Ns::new(None), Ns::new(None)];
    let tid = nodes[1].tid();
    nodes[0].run(move || {
        ip("link add eth0 type veth peer name peer0");
        ip(&format!("link set peer0 netns {tid}"));
    });
    nodes[1].run(|| ip("link set peer0 name eth0"));
    for (n, (node, pod)) in nodes.iter().zip(&pods).enumerate() {
        let (own, other, pod_tid) = (n + 1, 2 - n, pod.tid());
        node.run(move || {
            ip(&format!("addr add 172.31.0.{own}/24 dev eth0"));
            ip("link set eth0 up");
            ip(&format!("link add vx0 type vxlan id 42 remote 172.31.0.{other} dstport 4789 noudpcsum"));
            ip(&format!("addr add 10.200.0.{own}/24 dev vx0"));
            ip("link set vx0 mtu 1450 up");
            ip("link add lxc0 type veth peer name pod0");
            ip(&format!("link set pod0 netns {pod_tid}"));
            ip("link set lxc0 mtu 1450 up");
            ip(&format!("addr add 10.{own}.0.1/24 dev lxc0"));
            ip(&format!("route add 10.{other}.0.0/24 via 10.200.0.{other}"));
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("the namespace is ours");
        });
        pod.run(move || {
            ip("link set pod0 name eth0");
            ip("link set eth0 mtu 1450 up");
            ip(&format!("addr add 10.{own}.0.5/24 dev eth0"));
            ip(&format!("route add default via 10.{own}.0.1"));
        });
    }
    measure(case, duration, &pods[0], &pods[1], Ipv4Addr::new(10, 2, 0, 5))
}

fn measure(case: &str, duration: Duration, client: &Ns, server: &Ns, to: Ipv4Addr) -> f64 {
    let case = case.to_owned();
    let address = SocketAddr::from((to, 5000));
    let pinned = case != "tcp";
    let (listening, ready) = std::sync::mpsc::channel();
    let serving = case.clone();
    let _server = server.start(move || {
        pin(pinned);
        let listener = TcpListener::bind(address).expect("the port is free");
        listening.send(()).expect("somebody waits");
        serve(&serving, &listener);
    });
    ready.recv().expect("the server listens");
    client.run(move || {
        pin(pinned);
        match case.as_str() {
            "rr" => {
                let mut stream = connect(address);
                per_exchange(WARM_UP, duration, || exchange(&mut stream))
            }
            "crr" => {
                let each = per_exchange(WARM_UP, duration, || exchange(&mut connect(address)));
                let _ = connect(address).write_all(b"Q");
                each
            }
            "tcp" => throughput(connect(address), duration),
            _ => panic!("the case is rr, crr or tcp, not {case}"),
        }
    })
}

/// Serves one case until its client has gone for good.
fn serve(case: &str, listener: &TcpListener) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        let _ = stream.set_nodelay(true);
        if case == "tcp" {
            let mut sink = vec![0; CHUNK];
            while stream.read(&mut sink).is_ok_and(|n| n > 0) {}
            return;
        }
        let mut byte = [0; 1];
        let mut served = 0u64;
        while stream.read(&mut byte).is_ok_and(|n| n > 0) && byte != *b"Q" {
            if stream.write_all(&byte).is_err() {
                break;
            }
            served += 1;
        }
        if byte == *b"Q" || (case == "rr" && served > 0) {
            return;
        }
    }
}

/// Gigabits a second that can be written.
fn throughput(mut stream: TcpStream, duration: Duration) -> f64 {
    let chunk = vec![7; CHUNK];
    let mut run = |limit: Duration| {
        let (start, mut sent) = (Instant::now(), 0usize);
        while start.elapsed() < limit {
            stream.write_all(&chunk).expect("the peer reads");
            sent += CHUNK;
        }
        sent as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9
    };
    run(WARM_UP);
    run(duration)
}
