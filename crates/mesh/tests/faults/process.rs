//! The publisher and the reader as processes of their own, so that they can be killed: this executable
//! again, told what to be by its environment, and what to do by lines on its standard input.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;

use causeway_mesh::remote::RemoteStatus;
use causeway_model::Event;

use crate::certificates::files;
use crate::publisher::cluster;
use crate::publishing::{Addresses, address, publish};
use crate::reading::{PATIENCE, peers, read};

const ROLE: &str = "CAUSEWAY_FAULTS_ROLE";
const DIR: &str = "CAUSEWAY_FAULTS_DIR";
/// What distinguishes our lines from those of the test harness.
const MARK: &str = "@@ ";

pub(crate) struct Process {
    child: Child,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Process {
    fn start(role: &str, dir: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["process::role", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(DIR, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The harness begins lines and leaves them open.
                if let Some((_, line)) = line.split_once(MARK)
                    && sender.send(line.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        Self { child, input, lines }
    }

    /// A publisher of cluster cls-b with the certificate `server` of `dir`, and where it listens.
    pub(crate) fn publisher(dir: &Path) -> (Self, SocketAddr) {
        let process = Self::start("publisher", dir);
        let address = process.line().parse().unwrap();
        (process, address)
    }

    /// A reader of the peers configured in `dir`.
    pub(crate) fn reader(dir: &Path) -> Self {
        Self::start("reader", dir)
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("the process answers")
    }

    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("the process listens");
    }

    /// Everything there is, as a listing.
    pub(crate) fn list(&mut self, all: &Addresses) {
        self.say("reset");
        for (n, identity) in all {
            self.say(&format!("put {n} {identity}"));
        }
        self.say("synced");
    }

    /// What a reader knows.
    pub(crate) fn dump(&mut self) -> Addresses {
        self.say("dump");
        let mut all = Addresses::new();
        loop {
            let line = self.line();
            let Some((n, identity)) = line.split_once(' ') else { return all };
            all.insert(n.parse().unwrap(), identity.parse().unwrap());
        }
    }

    /// The status a reader has of its peer, if it has one.
    pub(crate) fn status(&mut self) -> Option<RemoteStatus> {
        self.say("status");
        serde_json::from_str(&self.line()).unwrap()
    }

    /// The most memory it ever had, bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test: what a [`Process`] runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run as a process by the others"]
async fn role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let dir = PathBuf::from(std::env::var_os(DIR).unwrap());
    let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    if role == "publisher" {
        let publishing = publish(cluster("cls-b", 2), files(&dir, "server")).await;
        println!("{MARK}{}", publishing.listens);
        while let Some(line) = lines.recv().await {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |n: usize| words[n].parse::<u32>().unwrap();
            let event = match words[0] {
                "reset" => Event::Reset,
                "synced" => Event::Synced,
                "put" => Event::Upsert(address(number(1), number(2))),
                _ => Event::Remove(address(number(1), 0).prefix),
            };
            publishing.addresses.send(event).unwrap();
        }
        return;
    }
    let reading = read(peers(&dir)).await;
    while let Some(line) = lines.recv().await {
        if line == "dump" {
            for (n, identity) in reading.told.borrow().numbers() {
                println!("{MARK}{n} {identity}");
            }
            println!("{MARK}.");
        } else {
            let status = reading.status.borrow().values().next().cloned();
            println!("{MARK}{}", serde_json::to_string(&status).unwrap());
        }
    }
}
