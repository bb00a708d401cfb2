//! TLS, connections, and the compaction of old revisions.

use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::options::{ApiServerOptions, Error};
use super::{Api, authn, handlers};

/// How long a client may take for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The server's TLS configuration: client certificates are asked for, not required.
///
/// # Errors
/// For PEM that does not parse, or a key that does not belong to the certificate.
pub fn tls_config(options: &ApiServerOptions) -> Result<Arc<rustls::ServerConfig>, Error> {
    let tls = |e: &dyn std::fmt::Display| Error::Tls(e.to_string());
    let chain = certificates(&options.cert_pem).map_err(|e| tls(&e))?;
    let key = PrivateKeyDer::from_pem_slice(options.key_pem.as_bytes()).map_err(|e| tls(&e))?;
    let mut roots = RootCertStore::empty();
    for ca in certificates(&options.client_ca_pem).map_err(|e| tls(&e))? {
        roots.add(ca).map_err(|e| tls(&e))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| tls(&e))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| tls(&e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| tls(&e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, rustls_pki_types::pem::Error> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect()
}

/// Accepts connections until `shutdown`.
pub async fn accept(
    api: Arc<Api>,
    tls: Arc<rustls::ServerConfig>,
    listener: TcpListener,
    shutdown: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection(api.clone(), acceptor.clone(), stream));
            }
            Err(error) => {
                // Out of descriptors, or a connection that ended at once: neither lasts.
                tracing::warn!(%error, "cannot accept an API connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    connections.shutdown().await;
}

async fn connection(api: Arc<Api>, acceptor: TlsAcceptor, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake with an API client failed");
            return;
        }
        Err(_) => return,
    };
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|c| c.first())
        .and_then(|c| authn::from_certificate(c));
    let service = service_fn(move |request| {
        let (api, certificate) = (api.clone(), certificate.clone());
        async move {
            let user = authn::authenticate(&api, request.headers(), certificate.as_ref());
            Ok::<_, std::convert::Infallible>(handlers::handle(api, request, user).await)
        }
    });
    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "API connection ended");
    }
}

/// Compacts away what is older than a period, every period.
pub async fn compact(api: Arc<Api>, shutdown: CancellationToken) {
    let mut before = 0;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(api.options.compact_every) => {}
        }
        if before > 0
            && let Err(error) = api.storage.store().compact(before)
        {
            tracing::debug!(%error, revision = before, "compaction");
        }
        before = api.storage.revision();
    }
}
