//! One API server on loopback with a fresh authority: `cargo run -p causeway-lab --example apiserver -- 16443
//! /tmp/kubeconfig`, then `kubectl --kubeconfig /tmp/kubeconfig get ns`. Nothing is kept when it ends.

use std::time::Duration;

use causeway_kvstore::{Store, StoreOptions};
use causeway_lab::apiserver::pki::{Authority, kubeconfig};
use causeway_lab::apiserver::{ApiServer, ApiServerOptions};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let port: u16 = args.next().map_or(Ok(16443), |a| a.parse())?;
    let path = args.next().unwrap_or_else(|| "kubeconfig".into());
    tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(std::io::stderr).init();
    let ca = Authority::new("kubernetes")?;
    let server = ca.server(&["127.0.0.1", "localhost", "kubernetes", "kubernetes.default.svc"])?;
    let admin = ca.client("admin", "system:masters")?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let port = listener.local_addr()?.port();
    let api = ApiServer::new(ApiServerOptions {
        store: Store::new(StoreOptions::default()),
        cluster_name: "example".into(),
        service_cidr: "10.96.0.0/16".parse()?,
        service_cidr_v6: None,
        cert_pem: server.cert,
        key_pem: server.key,
        client_ca_pem: ca.pair.cert.clone(),
        advertise: "127.0.0.1".parse()?,
        advertise_port: port,
        token_secret: rand::random::<[u8; 32]>().to_vec(),
        static_tokens: Vec::new(),
        compact_every: Duration::from_secs(300),
    })?;
    std::fs::write(
        &path,
        kubeconfig("example", &format!("https://127.0.0.1:{port}"), &ca.pair.cert, &admin),
    )?;
    println!("serving on 127.0.0.1:{port}, kubeconfig in {path}; Ctrl-C ends it");
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stop.cancel();
    });
    api.serve(vec![listener], shutdown).await?;
    Ok(())
}
