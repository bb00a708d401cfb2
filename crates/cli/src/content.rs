//! What the content of a store says, for the commands that look into one.

use causeway_kvstore::pb;
use causeway_mesh::keys::{self, Kind, Layout};
use causeway_mesh::wire;
use causeway_model::{ClusterConfig, ClusterName};
use jiff::Timestamp;

/// How many seconds ago a heartbeat was written, by the writer's clock: below 0 in our future. `None` if the value
/// is no time.
pub(crate) fn heartbeat_age(value: &[u8], now: Timestamp) -> Option<i64> {
    let written: Timestamp = std::str::from_utf8(value).ok()?.trim().parse().ok()?;
    Some(now.as_second() - written.as_second())
}

/// Kinds of a cluster that are marked as complete, and those that should be and are not.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Marked {
    pub(crate) synced: Vec<&'static str>,
    pub(crate) missing: Vec<&'static str>,
}

/// What the markers of a cluster say, which announced itself like this.
pub(crate) fn marked(cluster: &ClusterName, config: &ClusterConfig, markers: &[pb::KeyValue]) -> Marked {
    let layout = Layout::of(config);
    let parse = |kv: &pb::KeyValue| keys::parse_marker(cluster, std::str::from_utf8(&kv.key).ok()?);
    let written: Vec<(Layout, Kind)> = markers.iter().filter_map(parse).collect();
    let mut marked = Marked::default();
    for kind in wire::config::marked_kinds(config) {
        let list = if written.contains(&(layout, kind)) { &mut marked.synced } else { &mut marked.missing };
        list.push(kind.word());
    }
    marked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_heartbeat() {
        let now: Timestamp = "2026-03-01T08:15:30Z".parse().unwrap();
        assert_eq!(heartbeat_age(b"2026-03-01T08:15:00Z", now), Some(30));
        assert_eq!(heartbeat_age(b"2026-03-01T16:15:00+08:00\n", now), Some(30));
        assert_eq!(heartbeat_age(b"2026-03-01T08:20:30Z", now), Some(-300));
        assert_eq!(heartbeat_age(b"soon", now), None);
    }

    #[test]
    fn markers_of_the_layout_count() {
        let name = ClusterName::new("cls-b").unwrap();
        let config = |cached| ClusterConfig {
            id: 2,
            synced_canaries: true,
            cached,
            max_connected_clusters: 255,
            service_exports_enabled: None,
        };
        let kv = |key: String| pb::KeyValue { key: key.into(), ..Default::default() };
        let markers = [
            kv(keys::marker(&name, Layout::Native, Kind::Nodes)),
            kv(keys::marker(&name, Layout::Cached, Kind::Ip)),
            kv("cilium/synced/cls-b/other".into()),
        ];
        assert_eq!(marked(&name, &config(false), &markers).synced, ["nodes"]);
        let cached = marked(&name, &config(true), &markers);
        assert_eq!(cached.synced, ["ip"]);
        assert!(cached.missing.contains(&"nodes") && !cached.missing.contains(&"ip"), "{cached:?}");
    }
}
