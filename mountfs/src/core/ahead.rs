//! Small files that are read one after another, as by `cp -r` or `grep -r`: the
//! blocks of those that follow are fetched and decrypted meanwhile.
//!
//! Files follow in the order of their directory, which is that of their numbers and of
//! their bytes in the repository. A directory whose files aren't read in order gets nothing.
//! From a store that is far more is fetched, sooner, and of the directories that follow, too: the
//! line would be idle until the first file there is read.
//!
//! To give the kernel their content before it asks (FUSE_NOTIFY_STORE) would save the
//! requests too, but can't be done safely: it waits, not to be interrupted, for a page
//! that a reader has locked until we answer. A program that is killed right then never
//! ends, and neither does the reader.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Mutex;

use tresor_engine::format::{BlobId, Node, TreePage};

use super::{Ino, Inode, Place, SnapshotFs};
use crate::read::{BlockCache, FileReader};

/// Longer files are read ahead by themselves.
const SMALL: u64 = 128 << 10;
/// How far ahead of a reader is fetched.
#[derive(Clone, Copy)]
struct Reach {
    first: u64,
    most: u64,
    /// Also before the reader has come to the end of what was fetched, and of directories
    /// that follow.
    early: bool,
}

/// Bytes of files fetched at once: at first, and after some that were in order.
const NEAR: Reach = Reach { first: 128 << 10, most: 1 << 20, early: false };
const FAR: Reach = Reach { first: 1 << 20, most: 8 << 20, early: true };
/// Directories that are looked into for files to fetch: each may take reading.
const DIRECTORIES: usize = 32;
/// Readers that are told apart.
const READERS: usize = 4;
/// Files that a reader may leave out and still be reading in order.
const GAP: u32 = 16;

pub(super) type Ahead = Mutex<Readers>;

/// Who reads small files, and where; the one that was seen last comes first.
#[derive(Default)]
pub(super) struct Readers(VecDeque<Reader>);

struct Reader {
    /// A directory; that of two snapshots may be the same page.
    parent: Ino,
    page: BlobId,
    /// From the file that was read last to the end of those that were fetched.
    done: Range<u32>,
    window: u64,
}

impl Readers {
    /// Takes note that the file with this number was read, and says which files to
    /// fetch.
    fn note(
        &mut self,
        parent: Ino,
        page: BlobId,
        nodes: &[Node],
        number: u32,
        reach: Reach,
    ) -> Option<Range<u32>> {
        let here = self.0.iter().position(|r| r.parent == parent && r.page == page);
        let grown = |window: u64| (window * 2).clamp(reach.first, reach.most);
        let mut first = number + 1;
        let window = match here.and_then(|at| self.0.remove(at)) {
            // Is on its way; what follows that is to come before it is read.
            Some(reader) if reader.done.contains(&number) => {
                let half = reader.done.start + (reader.done.end - reader.done.start) / 2;
                if !reach.early || number < half || reader.window == 0 {
                    self.0.push_front(reader);
                    return None;
                }
                first = reader.done.end;
                grown(reader.window)
            }
            Some(reader) if number.checked_sub(reader.done.end).is_some_and(|gap| gap <= GAP) => {
                grown(reader.window)
            }
            Some(_) => 0,
            // Who has read another directory in order goes on with this one.
            None if !nodes[..number as usize].iter().any(is_small) => {
                let window = self.0.front().map_or(0, |reader| reader.window);
                if reach.early && window > 0 { grown(window) } else { window }
            }
            None => 0,
        };
        let next = first + fitting(&nodes[first as usize..], window);
        self.0.push_front(Reader { parent, page, done: number..next, window });
        self.0.truncate(READERS);
        (next > first).then_some(first..next)
    }
}

fn is_small(node: &Node) -> bool {
    node.is_file() && (1..=SMALL).contains(&node.size)
}

/// How many of these nodes have no more bytes than `window` in their small files.
fn fitting(nodes: &[Node], window: u64) -> u32 {
    let mut left = window;
    let fits = |node: &&Node| {
        let size = if is_small(node) { node.size } else { 0 };
        let fits = size <= left && window > 0;
        left = left.saturating_sub(size);
        fits
    };
    nodes.iter().take_while(fits).count() as u32
}

impl SnapshotFs {
    /// To be told of each read of a file: fetches those that follow.
    pub(super) fn small_file_read(&self, inode: &Inode, offset: u64) {
        let (Place::Node { page, number }, true) = (&inode.place, offset == 0) else { return };
        let Ok(nodes) = self.repo.tree_page(page) else { return };
        let TreePage::Leaf(nodes) = &*nodes else { return };
        if !nodes.get(*number as usize).is_some_and(is_small) {
            return;
        }
        let reach = self.small_file_reach();
        let mut readers = self.ahead.lock().unwrap_or_else(|e| e.into_inner());
        let noted = readers.note(inode.parent, *page, nodes, *number, reach);
        let Some(numbers) = noted else { return };
        let window = readers.0.front().map_or(0, |reader| reader.window);
        drop(readers);
        let ends = numbers.end as usize == nodes.len();
        let after = self.inode(inode.parent).ok().filter(|_| ends && reach.early);
        let after = after.and_then(|parent| match parent.place {
            Place::Node { page, number } => Some((page, number)),
            _ => None,
        });
        let page = *page;
        self.prefetcher.want_those(move |blocks| {
            let mut wanted = Wanted { blocks, left: window, ids: Vec::new() };
            let read_on = wanted.add_files(&page, numbers);
            if let Some((page, number)) = after.filter(|_| read_on) {
                wanted.add_directories(&page, number + 1);
            }
            wanted.ids
        });
    }

