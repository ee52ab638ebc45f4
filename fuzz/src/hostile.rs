//! Trees that nobody saved, in a repository that is otherwise whole: what somebody
//! with the key can write. Nothing leaves the target, hangs, or brings the program down.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arbitrary::Unstructured;
use tresor_engine::format::windows::STREAM;
use tresor_engine::format::{
    BlobId, BlobKind, Branch, Content, ContentPage, Extent, ExtentPage, LinkId, Node, NodeKind,
    PathBytes, SnapshotData, Stream, Time, TreePage, Xattr,
};
use tresor_engine::maintenance::{
    PruneOptions, RepairSnapshotsOptions, plan_prune, prune, repair_snapshots,
};
use tresor_engine::monitor::Quiet;
use tresor_engine::pack::{NewSegment, PackWriter, Packed};
use tresor_engine::repo::{Repository, Snapshot};
use tresor_engine::store::{MemoryStore, Store};

use crate::kit::*;
use crate::visit;

/// Entries that all paths together may have: trees can describe more than there is
/// time for, which is no fault of the reader.
const MOST: u64 = 1500;

/// Blobs made so far, from the leaves upwards, and how many entries are below each.
#[derive(Default)]
struct Blobs {
    segments: Vec<NewSegment>,
    trees: Vec<(BlobId, u64)>,
    contents: Vec<(BlobId, u64)>,
    chunks: Vec<(BlobId, u64)>,
    known: HashMap<BlobId, u64>,
}

static EMPTY: LazyLock<Copies> = LazyLock::new(|| {
    let store: Store = Arc::new(MemoryStore::new());
    crate::world::init(&store);
    Copies::of(&store)
});

pub fn hostile(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let repo = crate::world::open(&EMPTY.store()).unwrap();
    let how = byte(&mut input);
    let mut blobs = Blobs::default();
    for _ in 0..24 {
        if input.is_empty() {
            break;
        }
        blobs.make(&repo, &mut input);
    }
    let Some(&(root, entries)) = blobs.trees.last() else { return };
    if entries > MOST {
        return;
    }
    let mut writer = PackWriter::new(repo.clone());
    for segment in blobs.segments {
        writer.add(&Packed::from(segment)).unwrap();
    }
    writer.finish().unwrap();
    let snapshot = save(&repo, root);
    let before = visit::look_at(&repo, &snapshot);
    visit::folders(&repo);
    let found = visit::commands(&repo, std::slice::from_ref(&snapshot));
    if found.is_some_and(|found| found.problems.is_empty()) {
        assert!(before.whole, "check finds nothing, and a restore can't do it");
    }
    if how & 1 != 0 {
        maintain(&repo);
        let again = visit::look_at(&repo, &snapshot);
        assert_eq!(before.entries, again.entries);
    }
}

fn save(repo: &Arc<Repository>, tree: BlobId) -> Snapshot {
    let data = SnapshotData {
        host: "host".into(),
        paths: vec![PathBytes(b"/".to_vec())],
        ..SnapshotData::new(Time::new(1_700_000_000, 0), tree)
    };
    let id = repo.save_snapshot(&data).unwrap();
    Snapshot { id, data: Arc::new(data) }
}

fn maintain(repo: &Arc<Repository>) {
    let monitor = Quiet::default();
    let options = PruneOptions { grace: Duration::ZERO, ..Default::default() };
    if let Ok(plan) = plan_prune(repo, &options, &monitor) {
        let _ = prune(repo, &options, plan, &monitor);
    }
    let options = RepairSnapshotsOptions { read_data: true, ..Default::default() };
    let _ = repair_snapshots(repo, &options, &monitor);
}

