//! Watchers of this cluster's objects, as streams of model events.
//!
//! Each stream begins with `Reset`, lists, says `Synced` and then follows changes. Errors are logged
//! once per attempt and retried with back-off for ever; the consumer just sees no events.

mod defined;
mod operator;
mod watch;

use causeway_model::lb::HostPorts;
use causeway_model::{
    ClusterInfo, Endpoint, EndpointSlice, Event, ExportRequest, Identity, IpEntry, Node, NodeKey,
    NumericIdentity, PodRef, Service, ServiceImport,
};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::{Pod, Service as KubeService};
use k8s_openapi::api::discovery::v1::EndpointSlice as KubeSlice;
use kube::runtime::watcher;
use kube::{Api, Client};

use crate::convert::{self, AddressOwners, EndpointGroup, EndpointUnion};
use crate::crd::{self, CiliumEndpoint, CiliumEndpointSlice, CiliumIdentity, CiliumNode, McsVersion};
pub use operator::{Served, local_services, mesh_slices, namespaces, service_exports, service_imports};
use watch::{service_key, slice_key, watch, watch_as};

/// The nodes of cluster `info`, from its CiliumNodes.
pub fn nodes(client: Client, info: ClusterInfo) -> impl Stream<Item = Event<Node>> + Send + 'static {
    let key_info = info.clone();
    watch(
        Api::<CiliumNode>::all(client),
        move |object| Some(convert::node(object, &info)),
        move |object| Some(NodeKey { cluster: key_info.name.clone(), name: object.metadata.name.clone()? }),
    )
}

/// The identities, from CiliumIdentities.
pub fn identities(client: Client) -> impl Stream<Item = Event<Identity>> + Send + 'static {
    watch(Api::<CiliumIdentity>::all(client), convert::identity, |object| {
        object.metadata.name.as_deref()?.parse().ok().map(NumericIdentity)
    })
}

/// The endpoints with the addresses each claims, from CiliumEndpoints.
pub fn endpoints(client: Client) -> impl Stream<Item = Event<Endpoint>> + Send + 'static {
    watch(Api::<CiliumEndpoint>::all(client), convert::endpoint, |object| {
        let (namespace, name) = convert::names(&object.metadata);
        Some(PodRef { namespace, name })
    })
}

/// The endpoints in CiliumEndpointSlices, slice by slice; none until their definition exists.
pub fn cilium_endpoint_slices(client: Client) -> impl Stream<Item = Event<EndpointGroup>> + Send + 'static {
    let api = Api::<CiliumEndpointSlice>::all(client.clone());
    defined::once_defined(client, "ciliumendpointslices.cilium.io", move |_| {
        watch(api, |object| Some(convert::endpoint_slice(object)), |object| object.metadata.name.clone())
    })
}

/// The addresses; one that two objects claim belongs to the newest claim. They come from
/// CiliumEndpoints, and with `slices` (`enable-cilium-endpoint-slice`) from CiliumEndpointSlices too,
/// each pod's once.
pub fn addresses(client: Client, slices: bool) -> BoxStream<'static, Event<IpEntry>> {
    let mut owners = AddressOwners::new();
    if !slices {
        return endpoints(client).flat_map(move |event| stream::iter(owners.apply(event))).boxed();
    }
    enum Either {
        Single(Event<Endpoint>),
        Slice(Event<EndpointGroup>),
    }
    let mut union = EndpointUnion::new();
    let single = endpoints(client.clone()).map(Either::Single);
    stream::select(single, cilium_endpoint_slices(client).map(Either::Slice))
        .flat_map(move |event| {
            let endpoints = match event {
                Either::Single(event) => union.apply_endpoint(event),
                Either::Slice(event) => union.apply_group(event),
            };
            let changes: Vec<_> = endpoints.into_iter().flat_map(|event| owners.apply(event)).collect();
            stream::iter(changes)
        })
        .boxed()
}

/// The Services, without those of other proxies than `proxy` (`k8s-service-proxy-name`). `native`: nodes
/// reach each other without a tunnel (`routing-mode`).
pub fn services(
    client: Client,
    proxy: Option<String>,
    native: bool,
) -> impl Stream<Item = Event<Service>> + Send + 'static {
    watch(
        Api::<KubeService>::all(client),
        move |object| {
            let service = convert::service(object, proxy.as_deref())?;
            Some(if native { service } else { convert::over_tunnel(service) })
        },
        service_key,
    )
}

/// The EndpointSlices of addresses, without those that mirror other clusters.
pub fn endpoint_slices(client: Client) -> impl Stream<Item = Event<EndpointSlice>> + Send + 'static {
    watch(Api::<KubeSlice>::all(client), convert::slice, slice_key)
}

/// The ports of a node that its pods asked for.
pub fn host_ports(client: Client, node: &str) -> impl Stream<Item = Event<HostPorts>> + Send + 'static {
    let here = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let pods = Api::<Pod>::all(client);
    watch_as("pods with host ports".to_owned(), pods, here, convert::host_ports, |object| {
        let (namespace, name) = convert::names(&object.metadata);
        Some(HostPorts::owner(&PodRef { namespace, name }))
    })
}

/// All Services, whichever proxy they belong to.
pub fn all_services(client: Client) -> impl Stream<Item = Event<Service>> + Send + 'static {
    watch(Api::<KubeService>::all(client), |object| Some(convert::any_service(object)), service_key)
}

/// The EndpointSlices of addresses, with those that mirror other clusters.
pub fn all_endpoint_slices(client: Client) -> impl Stream<Item = Event<EndpointSlice>> + Send + 'static {
    watch(Api::<KubeSlice>::all(client), convert::any_slice, slice_key)
}

/// The ServiceImports, of the newest version that is served; none until their definition exists.
pub fn imports(client: Client) -> impl Stream<Item = Event<ServiceImport>> + Send + 'static {
    defined::once_defined(client.clone(), crd::ServiceImport::DEFINITION, move |versions| {
        let version = McsVersion::best(&versions);
        watch_as(
            "serviceimports".to_owned(),
            Api::<crd::ServiceImport>::all_with(client, &version),
            watcher::Config::default(),
            convert::import,
            service_key,
        )
    })
}

/// The ServiceExports as requests to export; none until their definition exists.
pub fn exports(client: Client) -> impl Stream<Item = Event<ExportRequest>> + Send + 'static {
    service_exports(client).map(|event| event.map(|object| convert::export(&object), |key| key))
}
