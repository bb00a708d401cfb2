//! Loads for the ends of benchmarks B4 and B5 in the kernel: an agent's readers, merge and datapath, as the agent
//! has them, in a node of their own. A run prints one JSON line.
//!
//! ```text
//! bench_ipcache boot   --dest URL [shape]            # everything that is read, into the node's ipcache
//! bench_ipcache follow --source URL --dest URL [--rate 325] [--secs 5] [shape]
//! shape: [--clusters 250] [--nodes 100] [--identities 100] [--endpoints 1000]
//! ```
//! `boot` times the way from the first connection until the last address is in the map, and beside it the limit: the
//! same entries written into a map of the same kind with nothing else to do. `follow` changes endpoints at the source
//! and notes when a watch of the destination shows each, and when the node's map holds it, on one clock.

mod agent;
#[path = "../../../mesh/examples/bench_mesh/flags.rs"]
#[allow(dead_code)]
mod flags;
mod follow;
mod limit;
mod node;
#[path = "../../src/agent/owner.rs"]
#[allow(dead_code)]
mod owner;
#[path = "../../../mesh/examples/bench_mesh/shape.rs"]
#[allow(dead_code)]
mod shape;

use std::time::Instant;

use serde_json::json;

use agent::Agent;
use flags::Flags;
use node::{Ground, Node};
use shape::Shape;

/// What ends a run early.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let flags = Flags::parse(args)?;
    // Before there are other threads.
    let ground = Ground::prepare()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // On a worker, as the agent's tasks are: the main thread would have to be woken for every event.
    runtime.block_on(runtime.spawn(async move {
        let node = ground.open().await?;
        match command.as_str() {
            "boot" => boot(&flags, node).await,
            "follow" => follow::run(&flags, node).await,
            _ => Err("give a command: boot or follow".into()),
        }
    }))?
}

async fn boot(flags: &Flags, node: Node) -> Result<(), Failure> {
    let shape = Shape::of(flags)?;
    let start = Instant::now();
    let mut agent = Agent::start(shape, flags, node).await?;
    agent.read_all().await?;
    let seconds = start.elapsed().as_secs_f64();
    let entries = agent.entries().await?;
    let expected = usize::try_from(shape.clusters * shape.endpoints)?;
    if entries < expected {
        return Err(format!("only {entries} of {expected} addresses are in the map").into());
    }
    println!(
        "{}",
        json!({ "seconds": seconds, "entries": entries, "limit_seconds": limit::seconds(entries)? })
    );
    Ok(())
}
