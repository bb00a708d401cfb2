//! The cloud's load balancers: answers at their addresses and passes connections and datagrams on to node ports.
//!
//! The process `causeway lab fabric` runs this in the fabric's namespace. It follows the files of [`super::lb`]; an address
//! is on the subnet's bridge (or on `lo` for the public range, which the gateways route) as long as a frontend uses it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::TryStreamExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::lb::{Frontends, Protocol};
use super::{bridge, index_of};
use crate::runtime::namespaces::netlink_error;
use crate::runtime::{Context, Result};
use crate::topology::Plan;

/// How often the files are looked at.
const POLL: Duration = Duration::from_millis(100);
/// How long a target may take to accept before the next is tried.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a UDP client is remembered after its last datagram.
const UDP_IDLE: Duration = Duration::from_secs(60);

type Key = (Ipv4Addr, u16, Protocol);
type Targets = Arc<Vec<SocketAddrV4>>;

struct Running {
    targets: watch::Sender<Targets>,
    task: JoinHandle<()>,
}

/// Serves until told to stop. `state` is the lab's state directory.
///
/// # Errors
/// If netlink is not available; anything else is logged and tried again.
pub async fn run(plan: Plan, state: PathBuf, shutdown: CancellationToken) -> Result<()> {
    let (connection, netlink, _) = rtnetlink::new_connection().what(|| "open netlink".into())?;
    tokio::spawn(connection);
    let dir = Frontends::dir(&state);
    let mut running: BTreeMap<Key, Running> = BTreeMap::new();
    let mut complaint = String::new();
    loop {
        match Frontends::read_all(&dir) {
            Ok(all) => {
                complaint.clear();
                apply(&plan, &netlink, &mut running, &all).await;
            }
            // What was there goes on; said once.
            Err(e) if e.to_string() != complaint => {
                complaint = e.to_string();
                warn!(error = complaint, "load balancers unchanged");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

async fn apply(
    plan: &Plan,
    netlink: &rtnetlink::Handle,
    running: &mut BTreeMap<Key, Running>,
    all: &[(String, Frontends)],
) {
    let mut wanted: BTreeMap<Key, Targets> = BTreeMap::new();
    for frontend in all.iter().flat_map(|(_, f)| &f.frontends) {
        let key = (frontend.vip, frontend.port, frontend.protocol);
        wanted.entry(key).or_insert_with(|| Arc::new(frontend.targets.clone()));
    }
    let gone: Vec<Key> = running.keys().filter(|k| !wanted.contains_key(k)).copied().collect();
    for key in gone {
        if let Some(old) = running.remove(&key) {
            old.task.abort();
            info!(vip = %key.0, port = key.1, protocol = ?key.2, "load balancer removed");
        }
        if !running.keys().any(|k| k.0 == key.0) {
            address(plan, netlink, key.0, false).await;
        }
    }
    let mut held: BTreeSet<Ipv4Addr> = running.keys().map(|k| k.0).collect();
    for (key, targets) in wanted {
        if let Some(old) = running.get(&key).filter(|r| !r.task.is_finished()) {
            old.targets.send_if_modified(|now| {
                let changed = **now != *targets;
                *now = targets;
                changed
            });
            continue;
        }
        if held.insert(key.0) {
            address(plan, netlink, key.0, true).await;
        }
        match start(key, targets).await {
            Ok(one) => {
                running.insert(key, one);
                info!(vip = %key.0, port = key.1, protocol = ?key.2, "load balancer added");
            }
            Err(e) => warn!(vip = %key.0, port = key.1, error = %e, "load balancer cannot listen"),
        }
    }
}

/// Adds or removes an address; one that is there, or is not, is left as it is.
async fn address(plan: &Plan, netlink: &rtnetlink::Handle, vip: Ipv4Addr, add: bool) {
    let subnet = plan.subnets.iter().position(|s| s.cidr.contains(&vip));
    let device = subnet.map_or_else(|| "lo".to_string(), bridge);
    let result = async {
        let index = index_of(netlink, &device).await?;
        if add {
            return netlink.address().add(index, vip.into(), 32).replace().execute().await;
        }
        let mut found = netlink
            .address()
            .get()
            .set_link_index_filter(index)
            .set_address_filter(vip.into())
            .set_prefix_length_filter(32)
            .execute();
        match found.try_next().await? {
            Some(message) => netlink.address().del(message).execute().await,
            None => Ok(()),
        }
    };
    if let Err(e) = result.await {
        let e = netlink_error("change an address", e);
        warn!(%vip, device, error = %e, "address of a load balancer");
    }
}

async fn start(key: Key, targets: Targets) -> io::Result<Running> {
    let (sender, receiver) = watch::channel(targets);
    let at = SocketAddrV4::new(key.0, key.1);
    let task = match key.2 {
        Protocol::Tcp => tokio::spawn(tcp(TcpListener::bind(at).await?, receiver)),
        Protocol::Udp => tokio::spawn(udp(UdpSocket::bind(at).await?, receiver)),
    };
    Ok(Running { targets: sender, task })
}

async fn tcp(listener: TcpListener, targets: watch::Receiver<Targets>) {
    let next = Arc::new(AtomicUsize::new(0));
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let (targets, next) = (targets.borrow().clone(), next.clone());
                tokio::spawn(relay(client, targets, next));
            }
            Err(e) => {
                warn!(error = %e, "accept");
                tokio::time::sleep(POLL).await;
            }
        }
    }
}

/// Connects a client with the next target that accepts; without one the connection is closed.
async fn relay(mut client: TcpStream, targets: Targets, next: Arc<AtomicUsize>) {
    let first = next.fetch_add(1, Ordering::Relaxed);
    for i in 0..targets.len() {
        let target = targets[(first + i) % targets.len()];
        match tokio::time::timeout(CONNECT, TcpStream::connect(target)).await {
            Ok(Ok(mut server)) => {
                let _ = client.set_nodelay(true);
                let _ = server.set_nodelay(true);
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                return;
            }
            Ok(Err(e)) => debug!(%target, error = %e, "target refuses"),
            Err(_) => debug!(%target, "target does not answer"),
        }
    }
}

async fn udp(socket: UdpSocket, targets: watch::Receiver<Targets>) {
    let socket = Arc::new(socket);
    let mut clients: HashMap<SocketAddr, (Arc<UdpSocket>, JoinHandle<()>)> = HashMap::new();
    let mut next = 0usize;
    let mut buffer = vec![0; 65536];
    loop {
        let Ok((n, client)) = socket.recv_from(&mut buffer).await else { continue };
        clients.retain(|_, (_, task)| !task.is_finished());
        if let Entry::Vacant(e) = clients.entry(client) {
            let targets = targets.borrow().clone();
            if targets.is_empty() {
                continue;
            }
            let target = targets[next % targets.len()];
            next = next.wrapping_add(1);
            let upstream = match upstream(target).await {
                Ok(upstream) => Arc::new(upstream),
                Err(e) => {
                    warn!(%target, error = %e, "datagram dropped");
                    continue;
                }
            };
            let task = tokio::spawn(answers(upstream.clone(), socket.clone(), client));
            e.insert((upstream, task));
        }
        if let Some((upstream, _)) = clients.get(&client) {
            // A lost datagram is the client's to notice, as with any.
            let _ = upstream.send(&buffer[..n]).await;
        }
    }
}

async fn upstream(target: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(target).await?;
    Ok(socket)
}

async fn answers(upstream: Arc<UdpSocket>, socket: Arc<UdpSocket>, client: SocketAddr) {
    let mut buffer = vec![0; 65536];
    while let Ok(Ok(n)) = tokio::time::timeout(UDP_IDLE, upstream.recv(&mut buffer)).await {
        if socket.send_to(&buffer[..n], client).await.is_err() {
            return;
        }
    }
}
