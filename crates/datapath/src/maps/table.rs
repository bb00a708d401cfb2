//! A typed view of one map. Layouts are checked by zerocopy at compile time; aya sees plain bytes.

use std::path::Path;

use aya::Ebpf;
use aya::maps::{HashMap, IterableMap, Map, MapData, MapError, MapType};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::batch;
use crate::Error;

/// A value without padding, in the form aya takes.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Raw<T>(pub(crate) T);

// SAFETY: zerocopy has checked that T has no padding and that every bit pattern is a T.
unsafe impl<T: FromBytes + IntoBytes + Immutable + Copy + 'static> aya::Pod for Raw<T> {}

/// Keys and values one map may have.
pub(crate) trait Plain: FromBytes + IntoBytes + Immutable + Copy + 'static {}
impl<T: FromBytes + IntoBytes + Immutable + Copy + 'static> Plain for T {}

/// How full a map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// The map.
    pub name: &'static str,
    /// Entries it has.
    pub entries: usize,
    /// Entries it may have.
    pub max: u32,
}

/// A hash map of the kernel.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    name: &'static str,
    map: HashMap<MapData, Raw<K>, Raw<V>>,
}

impl<K: Plain, V: Plain> Table<K, V> {
    /// Takes a map out of a loaded object.
    pub(crate) fn take(object: &mut Ebpf, name: &'static str) -> Result<Self, Error> {
        let map = take(object, name)?;
        let map = HashMap::try_from(map).map_err(|source| Error::Map { map: name, source })?;
        Ok(Self { name, map })
    }

    /// Opens a map somebody else has pinned, for looking.
    pub(crate) fn open(pins: &Path, name: &'static str) -> Result<Self, Error> {
        let data = pinned(pins, name)?;
        let info = data.info().and_then(|info| info.map_type());
        let map = match info.map_err(|source| Error::Map { map: name, source })? {
            MapType::LruHash => Map::LruHashMap(data),
            _ => Map::HashMap(data),
        };
        let map = HashMap::try_from(map).map_err(|source| Error::Map { map: name, source })?;
        Ok(Self { name, map })
    }

    /// The map's name.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn set(&mut self, key: K, value: V) -> Result<(), Error> {
        self.map.insert(Raw(key), Raw(value), 0).map_err(|source| self.error(source))
    }

    /// Sets many keys, in their order. Every one is tried, so that one the kernel refuses keeps none of the others
    /// back.
    pub(crate) fn set_all(&mut self, entries: &[(K, V)]) -> Result<(), Error> {
        let mut result = Ok(());
        for chunk in entries.chunks(batch::CHUNK) {
            let taken = if chunk.len() == 1 { 0 } else { batch::update(self.map.map(), chunk) };
            // What was not taken with the others tells on its own why.
            for (key, value) in &chunk[taken..] {
                result = result.and(self.set(*key, *value));
            }
        }
        result
    }

    /// Removes a key; one that is not there is fine.
    pub(crate) fn remove(&mut self, key: &K) -> Result<(), Error> {
        match self.map.remove(&Raw(*key)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            Err(source) => Err(self.error(source)),
        }
    }

    pub(crate) fn get(&self, key: &K) -> Result<Option<V>, Error> {
        match self.map.get(&Raw(*key), 0) {
            Ok(value) => Ok(Some(value.0)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(self.error(source)),
        }
    }

    /// Everything in the map, in no order.
    pub(crate) fn entries(&self) -> Result<Vec<(K, V)>, Error> {
        self.map
            .iter()
            .map(|entry| entry.map(|(key, value)| (key.0, value.0)).map_err(|source| self.error(source)))
            .collect()
    }

    /// The kernel's map, for callers that need more than a table.
    pub(crate) fn data(&self) -> &MapData {
        self.map.map()
    }

    /// How many entries there are and how many there may be.
    pub(crate) fn usage(&self) -> Result<Usage, Error> {
        let max = self.map.map().info().map_err(|source| self.error(source))?.max_entries();
        Ok(Usage { name: self.name, entries: self.map.keys().count(), max })
    }

    fn error(&self, source: MapError) -> Error {
        Error::Map { map: self.name, source }
    }
}

/// Takes a map out of a loaded object; the object's programs keep it alive in the kernel.
pub(crate) fn take(object: &mut Ebpf, name: &'static str) -> Result<Map, Error> {
    object
        .take_map(name)
        .ok_or_else(|| Error::Map { map: name, source: MapError::InvalidName { name: name.to_owned() } })
}

/// Opens a pinned map by its name.
pub(crate) fn pinned(pins: &Path, name: &'static str) -> Result<MapData, Error> {
    let path = pins.join(name);
    MapData::from_pin(&path).map_err(|source| Error::Pin {
        why: format!("{source} (does the agent of this node run, and are you root?)"),
        path,
    })
}
