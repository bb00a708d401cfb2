//! The HTTP face of a process: `/healthz`, `/readyz`, `/metrics`, `/debug/state`.
//!
//! Readiness is a set of named guards. A part that must be up before the process counts as ready
//! takes a [`Guard`] early and marks it later; `/readyz` answers 503 with one line per guard that
//! is still closed, so an operator sees what is missing without reading logs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::metrics::Metrics;

/// The named guards of a process.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, Option<String>>>>);

/// One condition of readiness; closed until [`Guard::open`]. Dropping it changes nothing.
#[derive(Debug)]
pub struct Guard {
    name: &'static str,
    all: Readiness,
}

impl Readiness {
    /// Adds a closed guard; `reason` says what it waits for.
    pub fn guard(&self, name: &'static str, reason: impl Into<String>) -> Guard {
        self.set(name, Some(reason.into()));
        Guard { name, all: self.clone() }
    }

    /// The closed guards with what each waits for, in order of the names; empty = ready.
    pub fn pending(&self) -> Vec<(&'static str, String)> {
        self.lock().iter().filter_map(|(name, why)| Some((*name, why.clone()?))).collect()
    }

    fn set(&self, name: &'static str, reason: Option<String>) {
        self.lock().insert(name, reason);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Option<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guard {
    /// The condition holds.
    pub fn open(&self) {
        self.all.set(self.name, None);
    }

    /// The condition does not hold (any more).
    pub fn close(&self, reason: impl Into<String>) {
        self.all.set(self.name, Some(reason.into()));
    }
}

/// Gives a part of the state as JSON for `/debug/state`.
pub type StateFn = Arc<dyn Fn() -> Value + Send + Sync>;

/// What the server shows; cheap to clone.
#[derive(Clone)]
pub struct Health {
    /// The guards behind `/readyz`.
    pub readiness: Readiness,
    /// The metrics behind `/metrics`.
    pub metrics: Metrics,
    state: Arc<Mutex<BTreeMap<&'static str, StateFn>>>,
}

impl Health {
    /// A face of a process with these metrics.
    pub fn new(metrics: Metrics) -> Self {
        Self { readiness: Readiness::default(), metrics, state: Arc::default() }
    }

    /// Adds a part to `/debug/state`. Secrets must not be in it.
    pub fn show(&self, name: &'static str, state: impl Fn() -> Value + Send + Sync + 'static) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).insert(name, Arc::new(state));
    }

    /// The routes, for servers that have more of their own.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .route("/debug/state", get(debug_state))
            .with_state(self.clone())
    }

    /// Opens the port; separate from [`Self::serve`] so that a taken port is an error at start.
    ///
    /// # Errors
    /// [`Error::Listen`].
    pub async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
        TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// When the listener breaks.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> std::io::Result<()> {
        axum::serve(listener, self.router()).with_graceful_shutdown(shutdown.cancelled_owned()).await
    }
}

async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    let pending = health.readiness.pending();
    if pending.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let lines = pending.iter().map(|(name, why)| format!("{name}: {why}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines)
}

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, OPENMETRICS)], health.metrics.encode())
}

async fn debug_state(State(health): State<Health>) -> impl IntoResponse {
    // The functions are called outside the lock: one that blocks must not block `show`.
    let parts: Vec<_> = {
        let state = health.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.iter().map(|(name, f)| (*name, f.clone())).collect()
    };
    let parts = parts.into_iter().map(|(name, f)| (name.to_owned(), f()));
    Json(Value::Object(parts.collect()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn serves_guards_metrics_and_state() {
        let health = Health::new(Metrics::new("test", "0"));
        let store = health.readiness.guard("store", "first listing");
        let markers = health.readiness.guard("markers", "not written");
        health.show("peers", || serde_json::json!(["cls-b"]));
        let listener = Health::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let token = CancellationToken::new();
        let server = tokio::spawn(health.clone().serve(listener, token.clone()));

        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let answer = fetch(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.ends_with("markers: not written\nstore: first listing\n"), "{answer}");
        store.open();
        markers.open();
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        markers.close("lost");
        assert!(fetch(address, "/readyz").await.ends_with("markers: lost\n"));
        assert!(fetch(address, "/metrics").await.contains("causeway_build_info"));
        assert!(fetch(address, "/debug/state").await.ends_with("{\"peers\":[\"cls-b\"]}"));
        token.cancel();
        server.await.unwrap().unwrap();

        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let held = std::net::TcpListener::bind(taken).unwrap();
        let text = Health::listen(held.local_addr().unwrap()).await.unwrap_err().to_string();
        assert!(text.contains("another process"), "{text}");
    }
}
