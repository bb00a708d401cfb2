//! From a container's pipes into its log file.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::{Stream, rotated};

/// A longer line is split into partial entries, as container runtimes do.
const LONGEST_LINE: usize = 16 * 1024;

/// A log file that is written to.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    size: u64,
    limit: u64,
}

impl LogFile {
    /// Opens a file for appending and makes the directories above it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn open(path: &Path, limit: u64) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let file = File::options().create(true).append(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(LogFile { path: path.into(), file, size, limit })
    }

    /// Appends one entry; `partial` if the line goes on in the next.
    ///
    /// # Errors
    /// If the disk is full and the like.
    pub fn write(&mut self, at: Timestamp, stream: Stream, partial: bool, text: &[u8]) -> io::Result<()> {
        if self.size > self.limit {
            std::fs::rename(&self.path, rotated(&self.path))?;
            self.file = File::options().create(true).append(true).open(&self.path)?;
            self.size = 0;
        }
        let mut entry =
            format!("{at:.9} {} {} ", stream.name(), if partial { "P" } else { "F" }).into_bytes();
        entry.extend_from_slice(text);
        entry.push(b'\n');
        self.size += entry.len() as u64;
        self.file.write_all(&entry)
    }
}

/// Copies a pipe into a log file until the other end is closed by everyone.
pub async fn pump(pipe: OwnedFd, stream: Stream, log: Arc<Mutex<LogFile>>) {
    let Ok(mut pipe) = pipe::Receiver::from_owned_fd(pipe) else { return };
    let mut line: Vec<u8> = Vec::new();
    let mut chunk = vec![0u8; LONGEST_LINE];
    let put = |partial: bool, text: &[u8]| {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = log.write(Timestamp::now(), stream, partial, text) {
            tracing::warn!(path = %log.path.display(), %error, "log entry lost");
        }
    };
    loop {
        let n = match pipe.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(n) => n,
        };
        for part in chunk[..n].split_inclusive(|b| *b == b'\n') {
            let (text, ended) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            line.extend_from_slice(text);
            while line.len() > LONGEST_LINE {
                put(true, &line[..LONGEST_LINE]);
                line.drain(..LONGEST_LINE);
            }
            if ended {
                put(false, &line);
                line.clear();
            }
        }
    }
    if !line.is_empty() {
        put(false, &line);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn entries_have_the_format_of_container_runtimes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c/0.log");
        let mut log = LogFile::open(&path, 1 << 20).unwrap();
        let at = "2026-01-02T03:04:05.5Z".parse().unwrap();
        log.write(at, Stream::Stdout, false, b"hello").unwrap();
        log.write(at, Stream::Stderr, true, b"par").unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(
            text,
            "2026-01-02T03:04:05.500000000Z stdout F hello\n2026-01-02T03:04:05.500000000Z stderr P par\n"
        );
    }

    #[test]
    fn a_file_beyond_its_limit_is_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(&path, 100).unwrap();
        for i in 0..10 {
            log.write(Timestamp::UNIX_EPOCH, Stream::Stdout, false, format!("{i}").as_bytes()).unwrap();
        }
        let size = |p: &Path| std::fs::metadata(p).unwrap().len();
        assert!(size(&path) < 200 && size(&rotated(&path)) < 200);
    }

    #[tokio::test]
    async fn lines_are_split_and_the_last_needs_no_newline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let log = Arc::new(Mutex::new(LogFile::open(&path, 1 << 20).unwrap()));
        let (reader, mut writer) = io::pipe().unwrap();
        let long = "x".repeat(LONGEST_LINE + 5);
        let text = format!("a\n\n{long}\nend");
        let feeder = std::thread::spawn(move || writer.write_all(text.as_bytes()));
        pump(OwnedFd::from(reader), Stream::Stdout, log).await;
        feeder.join().unwrap().unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let kinds: Vec<(&str, usize)> = text
            .lines()
            .map(|l| {
                let mut f = l.splitn(4, ' ').skip(2);
                (f.next().unwrap(), f.next().unwrap().len())
            })
            .collect();
        assert_eq!(kinds, [("F", 1), ("F", 0), ("P", LONGEST_LINE), ("F", 5), ("F", 3)]);
    }
}
