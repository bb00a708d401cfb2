//! What the server answers to its user: permissions, heartbeat, announcement and markers.

use std::time::Duration;

use causeway_kvstore::client::{Client, ClientError};
use causeway_kvstore::{KeyRange, WatchOptions, pb};
use causeway_mesh::keys::{self, Kind, Layout};
use causeway_mesh::wire::{self, config::Unacceptable};
use causeway_model::{ClusterConfig, ClusterName};
use futures::StreamExt;
use jiff::Timestamp;

use super::Local;
use super::report::{Stage, Step};
use crate::content;

/// Longest gap between two heartbeats that readers allow (mesh-protocol 3.5).
const HEARTBEAT: i64 = 120;

/// Who asks whom.
pub(super) struct Asked<'a> {
    pub(super) client: &'a Client,
    /// The cluster as its file is named.
    pub(super) cluster: &'a ClusterName,
    /// Our user: the common name of our certificate.
    pub(super) user: &'a str,
    pub(super) local: &'a Local,
    /// How long to wait for a heartbeat when the last one looks old.
    pub(super) patience: Duration,
}

/// Takes the steps until one fails; the id is the announced one, as soon as it is known.
pub(super) async fn examine(asked: &Asked<'_>) -> (Vec<Step>, Option<u32>) {
    let mut steps = vec![];
    let (step, found) = authorisation(asked).await;
    steps.push(step);
    let Some(Read { revision, heartbeat, announcement }) = found else { return (steps, None) };
    let step = beat(asked, heartbeat, revision).await;
    let stopped = step.is_failed();
    steps.push(step);
    if stopped {
        return (steps, None);
    }
    let (step, config) = configuration(asked, announcement.as_ref());
    let stopped = step.is_failed();
    steps.push(step);
    let id = config.as_ref().map(|config| config.id);
    if let (Some(config), false) = (config, stopped) {
        steps.push(sync(asked, &config).await);
    }
    (steps, id)
}

/// What every reader begins with.
struct Read {
    /// The store's, when the heartbeat was read.
    revision: i64,
    heartbeat: Option<pb::KeyValue>,
    announcement: Option<pb::KeyValue>,
}

/// Reads heartbeat and announcement.
async fn authorisation(asked: &Asked<'_>) -> (Step, Option<Read>) {
    let user = asked.user;
    let range = KeyRange::prefix(keys::HEARTBEAT);
    let heartbeat = match read(asked.client, &range, Shape::First).await {
        Ok(response) => response,
        Err(error) => {
            let fix = format!(
                "its users are remote, remote-<peer>, local-<cluster> and admin-<cluster>: issue our client \
                 certificate for the common name remote (`causeway install` does), not {user:?}"
            );
            return (failed(asked, Stage::Authorisation, keys::HEARTBEAT, &error, fix), None);
        }
    };
    let key = keys::cluster_config(asked.cluster);
    let announcement = match asked.client.get(key.clone()).await {
        Ok(response) => response,
        Err(error) => {
            let fix = format!(
                "the server lets remote users read its own cluster's announcement only, so it belongs to a cluster \
                 of another name than {}: name the file exactly like the remote cluster (its cluster-name), or \
                 correct the endpoint",
                asked.cluster
            );
            return (failed(asked, Stage::Authorisation, &key, &error, fix), None);
        }
    };
    let header = announcement.header.unwrap_or_default();
    let mut details = vec![format!("store {:x}, revision {}", header.cluster_id, header.revision)];
    if let Ok(status) = asked.client.status().await {
        details.push(format!("etcd protocol {}, {} bytes", status.version, status.db_size));
    }
    let step = Step::ok(Stage::Authorisation, format!("user {user} may read")).with(details);
    let revision = heartbeat.header.as_ref().map_or(0, |header| header.revision);
    let first = |response: pb::RangeResponse| response.kvs.into_iter().next();
    (step, Some(Read { revision, heartbeat: first(heartbeat), announcement: first(announcement) }))
}

enum Shape {
    First,
    Keys,
    Count,
}

async fn read(client: &Client, range: &KeyRange, shape: Shape) -> Result<pb::RangeResponse, ClientError> {
    let request = pb::RangeRequest {
        limit: if matches!(shape, Shape::First) { 1 } else { 0 },
        keys_only: matches!(shape, Shape::Keys),
        count_only: matches!(shape, Shape::Count),
        ..range.into()
    };
    client.range(request).await
}

fn failed(asked: &Asked<'_>, stage: Stage, key: &str, error: &ClientError, fix: String) -> Step {
    match error {
        ClientError::PermissionDenied { .. } => Step::failed(
            Stage::Authorisation,
            format!("the server does not let user {:?} read {key}", asked.user),
            fix,
        ),
        error => Step::failed(
            stage,
            format!("reading {key} failed: {error}"),
            "look at the log of the peer's clustermesh-apiserver",
        ),
    }
}

