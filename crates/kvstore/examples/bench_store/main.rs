//! Loads for benchmarks B1 (put), B2 (get, list), B3 (watch) and the store's part of B6 (memory), against ours
//! or any other etcd. A run prints one JSON line.
//!
//! ```text
//! bench_store serve --listen 127.0.0.1:23790     # our server; prints the address and waits
//! bench_store put   --endpoint URL --pid PID [--count 150000] [--connections 8] [--in-flight 32] [--first 0]
//! bench_store fill  --endpoint URL --pid PID [--prefixes 250] [--keys 1200]      # in transactions of 100
//! bench_store get   --endpoint URL --pid PID [--count 100000] …                  # random keys of `fill`
//! bench_store list  --endpoint URL --pid PID [--prefixes 250] [--page 256] [--secs 2]
//! bench_store watch --endpoint URL --pid PID [--watchers 100] [--connections 10] [--events 2000] [--rate 0]
//! ```
//! All take `--tls DIR`, a folder with `ca.crt`, `tls.crt` and `tls.key`, for mutual TLS. `--pid` is the server's
//! process, whose CPU time and memory are read from the system. Values are 256 bytes.

mod flags;
mod load;
mod process;
mod watch;

use causeway_kvstore::server::{Access, Server, worker_threads};
use causeway_kvstore::{Store, StoreOptions};
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

use flags::Flags;

/// What ends a run early.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Bytes of a value.
const VALUE: usize = 256;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let flags = Flags::parse(args)?;
    let mut runtime = Builder::new_multi_thread();
    if command == "serve" {
        // As `causeway clustermesh-apiserver`.
        runtime.worker_threads(worker_threads());
    }
    runtime.enable_all().build()?.block_on(run(&command, &flags))
}

async fn run(command: &str, flags: &Flags) -> Result<(), Failure> {
    let report = match command {
        "serve" => return serve(flags).await,
        "put" => load::put(flags).await?,
        "fill" => load::fill(flags).await?,
        "get" => load::get(flags).await?,
        "list" => load::list(flags).await?,
        "watch" => watch::run(flags).await?,
        _ => return Err("give a command: serve, put, fill, get, list or watch".into()),
    };
    println!("{report}");
    Ok(())
}

async fn serve(flags: &Flags) -> Result<(), Failure> {
    let listener = tokio::net::TcpListener::bind(flags.text("listen")?).await?;
    println!("{}", listener.local_addr()?);
    let store = Store::new(StoreOptions::default());
    let server = match flags.tls() {
        Some(files) => Server::mutual_tls(store, Access::open(), files)?,
        None => Server::plaintext(store, Access::open()),
    };
    server.serve(listener, CancellationToken::new()).await;
    Ok(())
}
