//! Copies a tree from a source to a sink as backup and restore do together,
//! and tells what differs between two trees.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use tresor_engine::format::{LinkId, Node, NodeKind, Time, Xattr};
use tresor_engine::sink::{MetadataProblem, NoStreams, SinkDir};
use tresor_engine::source::{Room, SourceDir, SourceFile};

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// An empty folder; those who aren't root may reach what is in it.
pub fn folder() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// A node that this process may own.
pub fn node(name: &str, kind: NodeKind) -> Node {
    let mut node = Node::new(name, kind);
    node.mode = 0o644;
    node.uid = rustix::process::geteuid().as_raw();
    node.gid = rustix::process::getegid().as_raw();
    node.mtime = Time::new(1_000_000_000, 1);
    node.ctime = node.mtime;
    if kind == NodeKind::Symlink {
        node.target = Some(b"anywhere".to_vec());
    }
    node
}

pub fn write(sink: &dyn SinkDir, node: &Node, data: &[u8]) -> std::io::Result<()> {
    let mut node = node.clone();
    node.size = data.len() as u64;
    let mut file = sink.create_file(&node)?;
    file.write_at(data, 0)?;
    assert_eq!(told(&file.finish(&node, &mut NoStreams)?), [""; 0]);
    Ok(())
}

/// An empty folder to restore to.
pub fn sink_and_folder() -> (Arc<dyn SinkDir>, tempfile::TempDir) {
    let folder = folder();
    (tresor_platform::open_sink(folder.path()).unwrap(), folder)
}

pub fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

pub fn add_xattr(node: &mut Node, name: &str, value: &[u8]) {
    let x = Xattr { name: name.into(), value: value.into() };
    node.xattrs.get_or_insert_default().push(x);
}

/// The entry with everything about it.
pub fn look(dir: &dyn SourceDir, name: &[u8]) -> Node {
    let (mut node, _) = dir.stat(name).unwrap();
    dir.details(&mut node, &mut Room::with_streams()).unwrap();
    node
}

pub fn look_in(folder: &Path, name: &str) -> Node {
    look(&*tresor_platform::open_source(folder).unwrap(), name.as_bytes())
}

pub fn sorted_names(dir: &dyn SourceDir) -> Vec<Vec<u8>> {
    let mut names = dir.names().unwrap();
    names.sort();
    names
}

#[derive(Default)]
pub struct Copier {
    links: HashMap<LinkId, (Arc<dyn SinkDir>, Vec<u8>)>,
    pub problems: Vec<String>,
}

/// Copies what is in one folder to another; returns problems with metadata.
pub fn copy(from: &Path, to: &Path) -> Vec<String> {
    let mut copier = Copier::default();
    let source = tresor_platform::open_source(from).unwrap();
    copier.tree(&*source, &tresor_platform::open_sink(to).unwrap());
    copier.problems
}

impl Copier {
    pub fn tree(&mut self, from: &dyn SourceDir, to: &Arc<dyn SinkDir>) {
        for name in sorted_names(from) {
            self.entry(from, to, &look(from, &name));
        }
    }

    pub fn entry(&mut self, from: &dyn SourceDir, to: &Arc<dyn SinkDir>, node: &Node) {
        if let Some((dir, first)) = node.link.and_then(|link| self.links.get(&link)) {
            return to.link(&node.name, &**dir, first).unwrap();
        }
        if let Some(link) = node.link {
            self.links.insert(link, (to.clone(), node.name.clone()));
        }
        let problems = if node.is_dir() {
            let below = to.make_dir(&node.name).unwrap();
            self.tree(&*from.open_dir(&node.name).unwrap(), &below);
            to.set_metadata(node, &mut NoStreams).unwrap()
        } else if node.is_file() {
            copy_file(from, &**to, node)
        } else {
            to.make_special(node, &mut NoStreams).unwrap()
        };
        self.problems.extend(told(&problems));
    }
}

pub fn told(problems: &[MetadataProblem]) -> Vec<String> {
    problems.iter().map(|p| format!("{}: {}", p.what, p.error)).collect()
}

fn copy_file(from: &dyn SourceDir, to: &dyn SinkDir, node: &Node) -> Vec<MetadataProblem> {
    let mut file = from.open_file(&node.name).unwrap();
    let mut copy = to.create_file(node).unwrap();
    for run in data_runs(&mut *file, node.size) {
        let mut at = run.start;
        let mut buffer = vec![0; 1 << 16];
        while at < run.end {
            let want = (run.end - at).min(buffer.len() as u64) as usize;
            let read = file.read_at(&mut buffer[..want], at).unwrap();
            assert!(read > 0);
            copy.write_at(&buffer[..read], at).unwrap();
            at += read as u64;
        }
    }
    copy.finish(node, &mut NoStreams).unwrap()
}

