//! A burst of pods in one cluster becomes routable in the other, directly and through the cache: every pod,
//! with its identity and node. The benchmark BURST measures the same.

#[path = "../examples/bench_burst/burst.rs"]
mod burst;
#[path = "../examples/bench_burst/kubernetes.rs"]
mod kubernetes;
#[path = "../examples/bench_burst/processes.rs"]
mod processes;

use anyhow::Result;

use kubernetes::Kubernetes;

async fn every_pod_arrives(through_cache: bool) -> Result<()> {
    drop(rustls::crypto::ring::default_provider().install_default());
    let dir = tempfile::tempdir()?;
    let kubernetes = Kubernetes::start(dir.path(), 0).await?;
    let causeway = env!("CARGO_BIN_EXE_causeway").into();
    // An entry that is wrong, or does not come, is an error.
    let report = burst::run(causeway, &kubernetes.kubeconfig, dir.path(), 300, through_cache).await?;
    assert_eq!(report.pods, 300);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_arrives_directly() -> Result<()> {
    every_pod_arrives(false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_arrives_through_the_cache() -> Result<()> {
    every_pod_arrives(true).await
}
