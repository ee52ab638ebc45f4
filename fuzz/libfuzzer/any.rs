//! One program for all targets: `TRESOR_FUZZ_TARGET` says which.
#![no_main]

use std::sync::LazyLock;

use tresor_fuzz::{Counting, Target};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
    let name = std::env::var("TRESOR_FUZZ_TARGET").unwrap_or_default();
    tresor_fuzz::target(&name).unwrap_or_else(|| panic!("TRESOR_FUZZ_TARGET={name} is no target"))
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| TARGET.check(input));
