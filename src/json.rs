//! What `--json` says. The names are part of the interface: docs/json.md describes
//! them, and they don't change.

use serde::Serialize;
use tresor_engine::format::{self, Node, NodeKind, PathBytes, display_name};
use tresor_engine::repo;

use crate::human;

/// A path as text: as it is, or with `\xNN` for bytes that are no UTF-8.
pub fn path_text(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) => text.to_owned(),
        Err(_) => display_name(path),
    }
}

/// The bytes of a path, for those that are no UTF-8.
fn path_hex(path: &[u8]) -> Option<String> {
    std::str::from_utf8(path).is_err().then(|| hex(path))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Meant to be flattened into something else.
#[derive(Serialize)]
pub struct Path {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
}

impl Path {
    pub fn new(path: &[u8]) -> Self {
        Self { path: path_text(path), path_hex: path_hex(path) }
    }
}

#[derive(Serialize)]
pub struct Snapshot {
    id: String,
    short_id: String,
    time: String,
    host: String,
    user: String,
    paths: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paths_hex: Option<Vec<String>>,
    tags: Vec<String>,
    summary: Summary,
    program: String,
}

impl Snapshot {
    pub fn new(snapshot: &repo::Snapshot) -> Self {
        let data = &snapshot.data;
        let text = |p: &PathBytes| path_text(&p.0);
        let odd = data.paths.iter().any(|p| std::str::from_utf8(&p.0).is_err());
        Self {
            id: snapshot.id.to_string(),
            short_id: snapshot.id.short(),
            time: human::rfc3339(data.time, data.utc_offset),
            host: data.host.clone(),
            user: data.user.clone(),
            paths: data.paths.iter().map(text).collect(),
            paths_hex: odd.then(|| data.paths.iter().map(|p| hex(&p.0)).collect()),
            tags: data.tags.clone(),
            summary: Summary::new(&data.summary),
            program: data.program.clone(),
        }
    }
}

#[derive(Serialize)]
pub struct Summary {
    files: u64,
    directories: u64,
    others: u64,
    bytes: u64,
    files_new: u64,
    files_changed: u64,
    files_unchanged: u64,
    blobs_added: u64,
    bytes_added: u64,
    bytes_stored: u64,
    errors: u64,
    seconds: f64,
}

impl Summary {
    pub fn new(s: &format::Summary) -> Self {
        Self {
            files: s.files,
            directories: s.directories,
            others: s.others,
            bytes: s.bytes,
            files_new: s.files_new,
            files_changed: s.files_changed,
            files_unchanged: s.files_unchanged,
            blobs_added: s.blobs_added,
            bytes_added: s.bytes_added,
            bytes_stored: s.bytes_stored,
            errors: s.errors,
            seconds: s.seconds,
        }
    }
}

/// An entry of a snapshot.
#[derive(Serialize)]
pub struct Entry {
    #[serde(flatten)]
    path: Path,
    name: String,
    kind: &'static str,
    size: u64,
    mode: u32,
    permissions: String,
    uid: u32,
    gid: u32,
    user: Option<String>,
    group: Option<String>,
    mtime: String,
    links: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    streams: Vec<Stream>,
}

/// An extended attribute that is stored as the contents of files are.
#[derive(Serialize)]
struct Stream {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_hex: Option<String>,
    size: Option<u64>,
}

impl Stream {
    fn new(stream: &format::Stream) -> Self {
        let (name, name_hex) = (path_text(&stream.name), path_hex(&stream.name));
        Self { name, name_hex, size: stream.content.size() }
    }
}

impl Entry {
    pub fn new(path: &[u8], node: &Node) -> Self {
        Self {
            path: Path::new(path),
            name: path_text(&node.name),
            kind: kind(node.kind),
            size: if node.is_file() { node.size } else { 0 },
            mode: node.mode,
            permissions: human::permissions(node),
            uid: node.uid,
            gid: node.gid,
            user: node.user.clone(),
            group: node.group.clone(),
            mtime: human::rfc3339(node.mtime, 0),
            links: node.link.map_or(1, |l| l.names),
            target: node.target.as_deref().map(path_text),
            target_hex: node.target.as_deref().and_then(path_hex),
            device: node.device,
            streams: node.streams().iter().map(Stream::new).collect(),
        }
    }
}

fn kind(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::File => "file",
        NodeKind::Directory => "directory",
        NodeKind::Symlink => "symlink",
        NodeKind::Fifo => "fifo",
        NodeKind::Socket => "socket",
        NodeKind::CharDevice => "char_device",
        NodeKind::BlockDevice => "block_device",
    }
}
