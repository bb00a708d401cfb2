//! A network that nodes and clients outside the cluster share, and what services in it look like.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use causeway_datapath::Datapath;
use causeway_model::lb::{Backend, Frontend, FrontendKind, L4Addr};
use causeway_model::{Event, Protocol, ServiceKey};

use super::testrun::attach_peer;
use super::{Node, Ns, Pod, ip};

pub const DEADLINE: Duration = Duration::from_secs(30);

/// A switch.
pub struct Vpc {
    ns: Ns,
    ports: usize,
    /// On the ports, if there are some.
    programs: Vec<aya::Ebpf>,
}

/// Somebody outside the cluster.
pub struct Client {
    pub ns: Ns,
    pub ip: Ipv4Addr,
    pub ip6: Ipv6Addr,
}

impl Vpc {
    pub fn new() -> Self {
        let ns = Ns::new(None);
        ns.run(|| {
            ip("link add br0 type bridge");
            ip("link set br0 up");
        });
        Self { ns, ports: 0, programs: vec![] }
    }

    /// Gives a namespace an `eth0` here.
    pub fn connect(&mut self, ns: &Ns, v4: Ipv4Addr, v6: Ipv6Addr) {
        self.ports += 1;
        let (port, tid) = (format!("port{}", self.ports), ns.tid());
        self.ns.run(move || {
            ip(&format!("link add {port} type veth peer name eth0 netns {tid}"));
            ip(&format!("link set {port} master br0"));
            ip(&format!("link set {port} up"));
        });
        ns.run(move || {
            ip(&format!("addr add {v4}/24 dev eth0"));
            ip(&format!("addr add {v6}/64 dev eth0 nodad"));
            ip("link set eth0 up");
        });
    }

    /// Makes the switch one that takes frames of XDP, which a veth does only with a program of its own, and
    /// that gives whole ones: a veth leaves checksums to its peer.
    pub fn with_xdp(&mut self) {
        let ports = self.ports;
        self.programs = self.ns.run(move || {
            let names = (1..=ports).map(|port| format!("port{port}"));
            let attach = |name: String| {
                offload(&name, STXCSUM, false);
                attach_peer("accept", &name)
            };
            names.map(attach).collect()
        });
    }

    pub fn node(&mut self, node: &Node) {
        self.connect(&node.ns, node.ip, node.ip6);
    }

    /// Client number `n`: 172.31.0.n and fd31::n.
    pub fn client(&mut self, n: u8) -> Client {
        let ns = Ns::new(None);
        let (ip, ip6) = (Ipv4Addr::new(172, 31, 0, n), Ipv6Addr::new(0xfd31, 0, 0, 0, 0, 0, 0, n.into()));
        self.connect(&ns, ip, ip6);
        Client { ns, ip, ip6 }
    }
}

/// Commands of ethtool: the computation of checksums by the device, and generic receive offload, with which a
/// veth takes frames that are redirected to it.
pub const STXCSUM: u32 = 0x17;
pub const SGRO: u32 = 0x2c;

/// Turns an offload of a link on or off.
pub fn offload(interface: &str, command: u32, on: bool) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let mut wish = [command, u32::from(on)];
    // SAFETY: all of it may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = wish.as_mut_ptr().cast();
    // SAFETY: the request names an interface and points to the two words that these commands take.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    assert_eq!(done, 0, "{interface} {wish:?}: {}", std::io::Error::last_os_error());
}

impl Client {
    pub fn address(&self, v6: bool) -> IpAddr {
        if v6 { self.ip6.into() } else { self.ip.into() }
    }

    /// Sends what is for `to` by a node.
    pub fn route(&self, to: IpAddr, node: &Node) {
        let via: IpAddr = if to.is_ipv6() { node.ip6.into() } else { node.ip.into() };
        self.ns.run(move || ip(&format!("route add {to} via {via}")));
    }
}

/// The node's address on the underlay of a family.
pub fn address(node: &Node, v6: bool) -> IpAddr {
    if v6 { node.ip6.into() } else { node.ip.into() }
}

