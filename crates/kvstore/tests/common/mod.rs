//! The servers a test can be held against: ours, and Debian's etcd as the reference.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use causeway_kvstore::auth::Auth;
use causeway_kvstore::pb::{
    MemberListRequest, StatusRequest, auth_client::AuthClient, cluster_client::ClusterClient,
    kv_client::KvClient, lease_client::LeaseClient, maintenance_client::MaintenanceClient,
    watch_client::WatchClient,
};
use causeway_kvstore::server::{Access, Server};
use causeway_kvstore::{Store, StoreOptions};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint};

/// How long anything in a test may take before it counts as lost. Far beyond what is needed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running server; gone when dropped.
pub(crate) struct Target {
    /// `host:port`.
    pub(crate) address: String,
    /// A connection to it.
    pub(crate) channel: Channel,
    _running: Running,
}

#[expect(dead_code, reason = "held for what dropping them ends")]
enum Running {
    Ours(DropGuard),
    Durable(DropGuard, tempfile::TempDir),
    Etcd(Etcd),
}

impl Target {
    /// Our own server over an empty store.
    pub(crate) async fn ours() -> Self {
        let server = Server::plaintext(Store::new(StoreOptions::default()), Access::open());
        let (address, channel, shutdown) = serve(server).await;
        Self { address, channel, _running: Running::Ours(shutdown) }
    }

    /// Our own server over an empty durable store that writes a snapshot every few requests.
    pub(crate) async fn durable() -> Self {
        let dir = data_dir();
        let options = StoreOptions { snapshot_log_bytes: 1 << 10, ..StoreOptions::default() };
        let store = Store::open(dir.path(), options).unwrap();
        let access = Access::kept_in(&store, Auth::default()).unwrap();
        let (address, channel, shutdown) = serve(Server::plaintext(store, access)).await;
        Self { address, channel, _running: Running::Durable(shutdown, dir) }
    }

    /// A real etcd with an empty data directory.
    pub(crate) async fn etcd() -> Self {
        let deadline = Instant::now() + PATIENCE;
        // The ports were free a moment ago; should another process take one, the next try has others.
        loop {
            let mut etcd = Etcd::start();
            while !etcd.ended() {
                if let Ok(channel) = channel(&etcd.address).await
                    && etcd.serves(channel.clone()).await
                {
                    let address = etcd.address.clone();
                    return Self { address, channel, _running: Running::Etcd(etcd) };
                }
                assert!(Instant::now() < deadline, "etcd does not come up");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(Instant::now() < deadline, "etcd ends at once, every time");
        }
    }

    pub(crate) fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone())
    }

    pub(crate) fn watch(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel.clone())
    }

    pub(crate) fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone())
    }
}

impl Target {
    pub(crate) fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone())
    }

    pub(crate) fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }

    pub(crate) fn auth(&self) -> AuthClient<Channel> {
        AuthClient::new(self.channel.clone())
    }
}

async fn serve(server: Server) -> (String, Channel, DropGuard) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let shutdown = CancellationToken::new();
    tokio::spawn(server.serve(listener, shutdown.clone()));
    let channel = channel(&address).await.unwrap();
    (address, channel, shutdown.drop_guard())
}

/// A directory whose syncs cost nothing, where there is one.
fn data_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

async fn channel(address: &str) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await
}

struct Etcd {
    name: String,
    address: String,
    child: Child,
    _data: tempfile::TempDir,
}

impl Etcd {
    fn start() -> Self {
        require("etcd");
        let data = data_dir();
        let [client, peer] = free_ports();
        let name = format!("reference-{}-{client}-{peer}", std::process::id());
        let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        // setpriv lets it end with the thread that started it, even if the test is killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "etcd", "--log-level=error"])
            .arg(format!("--name={name}"))
            .arg(format!("--data-dir={}", data.path().display()))
            .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
            .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
            .arg(format!("--initial-cluster={name}={peer}"))
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("setpriv is missing: apt-get install -y util-linux");
        Self { name, address: client.trim_start_matches("http://").to_owned(), child, _data: data }
    }

    /// Whether it is this one that answers, and not another that has taken its port meanwhile, and it
    /// takes writes, which it does only once it has elected itself.
    async fn serves(&self, channel: Channel) -> bool {
        let request = MemberListRequest::default();
        let members = ClusterClient::new(channel.clone()).member_list(request).await;
        let own = members.is_ok_and(|list| list.get_ref().members.iter().any(|m| m.name == self.name));
        own && MaintenanceClient::new(channel)
            .status(StatusRequest {})
            .await
            .is_ok_and(|health| health.get_ref().leader != 0)
    }

    fn ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fails with what to do where a program of Debian's etcd packages is missing.
pub(crate) fn require(program: &str) {
    let installed = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    assert!(installed, "{program} is missing: apt-get install -y etcd-server etcd-client");
}

fn free_ports() -> [u16; 2] {
    let sockets = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    sockets.map(|socket| socket.local_addr().unwrap().port())
}
