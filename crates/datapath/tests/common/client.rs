//! Clients and servers of services: clients are processes of their own in the node's cgroup, so that
//! the socket programs see them.
//!
//! A test binary that uses them has a test `client_process` that calls [`process`]: it is what the
//! processes run.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use causeway_model::lb::{Backend, Frontend, L4Addr};
use causeway_model::{Event, Protocol, ServiceKey};

use super::{Node, Ns};

const DEADLINE: Duration = Duration::from_secs(60);
/// The port servers listen on.
pub const PORT: u16 = 8080;

/// What a client process does, chosen by the environment; nothing in the test process itself.
pub fn process() {
    let Ok(wish) = std::env::var("CAUSEWAY_TEST_CLIENT") else { return };
    let words: Vec<&str> = wish.split(' ').collect();
    let [kind, target, count] = words[..] else { panic!("unknown wish {wish}") };
    let target: SocketAddr = target.parse().unwrap();
    if kind == "hold-udp" || kind == "hold-tcp" {
        return hold(kind, target, &PathBuf::from(count));
    }
    for _ in 0..count.parse().unwrap() {
        let answer = match kind {
            "tcp" => tcp(target),
            "udp" => udp_unconnected(target),
            "udp-connected" => udp_connected(target),
            "bind-tcp" => {
                TcpListener::bind(target).map_or_else(|e| format!("{:?}", e.kind()), |_| "bound".into())
            }
            "bind-udp" => {
                UdpSocket::bind(target).map_or_else(|e| format!("{:?}", e.kind()), |_| "bound".into())
            }
            _ => panic!("unknown wish {wish}"),
        };
        println!("answer {answer}");
    }
}

fn tcp(service: SocketAddr) -> String {
    let mut stream = match TcpStream::connect_timeout(&service, DEADLINE) {
        Ok(stream) => stream,
        Err(error) => return format!("{:?}", error.kind()),
    };
    assert_eq!(stream.peer_addr().unwrap(), service, "getpeername shows the service");
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn udp_for(service: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(if service.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn udp_unconnected(service: SocketAddr) -> String {
    let socket = udp_for(service);
    if let Err(error) = socket.send_to(b"?", service) {
        return format!("{:?}", error.kind());
    }
    let mut answer = [0; 64];
    let (n, from) = socket.recv_from(&mut answer).unwrap();
    assert_eq!(from, service, "recvmsg shows the service");
    String::from_utf8_lossy(&answer[..n]).into_owned()
}

fn udp_connected(service: SocketAddr) -> String {
    let socket = udp_for(service);
    if let Err(error) = socket.connect(service) {
        return format!("{:?}", error.kind());
    }
    assert_eq!(socket.peer_addr().unwrap(), service, "getpeername shows the service");
    socket.send(b"?").unwrap();
    let mut answer = [0; 64];
    let n = socket.recv(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..n]).into_owned()
}

/// Keeps one connection and asks over it again and again; every error is an answer, and after it the
/// client connects anew, as programs do. Each answer that differs from the one before is a line of the
/// file `log`. Ends when a line is there that says so.
fn hold(kind: &str, service: SocketAddr, log: &PathBuf) {
    let mut last = String::new();
    let mut connection: Option<Held> = None;
    let start = Instant::now();
    while start.elapsed() < 2 * DEADLINE {
        let answer = match connection.as_mut() {
            None => match Held::connect(kind, service) {
                Ok(connected) => {
                    connection = Some(connected);
                    continue;
                }
                Err(error) => format!("{:?}", error.kind()),
            },
            Some(held) => held.ask().unwrap_or_else(|error| {
                connection = None;
                match error.raw_os_error() {
                    // The second is what a UDP socket answers that has no peer any more.
                    Some(libc::ECONNABORTED | libc::EDESTADDRREQ) => "ended".into(),
                    _ => format!("{:?}", error.kind()),
                }
            }),
        };
        if answer != last {
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(log).unwrap();
            writeln!(file, "{answer}").unwrap();
            last = answer;
        }
        if log.with_extension("end").exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("nobody ended the client");
}

enum Held {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Held {
    fn connect(kind: &str, service: SocketAddr) -> std::io::Result<Self> {
        if kind == "hold-tcp" {
            return TcpStream::connect_timeout(&service, DEADLINE).map(Held::Tcp);
        }
        let socket = udp_for(service);
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.connect(service)?;
        Ok(Held::Udp(socket))
    }

    fn ask(&mut self) -> std::io::Result<String> {
        let mut answer = [0; 64];
        let n = match self {
            Held::Udp(socket) => {
                socket.send(b"?")?;
                socket.recv(&mut answer)?
            }
            Held::Tcp(stream) => {
                stream.write_all(b"?")?;
                stream.read(&mut answer)?
            }
        };
        Ok(String::from_utf8_lossy(&answer[..n]).into_owned())
    }
}

/// Runs a client in a namespace and the node's cgroup; how often each answer came.
pub fn client(node: &Node, ns: &Ns, kind: &str, target: &str, count: usize) -> BTreeMap<String, usize> {
    let (procs, wish) = (node.cgroup.0.join("cgroup.procs"), format!("{kind} {target} {count}"));
    answers(&ns.run(move || spawn(procs, &wish)))
}

/// Runs [`process`] in the calling thread's namespaces and a cgroup.
pub fn spawn(procs: PathBuf, wish: &str) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "client_process", "--nocapture", "--test-threads=1"])
        .env("CAUSEWAY_TEST_CLIENT", wish);
    // SAFETY: writing "0" to cgroup.procs moves the child itself; it allocates nothing that
    // another thread of the parent could hold locked.
    unsafe { command.pre_exec(move || std::fs::write(&procs, "0")) };
    command.output().unwrap()
}

/// How often each answer came.
pub fn answers(output: &Output) -> BTreeMap<String, usize> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let mut answers = BTreeMap::new();
    for answer in text.lines().filter_map(|line| line.split_once("answer ").map(|(_, a)| a)) {
        *answers.entry(answer.to_owned()).or_insert(0) += 1;
    }
    answers
}

