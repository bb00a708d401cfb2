//! Cluster cls-b: store, server and publisher, in this process or in one of its own.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use causeway_kvstore::server::Server;
use causeway_kvstore::tls::TlsFiles;
use causeway_kvstore::{Store, StoreOptions};
use causeway_mesh::access;
use causeway_mesh::publish::{Options, StoreSink};
use causeway_model::{ClusterInfo, Event, IpEntry, NumericIdentity};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::publisher;

pub(crate) const HOST: &str = "cls-b.mesh.cilium.io";

/// What a cluster has or a reader knows: number of an address, with its identity's.
pub(crate) type Addresses = BTreeMap<u32, u32>;

/// Address `n` with an identity of cluster 2.
pub(crate) fn address(n: u32, identity: u32) -> IpEntry {
    IpEntry {
        prefix: IpAddr::V4(Ipv4Addr::from(0x0a02_0000 + n)).into(),
        identity: NumericIdentity((2 << 16) + identity),
        host_ip: Some("172.20.0.11".parse().unwrap()),
        key_index: 0,
        pod: None,
    }
}

/// The numbers of an address, if it is one that [`address`] makes.
pub(crate) fn numbers(entry: &IpEntry) -> Option<(u32, u32)> {
    let IpAddr::V4(ip) = entry.prefix.addr() else { return None };
    let (n, identity) = (u32::from(ip).checked_sub(0x0a02_0000)?, entry.identity.0.checked_sub(2 << 16)?);
    (address(n, identity) == *entry).then_some((n, identity))
}

pub(crate) struct Publishing {
    pub(crate) store: Store,
    pub(crate) addresses: mpsc::UnboundedSender<Event<IpEntry>>,
    pub(crate) listens: SocketAddr,
    _stop: DropGuard,
}

/// Publishes on a port of 127.0.0.1.
pub(crate) async fn publish(info: ClusterInfo, tls: TlsFiles) -> Publishing {
    let stop = CancellationToken::new();
    let store = Store::new(StoreOptions::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listens = listener.local_addr().unwrap();
    let rules = access::rules(&info.name, access::Administrators::Write);
    let serving = Server::mutual_tls(store.clone(), rules, tls).unwrap();
    tokio::spawn(serving.serve(listener, stop.clone()));
    let options = Options { heartbeat: Duration::from_millis(500), ..Default::default() };
    let (addresses, _) = publisher::start(info, StoreSink(store.clone()), options, stop.clone(), |_| {});
    Publishing { store, addresses, listens, _stop: stop.drop_guard() }
}

impl Publishing {
    /// The whole listing.
    pub(crate) fn list(&self, all: &Addresses) {
        self.addresses.send(Event::Reset).unwrap();
        for (n, identity) in all {
            self.addresses.send(Event::Upsert(address(*n, *identity))).unwrap();
        }
        self.addresses.send(Event::Synced).unwrap();
    }
}
