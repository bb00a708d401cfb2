//! Starting one container: environment, command, mounts, process, logs.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::sandbox::Sandbox;
use super::{PodId, Shared};
use crate::kubelet::env::{self, Facts};
use crate::kubelet::logs::{self, LogFile, Stream};
use crate::kubelet::process::{Bind, ContainerSpec, ExecSpec, Exit, Propagation, SpawnError, cgroup};
use crate::kubelet::{files, sources, volumes};

/// How long after a container's end its pipes may stay open (held by nobody: its cgroup is killed).
const DRAIN: Duration = Duration::from_secs(2);
/// How much of a termination message is kept.
const MESSAGE: usize = 4096;

/// A container with a process.
#[derive(Debug, Clone)]
pub(super) struct Running {
    /// The container's specification.
    pub(super) container: Container,
    /// Number of the run.
    pub(super) run: u32,
    /// How to run commands in it; holds pid, cgroup and environment.
    pub(super) exec: ExecSpec,
    /// Its log file.
    pub(super) log: PathBuf,
}

/// Why a container did not start: reason for its status, and message.
pub(super) type Failure = (&'static str, String);

/// A container of a pod by name.
pub(super) fn find<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    spec.init_containers.iter().flatten().chain(&spec.containers).find(|c| c.name == name)
}

/// Starts a container. `ended` is called once when its first process has ended, everything it left behind is killed and
/// its log is complete; with the termination message.
pub(super) async fn start(
    shared: &Arc<Shared>,
    pod: &Pod,
    sandbox: &Sandbox,
    name: &str,
    run: u32,
    ended: impl FnOnce(Exit, String) + Send + 'static,
) -> Result<Running, Failure> {
    let id = PodId::of(pod);
    let config = |why: String| ("CreateContainerConfigError", why);
    let create = |why: String| ("CreateContainerError", why);
    let container = find(pod, name).ok_or_else(|| create(format!("container {name} is not in the pod")))?;
    let spec = pod.spec.clone().unwrap_or_default();
    let hostname = if sandbox.pid.is_some() {
        files::hostname(&spec, &id.name)
    } else {
        shared.config.node_name.clone()
    };
    let facts = Facts {
        pod_ips: sandbox.ips.iter().map(IpAddr::to_string).collect(),
        host_ips: shared.config.node_ips().iter().map(IpAddr::to_string).collect(),
        api_host: shared.config.api_host.clone(),
        api_port: shared.config.api_port,
        hostname: hostname.clone(),
    };
    let contents = sources::fetch(&shared.config.client, &id.namespace, &env::references(container))
        .await
        .map_err(|e| config(e.to_string()))?;
    let env = env::build(pod, container, &facts, &contents).map_err(config)?;
    let argv = env::command_line(container, &env).map_err(create)?;

    let pod_dir = shared.pod_dir(&id.uid);
    let scratch = pod_dir.join("scratch").join(name);
    let dir =
        |path: &Path| std::fs::create_dir_all(path).map_err(|e| create(format!("{}: {e}", path.display())));
    dir(&scratch)?;
    let binds = binds(shared, pod, container, sandbox, &hostname, &env).map_err(create)?;
    let message_file = pod_dir.join("etc").join(format!("termination-{name}"));
    let user = user(pod, container);
    let group = shared.pod_cgroup(&id.uid).join(name);
    cgroup::create(&group).map_err(|e| create(format!("cgroup {}: {e}", group.display())))?;
    let cwd =
        PathBuf::from(container.working_dir.clone().filter(|d| !d.is_empty()).unwrap_or_else(|| "/".into()));
    let log = logs::file(&shared.logs.pod_dir(&id.namespace, &id.name, &id.uid), name, run);
    if let Some(old) = run.checked_sub(2) {
        let _ = std::fs::remove_file(logs::file(
            &shared.logs.pod_dir(&id.namespace, &id.name, &id.uid),
            name,
            old,
        ));
    }
    let file = LogFile::open(&log, shared.config.log_limit)
        .map_err(|e| create(format!("{}: {e}", log.display())))?;

    let spec = ContainerSpec {
        argv,
        env: env.clone(),
        cwd: cwd.clone(),
        cgroup: group.clone(),
        sandbox: sandbox.pid,
        lower: shared.config.image_root.clone(),
        scratch,
        binds,
        user,
    };
    let program = spec.program().map_err(|e| create(e.to_string()))?;
    let mut process = shared.spawner.spawn(program).await.map_err(|e| match e {
        SpawnError::Exec { .. } => ("RunContainerError", format!("failed to start container {name:?}: {e}")),
        other => create(format!("failed to create container {name:?}: {other}")),
    })?;
    shared.logs.mark(&id.namespace, &id.name, name, run, true);

    let file = Arc::new(Mutex::new(file));
    let pumps: Vec<_> = [(process.stdout.take(), Stream::Stdout), (process.stderr.take(), Stream::Stderr)]
        .into_iter()
        .filter_map(|(pipe, stream)| Some(tokio::spawn(logs::pump(pipe?, stream, file.clone()))))
        .collect();
    let exec = ExecSpec { argv: Vec::new(), env, cwd, cgroup: group.clone(), pid: process.pid, user };
    let (shared, owned) = (shared.clone(), name.to_string());
    tokio::spawn(async move {
        let exit = process.wait().await.unwrap_or(Exit { code: 255, signal: None });
        // Children that outlived the first process would hold pipes and ports.
        cgroup::kill(&group);
        let drained = async {
            for pump in pumps {
                let _ = pump.await;
            }
        };
        let _ = tokio::time::timeout(DRAIN, drained).await;
        shared.logs.mark(&id.namespace, &id.name, &owned, run, false);
        let message = std::fs::read(&message_file).unwrap_or_default();
        let message = String::from_utf8_lossy(&message[..message.len().min(MESSAGE)]).into_owned();
        ended(exit, message);
    });
    Ok(Running { container: container.clone(), run, exec, log })
}

