//! Keys and values of every kind, fuzzed: whatever comes, nothing panics, and what is accepted is written
//! and read again as the same.

use causeway_model::{ClusterId, ClusterInfo, ClusterName, MaxClusters};

use crate::fuzz::replay;
use crate::keys::{self, Kind, Layout};
use crate::wire::{self, EntryKey, claim, config};

fn from() -> ClusterInfo {
    let max_clusters = MaxClusters::C255;
    ClusterInfo {
        name: ClusterName::new("cls-b").unwrap(),
        id: ClusterId::new(2, max_clusters).unwrap(),
        max_clusters,
    }
}

/// Input: the key's suffix, a line feed, the value.
fn value(kind: Kind) {
    let (from, accepted) = (from(), std::cell::Cell::new(0));
    let prefix = keys::prefix(Layout::Native, kind, &from.name);
    replay(kind.word(), |input| {
        let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
        let Ok(suffix) = std::str::from_utf8(&input[..end]) else { return };
        let value = input.get(end + 1..).unwrap_or_default();
        let key = format!("{prefix}{suffix}");
        match wire::decode(kind, &key, suffix, value, &from) {
            Ok(entry) => {
                accepted.set(accepted.get() + 1);
                let (again, written) = entry.encode();
                assert_eq!(again, suffix);
                assert_eq!(wire::decode(kind, &key, suffix, &written, &from).as_ref(), Ok(&entry));
                assert_eq!(wire::decode_key(kind, suffix, &from), Some(entry.key()));
                assert_eq!(entry.key().suffix(), (kind, suffix.to_owned()));
                assert_eq!(claim::check_own(&entry, &[]).ok(), Some(()));
            }
            Err(error) => assert!(error.to_string().len() < 2_000_000 && error.key.len() < 1000),
        }
    });
    assert!(accepted.get() > 100, "only {} inputs were accepted: the corpus tests nothing", accepted.get());
}

#[test]
fn fuzz_nodes() {
    value(Kind::Nodes);
}

#[test]
fn fuzz_services() {
    value(Kind::Services);
}

#[test]
fn fuzz_service_exports() {
    value(Kind::ServiceExports);
}

#[test]
fn fuzz_identities() {
    value(Kind::Identities);
}

#[test]
fn fuzz_addresses() {
    value(Kind::Ip);
}

#[test]
fn fuzz_cluster_configurations() {
    let name = from().name;
    replay("config", |input| {
        if let Ok(read) = config::decode(&name, input) {
            assert_eq!(config::decode(&name, &config::encode(&read)), Ok(read));
        }
    });
}

#[test]
fn fuzz_keys() {
    let from = from();
    replay("keys", |input| {
        let end = keys::range_end(input);
        match end.as_slice() {
            [0] => assert!(input.iter().all(|byte| *byte == 0xff)),
            end => assert!(input < end && [input, &[0xff; 3]].concat().as_slice() < end),
        }
        let Ok(text) = std::str::from_utf8(input) else { return };
        if let Some((layout, kind)) = keys::parse_marker(&from.name, text) {
            assert_eq!(keys::marker(&from.name, layout, kind), text);
        }
        for layout in [Layout::Native, Layout::Cached] {
            for kind in Kind::ALL {
                let suffix = text.strip_prefix(&keys::prefix(layout, kind, &from.name)).unwrap_or(text);
                if let Some(key) = wire::decode_key(kind, suffix, &from) {
                    assert_eq!(key.suffix(), (kind, suffix.to_owned()));
                    assert_eq!(kind == Kind::Ip, matches!(key, EntryKey::Address(_)));
                }
            }
        }
    });
}