/// Answers every TCP connection and every datagram with a name, until the test ends.
pub fn server(ns: &Ns, address: SocketAddr, name: &'static str) {
    ns.run(move || {
        let listener = TcpListener::bind(address).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.and_then(|mut s| s.write_all(name.as_bytes()));
            }
        });
        let socket = UdpSocket::bind(address).unwrap();
        std::thread::spawn(move || {
            let mut data = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut data) {
                let _ = socket.send_to(name.as_bytes(), from);
            }
        });
    });
}

/// Answers whatever comes over a TCP connection with a name, as long as the client keeps it.
pub fn talker(ns: &Ns, address: SocketAddr, name: &'static str) {
    ns.run(move || {
        let listener = TcpListener::bind(address).unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    while stream.read(&mut [0; 64]).is_ok_and(|n| n > 0) {
                        if stream.write_all(name.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
    });
}

/// An address and port.
pub fn l4(ip: impl Into<IpAddr>, port: u16, protocol: Protocol) -> L4Addr {
    L4Addr { ip: ip.into(), port, protocol }
}

/// A frontend with backends at the port of servers.
pub fn frontend(address: L4Addr, backends: &[(IpAddr, u16)]) -> Frontend {
    let backend = |(ip, weight): &(IpAddr, u16)| Backend {
        weight: *weight,
        ..Backend::new(l4(*ip, PORT, address.protocol), None)
    };
    let mut backends: Vec<_> = backends.iter().map(backend).collect();
    backends.sort();
    Frontend::new(address, ServiceKey { namespace: "shop".into(), name: "web".into() }, backends)
}

impl Node {
    /// Tells the datapath about a frontend.
    pub fn set(&mut self, frontend: Frontend) {
        self.datapath(move |d| d.apply_frontend(Event::Upsert(frontend)).unwrap());
    }
}

/// Waits until something is so.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < DEADLINE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
