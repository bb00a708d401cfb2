//! What every cluster has from the start: its namespaces and the `kubernetes` Service with its endpoints.

use std::sync::Arc;

use serde_json::{Value, json};

use super::error::{ApiError, ApiResult};
use super::ops::{Part, Tracking};
use super::request::WriteOptions;
use super::resources::Resource;
use super::{Api, storage};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Options of the server's own writes.
pub fn own_writes(manager: &str) -> WriteOptions {
    WriteOptions { field_manager: manager.into(), ..WriteOptions::default() }
}

fn row(api: &Api, group: &str, plural: &str) -> ApiResult<Arc<Resource>> {
    api.catalog.find(group, "v1", plural).ok_or_else(|| ApiError::internal(format!("no resource {plural}")))
}

/// Creates what is missing and corrects the address of this server.
///
/// # Errors
/// If the store fails, or something else holds the first service address.
pub fn bootstrap(api: &Api) -> ApiResult<()> {
    let own = own_writes("kube-apiserver");
    let namespaces = row(api, "", "namespaces")?;
    for name in NAMESPACES {
        exists_is_fine(api.create(&namespaces, "", json!({"metadata": {"name": name}}), &own))?;
        root_ca(api, name)?;
        default_account(api, name)?;
    }
    let services = row(api, "", "services")?;
    let service = json!({
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"type": "ClusterIP", "clusterIP": api.allocator.first().to_string(), "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": api.options.advertise_port}]},
    });
    exists_is_fine(api.create(&services, "default", service, &own))?;
    let address = api.options.advertise.to_string();
    let port = api.options.advertise_port;
    let slice = json!({
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if api.options.advertise.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    let endpoints = json!({
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": address}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
    });
    put(api, &row(api, "discovery.k8s.io", "endpointslices")?, slice)?;
    put(api, &row(api, "", "endpoints")?, endpoints)
}

/// The `kube-root-ca.crt` ConfigMap of a namespace.
///
/// # Errors
/// If the store fails.
pub fn root_ca(api: &Api, namespace: &str) -> ApiResult<()> {
    let map = json!({
        "metadata": {"name": "kube-root-ca.crt", "namespace": namespace,
            "annotations": {"kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."}},
        "data": {"ca.crt": api.options.client_ca_pem},
    });
    exists_is_fine(api.create(&row(api, "", "configmaps")?, namespace, map, &own_writes("kube-apiserver")))
}

/// The `default` ServiceAccount of a namespace.
///
/// # Errors
/// If the store fails.
pub fn default_account(api: &Api, namespace: &str) -> ApiResult<()> {
    let account = json!({"metadata": {"name": "default", "namespace": namespace}});
    exists_is_fine(api.create(
        &row(api, "", "serviceaccounts")?,
        namespace,
        account,
        &own_writes("kube-apiserver"),
    ))
}

fn exists_is_fine(result: ApiResult<Value>) -> ApiResult<()> {
    match result {
        // A namespace that is going takes its content along.
        Ok(_) => Ok(()),
        Err(e) if matches!(e.reason, "AlreadyExists" | "Forbidden" | "NotFound") => Ok(()),
        Err(e) => Err(e),
    }
}

fn put(api: &Api, res: &Arc<Resource>, object: Value) -> ApiResult<()> {
    let own = own_writes("kube-apiserver");
    let name = super::object::name(&object).to_string();
    if api.storage.get(&storage::key(&res.storage, "default", &name))?.is_none() {
        return api.create(res, "default", object, &own).map(|_| ());
    }
    api.update(res, ("default", &name), Part::Main, &own, |_| Ok((object.clone(), Tracking::Update)))
        .map(|_| ())
}
