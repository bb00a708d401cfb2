//! What the benchmarks of the store share: our server and Debian's etcd, and the load generator on either.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::pairs::Pairs;
use crate::run::{Context, Server, free_port, sample, wait};
use crate::tls;

/// How long a server may take to listen.
const START: Duration = Duration::from_secs(20);

/// A running store, empty at its start.
pub(crate) struct Store {
    server: Server,
    port: u16,
    driver: PathBuf,
    /// What both ends of a connection show and trust; `None` = plaintext.
    tls: Option<PathBuf>,
    /// Where an etcd has its data.
    _data: Option<TempDir>,
}

impl Store {
    /// Debian's etcd, its data on tmpfs so that neither side waits for a disk.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn etcd(driver: &Path, tls: Option<&Path>) -> anyhow::Result<Self> {
        let data = tempfile::Builder::new().prefix("causeway-bench-").tempdir_in("/dev/shm")?;
        let (client, peer) = (free_port()?, free_port()?);
        let peer = format!("http://127.0.0.1:{peer}");
        let client_url = url(client, tls);
        let mut command = Command::new("etcd");
        command
            .arg("--data-dir")
            .arg(data.path())
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .args(["--log-level", "error", "--quota-backend-bytes", "4294967296"]);
        if let Some(dir) = tls {
            let files =
                [("--cert-file", tls::CERT), ("--key-file", tls::KEY), ("--trusted-ca-file", tls::CA)];
            for (flag, file) in files {
                command.arg(flag).arg(dir.join(file));
            }
            command.arg("--client-cert-auth");
        }
        let server = Server::start(&mut command)?;
        let tls = tls.map(Path::to_owned);
        let store = Self { server, port: client, driver: driver.to_owned(), tls, _data: Some(data) };
        store.wait()?;
        // The first election takes a moment after it listens.
        std::thread::sleep(Duration::from_secs(1));
        Ok(store)
    }

    /// Ours.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn ours(driver: &Path, tls: Option<&Path>) -> anyhow::Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(driver);
        command.args(["serve", "--listen", &format!("127.0.0.1:{port}")]);
        tls::give(&mut command, tls);
        let server = Server::start(&mut command)?;
        let tls = tls.map(Path::to_owned);
        let store = Self { server, port, driver: driver.to_owned(), tls, _data: None };
        store.wait()?;
        Ok(store)
    }

    fn wait(&self) -> anyhow::Result<()> {
        let listens = || TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        wait("the server's first answer", START, listens)
    }

    /// Where clients reach it.
    pub(crate) fn url(&self) -> String {
        url(self.port, self.tls.as_deref())
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Runs a command of the load generator against it.
    ///
    /// # Errors
    /// When that fails.
    pub(crate) fn load<T: DeserializeOwned>(
        &self,
        command: &str,
        flags: &[(&str, u64)],
    ) -> anyhow::Result<T> {
        let mut run = Command::new(&self.driver);
        run.arg(command);
        run.args(["--endpoint", &self.url()]);
        tls::give(&mut run, self.tls.as_deref());
        run.args(["--pid", &self.server.pid().to_string()]);
        for (name, value) in flags {
            run.arg(format!("--{name}")).arg(value.to_string());
        }
        sample(&mut run)
    }
}

/// Where clients reach a store on this machine.
pub(crate) fn url(port: u16, tls: Option<&Path>) -> String {
    format!("{}://127.0.0.1:{port}", if tls.is_some() { "https" } else { "http" })
}

/// Measures on stores of both sides.
///
/// # Errors
/// Those of `measure`, or when a server does not start.
pub(crate) fn pairs<T>(
    context: &Context,
    measure: impl FnMut(&Store) -> anyhow::Result<T>,
) -> anyhow::Result<Pairs<T>> {
    let driver = context.example("bench_store")?;
    let tls = context.tls.as_deref();
    Pairs::run(context, "etcd", || Store::etcd(&driver, tls), || Store::ours(&driver, tls), measure)
}
