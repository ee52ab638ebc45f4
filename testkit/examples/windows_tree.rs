//! Saves what the file systems of a test machine can't hold: streams of more than 64 KiB, streams
//! of folders and links, and a junction. For `scripts/test-windows`.
//!
//! ```text
//! windows_tree REPOSITORY
//! ```
//! The password is that of `TRESOR_PASSWORD`. `tests/windows/test_drive.py` knows what it makes.

use std::path::PathBuf;
use std::sync::Arc;

use tresor_engine::crypto::Password;
use tresor_engine::repo::{OpenOptions, Repository};
use tresor_engine::store::LocalStore;
use tresor_testkit::{Item, backup, options};

type Done = Result<(), Box<dyn std::error::Error>>;

fn main() -> Done {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("no repository given")?);
    let password = Password::new(std::env::var("TRESOR_PASSWORD")?.into_bytes());
    let store = Arc::new(LocalStore::new(folder));
    let repo = Repository::open(store, &password, &OpenOptions::default())?;
    backup(&repo, &tree(), &options(None));
    Ok(())
}

fn tree() -> Item {
    Item::dir()
        .with("file", with_streams(Item::file("text")))
        .with("folder", with_streams(Item::dir().with("inside", Item::file("in"))))
        .with("link", with_streams(Item::symlink("folder")))
        .with("down to a file", Item::symlink("/folder/inside"))
        .with("down to a folder", Item::symlink("/folder"))
        .with("down to nothing", Item::symlink("/there"))
        .with("junction", junction())
}

fn with_streams(item: Item) -> Item {
    let long: Vec<u8> = (0..200_000u32).map(|i| (i * 31 / 7) as u8).collect();
    item.with_attribute("user.win.stream.short", "short")
        .with_attribute("user.win.stream.Long", long)
}

/// To `C:\there`.
fn junction() -> Item {
    let name = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let (target, shown) = (name(r"\??\C:\there"), name(r"C:\there"));
    let places = [0, target.len(), target.len() + 2, shown.len()];
    let mut data = 0xa000_0003_u32.to_le_bytes().to_vec();
    let len = 8 + target.len() + 2 + shown.len() + 2;
    data.extend([len, 0].iter().flat_map(|n| (*n as u16).to_le_bytes()));
    data.extend(places.iter().flat_map(|n| (*n as u16).to_le_bytes()));
    data.extend([target, vec![0, 0], shown, vec![0, 0]].concat());
    Item::symlink("/C/there")
        .with_attribute("user.win.attributes", 0x410_u32.to_le_bytes())
        .with_attribute("user.win.reparse", data)
}
