//! A real etcd cluster of three members on loopback, behind mutual TLS; gone when dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use causeway_kvstore::client::{Client, ClientConfig};
use causeway_mesh::config_dir::RemoteConfig;
use causeway_mesh::remote::client_config;
use causeway_model::ClusterName;

use super::PATIENCE;
use super::certificates::{authority, certificate};

pub(super) const MEMBERS: usize = 3;

pub(super) struct Cluster {
    dir: tempfile::TempDir,
    /// Client and peer port of each member.
    ports: Vec<(u16, u16)>,
    members: Vec<Option<Child>>,
}

fn free_ports() -> Vec<(u16, u16)> {
    let bind = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let sockets: Vec<_> = (0..MEMBERS).map(|_| (bind(), bind())).collect();
    let port = |socket: &std::net::TcpListener| socket.local_addr().unwrap().port();
    sockets.iter().map(|(client, peer)| (port(client), port(peer))).collect()
}

/// Certificates of one authority for the servers and for an administrator.
fn certificates(dir: &Path) {
    let ca = authority();
    certificate(dir, "server", "server", &["localhost", "127.0.0.1"], &ca, 100, &ca);
    certificate(dir, "admin", "admin", &[], &ca, 100, &ca);
}

impl Cluster {
    /// Three new members that have elected one of them.
    pub(super) async fn start() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap());
        certificates(dir.path());
        let mut cluster = Self { dir, ports: free_ports(), members: (0..MEMBERS).map(|_| None).collect() };
        (0..MEMBERS).for_each(|n| cluster.restart(n));
        cluster.leader().await;
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn restart(&mut self, n: usize) {
        let peer = |n: usize| format!("http://127.0.0.1:{}", self.ports[n].1);
        let members: Vec<_> = (0..MEMBERS).map(|n| format!("m{n}={}", peer(n))).collect();
        let client = format!("https://127.0.0.1:{}", self.ports[n].0);
        // setpriv lets it end with the thread that started it, even if the test is killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "etcd", "--log-level=error"])
            .arg(format!("--name=m{n}"))
            .arg(format!("--data-dir={}", self.path(&format!("data{n}")).display()))
            .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
            .args([
                format!("--listen-peer-urls={}", peer(n)),
                format!("--initial-advertise-peer-urls={}", peer(n)),
            ])
            .arg(format!("--initial-cluster={}", members.join(",")))
            .args(["--heartbeat-interval=100", "--election-timeout=1000", "--client-cert-auth"])
            .arg(format!("--trusted-ca-file={}", self.path("server-ca.crt").display()))
            .arg(format!("--cert-file={}", self.path("server.crt").display()))
            .arg(format!("--key-file={}", self.path("server.key").display()))
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("setpriv or etcd is missing: apt-get install -y util-linux etcd-server");
        self.members[n] = Some(child);
    }

    pub(super) fn kill(&mut self, n: usize) {
        let mut child = self.members[n].take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(super) fn runs(&self, n: usize) -> bool {
        self.members[n].is_some()
    }

    /// How a client finds the members with these numbers: through Cilium's file.
    fn config_of(&self, members: &[usize]) -> ClientConfig {
        let file = self.path("etcd.config");
        let endpoints: String =
            members.iter().map(|n| format!("- https://127.0.0.1:{}\n", self.ports[*n].0)).collect();
        let pem = |name: &str| self.path(name).display().to_string();
        let yaml = format!(
            "endpoints:\n{endpoints}trusted-ca-file: {}\ncert-file: {}\nkey-file: {}\n",
            pem("admin-ca.crt"),
            pem("admin.crt"),
            pem("admin.key")
        );
        std::fs::write(&file, yaml).unwrap();
        let file = RemoteConfig::read(&file, &ClusterName::new("cls-a").unwrap()).unwrap();
        client_config(&file, Duration::from_secs(5)).unwrap()
    }

    pub(super) fn config(&self) -> ClientConfig {
        self.config_of(&(0..MEMBERS).collect::<Vec<_>>())
    }

    /// The number of the member that leads, as it says itself.
    pub(super) async fn leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for n in (0..MEMBERS).filter(|n| self.runs(*n)) {
                if let Ok(client) = Client::connect(&self.config_of(&[n])).await
                    && let Ok(status) = client.status().await
                    && status.leader != 0
                    && status.leader == status.header.unwrap_or_default().member_id
                {
                    return n;
                }
            }
            assert!(Instant::now() < deadline, "no member leads");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.members.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
