//! `causeway kvstore get | watch | status`.

use std::process::Stdio;

use causeway_mesh::keys::{self, Kind, Layout};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::fixture::{Mesh, PATIENCE, causeway, stderr, stdout};

const ADDRESSES: &str = "cilium/state/ip/v1/default/";

/// `kvstore VERB --cluster cls-b …`
fn words<'a>(verb: &'a str, peers: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut words = vec!["kvstore", verb, "--cluster", "cls-b", "--clustermesh-config", peers];
    words.extend(more);
    words
}

async fn run(mesh: &Mesh, verb: &str, more: &[&str]) -> std::process::Output {
    let peers = mesh.peers().display().to_string();
    causeway(&words(verb, &peers, more)).await
}

async fn json(mesh: &Mesh, verb: &str, more: &[&str]) -> Value {
    let output = run(mesh, verb, &[more, &["-o", "json"]].concat()).await;
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn get_shows_keys_of_one_revision() {
    let mesh = Mesh::start().await;
    let one = run(&mesh, "get", &["cilium/state/ip/v1/default/10.2.0.21"]).await;
    let text = stdout(&one);
    assert!(text.starts_with("cilium/state/ip/v1/default/10.2.0.21  revision "), "{text}");
    assert!(text.contains("\n    \"HostIP\": \"172.20.0.11\",\n"), "{text}");
    // More than one page of them.
    for n in 0..600 {
        mesh.put(&format!("{ADDRESSES}10.9.{}.{}", n / 200, n % 200), b"{}");
    }
    let all = json(&mesh, "get", &["--prefix", ADDRESSES]).await;
    assert_eq!((all["count"].as_i64(), all["kvs"].as_array().unwrap().len()), (Some(602), 602));
    assert_eq!(all["kvs"][0]["value"]["ID"], 140_013);
    assert_eq!(all["revision"], mesh.store.revision());
    let few = json(&mesh, "get", &["--prefix", ADDRESSES, "--limit", "3", "--keys-only"]).await;
    assert_eq!((few["count"].as_i64(), few["kvs"].as_array().unwrap().len()), (Some(602), 3));
    assert_eq!(few["kvs"][2].get("value"), None);
    let keys = stdout(&run(&mesh, "get", &["--prefix", ADDRESSES, "--keys-only"]).await);
    assert_eq!(keys.lines().count(), 602);
    assert_eq!(keys.lines().next(), Some("cilium/state/ip/v1/default/10.2.0.21"));
    assert_eq!(stdout(&run(&mesh, "get", &["--prefix", ADDRESSES, "--count-only"]).await), "602\n");
    // The past, and nothing.
    let before = all["kvs"][0]["mod-revision"].to_string();
    let then = json(&mesh, "get", &["--prefix", ADDRESSES, "--rev", &before]).await;
    assert_eq!(then["kvs"].as_array().unwrap().len(), 1);
    let none = run(&mesh, "get", &["cilium/state/ip/v1/default/1.1.1.1"]).await;
    assert!(!none.status.success() && stderr(&none).contains("there is no key"), "{none:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_are_found_in_three_ways_and_refusals_are_named() {
    let mesh = Mesh::start().await;
    let files = mesh.client("admin-cls-b");
    let peer = mesh.peers().join("cls-b").display().to_string();
    let by_file = causeway(&["kvstore", "get", "--config", &peer, "--prefix", "--count-only"]).await;
    assert_eq!(stdout(&by_file).trim().parse::<usize>().unwrap(), 9, "{by_file:?}");
    // The server's certificate is not for the address.
    let url = format!("https://127.0.0.1:{}", mesh.port);
    let [ca, cert, key] = [&files.ca, &files.cert, &files.key].map(|file| file.display().to_string());
    let mut by_flags =
        vec!["kvstore", "get", "--endpoints", &url, "--cacert", &ca, "--cert", &cert, "--key", &key, "x"];
    let refused = causeway(&by_flags).await;
    assert!(stderr(&refused).contains("is not for the name \"127.0.0.1\""), "{refused:?}");
    mesh.serve_with(&["127.0.0.1"], &mesh.ca, crate::fixture::GOOD);
    *by_flags.last_mut().unwrap() = keys::HEARTBEAT;
    let found = causeway(&by_flags).await;
    assert!(stdout(&found).starts_with("cilium/.heartbeat  revision"), "{found:?}");

    let vague = causeway(&["kvstore", "get", "x"]).await;
    assert!(stderr(&vague).contains("--cluster NAME"), "{vague:?}");
    mesh.serve_with(&["*.mesh.cilium.io"], &mesh.ca, crate::fixture::GOOD);
    mesh.client("remote");
    let denied = run(&mesh, "get", &["--prefix", "cilium/cache/"]).await;
    assert!(!denied.status.success() && stderr(&denied).contains("permission denied"), "{denied:?}");
}

/// A watch in another process.
struct Watching {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watching {
    /// Returns once the server has the watch.
    async fn start(mesh: &Mesh, more: &[&str]) -> Self {
        let peers = mesh.peers().display().to_string();
        let mut child = Command::new(env!("CARGO_BIN_EXE_causeway"))
            .args(words("watch", &peers, more))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
        let first = timeout(PATIENCE, told.next_line()).await.unwrap().unwrap();
        assert!(first.as_ref().is_some_and(|line| line.starts_with("watching ")), "{first:?}");
        Self { child, lines }
    }

    async fn line(&mut self) -> String {
        timeout(PATIENCE, self.lines.next_line()).await.expect("a line comes").unwrap().expect("it goes on")
    }

    /// Interrupts it as Ctrl-C does; it ends well.
    async fn interrupt(mut self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().unwrap() as i32), signal).unwrap();
        let status = timeout(PATIENCE, self.child.wait()).await.expect("it ends").unwrap();
        assert!(status.success(), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_follows_until_interrupted() {
    let mesh = Mesh::start().await;
    let mut watching = Watching::start(&mesh, &["--prefix", ADDRESSES]).await;
    mesh.put(&format!("{ADDRESSES}10.9.0.1"), b"");
    mesh.delete(&format!("{ADDRESSES}10.9.0.1"));
    assert!(watching.line().await.starts_with("put cilium/state/ip/v1/default/10.9.0.1  revision "));
    let since = mesh.store.revision();
    let gone = format!("delete cilium/state/ip/v1/default/10.9.0.1  revision {since}");
    assert_eq!(watching.line().await, gone);
    watching.interrupt(Signal::SIGINT).await;
    // The past first, as JSON.
    let since = since.to_string();
    let mut watching =
        Watching::start(&mesh, &["--prefix", ADDRESSES, "--since", &since, "-o", "json"]).await;
    let event: Value = serde_json::from_str(&watching.line().await).unwrap();
    assert_eq!(event["event"], "delete");
    mesh.put(&format!("{ADDRESSES}10.9.0.2"), b"{\"ID\":1}");
    let event: Value = serde_json::from_str(&watching.line().await).unwrap();
    assert_eq!((&event["event"], &event["value"]["ID"]), (&"put".into(), &1.into()));
    watching.interrupt(Signal::SIGTERM).await;
    // A past that is gone.
    mesh.store.compact(mesh.store.revision()).unwrap();
    let gone = run(&mesh, "watch", &["--prefix", ADDRESSES, "--since", "2"]).await;
    let oldest = format!("--since {} is the oldest", mesh.store.revision());
    assert!(!gone.status.success() && stderr(&gone).contains(&oldest), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_shows_content_and_clusters() {
    let mesh = Mesh::start().await;
    mesh.delete(&keys::marker(&mesh.name, Layout::Native, Kind::Ip));
    let output = run(&mesh, "status", &[]).await;
    let text = stdout(&output);
    assert!(output.status.success(), "{output:?}");
    for part in [
        format!("revision {}", mesh.store.revision()),
        "is the leader".to_owned(),
        " s ago".to_owned(),
        "       2 cilium/state/ip/v1/".to_owned(),
        "cls-b has id 2, not marked as complete: ip".to_owned(),
        "our user may not read cilium/cache/nodes/v1/".to_owned(),
    ] {
        assert!(text.contains(&part), "{part:?} in\n{text}");
    }
    // An administrator sees every cluster and everything.
    mesh.client("admin-cls-b");
    mesh.put("cilium/cluster-config/cls-c", br#"{"id":3,"capabilities":{"cached":true}}"#);
    let status = json(&mesh, "status", &[]).await;
    assert_eq!(status[0]["hidden"], serde_json::json!([]));
    assert_eq!(status[0]["clusters"][1]["name"], "cls-c");
    assert_eq!(status[0]["clusters"][1]["cached"], true);
    assert_eq!(status[0]["cluster-id"], format!("{:x}", mesh.store.cluster_id()));
    // An endpoint that does not answer is an error, the others are shown.
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    mesh.peer("cls-b", &[mesh.port, free], &mesh.host());
    let half = run(&mesh, "status", &[]).await;
    assert!(!half.status.success() && stderr(&half).contains("1 of 2 endpoints"), "{half:?}");
    assert!(stdout(&half).contains("is the leader") && stdout(&half).contains("cannot connect"), "{half:?}");
}
