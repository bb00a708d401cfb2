//! `causeway lab workload`: small servers and clients for the pods of examples and tests. Plain processes that know
//! nothing of the lab; who they are they take from the environment (`POD_NAME`, `CLUSTER_NAME`, `NODE_NAME`,
//! `POD_NAMESPACE`).

mod echo;
mod http;
mod ping;
mod probe;
mod request;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// A server or client
#[derive(Debug, Args)]
pub struct WorkloadCommand {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Answer HTTP: who this is as JSON, or text with `Accept: text/plain`; /healthz, /readyz, /bytes?n=, /echo
    /// (back what comes, as it comes), /shutdown; HTTP/1.1 and HTTP/2
    Http {
        /// Address to listen on, as in `:8080`
        #[arg(long, default_value = ":8080", value_parser = listen)]
        listen: SocketAddr,
        /// Go on for so many seconds after SIGTERM, so that clients have time to notice that it goes
        #[arg(long, default_value_t = 0)]
        drain: u64,
    },
    /// Send back what is received over TCP
    TcpEcho {
        /// Address to listen on
        #[arg(long, default_value = ":9000", value_parser = listen)]
        listen: SocketAddr,
    },
    /// Send back what is received over UDP; a datagram `whoami` is answered with who this is
    UdpEcho {
        /// Address to listen on
        #[arg(long, default_value = ":9000", value_parser = listen)]
        listen: SocketAddr,
    },
    /// Send HTTP requests, each on a connection of its own, and count who answered
    Request(request::Request),
    /// Send datagrams and count the answers
    UdpRequest(request::UdpRequest),
    /// Send bytes to a TCP echo server and compare what comes back
    TcpStream(echo::Stream),
    /// Send small packets at a rate to an echo server and count the losses
    Probe(probe::Probe),
    /// Send ICMP echo requests and count the answers
    Ping(ping::Ping),
}

impl WorkloadCommand {
    /// Runs it; returns the exit code: 0 if everything was answered, 1 if not.
    ///
    /// # Errors
    /// If it cannot start.
    pub async fn run(self) -> Result<u8> {
        match self.kind {
            Kind::Http { listen, drain } => http::serve(listen, Duration::from_secs(drain)).await,
            Kind::TcpEcho { listen } => echo::tcp(listen).await,
            Kind::UdpEcho { listen } => echo::udp(listen).await,
            Kind::Request(request) => request.run().await,
            Kind::UdpRequest(request) => request.run().await,
            Kind::TcpStream(stream) => stream.run().await,
            Kind::Probe(probe) => probe.run().await,
            Kind::Ping(ping) => ping.run(),
        }
    }
}

/// Who answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Pod.
    pub pod: String,
    /// Cluster.
    pub cluster: String,
    /// Node.
    pub node: String,
    /// Namespace.
    pub namespace: String,
    /// Address and port the request came from, as this server saw it.
    pub client: String,
}

impl Answer {
    /// This process, for a client.
    fn own(client: SocketAddr) -> Answer {
        let var = |name: &str| std::env::var(name).unwrap_or_default();
        let pod = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME"));
        Answer {
            pod: pod
                .unwrap_or_else(|_| nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into()),
            cluster: var("CLUSTER_NAME"),
            node: var("NODE_NAME"),
            namespace: var("POD_NAMESPACE"),
            // An IPv4 client of a socket for both families, as it calls itself.
            client: SocketAddr::new(client.ip().to_canonical(), client.port()).to_string(),
        }
    }
}

/// `:8080`, which is every address of both families, or `127.0.0.1:8080`.
fn listen(text: &str) -> std::result::Result<SocketAddr, String> {
    // A kernel without IPv6 has no [::], and nobody else to listen to.
    let any = if std::path::Path::new("/proc/net/if_inet6").exists() { "[::]" } else { "0.0.0.0" };
    let text = if text.starts_with(':') { format!("{any}{text}") } else { text.into() };
    text.parse().map_err(|_| format!("{text} is not ADDRESS:PORT"))
}

/// Bytes a UDP socket may hold unread: seconds of a probe's packets, so that a process that gets no processor for a
/// moment loses nothing.
const UDP_BUFFER: usize = 8 << 20;

/// A UDP socket with room for what comes while its process waits for a processor.
async fn udp_socket(address: SocketAddr) -> std::io::Result<tokio::net::UdpSocket> {
    use nix::sys::socket::{setsockopt, sockopt};
    let socket = tokio::net::UdpSocket::bind(address).await?;
    // Without the privilege the machine's limit has to do.
    if setsockopt(&socket, sockopt::RcvBufForce, &UDP_BUFFER).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &UDP_BUFFER)?;
    }
    Ok(socket)
}

/// `HOST:PORT` to an address, by the resolver where it is a name: IPv4 if there is a choice.
async fn resolve(target: &str) -> std::io::Result<SocketAddr> {
    let found: Vec<SocketAddr> = tokio::net::lookup_host(target).await?.collect();
    let chosen = found.iter().find(|a| a.is_ipv4()).or(found.first()).copied();
    chosen
        .ok_or_else(|| std::io::Error::new(std::io::ErrorKind::NotFound, format!("{target} has no address")))
}

/// Where a client's socket is bound to: any address of the family of its target.
fn any(target: SocketAddr) -> SocketAddr {
    let any: IpAddr =
        if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    (any, 0).into()
}
