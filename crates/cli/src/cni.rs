//! `causeway cni`: the CNI plugin. Thin: it says what the runtime said to the agent, and back.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use causeway_datapath::cni::{self, CniError, Command, NetworkConfig, code};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::agent::{ContainerRequest, PLUGIN, SOCKET, leave_note};

/// How long the agent may take for one request; runtimes give up after a few minutes.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Whether a container runtime started us under the plugin's name.
pub(crate) fn called_by_runtime() -> bool {
    let name = std::env::args_os().next().map(PathBuf::from);
    name.and_then(|path| path.file_name().map(|n| n == PLUGIN)).unwrap_or(false)
}

/// Answers one call of the runtime: the result, or the error in the specification's form, on
/// standard output.
pub(crate) fn main() -> ExitCode {
    let answer = match call() {
        Ok(answer) => answer,
        Err(error) => {
            println!("{}", serde_json::to_string(&error).unwrap_or_default());
            return ExitCode::FAILURE;
        }
    };
    if let Some(text) = answer {
        println!("{text}");
    }
    ExitCode::SUCCESS
}

fn call() -> Result<Option<String>, CniError> {
    let env = |name: &str| std::env::var(name).ok();
    let command = cni::command(env)?;
    if command == Command::Version {
        let versions = serde_json::json!({ "cniVersion": cni::VERSION, "supportedVersions": cni::VERSIONS });
        return Ok(Some(versions.to_string()));
    }
    let mut text = Vec::new();
    std::io::stdin()
        .read_to_end(&mut text)
        .map_err(|e| CniError::new(code::IO, "the network configuration cannot be read", e.to_string()))?;
    let config = cni::network_config(&text)?;
    let mut deleted = None;
    let (method, path, body) = match command {
        Command::Add | Command::Del | Command::Check => {
            let container = cni::container(command, env)?;
            let path = match command {
                Command::Add => "/v1/cni/add",
                Command::Del => "/v1/cni/del",
                _ => "/v1/cni/check",
            };
            deleted = Some(container.container_id.clone()).filter(|_| command == Command::Del);
            let request = ContainerRequest { container, cni_version: config.cni_version.clone() };
            (Method::POST, path, serde_json::to_vec(&request))
        }
        Command::Gc => (Method::POST, "/v1/cni/gc", serde_json::to_vec(&config.valid_attachments)),
        Command::Status | Command::Version => (Method::GET, "/v1/cni/status", Ok(Vec::new())),
    };
    let body = body.expect("plain data");
    match ask(&socket(&config), method, path, body) {
        Ok((status, answer)) if status.is_success() => Ok(Some(answer).filter(|a| !a.is_empty())),
        Ok((_, answer)) => Err(serde_json::from_str(&answer)
            .unwrap_or_else(|_| CniError::new(code::TRY_AGAIN, "the agent refused", answer))),
        // The removal of pods must not wait for an agent: the next one carries the note out, and
        // where not even a note can be left, the runtime's next GC does.
        Err(_) if deleted.as_deref().is_some_and(|id| leave_note(id).is_ok()) => Ok(None),
        Err(_) if matches!(command, Command::Del | Command::Gc) => Ok(None),
        Err(error) => Err(CniError::new(
            if command == Command::Status { code::NOT_AVAILABLE } else { code::TRY_AGAIN },
            "the Causeway agent of this node does not answer",
            format!("{error:#}; is its pod running (kubectl -n kube-system get pods -l k8s-app=cilium)?"),
        )),
    }
}

fn socket(config: &NetworkConfig) -> PathBuf {
    config.agent_socket.clone().unwrap_or_else(|| SOCKET.to_owned()).into()
}

fn ask(socket: &Path, method: Method, path: &str, body: Vec<u8>) -> Result<(StatusCode, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match tokio::time::timeout(PATIENCE, request(socket, method, path, body)).await {
            Ok(result) => result,
            Err(_) => bail!("no answer within {} s", PATIENCE.as_secs()),
        }
    })
}

/// One request to the agent's socket.
pub(crate) async fn request(
    socket: &Path,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<(StatusCode, String)> {
    let stream = tokio::net::UnixStream::connect(socket)
        .await
        .with_context(|| format!("connect to {}", socket.display()))?;
    exchange(stream, "agent", method, path, body).await
}

/// One request over a connection of its own.
pub(crate) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<(StatusCode, String)> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", host)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
