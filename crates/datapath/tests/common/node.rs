//! Nodes out of network namespaces: nothing touches the host's own network, and everything goes when the threads that hold
//! the namespaces end, also after a panic.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;

use causeway_datapath::{
    AttachMode, Balance, Config, Datapath, Endpoint, EndpointSpec, IpPair, PodNetwork, RemoteNodes, Routing,
    Sizes,
};
use causeway_model::{Event, IpEntry, NumericIdentity, PodRef};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Maps that are quickly made.
const SMALL: Sizes =
    Sizes { services: None, sockets: None, tcp_flows: Some(4096), other_flows: Some(4096), nat: Some(4096) };

type Job = Box<dyn FnOnce() + Send>;

/// A thread in namespaces of its own.
pub struct Ns {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    tid: i32,
}

impl Ns {
    /// A network namespace, with a mount namespace that has its own bpffs where `bpffs` is given.
    pub fn new(bpffs: Option<PathBuf>) -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, tid) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("namespaces need root");
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            if let Some(dir) = bpffs {
                std::fs::create_dir_all(&dir).unwrap();
                mount(Some("bpf"), &dir, Some("bpf"), MsFlags::empty(), none).unwrap();
            }
            ip("link set lo up");
            ready.send(nix::unistd::gettid().as_raw()).unwrap();
            queue.into_iter().for_each(|job| job());
        });
        let tid = tid.recv().expect("the namespace thread starts");
        Self { jobs: Some(jobs), thread: Some(thread), tid }
    }

    /// Runs something inside and waits for it; a panic inside is a panic here.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.start(work).recv().expect("the work inside the namespace panicked")
    }

    /// Starts something inside; the receiver yields its result.
    pub fn start<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
        let (done, result) = mpsc::channel();
        let job: Job = Box::new(move || {
            let _ = done.send(work());
        });
        self.jobs.as_ref().unwrap().send(job).expect("the namespace thread lives");
        result
    }

    /// A path that names the network namespace.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/task/{}/ns/net", std::process::id(), self.tid).into()
    }

    pub fn tid(&self) -> i32 {
        self.tid
    }
}

