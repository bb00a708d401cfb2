//! The anchor: the least a mirror between two etcds must do. It lists and watches everything of all clusters
//! on one connection and writes each key with a put of its own, as the reference does, but without its rate
//! limits: as many in flight as B1 has.

use std::collections::HashMap;
use std::time::Instant;

use bytes::Bytes;
use causeway_kvstore::client::{Client, ListWatch};
use causeway_kvstore::{KeyRange, pb};
use causeway_mesh::keys;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;

use super::process::cpu_time;
use super::shape::Shape;
use super::{Failure, Flags};

/// Connections to the destination, and puts in flight on all of them.
const CONNECTIONS: usize = 8;
const IN_FLIGHT: usize = 256;

pub(crate) async fn run(flags: &Flags) -> Result<(), Failure> {
    let shape = Shape::of(flags)?;
    let source = flags.client("source").await?;
    let mut dest = Vec::new();
    for _ in 0..CONNECTIONS {
        dest.push(flags.client("dest").await?);
    }
    let start = Instant::now();
    for prefix in [keys::HEARTBEAT, keys::CLUSTER_CONFIG] {
        for kv in source.list_all(prefix.as_bytes()).await? {
            dest[0].put(kv.key, kv.value, 0).await?;
        }
    }
    let data = KeyRange::prefix(format!("{}/", keys::CACHE));
    let mut stream = Box::pin(source.list_watch(data));
    while let Some(message) = stream.try_next().await? {
        match message {
            ListWatch::Listed(kvs) => {
                put(&dest, kvs.into_iter().map(|kv| (kv.key, Some(kv.value))).collect()).await?;
            }
            ListWatch::Synced(_) => {
                for kv in source.list_all(format!("{}/", keys::SYNCED).as_bytes()).await? {
                    dest[0].put(kv.key, kv.value, 0).await?;
                }
                let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_time("self")?.as_secs_f64());
                println!(
                    "{}",
                    json!({ "seconds": seconds, "cpu_seconds": cpu, "rss": 0, "keys": shape.keys() })
                );
            }
            ListWatch::Changed(_, events) => {
                // A key that comes again is written after its earlier value, so in another round.
                let mut round: HashMap<Bytes, Option<Bytes>> = HashMap::new();
                for event in events {
                    let gone = event.r#type == pb::event::EventType::Delete as i32;
                    let Some(kv) = event.kv else { continue };
                    if round.contains_key(&kv.key) {
                        put(&dest, round.drain().collect()).await?;
                    }
                    round.insert(kv.key, (!gone).then_some(kv.value));
                }
                put(&dest, round.into_iter().collect()).await?;
            }
        }
    }
    Err("the source ended".into())
}

/// Writes these keys, in any order; `None` deletes.
async fn put(dest: &[Client], entries: Vec<(Bytes, Option<Bytes>)>) -> Result<(), Failure> {
    let writes = entries.into_iter().enumerate().map(|(n, (key, value))| {
        let client = dest[n % dest.len()].clone();
        async move {
            match value {
                Some(value) => drop(client.put(key, value, 0).await?),
                None => {
                    let range = pb::DeleteRangeRequest { key, ..Default::default() };
                    client.delete(range).await?;
                }
            }
            Ok::<_, Failure>(())
        }
    });
    stream::iter(writes).buffer_unordered(IN_FLIGHT).try_collect().await
}
