//! Roots of nodes and containers: an overlay over the host's root with a writable layer in memory, in a mount namespace of
//! its own that vanishes with its processes.
//!
//! An overlay shows the file system of its lower directory only, so everything else that is mounted on the host and holds
//! files (a separate /home, the volume of the build directory) is bound in read-only. /run, /tmp and /dev/shm are empty.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::{Context, EXECUTABLE, HOST_ROOT, Mount, Result};

/// File systems that hold no files of their own, or that every root gets fresh.
const PSEUDO: [&str; 22] = [
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "devtmpfs",
    "devpts",
    "bpf",
    "debugfs",
    "tracefs",
    "securityfs",
    "pstore",
    "mqueue",
    "hugetlbfs",
    "configfs",
    "fusectl",
    "binfmt_misc",
    "efivarfs",
    "autofs",
    "nsfs",
    "rpc_pipefs",
    "ramfs",
    "selinuxfs",
];
/// Directories of a root that are not the host's.
const OWN: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/tmp"];

/// Leaves the caller's mount namespace for a new one and makes an overlay over `lower` its root.
///
/// Must be called by a single-threaded process; on an error the process is in an undefined place and must end.
///
/// # Errors
/// The mount that failed.
pub fn enter_overlay(lower: &Path, scratch: &Path, node: bool, mounts: &[Mount]) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).what(|| "create a mount namespace".into())?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).what(|| "make mounts private".into())?;
    // Sources are held open, because their paths mean something else once the root is changed.
    let executable = std::env::current_exe().what(|| "find the own executable".into())?;
    let executable = Source::open(&executable)?;
    let sources = mounts.iter().map(|m| Source::open(&m.source)).collect::<Result<Vec<_>>>()?;
    let volumes = volumes(lower)?;
    let opened = volumes.iter().map(|v| Source::open(&lower.join(relative(v)))).collect::<Vec<_>>();
    let host = Source::open(lower)?;

    let root = overlay(lower, scratch)?;
    bind_path("/proc", &root.join("proc"))?;
    mount(Some("sysfs"), &root.join("sys"), Some("sysfs"), MsFlags::empty(), None::<&str>)
        .what(|| "mount /sys".into())?;
    bind_path("/dev", &root.join("dev"))?;
    for (dir, mode) in [("run", "mode=755"), ("tmp", "mode=1777"), ("dev/shm", "mode=1777")] {
        let dir = root.join(dir);
        if dir.is_dir() {
            mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::empty(), Some(mode))
                .what(|| format!("mount tmpfs on {}", dir.display()))?;
        }
    }
    if Path::new("/sys/fs/cgroup").is_dir() {
        bind_path("/sys/fs/cgroup", &root.join("sys/fs/cgroup"))?;
    }
    if node {
        mount(Some("bpf"), &root.join("sys/fs/bpf"), Some("bpf"), MsFlags::empty(), Some("mode=700"))
            .what(|| "mount a bpf file system on /sys/fs/bpf".into())?;
    }

    nix::unistd::chdir(&root).what(|| format!("enter {}", root.display()))?;
    nix::unistd::pivot_root(".", ".").what(|| "pivot_root".into())?;
    // From here on absolute paths are the new root's; the old root is still mounted on top of it until the end.
    for (volume, source) in volumes.iter().zip(opened) {
        // A volume the host itself cannot open any more is no loss here.
        if let Ok(source) = source {
            source.bind(volume, true)?;
        }
    }
    if node {
        host.bind(Path::new(HOST_ROOT), true)?;
        for volume in &volumes {
            let target = Path::new(HOST_ROOT).join(relative(volume));
            if volume.is_dir() && target.is_dir() {
                Source::open(volume)?.bind(&target, true)?;
            }
        }
    }
    executable.bind(Path::new(EXECUTABLE), true)?;
    for (mount, source) in mounts.iter().zip(sources) {
        source.bind(&mount.target, mount.read_only)?;
    }
    umount2(".", MntFlags::MNT_DETACH).what(|| "unmount the old root".into())?;
    nix::unistd::chdir("/").what(|| "enter the new root".into())
}

