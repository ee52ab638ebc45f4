//! A repository on a disk of its own.

use std::fs;

use rustix::mount::MountFlags;

use super::{World, sh};

impl World {
    pub fn on_small_disk(size: &str) -> Self {
        let w = Self::bare();
        fs::create_dir(w.path("repo")).unwrap();
        let options = format!("size={size}");
        sh("mount", &[&"-t", &"tmpfs", &"-o", &options, &"tmpfs", &w.path("repo")]);
        w.init();
        w
    }

    /// Whether it could be: not while a file is written to.
    pub fn becomes_read_only(&self) -> bool {
        rustix::mount::mount_remount(self.path("repo"), MountFlags::RDONLY, "").is_ok()
    }

    pub fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        sh("mount", &[&"-o", &options, &self.path("repo")]);
    }
}
