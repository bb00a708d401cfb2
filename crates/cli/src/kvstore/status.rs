//! `causeway kvstore status`: each endpoint of a store, what is in it, and which clusters are.

use anyhow::{Result, bail};
use causeway_kvstore::client::{Client, ClientConfig, ClientError};
use causeway_kvstore::{KeyRange, pb};
use causeway_mesh::keys::{self, Kind, Layout};
use causeway_mesh::wire;
use causeway_model::ClusterName;
use jiff::Timestamp;
use serde::Serialize;

use super::StatusArgs;
use crate::clustermesh::Output;
use crate::content::{self, Marked};
use crate::output;

/// What one endpoint is like.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Endpoint {
    endpoint: String,
    /// Why it does not answer; then nothing else is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    store: Option<Stored>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Stored {
    /// Version of the protocol.
    version: String,
    /// Size of the store in bytes.
    db_size: i64,
    revision: i64,
    /// Hexadecimal, as etcdctl prints them.
    cluster_id: String,
    member_id: String,
    leader: String,
    is_leader: bool,
    raft_term: u64,
    alarms: Vec<String>,
    /// By the writer's clock.
    heartbeat_age_seconds: Option<i64>,
    keys: Vec<Count>,
    clusters: Vec<Cluster>,
    /// What our user may not see.
    hidden: Vec<String>,
}

/// How many keys there are below one of Cilium's prefixes.
#[derive(Debug, Serialize)]
struct Count {
    prefix: String,
    count: i64,
}

/// A cluster that has an announcement in the store.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    name: String,
    id: u32,
    cached: bool,
    /// Kinds that are marked as complete.
    synced: Vec<&'static str>,
    /// Kinds that are not.
    syncing: Vec<&'static str>,
}

pub(super) async fn run(args: &StatusArgs) -> Result<()> {
    let config = args.target.client_config()?;
    let known = args.target.cluster.as_deref().and_then(|name| ClusterName::new(name).ok());
    let mut all = vec![];
    for endpoint in &config.endpoints {
        let (store, error) = match look(&config, endpoint, known.as_ref()).await {
            Ok(store) => (Some(store), None),
            Err(error) => (None, Some(error.to_string())),
        };
        all.push(Endpoint { endpoint: endpoint.clone(), error, store });
    }
    match args.output {
        Output::Json => output::line(&serde_json::to_string_pretty(&all)?)?,
        Output::Summary => output::line(&all.iter().map(text).collect::<Vec<_>>().join("\n"))?,
    }
    match all.iter().filter(|endpoint| endpoint.error.is_some()).count() {
        0 => Ok(()),
        failed => bail!("{failed} of {} endpoints do not answer", all.len()),
    }
}

async fn look(
    config: &ClientConfig,
    endpoint: &str,
    known: Option<&ClusterName>,
) -> Result<Stored, ClientError> {
    let config = ClientConfig { endpoints: vec![endpoint.to_owned()], ..config.clone() };
    let client = Client::connect(&config).await?;
    let status = client.status().await?;
    let header = status.header.unwrap_or_default();
    let mut stored = Stored {
        version: status.version,
        db_size: status.db_size,
        revision: header.revision,
        cluster_id: format!("{:x}", header.cluster_id),
        member_id: format!("{:x}", header.member_id),
        leader: format!("{:x}", status.leader),
        is_leader: status.leader == header.member_id,
        raft_term: status.raft_term,
        alarms: status.errors,
        ..Default::default()
    };
    if let Some(found) = stored.visible(keys::HEARTBEAT, range(&client, keys::HEARTBEAT, false).await)? {
        stored.heartbeat_age_seconds =
            found.kvs.first().and_then(|kv| content::heartbeat_age(&kv.value, Timestamp::now()));
    }
    for layout in [Layout::Native, Layout::Cached] {
        for kind in Kind::ALL {
            let prefix = format!("{}/{}/v1/", layout.base(), kind.word());
            if let Some(found) = stored.visible(&prefix, range(&client, &prefix, true).await)? {
                stored.keys.push(Count { prefix, count: found.count });
            }
        }
    }
    stored.clusters = clusters(&client, &mut stored, known).await?;
    Ok(stored)
}

