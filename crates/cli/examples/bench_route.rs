//! How long after a pod of cluster 2 is ready can cluster 1 route to it and balance over it?
//!
//! ```text
//! bench_route [--causeway target/debug/causeway] [--pods 20]
//! ```
//! Brings up a lab of its own, meshes it, creates pods behind a global Service one after the other and notes on one
//! clock when each stage shows: in cluster 2's API, in its mesh store (an etcd watch), in the maps of a node of
//! cluster 1 (looked at every [`LOOK`]). Prints one JSON line with the milliseconds of every pod. The lab goes down
//! with this process.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use causeway_datapath::inspect::Inspector;
use causeway_kvstore::client::{Client, ClientConfig, WatchMessage};
use causeway_kvstore::tls::TlsFiles;
use causeway_kvstore::{WatchOptions, pb};
use causeway_lab::Lab;
use causeway_lab::runtime::NetNs;
use causeway_model::Protocol;
use causeway_model::lb::L4Addr;
use clap::Parser;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const NAME: &str = "bench-route";
const ONE: &str = "cls-gz3k8a2m";
const TWO: &str = "cls-sh7d4f9q";
const SERVICE: &str = "route";
const PORT: u16 = 8080;
/// How often the maps are looked at; the resolution of what they show.
const LOOK: Duration = Duration::from_micros(500);
/// Nothing here takes so long unless it is broken.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, Parser)]
struct Args {
    /// The executable the lab runs
    #[arg(long, default_value = "target/debug/causeway")]
    causeway: PathBuf,
    /// Pods to create, one after the other
    #[arg(long, default_value_t = 20)]
    pods: usize,
}

/// Where a pod has been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Ready in cluster 2's API.
    Ready,
    /// Its CiliumEndpoint in cluster 2's API.
    Endpoint,
    /// Its address in cluster 2's mesh store.
    AddressKey,
    /// Its address in cluster 1's ipcache.
    Route,
    /// Ready in an EndpointSlice of cluster 2.
    Slice,
    /// A backend of the Service in cluster 2's mesh store.
    ServiceKey,
    /// A backend of the Service in cluster 1's maps.
    Backend,
}

const STAGES: usize = 7;

/// A pod's address was first seen at a stage.
type Seen = (Stage, IpAddr, Instant);

/// The lab's owner: a child that takes it down when it ends, or when we do.
struct Owner(Child);

impl Owner {
    fn start(causeway: &Path) -> Result<Self> {
        let mut command = Command::new(causeway);
        command.args(["lab", "--name", NAME, "up", "--foreground"]).stdout(Stdio::piped());
        // SAFETY: prctl with an integer, nothing of ours in memory is touched.
        unsafe {
            command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).map_err(Into::into));
        }
        let mut child = command.spawn().with_context(|| format!("start {}", causeway.display()))?;
        let output = child.stdout.take().context("its output is a pipe")?;
        let owner = Self(child);
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        ensure!(lines.any(|line| line.starts_with("export KUBECONFIG=")), "the lab did not come up");
        std::thread::spawn(move || lines.for_each(drop));
        Ok(owner)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    // The death signal follows the thread that started the child: this one, which lives as long as the process.
    let _owner = Owner::start(&args.causeway)?;
    let lab = Lab::open(NAME)?;
    let causeway = |words: &[&str]| -> Result<()> {
        let mut command = Command::new(&args.causeway);
        command.env("KUBECONFIG", lab.kubeconfig()).args(words);
        let output = command.output()?;
        ensure!(output.status.success(), "causeway {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    causeway(&["clustermesh", "connect", "--context", ONE, "--destination-context", TWO])?;
    for context in [ONE, TWO] {
        causeway(&["clustermesh", "status", "--context", context, "--wait", "--wait-duration", "2m"])?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let samples = runtime.block_on(measure(&lab, args.pods))?;
    println!("{}", json!({ "samples": samples }));
    Ok(())
}

async fn measure(lab: &Lab, pods: usize) -> Result<Vec<Value>> {
    let (one, two) = (lab.client(ONE).await?, lab.client(TWO).await?);
    let frontend = service(&one).await?;
    service(&two).await?;
    let (sender, seen) = channel();
    watch_api(&two, &sender);
    let files = tempfile::tempdir()?;
    watch_store(lab, store_config(&two, files.path()).await?, sender.clone())?;
    let pid = lab.node_pid(ONE, &format!("{ONE}-1"))?;
    let inspector = Inspector::open(Path::new(&format!("/proc/{pid}/root/sys/fs/bpf")))?;
    std::thread::spawn(move || look(&inspector, frontend, &sender));
    let mut samples = Vec::new();
    for n in 0..pods {
        create_pod(&two, n).await?;
        let times = tokio::task::block_in_place(|| follow(&seen))?;
        samples.push(sample(&times));
        eprintln!("pod {} of {pods}: {}", n + 1, samples[n]);
    }
    Ok(samples)
}

/// The global Service in one cluster; where its clients connect to.
async fn service(client: &kube::Client) -> Result<L4Addr> {
    let object = json!({
        "metadata": {"name": SERVICE, "annotations": {"service.cilium.io/global": "true"}},
        "spec": {"selector": {"app": SERVICE}, "ports": [{"name": "http", "port": 80, "targetPort": PORT}]},
    });
    let api: Api<Service> = Api::default_namespaced(client.clone());
    let made = api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    let ip = made.spec.and_then(|s| s.cluster_ip).context("the Service has no address")?;
    Ok(L4Addr { ip: ip.parse()?, port: 80, protocol: Protocol::TCP })
}

async fn create_pod(client: &kube::Client, n: usize) -> Result<()> {
    let listen = format!(":{PORT}");
    let object = json!({
        "metadata": {"name": format!("{SERVICE}-{n}"), "labels": {"app": SERVICE}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "web", "image": "causeway",
            "command": ["/usr/local/bin/causeway", "lab", "workload", "http", "--listen", listen],
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": PORT}, "periodSeconds": 1},
        }]},
    });
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    Ok(())
}

