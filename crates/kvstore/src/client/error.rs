//! Why an etcd cannot be reached or does not answer: one variant per cause an operator can act on.

use std::time::Duration;

use crate::Error;
use crate::tls::TlsError;

/// A failed connection or call.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No endpoint is configured.
    #[error("no endpoint is configured; give at least one https://host:port")]
    NoEndpoint,
    /// An endpoint that is not a URL of the expected form.
    #[error("endpoint {endpoint:?} is invalid: {why}; give https://host:port")]
    Endpoint {
        /// The endpoint.
        endpoint: String,
        /// What is wrong with it.
        why: String,
    },
    /// `https` without files.
    #[error("endpoint {endpoint} needs TLS, but no trusted-ca-file, cert-file and key-file are given")]
    NoTlsFiles {
        /// The endpoint.
        endpoint: String,
    },
    /// Our own TLS files cannot be used.
    #[error(transparent)]
    TlsFiles(#[from] TlsError),
    /// The host name has no address.
    #[error("{host} cannot be resolved: {source}")]
    Resolve {
        /// The host name.
        host: String,
        /// Why.
        source: std::io::Error,
    },
    /// No TCP connection.
    #[error("cannot connect to {endpoint}: {source}")]
    Tcp {
        /// The endpoint.
        endpoint: String,
        /// Why.
        source: std::io::Error,
    },
    /// The server's certificate is from an authority we do not trust.
    #[error(
        "{endpoint}: the server's certificate was issued by an authority that is not in {ca}; exchange the CA certificates"
    )]
    UnknownAuthority {
        /// The endpoint.
        endpoint: String,
        /// Our file of authorities.
        ca: String,
    },
    /// The server's certificate is not valid now.
    #[error("{endpoint}: the server's certificate has expired or is not valid yet; renew it")]
    Expired {
        /// The endpoint.
        endpoint: String,
    },
    /// The server's certificate is for other names.
    #[error(
        "{endpoint}: the server's certificate is not for the name {name:?}; use a name it is for, or add this one to it"
    )]
    WrongName {
        /// The endpoint.
        endpoint: String,
        /// The name asked for.
        name: String,
    },
    /// The server refused our certificate.
    #[error("{endpoint}: the server refused our client certificate ({alert}); its CA must be trusted there")]
    CertificateRefused {
        /// The endpoint.
        endpoint: String,
        /// The TLS alert it sent.
        alert: String,
    },
    /// TLS failed otherwise.
    #[error("{endpoint}: TLS handshake failed: {source}")]
    Tls {
        /// The endpoint.
        endpoint: String,
        /// Why.
        source: std::io::Error,
    },
    /// No answer in time.
    #[error("{endpoint} did not answer within {} s", after.as_secs_f32())]
    Timeout {
        /// The endpoint.
        endpoint: String,
        /// The limit.
        after: Duration,
    },
    /// The history asked for is gone.
    #[error("the revision asked for has been compacted")]
    Compacted,
    /// An answer longer than [`MAX_MESSAGE`](super::MAX_MESSAGE).
    #[error("{endpoint} sent a message that is too large; at most {} MiB are accepted", super::MAX_MESSAGE >> 20)]
    TooLarge {
        /// The endpoint.
        endpoint: String,
    },
    /// The lease does not exist (any more).
    #[error("the lease does not exist any more")]
    LeaseNotFound,
    /// Our user may not do this.
    #[error("{endpoint}: permission denied for our certificate's common name")]
    PermissionDenied {
        /// The endpoint.
        endpoint: String,
    },
    /// The server ended a watch.
    #[error("{endpoint} ended the watch: {reason}")]
    WatchCanceled {
        /// The endpoint.
        endpoint: String,
        /// The server's reason.
        reason: String,
    },
    /// An answer without a header, which only something other than an etcd gives.
    #[error("{endpoint} answered without a header: it is not an etcd")]
    NoHeader {
        /// The endpoint.
        endpoint: String,
    },
    /// The server takes no request of this size.
    #[error("{endpoint} takes no request of this size")]
    RequestTooLarge {
        /// The endpoint.
        endpoint: String,
    },
    /// The answers come from another store than before.
    #[error(
        "{endpoint} leads to another store now (cluster id {now:x} instead of {before:x}); everything is to be listed again"
    )]
    AnotherStore {
        /// The endpoint.
        endpoint: String,
        /// The cluster id of the first answer.
        before: u64,
        /// That of this one.
        now: u64,
    },
    /// The store is at an earlier revision than it has been.
    #[error(
        "{endpoint} is at revision {now} after it was at {before}: its content was put back; everything is to be listed again"
    )]
    WentBack {
        /// The endpoint.
        endpoint: String,
        /// The revision it had.
        before: i64,
        /// The revision it has.
        now: i64,
    },
    /// Any other gRPC status.
    #[error("{endpoint}: {code:?}: {message}")]
    Status {
        /// The endpoint.
        endpoint: String,
        /// The code.
        code: tonic::Code,
        /// The server's text, or the transport's.
        message: String,
    },
}

