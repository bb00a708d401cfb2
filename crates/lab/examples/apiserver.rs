//! One API server on loopback with a fresh authority: `cargo run -p causeway-lab --example apiserver -- 16443
//! /tmp/kubeconfig`, then `kubectl --kubeconfig /tmp/kubeconfig get ns`. Nothing is kept when it ends.

use std::time::Duration;

use causeway_lab::apiserver::loopback::Loopback;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let port: u16 = args.next().map_or(Ok(16443), |a| a.parse())?;
    let path = args.next().unwrap_or_else(|| "kubeconfig".into());
    tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(std::io::stderr).init();
    let mut api = Loopback::new("example", port)?;
    api.options.compact_every = Duration::from_secs(300);
    api.write_kubeconfig(path.as_ref())?;
    println!("serving on {}, kubeconfig in {path}; Ctrl-C ends it", api.url);
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stop.cancel();
    });
    api.serve(shutdown)?.await?;
    Ok(())
}
