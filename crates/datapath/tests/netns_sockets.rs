//! Who is translated at the socket, and to whom: both families, affinity, weights, NodePorts, scopes,
//! ports that are taken, sockets whose backend is gone.

mod common;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use causeway_datapath::Balance;
use causeway_datapath::inspect::{FrontendEntry, Inspector};
use causeway_model::lb::{Algorithm, Balancing, Frontend, FrontendKind};
use causeway_model::{Event, Protocol};
use common::client::{PORT, answers, client, frontend, l4, server, spawn, talker, until};
use common::{Node, Pod, ip};

const SERVICE: &str = "10.96.0.10:80";

/// Not a test of its own: what the client processes run.
#[test]
fn client_process() {
    common::client::process();
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn service(backends: &[(&Pod, u16)], protocol: Protocol) -> Frontend {
    let backends: Vec<_> = backends.iter().map(|(pod, weight)| (IpAddr::V4(pod.ip), *weight)).collect();
    frontend(l4(addr("10.96.0.10"), 80, protocol), &backends)
}

/// A node with a client pod and two servers, `one` and `two`.
fn node(test: &str, balance: Balance) -> (Node, Pod, Pod, Pod) {
    let mut a = Node::new(test, 1, None);
    a.config.balance = balance;
    a.open();
    let pods = (a.pod(5, 65_600), a.pod(6, 65_601), a.pod(7, 65_602));
    server(&pods.1.ns, (pods.1.ip, PORT).into(), "one");
    server(&pods.2.ns, (pods.2.ip, PORT).into(), "two");
    (a, pods.0, pods.1, pods.2)
}

fn only(answer: &str, count: usize) -> BTreeMap<String, usize> {
    BTreeMap::from([(answer.to_owned(), count)])
}

/// What the kernel holds.
fn inspect<T: Send + 'static>(node: &Node, look: impl FnOnce(Inspector) -> T + Send + 'static) -> T {
    let bpffs = node.config.bpffs.clone();
    node.ns.run(move || look(Inspector::open(&bpffs).unwrap()))
}

fn frontends(node: &Node) -> Vec<FrontendEntry> {
    inspect(node, |inspector| inspector.frontends().unwrap())
}

/// How many entries a map has.
fn held(node: &Node, map: &'static str) -> usize {
    let usage = inspect(node, |inspector| inspector.usage().unwrap());
    usage.into_iter().find(|usage| usage.name == map).unwrap().entries
}

#[test]
fn netns_services_of_ipv6() {
    let mut a = Node::new("six", 1, None);
    a.open();
    // The node's own addresses: pods have none of this family here.
    a.ns.run(|| ["fd00::1", "fd00::2"].iter().for_each(|a| ip(&format!("addr add {a}/128 dev lo nodad"))));
    server(&a.ns, "[fd00::1]:8080".parse().unwrap(), "one");
    server(&a.ns, "[fd00::2]:8080".parse().unwrap(), "two");
    // The kernel makes the routes to them some time after the addresses.
    for (target, name) in [("[fd00::1]:8080", "one"), ("[fd00::2]:8080", "two")] {
        until("the address is routed", || client(&a, &a.ns, "tcp", target, 1) == only(name, 1));
    }
    let both = [(addr("fd00::1"), 1), (addr("fd00::2"), 1)];
    for protocol in [Protocol::TCP, Protocol::UDP] {
        a.set(frontend(l4(addr("fd00:96::10"), 80, protocol), &both));
    }
    for kind in ["tcp", "udp", "udp-connected"] {
        let answers = client(&a, &a.ns, kind, "[fd00:96::10]:80", 60);
        assert_eq!(answers.keys().collect::<Vec<_>>(), ["one", "two"], "{kind}: {answers:?}");
    }
    let wildcard = l4(addr("::"), 30080, Protocol::TCP);
    a.set(Frontend { kind: FrontendKind::NodePort, ..frontend(wildcard, &both[..1]) });
    a.datapath(|d| d.set_node_addresses(&BTreeMap::from([(addr("fd00:172::2"), false)]), true).unwrap());
    for target in ["[::1]:30080", "[fd00:172::2]:30080"] {
        assert_eq!(client(&a, &a.ns, "tcp", target, 2), only("one", 2), "{target}");
    }
    // From pod to pod, with the affinity of its network namespace.
    let (c, one) = (a.pod(5, 65_600), a.pod(6, 65_601));
    server(&one.ns, (one.ip6, PORT).into(), "pod");
    let sticky = Balancing { affinity_seconds: 60, ..Balancing::default() };
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let backends = [(one.ip6.into(), 1), (addr("fd00::1"), 1)];
        let balancing = Arc::new(sticky.clone());
        a.set(Frontend { balancing, ..frontend(l4(addr("fd00:96::11"), 80, protocol), &backends) });
    }
    for kind in ["tcp", "udp", "udp-connected"] {
        let answers = client(&a, &c.ns, kind, "[fd00:96::11]:80", 20);
        assert_eq!(answers.values().collect::<Vec<_>>(), [&20], "{kind}: {answers:?}");
    }
    for protocol in [Protocol::TCP, Protocol::UDP] {
        a.set(frontend(l4(addr("fd00:96::10"), 80, protocol), &[]));
    }
    for kind in ["tcp", "udp", "udp-connected"] {
        assert_eq!(client(&a, &a.ns, kind, "[fd00:96::10]:80", 3), only("ConnectionRefused", 3), "{kind}");
    }
}

