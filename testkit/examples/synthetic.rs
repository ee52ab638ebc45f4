//! Makes a repository without payload of any size, for `scripts/bench scale`.
//!
//! ```text
//! synthetic FOLDER PASSWORD-FILE SNAPSHOTS DIRECTORIES FILES CHUNKS CHANGED
//! ```
//! See `tresor_testkit::synthetic::Size` for the numbers.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use tresor_engine::Error;
use tresor_engine::crypto::{KdfCost, Password};
use tresor_engine::format::ObjectName;
use tresor_engine::repo::{InitOptions, OpenOptions, Repository};
use tresor_engine::store::{LocalStore, Store};
use tresor_testkit::synthetic::{Size, fill};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, password_file, numbers @ ..] = &arguments[..] else {
        return Err(
            "synthetic FOLDER PASSWORD-FILE SNAPSHOTS DIRECTORIES FILES CHUNKS CHANGED".into()
        );
    };
    let numbers: Vec<u64> = numbers.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
    let [snapshots, directories, files, chunks, changed] = numbers[..] else {
        return Err("five numbers are needed".into());
    };
    let password = std::fs::read_to_string(password_file)?;
    let password = Password::new(password.trim_end_matches('\n').as_bytes().to_vec());
    let store: Store = Arc::new(LocalStore::new(folder));
    let options = InitOptions { label: "synthetic".into(), cost: KdfCost::FLOOR };
    Repository::init(&store, &password, &options)?;
    let repo = Repository::open(store, &password, &OpenOptions::default())?;
    let size = Size { snapshots, directories, files, chunks, changed, stored: 64 << 10 };
    println!("{}", fill(&repo, &size, &|name, len| place(Path::new(folder), name, len))?);
    Ok(())
}

/// A file that is one hole: commands that don't read packs find it as they should.
fn place(folder: &Path, name: &ObjectName, len: u64) -> tresor_engine::Result<()> {
    let path = folder.join(name.path());
    let make = || {
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        File::create_new(&path)?.set_len(len)
    };
    make().map_err(|e| Error::io(format!("can't make {}", path.display()), e))
}
