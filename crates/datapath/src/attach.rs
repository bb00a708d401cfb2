//! Programs on interfaces and cgroups, so that they outlive us and are replaced without a gap.

use std::fmt::Display;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact};
use aya::programs::xdp::XdpLink;
use aya::programs::{CgroupAttachMode, Program, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode};

use crate::Error;

/// How traffic-control programs are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// By tcx links (Linux 6.6), pinned in bpffs.
    Tcx,
    /// By filters of a clsact qdisc, for older kernels.
    Clsact,
}

/// Our place among the filters of a clsact hook.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// A direction of an interface and the name of its pin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hook<'a> {
    pub(crate) interface: &'a str,
    pub(crate) ingress: bool,
}

impl Hook<'_> {
    fn kind(&self) -> TcAttachType {
        if self.ingress { TcAttachType::Ingress } else { TcAttachType::Egress }
    }

    /// The pin of this hook's link.
    pub(crate) fn pin(&self, links: &Path) -> PathBuf {
        links.join(format!("{}_{}", self.interface, if self.ingress { "ingress" } else { "egress" }))
    }
}

/// How programs are attached in this kernel, found out by attaching the first of them for good. (One
/// that is attached for a moment only may still be there when it is attached again: a child process
/// that is just being made holds the descriptor a little longer.)
pub(crate) fn first(program: &mut SchedClassifier, hook: Hook<'_>, links: &Path) -> AttachMode {
    // An earlier process has found out.
    if hook.pin(links).exists() {
        return AttachMode::Tcx;
    }
    match tcx(program, hook, links) {
        Ok(()) => AttachMode::Tcx,
        Err(error) => {
            tracing::info!(%error, "this kernel has no tcx; programs are attached by clsact");
            AttachMode::Clsact
        }
    }
}

/// Attaches a program to a hook, or replaces the one an earlier process attached there. Packets
/// always meet the one or the other.
pub(crate) fn classifier(
    program: &mut SchedClassifier,
    hook: Hook<'_>,
    mode: AttachMode,
    links: &Path,
) -> Result<(), Error> {
    match mode {
        AttachMode::Tcx => tcx(program, hook, links),
        AttachMode::Clsact => clsact(program, hook),
    }
}

fn tcx(program: &mut SchedClassifier, hook: Hook<'_>, links: &Path) -> Result<(), Error> {
    let path = hook.pin(links);
    let replaced = replace(&path, |link| {
        let link = SchedClassifierLink::try_from(link).map_err(|e| e.to_string())?;
        program.attach_to_link(link).map(drop).map_err(|e| e.to_string())
    })?;
    if replaced {
        return Ok(());
    }
    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program.attach_with_options(hook.interface, hook.kind(), order).map_err(|e| failed(hook, e))?;
    pin(program.take_link(id).map_err(|e| failed(hook, e))?, path)
}

/// Puts a program into the link that an earlier process pinned; false where there is none, or none of use any more.
fn replace(path: &Path, attach: impl FnOnce(FdLink) -> Result<(), String>) -> Result<bool, Error> {
    if !path.exists() {
        return Ok(false);
    }
    match PinnedLink::from_pin(path).map_err(|e| e.to_string()).and_then(|pinned| attach(pinned.into())) {
        Ok(()) => Ok(true),
        // The interface of an earlier life is gone and this one only has its name.
        Err(why) => {
            tracing::debug!(pin = %path.display(), why, "a stale link is replaced");
            std::fs::remove_file(path).map_err(|e| Error::io(format!("remove {}", path.display()), e))?;
            Ok(false)
        }
    }
}

/// Lets a link outlive us.
fn pin<L: TryInto<FdLink, Error: Display>>(link: L, path: PathBuf) -> Result<(), Error> {
    let link =
        link.try_into().map_err(|e: L::Error| Error::Pin { path: path.clone(), why: e.to_string() })?;
    link.pin(&path).map(drop).map_err(|e| Error::Pin { path, why: e.to_string() })
}

fn clsact(program: &mut SchedClassifier, hook: Hook<'_>) -> Result<(), Error> {
    // The qdisc is there already after the first program of an interface.
    let _ = qdisc_add_clsact(hook.interface);
    let existing = SchedClassifierLink::attached(hook.interface, hook.kind(), PRIORITY, HANDLE, None)
        .map_err(|e| Error::io(format!("find interface {}", hook.interface), e))?;
    // Attaching "to" a filter replaces it, and needs one to replace.
    let id = match program.attach_to_link(existing) {
        Ok(id) => id,
        Err(_) => {
            let options =
                TcAttachOptions::Netlink(NlOptions { priority: PRIORITY, handle: HANDLE, classid: None });
            program.attach_with_options(hook.interface, hook.kind(), options).map_err(|e| failed(hook, e))?
        }
    };
    // The filter must outlive us; dropping the link would remove it.
    std::mem::forget(program.take_link(id).map_err(|e| failed(hook, e))?);
    Ok(())
}

