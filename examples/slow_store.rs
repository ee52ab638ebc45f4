//! How well a backup, a restore and the drive keep a line full that answers late.
//!
//! ```text
//! cargo run --release --example slow_store [MEGABYTES]
//! ```
//! For each latency and each use: requests, the most of them at once, seconds, and what the
//! line would have needed for the bytes alone in relation to them: 1 is a line always full.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tresor_engine::format::NodeKind;
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{Repository, Snapshot};
use tresor_engine::restorer::{RestoreOptions, restore};
use tresor_engine::select::SnapshotFilter;
use tresor_engine::store::{MemoryStore, Store};
use tresor_mountfs::{DriveOptions, Ino, Layout, LookUp, SnapshotFs};
use tresor_testkit::{Item, Line, SlowStore, Traffic, backup, init, open, options, random_bytes};

/// 100 Mbit/s.
const BYTES_PER_SECOND: f64 = 12.5e6;
const STEP: usize = 128 << 10;

type Done = Result<(), Box<dyn std::error::Error>>;

fn main() -> Done {
    let megabytes = std::env::args().nth(1).map_or(Ok(100), |text| text.parse())?;
    println!("latency  use                  requests  at once  seconds     MB  line");
    for latency in [50, 200] {
        let line =
            Line { latency: Duration::from_millis(latency), bytes_per_second: BYTES_PER_SECOND };
        run(line, "small files", &small_files(megabytes))?;
        let file = Item::file(random_bytes(&mut Rng::with_seed(1), megabytes << 20));
        run(line, "a large file", &Item::dir().with("file", file))?;
    }
    Ok(())
}

/// Of 8 KiB each.
fn small_files(megabytes: usize) -> Item {
    let mut rng = Rng::with_seed(2);
    (0..megabytes).fold(Item::dir(), |tree, folder| {
        let below = (0..128).fold(Item::dir(), |dir, n| {
            dir.with(format!("{n:03}"), Item::file(random_bytes(&mut rng, 8 << 10)))
        });
        tree.with(format!("{folder:04}"), below)
    })
}

fn run(line: Line, what: &str, tree: &Item) -> Done {
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let (slow, traffic) = SlowStore::new(store, line);
    let store: Store = Arc::new(slow);
    let measure = |use_of: &str, work: &mut dyn FnMut() -> Done| {
        traffic.reset();
        let begun = Instant::now();
        work()?;
        tell(line, &format!("{use_of}, {what}"), &traffic, begun.elapsed());
        Ok::<_, Box<dyn std::error::Error>>(())
    };
    let repo = open(&store);
    let mut snapshot = None;
    measure("backup", &mut || {
        snapshot = Some(backup(&repo, tree, &options(None)).0);
        Ok(())
    })?;
    let snapshot = snapshot.ok_or("no snapshot")?;
    let repo = open(&store);
    let target = tempfile::tempdir()?;
    measure("restore", &mut || {
        let sink = tresor_platform::open_sink(target.path())?;
        let (options, monitor) = (RestoreOptions::default(), Arc::new(Quiet::default()));
        Ok(restore(&repo, &snapshot.data.tree, &[], sink, &options, monitor).map(drop)?)
    })?;
    let repo = open(&store);
    let names: &[&[u8]] = if what == "a large file" { &[b"file"] } else { &[] };
    measure("drive", &mut || read_through(&repo, &snapshot, names))
}

/// Reads everything below a path on a drive from end to end, as `cp -r` does by the kernel.
fn read_through(repo: &Arc<Repository>, snapshot: &Snapshot, names: &[&[u8]]) -> Done {
    let options = DriveOptions {
        snapshot: Some(snapshot.clone()),
        filter: SnapshotFilter::default(),
        time_zone: jiff::tz::TimeZone::UTC,
        layout: Layout::Folders,
        cache_size: 128 << 20,
    };
    let fs = SnapshotFs::new(repo.clone(), options)?;
    let mut ino = Ino::ROOT;
    for name in names {
        ino = fs.lookup(ino, name)?.ino;
    }
    read_below(&fs, ino)
}

fn read_below(fs: &SnapshotFs, ino: Ino) -> Done {
    if fs.attr(ino)?.kind != NodeKind::Directory {
        return read_file(fs, ino);
    }
    let mut names = Vec::new();
    fs.read_dir(ino, 0, LookUp::Nothing, &mut |entry| {
        names.push(entry.name.to_vec());
        true
    })?;
    for name in names.iter().filter(|name| *name != b"." && *name != b"..") {
        read_below(fs, fs.lookup(ino, name)?.ino)?;
    }
    Ok(())
}

fn read_file(fs: &SnapshotFs, ino: Ino) -> Done {
    let mut at = 0;
    loop {
        fs.read_ahead(ino, at, STEP);
        match fs.read_at(ino, at, STEP)?.len() {
            0 => return Ok(()),
            read => at += read as u64,
        }
    }
}

fn tell(line: Line, what: &str, traffic: &Traffic, took: Duration) {
    let (requests, most) = (traffic.requests.load(SeqCst), traffic.most.load(SeqCst));
    let bytes = traffic.bytes.load(SeqCst) as f64;
    let full = bytes / line.bytes_per_second / took.as_secs_f64();
    let (latency, seconds) = (line.latency.as_millis(), took.as_secs_f64());
    println!(
        "{latency:>4} ms  {what:<22}{requests:>7}{most:>9}{seconds:>9.1}{:>7.0}  {full:.2}",
        bytes / 1e6
    );
}
