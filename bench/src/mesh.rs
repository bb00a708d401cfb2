//! What the benchmarks of the mesh share: a source store, and what carries its content into another store. On
//! the anchor's side that is etcd, a plain mirror and another etcd; on ours the cache with its own store.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::pairs::Pairs;
use crate::run::{Context, Server, cpu_seconds, free_port, sample};
use crate::store::{Store, url};
use crate::tls;

/// How long a mesh may take to be carried over.
const PATIENCE: Duration = Duration::from_secs(300);

/// The clusters: Cilium's own scale test in full (benchmarks 1.1).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) clusters: u64,
    pub(crate) nodes: u64,
    pub(crate) identities: u64,
    pub(crate) endpoints: u64,
}

impl Shape {
    fn flags(self, command: &mut Command) -> &mut Command {
        let numbers = [
            ("--clusters", self.clusters),
            ("--nodes", self.nodes),
            ("--identities", self.identities),
            ("--endpoints", self.endpoints),
        ];
        for (name, number) in numbers {
            command.arg(name).arg(number.to_string());
        }
        command
    }

    /// Keys of data.
    pub(crate) fn keys(self) -> u64 {
        self.clusters * (self.nodes + self.identities + self.endpoints)
    }
}

/// What carried the mesh over, once it was complete.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Boot {
    /// From its start until every marker was in the store.
    pub(crate) seconds: f64,
    /// CPU time until then of what carried it and of where it is.
    pub(crate) cpu_seconds: f64,
    /// Resident memory of our cache and its store, bytes; 0 of a mirror, which has no store.
    pub(crate) rss: u64,
}

/// Changes at the source, as seen at both ends; not one was lost or out of order.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Churn {
    pub(crate) rate: f64,
    pub(crate) cpu_us_per_change: f64,
    pub(crate) near_p50_us: f64,
    pub(crate) far_p50_us: f64,
    pub(crate) far_p99_us: f64,
}

/// A running mesh whose state has been carried over.
pub(crate) struct Mesh {
    driver: PathBuf,
    shape: Shape,
    tls: Option<PathBuf>,
    source: Store,
    /// The mirror, or our cache.
    carrier: Server,
    /// The anchor's second etcd.
    dest: Option<Store>,
    dest_url: String,
    pub(crate) boot: Boot,
}

impl Mesh {
    fn anchor(context: &Context, shape: Shape) -> anyhow::Result<Self> {
        let driver = context.example("bench_mesh")?;
        let stores = context.example("bench_store")?;
        let tls = context.tls.as_deref();
        let (source, dest) = (Store::etcd(&stores, tls)?, Store::etcd(&stores, tls)?);
        fill(&driver, &source, shape, tls)?;
        let mut mirror = Command::new(&driver);
        mirror.args(["mirror", "--source", &source.url(), "--dest", &dest.url()]);
        tls::give(&mut mirror, tls);
        let before = cpu_seconds(dest.pid())?;
        let (carrier, mut boot) = Server::reporting::<Boot>(shape.flags(&mut mirror), PATIENCE)?;
        boot.cpu_seconds += cpu_seconds(dest.pid())? - before;
        let dest_url = dest.url();
        let tls = context.tls.clone();
        Ok(Self { driver, shape, tls, source, carrier, dest: Some(dest), dest_url, boot })
    }

    /// Our cache of a mesh of this shape.
    ///
    /// # Errors
    /// When something does not start.
    pub(crate) fn ours(context: &Context, shape: Shape) -> anyhow::Result<Self> {
        let driver = context.example("bench_mesh")?;
        let tls = context.tls.as_deref();
        let source = Store::ours(&context.example("bench_store")?, tls)?;
        fill(&driver, &source, shape, tls)?;
        let port = free_port()?;
        let mut cache = Command::new(&driver);
        cache.args(["cache", "--source", &source.url(), "--listen", &format!("127.0.0.1:{port}")]);
        tls::give(&mut cache, tls);
        let (carrier, boot) = Server::reporting(shape.flags(&mut cache), PATIENCE)?;
        let dest_url = url(port, tls);
        Ok(Self { driver, shape, tls: context.tls.clone(), source, carrier, dest: None, dest_url, boot })
    }

