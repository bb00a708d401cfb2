//! An HTTP server that says who it is, in HTTP/1.1 or HTTP/2 without TLS, as the client begins.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::Answer;
use crate::error::Result;
use crate::runtime::Context;

/// Longest body of /bytes.
const MAX_BYTES: usize = 64 << 20;

/// Serves until SIGTERM, and then for `drain` more: who has not heard yet that this server goes still asks it.
pub(super) async fn serve(listen: SocketAddr, drain: Duration) -> Result<u8> {
    let listener = TcpListener::bind(listen).await.what(|| format!("listen on {listen}"))?;
    let mut terminate = signal(SignalKind::terminate()).what(|| "listen for signals".into())?;
    println!("listening on {listen}");
    let drained = async {
        terminate.recv().await;
        tokio::time::sleep(drain).await;
    };
    tokio::pin!(drained);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut drained => return Ok(0),
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                eprintln!("accept: {e}");
                continue;
            }
        };
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| async move {
                Ok::<_, Infallible>(answer(request, client))
            });
            let server = auto::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn answer(request: Request<Incoming>, client: SocketAddr) -> Response<BoxBody<Bytes, hyper::Error>> {
    if request.uri().path() == "/echo" {
        return Response::new(request.into_body().boxed());
    }
    let own = Answer::own(client);
    let (kind, body) = match request.uri().path() {
        "/healthz" | "/readyz" => ("text/plain", Bytes::from_static(b"ok\n")),
        "/bytes" => {
            let query = request.uri().query().unwrap_or_default();
            let n = query.split('&').find_map(|p| p.strip_prefix("n=")?.parse::<usize>().ok());
            ("application/octet-stream", Bytes::from(vec![b'x'; n.unwrap_or(1024).min(MAX_BYTES)]))
        }
        "/shutdown" => {
            // After the answer has left.
            tokio::spawn(async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                std::process::exit(0);
            });
            ("text/plain", Bytes::from_static(b"shutting down\n"))
        }
        _ => {
            let accept = request.headers().get(http::header::ACCEPT).and_then(|v| v.to_str().ok());
            if accept.is_some_and(|a| a.starts_with("text/plain")) {
                let Answer { pod, cluster, node, client, .. } = own;
                ("text/plain", format!("{pod} on {node} in {cluster}, asked by {client}\n").into())
            } else {
                let mut text = serde_json::to_vec(&own).unwrap_or_default();
                text.push(b'\n');
                ("application/json", text.into())
            }
        }
    };
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed());
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
