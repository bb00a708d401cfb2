//! From a URL to a TCP connection, as the reader of a remote cluster makes it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::report::{Stage, Step};

/// Most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;

/// An endpoint taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) url: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) https: bool,
}

/// Takes a URL apart; the reader of the file has made sure that it is one of ours.
pub(super) fn parse(url: &str) -> Option<Endpoint> {
    let uri: hyper::Uri = url.parse().ok()?;
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let https = uri.scheme_str() == Some("https");
    Some(Endpoint { url: url.to_owned(), host, port: uri.port_u16().unwrap_or(2379), https })
}

/// Finds the addresses of a host: those the file gives, else those the system knows.
pub(super) async fn resolve(
    endpoint: &Endpoint,
    aliases: &BTreeMap<String, Vec<IpAddr>>,
    limit: Duration,
) -> (Step, Vec<SocketAddr>) {
    let Endpoint { host, port, .. } = endpoint;
    if let Some(ips) = aliases.get(host) {
        let found: Vec<SocketAddr> = ips.iter().map(|ip| SocketAddr::new(*ip, *port)).collect();
        let step = match found.is_empty() {
            true => Step::failed(
                Stage::Resolve,
                format!("cilium-host-aliases of the file names {host} without an address"),
                "add its addresses there; `causeway clustermesh connect` does",
            ),
            false => Step::ok(Stage::Resolve, format!("{} (cilium-host-aliases of the file)", list(&found))),
        };
        return (step, found);
    }
    if let Ok(ip) = host.parse::<IpAddr>() {
        return (
            Step::ok(Stage::Resolve, "an address, nothing to resolve"),
            vec![SocketAddr::new(ip, *port)],
        );
    }
    let fix = format!(
        "give its addresses in the file under cilium-host-aliases (`causeway clustermesh connect` does), \
         or in the pod's hostAliases, or make the node's resolver know {host}"
    );
    match timeout(limit, tokio::net::lookup_host((host.as_str(), *port))).await {
        Err(_) => {
            let finding = format!("no answer about {host} within {} s", limit.as_secs_f32());
            (Step::failed(Stage::Resolve, finding, fix), vec![])
        }
        Ok(Err(error)) => {
            (Step::failed(Stage::Resolve, format!("{host} has no address: {error}"), fix), vec![])
        }
        Ok(Ok(found)) => {
            let mut found: Vec<SocketAddr> = found.collect();
            found.dedup();
            found.truncate(MAX_ADDRESSES);
            (Step::ok(Stage::Resolve, format!("{} (the system's resolver)", list(&found))), found)
        }
    }
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>().join(", ")
}

/// Connects to every address; the socket is of the first that accepts, which is the one readers use.
pub(super) async fn tcp(
    addresses: &[SocketAddr],
    limit: Duration,
) -> (Step, Option<(SocketAddr, TcpStream)>) {
    let mut first = None;
    let mut found = vec![];
    let mut refused = 0;
    let mut failures = 0;
    for address in addresses {
        let start = Instant::now();
        match timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => {
                found.push(format!("{address} accepts after {:.1} ms", start.elapsed().as_secs_f64() * 1e3));
                first.get_or_insert((*address, socket));
            }
            Ok(Err(error)) => {
                failures += 1;
                refused += usize::from(error.kind() == std::io::ErrorKind::ConnectionRefused);
                found.push(format!("{address}: {error}"));
            }
            Err(_) => {
                failures += 1;
                found.push(format!("{address}: no answer within {} s", limit.as_secs_f32()));
            }
        }
    }
    let step = match (&first, failures) {
        (Some((address, _)), 0) => Step::ok(Stage::Tcp, format!("connected to {address}")).with(found),
        (Some(_), failures) => Step::warning(
            Stage::Tcp,
            format!("{failures} of {} addresses do not accept", addresses.len()),
            "correct the addresses of the peer (`causeway clustermesh connect` again), or open the port there",
        )
        .with(found),
        (None, _) if refused == addresses.len() => Step::failed(
            Stage::Tcp,
            format!("nothing listens: {}", found.join("; ")),
            "check that the peer's clustermesh-apiserver runs and that its Service has this address and port",
        ),
        (None, _) => Step::failed(
            Stage::Tcp,
            format!("no TCP connection: {}", found.join("; ")),
            "open TCP to this address and port from the nodes (firewalls, security groups, routes between the networks)",
        ),
    };
    (step, first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let endpoint = parse("https://[fd00::1]:2380/").unwrap();
        assert_eq!((endpoint.host.as_str(), endpoint.port, endpoint.https), ("fd00::1", 2380, true));
        assert_eq!(parse("http://cls-b.mesh.cilium.io").unwrap().port, 2379);
        assert_eq!(parse("://"), None);
    }
}
