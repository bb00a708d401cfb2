//! Reading and writing large hash maps: thousands of entries with a call instead of one.

use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::{MapData, MapError};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::table::Plain;

/// `BPF_MAP_LOOKUP_BATCH` of linux/bpf.h.
const LOOKUP_BATCH: libc::c_long = 24;
/// `BPF_MAP_UPDATE_BATCH`, the same.
const UPDATE_BATCH: libc::c_long = 26;
/// Entries a call; more than a bucket of any of our maps holds.
pub(super) const CHUNK: usize = 4096;

/// `struct { … } batch` of `union bpf_attr`.
#[repr(C)]
#[derive(Default, IntoBytes, Immutable)]
struct Attr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Calls `each` with every entry of a hash map, in no order. Entries that come or go meanwhile may be
/// missed.
///
/// # Errors
/// What the kernel says; before Linux 5.6 that there is no such call.
pub(crate) fn for_each<K, V>(map: &MapData, mut each: impl FnMut(K, V)) -> Result<(), MapError>
where
    K: Plain + FromBytes,
    V: Plain + FromBytes,
{
    let mut keys = vec![0u8; CHUNK * size_of::<K>()];
    let mut values = vec![0u8; CHUNK * size_of::<V>()];
    let (mut cursor, mut next, mut first) = (0u64, 0u64, true);
    loop {
        let mut attr = Attr {
            in_batch: if first { 0 } else { &raw mut cursor as u64 },
            out_batch: &raw mut next as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: CHUNK as u32,
            map_fd: map.fd().as_fd().as_raw_fd().cast_unsigned(),
            ..Attr::default()
        };
        // SAFETY: every pointer is to memory of ours that lives over the call and is as long as `count`
        // says; the cursors are longer than the four bytes the kernel uses of them.
        let result = unsafe { libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, &raw mut attr, size_of::<Attr>()) };
        let error = (result != 0).then(std::io::Error::last_os_error);
        let last = match &error {
            None => false,
            Some(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Some(_) => {
                let io_error = error.expect("it is there");
                return Err(aya::sys::SyscallError { call: "bpf_map_lookup_batch", io_error }.into());
            }
        };
        let count = usize::try_from(attr.count).unwrap_or(0).min(CHUNK);
        for index in 0..count {
            let key = K::read_from_bytes(&keys[index * size_of::<K>()..][..size_of::<K>()]);
            let value = V::read_from_bytes(&values[index * size_of::<V>()..][..size_of::<V>()]);
            if let (Ok(key), Ok(value)) = (key, value) {
                each(key, value);
            }
        }
        if last {
            return Ok(());
        }
        (cursor, first) = (next, false);
    }
}

/// Writes entries in their order, [`CHUNK`] of them at most: how many of the first the kernel took. It stops at
/// one it refuses. Of the same key the last one stays.
pub(super) fn update<K: Plain, V: Plain>(map: &MapData, entries: &[(K, V)]) -> usize {
    debug_assert!(entries.len() <= CHUNK);
    let keys: Vec<K> = entries.iter().map(|(key, _)| *key).collect();
    let values: Vec<V> = entries.iter().map(|(_, value)| *value).collect();
    let mut attr = Attr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: entries.len() as u32,
        map_fd: map.fd().as_fd().as_raw_fd().cast_unsigned(),
        ..Attr::default()
    };
    // SAFETY: both pointers are to memory of ours that lives over the call and is as long as `count` says.
    let result = unsafe { libc::syscall(libc::SYS_bpf, UPDATE_BATCH, &raw mut attr, size_of::<Attr>()) };
    match usize::try_from(attr.count).unwrap_or(0) {
        _ if result == 0 => entries.len(),
        // A kernel that does not know the call leaves the count as it was.
        taken if taken < entries.len() => taken,
        _ => 0,
    }
}
