//! A mesh server with certificates, and the folder of peers that names it.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, SystemTime};

use causeway_kvstore::server::Server;
use causeway_kvstore::tls::TlsFiles;
use causeway_kvstore::{Store, StoreOptions, pb};
use causeway_mesh::access::{self, Administrators};
use causeway_mesh::keys::{self, Kind, Layout};
use causeway_mesh::wire;
use causeway_model::{ClusterConfig, ClusterName};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) type Authority = CertifiedIssuer<'static, KeyPair>;

/// For what must happen at some time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "Cilium CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes `<file>.crt` with validity from `days.0` to `days.1` days from now, `<file>.key` and `<file>-ca.crt`.
pub(crate) fn certificate(
    dir: &Path,
    file: &str,
    cn: &str,
    names: &[&str],
    issuer: &Authority,
    days: (i64, i64),
    trusts: &Authority,
) -> TlsFiles {
    let mut params = CertificateParams::new(names.iter().map(|n| n.to_string()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.push(DnType::CommonName, cn);
    let at = |days: i64| {
        let distance = Duration::from_secs(86_400 * days.unsigned_abs());
        let now = SystemTime::now();
        if days < 0 { now - distance } else { now + distance }
    };
    (params.not_before, params.not_after) = (at(days.0).into(), at(days.1).into());
    let key = KeyPair::generate().unwrap();
    let signed = params.signed_by(&key, issuer).unwrap();
    let path = |end: &str| dir.join(format!("{file}{end}"));
    std::fs::write(path(".crt"), signed.pem()).unwrap();
    std::fs::write(path(".key"), key.serialize_pem()).unwrap();
    std::fs::write(path("-ca.crt"), trusts.pem()).unwrap();
    TlsFiles { ca: path("-ca.crt"), cert: path(".crt"), key: path(".key") }
}

/// A cluster's mesh server with complete content, and where its peer finds it.
pub(crate) struct Mesh {
    pub(crate) dir: TempDir,
    pub(crate) ca: Authority,
    pub(crate) store: Store,
    pub(crate) name: ClusterName,
    pub(crate) port: u16,
    _stop: DropGuard,
}

pub(crate) const GOOD: (i64, i64) = (-10, 90);

impl Mesh {
    /// `cls-b` with id 2.
    pub(crate) async fn start() -> Self {
        Self::start_as("cls-b", 2).await
    }

    pub(crate) async fn start_as(name: &str, id: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = authority();
        let files = certificate(dir.path(), "server", "server", &["*.mesh.cilium.io"], &ca, GOOD, &ca);
        let name = ClusterName::new(name).unwrap();
        let store = Store::new(StoreOptions::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = CancellationToken::new();
        let rules = access::rules(&name, Administrators::Write);
        let server = Server::mutual_tls(store.clone(), rules, files).unwrap();
        tokio::spawn(server.serve(listener, stop.clone()));
        std::fs::create_dir(dir.path().join("peers")).unwrap();
        let mesh = Self { dir, ca, store, name, port, _stop: stop.drop_guard() };
        mesh.fill(id);
        mesh.client("remote");
        mesh.peer(mesh.name.as_str(), &[mesh.port], &mesh.host());
        mesh
    }

    pub(crate) fn host(&self) -> String {
        format!("{}.mesh.cilium.io", self.name)
    }

    fn fill(&self, id: u32) {
        self.heartbeat(0);
        self.announce(id);
        for kind in Kind::ALL {
            self.put(&keys::marker(&self.name, Layout::Native, kind), b"2026-03-01T08:15:30Z");
        }
        for ip in ["10.2.0.21", "10.2.0.22"] {
            let value = format!(
                "{{\"IP\":\"{ip}\",\"Mask\":null,\"HostIP\":\"172.20.0.11\",\"ID\":140013,\"Key\":0,\"Metadata\":\"\"}}"
            );
            self.put(&format!("cilium/state/ip/v1/default/{ip}"), value.as_bytes());
        }
    }

    /// Announces the cluster with this id.
    pub(crate) fn announce(&self, id: u32) {
        let config = ClusterConfig {
            id,
            synced_canaries: true,
            cached: false,
            max_connected_clusters: 255,
            service_exports_enabled: Some(false),
        };
        self.put(&keys::cluster_config(&self.name), &wire::config::encode(&config));
    }

    /// Writes a heartbeat that is this old.
    pub(crate) fn heartbeat(&self, seconds: i64) {
        let time = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() - seconds).unwrap();
        self.put(keys::HEARTBEAT, time.to_string().as_bytes());
    }

    pub(crate) fn put(&self, key: &str, value: &[u8]) {
        let request =
            pb::PutRequest { key: key.to_owned().into(), value: value.to_vec().into(), ..Default::default() };
        self.store.put(request).unwrap();
    }

    pub(crate) fn delete(&self, key: &str) {
        let request = pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
        assert_eq!(self.store.delete_range(&request).unwrap().deleted, 1);
    }

    pub(crate) fn peers(&self) -> PathBuf {
        self.dir.path().join("peers")
    }

    /// Gives the peer a good certificate for this user.
    pub(crate) fn client(&self, user: &str) -> TlsFiles {
        certificate(&self.peers(), "client", user, &[], &self.ca, GOOD, &self.ca)
    }

    /// Gives the server another certificate; it is in force for the next connection.
    pub(crate) fn serve_with(&self, names: &[&str], issuer: &Authority, days: (i64, i64)) {
        certificate(self.dir.path(), "server", "server", names, issuer, days, &self.ca);
    }

    /// Writes the file of a peer.
    pub(crate) fn peer(&self, name: &str, ports: &[u16], host: &str) {
        let urls: String = ports.iter().map(|port| format!("- https://{host}:{port}\n")).collect();
        self.peer_text(
            name,
            &format!(
                "endpoints:\n{urls}cilium-host-aliases:\n- hostname: {}\n  ips: [127.0.0.1]\n",
                self.host()
            ),
        );
    }

    /// The same with this text before the names of the certificates.
    pub(crate) fn peer_text(&self, name: &str, text: &str) {
        let dir = self.peers();
        let path = |file: &str| dir.join(file).display().to_string();
        let text = format!(
            "{text}trusted-ca-file: {}\ncert-file: {}\nkey-file: {}\n",
            path("client-ca.crt"),
            path("client.crt"),
            path("client.key")
        );
        std::fs::write(dir.join(name), text).unwrap();
    }
}

/// Runs `causeway` with these words.
pub(crate) async fn causeway(words: &[&str]) -> Output {
    let run = Command::new(env!("CARGO_BIN_EXE_causeway")).args(words).kill_on_drop(true).output();
    tokio::time::timeout(PATIENCE, run).await.expect("it ends").unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
