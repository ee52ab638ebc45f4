//! What macFUSE is told of a drive.
//!
//! Not `local`: Finder then takes it for a disk of this Mac, writes `.DS_Store` files, looks for a
//! trash, and Spotlight reads everything. As it is, it is a volume of a server, in Finder's list
//! under its name. Not `noappledouble` and `noapplexattr` either: they keep `._` files,
//! `.DS_Store`, tags and resource forks that were backed up from being copied out of the drive.
//! Those that weren't are answered from the directory, like any name that isn't there.

use crate::MountOptions;
use crate::point::SOURCE_PREFIX;

/// How many seconds macFUSE waits for an answer before it offers to give the drive up; this
/// is the most that it takes. A store may be far away.
const PATIENCE: &str = "daemon_timeout=600";
/// Longer names of volumes are cut: Finder shows less.
const MOST_NAME: usize = 64;

pub(super) fn options_for(options: &MountOptions, label: &str) -> Vec<String> {
    let mut told: Vec<String> = ["ro", "nosuid", "nodev", PATIENCE].map(String::from).into();
    told.push(format!("fsname={SOURCE_PREFIX}{}", without_commas(&options.source)));
    told.push(format!("volname={}", volume_name(label)));
    if options.allow_other {
        told.extend(["allow_other", "default_permissions"].map(String::from));
    }
    told
}

/// Options are separated by commas.
fn without_commas(text: &str) -> String {
    text.replace([',', '\\'], "_")
}

/// `/` and `:` are Finder's and the system's separators, each as the other sees it.
fn volume_name(label: &str) -> String {
    let plain = |c: char| if c.is_control() || "/:".contains(c) { '-' } else { c };
    without_commas(label).chars().map(plain).take(MOST_NAME).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::OwnDrive;

    fn told(allow_other: bool, source: &str, label: &str) -> String {
        let options = MountOptions {
            allow_other,
            reader: None,
            source: source.into(),
            repository: None,
            own: OwnDrive::default(),
            idle_exit: None,
            on_error: Arc::new(|_| {}),
        };
        options_for(&options, label).join(",")
    }

    #[test]
    fn what_macfuse_is_told() {
        assert_eq!(
            told(false, "/Volumes/Backup/repo", "tresor mac 1a2b3c4d"),
            "ro,nosuid,nodev,daemon_timeout=600,fsname=tresor:/Volumes/Backup/repo,volname=tresor mac 1a2b3c4d"
        );
        assert!(told(true, "/r", "tresor").ends_with(",allow_other,default_permissions"));
    }

    #[test]
    fn no_name_becomes_an_option() {
        let told = told(false, "/a,allow_other\\,b", "x,local/\n:é,suid");
        assert!(told.contains("fsname=tresor:/a_allow_other__b,"), "{told}");
        assert!(told.ends_with(",volname=x_local---é_suid"), "{told}");
        let long = volume_name(&"ü".repeat(300));
        assert_eq!(long.chars().count(), MOST_NAME);
    }
}
