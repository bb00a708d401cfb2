//! The PEM files of a peer's configuration: what they hold, and whether it fits together and is valid.

use std::path::Path;
use std::sync::Arc;

use causeway_kvstore::tls::TlsFiles;
use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, ring};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::report::{Stage, Step};
use crate::pki::{self, CertInfo};

/// Fewer days left than this are worth a warning.
const SOON: i64 = 30;

/// Everything TLS needs, with what is said about it.
#[derive(Debug)]
pub(super) struct Material {
    /// The authorities whose servers we believe.
    pub(super) authorities: Vec<CertInfo>,
    /// Our own certificate.
    pub(super) own: CertInfo,
    /// The files, for messages.
    pub(super) files: TlsFiles,
    pub(super) roots: Arc<RootCertStore>,
    pub(super) key: Arc<CertifiedKey>,
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Reads the files. The step says what is in them; without material it has failed.
pub(super) fn load(files: &TlsFiles) -> (Step, Option<Material>) {
    match read(files) {
        Err(failed) => (failed, None),
        Ok(material) => {
            let step = judge(&material, Timestamp::now());
            let usable = !step.is_failed();
            (step, usable.then_some(material))
        }
    }
}

fn read(files: &TlsFiles) -> Result<Material, Step> {
    let authorities = certificates(&files.ca, "authority")?;
    let mut roots = RootCertStore::empty();
    for authority in &authorities {
        roots.add(authority.clone()).map_err(|e| {
            let fix =
                "replace it by the certificate of the authority the peer's server certificate comes from";
            failed(format!("{} holds no usable authority: {e}", files.ca.display()), fix)
        })?;
    }
    let chain = certificates(&files.cert, "certificate")?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| {
        let fix = "put the private key that belongs to cert-file there, as PEM";
        failed(format!("{} holds no usable private key: {e}", files.key.display()), fix)
    })?;
    let own = inspect(&files.cert, &chain[0])?;
    let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => failed(
            format!("{} is not the private key of {}", files.key.display(), files.cert.display()),
            "take both from one Secret; `causeway install` issues them together",
        ),
        other => failed(
            format!("{} cannot be used: {other}", files.key.display()),
            "put the private key that belongs to cert-file there",
        ),
    })?;
    let authorities = authorities.iter().map(|der| inspect(&files.ca, der)).collect::<Result<Vec<_>, _>>()?;
    Ok(Material { authorities, own, files: files.clone(), roots: Arc::new(roots), key: Arc::new(key) })
}

fn failed(finding: String, fix: &str) -> Step {
    Step::failed(Stage::Certificates, finding, fix)
}

fn certificates(file: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>, Step> {
    let fix = "put a PEM file with at least one CERTIFICATE block there";
    let found = CertificateDer::pem_file_iter(file)
        .and_then(|blocks| blocks.collect::<Result<Vec<_>, _>>())
        .map_err(|e| failed(format!("{} cannot be read as {what}: {e}", file.display()), fix))?;
    match found.is_empty() {
        true => Err(failed(format!("{} holds no {what}", file.display()), fix)),
        false => Ok(found),
    }
}

fn inspect(file: &Path, der: &CertificateDer<'_>) -> Result<CertInfo, Step> {
    pki::inspect_der(der)
        .map_err(|e| failed(format!("{}: {e}", file.display()), "replace the file by a certificate"))
}

/// Whether everything is valid at this time.
fn judge(material: &Material, now: Timestamp) -> Step {
    let Material { authorities, own, files, .. } = material;
    let finding = format!("our certificate is {}", describe(own));
    let details = authorities.iter().map(|ca| format!("we trust {}", describe(ca)));
    let details: Vec<String> = details.collect();
    let renew = "renew it with `causeway install` on this cluster";
    if let Some(why) = invalid(own, now) {
        let finding = format!("our certificate {} {why}", files.cert.display());
        return Step::failed(Stage::Certificates, finding, renew).with(details);
    }
    // Our readers take an authority for what its name and key say; Go's verify its dates too.
    if let Some((ca, why)) = authorities.iter().find_map(|ca| Some((ca, invalid(ca, now)?))) {
        let finding = format!("the authority {} in {} {why}", ca.subject, files.ca.display());
        let fix = "renew the authority; Cilium's own agents refuse what it signed";
        return Step::warning(Stage::Certificates, finding, fix).with(details);
    }
    if let Some(soon) = std::iter::once(own).chain(authorities).find(|cert| days(cert, now) < SOON) {
        let finding = format!("{} expires in {} days", soon.subject, days(soon, now));
        return Step::warning(Stage::Certificates, finding, renew).with(details);
    }
    Step::ok(Stage::Certificates, finding).with(details)
}

fn days(cert: &CertInfo, now: Timestamp) -> i64 {
    (cert.not_after.as_second() - now.as_second()).div_euclid(86_400)
}

/// Why a certificate is not valid at this time.
pub(super) fn invalid(cert: &CertInfo, now: Timestamp) -> Option<String> {
    if cert.not_after <= now {
        Some(format!("expired on {}", date(cert.not_after)))
    } else if cert.not_before > now {
        Some(format!("is valid only from {} on (is the clock of this node right?)", date(cert.not_before)))
    } else {
        None
    }
}

fn date(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%MZ").to_string()
}

/// A certificate in one line.
pub(super) fn describe(cert: &CertInfo) -> String {
    let by = match cert.subject == cert.issuer {
        true => "signed by itself".to_owned(),
        false => format!("issued by {}", cert.issuer),
    };
    format!(
        "{} ({by}, key {}, valid {} to {})",
        cert.subject,
        cert.key_fingerprint(),
        date(cert.not_before),
        date(cert.not_after)
    )
}
