//! Who may read what.

use tresor_engine::format::NodeKind;

use super::rpc::Credentials;
use super::status::Problem;
use crate::core::{ACL, Attr, FsError, FsResult, SnapshotFs};

pub const READ: u32 = 4;
pub const SEARCH: u32 = 1;
const ALL: u32 = 7;
const ANYBODY: u32 = 0o111;

/// Linux has none that are longer.
const MOST_ACL: u64 = 64 << 10;
const ACL_VERSION: u32 = 2;

/// Who may read a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Whoever gets at a handle: this system has no numbers for its users.
    Anybody,
    /// This user and root, everything.
    User(u32),
    /// Everybody what the recorded owners, modes and ACLs allow; root everything.
    AsRecorded,
}

/// What somebody may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rights {
    Everything,
    Nothing,
    Of(Credentials),
}

impl Readers {
    pub fn rights(self, who: Option<Credentials>) -> Rights {
        let uid = who.as_ref().map(|who| who.uid);
        match (self, who) {
            (Self::Anybody, _) => Rights::Everything,
            (_, None) => Rights::Nothing,
            _ if uid == Some(0) => Rights::Everything,
            (Self::User(user), _) if uid == Some(user) => Rights::Everything,
            (Self::User(_), _) => Rights::Nothing,
            (Self::AsRecorded, Some(who)) => Rights::Of(who),
        }
    }
}

impl Rights {
    /// Fails unless all these bits of a mode are granted.
    pub fn need(&self, fs: &SnapshotFs, attr: &Attr, bits: u32) -> Result<(), Problem> {
        let granted = self.bits(fs, attr)?;
        if granted & bits == bits { Ok(()) } else { Err(Problem::Denied) }
    }

    /// The bits of a mode, `rwx`, that are granted.
    pub fn bits(&self, fs: &SnapshotFs, attr: &Attr) -> FsResult<u32> {
        match self {
            Self::Nothing => Ok(0),
            Self::Everything => {
                let runs = attr.kind == NodeKind::Directory || attr.mode & ANYBODY != 0;
                Ok(if runs { ALL } else { ALL & !SEARCH })
            }
            Self::Of(who) => match acl(fs, attr)? {
                Some(acl) => Ok(by_acl(&acl, attr, who).unwrap_or(0)),
                None => Ok(by_mode(attr, who)),
            },
        }
    }
}

fn acl(fs: &SnapshotFs, attr: &Attr) -> FsResult<Option<Vec<u8>>> {
    match fs.xattr(attr.ino, ACL, MOST_ACL) {
        Ok(value) => Ok(Some(value)),
        Err(FsError::NoAttribute | FsError::NoSuchAttributes) => Ok(None),
        Err(e) => Err(e),
    }
}

fn is_member(who: &Credentials, group: u32) -> bool {
    who.gid == group || who.groups.contains(&group)
}

fn by_mode(attr: &Attr, who: &Credentials) -> u32 {
    let shift = match () {
        () if who.uid == attr.uid => 6,
        () if is_member(who, attr.gid) => 3,
        () => 0,
    };
    attr.mode >> shift & ALL
}

