//! Node ports: for each one a listener on the node that forwards to the Service's ClusterIP. The documented stand-in until
//! the datapath serves node ports itself. Connections are made by this process in the node's cgroup, so the agent's
//! socket-level load balancer picks the backend.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::events::{About, Events};

/// How long a UDP client is remembered without traffic.
const UDP_IDLE: Duration = Duration::from_secs(60);
/// Pause before a port that is taken is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long connecting to the service may take.
const CONNECT: Duration = Duration::from_secs(10);

/// A port of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    udp: bool,
    port: u16,
}

/// Where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Route {
    target: SocketAddr,
    namespace: String,
    name: String,
    uid: String,
}

/// The node ports of a service.
fn routes(service: &Service) -> BTreeMap<Key, Route> {
    let spec = service.spec.clone().unwrap_or_default();
    let Some(ip) = spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()) else {
        return BTreeMap::new();
    };
    let meta = &service.metadata;
    let ports = spec.ports.unwrap_or_default();
    ports
        .iter()
        .filter_map(|p| {
            let udp = match p.protocol.as_deref().unwrap_or("TCP") {
                "TCP" => false,
                "UDP" => true,
                _ => return None,
            };
            let key = Key { udp, port: u16::try_from(p.node_port?).ok().filter(|p| *p > 0)? };
            let route = Route {
                target: SocketAddr::new(ip, u16::try_from(p.port).ok()?),
                namespace: meta.namespace.clone().unwrap_or_default(),
                name: meta.name.clone().unwrap_or_default(),
                uid: meta.uid.clone().unwrap_or_default(),
            };
            Some((key, route))
        })
        .collect()
}

/// Watches services and keeps the listeners until `shutdown`.
pub async fn run(client: kube::Client, events: Events, shutdown: CancellationToken) {
    let api: Api<Service> = Api::all(client);
    let mut stream = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
    let mut known: BTreeMap<(String, String), BTreeMap<Key, Route>> = BTreeMap::new();
    let mut listing = BTreeMap::new();
    let mut open: BTreeMap<Key, (Route, CancellationToken)> = BTreeMap::new();
    let id = |s: &Service| {
        (s.metadata.namespace.clone().unwrap_or_default(), s.metadata.name.clone().unwrap_or_default())
    };
    loop {
        let event = tokio::select! {
            event = stream.next() => match event { Some(e) => e, None => return },
            () = shutdown.cancelled() => return,
        };
        match event {
            Ok(watcher::Event::Init) => listing = BTreeMap::new(),
            Ok(watcher::Event::InitApply(s)) => {
                listing.insert(id(&s), routes(&s));
                continue;
            }
            Ok(watcher::Event::InitDone) => known = std::mem::take(&mut listing),
            Ok(watcher::Event::Apply(s)) => {
                known.insert(id(&s), routes(&s));
            }
            Ok(watcher::Event::Delete(s)) => {
                known.remove(&id(&s));
            }
            Err(error) => {
                tracing::debug!(%error, "watch of services interrupted");
                continue;
            }
        }
        let wanted: BTreeMap<Key, Route> = known.values().flatten().map(|(k, r)| (*k, r.clone())).collect();
        open.retain(|key, (route, token)| {
            let keep = wanted.get(key) == Some(route);
            if !keep {
                token.cancel();
            }
            keep
        });
        for (key, route) in wanted {
            open.entry(key).or_insert_with(|| {
                let token = shutdown.child_token();
                tokio::spawn(serve(key, route.clone(), events.clone(), token.clone()));
                (route, token)
            });
        }
    }
}

/// Serves one port until its token is cancelled.
async fn serve(key: Key, route: Route, events: Events, token: CancellationToken) {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, key.port));
    loop {
        let served = async {
            if key.udp {
                udp(address, route.target, &token).await
            } else {
                tcp(address, route.target, &token).await
            }
        };
        let error = tokio::select! {
            result = served => match result { Ok(()) => return, Err(e) => e },
            () = token.cancelled() => return,
        };
        let proto = if key.udp { "UDP" } else { "TCP" };
        let message = format!("node port {proto} {} cannot be served: {error}", key.port);
        tracing::warn!(namespace = route.namespace, service = route.name, message);
        let (namespace, name, uid) = (route.namespace.clone(), route.name.clone(), route.uid.clone());
        let about = About { kind: "Service", namespace, name, uid };
        events.tell(&about, None, true, "NodePortUnavailable", &message);
        tokio::select! { () = tokio::time::sleep(RETRY) => {}, () = token.cancelled() => return }
    }
}

