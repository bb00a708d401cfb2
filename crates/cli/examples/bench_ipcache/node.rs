//! A node with a real datapath, out of namespaces that go when this process does.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use causeway_datapath::{Config, Datapath, PodNetwork, Routing};
use causeway_lab::runtime::Cgroup;
use causeway_model::{Event, IpEntry};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::Failure;
use super::owner::Owner;

const CGROUP: &str = "causeway-bench-ipcache-";

/// Where a node will be: this process's own mounts.
pub(crate) struct Ground {
    bpffs: PathBuf,
    cgroup: NodeCgroup,
    dir: tempfile::TempDir,
}

/// The datapath's thread, as the agent has it.
pub(crate) struct Node {
    owner: Owner,
    _cgroup: NodeCgroup,
    _dir: tempfile::TempDir,
}

impl Ground {
    /// To be made while there is one thread only.
    pub(crate) fn prepare() -> Result<Self, Failure> {
        let dir = tempfile::tempdir()?;
        let bpffs = dir.path().join("bpf");
        std::fs::create_dir(&bpffs)?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), none)?;
        Ok(Self { bpffs, cgroup: NodeCgroup::new()?, dir })
    }

    /// Opens the node's datapath.
    pub(crate) async fn open(self) -> Result<Node, Failure> {
        let config = Config {
            bpffs: self.bpffs,
            cgroup: self.cgroup.0.clone(),
            state_dir: self.dir.path().join("state"),
            node_ip: Ipv4Addr::new(172, 31, 0, 1),
            routing: Routing::Tunnel,
            native_cidrs: vec![],
            identities: 1 << 16..=0x1_ffff,
            networks: vec![PodNetwork {
                cidr: "10.250.0.0/24".parse()?,
                internal_ip: Ipv4Addr::new(10, 250, 0, 1).into(),
                masquerade: false,
            }],
            underlay_mtu: 1500,
            attach: None,
            balance: causeway_datapath::Balance::default(),
        };
        // The network is that of the datapath's thread.
        let owner = Owner::start(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may have a network namespace");
            Datapath::open(config)
        });
        Ok(Node { owner: owner.await?, _cgroup: self.cgroup, _dir: self.dir })
    }
}

impl Node {
    /// Programs changes of the ipcache; when the map held them.
    pub(crate) async fn apply(&self, events: Vec<Event<IpEntry>>) -> Result<Instant, Failure> {
        let result = self.owner.run(move |datapath| (datapath.apply_addresses(events), Instant::now()));
        let (result, at) = result.await?;
        Ok(result.map(|()| at)?)
    }

    /// Addresses in the ipcache.
    pub(crate) async fn entries(&self) -> Result<usize, Failure> {
        Ok(self.owner.run(|datapath| datapath.stats().addresses).await?)
    }
}

/// An empty cgroup for the node's sockets; removed at the end, or by the next run.
struct NodeCgroup(PathBuf);

impl NodeCgroup {
    fn new() -> Result<Self, Failure> {
        let root = Cgroup::mount_point()?.ok_or("cgroup v2 is not mounted")?;
        for entry in std::fs::read_dir(&root)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let left_over =
                name.strip_prefix(CGROUP).is_some_and(|pid| !Path::new("/proc").join(pid).exists());
            if left_over {
                std::fs::remove_dir(entry.path())?;
            }
        }
        let path = root.join(format!("{CGROUP}{}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for NodeCgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}
