//! Connection tracking from outside: which entries flows make, how long they stay, and what becomes of
//! a flow whose backend is gone.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use causeway_datapath::conntrack::{Conntrack, FlowEntry, Kind, NatFlow};
use causeway_datapath::inspect::Inspector;
use causeway_model::Protocol;
use common::Node;
use common::vpc::{DEADLINE, Pair, address, apply, ask, eventually, node_port};

fn flows(node: &Node) -> Vec<FlowEntry> {
    let bpffs = node.config.bpffs.clone();
    node.ns.run(move || Conntrack::open(&bpffs).unwrap().list().unwrap())
}

fn translations(node: &Node) -> Vec<NatFlow> {
    let bpffs = node.config.bpffs.clone();
    node.ns.run(move || Conntrack::open(&bpffs).unwrap().list_nat().unwrap())
}

/// Opens a connection to `to` and keeps it.
fn open(net: &Pair, to: SocketAddr) -> std::net::TcpStream {
    net.client.ns.run(move || {
        let mut stream = std::net::TcpStream::connect_timeout(&to, DEADLINE).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        common::vpc::line(&mut stream);
        stream
    })
}

#[test]
fn netns_flows_have_the_times_of_their_states() {
    let mut net = Pair::new("times");
    let to = SocketAddr::new(address(&net.a, false), 30080);
    for (backend, remote) in [(net.local.ip, false), (net.remote.ip, true)] {
        apply(&mut net.a, node_port(false, &[(backend, 8080).into()]));
        let stream = open(&net, to);
        let own = stream.local_addr().unwrap();
        let of = |kind: Kind| {
            let mut all = flows(&net.a);
            all.retain(|f| f.kind == kind && f.source == own);
            all
        };
        let service = of(Kind::Service);
        let [service] = service.as_slice() else { panic!("{service:?}") };
        assert_eq!((service.destination, service.other), (to, (backend, 8080).into()));
        assert!((7900..=8000).contains(&service.seconds_left), "established: {service:?}");
        assert_eq!(service.nat_port != 0, remote, "{service:?}");
        if remote {
            let all = translations(&net.a);
            let [nat] = all.as_slice() else { panic!("{all:?}") };
            assert_eq!((nat.client, nat.frontend), (own, to));
            assert_eq!((nat.backend, nat.source.port()), ((backend, 8080).into(), service.nat_port));
        } else {
            let inside = of(Kind::In);
            let [inside] = inside.as_slice() else { panic!("{inside:?}") };
            assert_eq!((inside.destination, inside.other), ((backend, 8080).into(), to));
        }
        // Closed by both sides: ten seconds more.
        drop(stream);
        eventually("a closed connection is nearly over", || {
            of(Kind::Service).iter().all(|f| f.seconds_left <= 10 && f.seen.contains(&"reply-closing"))
        });
        let answers = ask(&net.client.ns, Protocol::UDP, to, 1);
        assert_eq!(answers.values().sum::<usize>(), 1);
        let udp: Vec<_> = flows(&net.a).into_iter().filter(|f| f.protocol == 17).collect();
        assert!(!udp.is_empty() && udp.iter().all(|f| f.seconds_left <= 60), "{udp:?}");
    }
}

#[test]
fn netns_an_attempt_that_nobody_answers_is_kept_a_minute() {
    let mut net = Pair::new("syn");
    // An address of the pod network that nobody has.
    apply(&mut net.a, node_port(false, &[("10.2.0.77:8080").parse().unwrap()]));
    let to = SocketAddr::new(address(&net.a, false), 30080);
    net.client.ns.run(move || {
        let error = std::net::TcpStream::connect_timeout(&to, Duration::from_millis(500)).unwrap_err();
        assert_ne!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
    });
    let all = flows(&net.a);
    assert!(all.iter().any(|f| f.kind == Kind::Service), "{all:?}");
    assert!(all.iter().all(|f| f.seconds_left <= 60), "{all:?}");
}

#[test]
fn netns_a_flow_whose_backend_is_gone_gets_another() {
    let mut net = Pair::new("gone");
    for v6 in [false, true] {
        let backends = net.backends(v6);
        apply(&mut net.a, node_port(v6, &backends));
        let to = SocketAddr::new(address(&net.a, v6), 30080);
        let socket = net.client.ns.run(move || {
            let socket = UdpSocket::bind(if v6 { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            socket
        });
        let say = || {
            let mut answer = [0; 64];
            let mut got = String::new();
            eventually("an answer", || {
                socket.send(b"?").unwrap();
                let Ok(n) = socket.recv(&mut answer) else { return false };
                got = String::from_utf8_lossy(&answer[..n]).split(' ').next().unwrap().to_owned();
                true
            });
            got
        };
        let first = say();
        assert!((0..10).all(|_| say() == first), "one flow, one backend");
        let other = usize::from(first == "local");
        apply(&mut net.a, node_port(v6, &backends[other..=other]));
        let second = say();
        assert_ne!(first, second);
        apply(&mut net.a, node_port(v6, &backends));
        assert!((0..10).all(|_| say() == second), "it stays there");
    }
}

#[test]
fn netns_collection_removes_what_is_over_and_a_gone_pods_flows() {
    let mut net = Pair::new("gc");
    let backends = net.backends(false);
    apply(&mut net.a, node_port(false, &backends));
    let to = SocketAddr::new(address(&net.a, false), 30080);
    ask(&net.client.ns, Protocol::TCP, to, 40);
    let (before, nat) = (flows(&net.a).len(), translations(&net.a).len());
    assert!(before >= 40 && nat > 0, "{before} {nat}");
    // Nothing is over for long enough yet.
    let bpffs = net.a.config.bpffs.clone();
    let collected = net.a.ns.run(move || Conntrack::open(&bpffs).unwrap().collect().unwrap());
    assert_eq!((collected.deleted, collected.alive), (0, before + nat), "{collected:?}");
    let bpffs = net.a.config.bpffs.clone();
    let usage = net.a.ns.run(move || Inspector::open(&bpffs).unwrap().usage().unwrap());
    let of = |name| usage.iter().find(|usage| usage.name == name).unwrap();
    assert_eq!(of("cw_ct_tcp").entries + of("cw_ct_any").entries, before, "{usage:?}");
    assert_eq!((of("cw_nat").entries, of("cw_nat").max), (nat, 4096));
    // With the pod its flows go, and nobody else's.
    net.a.datapath(|d| d.remove_endpoint("pod5").unwrap().unwrap());
    let (gone, left) = (net.local.ip, flows(&net.a));
    assert!(!left.is_empty() && left.len() < before, "{left:?}");
    assert!(left.iter().all(|f| f.other.ip() != gone && f.destination.ip() != gone), "{left:?}");
    assert_eq!(translations(&net.a).len(), nat);
    let bpffs = net.a.config.bpffs.clone();
    net.a.ns.run(move || Conntrack::open(&bpffs).unwrap().flush().unwrap());
    assert_eq!((flows(&net.a).len(), translations(&net.a).len()), (0, 0));
}