/// What the value of a heartbeat says about its age.
#[derive(Debug, PartialEq, Eq)]
enum Beat {
    /// Written so many seconds ago, by the writer's clock.
    Age(i64),
    /// Written in our future.
    Ahead(i64),
    /// Not a time.
    Unreadable,
}

fn judge(value: &[u8], now: Timestamp) -> Beat {
    match content::heartbeat_age(value, now) {
        None => Beat::Unreadable,
        // Clocks that differ by less than a period are no reason for doubt.
        Some(age) if age < -60 => Beat::Ahead(-age),
        Some(age) => Beat::Age(age.max(0)),
    }
}

/// Readers count arrivals and never look at the value. So when the value looks bad, wait for one.
async fn beat(asked: &Asked<'_>, found: Option<pb::KeyValue>, revision: i64) -> Step {
    let patience = asked.patience;
    let fix = "the peer's clustermesh-apiserver has stopped writing: look at its log and its /readyz; without \
               heartbeats readers connect again and again";
    let clocks = "compare the clocks of both clusters (NTP)";
    let doubt = match found.as_ref().map(|kv| judge(&kv.value, Timestamp::now())) {
        Some(Beat::Age(age)) if age <= HEARTBEAT => {
            return Step::ok(Stage::Heartbeat, format!("written {age} s ago"));
        }
        Some(Beat::Age(age)) => format!("the last one was written {age} s ago by the writer's clock"),
        Some(Beat::Ahead(ahead)) => format!("the last one was written {ahead} s in our future"),
        Some(Beat::Unreadable) => "the last one holds no time".to_owned(),
        None => "there has never been one".to_owned(),
    };
    match next_beat(asked, revision).await {
        Ok(true) => Step::warning(Stage::Heartbeat, format!("{doubt}, but it is being written"), clocks),
        Ok(false) => Step::failed(
            Stage::Heartbeat,
            format!("no heartbeat within {} s, and {doubt}; readers allow {HEARTBEAT} s", patience.as_secs()),
            fix,
        ),
        Err(error) => failed(
            asked,
            Stage::Heartbeat,
            keys::HEARTBEAT,
            &error,
            "let this user watch the heartbeat".into(),
        ),
    }
}

async fn next_beat(asked: &Asked<'_>, known: i64) -> Result<bool, ClientError> {
    use causeway_kvstore::client::WatchMessage;
    // From the next revision on, so that one written since the list is seen too.
    let options = WatchOptions::new(KeyRange::prefix(keys::HEARTBEAT), known + 1);
    let mut stream = asked.client.watch(options).await?;
    let arrives = async {
        while let Some(message) = stream.next().await.transpose()? {
            match message {
                WatchMessage::Events(_, events) if !events.is_empty() => return Ok(true),
                WatchMessage::Compacted { .. } => return Err(ClientError::Compacted),
                WatchMessage::Canceled(reason) => {
                    let endpoint = asked.client.endpoint().to_owned();
                    return Err(ClientError::WatchCanceled { endpoint, reason });
                }
                _ => {}
            }
        }
        Ok(false)
    };
    tokio::time::timeout(asked.patience, arrives).await.unwrap_or(Ok(false))
}

fn configuration(asked: &Asked<'_>, found: Option<&pb::KeyValue>) -> (Step, Option<ClusterConfig>) {
    let key = keys::cluster_config(asked.cluster);
    let Some(found) = found else {
        let finding = format!("there is no {key}");
        let fix = format!(
            "name the file exactly like the remote cluster; if the name is right, the server has nothing of {} yet: \
             a cache connects first, a clustermesh-apiserver lists first (see its /readyz)",
            asked.cluster
        );
        return (Step::failed(Stage::Configuration, finding, fix), None);
    };
    let config = match wire::config::decode(asked.cluster, &found.value) {
        Ok(config) => config,
        Err(error) => {
            let fix = "it was not written by a Cilium or Causeway of this protocol: correct the endpoint";
            return (Step::failed(Stage::Configuration, error.to_string(), fix), None);
        }
    };
    let step = match acceptable(asked.local, asked.cluster, &config) {
        Ok(()) => Step::ok(Stage::Configuration, announced(asked.cluster, &config)),
        Err((finding, fix)) => {
            Step::failed(Stage::Configuration, finding, fix).with([announced(asked.cluster, &config)])
        }
    };
    (step, Some(config))
}

fn announced(name: &ClusterName, config: &ClusterConfig) -> String {
    let exports = match config.service_exports_enabled {
        None => "unknown to it",
        Some(true) => "on",
        Some(false) => "off",
    };
    format!(
        "cluster {name} has id {}, at most {} clusters; sync markers {}, cached {}, service exports {exports}",
        config.id,
        config.max_connected_clusters,
        if config.synced_canaries { "yes" } else { "no" },
        if config.cached { "yes" } else { "no" },
    )
}

