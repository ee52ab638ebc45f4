//! The drive as Windows wants to see it: names that it can have, looked up whatever their
//! case, listed in an order in which a listing can go on after any name; attributes.
//! docs/drive.md describes what is shown.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use moka::sync::Cache;
use tresor_engine::format::windows::descriptor_len;
use tresor_engine::format::{Node, NodeKind, Time, Value};
use tresor_engine::naming::{node_name, respelled, to_utf16, windows_name};
use tresor_engine::tree::NodeAt;

use super::{Attr, FsError, FsResult, Ino, LookUp, Place, SnapshotFs};
use crate::read::FileReader;

/// What all indexes of directories may take.
const MOST: u64 = 64 << 20;
/// Links that are followed to learn whether they lead to a directory.
const MOST_LINKS: usize = 8;

const READ_ONLY: u32 = 0x1;
const DIRECTORY: u32 = 0x10;
const NORMAL: u32 = 0x80;
const REPARSE_POINT: u32 = 0x400;
/// Read-only, hidden, system, archive, temporary, not indexed: what is shown as recorded.
const SHOWN: u32 = 0x1 | 0x2 | 0x4 | 0x20 | 0x100 | 0x2000;

/// An entry as Windows sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowsEntry {
    /// In WTF-8; not always as it was asked for.
    pub name: Vec<u8>,
    pub attr: Attr,
}

/// What Windows has beyond the attributes of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WindowsMeta {
    /// `FILE_ATTRIBUTE_…`
    pub attributes: u32,
    pub created: Time,
    /// The reparse data of a link.
    pub link: Option<Vec<u8>>,
}

impl WindowsMeta {
    /// What a stream of the entry has: it is a file, whatever the entry is.
    fn of_stream(&self) -> Self {
        let attributes = match self.attributes & !(DIRECTORY | REPARSE_POINT) {
            0 => NORMAL,
            attributes => attributes,
        };
        Self { attributes, created: self.created, link: None }
    }
}

/// An alternate stream.
pub struct WindowsStream {
    /// In WTF-8; not always as it was asked for.
    pub name: Vec<u8>,
    pub attr: Attr,
    pub meta: WindowsMeta,
    pub content: Arc<FileReader>,
}

/// Where names are in a directory, by what they are when case doesn't count.
struct Index {
    /// Hash of a folded name, and the offset of its entry; sorted.
    places: Vec<(u64, u64)>,
    /// Names that are shown otherwise, since another one takes theirs: from what is
    /// shown (folded) to what they are in the snapshot, and from that to what is shown.
    real: BTreeMap<Vec<u16>, Vec<u8>>,
    shown: BTreeMap<Vec<u8>, Vec<u8>>,
}

pub(super) struct Indexes(Cache<Ino, Arc<Index>>);

impl Default for Indexes {
    fn default() -> Self {
        let weight = |_: &Ino, index: &Arc<Index>| {
            u32::try_from(index.places.len() * 16 + index.real.len() * 200 + 100)
                .unwrap_or(u32::MAX)
        };
        Self(Cache::builder().max_capacity(MOST).weigher(weight).build())
    }
}

/// A name when case doesn't count: Windows looks at each UTF-16 unit by itself.
fn fold(name: &[u8]) -> Vec<u16> {
    let upper = |unit: u16| {
        let Some(c) = char::from_u32(unit.into()) else { return unit };
        let mut all = c.to_uppercase();
        match (all.next().map(u32::from).map(u16::try_from), all.next()) {
            (Some(Ok(upper)), None) => upper,
            _ => unit,
        }
    };
    to_utf16(name).unwrap_or_default().into_iter().map(upper).collect()
}

fn hash(folded: &[u16]) -> u64 {
    let mut hasher = DefaultHasher::new();
    folded.hash(&mut hasher);
    hasher.finish()
}

impl Index {
    /// How an entry of the directory is called.
    fn shown(&self, real: &[u8]) -> Vec<u8> {
        self.shown.get(real).cloned().unwrap_or_else(|| windows_name(real))
    }

    fn offsets(&self, name: &[u8]) -> impl Iterator<Item = u64> {
        let hash = hash(&fold(name));
        let from = self.places.partition_point(|(other, _)| *other < hash);
        self.places[from..].iter().take_while(move |(other, _)| *other == hash).map(|(_, at)| *at)
    }
}

impl SnapshotFs {
    /// The entry of this name (WTF-8), whatever its case; one that is written just so goes
    /// before others. Counts one lookup.
    pub fn windows_lookup(&self, parent: Ino, name: &[u8]) -> FsResult<WindowsEntry> {
        let index = self.windows_index(parent)?;
        match self.windows_find(parent, &index, name)? {
            Some(real) => {
                let attr = self.lookup(parent, &real)?;
                Ok(WindowsEntry { name: index.shown(&real), attr })
            }
            // What is there without being listed.
            None => {
                let attr = self.lookup(parent, &node_name(name))?;
                Ok(WindowsEntry { name: name.to_vec(), attr })
            }
        }
    }