/// What an ACL, as Linux keeps it in an extended attribute, grants; none if it is damaged.
/// Group bits of the mode are its mask, so the mode says nothing here.
fn by_acl(acl: &[u8], attr: &Attr, who: &Credentials) -> Option<u32> {
    const USER_OBJ: u16 = 0x01;
    const USER: u16 = 0x02;
    const GROUP_OBJ: u16 = 0x04;
    const GROUP: u16 = 0x08;
    const MASK: u16 = 0x10;
    const OTHER: u16 = 0x20;
    let (version, entries) = acl.split_first_chunk::<4>()?;
    let (entries, rest) = entries.as_chunks::<8>();
    if u32::from_le_bytes(*version) != ACL_VERSION || !rest.is_empty() {
        return None;
    }
    let entries = entries.iter().map(|&[t0, t1, p0, p1, i0, i1, i2, i3]| {
        let bits = u32::from(u16::from_le_bytes([p0, p1])) & ALL;
        (u16::from_le_bytes([t0, t1]), bits, u32::from_le_bytes([i0, i1, i2, i3]))
    });
    let entries: Vec<_> = entries.collect();
    let of = |tag| entries.iter().find(|e| e.0 == tag).map(|e| e.1);
    let mask = of(MASK).unwrap_or(ALL);
    if who.uid == attr.uid {
        return of(USER_OBJ);
    }
    if let Some(user) = entries.iter().find(|e| e.0 == USER && e.2 == who.uid) {
        return Some(user.1 & mask);
    }
    let is_his = |(tag, _, id): &(u16, u32, u32)| match *tag {
        GROUP_OBJ => is_member(who, attr.gid),
        GROUP => is_member(who, *id),
        _ => false,
    };
    let groups = entries.iter().filter(|e| is_his(e)).map(|e| e.1).reduce(|a, b| a | b);
    groups.map(|bits| bits & mask).or_else(|| of(OTHER))
}

#[cfg(test)]
mod tests {
    use tresor_engine::format::Time;

    use super::*;
    use crate::core::Ino;

    fn file(mode: u32) -> Attr {
        let attr = Attr::of_virtual(Ino(99), NodeKind::File, 0, Time::default());
        Attr { mode, uid: 10, gid: 20, ..attr }
    }

    fn who(uid: u32, gid: u32) -> Credentials {
        Credentials { uid, gid, groups: vec![gid + 1] }
    }

    #[test]
    fn owners_groups_and_others() {
        for (user, bits) in [(who(10, 20), 6), (who(11, 20), 4), (who(11, 19), 4), (who(11, 30), 1)]
        {
            assert_eq!(by_mode(&file(0o641), &user), bits, "{user:?}");
        }
    }

    #[test]
    fn acls_go_before_modes() {
        let entry = |tag: u16, bits: u16, id: u32| {
            [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        // The owning group has nothing, though the mode's group bits are `rw-`.
        let entries = [
            entry(0x01, 6, u32::MAX),
            entry(0x02, 7, 50),
            entry(0x04, 0, u32::MAX),
            entry(0x08, 4, 60),
            entry(0x10, 6, u32::MAX),
            entry(0x20, 1, u32::MAX),
        ];
        let acl = [&2u32.to_le_bytes()[..], &entries.concat()].concat();
        let bits = |uid, gid| by_acl(&acl, &file(0o661), &who(uid, gid));
        assert_eq!(bits(10, 20), Some(6));
        assert_eq!(bits(50, 20), Some(6), "masked");
        assert_eq!(bits(11, 20), Some(0));
        assert_eq!(bits(11, 60), Some(4));
        assert_eq!(bits(11, 70), Some(1));
        assert_eq!(by_acl(&acl[..acl.len() - 1], &file(0o661), &who(10, 20)), None);
        assert_eq!(by_acl(&[], &file(0o661), &who(10, 20)), None);
    }

    #[test]
    fn who_is_asked_for() {
        let (root, user, other) = (who(0, 0), who(1000, 1000), who(1001, 1000));
        let rights = |readers: Readers, who: &Credentials| readers.rights(Some(who.clone()));
        let mine = Readers::User(1000);
        assert_eq!(rights(mine, &user), Rights::Everything);
        assert_eq!(rights(mine, &root), Rights::Everything);
        assert_eq!(rights(mine, &other), Rights::Nothing);
        assert_eq!(mine.rights(None), Rights::Nothing);
        assert_eq!(rights(Readers::AsRecorded, &root), Rights::Everything);
        assert_eq!(rights(Readers::AsRecorded, &other), Rights::Of(other.clone()));
        assert_eq!(Readers::AsRecorded.rights(None), Rights::Nothing);
        assert_eq!(Readers::Anybody.rights(None), Rights::Everything);
    }
}
