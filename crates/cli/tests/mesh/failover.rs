//! Many clients, while what serves them changes: 500 requests a second, each on a new connection, and what fails is counted.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::clients::Client;
use crate::clusters::{Clusters, ONE, TWO, good, until};

/// Requests a second.
const RATE: u64 = 500;
/// For at least so long after it has happened, so that what comes late is seen too.
const AFTER: Duration = Duration::from_secs(3);

/// How long users wait for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long they wait where nothing may fail. A machine whose processors are busy with other tests lets clients and servers
/// stand still for seconds, with no packet lost; packets that are lost are seen by [`retransmitted`].
const SLOW: Duration = Duration::from_secs(30);

/// What becomes of the requests while something happens.
pub(crate) fn during(mesh: &Clusters, url: &str, what: &str, happens: impl FnOnce()) -> Value {
    let [counts] = during_all(mesh, [(url, RATE)], what, happens);
    counts
}

/// The same with several addresses, each asked at a rate of its own.
pub(crate) fn during_all<const N: usize>(
    mesh: &Clusters,
    asked: [(&str, u64); N],
    what: &str,
    happens: impl FnOnce(),
) -> [Value; N] {
    watch(mesh, asked, PATIENCE, what, happens)
}

/// No request fails while something happens.
pub(crate) fn nothing_fails<const N: usize>(
    mesh: &Clusters,
    asked: [(&str, u64); N],
    what: &str,
    happens: impl FnOnce(),
) {
    for counts in watch(mesh, asked, SLOW, what, happens) {
        assert_eq!(counts["failed"], 0, "{what}: {counts}");
    }
}

fn watch<const N: usize>(
    mesh: &Clusters,
    asked: [(&str, u64); N],
    limit: Duration,
    what: &str,
    happens: impl FnOnce(),
) -> [Value; N] {
    let loads = asked.map(|(url, rate)| (Client::load(mesh, url, rate, limit), url, rate));
    happens();
    let happened = Instant::now();
    until("clients to have asked for a while", || happened.elapsed() > AFTER);
    loads.map(|(load, url, rate)| {
        let counts = load.stop();
        println!("{what}: {url}: {counts}");
        assert!(counts["answered"].as_u64() > Some(rate), "{what}: {counts}");
        counts
    })
}

/// How many TCP segments the client and the backends of both clusters had to send again so far.
fn retransmitted(mesh: &Clusters) -> u64 {
    let read = |cluster: &str, pod: &str| -> u64 {
        let output = mesh.lab.exec(cluster, "shop", pod, &["cat", "/proc/net/snmp"]).unwrap();
        let text = good(pod, output);
        let mut tcp = text.lines().filter_map(|line| line.strip_prefix("Tcp: ")).map(str::split_whitespace);
        let (mut names, mut values) = (tcp.next().unwrap(), tcp.next().unwrap());
        let at = names.position(|name| name == "RetransSegs").unwrap();
        values.nth(at).unwrap().parse().unwrap()
    };
    let backends = |cluster: &str| -> u64 {
        let list = ["-n", "shop", "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.name}"];
        mesh.kubectl(cluster, &list).split_whitespace().map(|pod| read(cluster, pod)).sum()
    };
    read(ONE, "client") + backends(ONE) + backends(TWO)
}

/// Waits until a cluster has so many backends, all ready, and none that is on its way out.
fn settled(mesh: &Clusters, cluster: &str, backends: usize) {
    mesh.kubectl(cluster, &["-n", "shop", "rollout", "status", "deployment/web", "--timeout=60s"]);
    until("those that go to be gone", || {
        let pods = mesh.kubectl(cluster, &["-n", "shop", "get", "pods", "-l", "app=web", "-o", "name"]);
        pods.lines().count() == backends
    });
}

/// Whether the agent of a node answers and has read all other clusters.
fn took_over(mesh: &Clusters, cluster: &str, node: &str) -> bool {
    let output = mesh.lab.node_exec(cluster, node, &["causeway", "status", "-o", "json"]).unwrap();
    let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    status["remotes"].as_array().is_some_and(|all| !all.is_empty() && all.iter().all(|r| r["ready"] == true))
}

#[test]
fn netns_no_request_is_lost_while_backends_and_agents_are_replaced() {
    let mesh = Clusters::meshed("t-failover");
    let url = mesh.web();
    // Servers that are told to go answer for a while: clients cannot know at once.
    let drain =
        r#"[{"op": "add", "path": "/spec/template/spec/containers/0/command/-", "value": "--drain=3"}]"#;
    for cluster in [ONE, TWO] {
        mesh.kubectl(cluster, &["-n", "shop", "patch", "deployment/web", "--type=json", "-p", drain]);
        settled(&mesh, cluster, 2);
    }
    mesh.answered_by(&url, &[ONE, TWO]);

    nothing_fails(&mesh, [(&url, RATE)], "a rolling update replaces all backends", || {
        for cluster in [ONE, TWO] {
            mesh.kubectl(cluster, &["-n", "shop", "rollout", "restart", "deployment/web"]);
        }
        [ONE, TWO].iter().for_each(|cluster| settled(&mesh, cluster, 2));
    });

    nothing_fails(&mesh, [(&url, RATE)], "the local backends go", || {
        mesh.kubectl(ONE, &["-n", "shop", "scale", "deployment/web", "--replicas", "0"]);
        settled(&mesh, ONE, 0);
        mesh.answered_by(&url, &[TWO]);
    });
    mesh.kubectl(ONE, &["-n", "shop", "scale", "deployment/web", "--replicas", "2"]);
    settled(&mesh, ONE, 2);
    mesh.answered_by(&url, &[ONE, TWO]);

    let nodes =
        |cluster: &str| [format!("{cluster}-1"), format!("{cluster}-2")].map(|n| (cluster.to_owned(), n));
    let before = retransmitted(&mesh);
    nothing_fails(&mesh, [(&url, RATE)], "all agents are killed and start again", || {
        for (cluster, node) in [ONE, TWO].into_iter().flat_map(nodes) {
            let killed = mesh.agent(&cluster, &node).unwrap();
            kill(killed, Signal::SIGKILL).unwrap();
            until("another agent", || mesh.agent(&cluster, &node).is_some_and(|now| now != killed));
        }
        // Until each has taken over, and not only has been started.
        for (cluster, node) in [ONE, TWO].into_iter().flat_map(nodes) {
            until(&format!("the agent of {node} to know the other cluster"), || {
                took_over(&mesh, &cluster, &node)
            });
        }
    });
    // A gap in the way of packets of a tenth of a second would cost more.
    let again = retransmitted(&mesh) - before;
    println!("{again} segments were sent again");
    assert!(again < RATE / 10, "{again} segments were lost");
}
