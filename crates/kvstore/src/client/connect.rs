//! From a URL to a channel: name, TCP, TLS, each with its own error.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rand::seq::SliceRandom;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::{ClientConfig, ClientError};

/// How often the connection is probed, and how long an answer may take (mesh-protocol 3.10).
const PING: Duration = Duration::from_secs(15);
const PONG: Duration = Duration::from_secs(25);
/// HTTP/2 flow-control window of a stream and of the connection, bytes.
const WINDOW: u32 = 8 << 20;

trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Io for T {}

/// Connects to the first endpoint that answers, in random order.
pub(super) async fn any(config: &ClientConfig) -> Result<(String, Channel), ClientError> {
    let mut endpoints = config.endpoints.clone();
    endpoints.shuffle(&mut rand::rng());
    let mut last = ClientError::NoEndpoint;
    for endpoint in endpoints {
        match one(config, &endpoint).await {
            Ok(channel) => return Ok((endpoint, channel)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Connects to one endpoint.
pub(super) async fn one(config: &ClientConfig, endpoint: &str) -> Result<Channel, ClientError> {
    let invalid = |why: String| ClientError::Endpoint { endpoint: endpoint.to_owned(), why };
    let uri: Uri = endpoint.parse().map_err(|e: http::uri::InvalidUri| invalid(e.to_string()))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(invalid("the scheme must be https or http".into()));
    }
    let host = uri.host().ok_or_else(|| invalid("it has no host".into()))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(2379);
    // The connector below returns only texts to tonic; the typed error is left here.
    let failure = Arc::new(Mutex::new(None));
    let dialer = service_fn({
        let (config, endpoint, failure) = (config.clone(), endpoint.to_owned(), failure.clone());
        let https = uri.scheme_str() == Some("https");
        move |_: Uri| {
            let (config, endpoint, failure, host) =
                (config.clone(), endpoint.clone(), failure.clone(), host.clone());
            async move {
                match dial(&config, &endpoint, &host, port, https).await {
                    Ok(stream) => Ok(TokioIo::new(stream)),
                    Err(error) => {
                        let text = error.to_string();
                        *failure.lock().expect("nothing panics while it is held") = Some(error);
                        Err(std::io::Error::other(text))
                    }
                }
            }
        }
    });
    let target = Endpoint::from(uri)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .tcp_nodelay(true);
    target.connect_with_connector(dialer).await.map_err(|error| {
        let typed = failure.lock().expect("nothing panics while it is held").take();
        typed.unwrap_or_else(|| ClientError::Status {
            endpoint: endpoint.to_owned(),
            code: tonic::Code::Unavailable,
            message: error.to_string(),
        })
    })
}

async fn dial(
    config: &ClientConfig,
    endpoint: &str,
    host: &str,
    port: u16,
    https: bool,
) -> Result<Box<dyn Io>, ClientError> {
    let connect = async {
        let socket = tcp(config, endpoint, host, port).await?;
        let _ = socket.set_nodelay(true);
        if !https {
            return Ok(Box::new(socket) as Box<dyn Io>);
        }
        let files =
            config.tls.as_ref().ok_or_else(|| ClientError::NoTlsFiles { endpoint: endpoint.to_owned() })?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|e| ClientError::Endpoint { endpoint: endpoint.to_owned(), why: e.to_string() })?;
        let tls = TlsConnector::from(Arc::new(files.client_config(&[b"h2"])?));
        let ca = files.ca.display().to_string();
        let stream = tls
            .connect(name, socket)
            .await
            .map_err(|source| ClientError::from_handshake(endpoint, host, &ca, source))?;
        Ok(Box::new(stream) as Box<dyn Io>)
    };
    tokio::time::timeout(config.timeout, connect)
        .await
        .map_err(|_| ClientError::Timeout { endpoint: endpoint.to_owned(), after: config.timeout })?
}

async fn tcp(config: &ClientConfig, endpoint: &str, host: &str, port: u16) -> Result<TcpStream, ClientError> {
    let addresses: Vec<SocketAddr> = match config.resolve.get(host) {
        Some(ips) => ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect(),
        None => tokio::net::lookup_host((host, port))
            .await
            .map_err(|source| ClientError::Resolve { host: host.to_owned(), source })?
            .collect(),
    };
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(ClientError::Tcp { endpoint: endpoint.to_owned(), source: last })
}