#[test]
fn netns_a_client_keeps_its_backend() {
    let (mut a, c, one, two) = node("affinity", Balance::default());
    let others: Vec<Pod> = (10..26).map(|n| a.pod(n, 65_603)).collect();
    let sticky = |backends: &[(&Pod, u16)], affinity_seconds| Frontend {
        balancing: Arc::new(Balancing { affinity_seconds, ..Balancing::default() }),
        ..service(backends, Protocol::TCP)
    };
    a.set(sticky(&[(&one, 1), (&two, 1)], 3600));
    let first = client(&a, &c.ns, "tcp", SERVICE, 40);
    assert_eq!(first.len(), 1, "{first:?}");
    let name = first.keys().next().unwrap().clone();
    // Another network namespace is another client.
    let differs = |pod: &Pod| client(&a, &pod.ns, "tcp", SERVICE, 1) != only(&name, 1);
    assert!(others.iter().any(differs), "all of {} clients have {name}", others.len());
    // Who comes back too late chooses anew.
    a.set(sticky(&[(&one, 1), (&two, 1)], 1));
    until("the client has another one", || {
        std::thread::sleep(Duration::from_millis(1_100));
        client(&a, &c.ns, "tcp", SERVICE, 1) != only(&name, 1)
    });
}

/// The names of pods by what they answer.
fn by_name<'a>(one: &'a Pod, two: &'a Pod, name: &str) -> (&'a Pod, &'a Pod) {
    if name == "one" { (one, two) } else { (two, one) }
}

#[test]
fn netns_a_backend_that_is_gone_or_drains_is_not_kept() {
    let (mut a, c, one, two) = node("kept", Balance::default());
    let sticky = |backends: &[(&Pod, u16)]| Frontend {
        balancing: Arc::new(Balancing { affinity_seconds: 3600, ..Balancing::default() }),
        ..service(backends, Protocol::TCP)
    };
    a.set(sticky(&[(&one, 1), (&two, 1)]));
    let first = client(&a, &c.ns, "tcp", SERVICE, 20);
    let name = first.keys().next().unwrap().clone();
    let (held, free) = by_name(&one, &two, &name);
    let other = if name == "one" { "two" } else { "one" };
    // Draining: no new connections, though the client had it.
    a.set(sticky(&[(held, 0), (free, 1)]));
    assert_eq!(client(&a, &c.ns, "tcp", SERVICE, 20), only(other, 20));
    // Back again: the client now keeps the other one.
    a.set(sticky(&[(held, 1), (free, 1)]));
    assert_eq!(client(&a, &c.ns, "tcp", SERVICE, 20), only(other, 20));
    a.set(sticky(&[(held, 1)]));
    assert_eq!(client(&a, &c.ns, "tcp", SERVICE, 20), only(&name, 20));
    // A new agent changes nothing about it.
    a.set(sticky(&[(held, 1), (free, 1)]));
    a.close();
    a.open();
    a.set(sticky(&[(held, 1), (free, 1)]));
    a.datapath(|d| d.apply_frontend(Event::Synced).unwrap());
    assert_eq!(client(&a, &c.ns, "tcp", SERVICE, 20), only(&name, 20));
}