    /// Resident memory of what holds the copy, bytes.
    ///
    /// # Errors
    /// When its process is gone.
    pub(crate) fn resident(&self) -> anyhow::Result<f64> {
        match &self.dest {
            Some(dest) => Ok(crate::run::resident(dest.pid())? as f64),
            None => Ok(self.boot.rss as f64),
        }
    }

    /// Changes endpoints `rate` times a second for `secs`.
    ///
    /// # Errors
    /// When a change is lost, out of order or not there in the end.
    pub(crate) fn churn(&self, rate: u64, secs: u64) -> anyhow::Result<Churn> {
        self.change(&[("--rate", rate), ("--secs", secs)])
    }

    /// Changes endpoints so many times, as fast as it goes.
    ///
    /// # Errors
    /// The same.
    pub(crate) fn flat_out(&self, changes: u64) -> anyhow::Result<Churn> {
        self.change(&[("--rate", 0), ("--changes", changes)])
    }

    fn change(&self, flags: &[(&str, u64)]) -> anyhow::Result<Churn> {
        let pids = [Some(self.source.pid()), Some(self.carrier.pid()), self.dest.as_ref().map(Store::pid)];
        let pids: Vec<String> = pids.into_iter().flatten().map(|pid| pid.to_string()).collect();
        let mut churn = Command::new(&self.driver);
        churn.args(["churn", "--source", &self.source.url(), "--dest", &self.dest_url]);
        churn.args(["--pids", &pids.join(",")]);
        tls::give(&mut churn, self.tls.as_deref());
        for (name, value) in flags {
            churn.arg(name).arg(value.to_string());
        }
        sample(self.shape.flags(&mut churn))
    }

    /// Bytes an agent's reader has more for each object, read from where the copy is.
    ///
    /// # Errors
    /// When it refuses anything.
    pub(crate) fn reader_bytes(&self) -> anyhow::Result<f64> {
        #[derive(Deserialize)]
        struct Reader {
            bytes_per_object: f64,
        }
        let mut reader = Command::new(&self.driver);
        reader.args(["reader", "--source", &self.dest_url]);
        tls::give(&mut reader, self.tls.as_deref());
        Ok(sample::<Reader>(self.shape.flags(&mut reader))?.bytes_per_object)
    }
}

impl Mesh {
    /// Runs another load over this mesh.
    ///
    /// # Errors
    /// When it fails.
    pub(crate) fn load<T: DeserializeOwned>(
        &self,
        driver: &Path,
        name: &str,
        flags: &[(&str, u64)],
    ) -> anyhow::Result<T> {
        let mut load = Command::new(driver);
        load.args([name, "--source", &self.source.url(), "--dest", &self.dest_url]);
        tls::give(&mut load, self.tls.as_deref());
        for (name, number) in flags {
            load.arg(format!("--{name}")).arg(number.to_string());
        }
        sample(self.shape.flags(&mut load))
    }
}

fn fill(driver: &Path, source: &Store, shape: Shape, tls: Option<&Path>) -> anyhow::Result<()> {
    let mut fill = Command::new(driver);
    fill.args(["fill", "--source", &source.url()]);
    tls::give(&mut fill, tls);
    sample::<serde_json::Value>(shape.flags(&mut fill)).map(drop)
}

/// Measures on meshes of both sides.
///
/// # Errors
/// Those of `measure`, or when something does not start.
pub(crate) fn pairs<T>(
    context: &Context,
    shape: Shape,
    measure: impl FnMut(&Mesh) -> anyhow::Result<T>,
) -> anyhow::Result<Pairs<T>> {
    let (anchor, ours) = (|| Mesh::anchor(context, shape), || Mesh::ours(context, shape));
    Pairs::run(context, "etcd → mirror → etcd", anchor, ours, measure)
}
