//! Making one probe, and running lifecycle hooks: HTTP and TCP from the node, commands inside the container.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Lifecycle, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::unix::pipe;

use super::machine::ProbeKind;
use super::process::{ExecSpec, Spawner};

/// How much of a command's output is kept for messages.
const OUTPUT: usize = 1024;

/// What is needed to reach a container.
#[derive(Debug, Clone)]
pub struct Target {
    /// Address of the pod.
    pub host: String,
    /// The container's specification.
    pub container: Container,
    /// How to run commands in it, without the command.
    pub exec: ExecSpec,
}

/// The probe of a kind.
pub fn of(container: &Container, kind: ProbeKind) -> Option<&Probe> {
    match kind {
        ProbeKind::Startup => container.startup_probe.as_ref(),
        ProbeKind::Liveness => container.liveness_probe.as_ref(),
        ProbeKind::Readiness => container.readiness_probe.as_ref(),
    }
}

/// Makes a probe; the reason if it failed.
pub async fn probe(spawner: &Spawner, target: &Target, kind: ProbeKind) -> Option<String> {
    let probe = of(&target.container, kind)?;
    let timeout = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1));
    if let Some(exec) = &probe.exec {
        return command(spawner, target, exec.command.clone().unwrap_or_default(), timeout).await.err();
    }
    let attempt = async {
        if let Some(http) = &probe.http_get {
            http_get(target, http).await
        } else if let Some(tcp) = &probe.tcp_socket {
            let host = tcp.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| target.host.clone());
            connect(&host, port(&target.container, &tcp.port)?).await.map(|_| ())
        } else {
            Err("this kind of probe is not supported: use httpGet, tcpSocket or exec".into())
        }
    };
    match tokio::time::timeout(timeout, attempt).await {
        Ok(result) => result.err(),
        Err(_) => Some(format!("probe timed out after {}s", timeout.as_secs())),
    }
}

/// Runs a preStop or postStart hook, at most for `patience`.
///
/// # Errors
/// Why it failed.
pub async fn hook(
    spawner: &Spawner,
    target: &Target,
    pick: impl Fn(&Lifecycle) -> Option<&LifecycleHandler>,
    patience: Duration,
) -> Result<(), String> {
    let Some(handler) = target.container.lifecycle.as_ref().and_then(pick) else { return Ok(()) };
    if let Some(exec) = &handler.exec {
        return command(spawner, target, exec.command.clone().unwrap_or_default(), patience).await;
    }
    let run = async {
        if let Some(http) = &handler.http_get {
            http_get(target, http).await
        } else if let Some(sleep) = &handler.sleep {
            tokio::time::sleep(Duration::from_secs(sleep.seconds.unsigned_abs())).await;
            Ok(())
        } else {
            Ok(())
        }
    };
    tokio::time::timeout(patience, run).await.unwrap_or_else(|_| Err("hook timed out".into()))
}

fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(n) => Some(*n),
        IntOrString::String(name) => {
            let mut named = container.ports.iter().flatten().filter(|p| p.name.as_deref() == Some(name));
            named.next().map(|p| p.container_port).or_else(|| name.parse().ok())
        }
    };
    number
        .and_then(|n| u16::try_from(n).ok())
        .ok_or_else(|| format!("port {port:?} is not one of the container"))
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port)).await.map_err(|e| format!("dial tcp {}: {e}", authority(host, port)))
}

/// Host and port as they stand in a URL.
fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

async fn http_get(target: &Target, get: &HTTPGetAction) -> Result<(), String> {
    if get.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")) {
        return Err("scheme HTTPS is not supported: use HTTP, tcpSocket or exec".into());
    }
    let host = get.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| target.host.clone());
    let port = port(&target.container, &get.port)?;
    let path = get.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let url = format!("Get \"http://{}{path}\"", authority(&host, port));
    let stream = connect(&host, port).await.map_err(|e| format!("{url}: {e}"))?;
    let failed = |e: &dyn std::fmt::Display| format!("{url}: {e}");
    let (mut client, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
    let connection = tokio::spawn(connection);
    let mut request = http::Request::get(path)
        .header(http::header::USER_AGENT, "kube-probe/1.33")
        .header(http::header::CONNECTION, "close");
    let own: Vec<_> = get.http_headers.iter().flatten().collect();
    if !own.iter().any(|h| h.name.eq_ignore_ascii_case("host")) {
        request = request.header(http::header::HOST, authority(&host, port));
    }
    for h in own {
        request = request.header(&h.name, &h.value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| failed(&e))?;
    let answer = client.send_request(request).await.map_err(|e| failed(&e));
    let status = match answer {
        Ok(answer) => {
            let status = answer.status();
            let _ = answer.into_body().collect().await;
            Ok(status)
        }
        Err(e) => Err(e),
    };
    connection.abort();
    let status = status?;
    if status.is_success() || status.is_redirection() {
        return Ok(());
    }
    Err(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
}

async fn command(
    spawner: &Spawner,
    target: &Target,
    argv: Vec<String>,
    patience: Duration,
) -> Result<(), String> {
    let program = ExecSpec { argv, ..target.exec.clone() }.program().map_err(|e| e.to_string())?;
    let mut process = spawner.spawn(program).await.map_err(|e| e.to_string())?;
    let (pid, mut output) = (process.pid, Vec::new());
    let pipes: Vec<_> = [process.stdout.take(), process.stderr.take()].into_iter().flatten().collect();
    let read = async {
        for pipe in pipes {
            if let Ok(pipe) = pipe::Receiver::from_owned_fd(pipe) {
                let _ = pipe.take(OUTPUT as u64).read_to_end(&mut output).await;
            }
        }
    };
    // The probe's own timeout drops this future: the process is waited for by a task that outlives it.
    let mut end = tokio::spawn(process.wait());
    let deadline = tokio::time::sleep(patience);
    let exit = tokio::select! {
        (exit, ()) = async { tokio::join!(&mut end, read) } => exit,
        () = deadline => {
            // SAFETY: no pointers; the process is not reaped yet, `end` is still waiting for it.
            unsafe { libc::kill(-(pid as i32), libc::SIGKILL) };
            return Err(format!("command timed out after {}s", patience.as_secs()));
        }
    };
    match exit {
        Ok(Ok(exit)) if exit.code == 0 => Ok(()),
        Ok(Ok(exit)) => {
            let text = String::from_utf8_lossy(&output);
            Err(format!("command exited with {}: {}", exit.code, text.trim()))
        }
        Ok(Err(e)) => Err(e.to_string()),
        Err(e) => Err(e.to_string()),
    }
}
