//! One sample of benchmark B8: from a pod to a ClusterIP whose backends are in another pod of the node.
//!
//! `bench_b8 ours|none|nft|iptables rr|crr SERVICES SECONDS` prints one line of JSON, `{"value": …}`:
//! microseconds an exchange for `rr` (one byte there and back) and `crr` (connect, one byte there and
//! back, close), with so many services present. `none` is our datapath with the pod's own address in
//! place of the service's; the anchors are the kernel's routing between the same namespaces with the
//! rules of kube-proxy in its two manners. All of it runs on one core, so that the time is the CPU cost
//! of the whole path (benchmarks 6.1, rule 2).

#[path = "../tests/common/mod.rs"]
mod common;
mod load;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use causeway_model::lb::{Backend, Frontend, L4Addr};
use causeway_model::{Event, Protocol, ServiceKey};
use common::{Node, Ns, ip};
use load::rules::Rules;
use load::{connect, exchange, per_exchange, pin};

/// Backends of the service, all in one pod at ports of their own.
const BACKENDS: u16 = 100;
/// The first of their ports.
const PORT: u16 = 5000;
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 6);
/// Exchanges before the clock starts.
const WARM_UP: Duration = Duration::from_millis(300);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [side, case, services, seconds] = &args[..] else {
        eprintln!("usage: bench_b8 ours|none|nft|iptables rr|crr SERVICES SECONDS");
        std::process::exit(2);
    };
    let services: u32 = services.parse().expect("SERVICES is a number");
    let duration = Duration::from_secs_f64(seconds.parse().expect("SECONDS is a number"));
    let value = match side.as_str() {
        "ours" => ours(case, services, duration, &[(SERVICE, 80)]),
        "none" => {
            ours(case, services, duration, &(0..BACKENDS).map(|n| (SERVER, PORT + n)).collect::<Vec<_>>())
        }
        "nft" => anchor(case, duration, move || rules(services).nft()),
        "iptables" => anchor(case, duration, move || rules(services).iptables()),
        _ => panic!("the side is ours, none, nft or iptables, not {side}"),
    };
    println!("{{\"value\": {value:.4}}}");
}

fn ours(case: &str, services: u32, duration: Duration, targets: &[(Ipv4Addr, u16)]) -> f64 {
    let mut node = Node::new("b8", 1, None);
    node.open();
    let (client, server) = (node.pod(5, 65_600), node.pod(6, 65_601));
    assert_eq!(server.ip, SERVER);
    node.datapath(move |d| {
        for n in 0..services {
            let (ip, backends) = if n == services / 2 { (SERVICE, BACKENDS) } else { (other(n), 1) };
            let tcp = |ip: Ipv4Addr, port| L4Addr { ip: ip.into(), port, protocol: Protocol::TCP };
            let backends: Vec<_> = (0..backends).map(|b| Backend::new(tcp(SERVER, PORT + b), None)).collect();
            let service = ServiceKey { namespace: "bench".into(), name: format!("s{n}") };
            d.apply_frontend(Event::Upsert(Frontend::new(tcp(ip, 80), service, backends))).unwrap();
        }
        d.apply_frontend(Event::Synced).unwrap();
    });
    let procs = node.cgroup.0.join("cgroup.procs");
    let home = enter(&procs);
    let value = measure(case, duration, &client.ns, &server.ns, targets.to_vec());
    // The cgroup is removed with everything in it.
    std::fs::write(home, "0").expect("we have been there");
    value
}

/// Moves this process into a cgroup; where it was before.
fn enter(procs: &std::path::Path) -> std::path::PathBuf {
    let own = std::fs::read_to_string("/proc/self/cgroup").expect("procfs is mounted");
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("cgroup v2 is mounted");
    let mounted = std::fs::read_to_string("/proc/self/mountinfo").expect("procfs is mounted");
    let root = mounted.lines().find(|line| line.contains(" - cgroup2 ")).expect("cgroup v2 is mounted");
    let root = root.split(' ').nth(4).expect("the fifth field is the place");
    std::fs::write(procs, "0").expect("root may move itself");
    std::path::Path::new(root).join(own).join("cgroup.procs")
}

/// The address of a service nobody asks.
fn other(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 100, 0, 0)) + n)
}

/// The same namespaces with nothing but the kernel between them, and rules in the node's.
fn anchor(case: &str, duration: Duration, rules: impl FnOnce() + Send + 'static) -> f64 {
    let (node, client, server) = (Ns::new(None), Ns::new(None), Ns::new(None));
    node.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("the namespace is ours"));
    for (pod, last) in [(&client, 5), (&server, 6)] {
        let tid = pod.tid();
        node.run(move || {
            ip(&format!("link add lxc{last} type veth peer name pod0"));
            ip(&format!("link set pod0 netns {tid}"));
            ip(&format!("link set lxc{last} up"));
            ip(&format!("addr add 10.1.0.1/32 dev lxc{last}"));
            ip(&format!("route add 10.1.0.{last}/32 dev lxc{last}"));
        });
        pod.run(move || {
            ip("link set pod0 name eth0");
            ip("link set eth0 up");
            ip(&format!("addr add 10.1.0.{last}/32 dev eth0"));
            ip("route add 10.1.0.1 dev eth0");
            ip("route add default via 10.1.0.1");
        });
    }
    node.run(rules);
    measure(case, duration, &client, &server, vec![(SERVICE, 80)])
}

/// The services of the anchors.
fn rules(services: u32) -> Rules {
    Rules {
        services,
        protocol: "tcp",
        service: SERVICE,
        other,
        backends: BACKENDS,
        backend: |n| (SERVER, PORT + n).into(),
        outside: false,
    }
}

fn measure(case: &str, duration: Duration, client: &Ns, server: &Ns, targets: Vec<(Ipv4Addr, u16)>) -> f64 {
    server.run(|| {
        for n in 0..BACKENDS {
            let listener = TcpListener::bind((IpAddr::V4(SERVER), PORT + n)).expect("the port is free");
            // One for each, so that no time goes into finding out which of them was asked.
            std::thread::spawn(move || {
                pin(true);
                for mut stream in listener.incoming().flatten() {
                    let _ = stream.set_nodelay(true);
                    let mut byte = [0; 1];
                    while stream.read(&mut byte).is_ok_and(|n| n > 0) && stream.write_all(&byte).is_ok() {}
                }
            });
        }
    });
    let case = case.to_owned();
    client.run(move || {
        pin(true);
        let mut targets = targets.into_iter().map(SocketAddr::from).cycle();
        let mut next = || connect(targets.next().expect("there is one"));
        match case.as_str() {
            "rr" => {
                let mut stream = next();
                per_exchange(WARM_UP, duration, || exchange(&mut stream))
            }
            "crr" => per_exchange(WARM_UP, duration, || exchange(&mut next())),
            _ => panic!("the case is rr or crr, not {case}"),
        }
    })
}