/// Forgets the pin of an interface that is being removed; its link goes with the interface.
pub(crate) fn forget(hook: Hook<'_>, links: &Path) {
    let _ = std::fs::remove_file(hook.pin(links));
}

/// The place of an XDP program at an interface. A link keeps its mode for life, so each has a pin of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct XdpHook<'a> {
    pub(crate) interface: &'a str,
    /// `native` or `generic`.
    pub(crate) mode: &'a str,
}

/// Between interface and mode in the names of pins.
const XDP: &str = "_xdp_";
/// How long the kernel may take to let go of a link that was removed.
const LETTING_GO: Duration = Duration::from_secs(2);

impl XdpHook<'_> {
    fn pin(&self, links: &Path) -> PathBuf {
        links.join(format!("{}{XDP}{}", self.interface, self.mode))
    }

    /// Whether there is a link here.
    pub(crate) fn has_pin(&self, links: &Path) -> bool {
        self.pin(links).exists()
    }
}

/// Attaches the XDP program to an interface, or replaces the one an earlier process attached there.
pub(crate) fn xdp(program: &mut Xdp, hook: XdpHook<'_>, mode: XdpMode, links: &Path) -> Result<(), Error> {
    let path = hook.pin(links);
    let failed = |source| Error::Program {
        program: format!("XDP ({}) on {}", hook.mode, hook.interface),
        what: "attach",
        source: Box::new(source),
    };
    let replaced = replace(&path, |link| {
        let link = XdpLink::try_from(link).map_err(|e| e.to_string())?;
        program.attach_to_link(link).map(drop).map_err(|e| e.to_string())
    })?;
    if replaced {
        return Ok(());
    }
    // An interface has one mode at a time.
    detach_xdp(links, |other| other.interface != hook.interface || other.mode == hook.mode);
    let started = Instant::now();
    let id = loop {
        match program.attach(hook.interface, mode) {
            Ok(id) => break id,
            Err(ProgramError::SyscallError(error))
                if matches!(error.io_error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
                    && started.elapsed() < LETTING_GO =>
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(failed(error)),
        }
    };
    pin(program.take_link(id).map_err(failed)?, path)
}

/// Detaches the XDP programs that an earlier process attached and that are not kept.
pub(crate) fn detach_xdp(links: &Path, keep: impl Fn(XdpHook<'_>) -> bool) {
    for pin in std::fs::read_dir(links).into_iter().flatten().flatten() {
        let name = pin.file_name().to_string_lossy().into_owned();
        let Some((interface, mode)) = name.rsplit_once(XDP) else { continue };
        if !keep(XdpHook { interface, mode }) {
            let _ = std::fs::remove_file(pin.path());
        }
    }
}

/// Attaches a socket program to a cgroup in place of the one an earlier process attached. For a
/// moment both run, which is harmless: what the first has translated is no service to the second.
pub(crate) fn cgroup(object: &mut Ebpf, name: &str, cgroup: &Path, links: &Path) -> Result<(), Error> {
    let failed =
        |source| Error::Program { program: name.to_owned(), what: "attach", source: Box::new(source) };
    let dir =
        File::open(cgroup).map_err(|e| Error::io(format!("open the cgroup {}", cgroup.display()), e))?;
    let (path, fresh) = (links.join(name), links.join(format!("{name}_new")));
    let pin = |why: String| Error::Pin { path: path.clone(), why };
    // Links share a cgroup whatever their number; the kernel refuses flags that would say so.
    let mode = CgroupAttachMode::Single;
    let link = match object.program_mut(name) {
        Some(Program::CgroupSockAddr(program)) => {
            let id = program.attach(&dir, mode).map_err(failed)?;
            FdLink::try_from(program.take_link(id).map_err(failed)?)
        }
        Some(Program::CgroupSock(program)) => {
            let id = program.attach(&dir, mode).map_err(failed)?;
            FdLink::try_from(program.take_link(id).map_err(failed)?)
        }
        _ => panic!("the embedded object has no socket program {name}"),
    };
    let link = link.map_err(|e| pin(e.to_string()))?;
    let _ = std::fs::remove_file(&fresh);
    link.pin(&fresh).map_err(|e| pin(e.to_string()))?;
    let _ = std::fs::remove_file(&path);
    std::fs::rename(&fresh, &path).map_err(|e| pin(e.to_string()))
}

/// Detaches a socket program that an earlier process attached, if one did.
pub(crate) fn detach(name: &str, links: &Path) {
    let _ = std::fs::remove_file(links.join(name));
}

fn failed(hook: Hook<'_>, source: ProgramError) -> Error {
    Error::Program { program: hook.interface.to_owned(), what: "attach", source: Box::new(source) }
}
