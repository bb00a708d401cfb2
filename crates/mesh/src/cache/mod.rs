//! Kvstoremesh: the state of every remote cluster, kept in this cluster's own store under Cilium's
//! cached prefixes (mesh-protocol 1.2, 3.4, 3.8), so that the agents need one connection instead of one
//! per remote cluster and node.
//!
//! The sessions are those of [`remote`](crate::remote): one connection per remote cluster, with all their
//! checks. Only what becomes of the keys differs: [`Copied`] checks key and size and keeps the value as
//! it came, since the agents judge values themselves, whichever way they read them. [`Mirror`] turns
//! that into writes, and one task carries them out in the store of this process. Nothing is attached to a
//! lease: what writes ends together with what is written to.

mod copied;
mod mirror;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use causeway_kvstore::{Error, Store};
use causeway_model::{ClusterInfo, ClusterName};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

pub use copied::{Change, Copied, Message};
pub use mirror::{CopyStatus, MAX_BATCH, Mirror, Queued};

use crate::config_dir::Peers;
use crate::keys::Kind;
use crate::remote::{self, RemoteClusters, RemoteStatus, Timing};

/// What to cache, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who we are.
    pub local: ClusterInfo,
    /// The protocol's timing towards the remote clusters.
    pub timing: Timing,
    /// How long what is cached of a cluster outlives its configuration (mesh-protocol 3.8): agents that
    /// are still configured for it lose it later than they are told.
    pub drain_grace: Duration,
    /// How often the store's heartbeat is written; `None` where the publisher of the same store does it.
    pub heartbeat: Option<Duration>,
    /// Most bytes of keys and values kept of one cluster: one peer must not fill the store for all.
    pub max_cluster_bytes: i64,
    /// Is told of every write.
    pub observer: Option<Arc<dyn Observer>>,
}

/// Is told what happens, for metrics. It must not wait.
pub trait Observer: Debug + Send + Sync {
    /// These are in the store, which took this long for all of them, `waited` after they were first known here.
    fn written(&self, writes: &[Queued], took: Duration, waited: Duration);
    /// The store refused the first of these after this long; all of them are tried again.
    fn refused(&self, writes: &[Queued], took: Duration, error: Error);
    /// The heartbeat was written, at once or only after the store had refused it.
    fn beat(&self, at_once: bool);
}

impl Options {
    /// Cilium's timing, no heartbeat, and an eighth of a store's default quota for each cluster.
    pub fn new(local: ClusterInfo) -> Self {
        Self {
            local,
            timing: Timing::default(),
            drain_grace: Duration::from_secs(180),
            heartbeat: None,
            max_cluster_bytes: 256 << 20,
            observer: None,
        }
    }
}

/// A running cache. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Cache {
    remotes: RemoteClusters,
    copies: watch::Receiver<Copies>,
}

type Copies = BTreeMap<ClusterName, CopyStatus>;

/// How long a refused write waits for its next attempt.
const RETRY: Duration = Duration::from_secs(1);

