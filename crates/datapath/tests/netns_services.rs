//! Services at the socket: real processes in the node's cgroup, TCP and UDP, with the service's
//! address shown back to them.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use causeway_datapath::inspect::Inspector;
use causeway_model::lb::{Backend, Frontend, L4Addr};
use causeway_model::{Event, Protocol, ServiceKey};
use common::client::{PORT, answers, spawn};
use common::{Node, Pod, underlay};
use etherparse::{NetSlice, SlicedPacket};

const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// Not a test of its own: what the client processes run.
#[test]
fn client_process() {
    common::client::process();
}

/// Runs clients of the service in a pod; how often each answer came.
fn client(node: &Node, pod: &Pod, kind: &str, count: usize) -> BTreeMap<String, usize> {
    let (kind, target) = match kind.strip_suffix('6') {
        Some(kind) => (kind, format!("[{}]:80", SERVICE.to_ipv6_mapped())),
        None => (kind, format!("{SERVICE}:80")),
    };
    common::client::client(node, &pod.ns, kind, &target, count)
}

/// Answers with the pod's name until the test ends.
fn server(pod: &Pod, name: &'static str) {
    common::client::server(&pod.ns, (pod.ip, PORT).into(), name);
}

fn frontend(protocol: Protocol, backends: &[&Pod]) -> Event<Frontend> {
    let backend = |pod: &&Pod| Backend::new(L4Addr { ip: pod.ip.into(), port: 8080, protocol }, None);
    let address = L4Addr { ip: SERVICE.into(), port: 80, protocol };
    let service = ServiceKey { namespace: "shop".into(), name: "web".into() };
    Event::Upsert(Frontend::new(address, service, backends.iter().map(backend).collect::<Vec<_>>()))
}

fn serve(node: &mut Node, backends: &[&Pod]) {
    let events: Vec<_> = [Protocol::TCP, Protocol::UDP].map(|p| frontend(p, backends)).into();
    node.datapath(move |d| events.into_iter().for_each(|e| d.apply_frontend(e).unwrap()));
}

#[test]
fn netns_services_balance_fail_over_and_refuse() {
    let (mut a, mut b) = (Node::new("svc", 1, None), Node::new("svc", 2, None));
    underlay(&a, &b);
    a.open();
    b.open();
    let (c, local, remote) = (a.pod(5, 65_600), a.pod(6, 65_601), b.pod(5, 131_100));
    a.learn(&[(&remote, b.ip)], &[&b]);
    b.learn(&[(&c, a.ip), (&local, a.ip)], &[&a]);
    server(&local, "local");
    server(&remote, "remote");

    serve(&mut a, &[&local, &remote]);
    for kind in ["tcp", "tcp6", "udp", "udp6", "udp-connected"] {
        let answers = client(&a, &c, kind, 60);
        assert_eq!(answers.values().sum::<usize>(), 60, "{kind}: {answers:?}");
        assert_eq!(answers.keys().collect::<Vec<_>>(), ["local", "remote"], "{kind}: {answers:?}");
    }
    // The table is switched as a whole, and back.
    serve(&mut a, &[&remote]);
    a.datapath(|d| assert_eq!((d.stats().frontends, d.stats().backends), (2, 2)));
    assert_eq!(client(&a, &c, "tcp", 20), BTreeMap::from([("remote".into(), 20)]));
    a.close();
    assert_eq!(client(&a, &c, "tcp", 5), BTreeMap::from([("remote".into(), 5)]), "without the agent");
    a.open();
    serve(&mut a, &[&local]);
    assert_eq!(client(&a, &c, "udp", 20), BTreeMap::from([("local".into(), 20)]));
    // Nobody there: refused at once instead of a time-out.
    serve(&mut a, &[]);
    for kind in ["tcp", "tcp6", "udp", "udp6"] {
        let refused = BTreeMap::from([("ConnectionRefused".into(), 3)]);
        assert_eq!(client(&a, &c, kind, 3), refused, "{kind}");
    }
    a.datapath(|d| assert_eq!((d.stats().frontends, d.stats().backends), (2, 0)));
    // What a listing no longer names is gone, also when an earlier agent left it.
    a.datapath(|d| d.apply_frontend(Event::Synced).unwrap());
    a.close();
    a.open();
    a.datapath(|d| {
        d.apply_frontend(Event::Reset).unwrap();
        d.apply_frontend(Event::Synced).unwrap();
        assert_eq!((d.stats().frontends, d.stats().backends), (0, 0));
    });
}

#[test]
fn netns_a_switch_of_backends_is_never_seen_half_done() {
    let (mut a, c, local, other) = one_node("swap");
    serve(&mut a, &[&local]);
    let procs = a.cgroup.0.join("cgroup.procs");
    let asking = c.ns.start(move || spawn(procs, &format!("tcp {SERVICE}:80 300")));
    // The table shrinks and grows all the while: a lookup between two writes would find no slot.
    let output = loop {
        for backends in [&[&other][..], &[&local, &other], &[&other, &local, &other, &local], &[&local]] {
            serve(&mut a, backends);
        }
        if let Ok(output) = asking.try_recv() {
            break output;
        }
    };
    let answers = answers(&output);
    assert_eq!(answers.keys().collect::<Vec<_>>(), ["local", "other"], "{answers:?}");
    assert_eq!(answers.values().sum::<usize>(), 300, "{answers:?}");
}

