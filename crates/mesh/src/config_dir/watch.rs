//! The task that follows the directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use causeway_model::ClusterName;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Peers, file};

/// The safety net behind file notifications, and the pace while something is wrong or missing.
const POLL: Duration = Duration::from_secs(60);
const POLL_TROUBLED: Duration = Duration::from_secs(5);
/// An update of a projected volume is many file events: they are answered together.
const SETTLE: Duration = Duration::from_millis(50);

/// Reads the directory now and follows it until `shutdown`. The receiver holds the first reading when
/// this returns.
pub async fn watch(dir: PathBuf, own: ClusterName, shutdown: CancellationToken) -> watch::Receiver<Peers> {
    let mut peers = Peers::default();
    read(&dir, &own, &mut peers).await;
    let (sender, receiver) = watch::channel(peers.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = follow(dir, own, peers, sender) => {}
        }
    });
    receiver
}

async fn follow(dir: PathBuf, own: ClusterName, mut peers: Peers, sender: watch::Sender<Peers>) {
    let (wake, mut woken) = mpsc::channel::<()>(1);
    let mut watcher = None;
    loop {
        if watcher.is_none() {
            watcher = notifications(&dir, wake.clone());
            if watcher.is_some() {
                // Whatever happened before the watch existed.
                read(&dir, &own, &mut peers).await;
                publish(&sender, &peers);
            }
        }
        let troubled = watcher.is_none() || peers.clusters.values().any(|peer| peer.error.is_some());
        let pause = if troubled { POLL_TROUBLED } else { POLL };
        if timeout(pause, woken.recv()).await.is_ok() {
            sleep(SETTLE).await;
            while woken.try_recv().is_ok() {}
        }
        if !dir.exists() {
            // The watch of a directory that was replaced sees nothing any more.
            watcher = None;
        }
        read(&dir, &own, &mut peers).await;
        publish(&sender, &peers);
    }
}

fn publish(sender: &watch::Sender<Peers>, peers: &Peers) {
    sender.send_if_modified(|held| {
        let differs = held != peers;
        if differs {
            held.clone_from(peers);
        }
        differs
    });
}

/// File events of the directory; `None` while it does not exist.
fn notifications(dir: &Path, wake: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the files is an event too, and must not wake us again.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            let _ = wake.try_send(());
        }
    })
    .map_err(|error| warn!(%error, "no file notifications; polling instead"))
    .ok()?;
    match watcher.watch(dir, RecursiveMode::NonRecursive) {
        Ok(()) => Some(watcher),
        Err(error) => {
            debug!(dir = %dir.display(), %error, "the peers' directory cannot be watched yet");
            None
        }
    }
}

async fn read(dir: &Path, own: &ClusterName, peers: &mut Peers) {
    let (path, name) = (dir.to_owned(), own.clone());
    let found = match tokio::task::spawn_blocking(move || file::scan(&path, Some(&name))).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            warn!(%error, "the peers' directory cannot be read; the last known peers stay");
            peers.errors = vec![error.to_string()];
            return;
        }
        Err(error) => {
            warn!(%error, "reading the peers' directory was interrupted");
            return;
        }
    };
    let before = peers.clone();
    peers.update(found);
    for (name, peer) in &peers.clusters {
        let held = before.clusters.get(name);
        if held == Some(peer) {
            continue;
        }
        match &peer.error {
            Some(error) => {
                warn!(cluster = %name, error, "a peer's configuration cannot be used; the last good one stays")
            }
            None if held.is_some() => info!(cluster = %name, "a peer's configuration changed"),
            None => info!(cluster = %name, "a peer was configured"),
        }
    }
    for name in before.clusters.keys().filter(|name| !peers.clusters.contains_key(name)) {
        info!(cluster = %name, "a peer is no longer configured");
    }
    for error in peers.errors.iter().filter(|error| !before.errors.contains(error)) {
        warn!(error, "a file in the peers' directory is ignored");
    }
}
