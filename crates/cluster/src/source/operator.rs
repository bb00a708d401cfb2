//! What only the operator watches: its own objects, and this cluster's with all it needs of them.

use std::sync::{Arc, OnceLock};

use causeway_model::mcs::{LocalService, Namespace};
use causeway_model::names::{MESH_SLICE_MANAGER, SLICE_MANAGER};
use causeway_model::{Event, ServiceKey};
use futures::Stream;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice as KubeSlice;
use kube::runtime::watcher;
use kube::{Api, Client};

use super::defined::once_defined;
use super::watch::{service_key, slice_key, watch, watch_as};
use crate::convert;
use crate::crd::{McsVersion, ServiceExport, ServiceImport};
use crate::writeback::OwnSlice;

/// The version in which a definition is asked for, as soon as that is known.
pub type Served = Arc<OnceLock<McsVersion>>;

/// The Services with what the operator needs of them, without those of other proxies than `proxy`.
pub fn local_services(
    client: Client,
    proxy: Option<String>,
) -> impl Stream<Item = Event<LocalService>> + Send + 'static {
    watch(
        Api::<core::Service>::all(client),
        move |object| convert::local_service(object, proxy.as_deref()),
        service_key,
    )
}

/// The namespaces that are not being deleted.
pub fn namespaces(client: Client) -> impl Stream<Item = Event<Namespace>> + Send + 'static {
    watch(Api::<core::Namespace>::all(client), convert::namespace, |object| object.metadata.name.clone())
}

/// The EndpointSlices of the operator.
pub fn mesh_slices(client: Client) -> impl Stream<Item = Event<OwnSlice>> + Send + 'static {
    let own = format!("{SLICE_MANAGER}={MESH_SLICE_MANAGER}");
    watch_as(
        "endpointslices of other clusters".to_owned(),
        Api::<KubeSlice>::all(client),
        watcher::Config::default().labels(&own),
        |object: &KubeSlice| Some(OwnSlice(object.clone())),
        slice_key,
    )
}

/// The ServiceExports; none until their definition exists.
pub fn service_exports(client: Client) -> impl Stream<Item = Event<ServiceExport>> + Send + 'static {
    once_defined(client.clone(), ServiceExport::DEFINITION, move |versions| {
        let version = McsVersion::best(&versions);
        mcs("serviceexports", Api::<ServiceExport>::all_with(client, &version))
    })
}

/// The ServiceImports; none until their definition exists. `served` gets the version that is used.
pub fn service_imports(
    client: Client,
    served: Served,
) -> impl Stream<Item = Event<ServiceImport>> + Send + 'static {
    once_defined(client.clone(), ServiceImport::DEFINITION, move |versions| {
        let version = McsVersion::best(&versions);
        let _ = served.set(version);
        mcs("serviceimports", Api::<ServiceImport>::all_with(client, &version))
    })
}

/// All objects of an API as they are.
fn mcs<K>(what: &str, api: Api<K>) -> impl Stream<Item = Event<K>> + Send + 'static
where
    K: kube::Resource<DynamicType = McsVersion>
        + causeway_model::Keyed<Key = ServiceKey>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static,
{
    let key = |object: &K| Some(object.key());
    watch_as(what.to_owned(), api, watcher::Config::default(), |object: &K| Some(object.clone()), key)
}