/// Answers every connection and datagram with its name and who it believes to talk to, until the
/// test ends.
pub fn server(ns: &Ns, ips: &[IpAddr], port: u16, name: &'static str) {
    for ip in ips.iter().copied() {
        ns.run(move || {
            let listener = TcpListener::bind((ip, port)).unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let Ok(mut stream) = stream else { continue };
                    std::thread::spawn(move || {
                        let peer = stream.peer_addr().unwrap().ip();
                        let _ = stream.write_all(format!("{name} {peer}\n").as_bytes());
                        // And back whatever comes, until the client has enough.
                        let mut data = [0; 65536];
                        while let Ok(n @ 1..) = stream.read(&mut data) {
                            if stream.write_all(&data[..n]).is_err() {
                                return;
                            }
                        }
                    });
                }
            });
            let socket = UdpSocket::bind((ip, port)).unwrap();
            std::thread::spawn(move || {
                let mut data = [0; 65536];
                while let Ok((n, from)) = socket.recv_from(&mut data) {
                    let mut answer = format!("{name} {}\n", from.ip()).into_bytes();
                    answer.extend(&data[..n]);
                    let _ = socket.send_to(&answer, from);
                }
            });
        });
    }
}

pub fn serve_pod(pod: &Pod, name: &'static str) {
    let ips: Vec<IpAddr> = pod.endpoint.ips.iter().collect();
    server(&pod.ns, &ips, 8080, name);
}

/// What a server says to a new connection, or why there is none.
pub fn tcp(to: SocketAddr) -> String {
    let mut stream = match TcpStream::connect_timeout(&to, DEADLINE) {
        Ok(stream) => stream,
        Err(error) => return format!("{:?}", error.kind()),
    };
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    line(&mut stream)
}

pub fn line(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).expect("the server answers") == 1 && byte[0] != b'\n' {
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

/// What a server says to a datagram of a new socket, or why it cannot. Sent again when nothing comes:
/// a first datagram may be lost while a neighbour is looked for.
pub fn udp(to: SocketAddr) -> String {
    udp_with(to, b"?").map_or_else(
        |error| format!("{:?}", error.kind()),
        |answer| String::from_utf8_lossy(&answer).lines().next().unwrap().to_owned(),
    )
}

pub fn udp_with(to: SocketAddr, data: &[u8]) -> std::io::Result<Vec<u8>> {
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let (start, mut answer) = (Instant::now(), vec![0; 65536]);
    loop {
        socket.send(data)?;
        match socket.recv(&mut answer) {
            Ok(n) => {
                answer.truncate(n);
                return Ok(answer);
            }
            Err(error) if start.elapsed() > DEADLINE || error.kind() != std::io::ErrorKind::WouldBlock => {
                return Err(error);
            }
            Err(_) => {}
        }
    }
}

/// How often each answer came.
pub fn ask(ns: &Ns, protocol: Protocol, to: SocketAddr, count: usize) -> BTreeMap<String, usize> {
    ns.run(move || {
        let mut answers = BTreeMap::new();
        for _ in 0..count {
            let answer = if protocol == Protocol::TCP { tcp(to) } else { udp(to) };
            *answers.entry(answer).or_insert(0) += 1;
        }
        answers
    })
}

/// A client outside is answered by the local backend, which sees the client, and by the remote one, which sees
/// `node`; nobody else answers, and everybody is answered.
pub fn both_answer(net: &Pair, v6: bool, protocol: Protocol, to: SocketAddr, count: usize, node: IpAddr) {
    let answers = ask(&net.client.ns, protocol, to, count);
    let expected = [format!("local {}", net.client.address(v6)), format!("remote {node}")];
    assert_eq!(answers.keys().cloned().collect::<Vec<_>>(), expected, "{protocol} {answers:?}");
    assert_eq!(answers.values().sum::<usize>(), count, "{protocol} {answers:?}");
}

/// A frontend of TCP and UDP.
pub fn frontends(kind: FrontendKind, ip: IpAddr, port: u16, backends: &[SocketAddr]) -> Vec<Frontend> {
    [Protocol::TCP, Protocol::UDP]
        .into_iter()
        .map(|protocol| {
            let l4 = |a: SocketAddr| L4Addr { ip: a.ip(), port: a.port(), protocol };
            let backends: Vec<_> = backends.iter().map(|a| Backend::new(l4(*a), None)).collect();
            let service = ServiceKey { namespace: "shop".into(), name: "web".into() };
            Frontend { kind, ..Frontend::new(L4Addr { ip, port, protocol }, service, backends) }
        })
        .collect()
}

/// The NodePort 30080 of a family.
pub fn node_port(v6: bool, backends: &[SocketAddr]) -> Vec<Frontend> {
    let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    frontends(FrontendKind::NodePort, any, 30080, backends)
}

pub fn apply(node: &mut Node, frontends: Vec<Frontend>) {
    node.datapath(move |d| {
        frontends.into_iter().for_each(|frontend| d.apply_frontend(Event::Upsert(frontend)).unwrap());
    });
}

/// Tells a node which addresses are its own and which its cluster's others have.
pub fn cluster(node: &mut Node, others: &[&Node]) {
    let mut addresses: BTreeMap<IpAddr, bool> =
        others.iter().flat_map(|other| [other.ip.into(), other.ip6.into()]).map(|ip| (ip, false)).collect();
    addresses.extend([IpAddr::from(node.ip), node.ip6.into()].map(|ip| (ip, true)));
    addresses.extend(node.config.networks.iter().map(|network| (network.internal_ip, true)));
    node.datapath(move |d| d.set_node_addresses(&addresses, true).unwrap());
}

/// Packets that were counted under a reason.
pub fn counted(datapath: &Datapath, reason: &str) -> u64 {
    datapath.counters().unwrap().iter().filter(|c| c.reason == reason).map(|c| c.packets).sum()
}

/// Waits for something to become true.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A stream there and back that is far longer than all windows.
pub fn stream(to: SocketAddr) {
    let mut stream = TcpStream::connect_timeout(&to, DEADLINE).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    line(&mut stream);
    let data: Vec<u8> = (0..8 << 20).map(|n: u32| (n ^ (n >> 8)) as u8).collect();
    let mut reader = stream.try_clone().unwrap();
    let length = data.len();
    let back = std::thread::spawn(move || {
        let mut all = vec![0; length];
        reader.read_exact(&mut all).map(|()| all)
    });
    stream.write_all(&data).unwrap();
    assert!(back.join().unwrap().unwrap() == data, "what comes back is what was sent");
}

/// A socket that sees every frame of the calling thread's namespace.
pub fn tap() -> OwnedFd {
    use nix::sys::socket::*;
    let all = SockProtocol::EthAll;
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), all).unwrap();
    setsockopt(&socket, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(1, 0)).unwrap();
    socket
}

