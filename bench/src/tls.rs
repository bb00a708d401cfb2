//! Mutual TLS for the second column: one certificate that both ends of both sides show.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use tempfile::TempDir;

/// The authority.
pub(crate) const CA: &str = "ca.crt";
/// The certificate.
pub(crate) const CERT: &str = "tls.crt";
/// Its key.
pub(crate) const KEY: &str = "tls.key";

/// Longer than any run.
const DAY: Duration = Duration::from_secs(86_400);

/// A folder with an authority and a certificate of this machine's loopback address, for servers and clients.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn certificates() -> anyhow::Result<TempDir> {
    let dir = tempfile::Builder::new().prefix("causeway-bench-tls-").tempdir()?;
    let now = SystemTime::now();
    let named = |names: Vec<String>, name: &str| -> anyhow::Result<CertificateParams> {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, name);
        (params.not_before, params.not_after) = ((now - DAY).into(), (now + DAY).into());
        Ok(params)
    };
    let mut authority = named(vec![], "causeway-bench-ca")?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let mut params = named(vec!["127.0.0.1".to_owned()], "causeway-bench")?;
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &authority)?;
    for (file, text) in [(CA, authority.pem()), (CERT, certificate.pem()), (KEY, key.serialize_pem())] {
        let path = dir.path().join(file);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(dir)
}

/// Tells a load generator, or a server of ours, where they are.
pub(crate) fn give(command: &mut Command, dir: Option<&Path>) {
    if let Some(dir) = dir {
        command.arg("--tls").arg(dir);
    }
}
