//! An agent's control plane of addresses: the sessions of all clusters, the merge, the datapath.

use causeway_mesh::merge::AddressMerger;
use causeway_mesh::remote::{Options, RemoteChange, RemoteClusters, RemoteEvent};
use causeway_model::{Event, IpEntry, NodeKey};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Failure;
use super::node::Node;
use super::shape::{Shape, local};

pub(crate) struct Agent<'a> {
    shape: Shape,
    node: &'a Node,
    merger: AddressMerger,
    events: mpsc::Receiver<RemoteEvent>,
    _readers: RemoteClusters,
    _peers: tempfile::TempDir,
}

impl<'a> Agent<'a> {
    /// Sessions of all clusters of the shape, which the store at `url` holds.
    pub(crate) async fn start(shape: Shape, url: &str, node: &'a Node) -> Result<Self, Failure> {
        let peers = shape.peers(url)?;
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
            let event = self.events.recv().await.ok_or("the readers ended")?;
            left -= u32::from(ends_listing(&event.change));
            self.apply(event)?;
        }
        Ok(())
    }

    /// Programs the next change; the entries it set.
    pub(crate) async fn next(&mut self) -> Result<Vec<IpEntry>, Failure> {
        let event = self.events.recv().await.ok_or("the readers ended")?;
        self.apply(event)
    }

    fn apply(&mut self, event: RemoteEvent) -> Result<Vec<IpEntry>, Failure> {
        let changes = match event.change {
            RemoteChange::Address(change) => self.merger.apply_remote(&event.cluster, change),
            RemoteChange::Node(change) => self.merger.apply_remote_node(&event.cluster, change),
            _ => vec![],
        };
        let mut set = Vec::new();
        for change in changes {
            if let Event::Upsert(entry) = &change {
                set.push(entry.clone());
            }
            self.node.apply(change)?;
        }
        Ok(set)
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
