//! Making room in the target for what isn't a regular file.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Shared;
use super::streams::with_streams;
use crate::contents;
use crate::error::Result;
use crate::format::{Node, display_name};
use crate::sink::{Kept, MetadataProblem, SinkDir, Streams};

/// A directory of the target that is made when something goes into it.
#[derive(Clone)]
pub(super) enum Place {
    There(Arc<dyn SinkDir>),
    /// Likewise, and it was made by this restore: nothing was in it.
    New(Arc<dyn SinkDir>),
    /// Not there, and a dry run won't make it.
    Missing,
    /// To be made under this name in the frame before.
    Later(Vec<u8>),
    /// Left alone, since it is this.
    Kept(&'static str),
    /// Nothing can go into it; that was reported.
    Failed,
}

pub(super) fn in_the_way() -> io::Error {
    let message = "there is a directory of that name in the target (--delete would remove it)";
    io::Error::new(io::ErrorKind::AlreadyExists, message)
}

/// Whether a directory may go that is in the way of something else.
pub(super) fn may_go(shared: &Shared<'_>, dir: &dyn SinkDir, name: &[u8]) -> io::Result<()> {
    if !shared.options.delete {
        return Err(in_the_way());
    }
    let message = match dir.kept(name)? {
        Kept::No => return Ok(()),
        Kept::Around(what) => format!("{what} is in the directory of that name in the target"),
        Kept::Itself(what) => format!("the directory of that name in the target is {what}"),
    };
    Err(io::Error::new(io::ErrorKind::ResourceBusy, message))
}

/// How a directory of the snapshot is to come into the target.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// It was asked for, so something else of that name makes room.
    Asked,
    /// The same, but nothing is known of what is in it, so nothing makes room.
    Unreadable,
    /// Something in it was asked for.
    Passing,
}

/// Opens or makes a directory of the target; also whether it is new.
pub(super) fn directory(
    shared: &Shared<'_>,
    parent: &dyn SinkDir,
    name: &[u8],
    way: Way,
) -> io::Result<(Place, bool)> {
    let there = parent.stat(name)?;
    let is_dir = there.as_ref().is_some_and(Node::is_dir);
    if there.is_some() && !is_dir && way != Way::Asked {
        let message = "there is something else of that name in the target";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    if is_dir && let Kept::Itself(what) = parent.kept(name)? {
        return Ok((Place::Kept(what), false));
    }
    let dir = match there {
        // As it is: `make_dir` may open it up to us, which only its metadata takes back.
        Some(_) if is_dir && (shared.options.dry_run || way == Way::Passing) => {
            parent.open_dir(name)?
        }
        _ if shared.options.dry_run => return Ok((Place::Missing, true)),
        Some(_) if is_dir => parent.make_dir(name)?,
        Some(_) => {
            parent.remove(name)?;
            parent.make_dir(name)?
        }
        None => parent.make_dir(name)?,
    };
    Ok(if is_dir { (Place::There(dir), false) } else { (Place::New(dir), true) })
}

/// Opens the directory that a path of the snapshot is in; also its name there. `base` is the
/// length of the path that the target stands for.
pub(super) fn open_above<'p>(
    target: &Arc<dyn SinkDir>,
    base: usize,
    path: &'p [u8],
) -> io::Result<(Arc<dyn SinkDir>, &'p [u8])> {
    let below = path.get(base + 1..).unwrap_or_default();
    let mut names: Vec<&[u8]> = below.split(|b| *b == b'/').collect();
    let name = names.pop().unwrap_or_default();
    let dir = names.iter().try_fold(target.clone(), |dir, part| dir.open_dir(part))?;
    Ok((dir, name))
}

/// Makes a symlink, FIFO, socket or device, and reports how that went. `dir` is
/// `None` in a dry run if the directory isn't there.
pub(super) fn special(
    shared: &Shared<'_>,
    dir: Option<&dyn SinkDir>,
    node: &Node,
    path: &[u8],
) -> Result<()> {
    shared.counts.others.fetch_add(1, Relaxed);
    shared.monitor.progress().add(1, 0);
    if let Err(e) = contents::check(node) {
        shared.problem(path, &format!("not restored: {e}"));
        shared.fail(node, path);
        return Ok(());
    }
    let made = dir.map(|dir| with_streams(shared, node, |s| make_special(shared, dir, node, s)));
    match made.transpose()?.transpose() {
        Ok(problems) => {
            shared.metadata_problems(path, &problems.unwrap_or_default());
            shared.monitor.entry("restored", &|| display_name(path));
        }
        Err(e) => {
            shared.problem(path, &format!("can't be made: {e}"));
            shared.fail(node, path);
        }
    }
    Ok(())
}

fn make_special(
    shared: &Shared<'_>,
    dir: &dyn SinkDir,
    node: &Node,
    streams: &mut dyn Streams,
) -> io::Result<Vec<MetadataProblem>> {
    if dir.stat(&node.name)?.is_some_and(|there| there.is_dir()) {
        may_go(shared, dir, &node.name)?;
    }
    if shared.options.dry_run {
        return Ok(Vec::new());
    }
    replace(shared, dir, &node.name, || dir.make_special(node, streams))
}

/// Puts something under a name. A directory there is removed only if that was
/// asked for, and only once it is the only thing in the way.
pub(super) fn replace<T>(
    shared: &Shared<'_>,
    dir: &dyn SinkDir,
    name: &[u8],
    mut put: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    match put() {
        Err(e) if e.kind() == io::ErrorKind::IsADirectory => {
            may_go(shared, dir, name)?;
            dir.remove_dir_all(name)?;
            put()
        }
        result => result,
    }
}
