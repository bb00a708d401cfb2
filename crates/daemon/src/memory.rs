//! Memory that is free, given back.

/// Gives what is free inside the heap back to the system. glibc keeps the memory of a busy time for the
/// next one and gives back only what is free at the very top; a process that has just read hundreds of
/// thousands of objects would keep all that was only needed on the way. Takes milliseconds; does nothing
/// with another C library.
pub fn release() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes no pointers, may be called at any time from any thread (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}
