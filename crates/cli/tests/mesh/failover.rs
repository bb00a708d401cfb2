//! Many clients, while what serves them changes: 500 requests a second, each on a new connection, and what fails is counted.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use causeway_lab::runtime::spawn;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::clusters::{Clusters, ONE, TWO, until};

/// Requests a second.
const RATE: u64 = 500;
/// For at least so long, so that what comes late is seen too.
const WHILE: Duration = Duration::from_secs(4);

/// Clients of the first cluster that ask all the time.
struct Load {
    process: Child,
    _description: OwnedFd,
}

impl Load {
    fn start(mesh: &Clusters, url: &str) -> Load {
        let rate = RATE.to_string();
        let ask = ["causeway", "lab", "workload", "request", url, "--rate", &rate];
        let argv = [&ask[..], &["--count", "1000000", "-o", "json"]].concat();
        let client = mesh.lab.in_pod(Some(ONE), "shop", "client", None, &argv).unwrap();
        let (_description, mut command) = spawn::command(&mesh.lab.dir().executable(), &client).unwrap();
        Load { process: command.stdout(Stdio::piped()).spawn().unwrap(), _description }
    }

    /// Asks no more; what became of the requests.
    fn stop(mut self) -> Value {
        kill(Pid::from_raw(self.process.id() as i32), Signal::SIGTERM).unwrap();
        let mut text = String::new();
        self.process.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        self.process.wait().unwrap();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What becomes of the requests while something happens.
pub(crate) fn during(mesh: &Clusters, url: &str, what: &str, happens: impl FnOnce()) -> Value {
    let (load, started) = (Load::start(mesh, url), Instant::now());
    happens();
    until("clients to have asked for a while", || started.elapsed() > WHILE);
    let counts = load.stop();
    println!("{what}: {counts}");
    assert!(counts["answered"].as_u64() > Some(RATE), "{what}: {counts}");
    counts
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
