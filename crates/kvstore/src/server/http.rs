//! What etcd answers to plain HTTP: `/version`, `/health` and `/metrics`.

use std::sync::Arc;

use axum::Router;
use axum::extract::RawQuery;
use axum::http::{Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use super::ETCD_VERSION;
use super::metrics::Metrics;
use crate::Store;

/// The paths, so that a call of gRPC is told from them.
pub(super) const PATHS: [&str; 3] = ["/version", "/health", "/metrics"];

/// The answer to any other path.
pub(super) fn not_found() -> Response<tonic::body::Body> {
    let mut response = Response::new(tonic::body::Body::empty());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

/// A server as monitoring sees it: for the daemon's own HTTP server, which a scraper without a
/// client certificate can reach.
#[derive(Debug, Clone)]
pub struct Monitor {
    pub(super) store: Store,
    pub(super) metrics: Arc<Metrics>,
}

impl Monitor {
    /// The metrics under etcd's names, in Prometheus' text format.
    pub fn metrics(&self) -> String {
        self.metrics.render(&self.store)
    }

    /// Whether the server is well, and what `/health` says.
    pub fn health(&self) -> (bool, &'static str) {
        self.health_but(false)
    }

    /// The same, possibly regardless of the quota.
    fn health_but(&self, full_is_well: bool) -> (bool, &'static str) {
        match self.store.space_alarm() && !full_is_well {
            true => (false, r#"{"health":"false","reason":"ALARM NOSPACE"}"#),
            false => (true, r#"{"health":"true"}"#),
        }
    }
}

/// Adds the paths to the services.
pub(super) fn route(router: Router, monitor: Monitor) -> Router {
    let version = format!("{{\"etcdserver\":\"{ETCD_VERSION}\",\"etcdcluster\":\"{ETCD_VERSION}\"}}");
    let json = |text: String| ([(header::CONTENT_TYPE, "application/json")], text);
    let health = monitor.clone();
    router
        .route(PATHS[0], get(move || async move { json(version) }))
        .route(
            PATHS[1],
            get(move |RawQuery(query): RawQuery| async move {
                let excluded = query.is_some_and(|q| q.split('&').any(|pair| pair == "exclude=NOSPACE"));
                let (well, text) = health.health_but(excluded);
                let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                (status, json(text.to_owned())).into_response()
            }),
        )
        .route(
            PATHS[2],
            get(move || async move {
                ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], monitor.metrics())
            }),
        )
}