async fn tcp(address: SocketAddr, target: SocketAddr, token: &CancellationToken) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (client, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            // Out of descriptors and the like: not the listener's end.
            Err(error) => {
                tracing::debug!(%error, %address, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let token = token.clone();
        tokio::spawn(async move {
            tokio::select! { () = relay(client, target) => {}, () = token.cancelled() => {} }
        });
    }
}

async fn relay(mut client: TcpStream, target: SocketAddr) {
    match tokio::time::timeout(CONNECT, TcpStream::connect(target)).await {
        Ok(Ok(mut backend)) => {
            let _ = client.set_nodelay(true);
            let _ = backend.set_nodelay(true);
            let _ = tokio::io::copy_bidirectional(&mut client, &mut backend).await;
        }
        // The client learns it the way it would from a refused connection, by a reset.
        _ => {
            let _ = client.set_zero_linger();
        }
    }
}

async fn udp(address: SocketAddr, target: SocketAddr, token: &CancellationToken) -> io::Result<()> {
    let socket = Arc::new(UdpSocket::bind(address).await?);
    let mut sessions: BTreeMap<SocketAddr, mpsc::Sender<Vec<u8>>> = BTreeMap::new();
    let mut buffer = vec![0u8; 65536];
    loop {
        let (n, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An ICMP error of an earlier answer.
            Err(_) => continue,
        };
        sessions.retain(|_, s| !s.is_closed());
        let session = sessions.entry(from).or_insert_with(|| {
            let (sender, queue) = mpsc::channel(64);
            tokio::spawn(udp_session(socket.clone(), from, target, queue, token.clone()));
            sender
        });
        let _ = session.try_send(buffer[..n].to_vec());
    }
}

async fn udp_session(
    front: Arc<UdpSocket>,
    client: SocketAddr,
    target: SocketAddr,
    mut queue: mpsc::Receiver<Vec<u8>>,
    token: CancellationToken,
) {
    let Ok(back) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await else { return };
    if back.connect(target).await.is_err() {
        return;
    }
    let mut buffer = vec![0u8; 65536];
    loop {
        tokio::select! {
            packet = queue.recv() => match packet {
                Some(packet) => { let _ = back.send(&packet).await; }
                None => return,
            },
            received = back.recv(&mut buffer) => if let Ok(n) = received {
                let _ = front.send_to(&buffer[..n], client).await;
            },
            () = tokio::time::sleep(UDP_IDLE) => return,
            () = token.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ports_with_a_node_port_and_an_address_count() {
        let service = |v| serde_json::from_value::<Service>(v).unwrap();
        let s = service(
            serde_json::json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"clusterIP": "10.96.0.9",
            "ports": [{"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP", "nodePort": 30053}, {"port": 81}]}}),
        );
        let found: Vec<_> =
            routes(&s).into_iter().map(|(k, r)| (k.udp, k.port, r.target.to_string())).collect();
        assert_eq!(found, [(false, 30080, "10.96.0.9:80".into()), (true, 30053, "10.96.0.9:53".into())]);
        let headless = service(
            serde_json::json!({"spec": {"clusterIP": "None", "ports": [{"port": 80, "nodePort": 1}]}}),
        );
        assert!(routes(&headless).is_empty());
    }

    async fn echo_tcp() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut s, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut r, mut w) = s.split();
                    let _ = tokio::io::copy(&mut r, &mut w).await;
                });
            }
        });
        at
    }

    #[tokio::test]
    async fn tcp_and_udp_go_both_ways() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let target = echo_tcp().await;
        let (mut client, served) = {
            let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let at = front.local_addr().unwrap();
            let client = TcpStream::connect(at);
            let served = tokio::spawn(async move { relay(front.accept().await.unwrap().0, target).await });
            (client.await.unwrap(), served)
        };
        client.write_all(b"hello").await.unwrap();
        client.shutdown().await.unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"hello");
        served.await.unwrap();

        let backend = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let target = backend.local_addr().unwrap();
        let token = CancellationToken::new();
        let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let stop = token.clone();
        let front = tokio::spawn(async move {
            tokio::select! { r = udp(free, target, &stop) => r, () = stop.cancelled() => Ok(()) }
        });
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(free).await.unwrap();
        let mut buffer = [0u8; 16];
        let (n, from) = loop {
            let _ = client.send(b"ping").await;
            let wait = Duration::from_millis(200);
            if let Ok(r) = tokio::time::timeout(wait, backend.recv_from(&mut buffer)).await {
                break r.unwrap();
            }
        };
        assert_eq!(&buffer[..n], b"ping");
        backend.send_to(b"pong", from).await.unwrap();
        let n = client.recv(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..n], b"pong");
        token.cancel();
        front.await.unwrap().unwrap();
    }
}
