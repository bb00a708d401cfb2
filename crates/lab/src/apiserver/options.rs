//! What an API server is started with.

use std::net::IpAddr;
use std::time::Duration;

use causeway_kvstore::Store;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A bearer token that is accepted as it stands.
#[derive(Debug, Clone)]
pub struct StaticToken {
    /// The token.
    pub token: String,
    /// User name it stands for.
    pub user: String,
    /// Groups it stands for.
    pub groups: Vec<String>,
}

/// Options of an [`super::ApiServer`].
#[derive(Clone)]
pub struct ApiServerOptions {
    /// Where objects live.
    pub store: Store,
    /// Name of the cluster, for messages.
    pub cluster_name: String,
    /// Range of ClusterIPs; its first address is the `kubernetes` Service's.
    pub service_cidr: Ipv4Net,
    /// Range of IPv6 ClusterIPs; with one, Services may be dual stack.
    pub service_cidr_v6: Option<Ipv6Net>,
    /// Server certificate chain, PEM.
    pub cert_pem: String,
    /// Its private key, PEM.
    pub key_pem: String,
    /// Authority of client certificates, PEM; also published as `kube-root-ca.crt`.
    pub client_ca_pem: String,
    /// Address pods and nodes reach this server at.
    pub advertise: IpAddr,
    /// Port there.
    pub advertise_port: u16,
    /// Secret that signs service-account tokens.
    pub token_secret: Vec<u8>,
    /// Bearer tokens.
    pub static_tokens: Vec<StaticToken>,
    /// How often old revisions are compacted away; those of the last period stay readable.
    pub compact_every: Duration,
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Certificate, key or authority is unusable.
    #[error("API server TLS: {0}")]
    Tls(String),
    /// The service range is too small.
    #[error("service CIDR {0} has no room for services: use a prefix of at most 29 bits, or 125 in IPv6")]
    ServiceCidr(IpNet),
    /// A request the server makes to itself failed.
    #[error("API server start: {0}")]
    Start(#[from] super::error::ApiError),
}
