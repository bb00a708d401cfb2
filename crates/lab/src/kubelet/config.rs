//! What the kubelet stand-in of a node is started with.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

/// Everything about one node. All paths are as seen inside the node.
#[derive(Clone)]
pub struct KubeletConfig {
    /// Client of the cluster's API server.
    pub client: kube::Client,
    /// Name of the Node object and host name of the node.
    pub node_name: String,
    /// `InternalIP`.
    pub node_ip: IpAddr,
    /// `InternalIP` of other families.
    pub more_ips: Vec<IpAddr>,
    /// Labels besides those every node has; `topology.kubernetes.io/zone` and `region` belong here.
    pub labels: BTreeMap<String, String>,
    /// `spec.podCIDRs` to register with; none if a controller assigns them.
    pub pod_cidrs: Vec<IpNet>,
    /// The node's cgroup v2 directory; pods live beneath it in `kubepods/`.
    pub cgroup: PathBuf,
    /// The kubelet's own directory: volumes, files of pods, CNI results.
    pub state_dir: PathBuf,
    /// Where records of running pods are written, in `pods/<namespace>_<name>.json`.
    pub record_dir: PathBuf,
    /// Directory of container logs.
    pub log_dir: PathBuf,
    /// A log file is rotated beyond this many bytes; one old file is kept.
    pub log_limit: u64,
    /// Directory of CNI network configurations.
    pub cni_conf_dir: PathBuf,
    /// Directories of CNI plugins.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// How long a CNI plugin may take.
    pub cni_timeout: Duration,
    /// The root filesystem below the overlay of every container.
    pub image_root: PathBuf,
    /// The `causeway` executable, seen in every container as `/usr/local/bin/causeway`.
    pub executable: Option<PathBuf>,
    /// `KUBERNETES_SERVICE_HOST` of containers.
    pub api_host: String,
    /// `KUBERNETES_SERVICE_PORT` of containers.
    pub api_port: u16,
    /// Name server of pods with `dnsPolicy: ClusterFirst`; none = they use the node's.
    pub cluster_dns: Option<IpAddr>,
    /// Domain of the cluster.
    pub cluster_domain: String,
    /// Where logs and health are served.
    pub listen: SocketAddr,
}

impl KubeletConfig {
    /// The usual values for a node.
    pub fn new(client: kube::Client, node_name: &str, node_ip: IpAddr, cgroup: PathBuf) -> Self {
        KubeletConfig {
            client,
            node_name: node_name.into(),
            node_ip,
            more_ips: Vec::new(),
            labels: BTreeMap::new(),
            pod_cidrs: Vec::new(),
            cgroup,
            state_dir: "/var/lib/kubelet".into(),
            record_dir: "/run/causeway/node".into(),
            log_dir: "/var/log/pods".into(),
            log_limit: 10 << 20,
            cni_conf_dir: "/etc/cni/net.d".into(),
            cni_bin_dirs: vec!["/opt/cni/bin".into()],
            cni_timeout: Duration::from_secs(60),
            image_root: "/".into(),
            executable: std::env::current_exe().ok(),
            api_host: "kubernetes.default.svc".into(),
            api_port: 443,
            cluster_dns: None,
            cluster_domain: "cluster.local".into(),
            listen: SocketAddr::from(([0, 0, 0, 0], 10250)),
        }
    }
}

impl KubeletConfig {
    /// Every `InternalIP`, the primary first.
    pub fn node_ips(&self) -> Vec<IpAddr> {
        [self.node_ip].into_iter().chain(self.more_ips.iter().copied()).collect()
    }
}

/// Why the kubelet cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory it needs cannot be made.
    #[error("kubelet: cannot prepare {path}: {source}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Its port cannot be opened.
    #[error("kubelet: cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The thread that starts processes cannot be made.
    #[error("kubelet: cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// Processes of an earlier kubelet cannot be ended.
    #[error("kubelet: cannot end the pods of an earlier run in {path}: {source}")]
    Leftovers {
        /// Their cgroup.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}
