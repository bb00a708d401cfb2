//! `causeway kvstore get | watch | status`: a look into the store of a mesh server, a cache or any etcd.

mod get;
mod show;
mod status;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use causeway_kvstore::KeyRange;
use causeway_kvstore::client::ClientConfig;
use causeway_kvstore::tls::TlsFiles;
use causeway_mesh::config_dir::RemoteConfig;
use causeway_mesh::remote::client_config;
use causeway_model::ClusterName;
use clap::{Args, Subcommand};

use crate::clustermesh::{Output, duration};
use crate::names;

/// `causeway kvstore …`
#[derive(Debug, Args)]
pub(crate) struct KvstoreArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show keys with their values
    #[command(after_help = "Examples:
  causeway kvstore get --cluster cls-sh7d4f9q cilium/.heartbeat
  causeway kvstore get --cluster cls-sh7d4f9q --prefix cilium/state/services/v1/ -o json
  causeway kvstore get --config /var/lib/cilium/etcd-config.yaml --prefix --count-only cilium/cache/")]
    Get(GetArgs),
    /// Show changes as they happen, until interrupted
    #[command(after_help = "Examples:
  causeway kvstore watch --cluster cls-sh7d4f9q --prefix cilium/state/ip/
  causeway kvstore watch --config etcd.config --prefix cilium/ --since 1200 -o json")]
    Watch(WatchArgs),
    /// Show what a store is like and what is in it
    #[command(after_help = "Examples:
  causeway kvstore status --cluster cls-sh7d4f9q
  causeway kvstore status --endpoints https://127.0.0.1:2379 --cacert ca.crt --cert tls.crt --key tls.key")]
    Status(StatusArgs),
}

/// Which store, and how to speak with it.
#[derive(Debug, Args)]
struct Target {
    /// URLs of the store, https://host:port; with --cacert, --cert and --key
    #[arg(long, value_delimiter = ',')]
    endpoints: Vec<String>,
    /// File with the authorities the server's certificate may come from
    #[arg(long, requires = "endpoints")]
    cacert: Option<PathBuf>,
    /// File with our certificate
    #[arg(long, requires = "endpoints")]
    cert: Option<PathBuf>,
    /// File with its private key
    #[arg(long, requires = "endpoints")]
    key: Option<PathBuf>,
    /// An etcd client configuration (YAML), as Cilium's etcd.config
    #[arg(long)]
    config: Option<PathBuf>,
    /// A remote cluster, by its name in the folder --clustermesh-config
    #[arg(long)]
    cluster: Option<String>,
    /// Folder with one etcd client configuration per remote cluster
    #[arg(long, default_value = names::PEERS_DIR)]
    clustermesh_config: PathBuf,
    /// Longest time for connecting, and for each answer (seconds, or 5s, 1m)
    #[arg(long, default_value = "5s", value_parser = duration)]
    timeout: Duration,
}

/// Which keys.
#[derive(Debug, Args)]
struct Keys {
    /// A key, or with --prefix what keys begin with (then it may be left out: all keys)
    #[arg(value_name = "KEY", default_value = "", hide_default_value = true)]
    start: String,
    /// Every key that begins with KEY
    #[arg(long)]
    prefix: bool,
}

#[derive(Debug, Args)]
struct GetArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    keys: Keys,
    /// Show no values
    #[arg(long, conflicts_with = "count_only")]
    keys_only: bool,
    /// Show only how many keys there are
    #[arg(long)]
    count_only: bool,
    /// Show at most so many keys; 0 = all
    #[arg(long, default_value_t = 0)]
    limit: u64,
    /// As of this revision; 0 = now
    #[arg(long, default_value_t = 0)]
    rev: i64,
    /// Output
    #[arg(short, long, value_enum, default_value = "summary")]
    output: Output,
}

#[derive(Debug, Args)]
struct WatchArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    keys: Keys,
    /// Show first what changed from this revision on; 0 = only what changes from now on
    #[arg(long, default_value_t = 0)]
    since: i64,
    /// Output; json is one object per line
    #[arg(short, long, value_enum, default_value = "summary")]
    output: Output,
}

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    target: Target,
    /// Output
    #[arg(short, long, value_enum, default_value = "summary")]
    output: Output,
}

/// Runs one verb.
///
/// # Errors
/// When the store cannot be reached or refuses; the text names the cause.
pub(crate) async fn run(args: KvstoreArgs) -> Result<()> {
    match args.verb {
        Verb::Get(args) => get::run(&args).await,
        Verb::Watch(args) => watch::run(&args).await,
        Verb::Status(args) => status::run(&args).await,
    }
}

impl Target {
    fn client_config(&self) -> Result<ClientConfig> {
        match (self.endpoints.as_slice(), &self.config, &self.cluster) {
            ([], Some(file), None) => {
                // The name is for messages only: the file says where the store is.
                let any = ClusterName::new("store")?;
                let config = RemoteConfig::read(file, &any)?;
                client_config(&config, self.timeout).map_err(anyhow::Error::msg)
            }
            ([], None, Some(name)) => {
                let name = ClusterName::new(name.as_str()).context("--cluster")?;
                let file = self.clustermesh_config.join(name.as_str());
                let config = RemoteConfig::read(&file, &name)?;
                client_config(&config, self.timeout).map_err(anyhow::Error::msg)
            }
            ([_, ..], None, None) => Ok(ClientConfig {
                endpoints: self.endpoints.clone(),
                tls: self.files()?,
                resolve: Default::default(),
                timeout: self.timeout,
            }),
            _ => bail!(
                "say which store: --cluster NAME (a remote cluster), --config FILE (an etcd client configuration), \
                 or --endpoints URL with --cacert, --cert and --key; one of the three"
            ),
        }
    }

    fn files(&self) -> Result<Option<TlsFiles>> {
        match (&self.cacert, &self.cert, &self.key) {
            (Some(ca), Some(cert), Some(key)) => {
                Ok(Some(TlsFiles { ca: ca.clone(), cert: cert.clone(), key: key.clone() }))
            }
            (None, None, None) => Ok(None),
            _ => bail!("--cacert, --cert and --key belong together; one is missing"),
        }
    }
}

impl Keys {
    fn range(&self) -> Result<KeyRange> {
        match (self.start.is_empty(), self.prefix) {
            (true, false) => bail!("give a KEY, or --prefix for all keys"),
            // etcd has no empty key: the smallest one begins the whole key space.
            (true, true) => Ok(KeyRange::new(vec![0].into(), vec![0].into())),
            (false, true) => Ok(KeyRange::prefix(self.start.clone())),
            (false, false) => Ok(KeyRange::single(self.start.clone())),
        }
    }
}
