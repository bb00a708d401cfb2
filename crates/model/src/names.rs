//! Labels and annotations of Kubernetes objects that clusters and controllers must agree on (behaviours 2.7, 2.9).

/// Label of an EndpointSlice with the name of its Service.
pub const SLICE_SERVICE: &str = "kubernetes.io/service-name";
/// Label of an EndpointSlice that names who writes it.
pub const SLICE_MANAGER: &str = "endpointslice.kubernetes.io/managed-by";
/// Its value where a slice mirrors other clusters' endpoints: it must be neither published nor balanced over, or
/// backends would come back as our own.
pub const MESH_SLICE_MANAGER: &str = "endpointslice-mesh-controller.cilium.io";
/// Label with the name of the imported service, on its derived Service and on EndpointSlices.
pub const IMPORTED_SERVICE: &str = "multicluster.kubernetes.io/service-name";
/// Label with the cluster the endpoints are in, on the same objects.
pub const SOURCE_CLUSTER: &str = "multicluster.kubernetes.io/source-cluster";
/// Annotation of a ServiceImport with the name of its derived Service.
pub const DERIVED_SERVICE: &str = "multicluster.kubernetes.io/derived-service";