impl Cache {
    /// Follows the configuration directory `dir` and caches every cluster it names in `store`, until
    /// `shutdown`. Then everything stays as it is.
    pub async fn spawn(options: Options, dir: PathBuf, store: Store, shutdown: CancellationToken) -> Self {
        let reading = remote::Options {
            kinds: Kind::ALL.to_vec(),
            timing: options.timing.clone(),
            ..remote::Options::agent(options.local.clone())
        };
        let (remotes, messages) =
            RemoteClusters::spawn_keeping::<Copied>(reading, dir, shutdown.clone()).await;
        let mut mirror =
            Mirror::new(store, options.local.name, options.drain_grace, options.max_cluster_bytes);
        let configured = remotes.peers().borrow().clusters.keys().cloned().collect();
        mirror.drain_others(Duration::ZERO, &configured);
        let (board, copies) = watch::channel(Copies::new());
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = run(mirror, messages, options.heartbeat, options.observer, board) => {}
            }
        });
        Self { remotes, copies }
    }

    /// The status of every configured remote cluster, by name. It counts what is in the store, and is
    /// ready once all of it is and the markers say so.
    pub fn status(&self) -> BTreeMap<ClusterName, RemoteStatus> {
        let mut all = self.remotes.status().borrow().clone();
        let copies = self.copies.borrow();
        for (name, status) in &mut all {
            copies.get(name).cloned().unwrap_or_default().show(status);
        }
        all
    }

    /// Changes whenever [`Self::status`] may have changed: of the connections, and of the store.
    pub fn changes(&self) -> (watch::Receiver<BTreeMap<ClusterName, RemoteStatus>>, watch::Receiver<Copies>) {
        (self.remotes.status(), self.copies.clone())
    }

    /// Waits until the status is as wanted. Ends early, with what there is, when the cache has ended.
    pub async fn wait_for(
        &self,
        mut wanted: impl FnMut(&BTreeMap<ClusterName, RemoteStatus>) -> bool,
    ) -> BTreeMap<ClusterName, RemoteStatus> {
        let (mut connections, mut copies) = self.changes();
        loop {
            connections.mark_unchanged();
            copies.mark_unchanged();
            let now = self.status();
            if wanted(&now) {
                return now;
            }
            tokio::select! {
                Ok(()) = connections.changed() => {}
                Ok(()) = copies.changed() => {}
                else => return now,
            }
        }
    }

    /// The configuration directory as last read.
    pub fn peers(&self) -> watch::Receiver<Peers> {
        self.remotes.peers()
    }
}

async fn run(
    mut mirror: Mirror,
    mut messages: mpsc::Receiver<Message>,
    heartbeat: Option<Duration>,
    observer: Option<Arc<dyn Observer>>,
    board: watch::Sender<Copies>,
) {
    let started = Instant::now();
    let mut beat = interval(heartbeat.unwrap_or(Duration::from_secs(3600)));
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let drain = mirror.deadline().map(|at| started + at);
        let (mut touched, mut beats) = (None, false);
        tokio::select! {
            // The heartbeat must not starve behind a burst.
            biased;
            _ = beat.tick(), if heartbeat.is_some() => {
                mirror.beat();
                beats = true;
            }
            () = sleep_until(drain.unwrap_or(started)), if drain.is_some() => mirror.tick(started.elapsed()),
            message = messages.recv() => {
                let Some(Message { cluster, changes }) = message else { return };
                mirror.apply(started.elapsed(), &cluster, changes);
                touched = Some(cluster);
            }
        }
        let (mut failed, known) = (false, Instant::now());
        while let Err(reason) = write(&mut mirror, observer.as_deref(), known).await {
            if !std::mem::replace(&mut failed, true) {
                error!(%reason, "the store refuses what is to be cached; it is tried again, and nothing is lost");
            }
            sleep(RETRY).await;
        }
        if failed {
            info!("the store takes writes again");
        }
        if let Some(observer) = observer.as_ref().filter(|_| beats) {
            observer.beat(!failed);
        }
        let Some(cluster) = touched else { continue };
        board.send_modify(|copies| match mirror.copy(&cluster) {
            Some(status) => drop(copies.insert(cluster, status.clone())),
            None => drop(copies.remove(&cluster)),
        });
    }
}

async fn write(mirror: &mut Mirror, observer: Option<&dyn Observer>, known: Instant) -> Result<(), Error> {
    let Some(observer) = observer else { return mirror.write().await };
    let (before, start) = (mirror.queued(), Instant::now());
    let result = mirror.write().await;
    let (left, took) = (mirror.queued(), start.elapsed());
    observer.written(&before[..before.len() - left.len()], took, known.elapsed());
    if let Err(error) = result {
        observer.refused(&left, took, error);
    }
    result
}

#[cfg(test)]
mod mirror_tests;
#[cfg(test)]
mod sim_tests;
