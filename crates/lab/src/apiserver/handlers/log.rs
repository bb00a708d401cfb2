//! pods/log: passed on to the kubelet of the pod's node.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::{Body, Call};
use crate::apiserver::error::{ApiError, ApiResult};
use crate::apiserver::object::{int, list, text};
use crate::apiserver::{Api, storage};

/// How long connecting to a kubelet may take.
const CONNECT: Duration = Duration::from_secs(5);
/// The kubelet's port where the node does not say.
const KUBELET_PORT: i64 = 10250;
/// Parameters the kubelet understands as they are.
const PASSED: [&str; 7] =
    ["follow", "tailLines", "previous", "sinceSeconds", "sinceTime", "timestamps", "limitBytes"];

/// GET of a pod's log.
///
/// # Errors
/// 400 if the container is not named or not there, or the pod not started; 502-like 500 if the kubelet does not answer.
pub async fn answer(api: Arc<Api>, call: Call) -> ApiResult<Response<Body>> {
    let pod = api.get(&call.res, call.namespace(), call.name())?.value;
    let container = container(&pod, call.query.get("container"))?;
    let node = text(&pod, "spec.nodeName");
    if node.is_empty() {
        return Err(ApiError::bad_request(format!(
            "container \"{container}\" in pod \"{}\" is waiting to start: the pod is not assigned to a node",
            call.name()
        )));
    }
    let node = api
        .storage
        .get(&storage::key("core/nodes", "", node))?
        .ok_or_else(|| ApiError::not_found("", "nodes", node))?
        .value;
    let query: Vec<String> = PASSED
        .iter()
        .filter(|k| call.query.has(k))
        .map(|k| format!("{k}={}", encode(call.query.get(k))))
        .collect();
    let path = format!("/containerLogs/{}/{}/{container}?{}", call.namespace(), call.name(), query.join("&"));
    fetch(&node, &path).await
}

fn container(pod: &Value, asked: &str) -> ApiResult<String> {
    let names: Vec<&str> = ["spec.initContainers", "spec.containers"]
        .iter()
        .flat_map(|p| list(pod, p))
        .map(|c| text(c, "name"))
        .collect();
    let pod_name = text(pod, "metadata.name");
    if asked.is_empty() {
        let own = list(pod, "spec.containers");
        return match own {
            [one] => Ok(text(one, "name").to_string()),
            _ => {
                let all: Vec<&str> = own.iter().map(|c| text(c, "name")).collect();
                Err(ApiError::bad_request(format!(
                    "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                    all.join(" ")
                )))
            }
        };
    }
    if names.contains(&asked) {
        Ok(asked.to_string())
    } else {
        Err(ApiError::bad_request(format!("container {asked} is not valid for pod {pod_name}")))
    }
}

/// Streams an answer of the kubelet on a node, which is dialled at its InternalIP.
async fn fetch(node: &Value, path: &str) -> ApiResult<Response<Body>> {
    let name = text(node, "metadata.name");
    let address = list(node, "status.addresses")
        .iter()
        .find(|a| a["type"] == "InternalIP")
        .map(|a| text(a, "address").to_string())
        .ok_or_else(|| ApiError::internal(format!("node {name} has no InternalIP in status.addresses")))?;
    let port =
        int(node, "status.daemonEndpoints.kubeletEndpoint.Port").filter(|p| *p > 0).unwrap_or(KUBELET_PORT);
    let target = format!("{address}:{port}");
    let failed = |e: &dyn std::fmt::Display| {
        ApiError::internal(format!("the kubelet of node {name} at {target} does not answer: {e}"))
    };
    let stream = tokio::time::timeout(CONNECT, tokio::net::TcpStream::connect(&target))
        .await
        .map_err(|e| failed(&e))?
        .map_err(|e| failed(&e))?;
    let (mut client, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
    tokio::spawn(connection);
    let request = Request::get(path)
        .header(http::header::HOST, &target)
        .body(Empty::<Bytes>::new())
        .map_err(|e| failed(&e))?;
    let response = client.send_request(request).await.map_err(|e| failed(&e))?;
    let (parts, body) = response.into_parts();
    if !parts.status.is_success() {
        let text = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).trim().to_string();
        return Err(match parts.status.as_u16() {
            404 => ApiError::new(404, "NotFound", text),
            400 => ApiError::bad_request(text),
            code => ApiError::internal(format!("the kubelet of node {name} answered {code}: {text}")),
        });
    }
    let mut out = Response::new(body.map_err(std::io::Error::other).boxed_unsync());
    out.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    Ok(out)
}

fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
            b => format!("%{b:02X}"),
        })
        .collect()
}
