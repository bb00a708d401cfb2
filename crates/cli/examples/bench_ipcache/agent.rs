//! An agent's control plane of addresses: the sessions of all clusters, the merge, the datapath.

use std::time::Instant;

use causeway_mesh::merge::AddressMerger;
use causeway_mesh::remote::{Options, RemoteChange, RemoteClusters, RemoteEvent};
use causeway_model::{Event, IpEntry, NodeKey};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::node::Node;
use super::shape::{Shape, local};
use super::{Failure, Flags};

/// Events that are taken together, as the agent takes them.
const MANY: usize = 1024;

pub(crate) struct Agent {
    shape: Shape,
    node: Node,
    merger: AddressMerger,
    events: mpsc::Receiver<RemoteEvent>,
    _readers: RemoteClusters,
    _peers: tempfile::TempDir,
}

impl Agent {
    /// Sessions of all clusters of the shape, which the store at `--dest` holds.
    pub(crate) async fn start(shape: Shape, flags: &Flags, node: Node) -> Result<Self, Failure> {
        let peers = shape.peers(flags, "dest")?;
        let (readers, events) =
            RemoteClusters::spawn(Options::agent(local()), peers.path().to_owned(), CancellationToken::new())
                .await;
        let merger = AddressMerger::new(NodeKey { cluster: local().name, name: "n".into() });
        Ok(Self { shape, node, merger, events, _readers: readers, _peers: peers })
    }

    /// Programs everything that is there: nodes, identities, addresses and services of each cluster.
    pub(crate) async fn read_all(&mut self) -> Result<(), Failure> {
        let mut left = self.shape.clusters * 4;
        while left > 0 {
            let events = self.receive().await?;
            left -= events.iter().filter(|event| ends_listing(&event.change)).count() as u32;
            let changes = self.merge(events);
            self.node.apply(changes).await?;
        }
        Ok(())
    }

    /// Programs the next changes; the entries they set, and when the map held them.
    pub(crate) async fn next(&mut self) -> Result<(Vec<IpEntry>, Instant), Failure> {
        let events = self.receive().await?;
        let changes = self.merge(events);
        let upsert = |change: &Event<IpEntry>| match change {
            Event::Upsert(entry) => Some(entry.clone()),
            _ => None,
        };
        let set = changes.iter().filter_map(upsert).collect();
        Ok((set, self.node.apply(changes).await?))
    }

    /// Addresses in the node's map.
    pub(crate) async fn entries(&self) -> Result<usize, Failure> {
        self.node.entries().await
    }

    async fn receive(&mut self) -> Result<Vec<RemoteEvent>, Failure> {
        let mut events = Vec::new();
        match self.events.recv_many(&mut events, MANY).await {
            0 => Err("the readers ended".into()),
            _ => Ok(events),
        }
    }

    fn merge(&mut self, events: Vec<RemoteEvent>) -> Vec<Event<IpEntry>> {
        let mut changes = Vec::new();
        for event in events {
            changes.extend(match event.change {
                RemoteChange::Address(change) => self.merger.apply_remote(&event.cluster, change),
                RemoteChange::Node(change) => self.merger.apply_remote_node(&event.cluster, change),
                _ => vec![],
            });
        }
        changes
    }
}

fn ends_listing(change: &RemoteChange) -> bool {
    matches!(
        change,
        RemoteChange::Address(Event::Synced)
            | RemoteChange::Node(Event::Synced)
            | RemoteChange::Identity(Event::Synced)
            | RemoteChange::Service(Event::Synced)
    )
}
