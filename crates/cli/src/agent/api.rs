//! The agent's own API, on a unix socket: the CNI plugin, `causeway status` and `causeway service`
//! use it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use causeway_datapath::Datapath;
use causeway_datapath::cni::{Attachment, CniError, Container};
use causeway_mesh::merge::ServiceView;
use causeway_mesh::remote::RemoteClusters;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::endpoints::Endpoints;
use super::health::NodeHealth;
use super::looks::Services;
use super::owner::Owner;
use crate::service::trace::Question;

/// Where the agent listens.
pub(crate) const SOCKET: &str = "/run/causeway/agent.sock";

/// What the plugin sends for one container.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ContainerRequest {
    /// The container.
    pub(crate) container: Container,
    /// The version the runtime speaks.
    pub(crate) cni_version: String,
}

/// What the agent serves with.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) owner: Owner,
    pub(super) remotes: RemoteClusters,
    /// How many services of this cluster are global.
    pub(super) global_services: Arc<AtomicUsize>,
    /// What is balanced.
    pub(super) services: Services,
    pub(super) health: NodeHealth,
}

/// Opens the socket in place of one an earlier agent left.
pub(super) fn listen(path: &Path) -> Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
    // Whoever may write to it may connect pods.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

impl Api {
    pub(super) async fn serve(
        self,
        listener: UnixListener,
        shutdown: CancellationToken,
    ) -> std::io::Result<()> {
        let router = Router::new()
            .route("/v1/cni/add", post(add))
            .route("/v1/cni/del", post(del))
            .route("/v1/cni/check", post(check))
            .route("/v1/cni/gc", post(gc))
            .route("/v1/cni/status", get(|| async { StatusCode::NO_CONTENT }))
            .route("/v1/status", get(status))
            .route("/v1/services", get(services))
            .route("/v1/services/trace", post(trace))
            .route("/v1/health", get(|State(api): State<Api>| async move { Json(api.health.report()) }))
            .with_state(self);
        axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
    }
}

/// An error with a status that tells programs that it is one.
struct Refused(CniError);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        tracing::warn!(code = self.0.code, error = %self.0, "a request of the container runtime failed");
        (StatusCode::UNPROCESSABLE_ENTITY, Json(self.0)).into_response()
    }
}

async fn add(State(api): State<Api>, Json(request): Json<ContainerRequest>) -> Result<Response, Refused> {
    // The runtime may give up on the plugin; what was begun is finished all the same.
    let work = tokio::spawn(async move { api.endpoints.add(&request.container, &request.cni_version).await });
    let result = work.await.map_err(|e| Refused(CniError::new(11, "the agent failed", e.to_string())))?;
    Ok(Json(result.map_err(Refused)?).into_response())
}

async fn del(State(api): State<Api>, Json(request): Json<ContainerRequest>) -> Result<StatusCode, Refused> {
    api.endpoints.delete(&request.container.container_id).await.map_err(Refused)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn check(State(api): State<Api>, Json(request): Json<ContainerRequest>) -> Result<StatusCode, Refused> {
    api.endpoints.check(&request.container.container_id).await.map_err(Refused)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn gc(State(api): State<Api>, Json(valid): Json<Vec<Attachment>>) -> Result<StatusCode, Refused> {
    api.endpoints.collect(&valid).await.map_err(Refused)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn services(State(api): State<Api>) -> Response {
    let all = api.services.look(|services| {
        services.owners().filter_map(|key| services.explain(key)).collect::<Vec<ServiceView>>()
    });
    match all.await {
        Ok(all) => Json(all).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

async fn trace(State(api): State<Api>, Json(question): Json<Question>) -> Response {
    let refused = |error: String| (StatusCode::UNPROCESSABLE_ENTITY, error).into_response();
    match question.pod() {
        Ok(None) => {}
        Ok(Some((namespace, name))) => {
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            let what =
                format!("{namespace}/{name} is no pod of this node: ask the agent of the node where it runs");
            let is_pod = move |d: &mut Datapath| {
                d.endpoints().values().any(|e| e.pod_namespace == namespace && e.pod_name == name)
            };
            match api.owner.run(is_pod).await {
                Ok(true) => {}
                Ok(false) => return refused(what),
                Err(error) => return (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
            }
        }
        Err(error) => return refused(error),
    }
    match api.services.look(move |services| question.answer(services)).await {
        Ok(Ok(trace)) => Json(trace).into_response(),
        Ok(Err(error)) => refused(error),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

async fn status(State(api): State<Api>) -> Response {
    let datapath = api.owner.run(|d| {
        let devices = d.accelerated().to_vec();
        (d.stats(), d.attach_mode(), devices, d.counters(), d.endpoints().clone())
    });
    let Ok((programmed, attach, devices, counters, endpoints)) = datapath.await else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the datapath does not answer").into_response();
    };
    let remotes: Vec<_> = api.remotes.status().borrow().values().cloned().collect();
    Json(serde_json::json!({
        "attach": attach,
        "devices": devices,
        "programmed": programmed,
        "packets": counters.unwrap_or_default(),
        "endpoints": endpoints.into_values().collect::<Vec<_>>(),
        "global-services": api.global_services.load(Ordering::Relaxed),
        "remotes": remotes,
        "node-health": api.health.report(),
    }))
    .into_response()
}
