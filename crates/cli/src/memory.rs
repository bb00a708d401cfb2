//! Memory that was only needed for a moment.

/// Gives what the allocator holds for later back to the system. To be called once a long listing is over: glibc
/// itself returns only what happens to lie at the end of a heap.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it only touches memory that nobody uses.
    unsafe {
        libc::malloc_trim(0);
    }
}
