//! A disk that is full: a small tmpfs in a mount namespace of its own.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use causeway_kvstore::{Error, Store, StoreOptions, WatchOptions};

use super::{PATIENCE, data_dir, prefix, put, value};

const DIR: &str = "CAUSEWAY_TEST_SMALL_DISK";

#[test]
fn a_full_disk_refuses_changes_and_goes_on_reading() {
    let dir = data_dir();
    let script = format!(
        "mount -t tmpfs -o size=4m none \"${DIR}\" && exec setpriv --pdeathsig KILL \"$0\" --ignored --exact full::on_a_small_disk --nocapture"
    );
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(DIR, dir.path())
        .stdin(Stdio::null())
        .output()
        .expect("unshare is missing: apt-get install -y util-linux");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "needs a small disk: a_full_disk_refuses_changes_and_goes_on_reading makes one"]
fn on_a_small_disk() {
    let Some(dir) = std::env::var_os(DIR) else { panic!("{DIR} names no directory") };
    let (data, ballast) = (PathBuf::from(&dir).join("data"), PathBuf::from(&dir).join("ballast"));
    fs::write(&ballast, vec![1; 2 << 20]).unwrap();
    let open = || Store::open(&data, StoreOptions::default()).unwrap();
    let store = open();
    let mut watcher = store.watch(WatchOptions::prefix("", 2));
    for round in 0..3 {
        let (answered, refused) = fill(&store, round);
        assert_eq!(refused, Error::NoSpace);
        assert!(store.space_alarm(), "health checks see it");
        // Reads and watches go on, and show nothing of what was refused.
        let listed = store.range(&prefix(&format!("k/{round}/"))).unwrap();
        assert_eq!(listed.count, answered as i64);
        let revision = store.revision();
        assert_eq!(listed.header.unwrap().revision, revision);
        while let Some(batch) = watcher.poll_now().unwrap() {
            assert!(batch.revision <= revision);
        }
        assert_eq!(watcher.next_revision(), revision + 1);
        assert_eq!(store.lease_grant(0, 10, Instant::now()), Err(Error::NoSpace));
        // Space comes from outside; then everything goes on where it was.
        fs::write(&ballast, vec![1; (1 << 20) - (round << 19)]).unwrap();
        let next = when_there_is_space(&store);
        assert_eq!(next, revision + 1, "no revision is lost or given twice");
        assert!(!store.space_alarm());
        assert!(store.log_stats().unwrap().failures > 0);
    }
    let (hash, revision) = (store.hash(0).unwrap(), store.revision());
    drop((watcher, store));
    let store = open();
    assert_eq!(store.cut_tail(), None);
    assert_eq!((store.hash(0).unwrap(), store.revision()), (hash, revision));
    assert_eq!(value(&store, "space").as_deref(), Some("again"));
}

/// Writes with several threads until all are refused: how many puts were answered, and why not more.
fn fill(store: &Store, round: usize) -> (usize, Error) {
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let store = store.clone();
            std::thread::spawn(move || {
                let key = |n| format!("k/{round}/{thread}/{n:06}");
                let refused =
                    (0..).find_map(|n| Some((n, store.put(put(&key(n), &"x".repeat(10_000))).err()?)));
                refused.unwrap()
            })
        })
        .collect();
    let ended: Vec<(usize, Error)> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    (ended.iter().map(|(answered, _)| answered).sum(), ended[0].1)
}

fn when_there_is_space(store: &Store) -> i64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match store.put(put("space", "again")) {
            Ok(answer) => return answer.header.unwrap().revision,
            Err(error) => assert_eq!(error, Error::NoSpace),
        }
        assert!(Instant::now() < deadline, "changes are never taken again");
        std::thread::sleep(Duration::from_millis(20));
    }
}
