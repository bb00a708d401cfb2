//! Frames: the unit in which files are written and checked.
//!
//! A frame is 4 bytes of magic, the length of its payload (u32), its number (u64, counting through
//! all files of a log), a CRC-32 of all that and of the payload (u32), and the payload; integers are
//! little-endian. One frame is one `write` and one `fsync`. So whatever a crash leaves behind, only
//! the last frame can be damaged by it, and a sound frame behind a damaged one means that something
//! else has damaged the file.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

const MAGIC: [u8; 4] = *b"cwf1";
/// Bytes before the payload.
pub(super) const HEADER: usize = 20;

/// Where a file is not as it was written, and how that shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) offset: u64,
    pub(super) what: &'static str,
}

/// Appends a frame to `into`.
pub(super) fn write(number: u64, payload: &[u8], into: &mut Vec<u8>) {
    let length = u32::try_from(payload.len()).expect("a frame is far smaller than 4 GiB");
    into.extend_from_slice(&MAGIC);
    into.extend_from_slice(&length.to_le_bytes());
    into.extend_from_slice(&number.to_le_bytes());
    into.extend_from_slice(&checksum(length, number, payload).to_le_bytes());
    into.extend_from_slice(payload);
}

fn checksum(length: u32, number: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(&number.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

struct Header {
    length: u32,
    number: u64,
    checksum: u32,
}

impl Header {
    fn parse(bytes: &[u8; HEADER]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (number, rest) = rest.split_first_chunk::<8>()?;
        let (checksum, _) = rest.split_first_chunk::<4>()?;
        (*magic == MAGIC).then(|| Self {
            length: u32::from_le_bytes(*length),
            number: u64::from_le_bytes(*number),
            checksum: u32::from_le_bytes(*checksum),
        })
    }

    fn is_of(&self, payload: &[u8]) -> bool {
        payload.len() == self.length as usize && checksum(self.length, self.number, payload) == self.checksum
    }
}

/// Reads the frames of a file, in order.
#[derive(Debug)]
pub(super) struct Frames {
    file: BufReader<File>,
    /// Where the next frame begins.
    offset: u64,
    end: u64,
    /// The number the next frame must have.
    number: u64,
}

impl Frames {
    /// The frames of the first `end` bytes of a file, beginning with number `number`.
    pub(super) fn open(path: &Path, number: u64, end: u64) -> io::Result<Self> {
        let file = File::open(path)?;
        let end = end.min(file.metadata()?.len());
        Ok(Self { file: BufReader::with_capacity(256 << 10, file), offset: 0, end, number })
    }

    /// Where the next frame begins.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The number the next frame must have.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The payload of the next frame; `None` at the end of the file.
    pub(super) fn next(&mut self) -> io::Result<Result<Option<Vec<u8>>, Damage>> {
        let left = self.end - self.offset;
        if left == 0 {
            return Ok(Ok(None));
        }
        let damage = |what| Ok(Err(Damage { offset: self.offset, what }));
        if left < HEADER as u64 {
            return damage("the file ends inside the head of a record");
        }
        let mut header = [0; HEADER];
        self.file.read_exact(&mut header)?;
        let Some(header) = Header::parse(&header) else { return damage("no record begins here") };
        if u64::from(header.length) > left - HEADER as u64 {
            return damage("the file ends inside a record");
        }
        let mut payload = vec![0; header.length as usize];
        self.file.read_exact(&mut payload)?;
        if !header.is_of(&payload) {
            return damage("the checksum of a record is wrong");
        }
        if header.number != self.number {
            return damage("a record is missing or out of order");
        }
        self.offset += (HEADER + payload.len()) as u64;
        self.number += 1;
        Ok(Ok(Some(payload)))
    }
}

/// Whether a sound frame begins somewhere behind `offset`.
pub(super) fn any_behind(path: &Path, offset: u64) -> io::Result<bool> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset + 1))?;
    let mut rest = Vec::new();
    file.read_to_end(&mut rest)?;
    Ok((0..rest.len().saturating_sub(HEADER - 1)).any(|at| {
        let (bytes, behind) = rest[at..].split_first_chunk::<HEADER>().expect("the range leaves room");
        Header::parse(bytes)
            .is_some_and(|header| behind.get(..header.length as usize).is_some_and(|p| header.is_of(p)))
    }))
}
