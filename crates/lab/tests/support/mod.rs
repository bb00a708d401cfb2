//! An API server on loopback with a fresh authority, for tests.

// Each test file uses its own part of this.
#![allow(dead_code)]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use causeway_kvstore::Store;
use causeway_lab::apiserver::StaticToken;
use causeway_lab::apiserver::loopback::Loopback;
use tokio_util::sync::CancellationToken;

/// Ample for anything these tests wait for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    pub(crate) store: Store,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) url: String,
    shutdown: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut api = Loopback::new("test", 0).unwrap();
        let robot = StaticToken { token: "secret".into(), user: "robot".into(), groups: vec![] };
        api.options.static_tokens.push(robot);
        api.write_kubeconfig(&dir.path().join("kubeconfig")).unwrap();
        let (store, url) = (api.options.store.clone(), api.url.clone());
        let shutdown = CancellationToken::new();
        let serving = api.serve(shutdown.clone()).unwrap();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(serving).unwrap();
        });
        Cluster { store, dir, url, shutdown, thread: Some(thread) }
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".into()));
        c.args(args)
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.dir.path())
            .env("KUBECTL_EXTERNAL_DIFF", "diff -u -N");
        c.stdin(Stdio::null());
        c
    }

    pub(crate) fn output(&self, args: &[&str], input: Option<&str>) -> Output {
        let mut c = self.command(args);
        c.stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(text) = input {
            let file = self.dir.path().join("stdin");
            std::fs::write(&file, text).unwrap();
            c.stdin(std::fs::File::open(file).unwrap());
        }
        c.output().expect("kubectl runs (set KUBECTL if it is not in PATH)")
    }

    /// Runs kubectl; it must succeed. Its standard output.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        self.ok_with(args, None)
    }

    pub(crate) fn ok_with(&self, args: &[&str], input: Option<&str>) -> String {
        let out = self.output(args, input);
        let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "kubectl {args:?} failed:\n{stdout}{stderr}");
        stdout.into_owned()
    }

    /// Runs kubectl; it must fail. Its standard error.
    pub(crate) fn fails(&self, args: &[&str], input: Option<&str>) -> String {
        let out = self.output(args, input);
        assert!(
            !out.status.success(),
            "kubectl {args:?} succeeded: {}",
            String::from_utf8_lossy(&out.stdout)
        );
        String::from_utf8_lossy(&out.stderr).into_owned()
    }

    pub(crate) fn apply(&self, manifest: &str) -> String {
        self.ok_with(&["apply", "-f", "-"], Some(manifest))
    }

    /// Waits until a condition on kubectl's output holds.
    pub(crate) fn eventually(&self, args: &[&str], holds: impl Fn(bool, &str) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            let out = self.output(args, None);
            let text =
                format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
            if holds(out.status.success(), &text) {
                return;
            }
            assert!(Instant::now() < end, "kubectl {args:?} still says:\n{text}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}