#[test]
fn netns_weights_are_shares_and_no_weight_is_none() {
    let (mut a, c, one, two) = node("weights", Balance::default());
    a.set(service(&[(&one, 30), (&two, 10)], Protocol::TCP));
    let answers = client(&a, &c.ns, "tcp", SERVICE, 400);
    // 300 expected; nine standard deviations of a fair choice either way.
    assert!((220..380).contains(&answers["one"]) && answers["two"] == 400 - answers["one"], "{answers:?}");
    a.set(service(&[(&one, 0), (&two, 10)], Protocol::TCP));
    assert_eq!(client(&a, &c.ns, "tcp", SERVICE, 30), only("two", 30));
    a.set(service(&[(&one, 0), (&two, 0)], Protocol::TCP));
    assert_eq!(client(&a, &c.ns, "tcp", SERVICE, 3), only("ConnectionRefused", 3));
}

/// A listener at an address of the namespace that is nobody's backend.
fn elsewhere(ns: &common::Ns, address: &'static str) {
    let host = address.split_once(':').unwrap().0;
    ns.run(move || ip(&format!("addr add {host}/32 dev lo")));
    server(ns, address.parse().unwrap(), "itself");
}

#[test]
fn netns_node_ports_answer_at_the_nodes_of_this_cluster_only() {
    let (mut a, c, one, _two) = node("nodeport", Balance::default());
    let wildcard = |port, kind, protocol| Frontend {
        kind,
        ..frontend(l4(Ipv4Addr::UNSPECIFIED, port, protocol), &[(one.ip.into(), 1)])
    };
    for protocol in [Protocol::TCP, Protocol::UDP] {
        a.set(wildcard(30080, FrontendKind::NodePort, protocol));
    }
    a.set(wildcard(9090, FrontendKind::HostPort, Protocol::TCP));
    let nodes = BTreeMap::from([(addr("172.31.0.1"), true), (addr("172.31.0.2"), false)]);
    a.datapath(move |d| d.set_node_addresses(&nodes, true).unwrap());
    // A node of another cluster, with the same port in use.
    elsewhere(&a.ns, "172.31.9.9:30080");
    elsewhere(&c.ns, "172.31.9.9:30080");

    for kind in ["tcp", "udp", "udp-connected"] {
        for target in ["172.31.0.1:30080", "172.31.0.2:30080", "127.0.0.1:30080", "[::ffff:172.31.0.2]:30080"]
        {
            assert_eq!(client(&a, &a.ns, kind, target, 3), only("one", 3), "{kind} {target} from the node");
        }
        for target in ["172.31.0.1:30080", "172.31.0.2:30080"] {
            assert_eq!(client(&a, &c.ns, kind, target, 3), only("one", 3), "{kind} {target} from a pod");
        }
        for ns in [&a.ns, &c.ns] {
            assert_eq!(client(&a, ns, kind, "172.31.9.9:30080", 3), only("itself", 3), "{kind}");
        }
    }
    // A pod's loopback is its own.
    assert_eq!(client(&a, &c.ns, "tcp", "127.0.0.1:30080", 1), only("ConnectionRefused", 1));
    assert_eq!(client(&a, &c.ns, "tcp", "0.0.0.0:30080", 1), only("ConnectionRefused", 1));
    // hostPort is this node's alone.
    assert_eq!(client(&a, &c.ns, "tcp", "172.31.0.1:9090", 1), only("one", 1));
    elsewhere(&c.ns, "172.31.0.2:9090");
    assert_eq!(client(&a, &c.ns, "tcp", "172.31.0.2:9090", 1), only("itself", 1));
    // A node that has left the cluster.
    a.datapath(|d| d.set_node_addresses(&BTreeMap::from([(addr("172.31.0.1"), true)]), true).unwrap());
    server(&c.ns, "172.31.0.2:30080".parse().unwrap(), "itself");
    assert_eq!(client(&a, &c.ns, "tcp", "172.31.0.2:30080", 1), only("itself", 1));
}

