//! Answers load balancers that ask whether this node has backends of a service (`healthCheckNodePort`): one
//! HTTP server per port, as kube-proxy has them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use causeway_mesh::merge::HealthCheck;
use causeway_model::ServiceKey;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How soon a port that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How many backends this node has, for load balancers that weigh nodes.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// What is answered at each port.
type Answers = BTreeMap<u16, HealthCheck>;

/// The owner's end: which services are asked for, and how many backends they have here.
#[derive(Debug)]
pub(super) struct HealthChecks {
    ports: BTreeMap<ServiceKey, u16>,
    answers: watch::Sender<Answers>,
}

impl HealthChecks {
    /// Nobody asks yet. The receiver is for [`serve`].
    pub(super) fn new() -> (Self, watch::Receiver<Answers>) {
        let (answers, receiver) = watch::channel(Answers::new());
        (Self { ports: BTreeMap::new(), answers }, receiver)
    }

    /// What is answered for a service now; `None` if nobody asks for it.
    pub(super) fn set(&mut self, key: &ServiceKey, check: Option<HealthCheck>) {
        let before = match &check {
            Some(check) => self.ports.insert(key.clone(), check.port),
            None => self.ports.remove(key),
        };
        if before.is_none() && check.is_none() {
            return;
        }
        self.answers.send_if_modified(|answers| {
            let mine =
                |port: &u16, answers: &Answers| answers.get(port).is_some_and(|held| held.service == *key);
            let gone = before.filter(|port| check.as_ref().is_none_or(|check| check.port != *port));
            let mut changed = false;
            if let Some(port) = gone.filter(|port| mine(port, answers)) {
                changed = answers.remove(&port).is_some();
            }
            if let Some(check) = check {
                changed |= answers.get(&check.port) != Some(&check);
                answers.insert(check.port, check);
            }
            changed
        });
    }
}

/// Keeps a server at every port that is asked, until cancelled.
pub(super) async fn serve(mut answers: watch::Receiver<Answers>, shutdown: CancellationToken) {
    let mut servers: BTreeMap<u16, CancellationToken> = BTreeMap::new();
    loop {
        let wanted: Vec<u16> = answers.borrow_and_update().keys().copied().collect();
        servers.retain(|port, server| {
            let keep = wanted.contains(port);
            if !keep {
                server.cancel();
            }
            keep
        });
        let mut missing = false;
        for port in wanted.into_iter().filter(|port| !servers.contains_key(port)).collect::<Vec<_>>() {
            match listen(port).await {
                Ok(listener) => {
                    let stop = shutdown.child_token();
                    let router = Router::new().fallback(answer).with_state((port, answers.clone()));
                    let server =
                        axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
                    tokio::spawn(async move { server.await });
                    servers.insert(port, stop);
                }
                Err(error) => {
                    tracing::warn!(port, %error, "the health check of a service cannot be answered yet");
                    missing = true;
                }
            }
        }
        tokio::select! {
            changed = answers.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if missing => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// On all addresses of both families, or of IPv4 where the node has no IPv6.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        result => result,
    }
}

async fn answer(State((port, answers)): State<(u16, watch::Receiver<Answers>)>) -> Response {
    let Some(check) = answers.borrow().get(&port).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let status = if check.local_endpoints > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({
        "service": { "namespace": check.service.namespace, "name": check.service.name },
        "localEndpoints": check.local_endpoints,
        "serviceProxyHealthy": true,
    });
    (status, [(WEIGHT, check.local_endpoints.to_string())], Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn check(name: &str, port: u16, local_endpoints: usize) -> HealthCheck {
        HealthCheck {
            service: ServiceKey { namespace: "shop".into(), name: name.into() },
            port,
            local_endpoints,
        }
    }

    /// The whole answer; `None` while nobody listens.
    async fn get(port: u16) -> Option<String> {
        let mut stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    }

    async fn until(port: u16, so: impl Fn(Option<&str>) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let text = get(port).await;
            if so(text.as_deref()) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{text:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn a_port_answers_while_somebody_asks() {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port();
        let (mut checks, answers) = HealthChecks::new();
        let stop = CancellationToken::new();
        let _stopped = stop.clone().drop_guard();
        tokio::spawn(serve(answers, stop));
        let one = check("web", free, 2);
        checks.set(&one.service, Some(one.clone()));
        until(free, |text| {
            text.is_some_and(|text| text.starts_with("HTTP/1.1 200") && text.contains("\"localEndpoints\":2"))
        })
        .await;
        checks.set(&one.service, Some(check("web", free, 0)));
        let weight = |text: &str| text.contains("x-load-balancing-endpoint-weight: 0");
        until(free, |text| text.is_some_and(|text| text.starts_with("HTTP/1.1 503") && weight(text))).await;
        // Another service has the port now; that the first one goes is none of its business.
        let other = check("api", free, 1);
        checks.set(&other.service, Some(other.clone()));
        checks.set(&one.service, None);
        until(free, |text| text.is_some_and(|text| text.contains("\"name\":\"api\""))).await;
        checks.set(&other.service, None);
        until(free, |text| text.is_none()).await;
    }
}