/// Mounts an overlay with its writable layer on a tmpfs at `scratch`; returns the new root's path.
fn overlay(lower: &Path, scratch: &Path) -> Result<PathBuf> {
    mount(Some("tmpfs"), scratch, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .what(|| format!("mount tmpfs on {}", scratch.display()))?;
    let (upper, work, root) = (scratch.join("upper"), scratch.join("work"), scratch.join("root"));
    for dir in [&upper, &work, &root] {
        fs::create_dir(dir).what(|| format!("create {}", dir.display()))?;
    }
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .what(|| format!("mount an overlay over {}", lower.display()))?;
    Ok(root)
}

/// What is mounted beneath `lower` and holds files, as absolute paths inside it, parents before children.
fn volumes(lower: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").what(|| "read /proc/self/mountinfo".into())?;
    Ok(volumes_in(&table, lower))
}

fn volumes_in(table: &str, lower: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let target = unescape(left.split(' ').nth(4)?);
            let kind = right.split(' ').next()?;
            let inside = Path::new("/").join(Path::new(&target).strip_prefix(lower).ok()?);
            let own = inside == Path::new("/") || OWN.iter().any(|own| inside.starts_with(own));
            (!own && !PSEUDO.contains(&kind)).then_some(inside)
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Undoes the octal escapes of mount tables (space, tab, newline, backslash).
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// A file or directory held open to be bound somewhere.
struct Source {
    file: File,
    path: PathBuf,
    is_dir: bool,
}

impl Source {
    fn open(path: &Path) -> Result<Source> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
            .open(path)
            .what(|| format!("open {} to mount it", path.display()))?;
        let is_dir = file.metadata().what(|| format!("stat {}", path.display()))?.is_dir();
        Ok(Source { file, path: path.into(), is_dir })
    }

    /// Binds it to a path of the current root, which is created if absent.
    fn bind(&self, target: &Path, read_only: bool) -> Result<()> {
        let dir = if self.is_dir { Some(target) } else { target.parent() };
        if let Some(dir) = dir {
            fs::create_dir_all(dir).what(|| format!("create {}", dir.display()))?;
        }
        if !self.is_dir && !target.exists() {
            File::create(target).what(|| format!("create {}", target.display()))?;
        }
        let from = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let what = || format!("mount {} on {}", self.path.display(), target.display());
        // Recursive unless read-only: a read-only remount covers one mount, so nothing may hide beneath it.
        let flags = if read_only { MsFlags::MS_BIND } else { MsFlags::MS_BIND | MsFlags::MS_REC };
        mount(Some(from.as_str()), target, None::<&str>, flags, None::<&str>).what(what)?;
        if read_only {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
            mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
                .what(|| format!("make {} read-only", target.display()))?;
        }
        Ok(())
    }
}

fn bind_path(from: &str, to: &Path) -> Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(from), to, None::<&str>, flags, None::<&str>)
        .what(|| format!("mount {from} on {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:20 / /proc rw - proc proc rw
24 22 0:21 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
25 22 0:22 / /run rw - tmpfs tmpfs rw
26 22 0:23 / /run/user/0 rw - tmpfs tmpfs rw
27 22 8:1 / /home rw - ext4 /dev/sda1 rw
28 27 0:24 / /home/a\\040b rw - tmpfs tmpfs rw
29 22 8:1 /hosts /etc/hosts rw - ext4 /dev/sda1 rw
";

    #[test]
    fn volumes_are_what_an_overlay_would_lose() {
        let found = volumes_in(TABLE, Path::new("/"));
        assert_eq!(found, [PathBuf::from("/etc/hosts"), "/home".into(), "/home/a b".into()]);
    }

    #[test]
    fn volumes_beneath_another_root_are_relative_to_it() {
        let found = volumes_in(
            "1 2 8:1 / /run/x/home rw - ext4 a rw\n2 3 8:1 / /home rw - ext4 a rw\n",
            Path::new("/run/x"),
        );
        assert_eq!(found, [PathBuf::from("/home")]);
    }
}