pub fn data_runs(file: &mut dyn SourceFile, size: u64) -> Vec<std::ops::Range<u64>> {
    let (mut runs, mut at) = (Vec::new(), 0);
    while let Some(run) = file.next_data(at).unwrap() {
        assert!(run.start >= at && run.end > run.start);
        at = run.end.min(size);
        runs.push(run.start..at);
        if at == size {
            break;
        }
    }
    runs
}

/// What differs between two trees, with everything that a restore must bring back.
pub fn differences(a: &dyn SourceDir, b: &dyn SourceDir) -> Vec<String> {
    let mut found = Vec::new();
    let mut links = HashMap::new();
    compare(a, b, "", &mut links, &mut found);
    found
}

fn compare(
    a: &dyn SourceDir,
    b: &dyn SourceDir,
    path: &str,
    links: &mut HashMap<LinkId, LinkId>,
    found: &mut Vec<String>,
) {
    if sorted_names(a) != sorted_names(b) {
        found.push(format!("{path}/: names"));
    }
    for name in sorted_names(a) {
        if b.stat(&name).is_err() {
            continue;
        }
        let (of_a, mut of_b) = (look(a, &name), look(b, &name));
        let path = format!("{path}/{}", name.escape_ascii());
        match (of_a.link, of_b.link) {
            (Some(one), Some(other)) => {
                if *links.entry(one).or_insert(other) != other || one.names != other.names {
                    found.push(format!("{path}: hard links"));
                }
            }
            (None, None) => {}
            _ => found.push(format!("{path}: hard links")),
        }
        (of_b.ctime, of_b.inode, of_b.link) = (of_a.ctime, of_a.inode, of_a.link);
        if of_a.kind == NodeKind::Symlink {
            // Reading a link renews its access time, and nothing can be done about it.
            of_b.atime = of_a.atime;
        }
        if of_a != of_b {
            found.push(format!("{path}: {of_a:?} is now {of_b:?}"));
        } else if of_a.is_dir() {
            compare(
                &*a.open_dir(&name).unwrap(),
                &*b.open_dir(&name).unwrap(),
                &path,
                links,
                found,
            );
        } else if of_a.is_file() && !same_data(a, b, &of_a) {
            found.push(format!("{path}: data"));
        }
    }
}

fn same_data(a: &dyn SourceDir, b: &dyn SourceDir, node: &Node) -> bool {
    let mut a = a.open_file(&node.name).unwrap();
    let mut b = b.open_file(&node.name).unwrap();
    let runs = data_runs(&mut *a, node.size);
    runs == data_runs(&mut *b, node.size)
        && runs.into_iter().all(|run| {
            let read = |file: &mut dyn SourceFile| {
                let mut buffer = vec![0; (run.end - run.start) as usize];
                let mut done = 0;
                while done < buffer.len() {
                    match file.read_at(&mut buffer[done..], run.start + done as u64).unwrap() {
                        0 => break,
                        n => done += n,
                    }
                }
                buffer
            };
            read(&mut *a) == read(&mut *b)
        })
}

pub fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(path, name, value, flags).unwrap_or_else(|e| panic!("{name}: {e}"));
}

/// Read by other means than the crate's own.
pub fn get_xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 1 << 16];
    let len = rustix::fs::lgetxattr(path, name, &mut buffer[..]).ok()?;
    buffer.truncate(len);
    Some(buffer)
}

/// A POSIX ACL as the kernel keeps it: the owner, one named user, the group, a mask, others.
pub fn acl(user: u16, named: (u32, u16), group: u16, mask: u16, other: u16) -> Vec<u8> {
    const NO_ID: u32 = u32::MAX;
    let entries = [
        (0x01, user, NO_ID),
        (0x02, named.1, named.0),
        (0x04, group, NO_ID),
        (0x10, mask, NO_ID),
        (0x20, other, NO_ID),
    ];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(u16::to_le_bytes(tag));
        bytes.extend(u16::to_le_bytes(permissions));
        bytes.extend(u32::to_le_bytes(id));
    }
    bytes
}

pub const ACCESS: &str = "system.posix_acl_access";
pub const DEFAULT: &str = "system.posix_acl_default";

/// The capability cap_net_bind_service=ep, as the kernel keeps it.
pub fn capability() -> Vec<u8> {
    let mut bytes = 0x0200_0001_u32.to_le_bytes().to_vec();
    bytes.extend((1u32 << 10).to_le_bytes());
    bytes.extend([0; 12]);
    bytes
}
