//! One TLS handshake that remembers what it saw, and what its failure means.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::prelude::{FromDer, X509Name};

use super::certificates::{Material, describe, invalid, provider};
use super::report::{Stage, Step};
use crate::pki::{self, CertInfo};

/// What the other end showed before the handshake succeeded or failed.
#[derive(Debug, Default)]
struct Seen {
    /// Its certificate, then those of authorities it sent along.
    chain: Mutex<Vec<CertificateDer<'static>>>,
    /// Names of the authorities it takes client certificates from; `None`: it did not ask for one.
    accepts: Mutex<Option<Vec<String>>>,
}

fn lock<T>(value: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Verifies as usual, and keeps the chain.
#[derive(Debug)]
struct Verifier {
    usual: Arc<WebPkiServerVerifier>,
    seen: Arc<Seen>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = std::iter::once(end_entity).chain(intermediates);
        *lock(&self.seen.chain) = chain.map(|der| der.clone().into_owned()).collect();
        self.usual.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.usual.root_hint_subjects()
    }
}

/// Presents our certificate whatever is asked for, as readers do, and keeps what was asked for.
#[derive(Debug)]
struct Presenter {
    key: Arc<CertifiedKey>,
    seen: Arc<Seen>,
}

impl ResolvesClientCert for Presenter {
    fn resolve(&self, authorities: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let name = |der: &&[u8]| X509Name::from_der(der).map_or("?".to_owned(), |(_, name)| name.to_string());
        *lock(&self.seen.accepts) = Some(authorities.iter().map(name).collect());
        Some(self.key.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Why the handshake did not lead to a connection that works.
enum Failure {
    /// Before it was complete on our side.
    Handshake(io::Error),
    /// After that: with TLS 1.3 a server judges our certificate only then.
    Afterwards(io::Error),
    /// Nothing came in time.
    Silence(&'static str),
    /// What came is not HTTP/2.
    Foreign,
}

/// Makes a handshake with `host` over `socket` and waits for the server's first word, at most `limit`.
pub(super) async fn handshake(material: &Material, host: &str, socket: TcpStream, limit: Duration) -> Step {
    let seen = Arc::new(Seen::default());
    let (config, name) = match (client_config(material, &seen), ServerName::try_from(host.to_owned())) {
        (Ok(config), Ok(name)) => (config, name),
        (Err(error), _) => {
            let fix = "correct trusted-ca-file, cert-file and key-file of the peer's file";
            return Step::failed(Stage::Tls, format!("our TLS files cannot be used: {error}"), fix);
        }
        (_, Err(error)) => {
            let fix = "use a DNS name or an address as the endpoint's host";
            return Step::failed(Stage::Tls, format!("{host} can be no name of a certificate: {error}"), fix);
        }
    };
    let result = connect(config, name, socket, limit).await;
    let chain: Vec<CertInfo> =
        lock(&seen.chain).iter().filter_map(|der| pki::inspect_der(der).ok()).collect();
    let accepts = lock(&seen.accepts).clone();
    let step = match result {
        Ok(about) => succeeded(about, &chain, accepts.is_some()),
        Err(failure) => explain(failure, &chain, accepts.as_deref(), material, host, limit),
    };
    let shown = chain.iter().map(|cert| format!("the server shows {}", describe(cert)));
    let names = chain.first().map(|leaf| format!("its certificate is for {}", names(leaf)));
    step.with(shown.chain(names))
}

fn client_config(material: &Material, seen: &Arc<Seen>) -> Result<ClientConfig, rustls::Error> {
    let usual = WebPkiServerVerifier::builder_with_provider(material.roots.clone(), provider())
        .build()
        .map_err(|e| rustls::Error::General(e.to_string()))?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { usual, seen: seen.clone() }))
        .with_client_cert_resolver(Arc::new(Presenter { key: material.key.clone(), seen: seen.clone() }));
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// What a connection that works is like.
struct About {
    version: String,
    alpn: bool,
}

async fn connect(
    config: ClientConfig,
    name: ServerName<'static>,
    socket: TcpStream,
    limit: Duration,
) -> Result<About, Failure> {
    let connector = TlsConnector::from(Arc::new(config));
    let stream = tokio::time::timeout(limit, connector.connect(name, socket)).await;
    let mut stream = stream.map_err(|_| Failure::Silence("to our TLS hello"))?.map_err(Failure::Handshake)?;
    let first = tokio::time::timeout(limit, greet(&mut stream)).await;
    let frame = first.map_err(|_| Failure::Silence("after the handshake"))?.map_err(Failure::Afterwards)?;
    if frame[3] != SETTINGS {
        return Err(Failure::Foreign);
    }
    let (_, session) = stream.get_ref();
    Ok(About {
        version: session.protocol_version().map_or_else(String::new, |v| format!("{v:?}").replace('_', ".")),
        alpn: session.alpn_protocol() == Some(b"h2"),
    })
}

/// Type of the HTTP/2 frame every server begins with (RFC 9113, 3.4 and 6.5).
const SETTINGS: u8 = 4;
/// How a client begins HTTP/2: the preface and an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// Begins HTTP/2 and reads the header of the server's first frame.
async fn greet(stream: &mut TlsStream<TcpStream>) -> io::Result<[u8; 9]> {
    let mut header = [0; 9];
    // A server that refuses us may have closed already; what it said is still there to be read.
    let written = stream.write_all(PREFACE).await.and(stream.flush().await);
    match stream.read_exact(&mut header).await {
        Ok(_) => Ok(header),
        Err(error) if alert(&error).is_some() => Err(error),
        Err(error) => Err(written.err().unwrap_or(error)),
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
}

fn alert(error: &io::Error) -> Option<String> {
    match tls_error(error) {
        Some(rustls::Error::AlertReceived(alert)) => Some(format!("{alert:?}")),
        _ => None,
    }
}

fn succeeded(about: About, chain: &[CertInfo], asked: bool) -> Step {
    let who = chain.first().map_or_else(String::new, |leaf| format!(" with {}", leaf.subject));
    let finding = format!("{}{who}", about.version);
    if !about.alpn {
        let fix = "serve ALPN h2: Cilium's agents refuse a server without it";
        return Step::warning(Stage::Tls, format!("{finding}, but without ALPN h2"), fix);
    }
    if !asked {
        let fix = "require client certificates, else everybody may read it";
        return Step::warning(Stage::Tls, format!("{finding}, which asks for no client certificate"), fix);
    }
    let expires = chain.first().map(|leaf| (leaf.days_left, leaf.days_left < 30));
    match expires {
        Some((days, true)) => Step::warning(
            Stage::Tls,
            format!("{finding}, whose certificate expires in {days} days"),
            "renew it with `causeway install` on the remote cluster",
        ),
        _ => Step::ok(Stage::Tls, finding),
    }
}

fn names(leaf: &CertInfo) -> String {
    if leaf.names.is_empty() { "no name".to_owned() } else { leaf.names.join(", ") }
}

/// What the failure means for the operator.
fn explain(
    failure: Failure,
    chain: &[CertInfo],
    accepts: Option<&[String]>,
    ours: &Material,
    host: &str,
    limit: Duration,
) -> Step {
    let fail = |finding: String, fix: String| Step::failed(Stage::Tls, finding, fix);
    let error = match failure {
        Failure::Silence(when) => {
            return fail(
                format!("no answer {when} within {} s", limit.as_secs_f32()),
                "something accepts connections there and says nothing: look at the peer's clustermesh-apiserver, \
                 and at a proxy or path with a smaller MTU on the way"
                    .to_owned(),
            );
        }
        Failure::Foreign => {
            return fail(
                "the server speaks TLS, but not HTTP/2: it is no etcd".to_owned(),
                "correct host and port of the endpoint".to_owned(),
            );
        }
        Failure::Handshake(error) | Failure::Afterwards(error) => error,
    };
    match (tls_error(&error), chain.first()) {
        (Some(rustls::Error::InvalidCertificate(bad)), Some(leaf)) => {
            distrusted(bad, leaf, chain, ours, host)
        }
        (Some(rustls::Error::AlertReceived(alert)), _) => refused(&format!("{alert:?}"), accepts, ours),
        (Some(rustls::Error::InvalidMessage(_)), _) => fail(
            "what answers does not speak TLS".to_owned(),
            "correct the port of the endpoint, or write http:// if it really serves without TLS".to_owned(),
        ),
        // Some servers just hang up on a client they do not trust.
        (None, Some(_)) if accepts.is_some() => refused(&error.to_string(), accepts, ours),
        _ => fail(
            format!("the handshake failed: {error}"),
            "check that the endpoint is the peer's clustermesh-apiserver".to_owned(),
        ),
    }
}

/// We do not believe the server.
fn distrusted(
    bad: &rustls::CertificateError,
    leaf: &CertInfo,
    chain: &[CertInfo],
    ours: &Material,
    host: &str,
) -> Step {
    use rustls::CertificateError as Bad;
    let fail = |finding: String, fix: String| Step::failed(Stage::Tls, finding, fix);
    let file = ours.files.ca.display();
    match bad {
        // An authority we know by name but with another key signs badly, in webpki's words.
        Bad::UnknownIssuer | Bad::BadSignature => {
            let needed = &chain.last().unwrap_or(leaf).issuer;
            let same: Vec<&CertInfo> = ours.authorities.iter().filter(|ca| ca.subject == *needed).collect();
            let why = match same.is_empty() {
                true => "is not among the authorities we trust".to_owned(),
                false => format!(
                    "is not the one of that name we trust (key {}): each cluster has its own",
                    same.iter().map(|ca| ca.key_fingerprint()).collect::<Vec<_>>().join(", ")
                ),
            };
            fail(
                format!("the authority {needed} that issued the server's certificate {why}"),
                format!(
                    "add the CA certificate of the remote cluster (ca.crt of its Secret cilium-ca) to {file}; \
                     `causeway clustermesh connect` does"
                ),
            )
        }
        Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
            let now = Timestamp::now();
            let why = chain.iter().find_map(|cert| Some(format!("{} {}", cert.subject, invalid(cert, now)?)));
            fail(
                format!(
                    "the server's certificate is not valid now: {}",
                    why.unwrap_or_else(|| format!("{bad:?}"))
                ),
                "renew it with `causeway install` on the remote cluster, and compare the clocks".to_owned(),
            )
        }
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => fail(
            format!("the server's certificate is not for {host}, but for {}", names(leaf)),
            format!(
                "use one of these names as the endpoint's host (with cilium-host-aliases for its addresses), \
                 or issue the server's certificate for {host}"
            ),
        ),
        other => fail(
            format!("the server's certificate is refused: {other:?}"),
            "issue it anew with `causeway install` on the remote cluster".to_owned(),
        ),
    }
}

/// The server does not believe us.
fn refused(how: &str, accepts: Option<&[String]>, ours: &Material) -> Step {
    let accepted = match accepts {
        None => "it did not say whose certificates it takes".to_owned(),
        Some([]) => "it does not say whose certificates it takes".to_owned(),
        Some(names) => format!("it takes certificates of {}", names.join(" and of ")),
    };
    let Material { own, .. } = ours;
    Step::failed(
        Stage::Tls,
        format!(
            "the server refused our certificate {} issued by {} ({how}); {accepted}",
            own.subject, own.issuer
        ),
        format!(
            "make the remote cluster trust this cluster's authority {} (`causeway clustermesh connect` on both \
             contexts), or use a certificate of an authority it takes",
            own.issuer
        ),
    )
}
