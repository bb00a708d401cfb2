//! The custom resources Causeway reads and writes, with the names and fields Cilium uses.
//!
//! The types are written by hand: CiliumIdentity keeps its data at the top level, which derived
//! types cannot express. Fields that Causeway does not use are not listed; their CRDs preserve them.

mod definitions;
mod endpoint;
mod endpoint_slice;
mod identity;
mod mcs;
mod node;

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};

pub use definitions::{all, endpoint_slice_crd, service_export_crd, service_import_crd};
pub use endpoint::{
    Addressing, CiliumEndpoint, EndpointEncryption, EndpointIdentifiers, EndpointIdentity,
    EndpointNetworking, EndpointStatus, NamedPort,
};
pub use endpoint_slice::{CiliumEndpointSlice, CoreCiliumEndpoint};
pub use identity::CiliumIdentity;
pub use mcs::{
    ClusterStatus, McsVersion, ServiceExport, ServiceExportSpec, ServiceExportStatus, ServiceImport,
    ServiceImportPort, ServiceImportSpec, ServiceImportStatus,
};
pub use node::{
    AddressPair, CiliumNode, CiliumNodeAddress, CiliumNodeSpec, EncryptionSpec, IpamPool, IpamPools, IpamSpec,
};

use crate::Error;

/// Implements `kube::Resource` for a hand-written object type.
macro_rules! resource {
    ($type:ty, $group:literal, $version:literal, $kind:literal, $plural:literal, $scope:ty) => {
        impl kube::Resource for $type {
            type DynamicType = ();
            type Scope = $scope;
            fn kind(_: &()) -> std::borrow::Cow<'_, str> {
                $kind.into()
            }
            fn group(_: &()) -> std::borrow::Cow<'_, str> {
                $group.into()
            }
            fn version(_: &()) -> std::borrow::Cow<'_, str> {
                $version.into()
            }
            fn plural(_: &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &mut self.metadata
            }
        }

        impl $type {
            /// `apiVersion` of the object.
            pub const API_VERSION: &'static str = concat!($group, "/", $version);
            /// `kind` of the object.
            pub const KIND: &'static str = $kind;
        }
    };
}
pub(crate) use resource;

/// Creates the definitions of the multi-cluster services API that are not there. Those that are belong to
/// whoever installed them and stay as they are.
///
/// # Errors
/// [`Error::Api`] if one can be neither read nor created.
pub async fn create_mcs_crds(client: kube::Client) -> Result<(), Error> {
    let api: Api<CustomResourceDefinition> = Api::all(client);
    for crd in [service_export_crd(), service_import_crd()] {
        let name = crd.metadata.name.clone().unwrap_or_default();
        let there = api.get_opt(&name).await;
        if there.map_err(Error::api(format!("read CustomResourceDefinition {name}")))?.is_some() {
            continue;
        }
        match api.create(&Default::default(), &crd).await {
            Ok(_) => tracing::info!(definition = name, "created"),
            // Another replica, or the user, was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(Error::api(format!("create CustomResourceDefinition {name}"))(error)),
        }
    }
    Ok(())
}

/// Creates or updates the CRDs of [`all`] and waits until the API server serves them.
///
/// # Errors
/// [`Error::Api`] if one is refused, [`Error::NotEstablished`] if one is not served in time.
pub async fn ensure_crds(client: kube::Client) -> Result<(), Error> {
    const WAIT: Duration = Duration::from_secs(60);
    let api: Api<CustomResourceDefinition> = Api::all(client);
    for crd in all() {
        let name = crd.metadata.name.clone().unwrap_or_default();
        let params = PatchParams::apply("causeway").force();
        api.patch(&name, &params, &Patch::Apply(&crd))
            .await
            .map_err(Error::api(format!("apply CustomResourceDefinition {name}")))?;
        let deadline = tokio::time::Instant::now() + WAIT;
        loop {
            let found =
                api.get(&name).await.map_err(Error::api(format!("read CustomResourceDefinition {name}")))?;
            let conditions = found.status.and_then(|s| s.conditions).unwrap_or_default();
            if conditions.iter().any(|c| c.type_ == "Established" && c.status == "True") {
                break;
            }
            if tokio::time::Instant::now() > deadline {
                let reason = conditions
                    .iter()
                    .find(|c| c.status == "False")
                    .and_then(|c| c.message.clone())
                    .unwrap_or_else(|| "no condition was reported".to_owned());
                return Err(Error::NotEstablished { name, seconds: WAIT.as_secs(), reason });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}
