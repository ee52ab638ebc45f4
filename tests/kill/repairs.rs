//! Repairs, changes of passwords, and checks that are killed.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::History;
use super::common::files::*;

/// Of kinds that may be damaged.
const KINDS: [&str; 6] = ["packs", "index", "snapshots", "keys", "forgotten", "parity"];

impl History {
    /// Index objects are gone or cut off; a repair that was killed keeps nobody from another one.
    pub fn repair_index(&mut self) {
        for path in self.w.objects("index") {
            match self.rng.u8(..3) {
                0 => fs::remove_file(path).unwrap(),
                // With parity that would be read as if it were whole.
                1 if !self.has_parity => fs::write(path, "cut").unwrap(),
                _ => {}
            }
        }
        // Old entries may have come back, of packs that a prune has deleted.
        self.run("repair index -q --read-all-packs", &[0, 3]);
        let again = self.w.run("repair index -q --read-all-packs").expect_no_panic();
        assert!([0, 3].contains(&again.code), "{}", again.err);
        self.w.ok("repair index -q --read-all-packs");
    }

    /// A pack is gone; what is left of snapshots is saved, then the pack is put back.
    pub fn repair_snapshots(&mut self) {
        let packs: Vec<_> = self.w.objects("packs").into_iter().collect();
        let Some(pack) = self.rng.choice(packs) else { return };
        let away = self.w.path("away");
        fs::rename(&pack, &away).unwrap();
        self.run("repair snapshots -q", &[0, 3]);
        let repaired = self.repaired();
        for id in &repaired {
            // All that is in it is there.
            let _ = fs::remove_dir_all(self.w.path("out"));
            self.w.ok(&format!("restore {id} -t out -q"));
        }
        let again = self.w.run("repair snapshots -q").expect_no_panic();
        assert!([0, 3].contains(&again.code), "{}", again.err);
        let all = self.repaired();
        assert!(repaired.iter().all(|id| all.contains(id)), "{repaired:?} {all:?}");
        assert!(all.len() <= self.saved.len(), "one was repaired twice: {all:?}");
        fs::rename(&away, &pack).unwrap();
        if !all.is_empty() {
            self.w.ok(&format!("forget -q {}", all.join(" ")));
        }
    }

    /// Snapshots that a repair has saved; the originals are there, too.
    fn repaired(&self) -> Vec<String> {
        let listed = self.listed();
        assert!(self.saved.keys().all(|id| listed.contains(id)), "{listed:?} {:?}", self.saved);
        listed.into_iter().filter(|id| !self.saved.contains_key(id)).collect()
    }

    pub fn add_and_remove_a_key(&mut self) {
        fs::write(self.w.path("second"), "battery staple").unwrap();
        let second = "snapshots -q --password-file second";
        if self.run("key add -q --new-password-file second", &[0]) {
            self.w.ok(second);
        }
        for id in self.further_keys() {
            let done = self.run(&format!("key remove -q {id}"), &[0]);
            if done {
                assert_eq!(self.further_keys(), [""; 0]);
                self.w.fails(12, second);
            }
        }
        // What was killed can be done again.
        for id in self.further_keys() {
            self.w.ok(&format!("key remove -q {id}"));
        }
        self.w.fails(12, second);
    }

    /// Key slots of others than the password that is used.
    fn further_keys(&self) -> Vec<String> {
        let slots = self.w.json("key list");
        let further = slots.as_array().unwrap().iter().filter(|slot| slot["current"] == false);
        further.map(|slot| slot["id"].as_str().unwrap().to_owned()).collect()
    }

    pub fn check(&mut self) {
        self.run("check -q --read-data", &[0]);
    }

    /// Bytes of many objects, and of their parity, are other ones.
    pub fn repair_objects(&mut self) {
        let all: Vec<PathBuf> = KINDS.iter().flat_map(|kind| self.w.objects(kind)).collect();
        let mut damaged: Vec<_> = (0..12).filter_map(|_| self.rng.choice(&all).cloned()).collect();
        damaged.push(self.w.path("repo/config"));
        let before: BTreeMap<_, _> =
            damaged.iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        for path in before.keys() {
            flip(path, self.rng.u64(..path.metadata().unwrap().len()));
        }
        if let Some((id, copy)) = self.any() {
            self.assert_restores(&id, &copy);
        }
        self.run("repair objects -q", &[0]);
        // By half or not at all, it can be read.
        if let Some((id, copy)) = self.any() {
            self.assert_restores(&id, &copy);
        }
        self.w.ok("repair objects -q");
        self.w.ok("scrub -q");
        for (path, bytes) in before {
            assert!(fs::read(&path).unwrap() == bytes, "{}", path.display());
        }
    }
}