impl Stored {
    /// The answer; nothing, and a note, if our user may not have it.
    fn visible<T>(&mut self, what: &str, answer: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
        match answer {
            Ok(found) => Ok(Some(found)),
            Err(ClientError::PermissionDenied { .. }) => {
                self.hidden.push(what.to_owned());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

async fn range(client: &Client, prefix: &str, count_only: bool) -> Result<pb::RangeResponse, ClientError> {
    let range = KeyRange::prefix(prefix.to_owned());
    client.range(pb::RangeRequest { count_only, ..(&range).into() }).await
}

/// The clusters with an announcement. Remote users may not list them; the one they ask for they may see.
async fn clusters(
    client: &Client,
    stored: &mut Stored,
    known: Option<&ClusterName>,
) -> Result<Vec<Cluster>, ClientError> {
    let prefix = format!("{}/", keys::CLUSTER_CONFIG);
    let listed = match (client.list_all(prefix.as_bytes()).await, known) {
        (Err(ClientError::PermissionDenied { .. }), Some(name)) => {
            let key = keys::cluster_config(name);
            stored.visible(&key, client.get(key.clone()).await)?.map(|found| found.kvs)
        }
        (answer, _) => stored.visible(&prefix, answer)?,
    };
    let mut clusters = vec![];
    for kv in listed.unwrap_or_default() {
        let name = std::str::from_utf8(&kv.key).ok().and_then(|key| key.strip_prefix(&prefix));
        let Some(name) = name.and_then(|name| ClusterName::new(name).ok()) else { continue };
        let Ok(config) = wire::config::decode(&name, &kv.value) else { continue };
        let markers = keys::marker_prefix(&name);
        let markers = stored.visible(&markers, range(client, &markers, false).await)?;
        let markers = markers.map(|found| found.kvs).unwrap_or_default();
        let Marked { synced, missing } = content::marked(&name, &config, &markers);
        let (id, cached) = (config.id, config.cached);
        clusters.push(Cluster { name: name.to_string(), id, cached, synced, syncing: missing });
    }
    Ok(clusters)
}

fn text(endpoint: &Endpoint) -> String {
    let mut text = format!("{}\n", endpoint.endpoint);
    if let Some(error) = &endpoint.error {
        text.push_str(&format!("  FAIL       {error}\n"));
    }
    let Some(stored) = &endpoint.store else { return text };
    let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<10} {value}\n"));
    let version = output::printable(stored.version.as_bytes());
    line("store", format!("etcd {version}, {} bytes, revision {}", stored.db_size, stored.revision));
    let role = if stored.is_leader { "is the leader" } else { "follows" };
    line(
        "member",
        format!(
            "{} of {} {role} (leader {}, term {})",
            stored.member_id, stored.cluster_id, stored.leader, stored.raft_term
        ),
    );
    for alarm in &stored.alarms {
        line("alarm", output::printable(alarm.as_bytes()));
    }
    let age = stored.heartbeat_age_seconds;
    line("heartbeat", age.map_or("none".to_owned(), |seconds| format!("{seconds} s ago")));
    for count in stored.keys.iter().filter(|count| count.count > 0) {
        line("keys", format!("{:>8} {}", count.count, count.prefix));
    }
    for cluster in &stored.clusters {
        let cached = if cluster.cached { ", cached" } else { "" };
        let sync = match (cluster.syncing.is_empty(), cluster.synced.is_empty()) {
            (true, true) => "without markers".to_owned(),
            (true, false) => "complete".to_owned(),
            (false, _) => format!("not marked as complete: {}", cluster.syncing.join(", ")),
        };
        line("cluster", format!("{} has id {}{cached}, {sync}", cluster.name, cluster.id));
    }
    if !stored.hidden.is_empty() {
        line("hidden", format!("our user may not read {}", stored.hidden.join(" ")));
    }
    text
}
