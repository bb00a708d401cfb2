//! `causeway kvstoremesh` as a process: configured by a folder as in a pod, ready once a remote cluster is
//! cached, read by an agent's certificate, ended by SIGTERM.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use causeway_kvstore::client::{Client, ClientConfig};
use causeway_kvstore::tls::TlsFiles;
use causeway_mesh::keys::Kind;

use crate::fixture::{GOOD, Mesh, PATIENCE, certificate, stderr, stdout};
use crate::scrape::compare;

const LOCAL: &str = "clustermesh-apiserver.kube-system.svc";

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

/// URLs and name of the only member, as etcdctl has them from the store.
fn members(port: u16, files: &TlsFiles) -> (Vec<String>, String) {
    let file = |path: &Path| path.display().to_string();
    let output = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints=https://127.0.0.1:{port}"))
        .args(["--cacert", &file(&files.ca), "--cert", &file(&files.cert), "--key", &file(&files.key)])
        .args(["member", "list", "-w", "json"])
        .output()
        .expect("etcdctl is missing: apt-get install -y etcd-client");
    let list: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    let member = &list["members"][0];
    let urls = member["clientURLs"].as_array().unwrap().iter().map(|url| url.as_str().unwrap().to_owned());
    (urls.collect(), member["name"].as_str().unwrap().to_owned())
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
    let mesh = Mesh::start().await;
    let at = |name: &str| mesh.dir.path().join(name);
    // The pod's volumes: settings, the server's certificate, the peers with their client certificate.
    std::fs::create_dir_all(at("config")).unwrap();
    std::fs::write(at("config").join("cluster-name"), "cls-a\n").unwrap();
    std::fs::write(at("config").join("cluster-id"), "1\n").unwrap();
    std::fs::create_dir_all(at("tls")).unwrap();
    let names = [LOCAL, "127.0.0.1"];
    let server = certificate(&at("tls"), "tls", "server", &names, &mesh.ca, GOOD, &mesh.ca);
    std::fs::rename(server.ca, at("tls").join("ca.crt")).unwrap();
    // At first the peer cannot be reached.
    mesh.peer("cls-b", &[free_port()], &mesh.host());
    let (port, health) = (free_port(), free_port());
    let [health_at, api]: [SocketAddr; 2] = [health, free_port()].map(|port| ([127, 0, 0, 1], port).into());
    let mut process = Process(
        causeway()
            .args(["--listen", &format!("127.0.0.1:{port}"), "--health-listen", &health_at.to_string()])
            .arg("--config-dir")
            .arg(at("config"))
            .arg("--tls-dir")
            .arg(at("tls"))
            .env("CILIUM_CLUSTERMESH_CONFIG", mesh.peers())
            .args(["--per-cluster-ready-timeout", "10m"])
            .args(["--api-serve-addr", &api.to_string()])
            .args(["--advertise-client-urls", &format!("https://{LOCAL}:{port}")])
            .args(["--quota-backend-bytes", "123456789", "--auto-compaction-retention", "1s"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let waiting = until("the health port", || get(health_at, "/readyz")).await;
    assert_eq!(waiting.0, 503);
    assert!(waiting.1.contains("cls-b") || waiting.1.contains("not cached yet"), "{}", waiting.1);
    mesh.peer("cls-b", &[mesh.port], &mesh.host());
    until("ready", || get(health_at, "/readyz").filter(|(status, _)| *status == 200)).await;

    // What an agent of this cluster reads.
    let files = certificate(mesh.dir.path(), "local", "local-cls-a", &[], &mesh.ca, GOOD, &mesh.ca);
    let config = ClientConfig {
        endpoints: vec![format!("https://{LOCAL}:{port}")],
        tls: Some(files.clone()),
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
        "cilium/cache/ip/v1/cls-b/10.2.0.21".to_owned(),
        "cilium/cache/ip/v1/cls-b/10.2.0.22".to_owned(),
        "cilium/cluster-config/cls-b".to_owned(),
    ];
    let mut markers = Kind::ALL.map(|kind| format!("cilium/synced/cls-b/cilium/cache/{}/v1", kind.word()));
    markers.sort();
    wanted.extend(markers);
    assert_eq!(read, wanted);

    assert_eq!(
        members(port, &files),
        (vec![format!("https://{LOCAL}:{port}")], "clustermesh-apiserver".into())
    );
    // The store's history of a second is kept, so after that there is some that is not.
    let compacted = "etcd_debugging_mvcc_compact_revision ";
    let metrics = until("a compaction", || {
        let text = get(health_at, "/metrics")?.1;
        let revision = text.lines().find_map(|line| line.strip_prefix(compacted))?;
        (revision != "0").then_some(text)
    })
    .await;
    compare("kvstoremesh", &metrics, false);
    for line in [
        "etcd_server_quota_backend_bytes 123456789",
        "# TYPE etcd_mvcc_put counter",
        "cilium_kvstoremesh_kvstore_initial_sync_completed{scope=\"ip/v1\",source_cluster=\"cls-b\",action=\"write\"} 1",
        "cilium_kvstoremesh_controllers_group_runs_total{status=\"success\",group_name=\"kvstore-heartbeat\"} 1",
        "cilium_kvstoremesh_remote_clusters{source_cluster=\"cls-a\"} 1",
        "cilium_kvstoremesh_remote_cluster_readiness_status{source_cluster=\"cls-a\",target_cluster=\"cls-b\"} 1",
        "causeway_build_info{role=\"kvstoremesh\"",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    // What the cache says of itself, to Cilium's tool and to ours.
    let (code, seen) = get(api, "/v1/cluster").unwrap();
    let seen: serde_json::Value = serde_json::from_str(&seen).unwrap();
    assert_eq!((code, seen.as_array().unwrap().len()), (200, 1));
    let seen = &seen[0];
    assert_eq!((&seen["name"], &seen["ready"]), (&"cls-b".into(), &true.into()), "{seen}");
    assert_eq!((&seen["num-endpoints"], &seen["num-failures"].is_u64()), (&2.into(), &true), "{seen}");
    assert_eq!(
        (&seen["config"]["cluster-id"], &seen["synced"]["endpoints"]),
        (&2.into(), &true.into()),
        "{seen}"
    );
    assert_eq!(get(api, "/metrics").unwrap().0, 404);
    let dbg = async |args: &[&str]| {
        let output = crate::fixture::causeway(&[&["kvstoremesh-dbg"][..], args].concat()).await;
        (output.status.success(), stdout(&output) + &stderr(&output))
    };
    let (host, nobody) = (api.to_string(), format!("127.0.0.1:{}", free_port()));
    let (done, text) = dbg(&["status", "--verbose", "-H", &host]).await;
    assert!(done && text.starts_with("KVStoreMesh: 1/1 remote clusters ready\n   cls-b: ready, "), "{text}");
    let (done, text) = dbg(&["status", "-H", &host, "-o", "json"]).await;
    assert!(done && text.contains("\"cls-b\""), "{text}");
    let (done, text) = dbg(&["status", "-H", &nobody]).await;
    assert!(!done && text.contains("api-serve-addr"), "{text}");
    let peers = mesh.peers().display().to_string();
    let (done, text) = dbg(&["troubleshoot", "--clustermesh-config", &peers]).await;
    assert!(done && text.contains("result: works"), "{text}");
    let state: serde_json::Value = serde_json::from_str(&get(health_at, "/debug/state").unwrap().1).unwrap();
    assert_eq!(state["remotes"]["cls-b"]["num-endpoints"], 2);
    assert_eq!(state["store"]["full"], false);

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
    for (flag, value, says) in [
        ("--quota-backend-bytes", "2Gi", "quota-backend-bytes"),
        ("--max-request-bytes", "1", "max-request-bytes 1 is not between"),
        ("--auto-compaction-retention", "often", "hours like 1 or a duration like 30m"),
        ("--auto-compaction-mode", "weekly", "auto-compaction-mode \"weekly\""),
    ] {
        let text = run(&[&named[..], &[flag, value]].concat());
        assert!(text.contains(says), "{text}");
    }
    let text = run(&[&named[..], &["--tls-dir", tls.to_str().unwrap()]].concat());
    assert!(text.contains("the certificates of the store's server") && text.contains("none"), "{text}");
    let text = Command::new(env!("CARGO_BIN_EXE_causeway")).args(["kvstoremesh", "--help"]).output().unwrap();
    assert!(String::from_utf8_lossy(&text.stdout).contains("One connection per remote cluster"));
}
