//! Many clusters in this process, each with a store and a mesh server of its own, behind mutual TLS on the
//! loopback.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use causeway_kvstore::server::Server;
use causeway_kvstore::tls::TlsFiles;
use causeway_kvstore::{Pair, Store, StoreOptions, WriteOp};
use causeway_mesh::access::{self, Administrators};
use causeway_mesh::keys;
use causeway_model::ClusterInfo;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Failure;
use super::certificates::{Authority, authority, certificate};
use super::shape::Shape;

/// A name the certificate of a local store must be for.
pub(crate) const LOCAL: &str = "clustermesh-apiserver.kube-system.svc";
/// How often each cluster says that it is alive (mesh-protocol 3.5).
const HEARTBEAT: Duration = Duration::from_secs(60);
/// Days a certificate is good for.
const DAYS: u32 = 100;

/// One of them.
pub(crate) struct Cluster {
    pub(crate) info: ClusterInfo,
    pub(crate) store: Store,
    port: u16,
}

/// All of them. They end with this value.
pub(crate) struct Clusters {
    pub(crate) all: Vec<Cluster>,
    dir: PathBuf,
    ca: Authority,
    _stop: DropGuard,
}

impl Clusters {
    /// Starts them with all their data; certificates go to `dir`.
    pub(crate) async fn start(shape: Shape, dir: &Path) -> Result<Self, Failure> {
        let (ca, stop) = (authority(), CancellationToken::new());
        let files = server_certificate(dir, &ca);
        let mut all = Vec::new();
        for info in shape.all() {
            let store = Store::new(StoreOptions::default());
            let put = |(key, value): (String, Bytes)| WriteOp::Put(Pair::new(key, value));
            let heartbeat = (keys::HEARTBEAT.to_owned(), Bytes::from("2026-01-01T00:00:00Z"));
            let first = [heartbeat, shape.config(&info)];
            let content = first.into_iter().chain(shape.data(info.clone())).chain(shape.markers(&info));
            store.apply(content.map(put).collect())?;
            let rules = access::rules(&info.name, Administrators::Read);
            let server = Server::mutual_tls(store.clone(), rules, files.clone())?;
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let port = listener.local_addr()?.port();
            tokio::spawn(server.serve(listener, stop.clone()));
            all.push(Cluster { info, store, port });
        }
        let stores: Vec<Store> = all.iter().map(|cluster| cluster.store.clone()).collect();
        tokio::spawn(stop.clone().run_until_cancelled_owned(beat(stores)));
        Ok(Self { all, dir: dir.to_owned(), ca, _stop: stop.drop_guard() })
    }

    /// The folder of the cache's server certificate, as a Secret is mounted.
    pub(crate) fn tls(&self) -> Result<PathBuf, Failure> {
        let dir = self.dir.join("tls");
        std::fs::create_dir_all(&dir)?;
        let files = server_certificate(&self.dir, &self.ca);
        for (from, to) in [(files.ca, "ca.crt"), (files.cert, "tls.crt"), (files.key, "tls.key")] {
            std::fs::copy(from, dir.join(to))?;
        }
        Ok(dir)
    }

    /// A folder of peers, each read from its own mesh server; or, with the port of a cache, all from there.
    pub(crate) fn peers(&self, cache: Option<u16>, common_name: &str) -> Result<PathBuf, Failure> {
        let dir = self.dir.join(if cache.is_some() { "local-peers" } else { "peers" });
        std::fs::create_dir_all(&dir)?;
        let client = certificate(&self.dir, common_name, common_name, &[], &self.ca, DAYS, &self.ca);
        for cluster in &self.all {
            let (host, port) = match cache {
                Some(port) => (LOCAL.to_owned(), port),
                None => (format!("{}.mesh.cilium.io", cluster.info.name), cluster.port),
            };
            let text = format!(
                "endpoints:\n- https://{host}:{port}\ntrusted-ca-file: {}\ncert-file: {}\nkey-file: {}\n\
                 cilium-host-aliases:\n- hostname: {host}\n  ips: [127.0.0.1]\n",
                client.ca.display(),
                client.cert.display(),
                client.key.display()
            );
            std::fs::write(dir.join(cluster.info.name.as_str()), text)?;
        }
        Ok(dir)
    }
}

fn server_certificate(dir: &Path, ca: &Authority) -> TlsFiles {
    let names = [LOCAL, "*.mesh.cilium.io"];
    certificate(dir, "server", "clustermesh-apiserver.cilium.io", &names, ca, DAYS, ca)
}

async fn beat(stores: Vec<Store>) {
    let mut count = 0u64;
    loop {
        tokio::time::sleep(HEARTBEAT / 2).await;
        count += 1;
        for store in &stores {
            let heartbeat = WriteOp::Put(Pair::new(keys::HEARTBEAT, count.to_string()));
            store.apply(vec![heartbeat]).expect("a store of this process has room");
        }
    }
}