    /// How far ahead small files are fetched.
    fn small_file_reach(&self) -> Reach {
        let reach = if self.repo.is_far() { FAR } else { NEAR };
        Reach { most: reach.most.min(self.prefetcher.reach().most.max(reach.first)), ..reach }
    }
}

/// Chunks of small files.
struct Wanted<'b> {
    blocks: &'b BlockCache,
    /// Bytes of files that may still be fetched.
    left: u64,
    ids: Vec<BlobId>,
}

impl Wanted<'_> {
    /// Those of a leaf page with these numbers; false if there is no such page, or not
    /// all of them fit.
    fn add_files(&mut self, page: &BlobId, numbers: Range<u32>) -> bool {
        let Ok(page) = self.blocks.repo().tree_page(page) else { return false };
        let TreePage::Leaf(nodes) = &*page else { return false };
        let these = nodes.iter().take(numbers.end as usize).skip(numbers.start as usize);
        for node in these.filter(|node| is_small(node)) {
            let Some(left) = self.left.checked_sub(node.size) else { return false };
            self.left = left;
            // Whoever reads a damaged file gets the error.
            let file = FileReader::of_node(node);
            let chunks = file.and_then(|f| f.chunks(self.blocks.repo(), 0..node.size));
            self.ids.extend(chunks.unwrap_or_default());
        }
        true
    }

    /// Those in the directories among the entries of a leaf page, from a number on.
    fn add_directories(&mut self, page: &BlobId, from: u32) {
        let Ok(page) = self.blocks.repo().tree_page(page) else { return };
        let TreePage::Leaf(nodes) = &*page else { return };
        let below = nodes.iter().skip(from as usize).filter_map(|node| node.tree);
        for tree in below.take(DIRECTORIES) {
            if !self.add_files(&tree, 0..u32::MAX) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tresor_engine::format::NodeKind;

    use super::*;

    fn files(sizes: &[u64]) -> Vec<Node> {
        let node = |(i, size): (usize, &u64)| {
            let mut node = Node::new(format!("{i:04}"), NodeKind::File);
            node.size = *size;
            node
        };
        sizes.iter().enumerate().map(node).collect()
    }

    #[test]
    fn files_read_in_order_are_followed_by_more_and_more() {
        let nodes = files(&[16 << 10; 1000]);
        let page = BlobId([1; 32]);
        let mut readers = Readers::default();
        assert_eq!(readers.note(Ino(9), page, &nodes, 0, NEAR), None);
        assert_eq!(readers.note(Ino(9), page, &nodes, 1, NEAR), Some(2..10));
        assert_eq!(readers.note(Ino(9), page, &nodes, 5, NEAR), None, "it is on its way");
        assert_eq!(readers.note(Ino(9), page, &nodes, 10, NEAR), Some(11..27));
        let mut at = 27;
        while let Some(range) = readers.note(Ino(9), page, &nodes, at, NEAR) {
            assert!(range.start == at + 1 && range.len() <= 64);
            at = range.end.min(999);
        }
        assert_eq!(at, 999);
        // The next directory goes on with what was learnt, the one after a jump doesn't.
        let other = BlobId([2; 32]);
        assert_eq!(readers.note(Ino(9), other, &nodes, 0, NEAR), Some(1..65));
        assert_eq!(readers.note(Ino(9), BlobId([3; 32]), &nodes, 500, NEAR), None);
    }

    #[test]
    fn the_same_page_elsewhere_or_again_is_another_reading() {
        let nodes = files(&[16 << 10; 100]);
        let page = BlobId([1; 32]);
        let mut readers = Readers::default();
        assert_eq!(readers.note(Ino(9), page, &nodes, 90, NEAR), None);
        // A late file alone doesn't keep the earlier ones from being fetched.
        assert_eq!(readers.note(Ino(9), page, &nodes, 0, NEAR), None);
        assert_eq!(readers.note(Ino(9), page, &nodes, 1, NEAR), Some(2..10));
        // The same folder of another snapshot, read side by side.
        assert_eq!(readers.note(Ino(8), page, &nodes, 0, NEAR), Some(1..9));
        assert_eq!(readers.note(Ino(9), page, &nodes, 10, NEAR), Some(11..27));
        assert_eq!(readers.note(Ino(8), page, &nodes, 9, NEAR), Some(10..26));
    }

    #[test]
    fn files_read_in_no_order_are_left_alone() {
        let nodes = files(&[1 << 10; 1000]);
        let mut readers = Readers::default();
        for number in [500, 20, 900, 300, 333, 100] {
            assert_eq!(readers.note(Ino(9), BlobId([1; 32]), &nodes, number, NEAR), None);
        }
    }

    #[test]
    fn from_a_store_that_is_far_what_follows_is_fetched_in_time() {
        let nodes = files(&[64 << 10; 1000]);
        let page = BlobId([1; 32]);
        let mut readers = Readers::default();
        let (mut end, mut asked) = (0, 0);
        for number in 0..1000 {
            if let Some(range) = readers.note(Ino(9), page, &nodes, number, FAR) {
                assert!(range.start >= end && range.len() as u64 <= FAR.most >> 16);
                (end, asked) = (range.end, asked + 1);
            }
            assert!(number < 2 || end == 1000 || end > number + 4, "{number}: {end}");
        }
        assert!(end == 1000 && asked < 30, "{end} {asked}");
    }

    #[test]
    fn large_files_are_passed_over() {
        let nodes = files(&[1, 1 << 30, 5, 100 << 10, 100 << 10]);
        let mut readers = Readers::default();
        let page = BlobId([1; 32]);
        assert_eq!(readers.note(Ino(9), page, &nodes, 0, NEAR), None);
        assert_eq!(readers.note(Ino(9), page, &nodes, 2, NEAR), Some(3..4));
    }
}