/// Two nodes of a cluster with a pod that serves on each, and a client outside.
pub struct Pair {
    pub a: Node,
    pub b: Node,
    pub local: Pod,
    pub remote: Pod,
    pub client: Client,
    pub vpc: Vpc,
}

impl Pair {
    pub fn new(test: &str) -> Self {
        Self::with(test, |_| {})
    }

    /// `change` may change the configuration of both nodes.
    pub fn with(test: &str, change: impl Fn(&mut Node)) -> Self {
        let mut vpc = Vpc::new();
        let (mut a, mut b) = (Node::new(test, 1, None), Node::new(test, 2, None));
        for node in [&mut a, &mut b] {
            vpc.node(node);
            change(node);
            node.open();
        }
        let client = vpc.client(100);
        let (local, remote) = (a.pod(5, 65_600), b.pod(5, 131_100));
        a.learn(&[(&remote, b.ip)], &[&b]);
        b.learn(&[(&local, a.ip)], &[&a]);
        cluster(&mut a, &[&b]);
        cluster(&mut b, &[&a]);
        serve_pod(&local, "local");
        serve_pod(&remote, "remote");
        Self { a, b, local, remote, client, vpc }
    }

    /// Both backends of a family.
    pub fn backends(&self, v6: bool) -> Vec<SocketAddr> {
        [&self.local, &self.remote].map(|pod| (pod.address(v6), 8080).into()).to_vec()
    }
}

/// Waits for the sender to say something.
pub fn wait<T>(receiver: &mpsc::Receiver<T>) -> T {
    receiver.recv_timeout(DEADLINE).expect("it comes in time")
}