impl Drop for Ns {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs `ip …` in the calling thread's namespace.
pub fn ip(args: &str) {
    let output = Command::new("ip").args(args.split_whitespace()).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What the names of the tests' cgroups begin with; the process id follows.
const CGROUPS: &str = "causeway-test-";

/// A cgroup that is removed at the end.
pub struct Cgroup(pub PathBuf);

impl Cgroup {
    pub fn new(name: &str) -> Self {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        let root = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|fields| fields[2] == "cgroup2")
            .map(|fields| fields[1].to_owned())
            .expect("cgroup v2 is mounted");
        Self::sweep(Path::new(&root));
        let path = Path::new(&root).join(format!("{CGROUPS}{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Removes those of processes that were killed before they could.
    fn sweep(root: &Path) {
        for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name.strip_prefix(CGROUPS).and_then(|rest| rest.split('-').next());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                let _ = std::fs::write(entry.path().join("cgroup.kill"), "1");
                let _ = std::fs::remove_dir(entry.path());
            }
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("cgroup.kill"), "1");
        for _ in 0..200 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// A node with a real datapath.
pub struct Node {
    pub ns: Ns,
    pub ip: Ipv4Addr,
    pub ip6: Ipv6Addr,
    pub config: Config,
    pub cgroup: Cgroup,
    dir: tempfile::TempDir,
    datapath: Option<Datapath>,
    number: u8,
}

/// A pod of a node.
pub struct Pod {
    pub ns: Ns,
    /// Those it has if the node has both families.
    pub ip: Ipv4Addr,
    pub ip6: Ipv6Addr,
    pub identity: u32,
    pub endpoint: Endpoint,
}

impl Pod {
    /// Its address of a family.
    pub fn address(&self, v6: bool) -> IpAddr {
        if v6 { self.ip6.into() } else { self.ip.into() }
    }
}

impl Node {
    /// Node `n` of a test: underlay 172.31.0.n and fd31::n, pods 10.n.0.0/24 and fd00:n::/64.
    pub fn new(test: &str, n: u8, attach: Option<AttachMode>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bpffs = dir.path().join("bpf");
        let ns = Ns::new(Some(bpffs.clone()));
        let ip = Ipv4Addr::new(172, 31, 0, n);
        let cgroup = Cgroup::new(&format!("{test}-{n}"));
        let config = Config {
            bpffs,
            cgroup: cgroup.0.clone(),
            state_dir: dir.path().join("state"),
            node_ip: ip,
            routing: Routing::Tunnel,
            native_cidrs: vec![],
            // Every node is of a cluster of its own number.
            identities: u32::from(n) << 16..=u32::from(n) << 16 | 0xffff,
            networks: vec![
                PodNetwork {
                    cidr: format!("10.{n}.0.0/24").parse().unwrap(),
                    internal_ip: Ipv4Addr::new(10, n, 0, 1).into(),
                    masquerade: false,
                },
                PodNetwork {
                    cidr: format!("fd00:{n}::/64").parse().unwrap(),
                    internal_ip: format!("fd00:{n}::1").parse().unwrap(),
                    masquerade: false,
                },
            ],
            underlay_mtu: 1500,
            attach,
            balance: Balance { sizes: SMALL, ..Balance::default() },
        };
        let ip6 = Ipv6Addr::new(0xfd31, 0, 0, 0, 0, 0, 0, n.into());
        Self { ns, ip, ip6, config, cgroup, dir, datapath: None, number: n }
    }

    /// Opens the datapath (again), as an agent that starts does.
    pub fn open(&mut self) {
        let config = self.config.clone();
        let opened = self.ns.run(move || Datapath::open(config).unwrap_or_else(|e| panic!("{}", chain(&e))));
        self.datapath = Some(opened);
    }

    /// Ends the agent: nothing in the kernel changes.
    pub fn close(&mut self) {
        self.datapath = None;
    }

    /// Uses the datapath inside the node.
    pub fn datapath<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Datapath) -> T + Send + 'static,
    ) -> T {
        let mut datapath = self.datapath.take().expect("the datapath is open");
        let (result, back) = self.ns.run(move || {
            let result = work(&mut datapath);
            (result, datapath)
        });
        self.datapath = Some(back);
        result
    }

    /// Connects pod number `n` with an identity.
    pub fn pod(&mut self, n: u8, identity: u32) -> Pod {
        let ns = Ns::new(None);
        let ip = Ipv4Addr::new(10, self.number, 0, n);
        let ip6: Ipv6Addr = format!("fd00:{}::{n:x}", self.number).parse().unwrap();
        let families = |ip: &IpAddr| self.config.networks.iter().any(|network| network.cidr.contains(ip));
        let ips: IpPair = [ip.into(), ip6.into()].into_iter().filter(families).collect();
        let spec = EndpointSpec {
            container_id: format!("pod{n}"),
            ifname: "eth0".into(),
            netns: ns.path(),
            ips,
            pod: PodRef { namespace: "default".into(), name: format!("pod{n}") },
            pod_uid: format!("uid-{n}"),
        };
        let endpoint = self.datapath(move |d| {
            let endpoint = d.add_endpoint(&spec).unwrap_or_else(|e| panic!("{}", chain(&e)));
            d.set_identity(&endpoint.container_id, NumericIdentity(identity)).unwrap();
            endpoint
        });
        Pod { ns, ip, ip6, identity, endpoint }
    }

    /// Tells this node about pods of others, and about other nodes with their pod CIDRs.
    pub fn learn(&mut self, others: &[(&Pod, Ipv4Addr)], nodes: &[&Node]) {
        let networks =
            || nodes.iter().flat_map(|node| node.config.networks.iter().map(move |n| (n, node.ip)));
        let address = |node: &Node, v6: bool| if v6 { node.ip6.into() } else { IpAddr::from(node.ip) };
        let cidrs = nodes.iter().flat_map(|node| {
            node.config.networks.iter().map(move |n| (n.cidr, Some(address(node, n.cidr.addr().is_ipv6()))))
        });
        let addresses = nodes.iter().flat_map(|node| [address(node, false), address(node, true)]).collect();
        let remote = RemoteNodes { pod_cidrs: cidrs.collect(), addresses };
        let entry = |prefix, identity, host: Ipv4Addr| IpEntry {
            prefix,
            identity,
            host_ip: Some(host.into()),
            key_index: 0,
            pod: None,
        };
        let fallback = networks().map(|(network, host)| entry(network.cidr, NumericIdentity::WORLD, host));
        let pods = others.iter().flat_map(|(pod, host)| {
            let of_it = move |ip: IpAddr| entry(ip.into(), NumericIdentity(pod.identity), *host);
            pod.endpoint.ips.iter().map(of_it)
        });
        let entries: Vec<IpEntry> = pods.chain(fallback).collect();
        self.datapath(move |d| {
            let listed = entries.into_iter().map(Event::Upsert);
            d.apply_addresses([Event::Reset].into_iter().chain(listed).chain([Event::Synced])).unwrap();
            d.set_remote_nodes(remote, true).unwrap();
        });
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

/// Joins two nodes by a veth pair that stands for the VPC.
pub fn underlay(a: &Node, b: &Node) {
    let (tid, a_ip, b_ip) = (b.ns.tid(), a.ip, b.ip);
    let (a_ip6, b_ip6) = (a.ip6, b.ip6);
    a.ns.run(move || {
        ip("link add eth0 type veth peer name peer0");
        ip(&format!("link set peer0 netns {tid}"));
        ip(&format!("addr add {a_ip}/24 dev eth0"));
        ip(&format!("addr add {a_ip6}/64 dev eth0 nodad"));
        ip("link set eth0 up");
    });
    b.ns.run(move || {
        ip("link set peer0 name eth0");
        ip(&format!("addr add {b_ip}/24 dev eth0"));
        ip(&format!("addr add {b_ip6}/64 dev eth0 nodad"));
        ip("link set eth0 up");
    });
}
