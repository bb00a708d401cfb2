//! `causeway clustermesh troubleshoot`: what works is told, and every step that can fail is named.

use std::sync::Arc;
use std::time::Duration;

use causeway_mesh::keys::{self, Kind, Layout};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::fixture::{Authority, GOOD, Mesh, authority, causeway, certificate, stderr, stdout};

/// Runs it over the peers of a mesh; exit code 0, and the remote cluster as JSON.
async fn examine(mesh: &Mesh, more: &[&str]) -> (bool, Value) {
    let peers = mesh.peers().display().to_string();
    let mut words = vec!["clustermesh", "troubleshoot", "--clustermesh-config", &peers, "-o", "json"];
    for (flag, value) in [("--config-dir", "/nonexistent"), ("--heartbeat-wait", "1s")] {
        if !more.contains(&flag) {
            words.extend([flag, value]);
        }
    }
    words.extend(more);
    let output = causeway(&words).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    assert_eq!(report["ok"], output.status.success(), "{report:#}");
    (output.status.success(), report["clusters"][0].clone())
}

/// Expects that the cluster fails at a step, for a reason, with a fix.
async fn fails(mesh: &Mesh, stage: &str, finding: &str, fix: &str) -> Value {
    let (ok, cluster) = examine(mesh, &[]).await;
    assert!(!ok && cluster["verdict"] == "failed", "{cluster:#}");
    let cause = &cluster["cause"];
    assert_eq!(cause["stage"], stage, "{cluster:#}");
    let has = |field: &str, part: &str| cause[field].as_str().is_some_and(|text| text.contains(part));
    assert!(has("finding", finding) && has("fix", fix), "{cause:#}");
    cause.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_works_is_told_step_by_step() {
    let mesh = Mesh::start().await;
    let (ok, cluster) = examine(&mesh, &["cls-b"]).await;
    assert!(ok && cluster["verdict"] == "ok" && cluster["cluster-id"] == 2, "{cluster:#}");
    let peers = mesh.peers().display().to_string();
    let output = causeway(&["clustermesh", "troubleshoot", "--clustermesh-config", &peers]).await;
    let text = stdout(&output);
    assert!(output.status.success(), "{text}");
    for part in [
        "ok    file ",
        "our certificate is CN=remote (issued by CN=Cilium CA",
        "127.0.0.1 (cilium-host-aliases of the file)",
        "ok    tcp ",
        "TLSv1.3 with CN=server",
        "its certificate is for *.mesh.cilium.io",
        "user remote may read",
        "ok    heartbeat      written ",
        "cluster cls-b has id 2, at most 255 clusters",
        "complete: 0 nodes, 0 services, 0 identities, 2 ip",
        "result: works",
    ] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_cannot_be_used() {
    let mesh = Mesh::start().await;
    mesh.peer_text("cls-b", "endpoints: [1, {\n");
    fails(&mesh, "file", "not a YAML etcd client configuration", "connect").await;
    mesh.peer_text("cls-b", "endpoints:\n- cls-b.mesh.cilium.io:2379\n");
    fails(&mesh, "file", "is not a URL; https://host:port is right", "connect").await;
    mesh.peer("cls-b", &[mesh.port], &mesh.host());
    std::fs::remove_file(mesh.peers().join("client.key")).unwrap();
    fails(&mesh, "file", "client.key cannot be read", "connect").await;
    mesh.client("remote");

    // Clusters nobody configured, and files that are none.
    let (ok, cluster) = examine(&mesh, &["cls-z"]).await;
    let finding = cluster["cause"]["finding"].to_string();
    assert!(!ok && finding.contains("cls-z does not exist; there are cls-b"), "{finding}");
    std::fs::write(mesh.peers().join("cls-y"), "nothing").unwrap();
    let (ok, cluster) = examine(&mesh, &["cls-y"]).await;
    assert!(!ok && cluster["cause"]["finding"].to_string().contains("holds no endpoints"), "{cluster:#}");
    mesh.peer("CLS_X", &[mesh.port], &mesh.host());
    let (ok, cluster) = examine(&mesh, &["CLS_X"]).await;
    assert!(
        !ok && cluster["cause"]["fix"].to_string().contains("exactly like the remote cluster"),
        "{cluster:#}"
    );
    let output = causeway(&["clustermesh", "troubleshoot", "--clustermesh-config", "/nonexistent"]).await;
    assert!(!output.status.success() && stderr(&output).contains("is not a folder"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_cannot_be_used() {
    let mesh = Mesh::start().await;
    let (ca, peers) = (&mesh.ca, mesh.peers());
    certificate(&peers, "other", "remote", &[], ca, GOOD, ca);
    std::fs::copy(peers.join("other.key"), peers.join("client.key")).unwrap();
    fails(&mesh, "certificates", "client.key is not the private key of", "one Secret").await;
    certificate(&peers, "client", "remote", &[], ca, (-10, -1), ca);
    fails(&mesh, "certificates", "expired on", "causeway install").await;
    certificate(&peers, "client", "remote", &[], ca, (1, 10), ca);
    fails(&mesh, "certificates", "is valid only from", "causeway install").await;
    mesh.client("remote");
    std::fs::write(peers.join("client-ca.crt"), "no certificate").unwrap();
    fails(&mesh, "certificates", "client-ca.crt holds no authority", "CERTIFICATE block").await;
    // One that still works is a warning.
    certificate(&peers, "client", "remote", &[], ca, (-10, 5), ca);
    let (ok, cluster) = examine(&mesh, &[]).await;
    assert!(ok && cluster["verdict"] == "warning", "{cluster:#}");
    assert!(cluster["cause"]["finding"].to_string().contains("CN=remote expires in "), "{cluster:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_ports_that_lead_nowhere() {
    let mesh = Mesh::start().await;
    mesh.peer("cls-b", &[mesh.port], "cls-b.mesh.invalid");
    fails(&mesh, "resolve", "cls-b.mesh.invalid", "cilium-host-aliases").await;
    let host = mesh.host();
    let text = format!(
        "endpoints:\n- https://{host}:{}\ncilium-host-aliases:\n- hostname: {host}\n  ips: []\n",
        mesh.port
    );
    mesh.peer_text("cls-b", &text);
    fails(&mesh, "resolve", "without an address", "add its addresses").await;

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    mesh.peer("cls-b", &[free], &host);
    let cause = fails(&mesh, "tcp", "nothing listens", "Service has this address and port").await;
    assert!(cause["finding"].to_string().contains(&format!("127.0.0.1:{free}")), "{cause:#}");
    // Agents use the endpoint that answers.
    mesh.peer("cls-b", &[free, mesh.port], &host);
    let (ok, cluster) = examine(&mesh, &[]).await;
    assert!(ok && cluster["verdict"] == "warning" && cluster["cause"]["stage"] == "tcp", "{cluster:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_we_do_not_believe() {
    let mesh = Mesh::start().await;
    let other = authority();
    mesh.serve_with(&["*.mesh.cilium.io"], &other, GOOD);
    let cause =
        fails(&mesh, "tls", "not the one of that name we trust", "ca.crt of its Secret cilium-ca").await;
    assert!(
        cause["details"].to_string().contains("the server shows CN=server (issued by CN=Cilium CA"),
        "{cause:#}"
    );
    let foreign = named_authority("Someone Else");
    mesh.serve_with(&["*.mesh.cilium.io"], &foreign, GOOD);
    fails(&mesh, "tls", "CN=Someone Else that issued the server's certificate is not among", "cilium-ca")
        .await;
    mesh.serve_with(&["*.mesh.cilium.io"], &mesh.ca, (-10, -1));
    fails(&mesh, "tls", "CN=server expired on", "on the remote cluster").await;
    mesh.serve_with(&["*.elsewhere.io"], &mesh.ca, GOOD);
    fails(&mesh, "tls", "not for cls-b.mesh.cilium.io, but for *.elsewhere.io", "as the endpoint's host")
        .await;
}

fn named_authority(name: &str) -> Authority {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_believe_us() {
    let mesh = Mesh::start().await;
    let other = named_authority("Our CA");
    certificate(&mesh.peers(), "client", "remote", &[], &other, GOOD, &mesh.ca);
    let cause = fails(
        &mesh,
        "tls",
        "refused our certificate CN=remote issued by CN=Our CA",
        "trust this cluster's authority CN=Our CA",
    )
    .await;
    assert!(cause["finding"].to_string().contains("it takes certificates of CN=Cilium CA"), "{cause:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_are_something_else() {
    let mesh = Mesh::start().await;
    // Plain HTTP, silence, and TLS without HTTP/2.
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    mesh.peer("cls-b", &[plain.local_addr().unwrap().port()], &mesh.host());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = plain.accept().await {
            let _ = socket.read(&mut [0; 1024]).await;
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    fails(&mesh, "tls", "does not speak TLS", "correct the port").await;

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    mesh.peer("cls-b", &[silent.local_addr().unwrap().port()], &mesh.host());
    let (ok, cluster) = examine(&mesh, &["--timeout", "1s"]).await;
    let finding = cluster["cause"]["finding"].to_string();
    assert!(!ok && finding.contains("no answer to our TLS hello within 1 s"), "{finding}");

    let files = certificate(&mesh.peers(), "web", "web", &["*.mesh.cilium.io"], &mesh.ca, GOOD, &mesh.ca);
    let config = Arc::new(files.server_config(&[b"h2"]).unwrap());
    let web = TcpListener::bind("127.0.0.1:0").await.unwrap();
    mesh.peer("cls-b", &[web.local_addr().unwrap().port()], &mesh.host());
    tokio::spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        while let Ok((socket, _)) = web.accept().await {
            let Ok(mut stream) = acceptor.accept(socket).await else { continue };
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    fails(&mesh, "tls", "not HTTP/2", "host and port").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_without_permission() {
    let mesh = Mesh::start().await;
    mesh.client("admin-cls-a");
    fails(
        &mesh,
        "authorisation",
        "does not let user \"admin-cls-a\" read cilium/.heartbeat",
        "common name remote",
    )
    .await;
    // The server is cls-b's, and we call it otherwise: it shows nobody the announcement of another.
    mesh.client("remote");
    std::fs::remove_file(mesh.peers().join("cls-b")).unwrap();
    mesh.peer("cls-c", &[mesh.port], &mesh.host());
    fails(&mesh, "authorisation", "read cilium/cluster-config/cls-c", "of another name than cls-c").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_that_stopped() {
    let mesh = Mesh::start().await;
    mesh.heartbeat(600);
    fails(&mesh, "heartbeat", "written 60", "has stopped writing").await;
    mesh.delete(keys::HEARTBEAT);
    fails(&mesh, "heartbeat", "there has never been one", "has stopped writing").await;
    // Old by the writer's clock only: it is being written.
    let store = mesh.store.clone();
    let beating = tokio::spawn({
        let mesh_put = move || {
            let request = causeway_kvstore::pb::PutRequest {
                key: keys::HEARTBEAT.into(),
                value: "2020-01-01T00:00:00Z".into(),
                ..Default::default()
            };
            store.put(request).unwrap();
        };
        async move {
            loop {
                mesh_put();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    let (ok, cluster) = examine(&mesh, &["--heartbeat-wait", "60s"]).await;
    beating.abort();
    assert!(ok && cluster["verdict"] == "warning", "{cluster:#}");
    assert!(cluster["cause"]["finding"].to_string().contains("but it is being written"), "{cluster:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announcements_that_are_refused() {
    let mesh = Mesh::start().await;
    let key = keys::cluster_config(&mesh.name);
    mesh.delete(&key);
    fails(&mesh, "configuration", "there is no cilium/cluster-config/cls-b", "exactly like").await;
    mesh.put(&key, b"garbage");
    fails(&mesh, "configuration", "cluster-config/cls-b", "correct the endpoint").await;
    mesh.announce(300);
    fails(&mesh, "configuration", "300", "between 1 and 255").await;
    // This cluster's own id, known from its settings.
    mesh.announce(7);
    let settings = mesh.dir.path().join("settings");
    std::fs::create_dir(&settings).unwrap();
    std::fs::write(settings.join("cluster-id"), "7").unwrap();
    let settings = settings.display().to_string();
    let (ok, cluster) = examine(&mesh, &["--config-dir", &settings]).await;
    assert!(!ok && cluster["cause"]["finding"].to_string().contains("this cluster's own"), "{cluster:#}");
    // Another remote cluster's id.
    let twin = Mesh::start_as("cls-c", 7).await;
    let theirs = twin.client("remote");
    let text = format!(
        "endpoints:\n- https://cls-c.mesh.cilium.io:{}\ncilium-host-aliases:\n- hostname: cls-c.mesh.cilium.io\n  \
         ips: [127.0.0.1]\ntrusted-ca-file: {}\ncert-file: {}\nkey-file: {}\n",
        twin.port,
        theirs.ca.display(),
        theirs.cert.display(),
        theirs.key.display()
    );
    std::fs::write(mesh.peers().join("cls-c"), text).unwrap();
    fails(&mesh, "configuration", "cluster id 7, and so does cls-c", "another cluster-id").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_that_is_not_complete() {
    let mesh = Mesh::start().await;
    mesh.delete(&keys::marker(&mesh.name, Layout::Native, Kind::Ip));
    let cause = fails(&mesh, "sync", "not marked as complete: ip", "has not listed them completely").await;
    assert!(cause["details"].to_string().contains("2 ip"), "{cause:#}");
}
