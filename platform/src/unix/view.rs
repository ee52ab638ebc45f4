//! A file tree of which some entries are read in another place: in a snapshot of their volume,
//! as if they were read from the volume itself.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use tresor_engine::format::Node;
use tresor_engine::source::{Room, SourceDir, SourceFile};

/// The numbers of a file system: in the snapshot, and that of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Swap {
    pub held: u64,
    pub living: u64,
}

/// Where an entry is read.
pub(super) struct Place {
    pub dir: Arc<dyn SourceDir>,
    pub name: Vec<u8>,
    pub swap: Option<Swap>,
}

/// By absolute paths.
pub(super) type Places = HashMap<Vec<u8>, Place>;

pub(super) struct View {
    dir: Arc<dyn SourceDir>,
    /// Empty for the root.
    path: Vec<u8>,
    swap: Option<Swap>,
    places: Arc<Places>,
}

impl View {
    pub fn new(root: Arc<dyn SourceDir>, places: Arc<Places>) -> Self {
        Self { dir: root, path: Vec::new(), swap: None, places }
    }

    fn path(&self, name: &[u8]) -> Vec<u8> {
        [&self.path, b"/".as_slice(), name].concat()
    }

    /// The directory that an entry is read in, its name there, and its numbers.
    fn place<'a>(&'a self, name: &'a [u8]) -> (&'a dyn SourceDir, &'a [u8], Option<Swap>) {
        match self.places.get(&self.path(name)) {
            Some(place) => (&*place.dir, &place.name, place.swap),
            None => (&*self.dir, name, self.swap),
        }
    }
}

impl SourceDir for View {
    fn names(&self) -> io::Result<Vec<Vec<u8>>> {
        self.dir.names()
    }

    fn stat(&self, name: &[u8]) -> io::Result<(Node, u64)> {
        let (dir, there, swap) = self.place(name);
        let (mut node, mut device) = dir.stat(there)?;
        node.name = name.to_vec();
        if let Some(Swap { held, living }) = swap {
            let numbers = node.link.iter_mut().map(|link| &mut link.device).chain([&mut device]);
            numbers.filter(|number| **number == held).for_each(|number| *number = living);
        }
        Ok((node, device))
    }

    fn device(&self) -> io::Result<Option<u64>> {
        let device = self.dir.device()?;
        let living = self.swap.filter(|swap| device == Some(swap.held)).map(|swap| swap.living);
        Ok(living.or(device))
    }

    fn details(&self, node: &mut Node, room: &mut Room) -> io::Result<()> {
        let name = node.name.clone();
        let (dir, there, _) = self.place(&name);
        node.name = there.to_vec();
        let told = dir.details(node, room);
        node.name = name;
        told
    }

    fn open_stream(&self, node: &Node, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        let (dir, there, _) = self.place(&node.name);
        dir.open_stream(&Node { name: there.to_vec(), ..node.clone() }, name)
    }

    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn SourceDir>> {
        let (dir, there, swap) = self.place(name);
        let dir = dir.open_dir(there)?;
        let places = self.places.clone();
        Ok(Arc::new(Self { dir, path: self.path(name), swap, places }))
    }

    fn open_file(&self, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        let (dir, there, _) = self.place(name);
        dir.open_file(there)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::open_source;
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(dir: &dyn SourceDir, name: &str) -> String {
        let mut buffer = [0; 64];
        let len = dir.open_file(name.as_bytes()).unwrap().read_at(&mut buffer, 0).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    }

    #[test]
    fn a_folder_that_is_read_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for (tree, text) in [("living", "new"), ("held/copy", "old")] {
            write(&at(tree).join("users/anna/file"), text);
            write(&at(tree).join("users/anna/disk/inside"), text);
            write(&at(tree).join("else"), text);
        }
        fs::hard_link(at("held/copy/users/anna/file"), at("held/copy/users/anna/link")).unwrap();
        std::os::unix::fs::symlink("file", at("held/copy/users/anna/symlink")).unwrap();

        let (living, held) =
            (open_source(&at("living")).unwrap(), open_source(&at("held")).unwrap());
        let (_, number) = held.stat(b"copy").unwrap();
        let swap = Some(Swap { held: number, living: 7 });
        let parent = |path: &str| open_source(&at(path)).unwrap();
        let places: Places = [
            ("/users", "held/copy", "users", swap),
            // Another volume that is mounted below.
            ("/users/anna/disk", "living/users/anna", "disk", None),
        ]
        .map(|(path, dir, name, swap)| {
            (path.into(), Place { dir: parent(dir), name: name.into(), swap })
        })
        .into();
        let view = View::new(living, Arc::new(places));

        assert_eq!(read(&view, "else"), "new");
        assert_eq!(view.stat(b"else").unwrap().1, number);
        let (mut node, device) = view.stat(b"users").unwrap();
        assert_eq!((node.name.as_slice(), device), (b"users".as_slice(), 7));
        view.details(&mut node, &mut Room::with_streams()).unwrap();
        assert_eq!(node.name, b"users");
        let anna = view.open_dir(b"users").unwrap().open_dir(b"anna").unwrap();
        assert_eq!(read(&*anna, "file"), "old");
        let (node, device) = anna.stat(b"file").unwrap();
        assert_eq!((node.link.unwrap().device, device), (7, 7));
        let (mut node, _) = anna.stat(b"symlink").unwrap();
        anna.details(&mut node, &mut Room::with_streams()).unwrap();
        assert_eq!(node.target.as_deref(), Some(b"file".as_slice()));
        let mut names = anna.names().unwrap();
        names.sort();
        assert_eq!(names, [b"disk".as_slice(), b"file", b"link", b"symlink"]);
        assert_eq!(anna.stat(b"disk").unwrap().1, number);
        assert_eq!(read(&*anna.open_dir(b"disk").unwrap(), "inside"), "new");
    }
}