#[test]
fn netns_external_addresses_are_not_taken_from_their_owners() {
    let (mut a, c, one, _two) = node("external", Balance::default());
    a.set(Frontend {
        kind: FrontendKind::ExternalIP,
        ..frontend(l4(addr("198.51.100.7"), 80, Protocol::TCP), &[(one.ip.into(), 1)])
    });
    elsewhere(&c.ns, "198.51.100.7:80");
    assert_eq!(client(&a, &c.ns, "tcp", "198.51.100.7:80", 3), only("itself", 3), "a foreign address");
    a.datapath(|d| d.set_node_addresses(&BTreeMap::from([(addr("198.51.100.7"), true)]), true).unwrap());
    assert_eq!(client(&a, &c.ns, "tcp", "198.51.100.7:80", 3), only("one", 3), "this node's address");
    a.datapath(|d| d.set_node_addresses(&BTreeMap::from([(addr("198.51.100.7"), false)]), true).unwrap());
    assert_eq!(client(&a, &c.ns, "tcp", "198.51.100.7:80", 3), only("itself", 3), "another node's");
    // A load balancer's address belongs to the service.
    a.set(Frontend {
        kind: FrontendKind::LoadBalancer,
        ..frontend(l4(addr("198.51.100.7"), 80, Protocol::TCP), &[(one.ip.into(), 1)])
    });
    assert_eq!(client(&a, &c.ns, "tcp", "198.51.100.7:80", 3), only("one", 3));
}

#[test]
fn netns_ports_of_services_cannot_be_bound() {
    let (mut a, c, one, _two) = node("bind", Balance { protect_ports: true, ..Balance::default() });
    for any in ["0.0.0.0", "::"] {
        a.set(Frontend {
            kind: FrontendKind::NodePort,
            ..frontend(l4(addr(any), 30080, Protocol::TCP), &[(one.ip.into(), 1)])
        });
    }
    a.datapath(|d| d.set_node_addresses(&BTreeMap::from([(addr("172.31.0.1"), true)]), true).unwrap());
    a.ns.run(|| ["172.31.0.1", "172.31.5.5"].iter().for_each(|a| ip(&format!("addr add {a}/32 dev lo"))));
    for target in ["0.0.0.0:30080", "[::]:30080", "127.0.0.1:30080", "172.31.0.1:30080", "[::1]:30080"] {
        assert_eq!(client(&a, &a.ns, "bind-tcp", target, 1), only("AddrInUse", 1), "{target}");
    }
    assert_eq!(client(&a, &a.ns, "bind-tcp", "0.0.0.0:30081", 1), only("bound", 1));
    assert_eq!(client(&a, &a.ns, "bind-udp", "0.0.0.0:30080", 1), only("bound", 1), "another protocol");
    assert_eq!(
        client(&a, &a.ns, "bind-tcp", "172.31.5.5:30080", 1),
        only("bound", 1),
        "not a node's address"
    );
    assert_eq!(client(&a, &c.ns, "bind-tcp", "0.0.0.0:30080", 1), only("bound", 1), "a pod's own port");
    // Where it is not wanted, what an earlier agent attached is gone.
    a.close();
    a.config.balance.protect_ports = false;
    a.open();
    assert_eq!(client(&a, &a.ns, "bind-tcp", "0.0.0.0:30080", 1), only("bound", 1));
}

#[test]
fn netns_pods_may_be_left_to_the_packet_layer() {
    let (mut a, c, one, _two) = node("hostns", Balance { host_netns_only: true, ..Balance::default() });
    a.set(service(&[(&one, 1)], Protocol::TCP));
    elsewhere(&c.ns, "10.96.0.10:80");
    assert_eq!(client(&a, &c.ns, "tcp", SERVICE, 3), only("itself", 3));
    assert_eq!(client(&a, &a.ns, "tcp", SERVICE, 3), only("one", 3));
}

