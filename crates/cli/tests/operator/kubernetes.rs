//! A cluster's API server with what its controllers would do left out, and the operator as its process.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use causeway_lab::apiserver::loopback::Loopback;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::fixture::PATIENCE;

/// The API server of cluster `cls-a`, with namespaces `default` and `shop`.
pub(crate) struct Kubernetes {
    pub(crate) client: Client,
    pub(crate) dir: TempDir,
    _stop: DropGuard,
}

impl Kubernetes {
    pub(crate) async fn start() -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let api = Loopback::new("cls-a", 0).unwrap();
        let dir = tempfile::tempdir().unwrap();
        api.write_kubeconfig(&dir.path().join("kubeconfig")).unwrap();
        let config = kube::config::Kubeconfig::from_yaml(&api.kubeconfig).unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(api.serve(stop.clone()).unwrap());
        let config = Config::from_custom_kubeconfig(config, &Default::default()).await.unwrap();
        let client = Client::try_from(config).unwrap();
        let this = Self { client, dir, _stop: stop.drop_guard() };
        let namespaces: Api<Namespace> = Api::all(this.client.clone());
        until("the API server", async || namespaces.list(&ListParams::default()).await.ok()).await;
        for name in ["default", "shop"] {
            this.apply(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }))
                .await;
        }
        this
    }

    /// Objects of a kind in namespace `shop`.
    pub(crate) fn api(&self, version: &str, kind: &str) -> Api<DynamicObject> {
        let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::namespaced_with(self.client.clone(), "shop", &resource)
    }

    pub(crate) fn imports(&self) -> Api<DynamicObject> {
        self.api("multicluster.x-k8s.io/v1beta1", "ServiceImport")
    }

    pub(crate) fn exports(&self) -> Api<DynamicObject> {
        self.api("multicluster.x-k8s.io/v1beta1", "ServiceExport")
    }

    pub(crate) fn services(&self) -> Api<DynamicObject> {
        self.api("v1", "Service")
    }

    pub(crate) fn slices(&self) -> Api<DynamicObject> {
        self.api("discovery.k8s.io/v1", "EndpointSlice")
    }

    /// As `kubectl apply` does.
    pub(crate) async fn apply(&self, manifest: Value) -> Value {
        let object: DynamicObject = serde_json::from_value(manifest).unwrap();
        let kind = GroupVersionKind::try_from(object.types.as_ref().unwrap()).unwrap();
        let resource = ApiResource::from_gvk(&kind);
        let api: Api<DynamicObject> = match object.metadata.namespace.as_deref() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let (name, params) = (object.metadata.name.clone().unwrap(), PatchParams::apply("kubectl").force());
        let written =
            api.patch(&name, &params, &Patch::Apply(&object)).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        serde_json::to_value(written).unwrap()
    }

    /// Waits for an object of this name that is so.
    pub(crate) async fn wait(
        &self,
        api: &Api<DynamicObject>,
        name: &str,
        so: impl Fn(&Value) -> bool,
    ) -> Value {
        let mut last = None;
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            last = api.get_opt(name).await.ok().flatten().map(|found| serde_json::to_value(found).unwrap());
            if let Some(found) = last.as_ref().filter(|found| so(found)) {
                return found.clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{name} is not as it should be: {last:#?}");
    }

    /// Waits until an object is gone.
    pub(crate) async fn gone(&self, api: &Api<DynamicObject>, name: &str) {
        until(name, async || matches!(api.get_opt(name).await, Ok(None)).then_some(())).await;
    }

    /// Starts the operator with these flags, and waits until it has listed everything unless it stands by.
    pub(crate) async fn operator(&self, peers: &Path, flags: &[&str]) -> Operator {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address: SocketAddr = ([127, 0, 0, 1], port).into();
        let child = Command::new(env!("CARGO_BIN_EXE_causeway"))
            .args(["operator", "--cluster-name", "cls-a", "--cluster-id", "1", "--namespace", "default"])
            .args(["--health-listen", &address.to_string(), "--config-dir", "/nonexistent"])
            .args(["--clustermesh-endpoint-updates-batch-period", "50ms"])
            .arg("--kubeconfig")
            .arg(self.dir.path().join("kubeconfig"))
            .arg("--clustermesh-config")
            .arg(peers)
            .args(flags)
            .env_clear()
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let operator = Operator { child, address };
        until("the operator", async || operator.get("/readyz").filter(|(status, _)| *status == 200)).await;
        operator
    }
}

/// The process; killed if a test fails.
pub(crate) struct Operator {
    child: Child,
    address: SocketAddr,
}

impl Operator {
    /// Status and body of a GET, once the port is open.
    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }

    /// What it cannot write, and why.
    pub(crate) fn problems(&self) -> String {
        let state: Value = serde_json::from_str(&self.get("/debug/state").unwrap().1).unwrap();
        state["operator"]["problems"].to_string()
    }

    /// Ends it as Kubernetes does; it must end well.
    pub(crate) async fn stop(mut self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
        let status = until("the end", async || self.child.try_wait().unwrap()).await;
        assert!(status.success(), "{status}");
    }

    /// Ends it as a crash does.
    pub(crate) fn crash(self) {}
}

impl Drop for Operator {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) async fn until<T>(what: &str, mut done: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(done) = done().await {
            return done;
        }
        assert!(start.elapsed() < PATIENCE, "still waiting for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
