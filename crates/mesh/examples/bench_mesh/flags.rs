//! The command line and the connections it asks for.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use causeway_kvstore::client::{Client, ClientConfig};
use causeway_kvstore::tls::TlsFiles;

use super::Failure;

/// Every name there is: a misspelt one must not measure something else.
const NAMES: [&str; 16] = [
    "causeway",
    "changes",
    "clusters",
    "dest",
    "endpoints",
    "identities",
    "in-flight",
    "listen",
    "nodes",
    "peers",
    "pids",
    "rate",
    "rates",
    "secs",
    "source",
    "tls",
];

/// `--name value` pairs.
pub(crate) struct Flags(BTreeMap<String, String>);

impl Flags {
    /// Reads pairs.
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut flags = BTreeMap::new();
        while let Some(name) = args.next() {
            let name =
                name.strip_prefix("--").ok_or_else(|| format!("unexpected argument {name}"))?.to_owned();
            if !NAMES.contains(&name.as_str()) {
                return Err(format!("there is no --{name}").into());
            }
            let value = args.next().ok_or_else(|| format!("--{name} needs a value"))?;
            flags.insert(name, value);
        }
        Ok(Self(flags))
    }

    /// A flag that must be given.
    pub(crate) fn text(&self, name: &str) -> Result<String, Failure> {
        self.0.get(name).cloned().ok_or_else(|| format!("--{name} is needed").into())
    }

    /// A number, or what it is when not given.
    pub(crate) fn number(&self, name: &str, default: u64) -> Result<u64, Failure> {
        self.0.get(name).map_or(Ok(default), |v| v.parse().map_err(|e| format!("--{name}: {e}").into()))
    }

    /// The files for mutual TLS, if a folder with them is given.
    pub(crate) fn tls(&self) -> Option<TlsFiles> {
        self.0.get("tls").map(|dir| TlsFiles::in_dir(Path::new(dir)))
    }

    /// A connection to the URL a flag gives.
    pub(crate) async fn client(&self, name: &str) -> Result<Client, Failure> {
        let config = ClientConfig {
            endpoints: vec![self.text(name)?],
            tls: self.tls(),
            resolve: BTreeMap::new(),
            timeout: Duration::from_secs(120),
        };
        Ok(Client::connect(&config).await?)
    }
}
