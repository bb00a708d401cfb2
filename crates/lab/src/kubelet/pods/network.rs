//! Looking after attachments: CHECK of running sandboxes, GC of what belongs to none.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Shared;

/// How often CHECK and GC run, and how soon a GC that failed is repeated.
const PERIOD: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(5);

/// Runs until `shutdown`. The first GC takes back what an earlier kubelet left.
pub async fn maintain(shared: Arc<Shared>, shutdown: CancellationToken) {
    let mut ready = shared.network.clone();
    loop {
        // While the network is not ready its plugins have nothing to say.
        tokio::select! {
            r = ready.wait_for(Result::is_ok) => if r.is_err() { return },
            () = shutdown.cancelled() => return,
        }
        let valid: Vec<(String, String)> = shared.attached().iter().cloned().collect();
        let pause = match shared.cni.gc(&valid).await {
            Ok(()) => PERIOD,
            Err(error) => {
                tracing::warn!(%error, "network garbage collection failed");
                RETRY
            }
        };
        tokio::select! { () = tokio::time::sleep(pause) => {}, () = shutdown.cancelled() => return }
        check(&shared).await;
    }
}

async fn check(shared: &Shared) {
    for cached in shared.cni.cached() {
        let at = cached.attachment();
        let key = (at.container_id.clone(), at.ifname.clone());
        let in_use = || shared.attached().contains(&key);
        if !in_use() {
            continue;
        }
        if let Err(error) = shared.cni.check(&at).await
            && in_use()
        {
            tracing::warn!(sandbox = at.container_id, %error, "network attachment is not as it should be");
        }
    }
}
