//! Clients that go on in a pod while the test does something else.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use causeway_lab::runtime::spawn;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::clusters::{Clusters, DEADLINE, ONE};

/// A process in the pod `shop/client` of a cluster; it ends with this.
pub(crate) struct Client {
    process: Child,
    _description: OwnedFd,
}

impl Client {
    pub(crate) fn start(mesh: &Clusters, cluster: &str, argv: &[&str]) -> Client {
        let container = mesh.lab.in_pod(Some(cluster), "shop", "client", None, argv).unwrap();
        let (_description, mut command) = spawn::command(&mesh.lab.dir().executable(), &container).unwrap();
        let process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        Client { process, _description }
    }

    /// Requests at a rate, each on a connection of its own, which may take so long.
    pub(crate) fn load(mesh: &Clusters, url: &str, rate: u64, limit: Duration) -> Client {
        let (rate, limit) = (rate.to_string(), limit.as_millis().to_string());
        let ask = ["causeway", "lab", "workload", "request", url, "--rate", &rate, "--timeout", &limit];
        Self::start(mesh, ONE, &[&ask[..], &["--count", "1000000", "-o", "json"]].concat())
    }

    /// One TCP connection with a small message now and then.
    pub(crate) fn connection(mesh: &Clusters, cluster: &str, target: &str) -> Client {
        let probe = ["causeway", "lab", "workload", "probe", target, "--tcp", "--rate", "20"];
        Self::start(mesh, cluster, &[&probe[..], &["--seconds", "3600"]].concat())
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Tells it to come to an end; what it had to say.
    pub(crate) fn stop(mut self) -> Value {
        kill(Pid::from_raw(self.process.id() as i32), Signal::SIGTERM).unwrap();
        let mut text = String::new();
        self.process.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        self.process.wait().unwrap();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A stream of HTTP/2, of curl's: open both ways until it is closed.
pub(crate) struct Stream {
    curl: Client,
    lines: Receiver<String>,
    said: usize,
}

impl Stream {
    /// To a server that sends back what it gets.
    pub(crate) fn open(mesh: &Clusters, cluster: &str, url: &str) -> Stream {
        let argv = ["curl", "--no-progress-meter", "-N", "--http2-prior-knowledge", "--fail", "-T", ".", url];
        let mut curl = Client::start(mesh, cluster, &argv);
        let (lines, received) = channel();
        let output = BufReader::new(curl.process.stdout.take().unwrap());
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|l| lines.send(l)));
        Stream { curl, lines: received, said: 0 }
    }

    /// Something goes there and comes back.
    pub(crate) fn lives(&mut self) {
        self.said += 1;
        let text = format!("message {}", self.said);
        writeln!(self.curl.process.stdin.as_mut().unwrap(), "{text}").unwrap();
        let back = self.lines.recv_timeout(DEADLINE).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(back, text);
    }

    /// Both sides close it.
    pub(crate) fn close(mut self) {
        self.lives();
        drop(self.curl.process.stdin.take());
        assert!(self.curl.process.wait().unwrap().success());
        assert!(self.lines.recv().is_err(), "nothing comes that was not sent");
    }
}