/// Whether an agent of this cluster takes the announcement (mesh-protocol 3.3), else what is wrong with it and what to do.
fn acceptable(local: &Local, name: &ClusterName, config: &ClusterConfig) -> Result<(), (String, String)> {
    let max = local.max_clusters;
    let refusal = |why| match why {
        Unacceptable::Id(error) => (
            format!("it announces {error}"),
            format!("give {name} an id between 1 and {}, and restart its workloads", max.max_id()),
        ),
        Unacceptable::MaxClusters => (
            format!(
                "it announces max-connected-clusters {}, this cluster has {}",
                config.max_connected_clusters,
                max.max_id()
            ),
            "all clusters of a mesh need the same value from their installation on".to_owned(),
        ),
        Unacceptable::OwnId => (
            format!("it announces cluster id {}, which is this cluster's own", config.id),
            "give one of the two another cluster-id, and restart its workloads".to_owned(),
        ),
    };
    wire::config::acceptable(config, max, local.id).map(drop).map_err(refusal)
}

/// The markers, and how much there is of each kind.
async fn sync(asked: &Asked<'_>, config: &ClusterConfig) -> Step {
    let layout = Layout::of(config);
    let prefix = keys::marker_prefix(asked.cluster);
    let markers = match read(asked.client, &KeyRange::prefix(prefix.clone()), Shape::Keys).await {
        Ok(response) => response.kvs,
        Err(error) => {
            return failed(asked, Stage::Sync, &prefix, &error, format!("let it read {prefix}"));
        }
    };
    let mut counts = vec![];
    // What agents read; service exports are the operators'.
    for kind in [Kind::Nodes, Kind::Services, Kind::Identities, Kind::Ip] {
        let prefix = keys::prefix(layout, kind, asked.cluster);
        match read(asked.client, &KeyRange::prefix(prefix.clone()), Shape::Count).await {
            Ok(response) => counts.push(format!("{} {}", response.count, kind.word())),
            Err(error) => {
                let fix = format!("let it read {prefix}: the role of remote users has cilium/state/");
                return failed(asked, Stage::Sync, &prefix, &error, fix);
            }
        }
    }
    let counts = counts.join(", ");
    if !config.synced_canaries {
        return Step::ok(Stage::Sync, format!("the cluster writes no markers; {counts}"));
    }
    let missing = content::marked(asked.cluster, config, &markers).missing;
    if missing.is_empty() {
        return Step::ok(Stage::Sync, format!("complete: {counts}"));
    }
    let who = if config.cached { "kvstoremesh" } else { "clustermesh-apiserver" };
    Step::failed(
        Stage::Sync,
        format!("not marked as complete: {}; readers wait for these markers", missing.join(", ")),
        format!("look at the log and /readyz of the {who} that writes this store: it has not listed them completely"),
    )
    .with([format!("there are {counts}")])
}

#[cfg(test)]
mod tests {
    use causeway_model::MaxClusters;

    use super::*;

    #[test]
    fn the_age_of_a_heartbeat() {
        let now: Timestamp = "2026-03-01T08:15:30Z".parse().unwrap();
        assert_eq!(judge(b"2026-03-01T08:15:00Z", now), Beat::Age(30));
        assert_eq!(judge(b"2026-03-01T08:16:20Z", now), Beat::Age(0));
        assert_eq!(judge(b"2026-03-01T08:20:30Z", now), Beat::Ahead(300));
        assert_eq!(judge(b"soon", now), Beat::Unreadable);
    }

    #[test]
    fn announcements_agents_refuse() {
        let name = ClusterName::new("cls-b").unwrap();
        let config = |id, max| ClusterConfig {
            id,
            synced_canaries: true,
            cached: false,
            max_connected_clusters: max,
            service_exports_enabled: Some(false),
        };
        let of = |local: &Local, config: &ClusterConfig| acceptable(local, &name, config).err().map(|e| e.0);
        let small = Local { name: None, id: Some(1), max_clusters: MaxClusters::C255 };
        let large = Local { max_clusters: MaxClusters::C511, ..small.clone() };
        assert_eq!(of(&small, &config(2, 255)), None);
        assert_eq!(of(&small, &config(2, 511)), None, "with 255 the value is not compared");
        assert!(of(&large, &config(2, 255)).unwrap().contains("max-connected-clusters 255"));
        assert!(of(&small, &config(1, 255)).unwrap().contains("this cluster's own"));
        assert!(of(&small, &config(0, 255)).is_some() && of(&small, &config(256, 255)).is_some());
    }
}
