//! A burst of pods, and when each of them is where: answered by Kubernetes, told to a watcher of
//! Kubernetes, and routable for an agent of the other cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_cluster::crd::CiliumEndpoint;
use causeway_mesh::merge::AddressMerger;
use causeway_mesh::remote::{Options, RemoteChange, RemoteClusters};
use causeway_model::{Event, NodeKey};
use futures::{StreamExt, TryStreamExt, stream};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::kubernetes::{self, cluster, wanted};
use super::processes::{Folders, PATIENCE};

/// Writes at the same time: the agents of so many nodes.
const WRITERS: usize = 32;

/// What a burst was like.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Pods created.
    pub(crate) pods: u32,
    /// Writes Kubernetes answered in a second.
    writes_per_second: f64,
    /// From the answered write until a watcher of Kubernetes was told.
    kubernetes: Quantiles,
    /// From the answered write until the reader of the other cluster had a routable entry.
    lag: Quantiles,
    /// The part of it after a watcher of Kubernetes was told.
    beyond: Quantiles,
    /// Resident memory of the mesh server and of the cache, a second after the burst, bytes.
    apiserver_rss: u64,
    cache_rss: u64,
}

/// Milliseconds.
#[derive(Debug, Serialize)]
struct Quantiles {
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

impl Quantiles {
    fn of(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        let at = |q: f64| samples[((samples.len() - 1) as f64 * q) as usize].as_secs_f64() * 1e3;
        Self { p50_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0) }
    }
}

/// Creates `pods` pods in the cluster of `kubeconfig` and waits until an agent of another cluster can route
/// to each, directly or through a cache. `dir` is for the folders of the processes.
///
/// # Errors
/// When anything does not start, or a pod is not where it should be in time.
pub(crate) async fn run(
    causeway: PathBuf,
    kubeconfig: &Path,
    dir: &Path,
    pods: u32,
    through_cache: bool,
) -> Result<Report> {
    let folders = Folders::new(causeway, dir)?;
    let mut apiserver = folders.apiserver(kubeconfig)?;
    apiserver.process.ready().await.context("the mesh server")?;
    let mut cache = through_cache.then(|| folders.cache(&apiserver.peers)).transpose()?;
    if let Some(cache) = &mut cache {
        cache.process.ready().await.context("the cache")?;
    }
    let client = kubernetes::client(kubeconfig).await?;
    let (watching, watched) = oneshot::channel();
    let told = on_own_thread(watch(kubeconfig.to_owned(), pods, watching));
    let (reading, read) = oneshot::channel();
    let peers = cache.as_ref().map_or(&apiserver.peers, |cache| &cache.peers).clone();
    let routable = on_own_thread(read_all(peers, pods, reading));
    timeout(PATIENCE, watched).await.context("the watcher has not listed")??;
    timeout(PATIENCE, read).await.context("the reader has not listed")??;

    let begun = Instant::now();
    let answered: Vec<Instant> = stream::iter(0..pods)
        .map(|n| {
            let client = client.clone();
            async move {
                kubernetes::create(&client, n).await?;
                anyhow::Ok(Instant::now())
            }
        })
        .buffered(WRITERS)
        .try_collect()
        .await?;
    let seconds = begun.elapsed().as_secs_f64();
    let told = timeout(PATIENCE, told).await.context("Kubernetes has not told of every pod")???;
    let routable = timeout(PATIENCE, routable).await.context("not every pod became routable")???;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let published = apiserver.published()?;
    ensure!(published > pods.into(), "{published} keys are too few");
    // The answer to a write may come after the event of it.
    let between = |from: &[Instant], to: &[Instant]| {
        Quantiles::of(from.iter().zip(to).map(|(from, to)| to.saturating_duration_since(*from)).collect())
    };
    Ok(Report {
        pods,
        writes_per_second: f64::from(pods) / seconds,
        kubernetes: between(&answered, &told),
        lag: between(&answered, &routable),
        beyond: between(&told, &routable),
        apiserver_rss: apiserver.process.resident()?.0,
        cache_rss: cache.map_or(Ok((0, 0)), |cache| cache.process.resident())?.0,
    })
}

/// Runs what would be a process of its own where the writers do not get in its way.
fn on_own_thread<T: Send + 'static>(
    run: impl Future<Output = Result<T>> + Send + 'static,
) -> oneshot::Receiver<Result<T>> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        // Nobody may be waiting any more.
        let _ = sender.send(runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run)));
    });
    receiver
}

/// Says that the first listing is over; a later one is no news, and nobody has to listen.
fn announce(listed: &mut Option<oneshot::Sender<()>>) {
    if let Some(listed) = listed.take() {
        let _ = listed.send(());
    }
}

/// When the watcher of Kubernetes was told of each pod.
async fn watch(kubeconfig: PathBuf, pods: u32, listed: oneshot::Sender<()>) -> Result<Vec<Instant>> {
    let client = kubernetes::client(&kubeconfig).await?;
    let mut events = watcher(Api::<CiliumEndpoint>::all(client), watcher::Config::default()).boxed();
    let (mut seen, mut listed) = (Seen::new(pods), Some(listed));
    while !seen.all() {
        match events.next().await.context("the watch of Kubernetes ended")?? {
            watcher::Event::InitDone => announce(&mut listed),
            watcher::Event::Apply(object) => {
                if let Some(n) = kubernetes::number(&object.name_any()) {
                    seen.mark(n);
                }
            }
            _ => {}
        }
    }
    Ok(seen.into_times())
}

/// When an agent's reader had each pod, with its identity and the node to send to.
async fn read_all(peers: PathBuf, pods: u32, listed: oneshot::Sender<()>) -> Result<Vec<Instant>> {
    let own = cluster("cls-a", 1);
    let stop = CancellationToken::new();
    let _end = stop.clone().drop_guard();
    let (_readers, mut events) = RemoteClusters::spawn(Options::agent(own.clone()), peers, stop).await;
    let mut merger = AddressMerger::new(NodeKey { cluster: own.name, name: "n".into() });
    let (mut seen, mut listed) = (Seen::new(pods), Some(listed));
    while !seen.all() {
        let event = events.recv().await.context("the reader ended")?;
        let changes = match event.change {
            RemoteChange::Address(change) => {
                if change == Event::Synced {
                    announce(&mut listed);
                }
                merger.apply_remote(&event.cluster, change)
            }
            RemoteChange::Node(change) => merger.apply_remote_node(&event.cluster, change),
            _ => continue,
        };
        for change in changes {
            let Event::Upsert(entry) = change else { continue };
            let Some(n) = entry.pod.as_ref().and_then(|pod| kubernetes::number(&pod.name)) else { continue };
            ensure!(entry == wanted(n), "pod {n} is read as {entry:?}");
            seen.mark(n);
        }
    }
    Ok(seen.into_times())
}

/// When each pod was seen first.
struct Seen {
    times: Vec<Option<Instant>>,
    left: usize,
}

impl Seen {
    fn new(pods: u32) -> Self {
        Self { times: vec![None; pods as usize], left: pods as usize }
    }

    fn mark(&mut self, n: u32) {
        if let Some(time @ None) = self.times.get_mut(n as usize) {
            *time = Some(Instant::now());
            self.left -= 1;
        }
    }

    fn all(&self) -> bool {
        self.left == 0
    }

    fn into_times(self) -> Vec<Instant> {
        self.times.into_iter().flatten().collect()
    }
}
