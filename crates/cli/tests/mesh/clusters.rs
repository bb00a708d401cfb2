//! The clusters of a lab of the test's own. The lab belongs to a child that takes it down when the test ends, however it
//! ends. Its name has the number of the test's process, so that several runs can be side by side.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use causeway_lab::Lab;
use causeway_lab::runtime::registry::PodRecord;
use causeway_lab::state::LabDir;
use causeway_lab::topology::plan::API_PORT;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

pub(crate) const ONE: &str = "cls-gz3k8a2m";
pub(crate) const TWO: &str = "cls-sh7d4f9q";
/// Only in labs of [`THREE_CLUSTERS`].
pub(crate) const THREE: &str = "cls-cd5p6t2w";
/// A topology of three clusters, the first with two nodes.
pub(crate) const THREE_CLUSTERS: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mesh/three/topology.yaml");
/// Nobody waits so long unless something is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) struct Clusters {
    user: Child,
    pub(crate) lab: Lab,
}

impl Clusters {
    /// The default topology, not connected.
    pub(crate) fn up(name: &str) -> Clusters {
        Self::up_with(name, &[])
    }

    /// The same with more flags of `lab up`.
    pub(crate) fn up_with(name: &str, flags: &[&str]) -> Clusters {
        static SWEPT: Once = Once::new();
        SWEPT.call_once(remove_labs_of_dead_tests);
        let name = format!("{name}-{}", std::process::id());
        let mut command = Command::new(env!("CARGO_BIN_EXE_causeway"));
        command.args(["lab", "--name", &name, "up", "--foreground"]).args(flags).stdout(Stdio::piped());
        // SAFETY: prctl with an integer, nothing of ours in memory is touched.
        unsafe {
            command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).map_err(Into::into));
        }
        let mut user = command.spawn().unwrap();
        let mut lines = BufReader::new(user.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|l| l.starts_with("export KUBECONFIG=")), "the lab did not come up");
        // What it still has to say is read, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Clusters { user, lab: Lab::open(&name).unwrap() }
    }

    /// Connected, and ready with each other.
    pub(crate) fn meshed(name: &str) -> Clusters {
        Self::meshed_with(name, &[])
    }

    /// The same with more flags of `lab up`.
    pub(crate) fn meshed_with(name: &str, flags: &[&str]) -> Clusters {
        let clusters = Self::up_with(name, flags);
        clusters.connect();
        clusters.names().iter().for_each(|context| clusters.ready(context));
        clusters
    }

    /// The clusters there are.
    pub(crate) fn names(&self) -> Vec<String> {
        self.lab.plan().clusters.iter().map(|cluster| cluster.name.clone()).collect()
    }

    /// Installs once more, now with a cache of the other clusters in the mesh server. Connect after it.
    pub(crate) fn cache(&self, cluster: &str) {
        self.install(cluster, &["--enable-kvstoremesh"]);
        self.rolled_out(cluster, "clustermesh-apiserver");
    }

    /// Installs once more, now with the operator and all it can do.
    pub(crate) fn operator(&self, cluster: &str) {
        self.install(cluster, &["--enable-mcs-api", "--enable-endpoint-slice-synchronization"]);
        self.rolled_out(cluster, "clustermesh-apiserver");
        self.rolled_out(cluster, "causeway-operator");
    }

    /// Waits until a Deployment of the installation is as it should be.
    pub(crate) fn rolled_out(&self, cluster: &str, deployment: &str) {
        let deployment = format!("deployment/{deployment}");
        self.kubectl(cluster, &["-n", "kube-system", "rollout", "status", &deployment, "--timeout=60s"]);
    }

    /// Installs once more, as an operator would, with more flags; what it said.
    pub(crate) fn install(&self, cluster: &str, flags: &[&str]) -> String {
        let plan = self.lab.plan();
        let of = plan.clusters.iter().find(|plan| plan.name == cluster).unwrap();
        let (id, api) = (of.id.to_string(), format!("{}:{API_PORT}", of.api_server));
        let subnet = &plan.subnets[of.subnet].id;
        let place = ["--context", cluster, "--cluster-id", &id, "--subnet-id", subnet, "--api-server", &api];
        self.causeway(&[&["install"], flags, &place[..]].concat())
    }

    /// Every cluster with every other one.
    pub(crate) fn connect(&self) -> String {
        let (names, others) = (self.names(), self.names()[1..].join(","));
        let peers = ["--context", &names[0], "--destination-context", &others, "--connection-mode", "mesh"];
        self.causeway(&[&["clustermesh", "connect"], &peers[..]].concat())
    }

    /// Waits until all agents of a cluster are ready with all peers.
    pub(crate) fn ready(&self, context: &str) {
        self.causeway(&["clustermesh", "status", "--context", context, "--wait", "--wait-duration", "2m"]);
    }

    /// `clustermesh status -o json`, as it is now.
    pub(crate) fn status(&self, context: &str) -> Value {
        let output = self.try_causeway(&["clustermesh", "status", "--context", context, "-o", "json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
    }

    pub(crate) fn try_causeway(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_causeway"));
        command.env("KUBECONFIG", self.lab.kubeconfig()).env("CAUSEWAY_LAB", self.lab.dir().name());
        command.args(args).output().unwrap()
    }

    pub(crate) fn causeway(&self, args: &[&str]) -> String {
        good(&format!("causeway {args:?}"), self.try_causeway(args))
    }

    pub(crate) fn kubectl(&self, cluster: &str, args: &[&str]) -> String {
        good(&format!("kubectl {args:?}"), self.lab.kubectl(cluster, args).unwrap())
    }

    pub(crate) fn apply(&self, cluster: &str, manifest: &str) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(manifest.as_bytes()).unwrap();
        self.kubectl(cluster, &["apply", "-f", file.path().to_str().unwrap()]);
    }

    /// A pod on a node that echoes TCP and UDP on port 7000; its address.
    pub(crate) fn echo_pod(&self, cluster: &str, name: &str, node: &str) -> String {
        let container = |kind: &str| {
            format!(
                "  - name: {kind}\n    image: causeway\n    command: [/usr/local/bin/causeway, lab, workload, {kind}, \
                 --listen, ':7000']\n"
            )
        };
        let manifest = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  \
             nodeName: {node}\n  terminationGracePeriodSeconds: 1\n  containers:\n{}{}",
            container("tcp-echo"),
            container("udp-echo")
        );
        self.apply(cluster, &manifest);
        self.kubectl(cluster, &["wait", "--for", "condition=Ready", &format!("pod/{name}"), "--timeout=60s"]);
        self.kubectl(cluster, &["get", "pod", name, "-o", "jsonpath={.status.podIP}"])
    }

    /// The web Deployment and its global Service of `examples/` in both clusters, ready, and a client in the first.
    pub(crate) fn web(&self) -> String {
        let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
        let file = |name: &str| format!("{examples}/{name}.yaml");
        for cluster in [ONE, TWO] {
            self.apply(cluster, "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n");
            let name = format!("--from-literal=name={cluster}");
            self.kubectl(cluster, &["create", "configmap", "cluster", "-n", "shop", &name]);
            self.kubectl(cluster, &["apply", "-f", &file("web")]);
        }
        self.kubectl(ONE, &["apply", "-f", &file("client")]);
        for cluster in [ONE, TWO] {
            self.kubectl(cluster, &["-n", "shop", "rollout", "status", "deployment/web", "--timeout=60s"]);
        }
        self.kubectl(ONE, &["-n", "shop", "wait", "--for", "condition=Ready", "pod/client", "--timeout=60s"]);
        let ip = ["-n", "shop", "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"];
        format!("http://{}", self.kubectl(ONE, &ip))
    }

    /// Sends requests from a cluster's pod `client`, by a client of the workloads (`request`, `udp-request`) with its
    /// arguments: what it counted.
    pub(crate) fn counts(&self, from: &str, args: &[&str]) -> Value {
        let argv = [&["causeway", "lab", "workload"], args, &["-o", "json"]].concat();
        let output = self.lab.exec(from, "shop", "client", &argv).unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {output:?}"))
    }

    /// Asks until exactly these clusters answer, and all is answered: pods that go or come may cost a request.
    pub(crate) fn answered_by(&self, url: &str, clusters: &[&str]) {
        until(&format!("answers of {clusters:?}"), || {
            answering(&self.counts(ONE, &["request", url, "--count", "60"])) == clusters
        });
    }

    /// Nothing goes or comes: every request must be answered, the first time, by exactly these clusters.
    pub(crate) fn always_answered_by(&self, url: &str, clusters: &[&str]) {
        let counts = self.counts(ONE, &["request", url, "--count", "60"]);
        assert_eq!(answering(&counts), clusters, "{counts}");
    }

    /// Runs a workload in a pod of the default namespace.
    pub(crate) fn workload(&self, cluster: &str, pod: &str, args: &[&str]) -> String {
        let argv = [&["causeway", "lab", "workload"], args].concat();
        good(&format!("{pod}: {args:?}"), self.lab.exec(cluster, "default", pod, &argv).unwrap())
    }

    pub(crate) fn on_node(&self, cluster: &str, node: &str, argv: &[&str]) -> String {
        good(&format!("{node}: {argv:?}"), self.lab.node_exec(cluster, node, argv).unwrap())
    }

    /// The addresses in a node's pinned ipcache maps, as hexadecimal digits in the order of the wire.
    pub(crate) fn ipcache(&self, cluster: &str, node: &str) -> Vec<String> {
        let dump = |map: &str| -> Vec<Value> {
            // The version of the maps' layout is no business of this test.
            let dump = format!("bpftool -j map dump pinned /sys/fs/bpf/causeway/maps-v*/{map}");
            let text = self.on_node(cluster, node, &["sh", "-c", &dump]);
            serde_json::from_str(&text).unwrap()
        };
        let hex = |entry: &Value, from: usize| {
            let bytes = entry["key"].as_array().unwrap().iter().skip(from).take(4);
            bytes.map(|b| b.as_str().unwrap().trim_start_matches("0x").to_owned()).collect::<String>()
        };
        // Both keys hold the address behind the family; that of the trie has the prefix length before it.
        let exact = dump("cw_ipcache");
        let prefixes = dump("cw_ipcache_lpm");
        exact.iter().map(|e| hex(e, 4)).chain(prefixes.iter().map(|e| hex(e, 8))).collect()
    }

    /// The process of the agent on a node; none while there is none.
    pub(crate) fn agent(&self, cluster: &str, node: &str) -> Option<Pid> {
        self.processes(cluster, node, "causeway-").first().copied()
    }

    /// The processes of the mesh server of a cluster, one per replica that runs.
    pub(crate) fn apiservers(&self, cluster: &str) -> Vec<Pid> {
        let plan = self.lab.plan();
        let of = plan.clusters.iter().find(|plan| plan.name == cluster).unwrap();
        of.nodes
            .iter()
            .flat_map(|node| self.processes(cluster, &node.name, "clustermesh-apiserver-"))
            .collect()
    }

    /// The first process of each pod on a node whose name begins like this.
    fn processes(&self, cluster: &str, node: &str, pod: &str) -> Vec<Pid> {
        let records = PodRecord::list(&self.lab.dir().node(cluster, node));
        let pods = records.iter().filter(|record| record.name.starts_with(pod));
        pods.filter_map(|record| Some(Pid::from_raw(record.containers.first()?.pid as i32))).collect()
    }
}

impl Drop for Clusters {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.user.id() as i32), Signal::SIGTERM);
        let _ = self.user.wait();
    }
}

/// The clusters that answered, in the order of their names, and `nobody` if something was not answered.
pub(crate) fn answering(counts: &Value) -> Vec<String> {
    let mut clusters: Vec<String> = counts["clusters"].as_object().unwrap().keys().cloned().collect();
    if counts["answered"] != counts["requests"] {
        clusters.push("nobody".into());
    }
    clusters
}

/// Takes down what labs of tests have left whose process is gone: where everything was killed at once,
/// nobody was left to clean up. A lab that still lives goes down by itself when its test has.
fn remove_labs_of_dead_tests() {
    for dir in LabDir::all().unwrap() {
        let test =
            dir.name().strip_prefix("t-").and_then(|name| name.rsplit_once('-')?.1.parse::<u32>().ok());
        if test.is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()) && !dir.is_alive()
        {
            causeway_lab::lab::down(&dir).unwrap();
        }
    }
}

/// What a command that must succeed printed.
pub(crate) fn good(what: &str, output: Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{what}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !so() {
        assert!(Instant::now() < deadline, "still waiting for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
