//! Files that are not as they were written, and directories of others.

use std::fs;
use std::path::{Path, PathBuf};

use causeway_kvstore::{OpenError, Store, StoreOptions};

use super::{data_dir, prefix, put, value};

/// With no snapshot but the first.
fn open(dir: &Path) -> Result<Store, OpenError> {
    Store::open(dir, StoreOptions::default())
}

fn file(dir: &Path, extension: &str) -> PathBuf {
    let mut found: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|e| e == extension));
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// A directory with the keys 0 to 4, one a frame, and where each frame ends.
fn five() -> (tempfile::TempDir, PathBuf, Vec<u64>) {
    let dir = data_dir();
    let store = open(dir.path()).unwrap();
    let log = file(dir.path(), "log");
    let ends = (0..5).map(|n| {
        store.put(put(&format!("k/{n}"), &"v".repeat(30))).unwrap();
        fs::metadata(&log).unwrap().len()
    });
    let ends = ends.collect();
    drop(store);
    (dir, log, ends)
}

#[test]
fn a_torn_tail_is_cut_off_and_told() {
    let (dir, log, ends) = five();
    let whole = fs::read(&log).unwrap();
    for length in ends[3] + 1..ends[4] {
        fs::write(&log, &whole[..length as usize]).unwrap();
        let store = open(dir.path()).unwrap();
        let cut = store.cut_tail().unwrap();
        assert_eq!((&cut.file, cut.offset, cut.bytes), (&log, ends[3], length - ends[3]));
        assert_eq!((store.revision(), value(&store, "k/4")), (5, None));
        assert_eq!(store.range(&prefix("k/")).unwrap().count, 4);
        assert_eq!(store.put(put("again", "v")).unwrap().header.unwrap().revision, 6);
        drop(store);
        let store = open(dir.path()).unwrap();
        assert_eq!((store.cut_tail(), value(&store, "again").as_deref()), (None, Some("v")));
    }
}

#[test]
fn what_was_never_finished_behind_the_last_record_is_cut_off() {
    let (dir, log, ends) = five();
    let whole = fs::read(&log).unwrap();
    // Zeros are what a file system shows of bytes that were allotted but never written.
    for rest in [vec![0; 1], vec![0; 5000], b"cwf1".to_vec(), vec![0xff; 300]] {
        fs::write(&log, [&whole[..], &rest].concat()).unwrap();
        let store = open(dir.path()).unwrap();
        assert_eq!(store.cut_tail().unwrap().bytes, rest.len() as u64);
        assert_eq!(store.revision(), 6);
        drop(store);
        assert_eq!(fs::metadata(&log).unwrap().len(), ends[4]);
    }
    // A last record with a wrong byte is one that was not written to its end.
    let mut wrong = whole.clone();
    *wrong.last_mut().unwrap() ^= 1;
    fs::write(&log, wrong).unwrap();
    assert_eq!(open(dir.path()).unwrap().cut_tail().unwrap().offset, ends[3]);
}

#[test]
fn damage_in_the_middle_is_an_error_that_changes_nothing() {
    let (dir, log, ends) = five();
    let whole = fs::read(&log).unwrap();
    for at in (0..ends[3]).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at as usize] ^= 0x10;
        fs::write(&log, &damaged).unwrap();
        let begins = ends.iter().copied().filter(|end| *end <= at).max().unwrap_or(0);
        let error = open(dir.path()).unwrap_err();
        let OpenError::Damaged { file, offset, .. } = &error else { panic!("{error}") };
        assert_eq!((file, *offset), (&log, begins), "byte {at}");
        let text = error.to_string();
        assert!(text.contains(log.to_str().unwrap()) && text.contains("move the directory away"), "{text}");
        assert!(fs::read(&log).unwrap() == damaged, "it is left as it was");
    }
    // A record that is missing altogether shows too.
    let gap = [&whole[..ends[0] as usize], &whole[ends[1] as usize..]].concat();
    fs::write(&log, gap).unwrap();
    let error = open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("missing or out of order"), "{error}");
    fs::write(&log, &whole).unwrap();
    assert_eq!(open(dir.path()).unwrap().revision(), 6);
}

#[test]
fn a_damaged_or_missing_snapshot_is_an_error() {
    let (dir, _, _) = five();
    let snapshot = file(dir.path(), "snapshot");
    let whole = fs::read(&snapshot).unwrap();
    for damaged in [&whole[..whole.len() - 1], &whole[..20], b""] {
        fs::write(&snapshot, damaged).unwrap();
        let error = open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(snapshot.to_str().unwrap()) && error.contains("is damaged"), "{error}");
    }
    fs::remove_file(&snapshot).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::NoSnapshot { .. }), "{error}");
    fs::write(&snapshot, whole).unwrap();
    assert_eq!(open(dir.path()).unwrap().revision(), 6);
}

#[test]
fn a_directory_is_of_one_process_at_a_time() {
    let dir = data_dir();
    let store = open(dir.path()).unwrap();
    let error = open(dir.path()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, OpenError::Locked { .. }), "{text}");
    assert!(text.contains(dir.path().to_str().unwrap()) && text.contains("data-dir of its own"), "{text}");
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    drop(store);
    open(dir.path()).unwrap();
}

#[test]
fn a_holder_that_is_just_going_is_waited_for() {
    let dir = data_dir();
    let store = open(dir.path()).unwrap();
    let (trying, begin) = std::sync::mpsc::channel();
    let path = dir.path().to_owned();
    let opened = std::thread::spawn(move || {
        trying.send(()).unwrap();
        open(&path).map(drop)
    });
    begin.recv().unwrap();
    drop(store);
    opened.join().unwrap().unwrap();
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let dir = file.path().join("below");
    let error = Store::open(&dir, StoreOptions::default()).unwrap_err().to_string();
    assert!(error.contains(dir.to_str().unwrap()) && error.contains("cannot create"), "{error}");
}
