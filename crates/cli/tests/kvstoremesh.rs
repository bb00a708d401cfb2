//! `causeway kvstoremesh` as a process: configured by a folder as in a pod, ready once a remote cluster is
//! cached, read by an agent's certificate, ended by SIGTERM.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use causeway_kvstore::client::{Client, ClientConfig};
use causeway_kvstore::server::Server;
use causeway_kvstore::tls::TlsFiles;
use causeway_kvstore::{Store, StoreOptions, WriteOp};
use causeway_mesh::access::{self, Administrators};
use causeway_mesh::keys::{self, Kind, Layout};
use causeway_model::ClusterName;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);
const LOCAL: &str = "clustermesh-apiserver.kube-system.svc";

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes ca.crt, tls.crt and tls.key, as a Secret is mounted.
fn certificate(dir: &Path, cn: &str, names: &[&str], ca: &Authority) -> TlsFiles {
    std::fs::create_dir_all(dir).unwrap();
    let names: Vec<_> = names.iter().map(|name| name.to_string()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, cn);
    let key = KeyPair::generate().unwrap();
    std::fs::write(dir.join("tls.crt"), params.signed_by(&key, ca).unwrap().pem()).unwrap();
    std::fs::write(dir.join("tls.key"), key.serialize_pem()).unwrap();
    std::fs::write(dir.join("ca.crt"), ca.pem()).unwrap();
    TlsFiles::in_dir(dir)
}

/// The store of cluster cls-b, published by hand.
fn published() -> Store {
    let b = ClusterName::new("cls-b").unwrap();
    let store = Store::new(StoreOptions::default());
    let put = |key: String, value: &'static str| WriteOp::Put(key.into(), value.into());
    let mut ops = vec![
        put(keys::HEARTBEAT.to_owned(), "t"),
        put(
            keys::cluster_config(&b),
            r#"{"id":2,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255}}"#,
        ),
        put(keys::prefix(Layout::Native, Kind::Ip, &b) + "10.2.0.21", "an address"),
        put(keys::prefix(Layout::Native, Kind::Identities, &b) + "140013", "an identity"),
    ];
    ops.extend(Kind::ALL.map(|kind| put(keys::marker(&b, Layout::Native, kind), "t")));
    store.apply(ops).unwrap();
    store
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The process; killed if a test fails.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn causeway() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causeway"));
    command.arg("kvstoremesh").env_clear().stdout(Stdio::null());
    command
}

/// Status and body of a GET, once the port is open.
fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

async fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(done) = done() {
            return done;
        }
        assert!(start.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caches_serves_and_ends() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let ca = authority();
    let stop = CancellationToken::new();
    let _end = stop.clone().drop_guard();
    let server_files = certificate(&at("b"), "clustermesh-apiserver.cilium.io", &["*.mesh.cilium.io"], &ca);
    let rules = access::rules(&ClusterName::new("cls-b").unwrap(), Administrators::Read);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port_of_b = listener.local_addr().unwrap().port();
    let store = published();
    let server = Server::mutual_tls(store.clone(), rules, server_files).unwrap();
    tokio::spawn(server.serve(listener, stop));

    // The pod's volumes: settings, the server's certificate, the peers with their client certificate.
    std::fs::create_dir_all(at("config")).unwrap();
    std::fs::write(at("config").join("cluster-name"), "cls-a\n").unwrap();
    std::fs::write(at("config").join("cluster-id"), "1\n").unwrap();
    certificate(&at("tls"), "clustermesh-apiserver.cilium.io", &[LOCAL], &ca);
    let client = certificate(&at("remote"), "remote", &[], &ca);
    std::fs::create_dir_all(at("peers")).unwrap();
    let peer = |port: u16| {
        let text = format!(
            "endpoints:\n- https://cls-b.mesh.cilium.io:{port}\ntrusted-ca-file: {}\ncert-file: {}\n\
             key-file: {}\ncilium-host-aliases:\n- hostname: cls-b.mesh.cilium.io\n  ips: [127.0.0.1]\n",
            client.ca.display(),
            client.cert.display(),
            client.key.display()
        );
        std::fs::write(at("peers").join("cls-b"), text).unwrap();
    };
    // At first the peer cannot be reached.
    peer(free_port());
    let (port, health) = (free_port(), free_port());
    let health_at: SocketAddr = ([127, 0, 0, 1], health).into();
    let mut process = Process(
        causeway()
            .args(["--listen", &format!("127.0.0.1:{port}"), "--health-listen", &health_at.to_string()])
            .arg("--config-dir")
            .arg(at("config"))
            .arg("--tls-dir")
            .arg(at("tls"))
            .env("CILIUM_CLUSTERMESH_CONFIG", at("peers"))
            .args(["--per-cluster-ready-timeout", "10m"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let waiting = until("the health port", || get(health_at, "/readyz")).await;
    assert_eq!(waiting.0, 503);
    assert!(waiting.1.contains("cls-b") || waiting.1.contains("not cached yet"), "{}", waiting.1);
    peer(port_of_b);
    until("ready", || get(health_at, "/readyz").filter(|(status, _)| *status == 200)).await;

    // What an agent of this cluster reads.
    let config = ClientConfig {
        endpoints: vec![format!("https://{LOCAL}:{port}")],
        tls: Some(certificate(&at("local"), "local-cls-a", &[], &ca)),
        resolve: [(LOCAL.to_owned(), vec!["127.0.0.1".parse().unwrap()])].into(),
        timeout: PATIENCE,
    };
    let agent = Client::connect(&config).await.unwrap();
    let mut read = vec![];
    for prefix in ["cilium/.heartbeat", "cilium/cache/", "cilium/cluster-config/", "cilium/synced/"] {
        let kvs = agent.list_all(prefix.as_bytes()).await.unwrap();
        read.extend(kvs.into_iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()));
    }
    let mut wanted = vec![
        "cilium/.heartbeat".to_owned(),
        "cilium/cache/identities/v1/cls-b/id/140013".to_owned(),
        "cilium/cache/ip/v1/cls-b/10.2.0.21".to_owned(),
        "cilium/cluster-config/cls-b".to_owned(),
    ];
    let mut markers = Kind::ALL.map(|kind| format!("cilium/synced/cls-b/cilium/cache/{}/v1", kind.word()));
    markers.sort();
    wanted.extend(markers);
    assert_eq!(read, wanted);

    let metrics = get(health_at, "/metrics").unwrap().1;
    for line in [
        "cilium_kvstoremesh_remote_clusters{source_cluster=\"cls-a\"} 1",
        "cilium_kvstoremesh_remote_cluster_readiness_status{source_cluster=\"cls-a\",target_cluster=\"cls-b\"} 1",
        "causeway_build_info{role=\"kvstoremesh\"",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    let state: serde_json::Value = serde_json::from_str(&get(health_at, "/debug/state").unwrap().1).unwrap();
    assert_eq!(state["remotes"]["cls-b"]["num-endpoints"], 1);

    let pid = nix::unistd::Pid::from_raw(process.0.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let status = until("the end", || process.0.try_wait().unwrap()).await;
    assert!(status.success(), "{status}");
}

#[test]
fn missing_settings_and_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let output = causeway().arg("--config-dir").arg(dir.path()).args(args).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = run(&[]);
    assert!(text.contains("`cluster-name` is missing"), "{text}");
    let health = format!("127.0.0.1:{}", free_port());
    let named = ["--cluster-name", "cls-a", "--cluster-id", "1", "--health-listen", &health];
    let tls = dir.path().join("none");
    let text = run(&[&named[..], &["--tls-dir", tls.to_str().unwrap()]].concat());
    assert!(text.contains("the cache's certificates") && text.contains("none"), "{text}");
    let text = Command::new(env!("CARGO_BIN_EXE_causeway")).args(["kvstoremesh", "--help"]).output().unwrap();
    assert!(String::from_utf8_lossy(&text.stdout).contains("One connection per remote cluster"));
}
