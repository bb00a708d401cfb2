//! Whether this machine can carry a lab, found out before anything is changed.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::runtime::Cgroup;
use crate::state::LabDir;

/// Bytes that must be free where the state directory is: logs, and the executable's copy.
const FREE: u64 = 512 << 20;

/// Refuses with one sentence that names what is missing.
///
/// # Errors
/// [`Error::Preflight`].
pub fn check(dir: &LabDir) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return missing("a lab needs root, since it makes namespaces and loads eBPF: run it with sudo");
    }
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let has = |name: &str| filesystems.lines().any(|l| l.split_whitespace().last() == Some(name));
    if Cgroup::mount_point()?.is_none() {
        return missing(
            "cgroup v2 is not mounted: mount it with `mount -t cgroup2 none /sys/fs/cgroup/unified`",
        );
    }
    if !has("overlay") && !loads("overlay") {
        return missing(
            "the kernel has no overlayfs, which nodes' roots are made of: load the module overlay",
        );
    }
    if !has("bpf") || !has_bpf() {
        return missing(
            "the kernel has no eBPF (bpf system call and bpf file system), or this environment forbids it",
        );
    }
    for (path, what) in [("/proc/self/ns/net", "network"), ("/proc/self/ns/mnt", "mount")] {
        if !Path::new(path).exists() {
            return missing(format!("the kernel has no {what} namespaces"));
        }
    }
    room(dir.path())
}

fn missing<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::Preflight(text.into()))
}

/// Whether the kernel would load a module when it is needed; nothing is loaded here.
fn loads(module: &str) -> bool {
    std::process::Command::new("modprobe").args(["-n", "-q"]).arg(module).status().is_ok_and(|s| s.success())
}

/// Whether the bpf system call answers: creating a map of no type is refused as invalid, not as unknown or forbidden.
fn has_bpf() -> bool {
    const MAP_CREATE: libc::c_int = 0;
    let attributes = [0u8; 64];
    // SAFETY: the kernel reads `attributes` for its length and refuses it.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, MAP_CREATE, attributes.as_ptr(), attributes.len()) };
    answer >= 0 || nix::errno::Errno::last() == nix::errno::Errno::EINVAL
}

fn room(state: &Path) -> Result<()> {
    let existing = state.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let Ok(stat) = nix::sys::statvfs::statvfs(existing) else { return Ok(()) };
    let free = stat.blocks_available() * stat.fragment_size();
    if free < FREE {
        let (free, needed) = (free >> 20, FREE >> 20);
        return missing(format!(
            "the disk is full: {} has {free} MiB left and a lab needs {needed} MiB; free some, or set CAUSEWAY_LAB_ROOT",
            existing.display()
        ));
    }
    Ok(())
}
