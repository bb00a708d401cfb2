//! The first stage of every process of the lab: enters the surroundings a [`Container`] describes and becomes its command.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

use super::{Cgroup, Container, Context, NetNs, Result, Root, rootfs};

/// Exit code when the surroundings could not be entered.
pub const EXIT_SETUP: i32 = 126;
/// Exit code when the command could not be executed.
pub const EXIT_COMMAND: i32 = 127;
/// Search path of containers that set none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// To be called first thing in `main`, before any thread exists: if this process was started as `lab run-container` or
/// `lab pause`, it does that and never returns.
pub fn early_main() {
    let args: Vec<OsString> = std::env::args_os().skip(1).take(3).collect();
    let is = |i: usize, text: &str| args.get(i).is_some_and(|a| a == text);
    if !is(0, "lab") {
        return;
    }
    if is(1, "pause") {
        pause();
    }
    if is(1, "run-container")
        && let Some(fd) = args.get(2).and_then(|a| a.to_str()).and_then(|a| a.parse().ok())
    {
        run_container(fd);
    }
}

/// Keeps namespaces alive until it is told to end.
fn pause() -> ! {
    loop {
        nix::unistd::pause();
    }
}

/// Reads a container from a descriptor and becomes it; says on standard error why it cannot.
fn run_container(fd: RawFd) -> ! {
    let container = match read(fd) {
        Ok(container) => container,
        Err(e) => fail(EXIT_SETUP, &e),
    };
    if let Err(e) = enter(&container) {
        fail(EXIT_SETUP, &e);
    }
    fail(EXIT_COMMAND, &become_command(&container))
}

fn fail(code: i32, error: &dyn std::fmt::Display) -> ! {
    eprintln!("causeway: {error}");
    std::process::exit(code)
}

fn read(fd: RawFd) -> Result<Container> {
    // SAFETY: the starter passed this descriptor for us alone (spawn.rs); nothing else in this fresh process uses it.
    let mut file = unsafe { File::from_raw_fd(fd) };
    let mut text = String::new();
    file.read_to_string(&mut text).what(|| format!("read the container from descriptor {fd}"))?;
    serde_json::from_str(&text).what(|| "decode the container".into())
}

/// Enters everything but the command. Only for a process that becomes the container or ends.
///
/// # Errors
/// The step that failed.
pub fn enter(container: &Container) -> Result<()> {
    if let Some(cgroup) = &container.cgroup {
        let cgroup = Cgroup::at(cgroup);
        cgroup.create()?;
        cgroup.enter()?;
    }
    let netns = match &container.netns {
        Some(path) => Some(NetNs::open(path)?),
        None if container.new_netns => Some(NetNs::create()?),
        None => None,
    };
    if let Some(netns) = netns {
        setns(&netns, CloneFlags::CLONE_NEWNET).what(|| "enter the network namespace".into())?;
    }
    if let Some(name) = &container.hostname {
        unshare(CloneFlags::CLONE_NEWUTS).what(|| "create a UTS namespace".into())?;
        nix::unistd::sethostname(name).what(|| format!("set the host name {name}"))?;
    }
    match &container.root {
        Root::Inherit => {}
        Root::Join { pid } => join(*pid)?,
        Root::Overlay { lower, scratch, node } => {
            rootfs::enter_overlay(lower, scratch, *node, &container.mounts)?;
        }
    }
    Ok(())
}

/// Joins host name and root of another process.
fn join(pid: u32) -> Result<()> {
    let open = |kind: &str| {
        let path = format!("/proc/{pid}/ns/{kind}");
        File::open(&path).what(|| format!("open {path}"))
    };
    let (uts, mnt) = (open("uts")?, open("mnt")?);
    setns(uts, CloneFlags::CLONE_NEWUTS).what(|| format!("join the host name of process {pid}"))?;
    setns(mnt, CloneFlags::CLONE_NEWNS).what(|| format!("join the root of process {pid}"))
}

/// Executes the command; returns only if that fails.
fn become_command(container: &Container) -> super::Error {
    let Some((program, args)) = container.argv.split_first() else {
        return error("no command", std::io::ErrorKind::InvalidInput.into());
    };
    let cwd = container.cwd.clone().unwrap_or_else(|| "/".into());
    if !cwd.is_dir() {
        // Failure shows when the command is executed there.
        let _ = fs::create_dir_all(&cwd);
    }
    let death = nix::sys::prctl::get_pdeathsig().ok().flatten();
    if let Some((uid, gid)) = container.user {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let changed = setgroups(&[gid]).and_then(|()| setgid(gid)).and_then(|()| setuid(uid));
        if let Err(e) = changed {
            return error(&format!("become user {uid}, group {gid}"), e.into());
        }
        // The kernel forgets it when the user changes.
        let _ = nix::sys::prctl::set_pdeathsig(death);
    }
    let mut command = Command::new(program);
    command.args(args).env_clear().current_dir(&cwd);
    if !container.env.iter().any(|(k, _)| k == "PATH") {
        command.env("PATH", DEFAULT_PATH);
    }
    command.envs(container.env.iter().map(|(k, v)| (k, v)));
    let failed = command.exec();
    error(&format!("execute {program} in {}", cwd.display()), failed)
}

fn error(what: &str, source: std::io::Error) -> super::Error {
    super::Error { what: what.into(), source }
}