    /// Lists a directory from after the entry `marker`, until `each` says that it has no
    /// room. Each entry can be asked for meanwhile by its number.
    pub fn windows_list(
        &self,
        ino: Ino,
        marker: Option<&[u8]>,
        each: &mut dyn FnMut(WindowsEntry) -> bool,
    ) -> FsResult<()> {
        let index = self.windows_index(ino)?;
        let from = match marker {
            None => 0,
            Some(b".") => 1,
            Some(b"..") => 2,
            Some(marker) => self.windows_place(ino, &index, marker)?,
        };
        let mut to_forget = Vec::new();
        let done = self.read_dir(ino, from, LookUp::Everything, &mut |entry| {
            let is_dots = entry.name == b"." || entry.name == b"..";
            let name = if is_dots { entry.name.to_vec() } else { index.shown(entry.name) };
            let number = entry.attr.ino;
            let taken = each(WindowsEntry { name, attr: entry.attr });
            if taken && !is_dots {
                to_forget.push(number);
            }
            taken
        });
        to_forget.into_iter().for_each(|ino| self.forget(ino, 1));
        done
    }

    /// What Windows has beyond the attributes. `attr` is the entry's.
    pub fn windows_meta(&self, attr: &Attr) -> FsResult<WindowsMeta> {
        let node = match self.inode(attr.ino)?.place {
            Place::Node { page, number } => Some(NodeAt::load(&self.repo, &page, number)?),
            _ => None,
        };
        let recorded = node.as_ref().and_then(|node| node.windows_attributes());
        let mut attributes = match recorded {
            Some(recorded) => recorded & (SHOWN | DIRECTORY),
            None if attr.kind == NodeKind::File && attr.mode & 0o222 == 0 => READ_ONLY,
            None => 0,
        };
        let mut link = None;
        match attr.kind {
            NodeKind::Directory => attributes |= DIRECTORY,
            NodeKind::Symlink => {
                link = match &node {
                    Some(node) => node.windows_link(),
                    None => self.virtual_link(attr.ino)?.windows_link(),
                };
                let leads_to_directory = recorded.is_none()
                    && self
                        .windows_target(attr.ino, 0)
                        .is_ok_and(|kind| kind == NodeKind::Directory);
                attributes |= if leads_to_directory { DIRECTORY } else { 0 };
                attributes |= if link.is_some() { REPARSE_POINT } else { 0 };
            }
            _ => attributes &= !DIRECTORY,
        }
        if attributes == 0 {
            attributes = NORMAL;
        }
        Ok(WindowsMeta { attributes, created: attr.created, link })
    }

    /// Names (WTF-8) and lengths of alternate streams.
    pub fn windows_streams(&self, ino: Ino) -> FsResult<Vec<(Vec<u8>, u64)>> {
        let Place::Node { page, number } = self.inode(ino)?.place else { return Ok(Vec::new()) };
        let node = NodeAt::load(&self.repo, &page, number)?;
        // Of one that isn't what it says, reading tells.
        let length = |(name, value): (&[u8], Value<'_>)| (name.to_vec(), value.size().unwrap_or(0));
        Ok(node.windows_streams().map(length).collect())
    }

    /// An alternate stream of the entry with these attributes, whatever the case of its name.
    pub fn windows_stream(&self, attr: &Attr, name: &[u8]) -> FsResult<Option<WindowsStream>> {
        let Place::Node { page, number } = self.inode(attr.ino)?.place else { return Ok(None) };
        let node = NodeAt::load(&self.repo, &page, number)?;
        let folded = fold(name);
        let found = node.windows_streams().find(|(other, _)| fold(other) == folded);
        let Some((name, value)) = found else { return Ok(None) };
        let content = Arc::new(FileReader::of_attribute(value)?);
        let size = content.size();
        let own = Attr { kind: NodeKind::File, size, allocated: size, ..attr.clone() };
        let meta = self.windows_meta(attr)?.of_stream();
        Ok(Some(WindowsStream { name: name.to_vec(), attr: own, meta, content }))
    }

    /// The security descriptor that was recorded of an entry, if it is whole.
    pub fn windows_security(&self, ino: Ino) -> FsResult<Option<Vec<u8>>> {
        let Place::Node { page, number } = self.inode(ino)?.place else { return Ok(None) };
        let node = NodeAt::load(&self.repo, &page, number)?;
        let whole = |bytes: &[u8]| Some(bytes.get(..descriptor_len(bytes)?)?.to_vec());
        Ok(node.windows_security().and_then(whole))
    }

    fn virtual_link(&self, ino: Ino) -> FsResult<Node> {
        let mut node = Node::new("link", NodeKind::Symlink);
        node.target = Some(self.readlink(ino)?);
        Ok(node)
    }

    /// What a link leads to, within the drive.
    fn windows_target(&self, ino: Ino, links: usize) -> FsResult<NodeKind> {
        if links == MOST_LINKS {
            return Err(FsError::NotFound);
        }
        let target = self.readlink(ino)?;
        // What begins with `/` Windows looks for from the root of the drive on.
        let is_absolute = target.first() == Some(&b'/');
        let mut at = if is_absolute { Ino::ROOT } else { self.inode(ino)?.parent };
        let mut kind = NodeKind::Directory;
        let mut looked_up = Vec::new();
        let mut result = Ok(());
        for part in target.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
            match self.lookup(at, part) {
                Ok(attr) => {
                    looked_up.push(attr.ino);
                    (at, kind) = (attr.ino, attr.kind);
                }
                Err(e) => {
                    result = Err(e);
                    break;
                }
            }
        }
        if result.is_ok() && kind == NodeKind::Symlink {
            result = self.windows_target(at, links + 1).map(|found| kind = found);
        }
        looked_up.into_iter().for_each(|ino| self.forget(ino, 1));
        result.map(|()| kind)
    }

