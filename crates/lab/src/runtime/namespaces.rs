//! Network namespaces as file descriptors: they live as long as a descriptor or a process holds them, so nothing is left
//! behind when the lab's processes are gone.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use super::{Context, Error, Result};

/// A network namespace held open.
#[derive(Debug)]
pub struct NetNs {
    file: File,
}

impl NetNs {
    /// A new one, with `lo` up and nothing else in it.
    ///
    /// # Errors
    /// If the kernel refuses (not root, no network namespaces).
    pub fn create() -> Result<NetNs> {
        let file = in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).what(|| "create a network namespace".into())?;
            File::open("/proc/thread-self/ns/net").what(|| "open the new network namespace".into())
        })?;
        let ns = NetNs { file };
        ns.netlink(async |handle| {
            let lo = rtnetlink::LinkUnspec::new_with_index(1).up().build();
            handle.link().set(lo).execute().await
        })?;
        Ok(ns)
    }

    /// Opens a namespace by its path, as in `/proc/123/ns/net`.
    ///
    /// # Errors
    /// If the path is not there.
    pub fn open(path: impl AsRef<Path>) -> Result<NetNs> {
        let path = path.as_ref();
        let file = File::open(path).what(|| format!("open network namespace {}", path.display()))?;
        Ok(NetNs { file })
    }

    /// The namespace of a process.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn of_pid(pid: u32) -> Result<NetNs> {
        Self::open(format!("/proc/{pid}/ns/net"))
    }

    /// A path to it that other processes of root can open while this process lives and holds it.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.raw()).into()
    }

    /// Its descriptor number.
    pub fn raw(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Runs a closure inside, on a thread of its own, and returns what it returns.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or the closure's own.
    pub fn run<T: Send, F: FnOnce() -> Result<T> + Send>(&self, f: F) -> Result<T> {
        in_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET).what(|| "enter a network namespace".into())?;
            f()
        })
    }

    /// Runs netlink requests inside, on a thread with a runtime of its own; blocks until they are answered.
    ///
    /// # Errors
    /// The first failing request's.
    pub fn netlink<T, F>(&self, f: F) -> Result<T>
    where
        T: Send,
        F: AsyncFnOnce(rtnetlink::Handle) -> std::result::Result<T, rtnetlink::Error> + Send,
    {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .what(|| "start a runtime for netlink".into())?;
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection().what(|| "open netlink".into())?;
                tokio::spawn(connection);
                f(handle).await.map_err(|e| netlink_error("netlink request", e))
            })
        })
    }

    /// Sets a value below `/proc/sys/net` inside, e.g. `ipv4/ip_forward` to `1`.
    ///
    /// # Errors
    /// If there is no such setting.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (name, value) in settings {
                let path = format!("/proc/sys/net/{name}");
                std::fs::write(&path, value).what(|| format!("write {value} to {path}"))?;
            }
            Ok(())
        })
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A netlink error with its description; the kernel's error number is kept where there is one.
pub fn netlink_error(what: &str, error: rtnetlink::Error) -> Error {
    let source = match &error {
        rtnetlink::Error::NetlinkError(message) => io::Error::from_raw_os_error(-message.raw_code()),
        _ => io::Error::other(error.to_string()),
    };
    Error { what: what.into(), source }
}

/// Runs a closure on a thread that ends afterwards, because a thread that changed its namespace cannot be given back.
fn in_thread<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|s| match s.spawn(f).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