impl ClientError {
    /// Whether this endpoint is to blame, so that another one may answer: it cannot be reached, has
    /// no leader, does not answer in time or is not what it was.
    pub fn is_of_endpoint(&self) -> bool {
        use tonic::Code::{Aborted, Cancelled, DataLoss, DeadlineExceeded, Internal, Unavailable, Unknown};
        match self {
            Self::Compacted
            | Self::LeaseNotFound
            | Self::PermissionDenied { .. }
            | Self::TooLarge { .. }
            | Self::RequestTooLarge { .. }
            | Self::NoEndpoint => false,
            Self::Status { code, .. } => matches!(
                code,
                Aborted | Cancelled | DataLoss | DeadlineExceeded | Internal | Unavailable | Unknown
            ),
            _ => true,
        }
    }

    pub(super) fn from_status(endpoint: &str, status: tonic::Status) -> Self {
        let endpoint = endpoint.to_owned();
        if let Some(alert) = alert(&status) {
            return Self::CertificateRefused { endpoint, alert };
        }
        match status.code() {
            // etcd's clients tell its errors apart by code and text together (mesh-protocol 7.6).
            tonic::Code::OutOfRange if status.message().contains("compacted") => Self::Compacted,
            // Said by our own side of the connection.
            tonic::Code::OutOfRange if status.message().contains("message length too large") => {
                Self::TooLarge { endpoint }
            }
            tonic::Code::NotFound if status.message().contains("lease") => Self::LeaseNotFound,
            tonic::Code::InvalidArgument if status.message() == Error::RequestTooLarge.to_string() => {
                Self::RequestTooLarge { endpoint }
            }
            // What is larger still is refused before etcd sees it.
            tonic::Code::ResourceExhausted if status.message().contains("message larger than max") => {
                Self::RequestTooLarge { endpoint }
            }
            tonic::Code::PermissionDenied => Self::PermissionDenied { endpoint },
            code => Self::Status { endpoint, code, message: cause(&status) },
        }
    }

    pub(super) fn from_handshake(endpoint: &str, name: &str, ca: &str, source: std::io::Error) -> Self {
        use rustls::CertificateError as Bad;
        let (endpoint, name, ca) = (endpoint.to_owned(), name.to_owned(), ca.to_owned());
        let tls = source.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()).cloned();
        match tls {
            Some(rustls::Error::InvalidCertificate(bad)) => match bad {
                // An authority we know by name but with another key signs badly, in webpki's words.
                Bad::UnknownIssuer | Bad::BadSignature => Self::UnknownAuthority { endpoint, ca },
                Bad::Expired
                | Bad::ExpiredContext { .. }
                | Bad::NotValidYet
                | Bad::NotValidYetContext { .. } => Self::Expired { endpoint },
                Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                    Self::WrongName { endpoint, name }
                }
                _ => Self::Tls { endpoint, source },
            },
            Some(rustls::Error::AlertReceived(alert)) => {
                Self::CertificateRefused { endpoint, alert: format!("{alert:?}") }
            }
            _ => Self::Tls { endpoint, source },
        }
    }
}

/// The TLS alert behind a status, if one is: with TLS 1.3 a server refuses a client's certificate
/// only after the client believes the handshake done.
fn alert(status: &tonic::Status) -> Option<String> {
    let mut error: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(status);
    while let Some(current) = error {
        let found = current
            .downcast_ref::<std::io::Error>()
            .and_then(|io| io.get_ref()?.downcast_ref::<rustls::Error>())
            .or_else(|| current.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(alert)) = found {
            return Some(format!("{alert:?}"));
        }
        // The HTTP/2 layer keeps only the text of what broke the connection under it.
        if let Some((_, alert)) = current.to_string().split_once("received fatal alert: ") {
            return Some(alert.to_owned());
        }
        error = current.source();
    }
    None
}

/// The server's text, or what really happened to the transport: its outermost text says nothing.
fn cause(status: &tonic::Status) -> String {
    let mut error: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(status);
    let mut text = status.message().to_owned();
    while let Some(current) = error {
        text = current.to_string();
        error = current.source();
    }
    text
}