/// Waits until one new pod has been seen at every stage.
fn follow(seen: &Receiver<Seen>) -> Result<BTreeMap<Stage, Instant>> {
    let mut pods: BTreeMap<IpAddr, BTreeMap<Stage, Instant>> = BTreeMap::new();
    let deadline = Instant::now() + LIMIT;
    loop {
        let Ok((stage, ip, at)) = seen.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        else {
            bail!("no pod was seen at every stage within {} s, but: {pods:?}", LIMIT.as_secs());
        };
        let stages = pods.entry(ip).or_default();
        stages.entry(stage).or_insert(at);
        if stages.len() == STAGES {
            return Ok(std::mem::take(stages));
        }
    }
}

/// Milliseconds from stage to stage; one that shows before its predecessor took none.
fn sample(at: &BTreeMap<Stage, Instant>) -> Value {
    let from = |a: Stage, b: Stage| at[&b].saturating_duration_since(at[&a]).as_secs_f64() * 1e3;
    let both = at[&Stage::Route].max(at[&Stage::Backend]);
    json!({
        "ready_to_all": both.saturating_duration_since(at[&Stage::Ready]).as_secs_f64() * 1e3,
        "endpoint_to_route": from(Stage::Endpoint, Stage::Route),
        "endpoint_to_key": from(Stage::Endpoint, Stage::AddressKey),
        "key_to_route": from(Stage::AddressKey, Stage::Route),
        "ready_to_backend": from(Stage::Ready, Stage::Backend),
        "ready_to_slice": from(Stage::Ready, Stage::Slice),
        "slice_to_key": from(Stage::Slice, Stage::ServiceKey),
        "key_to_backend": from(Stage::ServiceKey, Stage::Backend),
    })
}

/// What cluster 2's API shows: pods, CiliumEndpoints and EndpointSlices.
fn watch_api(client: &kube::Client, sender: &Sender<Seen>) {
    let follow = |stream: futures::stream::BoxStream<'static, (Stage, Vec<IpAddr>)>| {
        let sender = sender.clone();
        tokio::spawn(async move {
            let mut stream = stream;
            while let Some((stage, ips)) = stream.next().await {
                let now = Instant::now();
                for ip in ips {
                    let _ = sender.send((stage, ip, now));
                }
            }
        })
    };
    let ours = || watcher::Config::default().labels(&format!("app={SERVICE}"));
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let ready = watcher(pods, ours()).default_backoff().applied_objects();
    follow(ready.filter_map(async |pod| Some((Stage::Ready, ready_ip(&pod.ok()?)))).boxed());

    let slices: Api<EndpointSlice> = Api::default_namespaced(client.clone());
    let of_service = watcher::Config::default().labels(&format!("kubernetes.io/service-name={SERVICE}"));
    let slices = watcher(slices, of_service).default_backoff().applied_objects();
    follow(slices.filter_map(async |slice| Some((Stage::Slice, backends(&slice.ok()?)))).boxed());

    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("cilium.io", "v2", "CiliumEndpoint"));
    let endpoints: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &kind);
    let endpoints = watcher(endpoints, watcher::Config::default()).default_backoff().applied_objects();
    follow(endpoints.filter_map(async |e| Some((Stage::Endpoint, endpoint_ips(&e.ok()?)))).boxed());
}

fn ready_ip(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return vec![] };
    let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    status.pod_ip.iter().filter(|_| ready).filter_map(|ip| ip.parse().ok()).collect()
}

