//! Attributes of entries, as every adapter needs them.

use tresor_engine::format::{Content, Node, NodeKind, Time};

use super::Ino;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    pub ino: Ino,
    pub kind: NodeKind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Names of the file, also those outside the backup; 1 for directories
    /// ("unknown", as other file systems say it, so that `find` looks into all of them).
    pub links: u32,
    /// Bytes.
    pub size: u64,
    /// Bytes that hold data: `size` without holes.
    pub allocated: u64,
    pub mtime: Time,
    pub atime: Time,
    pub ctime: Time,
    /// When it was made, if the system it is from says so; else the modification.
    pub created: Time,
    /// `UF_…` and `SF_…` of macOS; 0 for what is from elsewhere.
    pub flags: u32,
    /// Device number as Linux' `makedev` gives it.
    pub device: u64,
    pub changes: Changes,
}

/// Whether an entry may change while the drive is mounted, or its name stand for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changes {
    /// What is in a snapshot.
    Never,
    /// Virtual folders and what has a name in them, as snapshots come and go.
    Sometimes,
    /// The status.
    Always,
}

impl Attr {
    pub fn of_node(ino: Ino, node: &Node) -> Self {
        Self {
            ino,
            kind: node.kind,
            mode: node.mode & 0o7777,
            uid: node.uid,
            gid: node.gid,
            links: node.link.map_or(1, |l| l.names.max(1)),
            size: node.size,
            allocated: allocated(node),
            mtime: node.mtime,
            atime: node.atime,
            ctime: node.ctime,
            created: node.created().unwrap_or(node.mtime),
            flags: node.macos_flags(),
            device: node.device.unwrap_or(0),
            changes: Changes::Never,
        }
    }

    /// Major and minor device number.
    pub fn device_parts(&self) -> (u32, u32) {
        let major = ((self.device >> 8) & 0xfff) | ((self.device >> 32) & !0xfff);
        let minor = (self.device & 0xff) | ((self.device >> 12) & !0xff);
        (major as u32, minor as u32)
    }

    /// A virtual folder, file or link, readable by everybody.
    pub fn of_virtual(ino: Ino, kind: NodeKind, size: u64, time: Time) -> Self {
        let mode = match kind {
            NodeKind::Directory => 0o555,
            NodeKind::Symlink => 0o777,
            _ => 0o444,
        };
        Self {
            ino,
            kind,
            mode,
            uid: 0,
            gid: 0,
            links: 1,
            size,
            allocated: size,
            mtime: time,
            atime: time,
            ctime: time,
            created: time,
            flags: 0,
            device: 0,
            changes: Changes::Sometimes,
        }
    }

    /// A virtual folder for those who may read this directory.
    pub fn with_rights_of(self, dir: &Node) -> Self {
        Self { mode: dir.mode & 0o7777, uid: dir.uid, gid: dir.gid, ..self }
    }
}

/// Long chunk lists are not read for this: their holes count as data.
fn allocated(node: &Node) -> u64 {
    match &node.content {
        Some(Content::Extents(extents)) => {
            let data = extents.iter().filter(|e| e.id.is_some());
            data.fold(0, |sum, e| sum.saturating_add(e.len))
        }
        _ => node.size,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers() {
        let device = |device| {
            let attr = Attr::of_virtual(Ino::ROOT, NodeKind::CharDevice, 0, Time::default());
            Attr { device, ..attr }.device_parts()
        };
        assert_eq!(device(0x0801), (8, 1));
        // makedev(259, 300) and makedev(0x12345678, 0x9abcdef0)
        assert_eq!(device(0x0011_032c), (259, 300));
        assert_eq!(device(0x1234_59ab_cde6_78f0), (0x1234_5678, 0x9abc_def0));
    }
}
