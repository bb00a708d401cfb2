//! Names of the Kubernetes objects of an installation; all of them are contracts with Cilium's
//! tools except those marked as ours (mesh-protocol 5, operator-workflow 1.1).

/// Default namespace of everything here.
pub(crate) const NAMESPACE: &str = "kube-system";
/// ConfigMap with the settings of a cluster.
pub(crate) const CONFIG_MAP: &str = "cilium-config";
/// Secret with the cluster's certificate authority (`ca.crt`, `ca.key`).
pub(crate) const CA_SECRET: &str = "cilium-ca";
/// Service, Deployment and ServiceAccount of the mesh server.
pub(crate) const APISERVER: &str = "clustermesh-apiserver";
/// Secret with the mesh server's certificate.
pub(crate) const SERVER_CERT: &str = "clustermesh-apiserver-server-cert";
/// Secret with the administrator's client certificate of the mesh server.
pub(crate) const ADMIN_CERT: &str = "clustermesh-apiserver-admin-cert";
/// Secret with this cluster's client certificate towards other clusters.
pub(crate) const REMOTE_CERT: &str = "clustermesh-apiserver-remote-cert";
/// Secret with the local agents' client certificate of the mesh server.
pub(crate) const LOCAL_CERT: &str = "clustermesh-apiserver-local-cert";
/// Secret with one etcd client configuration per peer, read by agents.
pub(crate) const PEERS: &str = "cilium-clustermesh";
/// The same for kvstoremesh.
pub(crate) const KVSTOREMESH_PEERS: &str = "cilium-kvstoremesh";
/// Ours: Secret with the authorities of peers that may read our mesh server, one `<peer>.crt` each.
pub(crate) const PEER_TRUST: &str = "clustermesh-apiserver-peer-trust";
/// Ours: DaemonSet and ServiceAccount of the agent.
pub(crate) const AGENT: &str = "causeway";
/// Ours: Deployment, Service and ServiceAccount of the name server beside the cluster's own DNS.
pub(crate) const DNS: &str = "causeway-dns";
/// The same where it is the cluster's own DNS.
pub(crate) const CLUSTER_DNS: &str = "kube-dns";
/// Ours: Deployment and ServiceAccount of the operator.
pub(crate) const OPERATOR: &str = "causeway-operator";
/// Label of the operator's pods.
pub(crate) const OPERATOR_LABEL: (&str, &str) = ("io.cilium/app", "operator");
/// Label of agent pods.
pub(crate) const AGENT_LABEL: (&str, &str) = ("k8s-app", "cilium");
/// Ours: prefix of the ConfigMaps in which agents report what they see of their peers.
pub(crate) const STATUS_PREFIX: &str = "causeway-status-";
/// Ours: label of those ConfigMaps.
pub(crate) const STATUS_LABEL: (&str, &str) = ("causeway.io/report", "clustermesh");
/// Ours: key of the report in those ConfigMaps.
pub(crate) const STATUS_KEY: &str = "clustermesh.json";
/// Port of the mesh server.
pub(crate) const MESH_PORT: u16 = 2379;
/// Annotation that asks TKE for an internal load balancer in this subnet.
pub(crate) const TKE_SUBNET: &str = "service.kubernetes.io/qcloud-loadbalancer-internal-subnetid";
/// Where agents find their peers.
pub(crate) const PEERS_DIR: &str = "/var/lib/cilium/clustermesh";
/// Where the mesh server finds its certificate.
pub(crate) const SERVER_CERT_DIR: &str = "/var/lib/etcd-secrets";
/// Ours: where the mesh server finds the authorities of its peers.
pub(crate) const PEER_TRUST_DIR: &str = "/var/lib/causeway/peer-trust";
/// Where Cilium mounts its ConfigMap.
pub(crate) const CONFIG_DIR: &str = "/tmp/cilium/config-map";
