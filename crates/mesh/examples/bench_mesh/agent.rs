//! The agent of `scale`: the sessions of all clusters and the merged addresses, in a process of its own.
//!
//! It prints a line once everything has been read. Then it prints what it knows whenever a line comes in, begins
//! a new period with the answer to `last`, and ends with its input.

use std::io::BufRead;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use causeway_mesh::merge::AddressMerger;
use causeway_mesh::remote::{Options, RemoteChange, RemoteClusters, RemoteEvent};
use causeway_model::{Event, IpEntry, NodeKey};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::changes::{Model, now};
use super::memory::release;
use super::process::resident;
use super::shape::{Shape, local, version};
use super::{Failure, Flags};

/// What it prints whenever it is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Known {
    /// Of everything that has changed since the first listing.
    pub(crate) digest: u64,
    /// Entries of the datapath that were set in this period.
    pub(crate) entries: u64,
    /// How long after the change they were set, milliseconds; 0 without any.
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

/// What it prints first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) seconds: f64,
    pub(crate) rss: u64,
    pub(crate) bytes_per_object: f64,
}

struct Agent {
    merger: AddressMerger,
    model: Model,
    lags: Vec<u64>,
    synced: u32,
    counting: bool,
}

pub(crate) async fn run(flags: &Flags) -> Result<(), Failure> {
    let shape = Shape::of(flags)?;
    let before = resident("self")?;
    let start = Instant::now();
    let peers = PathBuf::from(flags.text("peers")?);
    let (_readers, mut events) =
        RemoteClusters::spawn(Options::agent(local()), peers, CancellationToken::new()).await;
    let merger = AddressMerger::new(NodeKey { cluster: local().name, name: "n".into() });
    let mut agent = Agent { merger, model: Model::default(), lags: vec![], synced: 0, counting: false };
    // Nodes, identities, addresses and services of each.
    while agent.synced < shape.clusters * 4 {
        agent.apply(events.recv().await.ok_or("the readers ended")?);
    }
    let seconds = start.elapsed().as_secs_f64();
    // As the agent does once it knows all clusters.
    agent.merger.shrink_to_fit();
    release();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let rss = resident("self")?;
    let bytes_per_object = rss.saturating_sub(before) as f64 / shape.keys() as f64;
    println!("{}", json!(Ready { seconds, rss, bytes_per_object }));

    agent.counting = true;
    let mut questions = questions();
    loop {
        tokio::select! {
            event = events.recv() => agent.apply(event.ok_or("the readers ended")?),
            question = questions.recv() => match question {
                Some(question) => {
                    println!("{}", json!(agent.answer()));
                    if question == "last" {
                        agent.lags.clear();
                    }
                }
                None => return Ok(()),
            },
        }
    }
}

/// The lines of the standard input.
fn questions() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

impl Agent {
    fn apply(&mut self, event: RemoteEvent) {
        let synced = match event.change {
            RemoteChange::Address(change) => {
                let synced = change == Event::Synced;
                for change in self.merger.apply_remote(&event.cluster, change) {
                    self.entry(change);
                }
                synced
            }
            RemoteChange::Node(change) => {
                match &change {
                    Event::Upsert(node) if self.counting => {
                        let label = node.labels.values().next().map_or(0, |text| of(text));
                        self.model.set(format!("node {}", node.name), label);
                    }
                    _ => {}
                }
                let synced = change == Event::Synced;
                drop(self.merger.apply_remote_node(&event.cluster, change));
                synced
            }
            RemoteChange::Identity(change) => {
                match &change {
                    Event::Upsert(identity) if self.counting => {
                        let app = identity.labels.iter().find(|(key, _)| *key == "app");
                        let label = app.map_or(0, |(_, label)| of(&label.value));
                        self.model.set(format!("identity {}", identity.id), label);
                    }
                    Event::Remove(id) if self.counting => self.model.set(format!("identity {id}"), 0),
                    _ => {}
                }
                change == Event::Synced
            }
            RemoteChange::Service(change) => change == Event::Synced,
            RemoteChange::Export(_) | RemoteChange::Removed => false,
        };
        self.synced += u32::from(synced);
    }

    /// What the datapath would be told.
    fn entry(&mut self, change: Event<IpEntry>) {
        if !self.counting {
            return;
        }
        match change {
            Event::Upsert(entry) => {
                let version = entry.pod.map_or(0, |pod| of(&pod.name));
                self.lags.push(now().saturating_sub(version));
                self.model.set(format!("address {}", entry.prefix), version);
            }
            Event::Remove(prefix) => self.model.set(format!("address {prefix}"), 0),
            Event::Reset | Event::Synced => {}
        }
    }

    fn answer(&mut self) -> Known {
        let lags = &mut self.lags;
        lags.sort_unstable();
        let at = |q: f64| {
            let place = (lags.len().saturating_sub(1) as f64 * q) as usize;
            lags.get(place).map_or(0.0, |us| *us as f64 / 1e3)
        };
        Known {
            digest: self.model.digest(),
            entries: lags.len() as u64,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: at(1.0),
        }
    }
}

/// The version in a text.
fn of(text: &str) -> u64 {
    version(text.as_bytes()).unwrap_or(0)
}
