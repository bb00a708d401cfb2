//! A process that is killed while it writes, again and again, on the same directory.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use causeway_kvstore::pb::{self, request_op::Request};
use causeway_kvstore::{Error, Store};

use super::{PATIENCE, data_dir, events, open, put};

const DIR: &str = "CAUSEWAY_TEST_DURABLE_DIR";
const KILLS: u64 = 20;
const WRITERS: u64 = 6;

/// Says what was answered; one write, so that a kill cannot cut it into halves that mislead.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("@{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

#[test]
#[ignore = "the process that is killed: a_killed_process_loses_nothing_it_has_answered starts it"]
fn writer() {
    let Some(dir) = std::env::var_os(DIR) else { panic!("{DIR} names no directory") };
    let store = open(dir.as_ref());
    let round: u64 = std::env::var("ROUND").unwrap().parse().unwrap();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let store = &store;
            scope.spawn(move || {
                for n in round * 1_000_000.. {
                    write_pair(store, writer, n);
                }
            });
        }
        scope.spawn(|| {
            for n in round * 1_000_000.. {
                lease_and_compact(&store, n as i64);
            }
        });
    });
}

fn write_pair(store: &Store, writer: u64, n: u64) {
    let key = |side| format!("{side}/{writer}/{}", n % 17);
    if n.is_multiple_of(5) {
        let range = pb::DeleteRangeRequest { key: key("a").into(), ..Default::default() };
        let answer = store.delete_range(&range).unwrap();
        if answer.deleted > 0 {
            say(&format!("deleted {} {}", key("a"), answer.header.unwrap().revision));
        }
    }
    let op = |side| pb::RequestOp { request: Some(Request::RequestPut(put(&key(side), &n.to_string()))) };
    let txn = pb::TxnRequest { success: vec![op("a"), op("b")], ..Default::default() };
    let revision = store.txn(txn).unwrap().header.unwrap().revision;
    say(&format!("put {writer} {n} {revision}"));
}

fn lease_and_compact(store: &Store, id: i64) {
    store.lease_grant(id + 1, 3600, Instant::now()).unwrap();
    say(&format!("granted {}", id + 1));
    let lease = id + 1;
    store.put(pb::PutRequest { lease, ..put(&format!("l/{lease}"), "leased") }).unwrap();
    if id % 2 == 0 {
        store.lease_revoke(lease).unwrap();
        say(&format!("revoked {lease}"));
    }
    let revision = store.revision() - 2000;
    if id % 50 == 0 && revision > store.compacted() {
        match store.compact(revision) {
            Ok(()) => say(&format!("compacted {revision}")),
            Err(error) => assert_eq!(error, Error::Compacted),
        }
    }
}

/// Starts the writer, kills it after so many answers, and returns them all.
fn run_and_kill(dir: &std::path::Path, round: u64, answers: usize) -> Vec<String> {
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "crash::writer", "--nocapture"])
        .env(DIR, dir)
        .env("ROUND", round.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("setpriv is missing: apt-get install -y util-linux");
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = Vec::new();
    let mut killed = false;
    for line in lines.map_while(Result::ok) {
        said.extend(line.strip_prefix('@').map(str::to_owned));
        if said.len() >= answers && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    let status = child.wait().unwrap();
    assert!(killed, "the writer ended by itself: {status}");
    said
}

/// What an earlier round said of puts, by revision, and of leases.
#[derive(Default)]
struct Answered {
    puts: BTreeMap<i64, (u64, u64)>,
    deletes: BTreeMap<i64, String>,
    granted: Vec<i64>,
    revoked: Vec<i64>,
    compacted: i64,
}

impl Answered {
    fn add(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |n: usize| words[n].parse::<i64>().unwrap();
        match words[0] {
            "put" => {
                let before = self.puts.insert(number(3), (number(1) as u64, number(2) as u64));
                assert_eq!(before, None, "revision {} was given twice", number(3));
            }
            "deleted" => {
                let before = self.deletes.insert(number(2), words[1].to_owned());
                assert_eq!(before, None, "revision {} was given twice", number(2));
            }
            "granted" => self.granted.push(number(1)),
            "revoked" => self.revoked.push(number(1)),
            "compacted" => self.compacted = self.compacted.max(number(1)),
            other => panic!("{other}"),
        }
    }

    fn check(&self, store: &Store) {
        let last = self.puts.keys().chain(self.deletes.keys()).max().copied().unwrap_or(1);
        assert!(store.revision() >= last, "{} is behind an answered {last}", store.revision());
        assert!(store.compacted() >= self.compacted);
        let mut revisions: BTreeMap<i64, Vec<pb::Event>> = BTreeMap::new();
        for event in events(store, store.compacted().max(1)) {
            revisions.entry(event.kv.as_ref().unwrap().mod_revision).or_default().push(event);
        }
        let first = store.compacted().max(2);
        let found: Vec<i64> = revisions.keys().copied().collect();
        assert_eq!(found, (first..=store.revision()).collect::<Vec<_>>(), "no revision is missing");
        for (revision, events) in &revisions {
            let put: Vec<_> = events.iter().map(|e| e.kv.clone().unwrap()).collect();
            let text = |bytes: &bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
            if text(&put[0].key).starts_with("a/") && !put[0].value.is_empty() {
                assert_eq!(put.len(), 2, "half of a transaction: {events:?}");
                assert_eq!(put[0].value, put[1].value);
            }
            if let Some((writer, n)) = self.puts.get(revision) {
                assert_eq!(text(&put[0].key), format!("a/{writer}/{}", n % 17));
                assert_eq!(text(&put[0].value), n.to_string(), "revision {revision} is another's");
            }
            if let Some(key) = self.deletes.get(revision) {
                assert_eq!((put.len(), text(&put[0].key), put[0].version), (1, key.clone(), 0));
            }
        }
        let leases = store.leases();
        for lease in &self.granted {
            // One that is revoked may have been so without an answer; the next one comes after it.
            let may_be_gone = (lease - 1) % 2 == 0;
            assert!(may_be_gone || leases.contains(lease), "lease {lease} is gone");
        }
        for lease in &self.revoked {
            assert!(!leases.contains(lease), "lease {lease} is back");
            assert_eq!(super::value(store, &format!("l/{lease}")), None);
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_it_has_answered() {
    let dir = data_dir();
    let cluster_id = open(dir.path()).cluster_id();
    let mut answered = Answered::default();
    let mut cut = 0;
    for round in 1..=KILLS {
        let answers = rand::random_range(1..2500);
        for line in run_and_kill(dir.path(), round, answers) {
            answered.add(&line);
        }
        let store = open(dir.path());
        assert_eq!(store.cluster_id(), cluster_id);
        cut += usize::from(store.cut_tail().is_some());
        answered.check(&store);
    }
    println!("{} answers, {cut} torn tails", answered.puts.len());
}

#[test]
fn writers_of_one_process_wait_for_the_same_syncs() {
    let dir = data_dir();
    let store = Arc::new(open(dir.path()));
    let deadline = Instant::now() + PATIENCE;
    // Sooner or later two of them are there while a third is being written.
    loop {
        let before = store.log_stats().unwrap().syncs;
        let threads: Vec<_> = (0..16)
            .map(|n| {
                let store = store.clone();
                std::thread::spawn(move || store.put(put(&format!("{n}"), "v")).unwrap())
            })
            .collect();
        threads.into_iter().for_each(|thread| drop(thread.join().unwrap()));
        if store.log_stats().unwrap().syncs - before < 16 {
            break;
        }
        assert!(Instant::now() < deadline, "every write has a sync of its own");
    }
}
