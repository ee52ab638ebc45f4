//! Ways in which an object of a repository may be damaged.

use fastrand::Rng;
use tresor_engine::format::{ObjectId, ObjectKind, ObjectName};
use tresor_engine::store::Store;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Damage {
    Flip,
    Truncate,
    Empty,
    Extend,
    /// Two of a kind change places.
    Swap,
    /// The same bytes under another name.
    Duplicate,
    Delete,
    /// The bytes of another one, which stays.
    Replace,
}

impl Damage {
    pub const ALL: [Self; 8] = [
        Self::Flip,
        Self::Truncate,
        Self::Empty,
        Self::Extend,
        Self::Swap,
        Self::Duplicate,
        Self::Delete,
        Self::Replace,
    ];

    /// Damages an object; returns the one that has become wrong, or `None` if there is
    /// nothing of this kind to do it with.
    pub fn inflict(self, store: &Store, victim: ObjectName, rng: &mut Rng) -> Option<ObjectName> {
        let bytes = store.get(&victim).unwrap();
        let other =
            store.list(victim.kind).unwrap().into_iter().map(|o| o.0).find(|o| *o != victim);
        let mut changed = bytes.clone();
        match self {
            Self::Flip => {
                let at = rng.usize(..bytes.len());
                changed[at] ^= 1 << rng.u8(..8);
            }
            Self::Truncate => changed.truncate(rng.usize(1..bytes.len())),
            Self::Empty => changed.clear(),
            Self::Extend => changed.extend([0; 7]),
            Self::Swap => {
                let other = other?;
                changed = store.get(&other).unwrap();
                store.replace(&other, &bytes).unwrap();
            }
            // Parity under another name is that of an object that is gone: nobody looks at it.
            Self::Duplicate if matches!(victim.kind, ObjectKind::Config | ObjectKind::Parity) => {
                return None;
            }
            Self::Duplicate => {
                let name = ObjectName::new(victim.kind, ObjectId([rng.u8(..); 32]));
                store.put(&name, &bytes).unwrap();
                return Some(name);
            }
            Self::Delete => {
                store.delete(&victim).unwrap();
                return Some(victim);
            }
            Self::Replace => changed = store.get(&other?).unwrap(),
        }
        store.replace(&victim, &changed).unwrap();
        Some(victim)
    }
}

/// Whether `check` names a file, or a directory that it is in. Both as it writes them.
pub fn is_named<'a>(file: &str, named: impl IntoIterator<Item = &'a String>) -> bool {
    named.into_iter().any(|name| {
        let dir = name.strip_suffix('/').unwrap_or(name);
        file == name || file.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
    })
}
