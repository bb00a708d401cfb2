//! Ours: the cache and the store it writes to, in one process, as `causeway kvstoremesh` has them.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use causeway_kvstore::server::{Access, Server};
use causeway_kvstore::{Store, StoreOptions, WatchOptions};
use causeway_mesh::cache::{Cache, Options};
use causeway_mesh::keys;
use futures::StreamExt;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::memory::release;
use super::process::{cpu_time, resident};
use super::shape::{Shape, local};
use super::{Failure, Flags};

pub(crate) async fn run(flags: &Flags) -> Result<(), Failure> {
    let shape = Shape::of(flags)?;
    let dir = shape.peers(flags, "source")?;
    let listener = tokio::net::TcpListener::bind(flags.text("listen")?).await?;
    let (start, stop) = (Instant::now(), CancellationToken::new());
    let store = Store::new(StoreOptions::default());
    let server = match flags.tls() {
        Some(files) => Server::mutual_tls(store.clone(), Access::open(), files)?,
        None => Server::plaintext(store.clone(), Access::open()),
    };
    let server = tokio::spawn(server.serve(listener, stop.clone()));
    let mut options = Options::new(local());
    options.heartbeat = Some(Duration::from_secs(60));
    let mut watcher = store.watch(WatchOptions::prefix(format!("{}/", keys::SYNCED), 1));
    let _cache = Cache::spawn(options, dir.path().to_owned(), store.clone(), stop).await;
    let mut marked = HashSet::new();
    while marked.len() < shape.clusters as usize * 5 {
        let batch = watcher.next().await.ok_or("the store ended")??;
        marked.extend(batch.events.into_iter().filter_map(|event| Some(event.kv?.key)));
    }
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_time("self")?.as_secs_f64());
    // As `causeway kvstoremesh` does then: what was only needed for the way goes back to the system.
    store.defragment();
    release();
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!(
        "{}",
        json!({ "seconds": seconds, "cpu_seconds": cpu, "rss": resident("self")?, "keys": shape.keys() })
    );
    server.await?;
    Ok(())
}
