//! Where `causeway clustermesh-apiserver` publishes to: a store of its own, in memory or on disk, or
//! an etcd cluster. Named as Cilium names it: `kvstore`, `kvstore-opt`; `data-dir` as etcd does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use causeway_daemon::config::Config;
use causeway_kvstore::client::ClientConfig;
use causeway_kvstore::{Store, StoreOptions};
use causeway_mesh::config_dir::RemoteConfig;
use causeway_mesh::remote;
use causeway_model::ClusterName;

/// How long one call to an etcd may take: longer than it takes to elect a leader.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Backend {
    /// An embedded store that is filled anew at every start.
    Memory,
    /// An embedded store that goes on where it was.
    Durable(PathBuf),
    /// An etcd that others run.
    Etcd(ClientConfig),
}

impl Backend {
    /// Reads the settings and the file they name.
    pub(crate) fn from_config(config: &Config, own: &ClusterName) -> Result<Self> {
        let text = |name| config.text(name).unwrap_or_default();
        Self::choose(text("kvstore"), text("kvstore-opt"), text("data-dir"), own)
    }

    fn choose(kvstore: &str, options: &str, data_dir: &str, own: &ClusterName) -> Result<Self> {
        match (kvstore, data_dir) {
            ("", "") => Ok(Self::Memory),
            ("", dir) => Ok(Self::Durable(dir.into())),
            ("etcd", "") => Ok(Self::Etcd(etcd(options, own)?)),
            ("etcd", dir) => bail!(
                "kvstore is etcd and data-dir is {dir}: an etcd keeps its data itself; remove data-dir, or kvstore to \
                 use the embedded store"
            ),
            (other, _) => bail!(
                "kvstore {other:?} is not supported; give \"etcd\", or nothing to use the embedded store"
            ),
        }
    }
}

fn etcd(options: &str, own: &ClusterName) -> Result<ClientConfig> {
    let options = parse_options(options)?;
    let config = match (options.get("etcd.config"), options.get("etcd.address")) {
        (Some(file), _) => {
            let file = RemoteConfig::read(Path::new(file), own).context("kvstore-opt etcd.config")?;
            remote::client_config(&file, TIMEOUT).map_err(anyhow::Error::msg)
        }
        (None, Some(address)) => Ok(ClientConfig {
            endpoints: vec![address.clone()],
            tls: None,
            resolve: BTreeMap::new(),
            timeout: TIMEOUT,
        }),
        (None, None) => Err(anyhow::anyhow!(
            "kvstore is etcd, but kvstore-opt names no etcd; give --kvstore-opt etcd.config=FILE with endpoints, \
             trusted-ca-file, cert-file and key-file in it"
        )),
    };
    let known = ["etcd.config", "etcd.address"];
    for name in options.keys().filter(|name| !known.contains(&name.as_str())) {
        tracing::info!(option = name, "kvstore-opt has an option that is of no use here");
    }
    config
}

/// The options in either of Cilium's forms: `a=b,c=d`, or a JSON object of texts.
fn parse_options(text: &str) -> Result<BTreeMap<String, String>> {
    let text = text.trim();
    if text.starts_with('{') {
        return serde_json::from_str(text)
            .context("kvstore-opt is neither a list like etcd.config=FILE nor a JSON object of texts");
    }
    let pair = |pair: &str| match pair.split_once('=') {
        Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
        None => bail!("kvstore-opt {pair:?} has no value; give it as name=value, like etcd.config=FILE"),
    };
    text.split(',').filter(|part| !part.trim().is_empty()).map(pair).collect()
}

/// The store in a directory; what was cut off after a crash is told.
pub(crate) async fn open(dir: PathBuf, options: StoreOptions) -> Result<Store> {
    // Reading takes as long as there is content.
    let opened = tokio::task::spawn_blocking(move || Store::open(dir, options));
    let store = opened.await.context("opening the store")?.context("data-dir")?;
    if let Some(cut) = store.cut_tail() {
        tracing::warn!(
            file = %cut.file.display(), bytes = cut.bytes,
            "the last process was killed while it wrote; what it had not answered is cut off"
        );
    }
    tracing::info!(revision = store.revision(), bytes = store.live_bytes(), "the store goes on where it was");
    Ok(store)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(kvstore: &str, options: &str, data_dir: &str) -> Result<Backend, String> {
        let own = ClusterName::new("cls-a").unwrap();
        Backend::choose(kvstore, options, data_dir, &own).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn the_store_is_embedded_unless_told_otherwise() {
        assert_eq!(choose("", "", ""), Ok(Backend::Memory));
        assert_eq!(choose("", "", "/var/lib/causeway"), Ok(Backend::Durable("/var/lib/causeway".into())));
    }

    #[test]
    fn an_etcd_is_named_as_cilium_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name).display().to_string();
        for name in ["ca.crt", "tls.crt", "tls.key"] {
            std::fs::write(file(name), "read when it is used").unwrap();
        }
        let yaml = format!(
            "endpoints:\n- https://etcd-0:2379\n- https://etcd-1:2379\ntrusted-ca-file: {}\ncert-file: {}\nkey-file: {}\n",
            file("ca.crt"),
            file("tls.crt"),
            file("tls.key")
        );
        let path = file("etcd.config");
        std::fs::write(&path, yaml).unwrap();
        for options in [
            format!("etcd.config={path}"),
            format!(" etcd.qps=100 , etcd.config={path}"),
            format!("{{\"etcd.config\": \"{path}\"}}"),
        ] {
            let Ok(Backend::Etcd(config)) = choose("etcd", &options, "") else { panic!("{options}") };
            assert_eq!(config.endpoints, ["https://etcd-0:2379", "https://etcd-1:2379"]);
            assert_eq!(config.tls.unwrap().key, PathBuf::from(file("tls.key")));
        }
        let Ok(Backend::Etcd(config)) = choose("etcd", "etcd.address=http://127.0.0.1:2379", "") else {
            panic!("an address alone is enough")
        };
        assert_eq!((config.endpoints, config.tls), (vec!["http://127.0.0.1:2379".to_owned()], None));
    }

    #[test]
    fn what_cannot_be_says_what_can() {
        for (kvstore, options, data_dir, wanted) in [
            ("consul", "", "", "give \"etcd\""),
            ("etcd", "", "", "--kvstore-opt etcd.config=FILE"),
            ("etcd", "etcd.config", "", "name=value"),
            ("etcd", "{\"etcd.config\": 1}", "", "JSON object of texts"),
            ("etcd", "etcd.config=/nowhere/etcd.config", "", "/nowhere/etcd.config"),
            ("etcd", "etcd.address=x", "/data", "remove data-dir"),
        ] {
            let error = choose(kvstore, options, data_dir).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
