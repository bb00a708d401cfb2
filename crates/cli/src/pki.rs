//! Certificates as Cilium's chart issues them (mesh-protocol 5.2).
//!
//! One authority per cluster (`CN=Cilium CA`), and leaves for the mesh server and for the clients.
//! Nothing here reads or writes a cluster; [`crate::install`] keeps the results in Secrets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, anyhow, bail};
use causeway_model::ClusterName;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

/// How long every certificate is valid, in days (the chart's `certValidityDuration`).
pub(crate) const VALIDITY_DAYS: i64 = 1095;

/// A leaf is issued anew when fewer days than this are left.
const RENEW_DAYS: i64 = 30;

/// A certificate with its private key, both PEM.
#[derive(Clone)]
pub(crate) struct KeyedCert {
    /// The certificate.
    pub cert: String,
    /// The private key, PKCS#8; never printed.
    pub key: String,
}

impl std::fmt::Debug for KeyedCert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyedCert").field("cert", &self.cert).finish_non_exhaustive()
    }
}

/// What a leaf certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeafSpec {
    /// Subject common name: the etcd user of a client.
    pub common_name: String,
    /// DNS names; empty for clients.
    pub dns_names: Vec<String>,
    /// Addresses; empty for clients.
    pub addresses: Vec<IpAddr>,
}

impl LeafSpec {
    /// The mesh server of a cluster.
    pub(crate) fn server(namespace: &str) -> Self {
        Self {
            common_name: "clustermesh-apiserver.cilium.io".into(),
            dns_names: vec![
                "clustermesh-apiserver.cilium.io".into(),
                format!("*.{MESH_DOMAIN}"),
                format!("clustermesh-apiserver.{namespace}.svc"),
            ],
            addresses: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        }
    }

    /// A client; it has no names besides its common name.
    pub(crate) fn client(common_name: impl Into<String>) -> Self {
        Self { common_name: common_name.into(), dns_names: vec![], addresses: vec![] }
    }

    fn is_server(&self) -> bool {
        !self.dns_names.is_empty()
    }
}

/// The domain under which peers are dialled (`clustermesh.config.domain`).
pub(crate) const MESH_DOMAIN: &str = "mesh.cilium.io";

/// The host name under which a peer's mesh server is verified.
pub(crate) fn mesh_host(cluster: &ClusterName) -> String {
    format!("{cluster}.{MESH_DOMAIN}")
}

/// A new certificate authority.
pub(crate) fn new_ca() -> Result<KeyedCert> {
    let key = KeyPair::generate().context("generate a CA key")?;
    let mut params = base_params("Cilium CA", vec![])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let cert = params.self_signed(&key).context("sign the CA certificate")?;
    Ok(KeyedCert { cert: cert.pem(), key: key.serialize_pem() })
}

/// Issues a leaf.
pub(crate) fn issue(ca: &KeyedCert, spec: &LeafSpec) -> Result<KeyedCert> {
    let ca_key = KeyPair::from_pem(&ca.key).context("read the CA's private key")?;
    let issuer = Issuer::from_ca_cert_pem(&ca.cert, ca_key).context("read the CA's certificate")?;
    let key = KeyPair::generate().context("generate a key")?;
    let mut sans = Vec::new();
    for name in &spec.dns_names {
        sans.push(SanType::DnsName(name.as_str().try_into().with_context(|| format!("DNS name {name:?}"))?));
    }
    sans.extend(spec.addresses.iter().map(|ip| SanType::IpAddress(*ip)));
    let mut params = base_params(&spec.common_name, sans)?;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![if spec.is_server() {
        ExtendedKeyUsagePurpose::ServerAuth
    } else {
        ExtendedKeyUsagePurpose::ClientAuth
    }];
    let cert = params.signed_by(&key, &issuer).context("sign a certificate")?;
    Ok(KeyedCert { cert: cert.pem(), key: key.serialize_pem() })
}

fn base_params(common_name: &str, sans: Vec<SanType>) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.subject_alt_names = sans;
    // From yesterday on: clocks of a mesh differ.
    let (from, to) = (day(-1)?, day(VALIDITY_DAYS)?);
    params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
    params.not_after = rcgen::date_time_ymd(to.0, to.1, to.2);
    Ok(params)
}

/// Year, month and day in UTC, this many days from today.
fn day(offset: i64) -> Result<(i32, u8, u8)> {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let date = today.checked_add(jiff::Span::new().days(offset)).context("date out of range")?;
    Ok((date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs()))
}

/// What an operator may want to know about a certificate; holds no key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertInfo {
    /// Subject common name.
    pub common_name: String,
    /// Whole name of the subject, as `CN=Cilium CA`.
    pub subject: String,
    /// Whole name of the authority that issued it.
    pub issuer: String,
    /// DNS names and addresses.
    pub names: Vec<String>,
    /// It holds from here on.
    pub not_before: jiff::Timestamp,
    /// It holds until here.
    pub not_after: jiff::Timestamp,
    /// Days until it expires; negative when it has.
    pub days_left: i64,
    /// Its public key, DER: two certificates of one authority are equal in it.
    pub public_key: Vec<u8>,
    der: CertificateDer<'static>,
}

/// Reads the first certificate of a PEM text.
pub(crate) fn inspect(pem: &[u8]) -> Result<CertInfo> {
    let der = CertificateDer::from_pem_slice(pem).map_err(|e| anyhow!("not a PEM certificate: {e}"))?;
    inspect_der(&der)
}

