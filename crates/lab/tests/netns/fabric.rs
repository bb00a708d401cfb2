//! The VPC without the rest of a lab: subnets, routes, cut links, load balancers.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use causeway_lab::fabric::lb::{Frontend, Frontends, Protocol};
use causeway_lab::fabric::{Fabric, forward, rules};
use causeway_lab::runtime::{Container, NetNs};
use causeway_lab::topology::Plan;
use causeway_lab::{Topology, lab};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::sync::CancellationToken;

use crate::Test;
use crate::host::until;

pub(crate) const TESTS: &[Test] = &[
    ("netns_machines_reach_each_other_across_subnets", machines_reach_each_other),
    ("netns_subnets_without_a_route_are_apart", subnets_without_a_route),
    ("netns_dual_stack_machines_reach_each_other_where_there_is_a_route", dual_stack),
    ("netns_load_balancers_forward_and_a_cut_link_is_silent", load_balancers),
];

/// A VPC with the nodes of a plan, in the plan's order.
fn vpc(topology: &Topology) -> (Plan, Fabric, Vec<(Ipv4Addr, NetNs)>) {
    let plan = Plan::new(topology);
    let fabric = Fabric::create(&plan).unwrap();
    let mut machines = Vec::new();
    for cluster in &plan.clusters {
        for (i, node) in cluster.nodes.iter().enumerate() {
            let netns = NetNs::create().unwrap();
            fabric.connect(&netns, node.subnet, &format!("c{}n{i}", cluster.id), &node.addresses()).unwrap();
            machines.push((node.address, netns));
        }
    }
    (plan, fabric, machines)
}

fn pings(from: &NetNs, to: Ipv4Addr) -> bool {
    let executable = std::env::current_exe().unwrap().display().to_string();
    let ping = format!("{executable} lab workload ping {to} --count 2 --size 1000 --timeout 500");
    let container = Container {
        argv: ping.split(' ').map(String::from).collect(),
        netns: Some(from.path()),
        ..Container::default()
    };
    lab::run(executable.as_ref(), &container).unwrap().status.success()
}

fn machines_reach_each_other() {
    let (plan, _fabric, machines) = vpc(&Topology::default());
    for (_, from) in &machines {
        for (to, _) in &machines {
            assert!(pings(from, *to), "to {to}");
        }
        assert!(pings(from, plan.subnets[1].gateway));
        assert!(!pings(from, Ipv4Addr::new(198, 51, 100, 1)));
    }
}

fn subnets_without_a_route() {
    let topology = Topology { routes: Some(Vec::new()), ..Topology::default() };
    let (_, _fabric, machines) = vpc(&topology);
    assert!(pings(&machines[0].1, machines[1].0), "in the subnet");
    assert!(!pings(&machines[0].1, machines[2].0), "between subnets");
    assert!(!pings(&machines[2].1, machines[0].0), "between subnets");
}

/// Whether a machine is reached: that nobody listens there is an answer of its own.
fn answers(from: &NetNs, to: IpAddr) -> bool {
    inside(from, async move || {
        let attempt = tokio::time::timeout(Duration::from_secs(20), TcpStream::connect((to, 1))).await;
        let error = attempt.expect("an answer of the machine or of the VPC").unwrap_err();
        error.kind() == std::io::ErrorKind::ConnectionRefused
    })
}

fn dual_stack() {
    for routes in [None, Some(Vec::new())] {
        let routed = routes.is_none();
        let topology = Topology { routes, ..Topology::default() }.dual_stack();
        let (plan, _fabric, machines) = vpc(&topology);
        let nodes: Vec<_> = plan.clusters.iter().flat_map(|c| &c.nodes).collect();
        for (node, (_, from)) in nodes.iter().zip(&machines) {
            for other in &nodes {
                for to in other.addresses() {
                    let reached = routed || node.subnet == other.subnet;
                    assert_eq!(answers(from, to), reached, "from {} to {to}", node.address);
                }
            }
        }
    }
}

/// Runs async work in a namespace on a thread of its own.
fn inside<T: Send>(netns: &NetNs, work: impl AsyncFnOnce() -> T + Send) -> T {
    netns
        .run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            Ok(runtime.block_on(work()))
        })
        .unwrap()
}

