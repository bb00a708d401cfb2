//! The system calls a child makes between fork and exec, prepared in advance.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// How many mounts one child can carry from its old root to the new one.
const SLOTS: usize = 128;
const OPEN_TREE_CLONE: libc::c_long = 1;
const AT_RECURSIVE: libc::c_long = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_long = 4;

/// One thing a child does.
#[derive(Debug)]
pub enum Step {
    /// SIGKILL when the thread that started it ends, and a session of its own.
    DieWithParent,
    /// Moves itself into a cgroup: the path of a `cgroup.procs` file.
    EnterCgroup(CString),
    /// Enters a namespace.
    Enter(OwnedFd),
    /// Makes new namespaces (`CLONE_NEW…`).
    Unshare(libc::c_int),
    /// Sets the host name.
    Hostname(CString),
    /// Sets the interface `lo` up.
    LoopbackUp,
    /// Clones the mount tree at a path into a slot, to be moved into place after the root has changed. The clone stays a
    /// peer of the original, which is what bidirectional propagation means.
    CloneTree(CString, usize),
    /// Puts the mount tree of a slot to a path.
    PlaceTree(usize, CString),
    /// Changes the propagation of a mount and those beneath (`MS_SLAVE`, …).
    Propagate(CString, libc::c_ulong),
    /// Mounts: source, target, type, flags, options.
    Mount(CString, CString, CString, libc::c_ulong, CString),
    /// Makes a bind mount read-only.
    ReadOnly(CString),
    /// Makes a directory unless it is there.
    MakeDir(CString),
    /// Makes an empty file unless something is there.
    MakeFile(CString),
    /// Makes an empty file in place of whatever is there, be it a symbolic link.
    ReplaceFile(CString),
    /// Makes a symbolic link: content, path.
    Symlink(CString, CString),
    /// Changes directory.
    Chdir(CString),
    /// Makes the working directory the root and drops the old root.
    PivotHere,
    /// Becomes a user and group without supplementary groups.
    Become(libc::uid_t, libc::gid_t),
}

/// A path or text for the kernel; an embedded NUL cannot be expressed and ends the text.
pub fn c(text: impl AsRef<Path>) -> CString {
    let bytes = text.as_ref().as_os_str().as_bytes();
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    CString::new(&bytes[..end]).unwrap_or_default()
}

impl Step {
    /// A mount without options.
    pub fn mount(kind: &str, target: &str, flags: libc::c_ulong, options: &str) -> Step {
        Step::Mount(c(kind), c(target), c(kind), flags, c(options))
    }

    /// What the step does, for an error message.
    pub fn describe(&self) -> String {
        let s = |t: &CString| t.to_string_lossy().into_owned();
        match self {
            Step::DieWithParent => "tie the process to its parent".into(),
            Step::EnterCgroup(p) => format!("enter cgroup {}", s(p)),
            Step::Enter(_) => "enter a namespace".into(),
            Step::Unshare(flags) => format!("make namespaces {flags:#x}"),
            Step::Hostname(h) => format!("set host name {}", s(h)),
            Step::LoopbackUp => "set lo up".into(),
            Step::CloneTree(p, _) => format!("bind {}", s(p)),
            Step::PlaceTree(_, p) => format!("mount on {}", s(p)),
            Step::Propagate(p, _) => format!("change mount propagation of {}", s(p)),
            Step::Mount(_, t, kind, _, o) => format!("mount {} on {} ({})", s(kind), s(t), s(o)),
            Step::ReadOnly(p) => format!("make {} read-only", s(p)),
            Step::MakeDir(p) => format!("make directory {}", s(p)),
            Step::MakeFile(p) | Step::ReplaceFile(p) => format!("make file {}", s(p)),
            Step::Symlink(_, p) => format!("make symbolic link {}", s(p)),
            Step::Chdir(p) => format!("change directory to {}", s(p)),
            Step::PivotHere => "change the root directory".into(),
            Step::Become(u, g) => format!("become user {u} group {g}"),
        }
    }
}

