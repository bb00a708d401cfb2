//! From log files to what `kubectl logs` shows.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Deserialize;

use super::rotated;

/// The parameters of a log request.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LogQuery {
    /// Stay and show what is added.
    pub follow: bool,
    /// The last this many lines.
    pub tail_lines: Option<usize>,
    /// Not older than this many seconds.
    pub since_seconds: Option<i64>,
    /// Not older than this.
    pub since_time: Option<Timestamp>,
    /// Begin each line with its time.
    pub timestamps: bool,
    /// Of the run before the present one.
    pub previous: bool,
    /// At most this many bytes.
    pub limit_bytes: Option<usize>,
}

impl LogQuery {
    /// The oldest time wanted.
    fn since(&self, now: Timestamp) -> Option<Timestamp> {
        let seconds = self.since_seconds.map(|s| now - jiff::SignedDuration::from_secs(s));
        seconds.or(self.since_time)
    }
}

/// Turns entries into lines: joins partial ones, filters by time, adds times.
#[derive(Debug)]
pub(super) struct Formatter {
    timestamps: bool,
    since: Option<Timestamp>,
    inside: bool,
}

impl Formatter {
    pub(super) fn new(query: &LogQuery, now: Timestamp) -> Self {
        Formatter { timestamps: query.timestamps, since: query.since(now), inside: false }
    }

    /// What one entry (without newline) adds to the output. An entry that is none is dropped.
    pub(super) fn entry(&mut self, entry: &[u8]) -> Vec<u8> {
        let mut fields = entry.splitn(4, |b| *b == b' ');
        let (Some(time), Some(_), Some(tag), Some(text)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Vec::new();
        };
        let at = std::str::from_utf8(time).ok().and_then(|t| t.parse::<Timestamp>().ok());
        if self.since.is_some_and(|since| at.is_none_or(|at| at < since)) {
            return Vec::new();
        }
        let mut out = Vec::with_capacity(entry.len());
        if self.timestamps && !self.inside {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        out.extend_from_slice(text);
        self.inside = tag == b"P";
        if !self.inside {
            out.push(b'\n');
        }
        out
    }
}

/// A log file that is being read, across rotations.
#[derive(Debug)]
pub(super) struct Cursor {
    path: PathBuf,
    file: Option<std::fs::File>,
    rest: Vec<u8>,
}

impl Cursor {
    /// Reads everything there is, the rotated part first. `tail` keeps the last so many lines only.
    pub(super) fn open(path: &Path, tail: Option<usize>) -> io::Result<(Cursor, Vec<Vec<u8>>)> {
        let old = std::fs::read(rotated(path)).unwrap_or_default();
        let mut cursor = Cursor { path: path.into(), file: None, rest: Vec::new() };
        let mut entries = Vec::new();
        entries.extend(old.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(<[u8]>::to_vec));
        entries.extend(cursor.more()?);
        if let Some(tail) = tail {
            let mut lines = 0;
            let mut keep = entries.len();
            for (i, entry) in entries.iter().enumerate().rev() {
                if full(entry) {
                    lines += 1;
                    if lines > tail {
                        break;
                    }
                }
                keep = i;
            }
            entries.drain(..keep);
        }
        Ok((cursor, entries))
    }

    /// The entries added since the last call.
    pub(super) fn more(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let mut entries = Vec::new();
        if let Some(file) = &mut self.file {
            file.read_to_end(&mut self.rest)?;
            // After a rotation the path is another file; what was left in the old one has just been read.
            let moved = match std::fs::metadata(&self.path) {
                Ok(now) => !same(&now, &file.metadata()?),
                Err(_) => false,
            };
            if moved {
                self.file = None;
            }
        }
        if self.file.is_none() {
            match std::fs::File::open(&self.path) {
                Ok(mut file) => {
                    file.seek(SeekFrom::Start(0))?;
                    file.read_to_end(&mut self.rest)?;
                    self.file = Some(file);
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
            let mut entry: Vec<u8> = self.rest.drain(..=end).collect();
            entry.pop();
            entries.push(entry);
        }
        Ok(entries)
    }
}

fn full(entry: &[u8]) -> bool {
    entry.splitn(4, |b| *b == b' ').nth(2) == Some(b"F")
}

fn same(a: &std::fs::Metadata, b: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    a.ino() == b.ino() && a.dev() == b.dev()
}

#[cfg(test)]
mod tests {
    use super::super::{LogFile, Stream};
    use super::*;

    fn render(path: &Path, query: &LogQuery) -> String {
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let (_, entries) = Cursor::open(path, query.tail_lines).unwrap();
        let mut f = Formatter::new(query, now);
        let bytes: Vec<u8> = entries.iter().flat_map(|e| f.entry(e)).collect();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn tail_since_times_partial_lines_and_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(&path, 120).unwrap();
        for s in 0..5 {
            let at = format!("2026-01-01T00:00:{s:02}Z").parse().unwrap();
            log.write(at, Stream::Stdout, true, format!("a{s}").as_bytes()).unwrap();
            log.write(at, Stream::Stdout, false, b"b").unwrap();
        }
        let query = |tail, since, timestamps| LogQuery {
            tail_lines: tail,
            since_seconds: since,
            timestamps,
            ..LogQuery::default()
        };
        assert!(render(&path, &query(None, None, false)).ends_with("a3b\na4b\n"));
        assert_eq!(render(&path, &query(Some(2), None, false)), "a3b\na4b\n");
        assert_eq!(render(&path, &query(Some(0), None, false)), "");
        assert_eq!(render(&path, &query(None, Some(57), false)), "a3b\na4b\n");
        assert_eq!(render(&path, &query(Some(1), None, true)), "2026-01-01T00:00:04.000000000Z a4b\n");
    }

    #[test]
    fn a_cursor_follows_over_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(&path, 60).unwrap();
        let (mut cursor, mut entries) = Cursor::open(&path, None).unwrap();
        for i in 0..8 {
            log.write(Timestamp::UNIX_EPOCH, Stream::Stdout, false, format!("{i}").as_bytes()).unwrap();
            entries.extend(cursor.more().unwrap());
        }
        let texts: Vec<u8> = entries.iter().filter_map(|e| e.last().copied()).collect();
        assert_eq!(texts, b"01234567");
    }
}
