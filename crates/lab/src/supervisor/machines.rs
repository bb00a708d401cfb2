//! Bringing up a lab's machines: the VPC, an API server per cluster, nodes.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::Path;

use super::{Supervisor, environment};
use crate::error::Result;
use crate::fabric::{Fabric, node_port};
use crate::kubeconfig;
use crate::runtime::{
    Container, Context, EXECUTABLE, Mount, NODE_CGROUP, NODE_STATE, NetNs, Root, write_atomic,
};
use crate::state::{ClusterStatus, NodeStatus};
use crate::topology::plan::{ClusterPlan, NodePlan};

/// Directories of a node that every one has.
const NODE_DIRS: [&str; 3] = ["pods", "logs", "volumes"];

impl Supervisor {
    /// Everything, in order; what is independent of each other is only waited for afterwards.
    pub(super) async fn bring_up(&mut self, keep: &mut Option<Fabric>) -> Result<()> {
        let plan = self.plan.clone();
        let fabric = keep.insert(Fabric::create(&plan)?);
        fs::create_dir_all(crate::fabric::lb::Frontends::dir(self.dir.path()))
            .what(|| "create the fabric's directory".into())?;
        let container =
            Container { netns: Some(fabric.netns().path()), ..self.process("fabric", &["fabric"]) };
        self.status.fabric = self.start("fabric", &container, &[])?;
        let subnets: Vec<_> = plan.subnets.iter().map(|s| format!("{} {}", s.id, s.cidr)).collect();
        self.step(format!("VPC with {}", subnets.join(", ")));

        // Namespaces are held by these until their processes run in them.
        let mut held = Vec::new();
        for cluster in &plan.clusters {
            held.push(self.start_control_plane(fabric, cluster)?);
        }
        let mut nodes = Vec::new();
        for cluster in &plan.clusters {
            for (i, node) in cluster.nodes.iter().enumerate() {
                let netns = machine(fabric, node.subnet, &node_port(cluster, i), &node.addresses())?;
                fabric.route_pods(node)?;
                let pid = self.start_node(cluster, node, &netns)?;
                nodes.push((cluster, node, netns, pid));
            }
        }
        for cluster in &plan.clusters {
            let file = self.dir.cluster(&cluster.name).join("kubeconfig");
            let name = format!("control-plane/{}", cluster.name);
            self.until(&name, "its API server", || file.exists()).await?;
            let server = self.status.clusters.iter().find(|c| c.name == cluster.name);
            let server = server.map(|c| c.server.clone()).unwrap_or_default();
            self.step(format!("API server of {} at {server}", cluster.name));
        }
        let merged: Vec<_> =
            plan.clusters.iter().map(|c| self.dir.cluster(&c.name).join("kubeconfig")).collect();
        write_atomic(&self.dir.kubeconfig(), kubeconfig::merge(&merged)?.as_bytes())?;
        for (cluster, node, _netns, pid) in &nodes {
            let name = format!("node/{}/{}", cluster.name, node.name);
            self.until(&name, "its root", || is_pause(*pid)).await?;
            self.start_kubelet(cluster, node, *pid)?;
            let status = NodeStatus { name: node.name.clone(), pid: *pid };
            if let Some(c) = self.status.clusters.iter_mut().find(|c| c.name == cluster.name) {
                c.nodes.push(status);
            }
            let addresses: Vec<_> = node.addresses().iter().map(IpAddr::to_string).collect();
            self.step(format!("node {} of {} at {}", node.name, cluster.name, addresses.join(" and ")));
        }
        Ok(())
    }

    /// A process of the lab itself, in the host's root.
    fn process(&self, group: &str, args: &[&str]) -> Container {
        let executable = self.dir.executable().display().to_string();
        let mut argv = vec![executable, "lab".into()];
        argv.extend(args.iter().map(|a| a.to_string()));
        argv.extend(["--state".into(), self.dir.path().display().to_string()]);
        Container {
            argv,
            env: environment(),
            cgroup: Some(self.cgroup.path().join(group)),
            ..Container::default()
        }
    }