/// Runs the steps in a freshly forked child. The index of a failing one is written to `report` (4 bytes, native order).
/// Neither allocates nor locks.
///
/// # Errors
/// The failing call's.
pub fn run(steps: &[Step], report: RawFd) -> io::Result<()> {
    let mut slots: [libc::c_long; SLOTS] = [-1; SLOTS];
    for (index, step) in steps.iter().enumerate() {
        if let Err(error) = one(step, &mut slots) {
            let bytes = (index as u32).to_ne_bytes();
            // SAFETY: writes four bytes of a local array to a descriptor the parent keeps open.
            unsafe { libc::write(report, bytes.as_ptr().cast(), bytes.len()) };
            return Err(error);
        }
    }
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn check_long(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn unless_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

fn one(step: &Step, slots: &mut [libc::c_long; SLOTS]) -> io::Result<()> {
    let none: *const libc::c_char = std::ptr::null();
    match step {
        // SAFETY: no pointers.
        Step::DieWithParent => unsafe {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            check(libc::setsid())
        },
        // SAFETY: the path is NUL-terminated and outlives the call; the descriptor is our own.
        Step::EnterCgroup(path) => unsafe {
            let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            check(fd)?;
            let written = libc::write(fd, c"0".as_ptr().cast(), 1);
            let result = check_long(written as libc::c_long).map(|_| ());
            libc::close(fd);
            result
        },
        // SAFETY: the descriptor is open as long as the step exists.
        Step::Enter(fd) => unsafe { check(libc::setns(fd.as_raw_fd(), 0)) },
        // SAFETY: no pointers.
        Step::Unshare(flags) => unsafe { check(libc::unshare(*flags)) },
        // SAFETY: pointer and length belong to the same string.
        Step::Hostname(name) => unsafe { check(libc::sethostname(name.as_ptr(), name.as_bytes().len())) },
        Step::LoopbackUp => loopback_up(),
        // SAFETY: the path is NUL-terminated; the descriptor returned is kept in the slot.
        Step::CloneTree(path, slot) => unsafe {
            let flags = OPEN_TREE_CLONE | AT_RECURSIVE | libc::c_long::from(libc::O_CLOEXEC);
            let fd = check_long(libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags))?;
            match slots.get_mut(*slot) {
                Some(place) => *place = fd,
                None => return Err(io::Error::from_raw_os_error(libc::ENFILE)),
            }
            Ok(())
        },
        // SAFETY: the paths are NUL-terminated; an unused slot is -1 and refused by the kernel.
        Step::PlaceTree(slot, path) => unsafe {
            let fd = slots.get(*slot).copied().unwrap_or(-1);
            let (empty, at, flags) = (c"".as_ptr(), libc::AT_FDCWD, MOVE_MOUNT_F_EMPTY_PATH);
            check_long(libc::syscall(libc::SYS_move_mount, fd, empty, at, path.as_ptr(), flags)).map(|_| ())
        },
        // SAFETY: the path is NUL-terminated; null is what the kernel expects for the other pointers.
        Step::Propagate(path, flags) => unsafe {
            check(libc::mount(none, path.as_ptr(), none, libc::MS_REC | flags, none.cast()))
        },
        // SAFETY: all pointers are NUL-terminated strings.
        Step::Mount(source, target, kind, flags, options) => unsafe {
            check(libc::mount(
                source.as_ptr(),
                target.as_ptr(),
                kind.as_ptr(),
                *flags,
                options.as_ptr().cast(),
            ))
        },
        // SAFETY: the path is NUL-terminated; null is what the kernel expects for the other pointers.
        Step::ReadOnly(path) => unsafe {
            let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY;
            check(libc::mount(none, path.as_ptr(), none, flags, none.cast()))
        },
        // SAFETY: the path is NUL-terminated.
        Step::MakeDir(path) => unless_there(check(unsafe { libc::mkdir(path.as_ptr(), 0o755) })),
        Step::MakeFile(path) => unless_there(make_file(path)),
        // SAFETY: the path is NUL-terminated. A file that is not there needs no unlinking.
        Step::ReplaceFile(path) => unsafe {
            libc::unlink(path.as_ptr());
            make_file(path)
        },
        Step::Symlink(content, path) => {
            // SAFETY: the paths are NUL-terminated.
            unless_there(check(unsafe { libc::symlink(content.as_ptr(), path.as_ptr()) }))
        }
        // SAFETY: the path is NUL-terminated.
        Step::Chdir(path) => unsafe { check(libc::chdir(path.as_ptr())) },
        // SAFETY: constant NUL-terminated paths. See pivot_root(2): `.` over `.` stacks the old root on the new one.
        Step::PivotHere => unsafe {
            check_long(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))?;
            check(libc::umount2(c".".as_ptr(), libc::MNT_DETACH))?;
            check(libc::chdir(c"/".as_ptr()))
        },
        // SAFETY: no groups, hence no pointer; the process has one thread.
        Step::Become(uid, gid) => unsafe {
            check(libc::setgroups(0, std::ptr::null()))?;
            check(libc::setgid(*gid))?;
            check(libc::setuid(*uid))
        },
    }
}

fn make_file(path: &CString) -> io::Result<()> {
    // SAFETY: the path is NUL-terminated; the descriptor is our own and closed at once.
    unsafe {
        let fd =
            libc::open(path.as_ptr(), libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_CLOEXEC, 0o644);
        check(fd)?;
        libc::close(fd);
    }
    Ok(())
}

fn loopback_up() -> io::Result<()> {
    // SAFETY: an ifreq is plain data for which zero is valid; it lives during the calls; the socket is our own.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        check(socket)?;
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        let result = check(libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &request));
        libc::close(socket);
        result
    }
}
