//! Several replicas: one works, and another takes over.

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use serde_json::json;

use crate::fixture::Mesh;
use crate::kubernetes::{Kubernetes, until};

fn flags(name: &str) -> [&str; 3] {
    ["--clustermesh-enable-mcs-api", "--replica-name", name]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_replica_takes_over() {
    let (kube, mesh) = (Kubernetes::start().await, Mesh::start().await);
    let leases: Api<Lease> = Api::namespaced(kube.client.clone(), "default");
    let held_by = async |name: &str| {
        until(&format!("{name} to lead"), async || {
            let lease = leases.get_opt("cilium-operator-resource-lock").await.ok()??;
            let holder = lease.spec?.holder_identity?;
            holder.starts_with(name).then_some(())
        })
        .await;
    };
    let a = kube.operator(&mesh.peers(), &flags("a")).await;
    held_by("a-").await;
    // The second one is ready to take over, and does nothing.
    let b = kube.operator(&mesh.peers(), &flags("b")).await;
    let state: serde_json::Value = serde_json::from_str(&b.get("/debug/state").unwrap().1).unwrap();
    assert_eq!(state["remotes"], json!(null));
    // Given back in order: at once. Lost in a crash: after the duration of the lease.
    a.stop().await;
    held_by("b-").await;
    let c = kube.operator(&mesh.peers(), &flags("c")).await;
    b.crash();
    held_by("c-").await;
    until("the new leader to list", async || c.get("/readyz").filter(|(status, _)| *status == 200)).await;
    c.stop().await;
}
