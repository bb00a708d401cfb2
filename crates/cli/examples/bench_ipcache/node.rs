//! A node with a real datapath, out of namespaces that go when this process does.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use causeway_datapath::{Config, Datapath, PodNetwork, Routing};
use causeway_lab::runtime::Cgroup;
use causeway_model::{Event, IpEntry};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::Failure;

const CGROUP: &str = "causeway-bench-ipcache-";

pub(crate) struct Node {
    datapath: Mutex<Datapath>,
    _cgroup: NodeCgroup,
    _dir: tempfile::TempDir,
}

impl Node {
    /// Makes the node; to be called while there is one thread only.
    pub(crate) fn open() -> Result<Self, Failure> {
        let dir = tempfile::tempdir()?;
        let bpffs = dir.path().join("bpf");
        std::fs::create_dir(&bpffs)?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), none)?;
        let cgroup = NodeCgroup::new()?;
        let config = Config {
            bpffs,
            cgroup: cgroup.0.clone(),
            state_dir: dir.path().join("state"),
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
        // The network is that of a thread that ends; the maps are ours.
        let opened = std::thread::spawn(move || -> Result<Datapath, String> {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("a network namespace: {error}"))?;
            Datapath::open(config)
                .map_err(|error| format!("{error}: {:?}", std::error::Error::source(&error)))
        });
        let datapath = opened.join().map_err(|_| "the thread of the node panicked")??;
        Ok(Self { datapath: Mutex::new(datapath), _cgroup: cgroup, _dir: dir })
    }

    /// Programs a change of the ipcache.
    pub(crate) fn apply(&self, event: Event<IpEntry>) -> Result<(), Failure> {
        Ok(self.datapath.lock().map_err(|_| "a panic while the datapath was used")?.apply_address(event)?)
    }

    /// Addresses in the ipcache.
    pub(crate) fn entries(&self) -> Result<usize, Failure> {
        Ok(self.datapath.lock().map_err(|_| "a panic while the datapath was used")?.stats().addresses)
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
