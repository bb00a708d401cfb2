//! Authorities and certificates for tests.

use std::path::Path;
use std::time::Duration;

use causeway_kvstore::tls::TlsFiles;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// An authority of its own.
pub(crate) type Authority = CertifiedIssuer<'static, KeyPair>;

/// A new one.
pub(crate) fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes `<file>.crt`, `<file>.key` and `<file>-ca.crt`: signed by `issuer`, valid from ten days ago until
/// `days` after five days ago, with `trusted` as the authority of the other end.
pub(crate) fn certificate(
    dir: &Path,
    file: &str,
    cn: &str,
    names: &[&str],
    issuer: &Authority,
    days: u32,
    trusted: &Authority,
) -> TlsFiles {
    let names: Vec<_> = names.iter().map(|name| name.to_string()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, cn);
    let now = std::time::SystemTime::now();
    let day = Duration::from_secs(86_400);
    params.not_before = (now - day * 10).into();
    params.not_after = (now - day * 5 + day * days).into();
    let key = KeyPair::generate().unwrap();
    let signed = params.signed_by(&key, issuer).unwrap();
    let files = files(dir, file);
    std::fs::write(&files.cert, signed.pem()).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    std::fs::write(&files.ca, trusted.pem()).unwrap();
    files
}

/// Where [`certificate`] puts them.
pub(crate) fn files(dir: &Path, file: &str) -> TlsFiles {
    let path = |end: &str| dir.join(format!("{file}{end}"));
    TlsFiles { ca: path("-ca.crt"), cert: path(".crt"), key: path(".key") }
}
