//! A typed view of one map. Layouts are checked by zerocopy at compile time; aya sees plain bytes.

use std::path::Path;

use aya::Ebpf;
use aya::maps::{HashMap, IterableMap, Map, MapData, MapError};
use zerocopy::{FromBytes, Immutable, IntoBytes};

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
        let map = HashMap::try_from(Map::HashMap(pinned(pins, name)?))
            .map_err(|source| Error::Map { map: name, source })?;
        Ok(Self { name, map })
    }

    pub(crate) fn set(&mut self, key: K, value: V) -> Result<(), Error> {
        self.map.insert(Raw(key), Raw(value), 0).map_err(|source| self.error(source))
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
    #[allow(dead_code)]
    pub(crate) fn data(&self) -> &MapData {
        self.map.map()
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
