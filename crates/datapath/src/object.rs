//! The compiled kernel half: embedded, loaded, its maps pinned and adopted.

use std::path::{Path, PathBuf};

use aya::programs::{Program, SchedClassifier};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};

use crate::{Balance, Error};

pub(crate) static LXC: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bpf_lxc.bpf.o"));
static OVERLAY: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bpf_overlay.bpf.o"));
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

/// The three loaded objects. Dropping them leaves pinned maps and links in the kernel.
#[derive(Debug)]
pub(crate) struct Objects {
    pub(crate) lxc: Ebpf,
    pub(crate) overlay: Ebpf,
    pub(crate) sock: Ebpf,
}

impl Objects {
    /// Loads everything; `vxlan` is the index of the tunnel device, `netns` the cookie of the node's
    /// own network namespace.
    pub(crate) fn load(pins: &Pins, vxlan: u32, netns: u64, balance: &Balance) -> Result<Self, Error> {
        let host_netns_only = u32::from(balance.host_netns_only);
        let load = |object: &'static str, bytes: &[u8], tunnel: bool| {
            let mut loader = EbpfLoader::new();
            loader.default_map_pin_directory(&pins.maps);
            if tunnel {
                loader.override_global("VXLAN_IFINDEX", &vxlan, object == "bpf_lxc");
            } else {
                loader.override_global("HOST_NETNS_COOKIE", &netns, true);
                loader.override_global("HOST_NETNS_ONLY", &host_netns_only, true);
            }
            for (map, size) in balance.sizes.maps() {
                loader.map_max_entries(map, size);
            }
            let mut loaded =
                loader.load(bytes).map_err(|source| Error::Load { object, source: Box::new(source) })?;
            for (name, program) in loaded.programs_mut() {
                let result = match program {
                    Program::SchedClassifier(p) => p.load(),
                    Program::CgroupSockAddr(p) => p.load(),
                    Program::CgroupSock(p) => p.load(),
                    _ => continue,
                };
                result.map_err(|source| Error::Program {
                    program: name.to_owned(),
                    what: "load",
                    source: Box::new(source),
                })?;
            }
            Ok(loaded)
        };
        Ok(Self {
            lxc: load("bpf_lxc", LXC, true)?,
            overlay: load("bpf_overlay", OVERLAY, true)?,
            sock: load("bpf_sock", SOCK, false)?,
        })
    }
}

/// A traffic-control program of a loaded object.
pub(crate) fn classifier<'a>(object: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    object
        .program_mut(name)
        .and_then(|program| program.try_into().ok())
        .unwrap_or_else(|| panic!("the embedded object has no classifier {name}"))
}
