//! Many clients, while what serves them changes: 500 requests a second, each on a new connection, and what fails is counted.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::clients::Client;
use crate::clusters::{Clusters, ONE, TWO, until};

/// Requests a second.
const RATE: u64 = 500;
/// For at least so long, so that what comes late is seen too.
const WHILE: Duration = Duration::from_secs(4);

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
    let (loads, started) =
        (asked.map(|(url, rate)| (Client::load(mesh, url, rate), url, rate)), Instant::now());
    happens();
    until("clients to have asked for a while", || started.elapsed() > WHILE);
    loads.map(|(load, url, rate)| {
        let counts = load.stop();
        println!("{what}: {url}: {counts}");
        assert!(counts["answered"].as_u64() > Some(rate), "{what}: {counts}");
        counts
    })
}

/// Waits until a cluster has so many backends, all ready, and none that is on its way out.
fn settled(mesh: &Clusters, cluster: &str, backends: usize) {
    mesh.kubectl(cluster, &["-n", "shop", "rollout", "status", "deployment/web", "--timeout=60s"]);
    until("those that go to be gone", || {
        let pods = mesh.kubectl(cluster, &["-n", "shop", "get", "pods", "-l", "app=web", "-o", "name"]);
        pods.lines().count() == backends
    });
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

    let counts = during(&mesh, &url, "a rolling update replaces all backends", || {
        for cluster in [ONE, TWO] {
            mesh.kubectl(cluster, &["-n", "shop", "rollout", "restart", "deployment/web"]);
        }
        [ONE, TWO].iter().for_each(|cluster| settled(&mesh, cluster, 2));
    });
    assert_eq!(counts["failed"], 0, "{counts}");

    let counts = during(&mesh, &url, "the local backends go", || {
        mesh.kubectl(ONE, &["-n", "shop", "scale", "deployment/web", "--replicas", "0"]);
        settled(&mesh, ONE, 0);
        mesh.answered_by(&url, &[TWO]);
    });
    assert_eq!(counts["failed"], 0, "{counts}");
    mesh.kubectl(ONE, &["-n", "shop", "scale", "deployment/web", "--replicas", "2"]);
    settled(&mesh, ONE, 2);
    mesh.answered_by(&url, &[ONE, TWO]);

    let nodes =
        |cluster: &str| [format!("{cluster}-1"), format!("{cluster}-2")].map(|n| (cluster.to_owned(), n));
    let counts = during(&mesh, &url, "all agents are killed and start again", || {
        for (cluster, node) in [ONE, TWO].into_iter().flat_map(nodes) {
            let killed = mesh.agent(&cluster, &node).unwrap();
            kill(killed, Signal::SIGKILL).unwrap();
            until("another agent", || mesh.agent(&cluster, &node).is_some_and(|now| now != killed));
        }
        [ONE, TWO].iter().for_each(|cluster| mesh.ready(cluster));
    });
    assert_eq!(counts["failed"], 0, "{counts}");
}