fn load_balancers() {
    let (plan, fabric, machines) = vpc(&Topology::default());
    let state = tempfile::tempdir().unwrap();
    let dir = Frontends::dir(state.path());
    let (a, b) = (&plan.clusters[0], &plan.clusters[1]);
    let vip = b.pools["subnet-sh7def"].first;
    let public = b.public_pool.first;
    let port = rules::CONTROL_PLANE_PORT;
    let target = SocketAddrV4::new(machines[2].0, 30000);
    let dead = SocketAddrV4::new(machines[3].0, 30000);
    let frontend = |vip, protocol, targets: &[SocketAddrV4]| Frontend {
        vip,
        subnet: None,
        port,
        protocol,
        targets: targets.to_vec(),
    };
    let frontends = vec![
        frontend(vip, Protocol::Tcp, &[dead, target]),
        frontend(vip, Protocol::Udp, &[target]),
        frontend(public, Protocol::Tcp, &[target]),
    ];
    Frontends { frontends }.write(&dir, "b").unwrap();
    let stop = CancellationToken::new();
    std::thread::scope(|s| {
        // Whatever fails, the others must end, or the scope never does.
        let _guard = stop.clone().drop_guard();
        s.spawn(|| {
            inside(fabric.netns(), || async {
                forward::run(plan.clone(), state.path().into(), stop.clone()).await.unwrap();
            })
        });
        s.spawn(|| inside(&machines[2].1, || serve(target, stop.clone())));
        // Both ways to an address, with one target of two dead; every connection finds the one that lives.
        inside(&machines[0].1, || async {
            for to in [vip, vip, public] {
                assert_eq!(
                    exchange(&mut connect(to, port).await, b"hello").await.as_deref(),
                    Some(&b"hello"[..])
                );
            }
            let udp = UdpSocket::bind("0.0.0.0:0").await.unwrap();
            udp.connect((vip, port)).await.unwrap();
            udp.send(b"datagram").await.unwrap();
            let mut buffer = [0; 64];
            let n =
                tokio::time::timeout(Duration::from_secs(10), udp.recv(&mut buffer)).await.unwrap().unwrap();
            assert_eq!(&buffer[..n], b"datagram");
        });
        let netns = fabric.netns();
        inside(&machines[0].1, || async {
            let mut established = connect(vip, port).await;
            assert!(exchange(&mut established, b"before").await.is_some());
            rules::cut(netns, &plan, a, b).unwrap();
            rules::cut(netns, &plan, a, b).unwrap();
            assert!(rules::is_cut(netns, &plan, b, a).unwrap() && rules::is_cut(netns, &plan, a, b).unwrap());
            assert_eq!(exchange(&mut established, b"while cut").await, None, "nothing passes on a cut link");
            let new = tokio::time::timeout(Duration::from_millis(500), TcpStream::connect((vip, port))).await;
            assert!(new.is_err(), "a cut link is silent");
            assert!(pings(&machines[0].1, machines[2].0), "everything else passes");
            rules::restore(netns, &plan, b, a).unwrap();
            rules::restore(netns, &plan, a, b).unwrap();
            assert!(!rules::is_cut(netns, &plan, a, b).unwrap());
            // What was sent meanwhile is sent again by TCP.
            let mut buffer = [0; 64];
            let read = established.read(&mut buffer);
            let n = tokio::time::timeout(Duration::from_secs(30), read).await.unwrap().unwrap();
            assert_eq!(&buffer[..n], b"while cut");
        });
        // An address goes with its last frontend.
        Frontends::default().write(&dir, "b").unwrap();
        until("the addresses to be gone", || !pings(&machines[0].1, vip) && !pings(&machines[0].1, public));
        stop.cancel();
    });
}

/// TCP and UDP echo until told to stop.
async fn serve(at: SocketAddrV4, stop: CancellationToken) {
    let tcp = TcpListener::bind(at).await.unwrap();
    let udp = UdpSocket::bind(at).await.unwrap();
    let mut buffer = [0; 64];
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Ok((mut stream, _)) = tcp.accept() => drop(tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            })),
            Ok((n, from)) = udp.recv_from(&mut buffer) => drop(udp.send_to(&buffer[..n], from).await),
        }
    }
}

/// Connects as soon as the address answers.
async fn connect(to: Ipv4Addr, port: u16) -> TcpStream {
    for _ in 0..300 {
        let attempt = tokio::time::timeout(Duration::from_secs(1), TcpStream::connect((to, port))).await;
        if let Ok(Ok(stream)) = attempt {
            return stream;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{to}:{port} does not answer");
}

/// Sends something and returns what comes back within half a second.
async fn exchange(stream: &mut TcpStream, text: &[u8]) -> Option<Vec<u8>> {
    stream.write_all(text).await.ok()?;
    let mut buffer = vec![0; text.len()];
    let read = stream.read_exact(&mut buffer);
    tokio::time::timeout(Duration::from_millis(1500), read).await.ok()?.ok()?;
    Some(buffer)
}
