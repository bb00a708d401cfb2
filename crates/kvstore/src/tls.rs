//! TLS from files: what both ends load, when they load it again, and whom they spoke with.
//!
//! Certificates are rotated under running processes. A client reads its files at every connect; a
//! server looks at theirs at every accept and keeps the last good ones when the new ones are bad.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The three PEM files of one end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authorities that may have issued the other end's certificate; may hold several.
    pub ca: PathBuf,
    /// Our certificate, followed by intermediates if any.
    pub cert: PathBuf,
    /// Our private key.
    pub key: PathBuf,
}

impl TlsFiles {
    /// `ca.crt`, `tls.crt` and `tls.key` of a folder, as Kubernetes mounts a Secret of type
    /// `kubernetes.io/tls`.
    pub fn in_dir(dir: &Path) -> Self {
        Self { ca: dir.join("ca.crt"), cert: dir.join("tls.crt"), key: dir.join("tls.key") }
    }
}

/// Why TLS files cannot be used; each names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("cannot read {file}: {source}")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not PEM, or holds nothing of the kind.
    #[error("{file} holds no usable {what}: {why}")]
    Pem {
        /// The file.
        file: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// What the parser says.
        why: String,
    },
    /// Certificate and key cannot be used together, or the authorities not at all.
    #[error("{file} cannot be used: {source}")]
    Refused {
        /// The file.
        file: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

impl TlsFiles {
    /// A server that requires a client certificate from one of the authorities. `alpn` is offered
    /// in order of preference.
    ///
    /// # Errors
    /// [`TlsError`], naming the file.
    pub fn server_config(&self, alpn: &[&[u8]]) -> Result<ServerConfig, TlsError> {
        self.server_config_trusting(alpn, None)
    }

    /// The same, trusting also the authorities in the `*.crt` files of a folder. A folder that does
    /// not exist holds none; a file in it that cannot be used is logged and passed over, so that
    /// one bad peer cannot lock out the others.
    ///
    /// # Errors
    /// [`TlsError`], naming the file.
    pub fn server_config_trusting(
        &self,
        alpn: &[&[u8]],
        trust: Option<&Path>,
    ) -> Result<ServerConfig, TlsError> {
        let mut roots = self.roots()?;
        for file in trust.map(authorities).unwrap_or_default() {
            match certificates(&file, "certificate authority") {
                Ok(found) => drop(roots.add_parsable_certificates(found)),
                Err(error) => tracing::warn!(%error, "a peer's authority cannot be used"),
            }
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|e| self.pem(&self.ca, "certificate authority", e))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|source| TlsError::Refused { file: self.cert.clone(), source })?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain()?, self.private_key()?)
            .map_err(|source| TlsError::Refused { file: self.cert.clone(), source })?;
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        Ok(config)
    }

    /// A client that presents its certificate and trusts only these authorities.
    ///
    /// # Errors
    /// [`TlsError`], naming the file.
    pub fn client_config(&self, alpn: &[&[u8]]) -> Result<ClientConfig, TlsError> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|source| TlsError::Refused { file: self.cert.clone(), source })?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(self.chain()?, self.private_key()?)
            .map_err(|source| TlsError::Refused { file: self.cert.clone(), source })?;
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        Ok(config)
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for cert in certificates(&self.ca, "certificate authority")? {
            roots.add(cert).map_err(|source| TlsError::Refused { file: self.ca.clone(), source })?;
        }
        Ok(roots)
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        certificates(&self.cert, "certificate")
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&read(&self.key)?).map_err(|e| self.pem(&self.key, "private key", e))
    }

    fn pem(&self, file: &Path, what: &'static str, why: impl std::fmt::Display) -> TlsError {
        TlsError::Pem { file: file.to_owned(), what, why: why.to_string() }
    }
}

/// The certificate files of a folder, in order; none if it cannot be read.
fn authorities(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> =
        entries.map(|e| e.path()).filter(|path| path.extension().is_some_and(|e| e == "crt")).collect();
    files.sort();
    files
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(file).map_err(|source| TlsError::Read { file: file.to_owned(), source })
}

fn certificates(file: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |why: String| TlsError::Pem { file: file.to_owned(), what, why };
    let found = CertificateDer::pem_slice_iter(&read(file)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| pem(e.to_string()))?;
    if found.is_empty() {
        return Err(pem("there is no CERTIFICATE block in it".into()));
    }
    Ok(found)
}

/// Which files there are and when each last changed.
type Seen = Vec<(PathBuf, Option<SystemTime>)>;

/// A server configuration that follows its files.
#[derive(Debug)]
pub struct ReloadingServer {
    files: TlsFiles,
    trust: Option<PathBuf>,
    alpn: Vec<&'static [u8]>,
    current: Mutex<(Seen, Arc<ServerConfig>)>,
}

impl ReloadingServer {
    /// Loads the files for the first time; `trust` as in [`TlsFiles::server_config_trusting`].
    ///
    /// # Errors
    /// [`TlsError`], naming the file.
    pub fn new(files: TlsFiles, alpn: &[&'static [u8]], trust: Option<PathBuf>) -> Result<Self, TlsError> {
        let seen = seen(&files, trust.as_deref());
        let config = Arc::new(files.server_config_trusting(alpn, trust.as_deref())?);
        Ok(Self { files, trust, alpn: alpn.to_vec(), current: Mutex::new((seen, config)) })
    }

    /// The configuration for the next connection. Files that changed are read again; if that fails
    /// the previous configuration stays in force and the failure is logged.
    pub fn current(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().expect("nothing panics while it is held");
        let modified = seen(&self.files, self.trust.as_deref());
        if current.0 != modified {
            current.0 = modified;
            match self.files.server_config_trusting(&self.alpn, self.trust.as_deref()) {
                Ok(config) => {
                    tracing::info!(cert = %self.files.cert.display(), "certificates reloaded");
                    current.1 = Arc::new(config);
                }
                Err(error) => {
                    tracing::warn!(%error, "new certificates refused; the previous ones stay in force")
                }
            }
        }
        current.1.clone()
    }
}

fn seen(files: &TlsFiles, trust: Option<&Path>) -> Seen {
    let own = [&files.ca, &files.cert, &files.key].map(PathBuf::clone);
    let all = own.into_iter().chain(trust.map(authorities).unwrap_or_default());
    all.map(|file| {
        let modified = std::fs::metadata(&file).and_then(|m| m.modified()).ok();
        (file, modified)
    })
    .collect()
}

/// The common name of a certificate's subject, if it has one.
pub fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}
