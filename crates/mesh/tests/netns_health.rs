//! The sockets of node-to-node health, over a real link between two network namespaces of the test's own: they go with
//! the threads that hold them, also after a panic. Needs root.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use causeway_mesh::health::{
    Input, Kind, Monitor, NodeHealth, NodeStatus, Options, Outputs, Prober, Reachability, Report, Target,
    Way, responder,
};
use causeway_model::{ClusterName, Event, NodeKey};
use nix::sched::{CloneFlags, unshare};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Nobody waits so long unless something is broken.
const PATIENCE: Duration = Duration::from_secs(150);
const PORT: u16 = 4240;

/// Runs `ip …` in the calling thread's namespace.
fn ip(args: &str) {
    let output = Command::new("ip").args(args.split_whitespace()).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A node: a thread in a network namespace of its own.
struct Machine {
    tid: i32,
    end: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Machine {
    /// Starts `work` once `connect` has been called with its thread.
    fn start<W: Future<Output = ()>>(
        work: impl FnOnce(CancellationToken) -> W + Send + 'static,
    ) -> (Self, std_mpsc::Sender<()>) {
        let (tell, tid) = std_mpsc::channel();
        let (connected, wait) = std_mpsc::channel();
        let end = CancellationToken::new();
        let token = end.clone();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("namespaces need root");
            ip("link set lo up");
            tell.send(nix::unistd::gettid().as_raw()).unwrap();
            if wait.recv().is_ok() {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(work(token));
            }
        });
        (Self { tid: tid.recv().unwrap(), end, thread: Some(thread) }, connected)
    }

    /// Runs `ip …` inside.
    fn ip(&self, args: &str) {
        let net = format!("--net=/proc/{}/task/{}/ns/net", std::process::id(), self.tid);
        let output =
            Command::new("nsenter").arg(net).arg("ip").args(args.split_whitespace()).output().unwrap();
        assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Pair {
    /// The prober.
    here: Machine,
    /// Who is probed.
    there: Machine,
    changes: mpsc::UnboundedReceiver<Vec<Reachability>>,
    report: watch::Receiver<Arc<Report>>,
    measured: std_mpsc::Receiver<(Way, Kind, Duration)>,
}

/// `underlay`, `internal` and `health` are the addresses of the node there; the first is on the link, the others behind it.
fn pair(underlay: &'static str, inside: [&'static str; 2], link: &str, agent: bool) -> Pair {
    let v6 = underlay.contains(':');
    let bits = if v6 { 128 } else { 32 };
    let addresses = [underlay, inside[0], inside[1]].map(|ip| ip.parse::<IpAddr>().unwrap());
    let (there, there_connected) = Machine::start(move |end| async move {
        if agent {
            let (faults, _) = watch::channel(responder::Faults::new());
            responder::run(addresses.map(|ip| SocketAddr::new(ip, PORT)).to_vec(), faults, end).await;
        } else {
            end.cancelled().await;
        }
    });
    let (inputs, told) = mpsc::unbounded_channel();
    let (tell, changes) = mpsc::unbounded_channel();
    let (reports, report) = watch::channel(Arc::default());
    let (latencies, measured) = std_mpsc::channel();
    let cluster = ClusterName::new("cls-b").unwrap();
    let target = Target {
        node: NodeKey { cluster: cluster.clone(), name: "there".into() },
        internal: Some(addresses[1]),
        health: Some(addresses[2]),
        underlay: Some(addresses[0]),
        hosts: [addresses[0]].into(),
    };
    inputs.send(Input::Node(cluster, Event::Upsert(target))).unwrap();
    let (here, here_connected) = Machine::start(move |end| async move {
        let own = NodeKey { cluster: ClusterName::new("cls-a").unwrap(), name: "here".into() };
        let monitor = Monitor::new(own, Options::default(), 1, Instant::now());
        let outputs = Outputs {
            changes: tell,
            report: reports,
            measured: Box::new(move |way, kind, took| latencies.send((way, kind, took)).unwrap_or_default()),
            remember: Box::new(|_| {}),
        };
        // The prober ends with the last who could tell it of nodes.
        let _inputs = inputs;
        Prober::open(monitor, PORT, 7).run(told, outputs, end).await;
    });
    let family = if v6 { "-6 " } else { "" };
    let nodad = if v6 { " nodad" } else { "" };
    here.ip(&format!("link add eth0 type veth peer name eth0 netns {}", there.tid));
    for (machine, last) in [(&here, "1"), (&there, "2")] {
        let prefix = if v6 { 64 } else { 24 };
        machine.ip(&format!("addr add {link}{last}/{prefix} dev eth0{nodad}"));
        machine.ip("link set eth0 up");
    }
    for ip in inside {
        there.ip(&format!("addr add {ip}/{bits} dev lo{nodad}"));
        here.ip(&format!("{family}route add {ip}/{bits} via {link}2"));
    }
    here_connected.send(()).unwrap();
    there_connected.send(()).unwrap();
    Pair { here, there, changes, report, measured }
}

impl Pair {
    /// Waits until what is known of the node there is so.
    async fn until(&mut self, what: &str, so: impl Fn(&NodeHealth) -> bool) {
        let seen = |report: &Arc<Report>| report.nodes.first().is_some_and(&so);
        if timeout(PATIENCE, self.report.wait_for(seen)).await.is_ok_and(|seen| seen.is_ok()) {
            return;
        }
        panic!("still waiting for {what}: {:#?}", self.report.borrow());
    }

    async fn status(&mut self, status: NodeStatus) {
        self.until(&format!("{status:?}"), |node| node.status == status).await;
    }

    async fn change(&mut self) -> Reachability {
        let mut changes = timeout(PATIENCE, self.changes.recv()).await.expect("a change").unwrap();
        assert_eq!(changes.len(), 1);
        changes.remove(0)
    }

    /// Power off and on again.
    async fn falls_and_returns(&mut self) {
        self.status(NodeStatus::Reachable).await;
        for _ in 0..2 {
            self.there.ip("link set eth0 down");
            let fallen = self.change().await;
            assert_eq!((fallen.node.name.as_str(), fallen.reachable), ("there", false));
            self.status(NodeStatus::Unreachable).await;
            self.there.ip("link set eth0 up");
            assert!(self.change().await.reachable);
            self.status(NodeStatus::Reachable).await;
        }
        assert!(self.changes.try_recv().is_err(), "nothing else has changed");
    }
}

#[tokio::test]
async fn netns_a_node_answers_falls_and_returns() {
    let mut pair = pair("172.31.9.2", ["10.9.0.1", "10.9.0.2"], "172.31.9.", true);
    pair.falls_and_returns().await;
    // Both kinds, both ways, sooner or later.
    let all = |node: &NodeHealth| {
        let ways = [&node.tunnel_icmp, &node.tunnel_http, &node.underlay_icmp, &node.underlay_http];
        ways.into_iter().all(|way| way.answered == Some(true) && way.latency_ms.is_some())
    };
    pair.until("all four ways", all).await;
    let measured: Vec<_> = pair.measured.try_iter().collect();
    assert!(measured.iter().all(|(.., took)| *took < Duration::from_secs(2)), "{measured:?}");
    assert!(measured.iter().any(|(way, kind, _)| (*way, *kind) == (Way::Tunnel, Kind::Http)), "{measured:?}");
    drop(pair.here);
}

#[tokio::test]
async fn netns_ipv6() {
    // The kernel forgets IPv6 routes and addresses of a link that goes down; here it is cut from the other end.
    let mut pair = pair("fd00:9::2", ["fd00:a::1", "fd00:a::2"], "fd00:9::", true);
    pair.status(NodeStatus::Reachable).await;
    pair.there.ip("addr del fd00:a::1/128 dev lo");
    pair.there.ip("addr del fd00:a::2/128 dev lo");
    // It still answers outside the tunnel; with nobody else to ask, the tunnel may be ours: held.
    pair.until("it to be held", |node| node.held).await;
    pair.there.ip("addr add fd00:a::2/128 dev lo nodad");
    pair.until("HTTP to be enough", |node| !node.held).await;
    pair.status(NodeStatus::Reachable).await;
    assert!(pair.changes.try_recv().is_err());
}

#[tokio::test]
async fn netns_a_node_without_an_agent_or_without_icmp() {
    let mut bare = pair("172.31.8.2", ["10.8.0.1", "10.8.0.2"], "172.31.8.", false);
    bare.status(NodeStatus::Reachable).await;
    let refused =
        |node: &NodeHealth| node.tunnel_http.fault.as_deref().is_some_and(|fault| fault.contains("refused"));
    bare.falls_and_returns().await;
    bare.until("HTTP to be refused", refused).await;
    drop(bare);

    let mut mute = pair("172.31.7.2", ["10.7.0.1", "10.7.0.2"], "172.31.7.", true);
    let silence = "echo 1 >/proc/sys/net/ipv4/icmp_echo_ignore_all";
    let net = format!("--net=/proc/{}/task/{}/ns/net", std::process::id(), mute.there.tid);
    let inside = Command::new("nsenter").args([&net, "sh", "-c", silence]).status().unwrap();
    assert!(inside.success());
    mute.until("HTTP alone", |node| {
        node.status == NodeStatus::Reachable && node.tunnel_icmp.answered == Some(false)
    })
    .await;
    mute.falls_and_returns().await;
}
