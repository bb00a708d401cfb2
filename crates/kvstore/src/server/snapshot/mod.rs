//! Snapshots as etcd makes them: a bbolt database with the content of one revision, and its
//! SHA-256 behind it. `etcdctl snapshot status` reads it, and etcd starts from it after
//! `etcdctl snapshot restore`, at the same revision; history before it counts as compacted. Users
//! and roles are not in it: where they come from is the daemon's business.

mod bolt;

use std::time::Instant;

use prost::Message;
use tokio::sync::mpsc;
use tonic::Status;

use super::ETCD_VERSION;
use crate::{Error, Store, pb};
use bolt::{Bucket, Database, Value};

/// Bytes of a part, as etcd cuts it.
const PART: usize = 32 << 10;
/// Parts made ahead of the client.
const AHEAD: usize = 4;

/// A lease as etcd keeps it (`leasepb.Lease`).
#[derive(Clone, PartialEq, prost::Message)]
struct Lease {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    ttl: i64,
    #[prost(int64, tag = "3")]
    remaining: i64,
}

/// Streams a snapshot of this moment. A client that goes away ends it.
pub(super) fn stream(store: Store) -> mpsc::Receiver<Result<pb::SnapshotResponse, Status>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let made = database(&store).map_err(Status::from).and_then(|database| send(database, &sender));
        if let Err(status) = made {
            let _ = sender.blocking_send(Err(status));
        }
    });
    receiver
}

fn send(
    database: Database,
    sender: &mpsc::Sender<Result<pb::SnapshotResponse, Status>>,
) -> Result<(), Status> {
    let mut left = database.len() + ring::digest::SHA256_OUTPUT_LEN as u64;
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    let mut part = Vec::with_capacity(PART);
    let mut flush = |part: &mut Vec<u8>| {
        left -= part.len() as u64;
        let blob = std::mem::take(part).into();
        let response =
            pb::SnapshotResponse { header: None, remaining_bytes: left, blob, version: ETCD_VERSION.into() };
        sender.blocking_send(Ok(response)).map_err(|_| Status::cancelled("the client has gone"))
    };
    for page in database.pages() {
        digest.update(&page);
        part.extend_from_slice(&page);
        if part.len() >= PART {
            flush(&mut part)?;
        }
    }
    if !part.is_empty() {
        flush(&mut part)?;
    }
    flush(&mut digest.finish().as_ref().to_vec())
}

/// The content of a store, sorted as etcd keeps it: by revision.
fn database(store: &Store) -> Result<Database, Error> {
    let revision = store.revision();
    let mut kvs = Vec::new();
    store.content(revision, |kv| kvs.push(kv))?;
    kvs.sort_by_key(|kv| kv.mod_revision);
    let mut last = (0, 0);
    let keys = kvs.into_iter().map(|kv| {
        // Which of a transaction's changes came first is of no consequence any more.
        last = (kv.mod_revision, if kv.mod_revision == last.0 { last.1 + 1 } else { 0 });
        (revision_key(last.0, last.1), Value::KeyValue(kv))
    });
    let keys = keys.collect();
    let leases = store.lease_infos(Instant::now()).into_iter().map(|(id, info)| {
        let lease = Lease { id, ttl: info.granted, remaining: info.remaining };
        (id.to_be_bytes().to_vec(), Value::Bytes(lease.encode_to_vec()))
    });
    let compacted = revision_key(revision, 0);
    let meta = [
        ("consistent_index", (revision as u64).to_be_bytes().to_vec()),
        ("finishedCompactRev", compacted.clone()),
        ("scheduledCompactRev", compacted),
    ];
    let meta = meta.map(|(key, value)| (key.as_bytes().to_vec(), Value::Bytes(value))).into();
    let empty = |name| Bucket { name, items: Vec::new() };
    Ok(Database::new(vec![
        empty("alarm"),
        empty("auth"),
        empty("authRoles"),
        empty("authUsers"),
        empty("cluster"),
        Bucket { name: "key", items: keys },
        Bucket { name: "lease", items: leases.collect() },
        empty("members"),
        empty("members_removed"),
        Bucket { name: "meta", items: meta },
    ]))
}

/// The key of a change in etcd's bucket `key`: revision, and place in its transaction.
fn revision_key(main: i64, sub: i64) -> Vec<u8> {
    [&main.to_be_bytes()[..], b"_", &sub.to_be_bytes()[..]].concat()
}
