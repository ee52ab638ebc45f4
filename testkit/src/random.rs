//! Random trees: small ones with everything in them.

use fastrand::Rng;
use tresor_engine::format::{LinkId, NodeKind, Xattr};

use crate::{Body, Item};

/// Bytes that compress about as well as text does.
pub fn random_bytes(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 64);
    while bytes.len() < len {
        if rng.bool() && bytes.len() > 64 {
            let from = rng.usize(..bytes.len() - 32);
            bytes.extend_from_within(from..from + 32);
        } else {
            bytes.extend_from_slice(&rng.u64(..).to_le_bytes());
        }
    }
    bytes.truncate(len);
    bytes
}

/// Gives some entries an extended attribute that is too long for a node. Not those with
/// several names, which have all in common.
pub fn add_streams(rng: &mut Rng, dir: &mut Item) {
    for item in dir.entries_mut().values_mut() {
        if item.node.link.is_none() && rng.u8(..8) == 0 {
            let len = rng.usize(66_000..200_000);
            item.set_attribute("user.long", random_bytes(rng, len));
        }
        if let Body::Dir(_) = item.body {
            add_streams(rng, item);
        }
    }
}

/// A tree with about `entries` entries.
pub fn random_tree(rng: &mut Rng, entries: usize) -> Item {
    let mut root = Item::dir();
    fill(rng, &mut root, entries, 0);
    link(rng, &mut root);
    root
}

fn fill(rng: &mut Rng, dir: &mut Item, mut entries: usize, depth: usize) {
    while entries > 0 {
        entries -= 1;
        let mut item = if depth < 8 && rng.u8(..5) == 0 {
            let mut below = Item::dir();
            let share = rng.usize(0..=entries);
            entries -= share;
            fill(rng, &mut below, share, depth + 1);
            below
        } else {
            leaf(rng)
        };
        item.node.mode = rng.u32(..0o10000);
        (item.node.uid, item.node.gid) = (rng.u32(..3), rng.u32(..70_000));
        if rng.u8(..4) == 0 {
            let value = random_bytes(rng, 10);
            item.node.xattrs = Some(vec![Xattr { name: b"user.test".to_vec(), value }]);
        }
        dir.entries_mut().insert(name(rng), item);
    }
}

fn name(rng: &mut Rng) -> Vec<u8> {
    let mut name: Vec<u8> = (0..rng.usize(1..12)).map(|_| rng.u8(b'a'..=b'f')).collect();
    match rng.u8(..8) {
        0 => name.extend("ü é".bytes()),
        1 => name.extend([0xff, b'\n', 0x80]),
        2 => name.resize(255, b'x'),
        _ => {}
    }
    name
}

fn leaf(rng: &mut Rng) -> Item {
    match rng.u8(..12) {
        // No system has links to nothing, or zeros in a target.
        0 => Item::symlink((0..rng.usize(1..20)).map(|_| rng.u8(1..)).collect::<Vec<_>>()),
        1 => Item::special(NodeKind::Fifo, None),
        2 => Item::special(NodeKind::CharDevice, Some(0x0503)),
        3 => Item::file(Vec::new()),
        4 => {
            let len = rng.usize(300_000..3_000_000);
            Item::file(random_bytes(rng, len))
        }
        5 => {
            let len = rng.usize(400_000..2_000_000);
            let start = rng.u64(1..200_000);
            let hole = start..start + 150_000;
            Item::sparse(random_bytes(rng, len), std::slice::from_ref(&hole))
        }
        _ => {
            let len = rng.usize(1..20_000);
            Item::file(random_bytes(rng, len))
        }
    }
}

/// Makes some files further names of others.
fn link(rng: &mut Rng, root: &mut Item) {
    let files: Vec<_> =
        root.entries().iter().filter(|(_, i)| matches!(i.body, Body::File(..))).collect();
    let Some((name, _)) = files.get(rng.usize(..files.len().max(1))) else { return };
    let name = name.to_vec();
    let Some(item) = root.entries_mut().get_mut(&name) else { return };
    item.node.link = Some(LinkId { device: 1, inode: item.node.inode, names: 3 });
    let item = item.clone();
    root.entries_mut().insert([name.as_slice(), b".2"].concat(), item.clone());
    root.entries_mut().insert([name.as_slice(), b".3"].concat(), item);
}
