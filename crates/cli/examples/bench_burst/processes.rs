//! The daemons as processes with their folders, as in a pod.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use causeway_lab::apiserver::pki::{Authority, Pair};
use tokio::time::Instant;

use super::kubernetes;

/// How long anything may take, on a machine that does other things too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// A name the certificate of a local store must be for.
const LOCAL: &str = "clustermesh-apiserver.kube-system.svc";
/// One for other clusters.
const REMOTE: &str = "cls-b.mesh.cilium.io";

/// A child that ends with this value, and with the process.
pub(crate) struct Process {
    /// The child.
    pub(crate) child: Child,
    health: u16,
}

impl Process {
    /// Starts a command; it dies with us even if we are killed.
    pub(crate) fn spawn(mut command: Command, health: u16) -> Result<Self> {
        use std::os::unix::process::CommandExt;
        // SAFETY: prctl is async-signal-safe and touches no memory of ours.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let shown = format!("{command:?}");
        Ok(Self { child: command.spawn().with_context(|| format!("start {shown}"))?, health })
    }

    /// Waits until it is ready.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while !get(self.health, "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            if let Some(status) = self.child.try_wait()? {
                bail!("a daemon ended before it was ready: {status}");
            }
            ensure!(start.elapsed() < PATIENCE, "a daemon is not ready: {:?}", get(self.health, "/readyz"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Resident memory, bytes: all of it, and what is not pages of the executable and its libraries.
    pub(crate) fn resident(&self) -> Result<(u64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| {
            let line =
                status.lines().find_map(|line| line.strip_prefix(name)).context("a field is missing")?;
            anyhow::Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
        };
        Ok((field("VmRSS:")?, field("RssAnon:")?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Where the daemons of both clusters have their certificates.
pub(crate) struct Folders {
    causeway: PathBuf,
    dir: PathBuf,
    ca: Authority,
}

/// A store and the folder of peers through which an agent of cluster 1 reads cluster 2 from it.
pub(crate) struct Served {
    /// Who serves it.
    pub(crate) process: Process,
    /// The folder.
    pub(crate) peers: PathBuf,
}

impl Served {
    /// How many keys a mesh server has published, as `/debug/state` says.
    pub(crate) fn published(&self) -> Result<u64> {
        let answer = get(self.process.health, "/debug/state").context("no answer to /debug/state")?;
        let body = answer.split_once("\r\n\r\n").context("no body in /debug/state")?.1;
        let state: serde_json::Value = serde_json::from_str(body)?;
        let kinds = state["publish"]["keys"].as_array().context("no keys in /debug/state")?;
        Ok(kinds.iter().filter_map(serde_json::Value::as_u64).sum())
    }
}

impl Folders {
    /// Folders below `dir` for processes of the executable `causeway`.
    pub(crate) fn new(causeway: PathBuf, dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir.join("config"))?;
        Ok(Self { causeway, dir: dir.to_owned(), ca: Authority::new("Cilium CA")? })
    }

    /// The mesh server of cluster 2.
    pub(crate) fn apiserver(&self, kubeconfig: &Path) -> Result<Served> {
        let name = kubernetes::info().name.to_string();
        self.serve("clustermesh-apiserver", &name, 2, REMOTE, "remote", |command| {
            command.arg("--kubeconfig").arg(kubeconfig);
            command.env("CAUSEWAY_PEER_TRUST_DIR", self.dir.join("trust"));
        })
    }

    /// The cache of cluster 1, of those in `peers`.
    pub(crate) fn cache(&self, peers: &Path) -> Result<Served> {
        self.serve("kvstoremesh", "cls-a", 1, LOCAL, "local-cls-a", |command| {
            command
                .arg("--clustermesh-config")
                .arg(peers)
                .args(["--per-cluster-ready-timeout", "10m"])
                .args(["--api-serve-addr", "127.0.0.1:0"]);
        })
    }

    fn serve(
        &self,
        role: &str,
        cluster: &str,
        id: u32,
        host: &str,
        reader: &str,
        more: impl FnOnce(&mut Command),
    ) -> Result<Served> {
        let tls = self.certificate(&format!("{role}-tls"), &self.ca.server(&[LOCAL, "*.mesh.cilium.io"])?)?;
        let (port, health) = (free_port()?, free_port()?);
        let mut command = Command::new(&self.causeway);
        command.arg(role).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.args(["--cluster-name", cluster, "--cluster-id", &id.to_string()]);
        command.args(["--listen", &format!("127.0.0.1:{port}")]);
        command.args(["--health-listen", &format!("127.0.0.1:{health}")]);
        command.arg("--tls-dir").arg(tls).arg("--config-dir").arg(self.dir.join("config"));
        more(&mut command);
        let process = Process::spawn(command, health)?;

        let client = self.certificate(&format!("{role}-client"), &self.ca.client(reader, "")?)?;
        let peers = self.dir.join(format!("{role}-peers"));
        std::fs::create_dir_all(&peers)?;
        let file = |name| client.join(name).display().to_string();
        let text = format!(
            "endpoints:\n- https://{host}:{port}\ntrusted-ca-file: {}\ncert-file: {}\nkey-file: {}\n\
             cilium-host-aliases:\n- hostname: {host}\n  ips: [127.0.0.1]\n",
            file("ca.crt"),
            file("tls.crt"),
            file("tls.key")
        );
        std::fs::write(peers.join(kubernetes::info().name.as_str()), text)?;
        Ok(Served { process, peers })
    }

    /// Writes a certificate as a Secret is mounted; its folder.
    fn certificate(&self, name: &str, pair: &Pair) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir)?;
        for (file, text) in [("tls.crt", &pair.cert), ("tls.key", &pair.key), ("ca.crt", &self.ca.pair.cert)]
        {
            std::fs::write(dir.join(file), text)?;
        }
        Ok(dir)
    }
}