/// Switches from version to version of a service, all with `one` or `two` as backends, while clients
/// connect: each connection finds one of them. Lasts until both have answered.
fn always_answered(node: &mut Node, pod: &Pod, versions: &[Frontend]) {
    let mut seen = BTreeMap::new();
    until("both have answered", || {
        let procs = node.cgroup.0.join("cgroup.procs");
        let asking = pod.ns.start(move || spawn(procs, &format!("tcp {SERVICE} 300")));
        let output = loop {
            versions.iter().for_each(|version| node.set(version.clone()));
            if let Ok(output) = asking.try_recv() {
                break output;
            }
        };
        seen.extend(answers(&output));
        assert!(seen.keys().all(|name| name == "one" || name == "two"), "{seen:?}");
        seen.len() == 2
    });
}

#[test]
fn netns_clients_inside_have_a_list_of_their_own() {
    let (mut a, c, one, two) = node("scopes", Balance::default());
    let two_lists = Frontend {
        internal: Some(service(&[(&two, 1)], Protocol::TCP).backends),
        kind: FrontendKind::LoadBalancer,
        ..service(&[(&one, 1)], Protocol::TCP)
    };
    a.set(two_lists.clone());
    assert_eq!(client(&a, &c.ns, "tcp", SERVICE, 10), only("two", 10));
    assert_eq!(frontends(&a).len(), 2);
    // The second list comes and goes while clients connect; each finds the one or the other.
    always_answered(&mut a, &c, &[Frontend { internal: None, ..two_lists.clone() }, two_lists.clone()]);
    let address = two_lists.address;
    a.set(Frontend { internal: None, ..two_lists });
    assert_eq!(client(&a, &c.ns, "tcp", SERVICE, 10), only("one", 10));
    a.datapath(move |d| d.apply_frontend(Event::Remove(address)).unwrap());
    assert_eq!((frontends(&a).len(), inspect(&a, |i| i.slots().unwrap())), (0, 0), "nothing is left behind");
}

#[test]
fn netns_tables_are_switched_whole_and_adopted() {
    let (mut a, c, one, two) = node("tables", Balance::default());
    let maglev = |backends: &[(&Pod, u16)]| Frontend {
        kind: FrontendKind::LoadBalancer,
        balancing: Arc::new(Balancing {
            algorithm: Some(Algorithm::Maglev),
            affinity_seconds: 0,
            source_ranges: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
            ..Balancing::default()
        }),
        ..service(backends, Protocol::TCP)
    };
    a.set(maglev(&[(&one, 1), (&two, 1)]));
    let versions = [
        maglev(&[(&one, 1)]),
        service(&[(&one, 1), (&two, 3)], Protocol::TCP),
        service(&[(&one, 1), (&two, 1)], Protocol::TCP),
        maglev(&[(&one, 7), (&two, 1)]),
    ];
    always_answered(&mut a, &c, &versions);

    a.set(maglev(&[(&one, 3), (&two, 1)]));
    let before = frontends(&a);
    assert_eq!((before[0].algorithm, before[0].table), (Algorithm::Maglev, 16381));
    let weights: Vec<_> = before[0].backends.iter().map(|b| b.weight).collect();
    assert!((12_285..12_287).contains(&weights[0]) && weights.iter().sum::<u32>() == 16381, "{weights:?}");
    a.close();
    assert_eq!(client(&a, &c.ns, "tcp", SERVICE, 5).values().sum::<usize>(), 5, "without the agent");
    a.open();
    a.set(maglev(&[(&one, 3), (&two, 1)]));
    a.datapath(|d| d.apply_frontend(Event::Synced).unwrap());
    assert_eq!(frontends(&a), before);
    // The source ranges were written anew; nothing of an earlier generation is left.
    let expected =
        [("cw_lb_frontends", 1), ("cw_lb_slots", 2), ("cw_lb_tables", 1), ("cw_lb_source_ranges", 2)];
    expected.iter().for_each(|(map, entries)| assert_eq!(held(&a, map), *entries, "{map}"));
    assert_eq!((held(&a, "cw_lb_backends"), held(&a, "cw_lb_matches")), (2, 0));
    // And nothing at all of a service that a listing no longer names.
    a.set(Frontend {
        balancing: Arc::new(Balancing { affinity_seconds: 60, ..Balancing::default() }),
        ..maglev(&[(&one, 3), (&two, 1)])
    });
    assert_eq!((held(&a, "cw_lb_source_ranges"), held(&a, "cw_lb_matches")), (0, 2));
    a.set(maglev(&[(&one, 3), (&two, 1)]));
    a.close();
    a.open();
    a.datapath(|d| {
        d.apply_frontend(Event::Reset).unwrap();
        d.apply_frontend(Event::Synced).unwrap();
    });
    for (map, _) in expected {
        assert_eq!(held(&a, map), 0, "{map}");
    }
    assert_eq!((held(&a, "cw_lb_backends"), held(&a, "cw_lb_matches")), (0, 0));
}