    /// The name in the snapshot of the entry that this name means.
    fn windows_find(&self, ino: Ino, index: &Index, name: &[u8]) -> FsResult<Option<Vec<u8>>> {
        let folded = fold(name);
        if let Some(real) = index.real.get(&folded) {
            return Ok(Some(real.clone()));
        }
        let mut first = None;
        for offset in index.offsets(name) {
            let Some(real) = self.name_at(ino, offset)? else { continue };
            let own = windows_name(&real);
            if own == name {
                return Ok(Some(real));
            }
            if first.is_none() && fold(&own) == folded {
                first = Some(real);
            }
        }
        Ok(first)
    }

    /// Where a listing goes on after this name, which may be gone meanwhile.
    fn windows_place(&self, ino: Ino, index: &Index, marker: &[u8]) -> FsResult<u64> {
        let real = self.windows_find(ino, index, marker)?;
        if let Some(real) = &real {
            for offset in index.offsets(&windows_name(real)) {
                if self.name_at(ino, offset)?.as_ref() == Some(real) {
                    return Ok(offset + 1);
                }
            }
        }
        let gone = node_name(marker);
        let mut from = 2;
        self.read_dir(ino, 2, LookUp::Nothing, &mut |entry| {
            let is_before = *entry.name <= *gone;
            from = if is_before { entry.next } else { from };
            is_before
        })?;
        Ok(from)
    }

    fn name_at(&self, ino: Ino, offset: u64) -> FsResult<Option<Vec<u8>>> {
        let mut name = None;
        self.read_dir(ino, offset, LookUp::Nothing, &mut |entry| {
            let is_first = name.is_none();
            name.get_or_insert_with(|| entry.name.to_vec());
            is_first
        })?;
        Ok(name)
    }

    fn windows_index(&self, ino: Ino) -> FsResult<Arc<Index>> {
        // Folders of snapshots are small, and change.
        let is_fixed = self.is_fixed(ino);
        if let Some(known) = self.windows.0.get(&ino).filter(|_| is_fixed) {
            return Ok(known);
        }
        let (index, is_whole) = self.make_windows_index(ino)?;
        let index = Arc::new(index);
        if is_fixed && is_whole {
            self.windows.0.insert(ino, index.clone());
        }
        Ok(index)
    }

    /// Of a damaged directory, what can be read: whatever else is looked up in it gives
    /// the error then. Also whether it is whole.
    fn make_windows_index(&self, ino: Ino) -> FsResult<(Index, bool)> {
        let mut places = Vec::new();
        let mut from = 2;
        let is_whole = loop {
            let before = places.len();
            let listed = self.read_dir(ino, from, LookUp::Nothing, &mut |entry| {
                places.push((hash(&fold(&windows_name(entry.name))), entry.next - 1));
                from = entry.next;
                true
            });
            if listed.is_err() || places.len() == before {
                break listed.is_ok();
            }
        };
        places.sort_unstable();
        let mut index = Index { places, real: BTreeMap::new(), shown: BTreeMap::new() };
        let same = index.places.chunk_by(|a, b| a.0 == b.0).filter(|same| same.len() > 1);
        let same: Vec<Vec<u64>> =
            same.map(|same| same.iter().map(|(_, offset)| *offset).collect()).collect();
        for offsets in same {
            self.respell(ino, &mut index, &offsets)?;
        }
        Ok((index, is_whole))
    }

    /// Of entries whose names are the same, all but the first are shown otherwise.
    fn respell(&self, ino: Ino, index: &mut Index, offsets: &[u64]) -> FsResult<()> {
        let mut taken = HashSet::new();
        for offset in offsets {
            let Some(real) = self.name_at(ino, *offset)? else { continue };
            let own = windows_name(&real);
            if taken.insert(fold(&own)) {
                continue;
            }
            let is_free = |name: &Vec<u8>| {
                !taken.contains(&fold(name))
                    && !index.real.contains_key(&fold(name))
                    && index.offsets(name).next().is_none()
            };
            let free = (1..).map_while(|bits| respelled(&own, bits)).find(is_free);
            if let Some(shown) = free {
                index.real.insert(fold(&shown), real.clone());
                index.shown.insert(real, shown);
            }
        }
        Ok(())
    }
}
