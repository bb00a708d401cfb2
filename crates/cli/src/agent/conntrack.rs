//! Collects the entries of connection tracking that are over, on a thread that nothing waits for.

use std::path::PathBuf;

use causeway_datapath::conntrack::{Conntrack, Interval};
use tokio_util::sync::CancellationToken;

use crate::metrics::conntrack::Collections;

/// Collects until cancelled.
pub(super) async fn run(
    bpffs: PathBuf,
    mut interval: Interval,
    metrics: Collections,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval.current()) => {}
            () = shutdown.cancelled() => return,
        }
        let bpffs = bpffs.clone();
        let collected = tokio::task::spawn_blocking(move || Conntrack::open(&bpffs)?.collect()).await;
        match collected {
            Ok(Ok(run)) => {
                interval.adapt(run.ratio());
                tracing::debug!(
                    alive = run.alive,
                    deleted = run.deleted,
                    took = ?run.took,
                    next = ?interval.current(),
                    "connection tracking entries were collected"
                );
                metrics.ran(Some(&run));
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "connection tracking entries cannot be collected; the maps displace the oldest");
                metrics.ran(None);
            }
            Err(error) => {
                tracing::warn!(%error, "connection tracking entries were not collected");
                metrics.ran(None);
            }
        }
    }
}