/// A client that keeps its connection, and what it has written down.
struct Holder {
    log: PathBuf,
    running: Option<std::sync::mpsc::Receiver<std::process::Output>>,
}

impl Holder {
    fn start(node: &Node, pod: &Pod, kind: &str, dir: &tempfile::TempDir) -> Self {
        let log = dir.path().join(kind);
        let (procs, wish) =
            (node.cgroup.0.join("cgroup.procs"), format!("{kind} {SERVICE} {}", log.display()));
        let running = pod.ns.start(move || spawn(procs, &wish));
        Self { log, running: Some(running) }
    }

    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn end(mut self) -> Vec<String> {
        std::fs::write(self.log.with_extension("end"), "").unwrap();
        let output = self.running.take().unwrap().recv().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.lines()
    }
}

#[test]
fn netns_connected_sockets_leave_a_backend_that_is_gone() {
    for terminate_tcp in [false, true] {
        let (mut a, c, one, two) = node("gone", Balance { terminate_tcp, ..Balance::default() });
        // Servers of long connections, in the place of the usual ones.
        let (three, four) = (a.pod(8, 65_603), a.pod(9, 65_604));
        talker(&three.ns, (three.ip, PORT).into(), "three");
        talker(&four.ns, (four.ip, PORT).into(), "four");
        let set = |a: &mut Node, udp: &[(&Pod, u16)], tcp: &[(&Pod, u16)]| {
            a.set(service(udp, Protocol::UDP));
            a.set(service(tcp, Protocol::TCP));
            a.datapath(|d| d.end_stale_sockets())
        };
        set(&mut a, &[(&one, 1)], &[(&three, 1)]);
        let dir = tempfile::tempdir().unwrap();
        let (udp, tcp) = (Holder::start(&a, &c, "hold-udp", &dir), Holder::start(&a, &two, "hold-tcp", &dir));
        until("both are connected", || udp.lines() == ["one"] && tcp.lines() == ["three"]);
        // A backend without a weight keeps what it has.
        assert_eq!(set(&mut a, &[(&one, 0), (&two, 1)], &[(&three, 0), (&four, 1)]), 0);
        // One that is gone does not.
        let ended = set(&mut a, &[(&two, 1)], &[(&four, 1)]);
        assert_eq!(ended, if terminate_tcp { 2 } else { 1 });
        until("the UDP client has another", || udp.lines().last().is_some_and(|line| line == "two"));
        assert_eq!(udp.end(), ["one", "ended", "two"]);
        if terminate_tcp {
            until("the TCP client has another", || tcp.lines().last().is_some_and(|line| line == "four"));
            assert_eq!(tcp.end(), ["three", "ended", "four"]);
        } else {
            assert_eq!(tcp.end(), ["three"]);
        }
        assert_eq!(a.datapath(|d| d.end_stale_sockets()), 0);
    }
}

#[test]
fn netns_closed_sockets_leave_no_way_back() {
    let (mut a, c, one, _two) = node("release", Balance::default());
    for protocol in [Protocol::TCP, Protocol::UDP] {
        a.set(service(&[(&one, 1)], protocol));
    }
    let ways = |a: &Node| held(a, "cw_lb_reverse");
    for kind in ["tcp", "udp-connected"] {
        assert_eq!(client(&a, &c.ns, kind, SERVICE, 20), only("one", 20));
        until("all are gone", || ways(&a) == 0);
    }
    // Without a peer of its own a socket does not know whom it has talked to.
    client(&a, &c.ns, "udp", SERVICE, 2);
    assert_eq!(ways(&a), 2);
}
