//! Gives an entry of the target the metadata of a node. The order matters:
//! - a change of owner takes away setuid, setgid and capabilities, so it comes first;
//! - a user may set attributes only on a file he can write, so they come before
//!   what can close it to him, an ACL or the mode;
//! - an ACL also changes the mode and may take away setgid, so the mode comes
//!   after it (and agrees: the mode's group part is the ACL's mask);
//! - the times come last, but for what only macOS has (`macos.rs`).

use std::io;

use rustix::fs::{Gid, Stat, Timespec, Timestamps, Uid};
use tresor_engine::format::{Node, NodeKind, Time, macos, windows};
use tresor_engine::sink::{MetadataProblem, Streams};

use super::handle::Handle;
use super::xattr::{self, is_acl};
use super::{own, stat};

/// Sets all that can be set, and tells what can't. What is right already is not touched. Once
/// the entry has its name, `own::seal` follows.
pub(super) fn apply(
    handle: &Handle<'_>,
    node: &Node,
    streams: &mut dyn Streams,
) -> io::Result<Vec<MetadataProblem>> {
    let mut setter = Setter { handle, node, streams, problems: Vec::new() };
    let before = handle.stat()?;
    if stat::kind(&before)? != node.kind {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "is of another kind now"));
    }
    own::unlock(handle, &before);
    setter.owner(&before);
    let there = setter.xattr_names();
    let has_any = !there.is_empty() || node.attributes().next().is_some();
    if has_any {
        setter.open_up()?;
        setter.xattrs(&there);
    }
    // Of most files nothing was touched, and then nothing is asked again.
    let now = if has_any || !has_owner(&before, node) { handle.stat()? } else { before };
    setter.mode(&now);
    // A change of mode touches no times.
    setter.times(&now);
    own::apply(handle, node, &mut setter.problems);
    Ok(setter.problems)
}

struct Setter<'a> {
    handle: &'a Handle<'a>,
    node: &'a Node,
    streams: &'a mut dyn Streams,
    problems: Vec<MetadataProblem>,
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn has_owner(stat: &Stat, node: &Node) -> bool {
    (stat.st_uid, stat.st_gid) == (node.uid, node.gid)
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

impl Setter<'_> {
    fn problem(&mut self, what: impl Into<String>, error: impl Into<io::Error>) {
        self.problems.push(MetadataProblem { what: what.into(), error: error.into() });
    }

    /// The recorded numbers. Only root can give files away: for others that is
    /// no problem, but they try to set at least the group.
    fn owner(&mut self, now: &Stat) {
        if has_owner(now, self.node) {
            return;
        }
        // The system takes this number for "leave it".
        if self.node.uid == u32::MAX || self.node.gid == u32::MAX {
            return self.problem("owner", invalid("there is no such owner"));
        }
        let (user, group) = (Uid::from_raw(self.node.uid), Gid::from_raw(self.node.gid));
        match self.handle.chown(Some(user), Some(group)) {
            Ok(()) => {}
            Err(e) if is_root() => self.problem("owner", e),
            Err(_) if now.st_gid != self.node.gid => drop(self.handle.chown(None, Some(group))),
            Err(_) => {}
        }
    }

    /// Setuid and setgid are meant for the recorded owner, and set for no other.
    fn mode(&mut self, now: &Stat) {
        if self.node.kind == NodeKind::Symlink {
            return;
        }
        let unsafe_bits = if has_owner(now, self.node) { 0 } else { 0o6000 };
        let mode = self.node.mode & 0o7777 & !unsafe_bits;
        if stat::mode(now) != mode
            && let Err(e) = self.handle.chmod(mode)
        {
            self.problem("permissions", e);
        }
    }

    fn times(&mut self, now: &Stat) {
        let (mtime, atime) = (self.node.mtime, self.node.atime);
        if stat::mtime(now) == mtime && stat::atime(now) == atime {
            return;
        }
        match (timespec(mtime), timespec(atime)) {
            (Some(last_modification), Some(last_access)) => {
                let times = Timestamps { last_access, last_modification };
                if let Err(e) = self.handle.set_times(&times) {
                    self.problem("times", e);
                }
            }
            _ => self.problem("times", invalid("a second has no so many nanoseconds")),
        }
    }

    fn xattr_names(&mut self) -> Vec<Vec<u8>> {
        match self.handle.holder().map(|holder| holder.names()) {
            Some(Ok(names)) => names,
            Some(Err(e)) => {
                self.problem("extended attributes", e);
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    /// Lets a user read and set attributes of a file that its mode keeps from him.
    fn open_up(&mut self) -> io::Result<()> {
        if is_root() || !matches!(self.node.kind, NodeKind::File | NodeKind::Directory) {
            return Ok(());
        }
        let mode = stat::mode(&self.handle.stat()?);
        if mode & 0o600 != 0o600 {
            // If this fails, so will what needs it, and tells.
            let _ = self.handle.chmod(mode | 0o600);
        }
        Ok(())
    }

    /// Makes the attributes those of the node.
    fn xattrs(&mut self, there: &[Vec<u8>]) {
        let node = self.node;
        let Some(holder) = self.handle.holder() else {
            for (name, _) in node.attributes().filter(|(name, _)| !own::has_own_calls(name)) {
                self.problem(shown(name), io::Error::from(io::ErrorKind::Unsupported));
            }
            return;
        };
        // It may have had more than could be saved; rights are never more than what was saved.
        let is_kept = |name: &[u8]| node.may_lack_attributes() && !xattr::gives_rights(name);
        let is_superfluous = |name: &&Vec<u8>| {
            xattr::is_removable(name) && node.attribute(name).is_none() && !is_kept(name)
        };
        for name in there.iter().filter(is_superfluous) {
            if let Err(e) = holder.remove(name) {
                self.problem(format!("{} (to be removed)", shown(name)), e);
            }
        }
        for stream in node.streams().iter().filter(|s| can_have(node, &s.name)) {
            if let Err(e) = holder.put(stream, self.streams) {
                self.problem(shown(&stream.name), e);
            }
        }
        let wanted = node.xattrs().iter().filter(|x| can_have(node, &x.name));
        let (acls, others): (Vec<_>, Vec<_>) = wanted.partition(|x| is_acl(&x.name));
        for x in others.into_iter().chain(acls) {
            let is_right = there.contains(&x.name)
                && holder.get(&x.name).is_ok_and(|now| now.as_ref() == Some(&x.value));
            if !is_right && let Err(e) = holder.set(&x.name, &x.value) {
                self.problem(shown(&x.name), e);
            }
        }
    }
}

/// Linux keeps no such attributes of symlinks, and what other systems keep of one means
/// nothing here. A stream is somebody's data: that it can't be kept is told.
fn can_have(node: &Node, name: &[u8]) -> bool {
    let is_foreign = [windows::PREFIX, macos::PREFIX].iter().any(|p| name.starts_with(p))
        && !name.starts_with(windows::STREAM);
    !own::has_own_calls(name) && (node.kind != NodeKind::Symlink || !is_foreign)
}

fn shown(name: &[u8]) -> String {
    format!("extended attribute {}", name.escape_ascii())
}

/// `None` for what can't be a time, such as the numbers that mean "now" and "leave it".
fn timespec(time: Time) -> Option<Timespec> {
    (time.nanos < 1_000_000_000)
        .then_some(Timespec { tv_sec: time.seconds, tv_nsec: time.nanos as _ })
}
