//! Makes repositories of any size, for `scripts/bench scale` and `scripts/bench growth`.
//!
//! ```text
//! synthetic FOLDER PASSWORD-FILE SNAPSHOTS DIRECTORIES FILES CHUNKS CHANGED
//! synthetic index FOLDER PASSWORD-FILE BLOBS
//! synthetic backup FOLDER PASSWORD-FILE CACHE-FOLDER DIRECTORIES FILES
//! synthetic lookup FOLDER PASSWORD-FILE CACHE-FOLDER COUNT
//! ```
//! The first one makes a repository without payload (see `tresor_testkit::synthetic::Size` for
//! the numbers), the second one little but an index, and not even packs. The third one backs up
//! so many directories with so many small files each, which lie nowhere, and once more if that was done
//! before. The last one tells how long it takes to open the repository and to find a blob.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tresor_engine::archiver::backup;
use tresor_engine::crypto::{KdfCost, Password};
use tresor_engine::format::ObjectName;
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{InitOptions, OpenOptions, Repository};
use tresor_engine::store::{LocalStore, Store};
use tresor_engine::{Error, Result};
use tresor_testkit::synthetic::{Size, fill};
use tresor_testkit::{Forest, options};

type Done = std::result::Result<(), Box<dyn std::error::Error>>;

fn main() -> Done {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["lookup", folder, password, cache, count] => {
            lookup(folder, &read_password(password)?, cache, count.parse()?)
        }
        ["index", folder, password, blobs] => {
            index(folder, &read_password(password)?, blobs.parse()?)
        }
        ["backup", folder, password, cache, directories, files] => {
            let forest =
                Forest { directories: directories.parse()?, files: files.parse()?, len: 200 };
            back_up(folder, &read_password(password)?, cache, forest)
        }
        [folder, password, numbers @ ..] => make(folder, &read_password(password)?, numbers),
        _ => Err("see the comment at the beginning of its source".into()),
    }
}

fn read_password(file: &str) -> std::io::Result<Password> {
    let password = std::fs::read_to_string(file)?;
    Ok(Password::new(password.trim_end_matches('\n').as_bytes().to_vec()))
}

fn make(folder: &str, password: &Password, numbers: &[&str]) -> Done {
    let numbers: Vec<u64> =
        numbers.iter().map(|n| n.parse()).collect::<std::result::Result<_, _>>()?;
    let [snapshots, directories, files, chunks, changed] = numbers[..] else {
        return Err("five numbers are needed".into());
    };
    let repo = Repository::open(init(folder, password)?, password, &OpenOptions::default())?;
    let size = Size { snapshots, directories, files, chunks, changed, stored: 64 << 10, others: 0 };
    println!("{}", fill(&repo, &size, &|name, len| place(Path::new(folder), name, len))?);
    Ok(())
}

fn init(folder: &str, password: &Password) -> Result<Store> {
    let store: Store = Arc::new(LocalStore::new(folder));
    let options = InitOptions {
        label: "synthetic".into(),
        cost: KdfCost::FLOOR,
        parity: None,
        chunks: Default::default(),
    };
    Repository::init(&store, password, &options)?;
    Ok(store)
}

fn index(folder: &str, password: &Password, others: u64) -> Done {
    let repo = Repository::open(init(folder, password)?, password, &OpenOptions::default())?;
    let size = Size {
        snapshots: 10,
        directories: 10,
        files: 10,
        chunks: 1,
        changed: 1,
        stored: 64 << 10,
        others,
    };
    println!("{}", fill(&repo, &size, &|_, _| Ok(()))?);
    Ok(())
}

fn back_up(folder: &str, password: &Password, cache: &str, forest: Forest) -> Done {
    let store: Store = Arc::new(LocalStore::new(folder));
    if !Path::new(folder).join("config").exists() {
        init(folder, password)?;
    }
    let open = OpenOptions { cache: Some(cache.into()), ..Default::default() };
    let repo = Repository::open(store, password, &open)?;
    let options = options(repo.snapshots()?.pop());
    let outcome = backup(&repo, forest.source(), &options, Arc::new(Quiet::default()))?;
    let summary = outcome.data.summary;
    println!(
        "{{\"files\": {}, \"unchanged\": {}, \"blobs\": {}, \"stored\": {}}}",
        summary.files, summary.files_unchanged, summary.blobs_added, summary.bytes_stored
    );
    Ok(())
}

fn lookup(folder: &str, password: &Password, cache: &str, count: usize) -> Done {
    let store: Store = Arc::new(LocalStore::new(folder));
    let begun = Instant::now();
    let repo = Repository::open(
        store,
        password,
        &OpenOptions { cache: Some(cache.into()), ..Default::default() },
    )?;
    let open = begun.elapsed();
    let runs = repo.index().runs();
    let mut rng = fastrand::Rng::with_seed(1);
    let any = || {
        let run = &runs[rng.usize(..runs.len())];
        run.entry(rng.usize(..run.len())).map(|entry| entry.id)
    };
    let ids: Vec<_> = std::iter::repeat_with(any).take(count).flatten().collect();
    let begun = Instant::now();
    let found = ids.iter().filter(|id| repo.index().find(id).is_some()).count();
    let each = begun.elapsed().as_secs_f64() / count as f64;
    println!("{{\"open\": {}, \"lookup\": {each}, \"found\": {found}}}", open.as_secs_f64());
    Ok(())
}

/// A file that is one hole: commands that don't read packs find it as they should.
fn place(folder: &Path, name: &ObjectName, len: u64) -> Result<()> {
    let path = folder.join(name.path());
    let make = || {
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        File::create_new(&path)?.set_len(len)
    };
    make().map_err(|e| Error::io(format!("can't make {}", path.display()), e))
}