    fn start_control_plane(&mut self, fabric: &Fabric, cluster: &ClusterPlan) -> Result<NetNs> {
        let netns =
            machine(fabric, cluster.subnet, &format!("c{}cp", cluster.id), &[cluster.api_server.into()])?;
        for dir in [self.dir.cluster(&cluster.name), self.dir.path().join("nodes").join(&cluster.name)] {
            fs::create_dir_all(&dir).what(|| format!("create {}", dir.display()))?;
        }
        for node in &cluster.nodes {
            for dir in NODE_DIRS {
                let dir = self.dir.node(&cluster.name, &node.name).join(dir);
                fs::create_dir_all(&dir).what(|| format!("create {}", dir.display()))?;
            }
        }
        // A socket belongs to the namespace it was made in: this one is the host's, though it is served from another.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .what(|| "listen on 127.0.0.1 for an API server".into())?;
        let port = listener.local_addr().what(|| "listen on 127.0.0.1".into())?.port();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&listener).to_string();
        let args = ["control-plane", "--cluster", &cluster.name, "--listener-fd", &fd];
        let container = Container {
            netns: Some(netns.path()),
            ..self.process(&format!("{}/control-plane", cluster.name), &args)
        };
        self.start(&format!("control-plane/{}", cluster.name), &container, &[&listener])?;
        self.status.clusters.push(ClusterStatus {
            name: cluster.name.clone(),
            server: format!("https://127.0.0.1:{port}"),
            nodes: Vec::new(),
        });
        Ok(netns)
    }

    /// The process that holds a node's namespaces and root.
    fn start_node(&mut self, cluster: &ClusterPlan, node: &NodePlan, netns: &NetNs) -> Result<u32> {
        netns.sysctl(&[
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
        ])?;
        let cgroup = self.cgroup.child(&cluster.name).child(&node.name);
        cgroup.create()?;
        let state = self.dir.node(&cluster.name, &node.name);
        let scratch = state.join("root");
        fs::create_dir_all(&scratch).what(|| format!("create {}", scratch.display()))?;
        let container = Container {
            argv: vec![EXECUTABLE.into(), "lab".into(), "pause".into()],
            env: environment(),
            cgroup: Some(cgroup.child("node").path().into()),
            netns: Some(netns.path()),
            hostname: Some(node.name.clone()),
            root: Root::Overlay { lower: "/".into(), scratch, node: true },
            mounts: vec![Mount::new(cgroup.path(), NODE_CGROUP), Mount::new(&state, NODE_STATE)],
            ..Container::default()
        };
        self.start(&format!("node/{}/{}", cluster.name, node.name), &container, &[])
    }

    fn start_kubelet(&mut self, cluster: &ClusterPlan, node: &NodePlan, pid: u32) -> Result<u32> {
        let config = crate::node::NodeConfig {
            cluster: cluster.name.clone(),
            name: node.name.clone(),
            address: node.address,
            address_v6: node.address_v6,
            pod_cidrs: node.pod_cidrs.clone(),
            zone: node.zone.clone(),
            api_server: cluster.api_server,
            cluster_dns: cluster.dns(),
        };
        let state = self.dir.node(&cluster.name, &node.name);
        let text = serde_json::to_vec_pretty(&config).what(|| "encode a node".into())?;
        write_atomic(&state.join("node.json"), &text)?;
        let cgroup = self.cgroup.child(&cluster.name).child(&node.name).child("kubelet");
        let argv = [EXECUTABLE, "lab", "kubelet"].map(String::from).to_vec();
        let container =
            Container { env: environment(), ..Container::inside(pid, Some(cgroup.path().into()), argv) };
        self.start(&format!("kubelet/{}/{}", cluster.name, node.name), &container, &[])
    }
}

/// A namespace connected to a subnet.
fn machine(fabric: &Fabric, subnet: usize, port: &str, addresses: &[IpAddr]) -> Result<NetNs> {
    let netns = NetNs::create()?;
    fabric.connect(&netns, subnet, port, addresses)?;
    Ok(netns)
}

/// Whether a process has become its command: everything around it is in place then.
fn is_pause(pid: u32) -> bool {
    let arguments = fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).unwrap_or_default();
    let words: BTreeMap<usize, &[u8]> = arguments.split(|b| *b == 0).enumerate().collect();
    words.get(&2) == Some(&b"pause".as_slice())
}