#[test]
fn netns_a_new_agent_takes_nothing_back_before_it_knows_all() {
    let (mut a, c, local, other) = one_node("adopt");
    serve(&mut a, &[&local, &other]);
    a.close();
    a.open();
    // A repair before the first listing is complete, and the beginning of that listing.
    a.datapath(|d| {
        d.resync().unwrap();
        d.apply_frontend(Event::Reset).unwrap();
    });
    let both = client(&a, &c, "tcp", 60);
    assert_eq!(both.keys().collect::<Vec<_>>(), ["local", "other"], "{both:?}");
    serve(&mut a, &[&other]);
    a.datapath(|d| d.apply_frontend(Event::Synced).unwrap());
    assert_eq!(client(&a, &c, "tcp", 20), BTreeMap::from([("other".into(), 20)]));
    a.datapath(|d| d.resync().unwrap());
    assert_eq!(client(&a, &c, "udp", 20), BTreeMap::from([("other".into(), 20)]));
}

#[test]
fn netns_packets_carry_backends_and_never_the_service() {
    use nix::sys::socket::{MsgFlags, recv};
    let (mut a, c, local, other) = one_node("wire");
    serve(&mut a, &[&local, &other]);
    let tap = c.ns.run(common::vpc::tap);
    for kind in ["tcp", "udp", "udp-connected"] {
        client(&a, &c, kind, 5);
    }
    let (mut frame, mut seen) = ([0; 2048], BTreeSet::new());
    // Until nothing has come for a second.
    while let Ok(n) = recv(tap.as_raw_fd(), &mut frame, MsgFlags::empty()) {
        if let Ok(packet) = SlicedPacket::from_ethernet(&frame[..n])
            && let Some(NetSlice::Ipv4(ip)) = packet.net
        {
            seen.extend([ip.header().source_addr(), ip.header().destination_addr()]);
        }
    }
    let ours: BTreeSet<_> = [c.ip, local.ip, other.ip].into();
    assert!(seen.contains(&c.ip) && seen.len() > 1 && seen.is_subset(&ours), "{seen:?}");
}

/// Its own processes and clients outside use the services of a node without pods.
#[test]
fn netns_services_are_adopted_without_any_pod() {
    let mut a = Node::new("alone", 1, None);
    a.open();
    assert!(!a.datapath(|d| d.is_adopted()), "nobody was here");
    serve(&mut a, &[]);
    a.close();
    a.open();
    assert!(a.datapath(|d| d.endpoints().is_empty() && d.is_adopted()));
}

/// A list of 64 to 70 backends, of which a few change each round and now and then all.
fn many(round: u16) -> Vec<Backend> {
    let port = |n: u16| match n % 70 {
        n if round.is_multiple_of(10) => 5000 + n,
        n if (round..round + 6).any(|gone| gone * 11 % 70 == n) => 0,
        n => 1000 + n + 100 * u16::from(n % 35 == round % 35),
    };
    let mut ports: Vec<u16> = (0..70).map(port).filter(|port| *port != 0).collect();
    ports.sort_unstable();
    let address = |port| L4Addr { ip: Ipv4Addr::new(10, 9, 0, 1).into(), port, protocol: Protocol::TCP };
    ports.into_iter().map(|port| Backend::new(address(port), None)).collect()
}

#[test]
fn netns_a_table_of_many_backends_follows_every_change() {
    let mut a = Node::new("many", 1, None);
    a.open();
    let address = L4Addr { ip: SERVICE.into(), port: 80, protocol: Protocol::TCP };
    for round in 0..60 {
        let backends = many(round);
        let service = ServiceKey { namespace: "shop".into(), name: "many".into() };
        let event = Event::Upsert(Frontend::new(address, service, backends.clone()));
        a.datapath(move |d| d.apply_frontend(event).unwrap());
        // A new agent adopts a table in whatever order it is, and a repair leaves it alone.
        if round % 20 == 5 {
            let inspector = a.config.bpffs.clone();
            let read = move || Inspector::open(&inspector).unwrap().backends(address).unwrap().unwrap();
            let before = a.ns.run(read.clone());
            a.close();
            a.open();
            a.datapath({
                let service = ServiceKey { namespace: "shop".into(), name: "many".into() };
                let event = Event::Upsert(Frontend::new(address, service, backends.clone()));
                move |d| {
                    d.apply_frontend(event).unwrap();
                    d.resync().unwrap();
                }
            });
            assert_eq!(a.ns.run(read), before);
        }
        let bpffs = a.config.bpffs.clone();
        let mut held = a.ns.run(move || Inspector::open(&bpffs).unwrap().backends(address).unwrap().unwrap());
        held.sort_unstable();
        assert_eq!(held, backends.iter().map(|backend| backend.address).collect::<Vec<_>>(), "round {round}");
    }
    a.datapath(move |d| d.apply_frontend(Event::Remove(address)).unwrap());
    let bpffs = a.config.bpffs.clone();
    assert_eq!(
        a.ns.run(move || Inspector::open(&bpffs).unwrap().slots().unwrap()),
        0,
        "nothing is left behind"
    );
}

/// A node with a client pod and two servers.
fn one_node(test: &str) -> (Node, Pod, Pod, Pod) {
    let mut a = Node::new(test, 1, None);
    a.open();
    let (c, local, other) = (a.pod(5, 65_600), a.pod(6, 65_601), a.pod(7, 65_602));
    server(&local, "local");
    server(&other, "other");
    (a, c, local, other)
}
