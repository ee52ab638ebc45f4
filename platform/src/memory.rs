//! How this process gets its memory.

/// Makes memory that is given back go back to the system. glibc keeps an arena
/// for each thread and, after the first large blocks came and went, keeps those
/// in them too: reading all of a large drive took 470 MB with a cache of 128 MB,
/// and 250 MB with these settings. To be called before threads are started.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn tame_allocator() {
    const ARENAS: libc::c_int = 2;
    const LARGE: libc::c_int = 64 << 10;
    // SAFETY: mallopt takes two numbers and no pointers; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Other allocators give memory back by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn tame_allocator() {}
