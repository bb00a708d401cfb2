//! Links, addresses, routes and neighbours, in this or another network namespace.

pub(crate) mod diag;
mod requests;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};

use crate::Error;
pub(crate) use requests::{Netlink, Route, Veth, Way};

/// Runs netlink requests in a network namespace: that of the calling thread, or the one `netns`
/// names.
pub(crate) fn run<T: Send>(
    netns: Option<&Path>,
    work: impl AsyncFnOnce(&Netlink) -> Result<T, Error> + Send,
) -> Result<T, Error> {
    inside(netns, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::io("start a runtime", e))?;
        runtime.block_on(async {
            let (connection, handle, _) =
                rtnetlink::new_connection().map_err(|e| Error::io("open a netlink socket", e))?;
            let driver = tokio::spawn(connection);
            let result = work(&Netlink::new(handle)).await;
            driver.abort();
            result
        })
    })
}

/// Does something in a network namespace: that of the calling thread, or the one `netns` names. A
/// thread of its own does it, so that the caller's namespace is never changed.
pub(crate) fn inside<T: Send>(
    netns: Option<&Path>,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let netns = netns
        .map(|path| {
            File::open(path).map_err(|e| Error::io(format!("open the namespace {}", path.display()), e))
        })
        .transpose()?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            if let Some(netns) = netns {
                setns(netns, CloneFlags::CLONE_NEWNET)
                    .map_err(|e| Error::io("enter the network namespace", e))?;
            }
            work()
        });
        thread.join().expect("netlink requests do not panic")
    })
}

/// The cookie of the calling thread's network namespace, by which BPF programs know it.
pub(crate) fn cookie() -> Result<u64, Error> {
    let failed = |e: std::io::Error| Error::io("read the cookie of the network namespace", e);
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).map_err(failed)?;
    let mut cookie = 0u64;
    let mut len = libc::socklen_t::try_from(size_of::<u64>()).expect("a number is small");
    // SAFETY: the kernel writes at most `len` bytes into `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut len,
        )
    };
    if result < 0 { Err(failed(std::io::Error::last_os_error())) } else { Ok(cookie) }
}

/// Writes a sysctl of the calling thread's network namespace, `net/…` as under `/proc/sys`.
pub(crate) fn sysctl(name: &str, value: &str) -> Result<(), Error> {
    let path = Path::new("/proc/sys").join(name);
    std::fs::write(&path, value).map_err(|e| Error::io(format!("write {value} to {}", path.display()), e))
}

/// Lets an interface of the calling thread's network namespace have IPv6, whatever the default is.
pub(crate) fn enable_v6(interface: &str) -> Result<(), Error> {
    sysctl(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "0")
}

/// Makes the node a router of IPv6. A router ignores the advertisements of others, from which this
/// one may have its own default route: interfaces that have heeded them until now still do.
pub(crate) fn route_v6() -> Result<(), Error> {
    let conf = Path::new("/proc/sys/net/ipv6/conf");
    let is =
        |file: PathBuf, value: &str| std::fs::read_to_string(file).is_ok_and(|text| text.trim() == value);
    if is(conf.join("all/forwarding"), "1") {
        return Ok(());
    }
    let interfaces = std::fs::read_dir(conf).map_err(|e| {
        Error::io(format!("read {} (has this kernel IPv6? else set enable-ipv6=false)", conf.display()), e)
    })?;
    for entry in interfaces.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !matches!(name.as_str(), "all" | "default" | "lo") && is(entry.path().join("accept_ra"), "1") {
            sysctl(&format!("net/ipv6/conf/{name}/accept_ra"), "2")?;
        }
    }
    sysctl("net/ipv6/conf/all/forwarding", "1")
}
