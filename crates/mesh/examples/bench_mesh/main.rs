//! Loads for benchmarks B4 (propagation), B5 (bootstrap), B6 (memory) and B7 (churn): a mesh of many clusters
//! whose state one source store holds in the cached layout, and what carries it into another store; and for
//! SCALE, where each cluster has a store of its own. A run prints one JSON line.
//!
//! ```text
//! bench_mesh fill    --source URL [shape]                # the clusters' state, into ours or any other etcd
//! bench_mesh cache   --source URL --listen ADDR [shape]  # our cache and store; reports when complete, goes on
//! bench_mesh mirror  --source URL --dest URL [shape]     # the anchor: a plain mirror between two etcds; the same
//! bench_mesh churn   --source URL --dest URL --pids P,P [--rate 325] [--secs 5] [--in-flight 256] [shape]
//! bench_mesh reader  --source URL [shape]                # an agent's reader; reports time and memory
//! bench_mesh scale   --causeway PATH [--rates 325,3250] [--secs 60] [shape]   # a real cache of them, and an agent
//! bench_mesh agent   --peers DIR [shape]                 # the agent of `scale`
//! shape: [--clusters 250] [--nodes 100] [--identities 100] [--endpoints 1000]
//! ```
//! `churn` changes endpoints at the source (`--rate 0 --changes N`: as fast as it goes) and follows them at the source and
//! at the destination; it fails if a change is lost, out of order, or not there in the end. `--pids` are the
//! processes whose CPU time counts. All but `scale` and `agent` take `--tls DIR`, a folder with `ca.crt`, `tls.crt` and
//! `tls.key`, for mutual TLS at either end.

mod agent;
mod cache;
#[path = "../../tests/certificates/mod.rs"]
mod certificates;
mod changes;
mod churn;
mod clusters;
mod flags;
#[path = "../../../daemon/src/memory.rs"]
#[allow(unreachable_pub)]
mod memory;
mod mirror;
#[path = "../../../kvstore/examples/bench_store/process.rs"]
mod process;
mod reader;
mod scale;
mod shape;

use flags::Flags;

/// What ends a run early.
type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let flags = Flags::parse(args)?;
    match command.as_str() {
        "fill" => shape::fill(&flags).await,
        "cache" => cache::run(&flags).await,
        "mirror" => mirror::run(&flags).await,
        "churn" => churn::run(&flags).await,
        "reader" => reader::run(&flags).await,
        "scale" => scale::run(&flags).await,
        "agent" => agent::run(&flags).await,
        _ => Err("give a command: fill, cache, mirror, churn, reader, scale or agent".into()),
    }
}