/// Reads a certificate.
pub(crate) fn inspect_der(der: &CertificateDer<'_>) -> Result<CertInfo> {
    let (_, cert) = X509Certificate::from_der(der).map_err(|e| anyhow!("not an X.509 certificate: {e}"))?;
    let common_name =
        cert.subject().iter_common_name().next().and_then(|cn| cn.as_str().ok()).unwrap_or_default();
    let mut names = Vec::new();
    if let Ok(Some(sans)) = cert.subject_alternative_name() {
        for san in &sans.value.general_names {
            match san {
                x509_parser::extensions::GeneralName::DNSName(name) => names.push((*name).to_owned()),
                x509_parser::extensions::GeneralName::IPAddress(bytes) => names.extend(address(bytes)),
                _ => {}
            }
        }
    }
    let time = |time: x509_parser::time::ASN1Time| {
        jiff::Timestamp::from_second(time.timestamp()).context("a date of the certificate is out of range")
    };
    let (not_before, not_after) = (time(cert.validity().not_before)?, time(cert.validity().not_after)?);
    let left = not_after.as_second() - jiff::Timestamp::now().as_second();
    let info = CertInfo {
        common_name: common_name.to_owned(),
        subject: cert.subject().to_string(),
        issuer: cert.issuer().to_string(),
        names,
        not_before,
        not_after,
        days_left: left.div_euclid(86_400),
        public_key: cert.public_key().raw.to_vec(),
        der: der.clone().into_owned(),
    };
    Ok(info)
}

impl CertInfo {
    /// Tells authorities of one name apart: the first 16 hexadecimal digits of the SHA-256 of the
    /// public key (SubjectPublicKeyInfo).
    pub(crate) fn key_fingerprint(&self) -> String {
        use sha2::{Digest, Sha256};
        Sha256::digest(&self.public_key).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    Some(ip.to_string())
}

/// Fails with the reason when `leaf` is not a certificate of `ca` for `spec` that lasts.
pub(crate) fn check_leaf(ca: &CertInfo, leaf: &[u8], spec: &LeafSpec) -> Result<()> {
    let leaf = inspect(leaf)?;
    if leaf.common_name != spec.common_name {
        bail!("its name is {:?}, not {:?}", leaf.common_name, spec.common_name);
    }
    let wanted = spec.dns_names.iter().cloned().chain(spec.addresses.iter().map(IpAddr::to_string));
    for name in wanted {
        if !leaf.names.contains(&name) {
            bail!("it does not name {name}");
        }
    }
    if leaf.days_left < RENEW_DAYS {
        bail!("it expires in {} days", leaf.days_left);
    }
    if !signed_by(&leaf, ca) {
        bail!("another authority signed it");
    }
    Ok(())
}

/// True when `ca` signed `leaf`.
pub(crate) fn signed_by(leaf: &CertInfo, ca: &CertInfo) -> bool {
    let (Ok((_, leaf)), Ok((_, ca))) =
        (X509Certificate::from_der(&leaf.der), X509Certificate::from_der(&ca.der))
    else {
        return false;
    };
    leaf.verify_signature(Some(ca.public_key())).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_carry_the_names_of_the_protocol() {
        let ca = new_ca().unwrap();
        let ca_info = inspect(ca.cert.as_bytes()).unwrap();
        assert_eq!(ca_info.common_name, "Cilium CA");
        assert!((VALIDITY_DAYS - 1..=VALIDITY_DAYS).contains(&ca_info.days_left), "{}", ca_info.days_left);
        let spec = LeafSpec::server("kube-system");
        let server = issue(&ca, &spec).unwrap();
        let info = inspect(server.cert.as_bytes()).unwrap();
        assert_eq!(
            info.names,
            [
                "clustermesh-apiserver.cilium.io",
                "*.mesh.cilium.io",
                "clustermesh-apiserver.kube-system.svc",
                "127.0.0.1",
                "::1"
            ]
        );
        check_leaf(&ca_info, server.cert.as_bytes(), &spec).unwrap();
        let client = issue(&ca, &LeafSpec::client("remote")).unwrap();
        assert!(inspect(client.cert.as_bytes()).unwrap().names.is_empty());
    }

    #[test]
    fn foreign_and_wrong_leaves_are_named() {
        let (ours, theirs) = (new_ca().unwrap(), new_ca().unwrap());
        let ours_info = inspect(ours.cert.as_bytes()).unwrap();
        let foreign = issue(&theirs, &LeafSpec::client("remote")).unwrap();
        let text = check_leaf(&ours_info, foreign.cert.as_bytes(), &LeafSpec::client("remote")).unwrap_err();
        assert!(text.to_string().contains("another authority"), "{text}");
        let text = check_leaf(&ours_info, foreign.cert.as_bytes(), &LeafSpec::client("admin-a")).unwrap_err();
        assert!(text.to_string().contains("not \"admin-a\""), "{text}");
        assert!(inspect(b"hello").is_err());
        assert_ne!(ours_info.public_key, inspect(theirs.cert.as_bytes()).unwrap().public_key);
    }

    #[test]
    fn keys_are_not_printed() {
        let ca = new_ca().unwrap();
        assert!(!format!("{ca:?}").contains("PRIVATE"));
    }
}
