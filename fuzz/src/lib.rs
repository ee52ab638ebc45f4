//! What is fed to tresor's parsers, and what must hold whatever they are fed.
//!
//! Each target is a function of bytes that panics when a promise is broken. The
//! fuzzer (`libfuzzer/`, run by scripts/fuzz) and the replay of its corpus
//! (`tests/replay.rs`, run by scripts/test) call the same functions.

mod hostile;
mod kit;
mod nfs;
mod objects;
mod packs;
mod pages;
mod parity;
mod run;
mod seeds;
mod sink;
mod state;
mod text;
mod visit;
mod world;

// The command line's own parsers: the program is no library.
#[path = "../../src/human.rs"]
pub mod human;
#[path = "../../src/mount_helper.rs"]
pub mod mount_helper;
#[path = "../../src/parse.rs"]
pub mod parse;

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

pub use kit::{keys, sealed_text};
pub use seeds::seeds;
pub use sink::MemorySink;
pub use tresor_testkit::{Allocated, Counting, measure};

/// A parser, or several that belong together.
pub struct Target {
    pub name: &'static str,
    /// Panics if something doesn't hold.
    run: fn(&[u8]),
    /// What it may allocate at one time.
    peak: Bound,
    /// What it may allocate all together.
    total: Bound,
}

/// So many bytes, and so many more for each byte of input.
#[derive(Clone, Copy)]
pub struct Bound {
    pub fixed: usize,
    pub per_byte: usize,
}

impl Bound {
    const fn new(fixed: usize, per_byte: usize) -> Self {
        Self { fixed, per_byte }
    }

    fn of(&self, len: usize) -> usize {
        self.fixed + self.per_byte * len
    }
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// A decoder of a structure: one byte of CBOR can become an empty text, which takes
/// 24 bytes and, while the list of them grows, three times that. The fixed part is
/// for messages and for encoding again what was decoded.
const DECODER: (Bound, Bound) = (Bound::new(64 * KIB, 160), Bound::new(128 * KIB, 640));
/// The same out of a sealed and compressed object: what zstd makes of small inputs.
const UNPACKER: (Bound, Bound) = (Bound::new(2 * MIB, 400), Bound::new(8 * MIB, 2000));
/// The same, where the input is what is compressed, and small inputs may hold much:
/// the limits of format.md sections 4 and 6, once for each time that it is unpacked.
const SEALED: (Bound, Bound) = (Bound::new(66 * MIB, 400), Bound::new(132 * MIB, 2000));
const PACK: (Bound, Bound) = (Bound::new(20 * MIB, 400), Bound::new(80 * MIB, 2000));
/// Something short that a person types; the fixed part holds time zones.
const TEXT: (Bound, Bound) = (Bound::new(512 * KIB, 64), Bound::new(MIB, 1024));
/// A whole repository, opened and read: the 8 MiB of a key slot's Argon2id, caches,
/// and packs that are read whole.
const REPOSITORY: (Bound, Bound) =
    (Bound::new(64 * MIB, 4 * KIB), Bound::new(1024 * MIB, 64 * KIB));

const fn new(name: &'static str, run: fn(&[u8]), (peak, total): (Bound, Bound)) -> Target {
    Target { name, run, peak, total }
}

pub const TARGETS: &[Target] = &[
    new("config", objects::config, UNPACKER),
    new("key_slot", objects::key_slot, UNPACKER),
    new("sealed", objects::sealed, SEALED),
    new("index", objects::index, UNPACKER),
    new("snapshot", objects::snapshot, UNPACKER),
    new("pack", packs::pack, PACK),
    // Tables of the code's arithmetic are made once, and work is done in shards of 4 KiB.
    new("parity", parity::parity, (Bound::new(32 * MIB, 4 * KIB), Bound::new(64 * MIB, 16 * KIB))),
    new("segment", packs::segment, (Bound::new(36 * MIB, 8), Bound::new(80 * MIB, 64))),
    new("index_run", run::index_run, UNPACKER),
    new("state_file", state::state_file, REPOSITORY),
    new("tree_page", pages::tree_page, DECODER),
    new("content_page", pages::content_page, DECODER),
    new("patterns", text::patterns, (Bound::new(MIB, 16 * KIB), Bound::new(4 * MIB, 256 * KIB))),
    new("snapshot_spec", text::snapshot_spec, TEXT),
    new("arguments", text::arguments, TEXT),
    new("mount_options", text::mount_options, TEXT),
    new("nfs_calls", nfs::nfs_calls, REPOSITORY),
    new("repository", world::repository, REPOSITORY),
    new("hostile", hostile::hostile, REPOSITORY),
];

pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|t| t.name == name)
}

/// Whether any thread has panicked: the engine makes an error of that.
static PANICKED: AtomicBool = AtomicBool::new(false);

fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICKED.store(true, Relaxed);
            before(info);
        }));
    });
}

impl Target {
    /// Runs the target, and panics if it breaks a promise or takes too much memory.
    pub fn check(&self, input: &[u8]) {
        watch_panics();
        let (_, took) = measure(|| (self.run)(input));
        assert!(!PANICKED.load(Relaxed), "{}: a thread has panicked", self.name);
        let (peak, total) = (self.peak.of(input.len()), self.total.of(input.len()));
        assert!(
            took.peak <= peak && took.total <= total,
            "{}: {took:?} for {} bytes of input; the bounds are {peak} and {total}",
            self.name,
            input.len()
        );
    }
}
