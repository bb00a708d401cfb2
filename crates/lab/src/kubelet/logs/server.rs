//! The kubelet's HTTP server: container logs for the API server, and health.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::read::{Cursor, Formatter};
use super::{LogQuery, Logs, file};
use crate::kubelet::Error;

/// How often a followed file is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Binds the kubelet's port.
///
/// # Errors
/// If it is taken.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })
}

/// Serves until `shutdown`: `/healthz`, `/containerLogs/{namespace}/{pod}/{container}`.
pub async fn serve(listener: TcpListener, logs: Logs, shutdown: CancellationToken) {
    let app = Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(container_logs))
        .with_state(logs);
    let served = axum::serve(listener, app).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    // Followers would hold a graceful end up for ever.
    tokio::select! {
        result = served => if let Err(error) = result { tracing::warn!(%error, "kubelet server ended") },
        () = async { shutdown.cancelled().await; tokio::time::sleep(Duration::from_secs(1)).await } => {}
    }
}

async fn container_logs(
    State(logs): State<Logs>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Query<LogQuery>,
) -> Response {
    let refuse = |status: StatusCode, why: String| (status, why).into_response();
    let Some((uid, entry)) = logs.find(&namespace, &pod, &container) else {
        let why = format!("container {container:?} of pod \"{namespace}/{pod}\" is not on this node");
        return refuse(StatusCode::NOT_FOUND, why);
    };
    let run = match (entry.run, query.previous) {
        (None, _) => {
            let why =
                format!("container {container:?} in pod {pod:?} is waiting to start: ContainerCreating");
            return refuse(StatusCode::BAD_REQUEST, why);
        }
        (Some(run), false) => run,
        (Some(run), true) => match run.checked_sub(1) {
            Some(previous) => previous,
            None => {
                let why = format!("previous terminated container {container:?} in pod {pod:?} not found");
                return refuse(StatusCode::BAD_REQUEST, why);
            }
        },
    };
    let path = file(&logs.pod_dir(&namespace, &pod, &uid), &container, run);
    if query.previous && !path.exists() {
        let why = format!("previous terminated container {container:?} in pod {pod:?} not found");
        return refuse(StatusCode::BAD_REQUEST, why);
    }
    let (cursor, entries) = match Cursor::open(&path, query.tail_lines) {
        Ok(opened) => opened,
        Err(e) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("{}: {e}", path.display())),
    };
    let mut formatter = Formatter::new(&query, Timestamp::now());
    let mut first: Vec<u8> = entries.iter().flat_map(|e| formatter.entry(e)).collect();
    let mut left = query.limit_bytes.unwrap_or(usize::MAX);
    first.truncate(left);
    left -= first.len();
    if !query.follow || query.previous {
        return first.into_response();
    }
    let (output, stream) = mpsc::channel(16);
    let alive = move || {
        let now = logs.find(&namespace, &pod, &container);
        now.is_some_and(|(u, e)| u == uid && e.run == Some(run) && e.running)
    };
    tokio::spawn(follow(cursor, formatter, first, left, output, alive));
    Body::from_stream(ReceiverStream::new(stream)).into_response()
}

/// Sends what is there and what is added until the run has ended, the reader is gone or enough was sent.
async fn follow(
    mut cursor: Cursor,
    mut formatter: Formatter,
    first: Vec<u8>,
    mut left: usize,
    output: mpsc::Sender<Result<Bytes, Infallible>>,
    alive: impl Fn() -> bool + Send,
) {
    let mut chunk = first;
    loop {
        if !chunk.is_empty() && output.send(Ok(Bytes::from(chunk))).await.is_err() {
            return;
        }
        if left == 0 {
            return;
        }
        let ended = !alive();
        let Ok(entries) = cursor.more() else { return };
        chunk = entries.iter().flat_map(|e| formatter.entry(e)).collect();
        chunk.truncate(left);
        left -= chunk.len();
        if chunk.is_empty() {
            if ended {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = output.closed() => return,
            }
        }
    }
}
