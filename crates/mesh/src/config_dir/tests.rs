//! Files good and bad, and the swap of a projected volume.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::*;

fn own() -> ClusterName {
    ClusterName::new("cls-a").unwrap()
}

fn b() -> ClusterName {
    ClusterName::new("cls-b").unwrap()
}

fn yaml(dir: &Path, host: &str) -> String {
    for file in ["ca.crt", "tls.crt", "tls.key"] {
        if !dir.join(file).exists() {
            fs::write(dir.join(file), "pem").unwrap();
        }
    }
    let d = dir.display();
    format!(
        "endpoints:\n- https://{host}:2379\ntrusted-ca-file: {d}/ca.crt\nkey-file: {d}/tls.key\ncert-file: {d}/tls.crt\nfuture: 1\ncilium-host-aliases:\n- hostname: {host}\n  ips: [192.0.2.10]\n"
    )
}

fn scan(dir: &Path, peers: &mut Peers) {
    peers.update(file::scan(dir, Some(&own())).unwrap());
}

#[test]
fn bad_files_are_reported_and_the_last_good_one_stays() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let good = yaml(dir, "cls-b.mesh.cilium.io");
    fs::write(dir.join("cls-b"), &good).unwrap();
    fs::write(dir.join("cls-a"), &good).unwrap();
    fs::write(dir.join("Bad_Name"), &good).unwrap();
    fs::write(dir.join("x".repeat(33)), &good).unwrap();
    fs::create_dir(dir.join("directory")).unwrap();
    let mut peers = Peers::default();
    scan(dir, &mut peers);
    assert_eq!(peers.clusters.keys().collect::<Vec<_>>(), [&b()]);
    let held = peers.clusters[&b()].config.clone().unwrap();
    assert_eq!(held.endpoints, ["https://cls-b.mesh.cilium.io:2379"]);
    assert_eq!(held.resolve["cls-b.mesh.cilium.io"], ["192.0.2.10".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(peers.errors.len(), 2, "{:?}", peers.errors);
    assert!(peers.errors[0].contains("Bad_Name") && peers.errors[0].contains("lower-case"));
    for (text, says) in [
        ("endpoints: [\n", "YAML"),
        ("endpoints: []\n", "at least one"),
        ("endpoints: 5\n", "YAML"),
        ("endpoints: [\"cls-b:2379\"]\n", "not a URL"),
        ("endpoints: [\"https://cls-b\"]\n", "no port"),
        (
            "endpoints: [\"https://b:1\"]\ntrusted-ca-file: /nonexistent/ca\n",
            "/nonexistent/ca cannot be read",
        ),
        ("endpoints: [\"https://b:1\"]\ncert-file: /dev/null\n", "belong together"),
    ] {
        fs::write(dir.join("cls-b"), text).unwrap();
        scan(dir, &mut peers);
        let peer = &peers.clusters[&b()];
        assert!(peer.error.as_ref().unwrap().contains(says), "{text}: {:?}", peer.error);
        assert!(peer.error.as_ref().unwrap().contains("cls-b"), "names the file");
        assert_eq!(peer.config.as_ref(), Some(&held), "the last good configuration stays");
    }
    fs::write(dir.join("cls-b"), &good).unwrap();
    fs::write(dir.join("tls.crt"), "renewed").unwrap();
    scan(dir, &mut peers);
    let renewed = peers.clusters[&b()].config.clone().unwrap();
    assert_ne!(renewed.fingerprint, held.fingerprint, "a renewed certificate means a new connection");
    fs::write(dir.join("cls-b"), "nothing").unwrap();
    scan(dir, &mut peers);
    assert!(peers.clusters.is_empty());
    assert!(file::scan(Path::new("/nonexistent/dir"), Some(&own())).unwrap().clusters.is_empty());
}

#[tokio::test]
async fn a_projected_volume_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let text = yaml(dir, "one");
    // As the kubelet does it: name -> ..data/name, ..data -> ..1
    fs::create_dir(dir.join("..1")).unwrap();
    fs::write(dir.join("..1/cls-b"), &text).unwrap();
    symlink("..1", dir.join("..data")).unwrap();
    symlink("..data/cls-b", dir.join("cls-b")).unwrap();
    let shutdown = CancellationToken::new();
    let mut peers = watch(dir.to_owned(), own(), shutdown.clone()).await;
    assert!(peers.borrow().clusters[&b()].config.is_some());
    fs::create_dir(dir.join("..2")).unwrap();
    fs::write(dir.join("..2/cls-b"), text.replace("one", "two")).unwrap();
    symlink("..2", dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    let two = |peers: &Peers| {
        let config = peers.clusters.get(&b()).and_then(|peer| peer.config.as_ref());
        config.is_some_and(|config| config.endpoints[0].contains("two"))
    };
    tokio::time::timeout(Duration::from_secs(30), peers.wait_for(two)).await.unwrap().unwrap();
    fs::remove_file(dir.join("cls-b")).unwrap();
    let gone = |peers: &Peers| peers.clusters.is_empty();
    tokio::time::timeout(Duration::from_secs(30), peers.wait_for(gone)).await.unwrap().unwrap();
    shutdown.cancel();
}
