//! How this process gets its memory.

/// What the program is to use as its global allocator. On Linux that is jemalloc:
/// glibc gives large blocks back to the system as soon as they are freed, and to
/// get fresh pages for each block costs more than to decrypt it, or keeps them for
/// good (docs/decisions/0006). Other systems' own allocators do.
#[cfg(target_os = "linux")]
pub type Allocator = tikv_jemallocator::Jemalloc;
#[cfg(not(target_os = "linux"))]
pub type Allocator = std::alloc::System;

#[cfg(target_os = "linux")]
pub const ALLOCATOR: Allocator = tikv_jemallocator::Jemalloc;
#[cfg(not(target_os = "linux"))]
pub const ALLOCATOR: Allocator = std::alloc::System;

/// One arena, since blocks are freed by other threads than those that made them;
/// pages that were not used for half a second go back when memory is asked for next.
#[cfg(target_os = "linux")]
// SAFETY: jemalloc looks for a C string under this name when it starts.
#[unsafe(export_name = "_rjem_malloc_conf")]
#[used]
static OPTIONS: Option<&'static std::ffi::c_char> = {
    const TEXT: &std::ffi::CStr = c"narenas:1,dirty_decay_ms:500,muzzy_decay_ms:0";
    // SAFETY: it points to the first of the bytes of a static string.
    Some(unsafe { &*TEXT.as_ptr() })
};