fn backends(slice: &EndpointSlice) -> Vec<IpAddr> {
    let ready =
        slice.endpoints.iter().filter(|e| e.conditions.as_ref().is_none_or(|c| c.ready != Some(false)));
    ready.flat_map(|e| &e.addresses).filter_map(|ip| ip.parse().ok()).collect()
}

fn endpoint_ips(endpoint: &DynamicObject) -> Vec<IpAddr> {
    if !endpoint.name_any().starts_with(SERVICE) {
        return vec![];
    }
    let pairs = endpoint.data.pointer("/status/networking/addressing").and_then(Value::as_array);
    let ips = pairs.into_iter().flatten().filter_map(|pair| pair["ipv4"].as_str());
    ips.filter_map(|ip| ip.parse().ok()).collect()
}

/// How to read cluster 2's mesh store: as one of its peers would.
async fn store_config(client: &kube::Client, files: &Path) -> Result<ClientConfig> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "kube-system");
    let secret = secrets.get("clustermesh-apiserver-remote-cert").await?;
    for (name, content) in secret.data.into_iter().flatten() {
        std::fs::write(files.join(name), content.0)?;
    }
    let services: Api<Service> = Api::namespaced(client.clone(), "kube-system");
    let service = services.get("clustermesh-apiserver").await?;
    let ingress = service.status.and_then(|s| s.load_balancer).and_then(|lb| lb.ingress).unwrap_or_default();
    let ip = ingress.into_iter().find_map(|i| i.ip).context("the mesh server has no address")?;
    let host = format!("{TWO}.mesh.cilium.io");
    Ok(ClientConfig {
        endpoints: vec![format!("https://{host}:2379")],
        tls: Some(TlsFiles::in_dir(files)),
        resolve: BTreeMap::from([(host, vec![ip.parse()?])]),
        timeout: Duration::from_secs(10),
    })
}

/// What cluster 2's mesh store tells its readers; it can be reached from inside the lab only.
fn watch_store(lab: &Lab, config: ClientConfig, sender: Sender<Seen>) -> Result<()> {
    let node: NetNs = lab.node_ns(ONE, &format!("{ONE}-1"))?;
    let (ready, started) = channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        drop(node.run(|| {
            let ended = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
                runtime.block_on(async {
                    let client = Client::connect(&config).await?;
                    let mut watch = client.watch(WatchOptions::prefix("cilium/state/", 0)).await?;
                    while let Some(message) = watch.try_next().await? {
                        match message {
                            WatchMessage::Created(_) => drop(ready.send(Ok(()))),
                            WatchMessage::Events(_, events) => {
                                let now = Instant::now();
                                for (stage, ip) in events.iter().flat_map(published) {
                                    let _ = sender.send((stage, ip, now));
                                }
                            }
                            other => bail!("the watch ended: {other:?}"),
                        }
                    }
                    Ok(())
                })
            });
            drop(ready.send(ended.and_then(|()| bail!("the watch ended"))));
            Ok(())
        }));
    });
    started.recv_timeout(LIMIT).context("the mesh store does not answer")?
}

fn published(event: &pb::Event) -> Vec<(Stage, IpAddr)> {
    let Some(kv) = &event.kv else { return vec![] };
    let key = String::from_utf8_lossy(&kv.key);
    if let Some(ip) = key.strip_prefix("cilium/state/ip/v1/default/") {
        return ip.parse().map(|ip| (Stage::AddressKey, ip)).into_iter().collect();
    }
    if key.starts_with("cilium/state/services/") && key.ends_with(&format!("/{SERVICE}")) {
        let value: Value = serde_json::from_slice(&kv.value).unwrap_or_default();
        let ips = value["backends"].as_object().into_iter().flatten();
        return ips.filter_map(|(ip, _)| Some((Stage::ServiceKey, ip.parse().ok()?))).collect();
    }
    vec![]
}

/// What the kernel of a node of cluster 1 knows.
fn look(inspector: &Inspector, frontend: L4Addr, sender: &Sender<Seen>) {
    let (mut routes, mut backends) = (BTreeSet::new(), BTreeSet::new());
    loop {
        let now = Instant::now();
        for entry in inspector.ipcache().unwrap_or_default() {
            let ip = entry.prefix.addr();
            if routes.insert(ip) && sender.send((Stage::Route, ip, now)).is_err() {
                return;
            }
        }
        for backend in inspector.backends(frontend).ok().flatten().unwrap_or_default() {
            if backends.insert(backend.ip) && sender.send((Stage::Backend, backend.ip, now)).is_err() {
                return;
            }
        }
        std::thread::sleep(LOOK);
    }
}