/// One of the things made so far, or a blob that isn't there.
fn one(of: &[(BlobId, u64)], input: &mut Unstructured<'_>) -> (BlobId, u64) {
    let at = byte(input) as usize;
    // The last ones are chosen most often, so that trees grow deep.
    let back = at % 4 * usize::from(at < 200) + at % 97 * usize::from(at >= 200);
    of.iter().rev().nth(back).copied().unwrap_or((BlobId([1; 32]), 1))
}

impl Blobs {
    fn put(&mut self, repo: &Repository, kind: BlobKind, bytes: &[u8]) -> BlobId {
        let id = repo.keys().blob_id(kind, bytes);
        if !bytes.is_empty() && self.known.insert(id, bytes.len() as u64).is_none() {
            let mut segment = NewSegment::new(kind);
            segment.push(id, bytes);
            self.segments.push(segment);
        }
        id
    }

    fn make(&mut self, repo: &Repository, input: &mut Unstructured<'_>) {
        match byte(input) % 7 {
            0 => {
                let seed = bytes(input, 16);
                let plain = seed.repeat(byte(input) as usize + 1);
                let id = self.put(repo, BlobKind::Data, &plain);
                self.chunks.push((id, plain.len() as u64));
            }
            1 => {
                let extents: Vec<_> = (0..byte(input) % 8).map(|_| self.extent(input)).collect();
                let len = extents.iter().fold(0u64, |n, e| n.saturating_add(e.len));
                let page = ContentPage::Extents(extents).encode();
                let id = self.put(repo, BlobKind::Tree, &page);
                self.contents.push((id, len));
            }
            2 => {
                let pages: Vec<_> = (0..byte(input) % 5).map(|_| self.page(input)).collect();
                let len = pages.iter().fold(0u64, |n, e| n.saturating_add(e.len));
                let id = self.put(repo, BlobKind::Tree, &ContentPage::Pages(pages).encode());
                self.contents.push((id, len));
            }
            3 => {
                let branches = (0..byte(input) % 4).map(|_| self.branch(input));
                let branches: Vec<_> = branches.collect();
                let below = branches.iter().map(|(_, n)| *n).fold(0, u64::saturating_add);
                let page = TreePage::Branch(branches.into_iter().map(|(b, _)| b).collect());
                let id = self.put(repo, BlobKind::Tree, &page.encode());
                self.trees.push((id, below));
            }
            // Any bytes at all.
            4 => {
                let page = bytes(input, 300);
                let id = self.put(repo, BlobKind::Tree, page);
                // It may name what is there already, but no page twice in few bytes.
                self.trees.push((id, page.len() as u64));
                self.contents.push((id, 0));
            }
            _ => {
                let nodes: Vec<_> = (0..byte(input) % 6).map(|_| self.node(input)).collect();
                let below =
                    nodes.iter().map(|(_, n)| n.saturating_add(1)).fold(0, u64::saturating_add);
                let mut nodes: Vec<_> = nodes.into_iter().map(|(node, _)| node).collect();
                if !byte(input).is_multiple_of(8) {
                    nodes.sort_by(|a, b| a.name.cmp(&b.name));
                    nodes.dedup_by(|a, b| a.name == b.name);
                }
                let id = self.put(repo, BlobKind::Tree, &TreePage::Leaf(nodes).encode());
                self.trees.push((id, below));
            }
        }
    }

    fn extent(&self, input: &mut Unstructured<'_>) -> Extent {
        let (id, len) = one(&self.chunks, input);
        match byte(input) % 8 {
            0 => Extent { len: length(input), id: None },
            1 => Extent { len: length(input), id: Some(id) },
            2 => Extent { len: u64::from(byte(input)) << 8, id: None },
            _ => Extent { len, id: Some(id) },
        }
    }

    fn page(&self, input: &mut Unstructured<'_>) -> ExtentPage {
        let (id, len) = one(&self.contents, input);
        let lies = byte(input).is_multiple_of(8);
        ExtentPage { len: if lies { length(input) } else { len }, id }
    }

