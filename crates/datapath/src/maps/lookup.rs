//! `cw_lb_tables`, the lookup tables of frontends, and `cw_lb_source_ranges`.

use std::path::Path;

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashOfMaps, Map, MapData, MapError, MapInfo};
use ipnet::IpNet;

use super::lb::{CHUNK, Chunk, SourceRange, TableKey};
use super::{Raw, Usage, table};
use crate::Error;

const TABLES: &str = "cw_lb_tables";
const RANGES: &str = "cw_lb_source_ranges";
/// Arrays inside a map may differ in length with this flag (linux/bpf.h), which the map wants of all.
const BPF_F_INNER_MAP: u32 = 1 << 12;

/// The lookup tables by frontend and generation.
#[derive(Debug)]
pub(crate) struct LookupTables(HashOfMaps<MapData, Raw<TableKey>, Array<MapData, Raw<Chunk>>>);

impl LookupTables {
    pub(crate) fn take(object: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self(HashOfMaps::try_from(table::take(object, TABLES)?).map_err(tables)?))
    }

    /// Opens the pinned map of a node's agent, for looking.
    pub(crate) fn open(pins: &Path) -> Result<Self, Error> {
        Ok(Self(HashOfMaps::try_from(Map::HashOfMaps(table::pinned(pins, TABLES)?)).map_err(tables)?))
    }

    /// Writes a whole table and then makes it known.
    pub(crate) fn set(&mut self, key: TableKey, entries: &[u16]) -> Result<(), Error> {
        let pieces = u32::try_from(entries.len().div_ceil(CHUNK)).unwrap_or(u32::MAX);
        let mut array = Array::create(pieces.max(1), BPF_F_INNER_MAP).map_err(tables)?;
        for (index, piece) in (0..).zip(entries.chunks(CHUNK)) {
            let mut slot = [0; CHUNK];
            slot[..piece.len()].copy_from_slice(piece);
            array.set(index, Raw(Chunk { slot }), 0).map_err(tables)?;
        }
        self.0.insert(Raw(key), &array, 0).map_err(tables)
    }

    /// The first `count` entries of a table; `None` if there is no such table or it is shorter.
    pub(crate) fn get(&self, key: TableKey, count: u32) -> Result<Option<Vec<u16>>, Error> {
        let array: Array<MapData, Raw<Chunk>> = match self.0.get(&Raw(key), 0) {
            Ok(array) => array,
            Err(MapError::KeyNotFound) => return Ok(None),
            // Removed since it was found.
            Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => {
                return Ok(None);
            }
            Err(source) => return Err(tables(source)),
        };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let mut entries = Vec::with_capacity(count);
        for index in 0..array.len() {
            entries.extend(array.get(&index, 0).map_err(tables)?.0.slot);
        }
        Ok((entries.len() >= count).then(|| {
            entries.truncate(count);
            entries
        }))
    }

    /// Removes a table; one that is not there is fine.
    pub(crate) fn remove(&mut self, key: TableKey) -> Result<(), Error> {
        gone(self.0.remove(&Raw(key))).map_err(tables)
    }

    /// How many tables there are and how many there may be.
    pub(crate) fn usage(&self, pins: &Path) -> Result<Usage, Error> {
        Ok(Usage { name: TABLES, entries: self.0.keys().count(), max: max_entries(pins, TABLES)? })
    }

    pub(crate) fn keys(&self) -> Result<Vec<TableKey>, Error> {
        self.0.keys().map(|key| key.map(|key| key.0).map_err(tables)).collect()
    }
}

/// The source ranges of all frontends.
#[derive(Debug)]
pub(crate) struct SourceRanges(LpmTrie<MapData, Raw<SourceRange>, Raw<u32>>);

impl SourceRanges {
    pub(crate) fn take(object: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self(LpmTrie::try_from(table::take(object, RANGES)?).map_err(ranges)?))
    }

    /// Opens the pinned map of a node's agent, for looking.
    pub(crate) fn open(pins: &Path) -> Result<Self, Error> {
        Ok(Self(LpmTrie::try_from(Map::LpmTrie(table::pinned(pins, RANGES)?)).map_err(ranges)?))
    }

    /// How many ranges there are and how many there may be.
    pub(crate) fn usage(&self, pins: &Path) -> Result<Usage, Error> {
        Ok(Usage { name: RANGES, entries: self.0.keys().count(), max: max_entries(pins, RANGES)? })
    }

    pub(crate) fn add(&mut self, of: TableKey, range: IpNet) -> Result<(), Error> {
        let (bits, key) = SourceRange::new(of, range);
        self.0.insert(&Key::new(bits, Raw(key)), Raw(1), 0).map_err(ranges)
    }

    pub(crate) fn remove(&mut self, of: TableKey, range: IpNet) -> Result<(), Error> {
        let (bits, key) = SourceRange::new(of, range);
        gone(self.0.remove(&Key::new(bits, Raw(key)))).map_err(ranges)
    }

    /// Removes the ranges of all tables that are not wanted.
    pub(crate) fn retain(&mut self, wanted: impl Fn(TableKey) -> bool) -> Result<(), Error> {
        let keys: Vec<_> = self.0.keys().collect::<Result<_, _>>().map_err(ranges)?;
        for key in keys.into_iter().filter(|key| !wanted(key.data().0.table())) {
            gone(self.0.remove(&key)).map_err(ranges)?;
        }
        Ok(())
    }
}

fn max_entries(pins: &Path, name: &'static str) -> Result<u32, Error> {
    let info = MapInfo::from_pin(pins.join(name));
    Ok(info.map_err(|source| Error::Map { map: name, source })?.max_entries())
}

/// What was not there is gone as well.
fn gone(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn tables(source: MapError) -> Error {
    Error::Map { map: TABLES, source }
}

fn ranges(source: MapError) -> Error {
    Error::Map { map: RANGES, source }
}
