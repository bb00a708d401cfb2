//! The kernel's limit: entries into a hash map with nothing else to do.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::Instant;

use super::Failure;

// From linux/bpf.h.
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_TYPE_HASH: u32 = 1;
const BPF_F_NO_PREALLOC: u32 = 1;

/// `struct address` and `struct remote` of the ipcache (bpf/lib/ipcache.h).
const KEY: usize = 20;
const VALUE: usize = 12;

#[repr(C)]
#[derive(Default)]
struct Create {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

#[repr(C)]
struct Update {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads as many bytes as it is told, and what they point to outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), std::mem::size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Seconds that so many entries take into a map like the ipcache.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn seconds(entries: usize) -> Result<f64, Failure> {
    let create = Create {
        map_type: BPF_MAP_TYPE_HASH,
        key_size: KEY as u32,
        value_size: VALUE as u32,
        max_entries: u32::try_from(entries)?,
        map_flags: BPF_F_NO_PREALLOC,
    };
    let descriptor = i32::try_from(bpf(BPF_MAP_CREATE, &create)?)?;
    // SAFETY: the kernel has just given it to us.
    let map = unsafe { File::from_raw_fd(descriptor) };
    let (mut key, value) = ([0u8; KEY], [7u8; VALUE]);
    let start = Instant::now();
    for n in 0..entries as u64 {
        key[4..12].copy_from_slice(&n.to_be_bytes());
        let update = Update {
            map_fd: map.as_raw_fd() as u32,
            pad: 0,
            key: key.as_ptr() as u64,
            value: value.as_ptr() as u64,
            flags: 0,
        };
        bpf(BPF_MAP_UPDATE_ELEM, &update)?;
    }
    Ok(start.elapsed().as_secs_f64())
}