    fn branch(&self, input: &mut Unstructured<'_>) -> (Branch, u64) {
        let (id, below) = one(&self.trees, input);
        let entries = match byte(input) % 8 {
            0 => length(input),
            1 => below.saturating_sub(1),
            _ => below,
        };
        (Branch { first: name(input), entries, id }, below)
    }

    fn content(&self, input: &mut Unstructured<'_>) -> Content {
        match byte(input) % 4 {
            0 => Content::Inline(bytes(input, 100).to_vec()),
            1 => {
                let pages = (0..byte(input) % 4).map(|_| self.page(input)).collect();
                Content::Pages { level: byte(input) % 4, pages }
            }
            _ => Content::Extents((0..byte(input) % 6).map(|_| self.extent(input)).collect()),
        }
    }

    /// A node, and how many entries are below.
    fn node(&self, input: &mut Unstructured<'_>) -> (Node, u64) {
        let kinds = [
            NodeKind::File,
            NodeKind::Directory,
            NodeKind::Symlink,
            NodeKind::Fifo,
            NodeKind::CharDevice,
        ];
        let [kind, odd] = [byte(input), byte(input)];
        // Mostly files and directories.
        let mut node =
            Node::new(name(input), kinds[if kind < 200 { kind % 2 } else { kind % 5 } as usize]);
        let mut below = 0;
        let has = |bit: u8| odd & bit != 0;
        if node.is_file() != has(1) {
            let content = self.content(input);
            node.size = match content.size() {
                Some(size) if !has(2) => size,
                _ => length(input),
            };
            node.content = (!has(64)).then_some(content);
        }
        if node.is_dir() != has(4) {
            let (id, entries) = one(&self.trees, input);
            (node.tree, below) = (Some(id), entries);
        }
        if (node.kind == NodeKind::Symlink) != has(8) {
            node.target = Some(bytes(input, 20).to_vec());
        }
        if has(16) {
            let value = bytes(input, 20).to_vec();
            node.xattrs = Some(vec![Xattr { name: name(input), value }; 1 + usize::from(has(2))]);
            node.mtime = Time::new(input.arbitrary().unwrap_or_default(), 0);
        }
        if odd % 32 == 17 {
            let stream = |_| Stream { name: stream_name(input), content: self.content(input) };
            let mut streams: Vec<_> = (0..=kind % 3).map(stream).collect();
            if !kind.is_multiple_of(16) {
                streams.sort_by(|a, b| a.name.cmp(&b.name));
                streams.dedup_by(|a, b| a.name == b.name);
            }
            node.streams = Some(streams);
        }
        if has(32) {
            let inode = u64::from(byte(input) % 3);
            node.link = Some(LinkId { device: 1, inode, names: u32::from(byte(input)) });
        }
        (node, below)
    }
}

/// Lengths at all borders.
fn length(input: &mut Unstructured<'_>) -> u64 {
    let n = u64::from(byte(input));
    match byte(input) % 8 {
        0 => n,
        1 => u64::MAX - n,
        2 => i64::MAX as u64 - n,
        3 => (1 << 63) + n,
        4 => n << 24,
        5 => n << 50,
        6 => (16 << 20) + n - 128,
        _ => input.arbitrary().unwrap_or_default(),
    }
}

fn stream_name(input: &mut Unstructured<'_>) -> Vec<u8> {
    let prefix: &[u8] = if byte(input).is_multiple_of(2) { STREAM } else { b"user." };
    [prefix, &name(input)].concat()
}

fn name(input: &mut Unstructured<'_>) -> Vec<u8> {
    let kind = byte(input);
    match kind {
        0..=239 => vec![b'a' + kind % 26, b'0' + kind / 26],
        240 => b"..".to_vec(),
        241 => b"../x".to_vec(),
        242 => vec![b'n'; 256],
        243 => b".versions".to_vec(),
        244 => b"A0".to_vec(),
        _ => bytes(input, 8).to_vec(),
    }
}
