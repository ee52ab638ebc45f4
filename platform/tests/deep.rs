//! A tree far deeper than a path can tell, and than open files are allowed by
//! default. Alone in this file, as it changes limits of the process.
#![cfg(target_os = "linux")]

mod common;

use std::sync::Arc;

use common::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tresor_engine::format::{Node, NodeKind};
use tresor_engine::sink::{NoStreams, SinkDir};
use tresor_engine::source::SourceDir;
use tresor_platform::{open_sink, open_source, raise_file_limit};

const LEVELS: usize = 3000;
const NAME: &[u8] = b"dddd";

fn lower_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(512), ..limit }).unwrap();
}

/// Makes the tree; gives every directory of it. Fails if too many files are open.
fn make(sink: &Arc<dyn SinkDir>, levels: usize) -> std::io::Result<Vec<Arc<dyn SinkDir>>> {
    let mut dirs = vec![sink.clone()];
    for _ in 0..levels {
        let below = dirs[dirs.len() - 1].make_dir(NAME)?;
        dirs.push(below);
    }
    Ok(dirs)
}

fn find(source: &Arc<dyn SourceDir>, levels: usize) -> Vec<Arc<dyn SourceDir>> {
    let mut dirs = vec![source.clone()];
    for _ in 0..levels {
        let above = &dirs[dirs.len() - 1];
        assert_eq!(above.names().unwrap(), [NAME]);
        assert!(look(&**above, NAME).is_dir());
        let below = above.open_dir(NAME).unwrap();
        dirs.push(below);
    }
    dirs
}

#[test]
fn deeper_than_any_path() {
    let hard = getrlimit(Resource::Nofile).maximum;
    if hard.is_some_and(|hard| hard < 2 * LEVELS as u64 + 100) {
        return;
    }
    let folder = folder();
    let sink = open_sink(folder.path()).unwrap();
    lower_file_limit();
    assert!(make(&sink, LEVELS).is_err(), "the limit must matter for this test to tell anything");
    raise_file_limit();
    let made = make(&sink, LEVELS).unwrap();

    let mut file = Node::new("bottom", NodeKind::File);
    (file.mode, file.size) = (0o600, 4);
    (file.uid, file.gid) =
        (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let bottom = &made[LEVELS];
    let mut writing = bottom.create_file(&file).unwrap();
    writing.write_at(b"deep", 0).unwrap();
    assert!(writing.finish(&file, &mut NoStreams).unwrap().is_empty());
    bottom.link(b"up there", &*sink, b"bottom").unwrap_err();
    sink.link(b"up here", &**bottom, b"bottom").unwrap();

    let mut dir = Node::new(NAME, NodeKind::Directory);
    (dir.uid, dir.gid, dir.mode) = (file.uid, file.gid, 0o711);
    dir.mtime.seconds = 1_000_000_000;
    assert!(made[LEVELS - 1].set_metadata(&dir, &mut NoStreams).unwrap().is_empty());

    std::fs::remove_file(folder.path().join("up here")).unwrap();
    let found = find(&open_source(folder.path()).unwrap(), LEVELS);
    assert_eq!(look(&*found[LEVELS - 1], NAME).mtime.seconds, 1_000_000_000);
    let mut read = found[LEVELS].open_file(b"bottom").unwrap();
    let mut buffer = [0; 10];
    assert_eq!(read.read_at(&mut buffer, 0).unwrap(), 4);
    assert_eq!(&buffer[..4], b"deep");
    drop((made, found, read));

    sink.remove_dir_all(NAME).unwrap();
    assert_eq!(sink.names().unwrap(), [b""; 0]);
}
