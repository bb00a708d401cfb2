//! An agent's control plane: the sessions of all clusters of one store, and the merged addresses.

use std::time::{Duration, Instant};

use causeway_mesh::merge::AddressMerger;
use causeway_mesh::remote::{Options, RemoteChange, RemoteClusters};
use causeway_model::{Event, NodeKey};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::memory::release;
use super::process::resident;
use super::shape::{Shape, local};
use super::{Failure, Flags};

pub(crate) async fn run(flags: &Flags) -> Result<(), Failure> {
    let shape = Shape::of(flags)?;
    let dir = shape.peers(flags, "source")?;
    let before = resident("self")?;
    let start = Instant::now();
    let stop = CancellationToken::new();
    let (remotes, mut events) =
        RemoteClusters::spawn(Options::agent(local()), dir.path().to_owned(), stop.clone()).await;
    let mut merger = AddressMerger::new(NodeKey { cluster: local().name, name: "n".into() });
    let (mut addresses, mut synced) = (0usize, 0);
    // Nodes, identities, addresses and services of each.
    while synced < shape.clusters * 4 {
        let event = events.recv().await.ok_or("the readers ended")?;
        match event.change {
            RemoteChange::Address(change) => {
                synced += u32::from(change == Event::Synced);
                addresses += merger.apply_remote(&event.cluster, change).len();
            }
            RemoteChange::Node(change) => {
                synced += u32::from(change == Event::Synced);
                drop(merger.apply_remote_node(&event.cluster, change));
            }
            RemoteChange::Identity(Event::Synced) | RemoteChange::Service(Event::Synced) => synced += 1,
            _ => {}
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    // As the agent does once it knows all clusters.
    merger.shrink_to_fit();
    release();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let status = remotes.status().borrow().clone();
    let rejected: u64 = status.values().map(|status| status.rejected.count).sum();
    if rejected > 0 || status.values().any(|status| !status.ready) {
        return Err(format!("not every cluster was read: {rejected} entries refused").into());
    }
    let rss = resident("self")?;
    println!(
        "{}",
        json!({ "seconds": seconds, "rss": rss, "keys": shape.keys(), "addresses": addresses,
            "bytes_per_object": (rss - before) as f64 / shape.keys() as f64 })
    );
    Ok(())
}
