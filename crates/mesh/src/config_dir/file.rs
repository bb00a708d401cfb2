//! One file, and one reading of the directory.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use causeway_model::ClusterName;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::Error;

/// Text that makes a file a peer's configuration (mesh-protocol trap 38).
const MARK: &str = "endpoints:";
/// Longest file; real ones are below 1 KiB.
const MAX_FILE: u64 = 1 << 20;

/// How to reach a remote cluster's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteConfig {
    /// The cluster.
    pub name: ClusterName,
    /// URLs, `https://host:port`.
    pub endpoints: Vec<String>,
    /// PEM file with the authorities that may sign the peer's certificate.
    pub ca_file: Option<PathBuf>,
    /// PEM file with our certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM file with its key.
    pub key_file: Option<PathBuf>,
    /// No TLS at all.
    pub insecure_transport: bool,
    /// TLS without checking the peer's certificate.
    pub insecure_skip_verify: bool,
    /// User for password authentication; none with certificates.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<String>,
    /// Addresses to dial for a host name of `endpoints` (`cilium-host-aliases`): no name service is
    /// needed, and the name stays what the peer's certificate must be for.
    pub resolve: BTreeMap<String, Vec<IpAddr>>,
    /// SHA-256 over the file and every file it refers to: a change means a new connection.
    pub fingerprint: [u8; 32],
}

impl RemoteConfig {
    /// Reads one etcd client configuration, for the store of `cluster`.
    ///
    /// # Errors
    /// [`Error`], naming the file and what is wrong.
    pub fn read(path: &Path, cluster: &ClusterName) -> Result<Self, Error> {
        parse(path, cluster, &text(path)?)
    }
}

/// One reading of the directory.
#[derive(Debug, Default)]
pub struct Found {
    /// By cluster name: how to reach it, or why its file cannot be used.
    pub clusters: BTreeMap<ClusterName, Result<RemoteConfig, Error>>,
    /// Files that are meant as configurations but are not named like a cluster.
    pub invalid: Vec<Error>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[derive(Default)]
struct Yaml {
    endpoints: Option<Vec<String>>,
    trusted_ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    insecure_transport: Option<bool>,
    insecure_skip_tls_verify: Option<bool>,
    username: Option<String>,
    password: Option<String>,
    cilium_host_aliases: Option<Vec<HostAlias>>,
}

#[derive(Debug, Deserialize)]
struct HostAlias {
    hostname: String,
    ips: Vec<IpAddr>,
}

/// Reads the directory once, without the file of cluster `own`. A missing one is an empty one: the
/// volume is optional.
///
/// # Errors
/// [`Error::Read`] when it exists and cannot be read.
pub fn scan(dir: &Path, own: Option<&ClusterName>) -> Result<Found, Error> {
    let unreadable = |e: io::Error| Error::Read { path: dir.to_owned(), reason: e.to_string() };
    let mut found = Found::default();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(e) => return Err(unreadable(e)),
    };
    let mut paths =
        entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    paths.sort();
    for path in paths {
        // Follows symlinks: projected volumes are made of them.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if !metadata.is_file() {
            continue;
        }
        let Some(file_name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else {
            continue;
        };
        let name = ClusterName::new(file_name.clone());
        if own.is_some_and(|own| file_name == own.as_str()) {
            continue;
        }
        match (name, text(&path)) {
            (_, Ok(text)) if !contains(&text, MARK.as_bytes()) => {}
            (Ok(name), Ok(text)) => {
                let config = parse(&path, &name, &text);
                found.clusters.insert(name, config);
            }
            (Ok(name), Err(error)) => drop(found.clusters.insert(name, Err(error))),
            (Err(error), Ok(_)) => found.invalid.push(Error::Name { path, rule: error.to_string() }),
            // Keys and the like whose names are no cluster names.
            (Err(_), Err(_)) => {}
        }
    }
    Ok(found)
}

/// What is in a file, unless it is too long for a configuration.
fn text(path: &Path) -> Result<Vec<u8>, Error> {
    let unreadable = |reason: String| Error::Read { path: path.to_owned(), reason };
    let length = fs::metadata(path).map_err(|e| unreadable(e.to_string()))?.len();
    if length > MAX_FILE {
        return Err(unreadable(format!("longer than {MAX_FILE} bytes")));
    }
    fs::read(path).map_err(|e| unreadable(e.to_string()))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn parse(path: &Path, name: &ClusterName, text: &[u8]) -> Result<RemoteConfig, Error> {
    let content = |field, rule: String| Error::Content { path: path.to_owned(), field, rule };
    let utf8 = std::str::from_utf8(text).map_err(|_| content("file", "not UTF-8 text".to_owned()))?;
    let yaml: Yaml = serde_saphyr::from_str(utf8).map_err(|e| {
        content("file", format!("not a YAML etcd client configuration: {}", first_line(&e.to_string())))
    })?;
    let endpoints = yaml.endpoints.unwrap_or_default();
    if endpoints.is_empty() {
        return Err(content("endpoints", "empty; give at least one https://host:port".to_owned()));
    }
    let insecure_transport = yaml.insecure_transport.unwrap_or(false);
    for endpoint in &endpoints {
        let (scheme, host) = endpoint.split_once("://").unwrap_or(("", endpoint));
        let tls = match scheme {
            "https" => true,
            "http" => false,
            _ => {
                return Err(content(
                    "endpoints",
                    format!("{endpoint:?} is not a URL; https://host:port is right"),
                ));
            }
        };
        let port = host.trim_end_matches('/').rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(1..))) {
            return Err(content(
                "endpoints",
                format!("{endpoint:?} has no port; https://host:port is right"),
            ));
        }
        if !tls && !insecure_transport && yaml.trusted_ca_file.is_some() {
            return Err(content(
                "endpoints",
                format!("{endpoint:?} is plain HTTP but certificates are configured"),
            ));
        }
    }
    let mut aliases: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for alias in yaml.cilium_host_aliases.unwrap_or_default() {
        aliases.entry(alias.hostname).or_default().extend(alias.ips);
    }
    let mut digest = Sha256::new();
    digest.update(text);
    for (field, file) in [
        ("trusted-ca-file", &yaml.trusted_ca_file),
        ("cert-file", &yaml.cert_file),
        ("key-file", &yaml.key_file),
    ] {
        if let Some(file) = file {
            let bytes = fs::read(file)
                .map_err(|e| content(field, format!("{} cannot be read: {e}", file.display())))?;
            digest.update([0]);
            digest.update(bytes);
        }
    }
    if yaml.cert_file.is_some() != yaml.key_file.is_some() {
        return Err(content(
            "cert-file",
            "cert-file and key-file belong together; one is missing".to_owned(),
        ));
    }
    Ok(RemoteConfig {
        name: name.clone(),
        endpoints,
        ca_file: yaml.trusted_ca_file,
        cert_file: yaml.cert_file,
        key_file: yaml.key_file,
        insecure_transport,
        insecure_skip_verify: yaml.insecure_skip_tls_verify.unwrap_or(false),
        username: yaml.username.filter(|name| !name.is_empty()),
        password: yaml.password,
        resolve: aliases,
        fingerprint: digest.finalize().into(),
    })
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or(text)
}