/// User and group of a container.
fn user(pod: &Pod, container: &Container) -> Option<(u32, u32)> {
    let own = container.security_context.as_ref();
    let of_pod = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let uid = own.and_then(|c| c.run_as_user).or_else(|| of_pod.and_then(|c| c.run_as_user));
    let gid = own.and_then(|c| c.run_as_group).or_else(|| of_pod.and_then(|c| c.run_as_group));
    if uid.is_none() && gid.is_none() {
        return None;
    }
    let id = |v: Option<i64>| v.and_then(|v| u32::try_from(v).ok()).unwrap_or(0);
    Some((id(uid), id(gid)))
}

/// Everything that is mounted into a container, shorter paths before the ones beneath them.
fn binds(
    shared: &Shared,
    pod: &Pod,
    container: &Container,
    sandbox: &Sandbox,
    hostname: &str,
    env: &[(String, String)],
) -> Result<Vec<Bind>, String> {
    let id = PodId::of(pod);
    let spec = pod.spec.clone().unwrap_or_default();
    let config = &shared.config;
    let pod_dir = shared.pod_dir(&id.uid);
    let etc = pod_dir.join("etc");
    std::fs::create_dir_all(&etc).map_err(|e| format!("{}: {e}", etc.display()))?;
    let mut binds = Vec::new();
    let mut owned = |file: &str, target: &str, text: String| -> Result<(), String> {
        let source = etc.join(file);
        std::fs::write(&source, text).map_err(|e| format!("{}: {e}", source.display()))?;
        let (target, propagation) = (PathBuf::from(target), Propagation::None);
        binds.push(Bind { source, target, read_only: false, propagation, replace: true });
        Ok(())
    };
    let host_resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let domain = &config.cluster_domain;
    let resolv = files::resolv_conf(&spec, &id.namespace, config.cluster_dns, domain, &host_resolv);
    owned("resolv.conf", "/etc/resolv.conf", resolv)?;
    let hosts = if sandbox.pid.is_some() {
        files::hosts(&spec, &id.namespace, hostname, &sandbox.ips, domain)
    } else {
        std::fs::read_to_string("/etc/hosts").unwrap_or_default() + &files::aliases(&spec)
    };
    owned("hosts", "/etc/hosts", hosts)?;
    owned("hostname", "/etc/hostname", format!("{hostname}\n"))?;
    let message = container
        .termination_message_path
        .as_deref()
        .filter(|p| !p.is_empty())
        .unwrap_or("/dev/termination-log");
    owned(&format!("termination-{}", container.name), message, String::new())?;
    if let Some(executable) = config.executable.as_ref().filter(|e| e.exists()) {
        let target = PathBuf::from("/usr/local/bin/causeway");
        let (source, propagation) = (executable.clone(), Propagation::None);
        binds.push(Bind { source, target, read_only: true, propagation, replace: true });
    }
    let all = volumes::all(pod);
    let dir = pod_dir.join("volumes");
    for mount in container.volume_mounts.iter().flatten() {
        let expanded = mount
            .sub_path_expr
            .as_deref()
            .map(|s| env::expand(s, |n| env.iter().find(|(name, _)| name == n).map(|(_, v)| v.clone())));
        let sub_path = expanded.as_deref().or(mount.sub_path.as_deref());
        binds.push(volumes::bind(&all, mount, sub_path, &dir)?);
    }
    let account = dir.join(volumes::ACCOUNT_VOLUME);
    let mounted = container
        .volume_mounts
        .iter()
        .flatten()
        .any(|m| m.mount_path.trim_end_matches('/') == volumes::ACCOUNT_DIR);
    if account.is_dir() && !mounted {
        let (target, propagation) = (PathBuf::from(volumes::ACCOUNT_DIR), Propagation::None);
        binds.push(Bind { source: account, target, read_only: true, propagation, replace: false });
    }
    binds.sort_by_key(|b| b.target.components().count());
    Ok(binds)
}
