//! What a cache sees of the other clusters, as Cilium's kvstoremesh tells it: `GET /v1/cluster` on a port that only the
//! node itself, or the pod, can reach. `causeway kvstoremesh-dbg status` asks it, and so does Cilium's own tool.

use anyhow::{Context, Result};
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use causeway_mesh::cache::Cache;
use causeway_mesh::remote::RemoteStatus;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Where it is.
pub(crate) const PATH: &str = "/v1/cluster";

/// Opens the port.
pub(super) async fn listen(address: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("api-serve-addr: listen on {address}"))
}

/// Answers until cancelled.
pub(super) async fn serve(
    cache: Cache,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new().route(PATH, get(clusters)).with_state(cache);
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

async fn clusters(State(cache): State<Cache>) -> Json<Vec<RemoteStatus>> {
    Json(cache.status().into_values().collect())
}
