//! Small files that are read one after another, as by `cp -r` or `grep -r`: the
//! blocks of those that follow are fetched and decrypted meanwhile.
//!
//! Files follow in the order of their directory, which is that of their numbers and of
//! their bytes in the repository. A directory whose files aren't read in order gets nothing.
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
/// Bytes of files fetched at once: at first, and after some that were in order.
const FIRST_WINDOW: u64 = 128 << 10;
const MOST: u64 = 1 << 20;
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
    ) -> Option<Range<u32>> {
        let here = self.0.iter().position(|r| r.parent == parent && r.page == page);
        let window = match here.and_then(|at| self.0.remove(at)) {
            // Is on its way.
            Some(reader) if reader.done.contains(&number) => {
                self.0.push_front(reader);
                return None;
            }
            Some(reader) if number.checked_sub(reader.done.end).is_some_and(|gap| gap <= GAP) => {
                (reader.window * 2).clamp(FIRST_WINDOW, MOST)
            }
            Some(_) => 0,
            // Who has read another directory in order goes on with this one.
            None if !nodes[..number as usize].iter().any(is_small) => {
                self.0.front().map_or(0, |reader| reader.window)
            }
            None => 0,
        };
        let first = number + 1;
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
        let mut readers = self.ahead.lock().unwrap_or_else(|e| e.into_inner());
        let Some(numbers) = readers.note(inode.parent, *page, nodes, *number) else { return };
        drop(readers);
        let page = *page;
        self.prefetcher.run(move |blocks| fetch(blocks, &page, numbers));
    }
}

/// Fetches the blocks of the small files among these of a page.
fn fetch(blocks: &BlockCache, page: &BlobId, numbers: Range<u32>) {
    let Ok(page) = blocks.repo().tree_page(page) else { return };
    let TreePage::Leaf(nodes) = &*page else { return };
    for node in numbers.filter_map(|n| nodes.get(n as usize)).filter(|n| is_small(n)) {
        // Whoever reads a damaged file gets the error.
        let file = FileReader::of_node(node);
        let chunks = file.and_then(|f| f.chunks(blocks.repo(), 0..node.size));
        chunks.unwrap_or_default().iter().for_each(|id| drop(blocks.get(id)));
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
        assert_eq!(readers.note(Ino(9), page, &nodes, 0), None);
        assert_eq!(readers.note(Ino(9), page, &nodes, 1), Some(2..10));
        assert_eq!(readers.note(Ino(9), page, &nodes, 5), None, "it is on its way");
        assert_eq!(readers.note(Ino(9), page, &nodes, 10), Some(11..27));
        let mut at = 27;
        while let Some(range) = readers.note(Ino(9), page, &nodes, at) {
            assert!(range.start == at + 1 && range.len() <= 64);
            at = range.end.min(999);
        }
        assert_eq!(at, 999);
        // The next directory goes on with what was learnt, the one after a jump doesn't.
        let other = BlobId([2; 32]);
        assert_eq!(readers.note(Ino(9), other, &nodes, 0), Some(1..65));
        assert_eq!(readers.note(Ino(9), BlobId([3; 32]), &nodes, 500), None);
    }

    #[test]
    fn the_same_page_elsewhere_or_again_is_another_reading() {
        let nodes = files(&[16 << 10; 100]);
        let page = BlobId([1; 32]);
        let mut readers = Readers::default();
        assert_eq!(readers.note(Ino(9), page, &nodes, 90), None);
        // A late file alone doesn't keep the earlier ones from being fetched.
        assert_eq!(readers.note(Ino(9), page, &nodes, 0), None);
        assert_eq!(readers.note(Ino(9), page, &nodes, 1), Some(2..10));
        // The same folder of another snapshot, read side by side.
        assert_eq!(readers.note(Ino(8), page, &nodes, 0), Some(1..9));
        assert_eq!(readers.note(Ino(9), page, &nodes, 10), Some(11..27));
        assert_eq!(readers.note(Ino(8), page, &nodes, 9), Some(10..26));
    }

    #[test]
    fn files_read_in_no_order_are_left_alone() {
        let nodes = files(&[1 << 10; 1000]);
        let mut readers = Readers::default();
        for number in [500, 20, 900, 300, 333, 100] {
            assert_eq!(readers.note(Ino(9), BlobId([1; 32]), &nodes, number), None);
        }
    }

    #[test]
    fn large_files_are_passed_over() {
        let nodes = files(&[1, 1 << 30, 5, 100 << 10, 100 << 10]);
        let mut readers = Readers::default();
        let page = BlobId([1; 32]);
        assert_eq!(readers.note(Ino(9), page, &nodes, 0), None);
        assert_eq!(readers.note(Ino(9), page, &nodes, 2), Some(3..4));
    }
}
