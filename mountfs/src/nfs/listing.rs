//! Listing directories, as far as a client has room.

use nfs3_types::nfs3::{
    READDIR3resok, READDIRPLUS3resok, cookieverf3, dirlist3, dirlistplus3, entry3, entryplus3,
    post_op_attr, post_op_fh3,
};
use nfs3_types::xdr_codec::{BoundedList, Pack};

use super::access::{self, Rights};
use super::drive::{Answer, Drive, good};
use super::handle::Target;
use super::request::Place;
use super::status::Problem;
use crate::core::{Entry, FsResult, Ino, LookUp};

/// What a reply holds besides its entries: attributes of the directory, a verifier, and
/// whether that was all.
const AROUND: usize = 88 + 8 + 4;
/// Of each entry: its number, and where it goes on.
const NUMBERS: u32 = 16;

impl Drive {
    pub fn read_dir(&self, dir: Ino, from: Place, count: u32, rights: &Rights) -> Answer {
        rights.need(&self.fs, &self.fs.attr(dir)?, access::READ)?;
        let mut entries = room(count)?;
        let (eof, cookieverf) = self.list(dir, from, LookUp::Nothing, &mut |entry| {
            let name = entry.name.to_vec().into();
            let entry = entry3 { fileid: entry.attr.ino.0, name, cookie: entry.next };
            Ok(entries.try_push(entry).is_ok())
        })?;
        let entries = entries.into_inner();
        if entries.is_empty() && !eof {
            return Err(Problem::TooSmall);
        }
        let dir_attributes = self.told(dir);
        Ok(good(&READDIR3resok { dir_attributes, cookieverf, reply: dirlist3 { entries, eof } }))
    }

    pub fn read_dir_plus(
        &self,
        dir: Ino,
        from: Place,
        mut names: u32,
        count: u32,
        rights: &Rights,
    ) -> Answer {
        let attr = self.fs.attr(dir)?;
        rights.need(&self.fs, &attr, access::READ)?;
        // Who may not go in gets no handles of what is there.
        let enters = rights.bits(&self.fs, &attr)? & access::SEARCH != 0;
        let mut entries = room(count)?;
        let mut given = false;
        let look_up = if enters { LookUp::Everything } else { LookUp::Nothing };
        let (eof, cookieverf) = self.list(dir, from, look_up, &mut |entry| {
            let bytes = entry.name.len() as u32 + NUMBERS;
            if given && bytes > names {
                return Ok(false);
            }
            let target = match entry.looked_up {
                true => Some(Target::of(&self.fs, &entry.attr)?),
                false => None,
            };
            let taken = entries.try_push(self.entry_plus(&entry, target.as_ref())).is_ok();
            // One that isn't taken is given back by who lists.
            if let Some(target) = target.filter(|_| taken) {
                target.give_out(&self.fs);
            }
            names = names.saturating_sub(bytes);
            given |= taken;
            Ok(taken)
        })?;
        let entries = entries.into_inner();
        if entries.is_empty() && !eof {
            return Err(Problem::TooSmall);
        }
        let dir_attributes = self.told(dir);
        let reply = dirlistplus3 { entries, eof };
        Ok(good(&READDIRPLUS3resok { dir_attributes, cookieverf, reply }))
    }

    /// An entry with its attributes and handle, if it is to have them.
    fn entry_plus(&self, entry: &Entry<'_>, target: Option<&Target>) -> entryplus3<'static> {
        let (name_attributes, name_handle) = match target {
            Some(target) => (
                post_op_attr::Some(self.attributes(&entry.attr)),
                post_op_fh3::Some(self.handle(target)),
            ),
            None => (post_op_attr::None, post_op_fh3::None),
        };
        entryplus3 {
            fileid: entry.attr.ino.0,
            name: entry.name.to_vec().into(),
            cookie: entry.next,
            name_attributes,
            name_handle,
        }
    }

    /// Lists until there is no room. Says whether that was all, and what the next call must
    /// show. A virtual folder that has changed meanwhile is begun anew.
    fn list(
        &self,
        dir: Ino,
        from: Place,
        look_up: LookUp,
        each: &mut dyn FnMut(Entry<'_>) -> FsResult<bool>,
    ) -> Result<(bool, cookieverf3), Problem> {
        let verifier = || self.fs.listing_version(dir).map(u64::from);
        let before = verifier()?;
        if from.cookie != 0 && before != from.verifier {
            return Err(Problem::BadCookie);
        }
        let listed = self.list_from(dir, from.cookie, look_up, each);
        // It may change while it is listed; who has begun here is told the older one, and learns
        // of it when he goes on.
        if from.cookie != 0 && before != verifier()? {
            return Err(Problem::BadCookie);
        }
        Ok((listed?, cookieverf3(before.to_be_bytes())))
    }

    /// Whether that was all: what comes before damage isn't, since the next call must fail.
    fn list_from(
        &self,
        dir: Ino,
        cookie: u64,
        look_up: LookUp,
        each: &mut dyn FnMut(Entry<'_>) -> FsResult<bool>,
    ) -> FsResult<bool> {
        let (mut next, mut full, mut failed) = (cookie, false, Ok(()));
        self.fs.read_dir(dir, cookie, look_up, &mut |entry| {
            let after = entry.next;
            let taken = each(entry).unwrap_or_else(|e| {
                failed = Err(e);
                false
            });
            full |= !taken;
            if taken {
                next = after;
            }
            taken
        })?;
        failed?;
        if full {
            return Ok(false);
        }
        let mut more = false;
        let rest = self.fs.read_dir(dir, next, LookUp::Nothing, &mut |_| {
            more = true;
            false
        });
        Ok(rest.is_ok() && !more)
    }
}

fn room<T: Pack>(count: u32) -> Result<BoundedList<T>, Problem> {
    let room = (count as usize).checked_sub(AROUND).ok_or(Problem::TooSmall)?;
    Ok(BoundedList::new(room))
}
