//! The compiled kernel half: embedded, loaded, its maps pinned and adopted.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use aya::programs::{Program, SchedClassifier};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};

use crate::{Error, IpPair, Sizes};

pub(crate) static LXC: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bpf_lxc.bpf.o"));
static OVERLAY: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bpf_overlay.bpf.o"));
pub(crate) static HOST: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bpf_host.bpf.o"));
pub(crate) static XDP: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bpf_xdp.bpf.o"));
pub(crate) static SOCK: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bpf_sock.bpf.o"));

/// Number of the map layouts; maps of another number are left behind, not adopted. Raise it with
/// every change of a struct in `bpf/lib`.
const LAYOUT: u32 = 4;

/// Where the pins are.
#[derive(Debug, Clone)]
pub(crate) struct Pins {
    pub(crate) maps: PathBuf,
    pub(crate) links: PathBuf,
}

impl Pins {
    /// Where they are, or would be, below a bpffs.
    pub(crate) fn at(bpffs: &Path) -> Self {
        let base = bpffs.join("causeway");
        Self { maps: base.join(format!("maps-v{LAYOUT}")), links: base.join("links") }
    }

    /// Makes the folders below `<bpffs>/causeway` and removes maps of other layouts.
    pub(crate) fn prepare(bpffs: &Path) -> Result<Self, Error> {
        let pins = Self::at(bpffs);
        let base = bpffs.join("causeway");
        for dir in [&pins.maps, &pins.links] {
            std::fs::create_dir_all(dir).map_err(|e| {
                Error::io(format!("create {} (is a bpffs mounted at {}?)", dir.display(), bpffs.display()), e)
            })?;
        }
        let entries =
            std::fs::read_dir(&base).map_err(|e| Error::io(format!("read {}", base.display()), e))?;
        for old in entries.flatten().map(|entry| entry.path()) {
            let is_maps = old.file_name().is_some_and(|name| name.to_string_lossy().starts_with("maps-"));
            if is_maps && old != pins.maps {
                tracing::warn!(path = %old.display(), "maps of another layout are dropped; flows may be interrupted");
                let _ = std::fs::remove_dir_all(&old);
            }
        }
        Ok(pins)
    }
}

/// What the programs are told when they are loaded.
#[derive(Debug)]
pub(crate) struct Constants {
    /// Index of the tunnel device; 0 under native routing.
    pub(crate) vxlan: u32,
    pub(crate) native: bool,
    /// The identities of this cluster's pods.
    pub(crate) identities: RangeInclusive<u32>,
    /// Cookie of the node's own network namespace.
    pub(crate) netns: u64,
    pub(crate) host_netns_only: bool,
    pub(crate) refuse_no_backend: bool,
    /// The node's addresses inside the pod network, and those outside.
    pub(crate) internal: IpPair,
    pub(crate) node: IpPair,
    /// The ports of source NAT.
    pub(crate) nat_ports: RangeInclusive<u16>,
}

impl Constants {
    /// Names and bytes of the constants, and the objects that must have them.
    fn all(&self) -> Vec<(&'static str, Vec<u8>, &'static [&'static str])> {
        const DEVICES: &[&str] = &["bpf_host", "bpf_xdp"];
        let word = |flag: bool| u32::from(flag).to_ne_bytes().to_vec();
        let v4 = |pair: IpPair| pair.v4.map(|ip| ip.octets()).unwrap_or_default().to_vec();
        let v6 = |pair: IpPair| pair.v6.map(|ip| ip.octets()).unwrap_or_default().to_vec();
        vec![
            ("VXLAN_IFINDEX", self.vxlan.to_ne_bytes().to_vec(), &["bpf_host", "bpf_lxc", "bpf_xdp"]),
            ("NATIVE_ROUTING", word(self.native), &["bpf_host", "bpf_lxc"]),
            ("OWN_IDENTITY_MIN", self.identities.start().to_ne_bytes().to_vec(), &["bpf_host"]),
            ("OWN_IDENTITY_MAX", self.identities.end().to_ne_bytes().to_vec(), &["bpf_host"]),
            ("HOST_NETNS_COOKIE", self.netns.to_ne_bytes().to_vec(), &["bpf_sock"]),
            ("HOST_NETNS_ONLY", word(self.host_netns_only), &["bpf_sock"]),
            ("REFUSE_NO_BACKEND", word(self.refuse_no_backend), &["bpf_host", "bpf_lxc"]),
            ("INTERNAL_IP4", v4(self.internal), DEVICES),
            ("INTERNAL_IP6", v6(self.internal), DEVICES),
            ("NODE_IP4", v4(self.node), DEVICES),
            ("NODE_IP6", v6(self.node), DEVICES),
            ("NAT_PORT_MIN", self.nat_ports.start().to_ne_bytes().to_vec(), DEVICES),
            ("NAT_PORT_MAX", self.nat_ports.end().to_ne_bytes().to_vec(), DEVICES),
        ]
    }
}

/// The loaded objects. Dropping them leaves pinned maps and links in the kernel.
#[derive(Debug)]
pub(crate) struct Objects {
    pub(crate) host: Ebpf,
    pub(crate) lxc: Ebpf,
    pub(crate) overlay: Ebpf,
    pub(crate) sock: Ebpf,
}

impl Objects {
    /// Loads everything, with maps of these sizes where there are none yet.
    pub(crate) fn load(pins: &Pins, constants: &Constants, sizes: &Sizes) -> Result<Self, Error> {
        let load = |object, bytes| load(object, bytes, pins, constants, sizes);
        Ok(Self {
            host: load("bpf_host", HOST)?,
            lxc: load("bpf_lxc", LXC)?,
            overlay: load("bpf_overlay", OVERLAY)?,
            sock: load("bpf_sock", SOCK)?,
        })
    }
}

/// Loads the program of the native devices' drivers, which not every node has.
pub(crate) fn load_xdp(pins: &Pins, constants: &Constants, sizes: &Sizes) -> Result<Ebpf, Error> {
    load("bpf_xdp", XDP, pins, constants, sizes)
}

fn load(
    object: &'static str,
    bytes: &[u8],
    pins: &Pins,
    constants: &Constants,
    sizes: &Sizes,
) -> Result<Ebpf, Error> {
    let constants = constants.all();
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(&pins.maps);
    for (name, value, needed) in &constants {
        loader.override_global(name, &value[..], needed.contains(&object));
    }
    for (map, size) in sizes.maps() {
        loader.map_max_entries(map, size);
    }
    let mut loaded = loader.load(bytes).map_err(|source| Error::Load { object, source: Box::new(source) })?;
    for (name, program) in loaded.programs_mut() {
        let result = match program {
            Program::SchedClassifier(p) => p.load(),
            Program::CgroupSockAddr(p) => p.load(),
            Program::CgroupSock(p) => p.load(),
            Program::Xdp(p) => p.load(),
            _ => continue,
        };
        result.map_err(|source| Error::Program {
            program: name.to_owned(),
            what: "load",
            source: Box::new(source),
        })?;
    }
    Ok(loaded)
}

/// A traffic-control program of a loaded object.
pub(crate) fn classifier<'a>(object: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    object
        .program_mut(name)
        .and_then(|program| program.try_into().ok())
        .unwrap_or_else(|| panic!("the embedded object has no classifier {name}"))
}
