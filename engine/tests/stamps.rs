//! What tells a backup that an entry is unchanged, and when that tells nothing.

use std::sync::Arc;

use tresor_engine::format::{Node, NodeKind, Time, Xattr};
use tresor_engine::history;
use tresor_engine::repo::{Repository, Snapshot, now};
use tresor_engine::restorer::read_file;
use tresor_testkit::{Item, backup, options, repository};

fn xattr(value: &str) -> Option<Vec<Xattr>> {
    Some(vec![Xattr { name: b"user.a".to_vec(), value: value.as_bytes().to_vec() }])
}

/// One of each kind. Content, target or attribute say `what`; nothing else differs.
fn tree(what: &str, changed: Time) -> Item {
    let mut special = Item::special(NodeKind::Fifo, None);
    let mut dir = Item::dir();
    (special.node.xattrs, dir.node.xattrs) = (xattr(what), xattr(what));
    let tree = Item::dir().with("file", Item::file(what)).with("link", Item::symlink(what));
    let mut tree = tree.with("dir", dir).with("special", special);
    for (inode, item) in (1..).zip(tree.entries_mut().values_mut()) {
        item.node.inode = inode;
        item.node.mtime = Time::new(1_600_000_000, 1);
        item.node.ctime = changed;
    }
    tree
}

/// What each entry of a snapshot says.
fn said(repo: &Repository, snapshot: &Snapshot) -> Vec<String> {
    let mut said = Vec::new();
    history::walk(repo, &snapshot.data.tree, &mut |_, node: &Node| {
        let mut bytes = Vec::new();
        match (&node.target, node.is_file()) {
            (Some(target), _) => bytes = target.clone(),
            (_, true) => read_file(repo, node, &mut bytes).unwrap(),
            _ => bytes = node.xattr(b"user.a").unwrap().to_vec(),
        }
        said.push(String::from_utf8(bytes).unwrap());
        Ok(true)
    })
    .unwrap();
    said
}

/// Entries that say `old`, backed up, and then `new`, with the same times: what the second
/// backup has of them.
fn second_backup(repo: &Arc<Repository>, changed: Time) -> Vec<String> {
    let (first, _) = backup(repo, &tree("old", changed), &options(None));
    assert_eq!(said(repo, &first), ["old"; 4]);
    let (second, _) = backup(repo, &tree("new", changed), &options(Some(first)));
    said(repo, &second)
}

#[test]
fn what_is_older_is_unchanged() {
    let old = Time::new(now().seconds - 60, 1);
    assert_eq!(second_backup(&repository(), old), ["old"; 4]);
}

/// The clock of a file system ticks: whoever changes an entry twice within a tick leaves one time.
/// It runs ahead here, so that this moment lasts however slow the test is.
#[test]
fn what_changed_in_this_moment_is_looked_at_again() {
    let ahead = now().seconds + 60;
    assert_eq!(second_backup(&repository(), Time::new(ahead, 1)), ["new"; 4]);
    // A tick of whole seconds, as it seems.
    assert_eq!(second_backup(&repository(), Time::new(ahead, 0)), ["new"; 4]);
}

/// What counts seconds only may be a share, whose server has a clock of its own that runs behind
/// ours: then an entry may change again within a second that is over here.
#[test]
fn what_changed_on_a_clock_that_runs_behind_is_looked_at_again() {
    let behind = |seconds| Time::new(now().seconds - seconds, 0);
    assert_eq!(second_backup(&repository(), behind(3)), ["new"; 4]);
    assert_eq!(second_backup(&repository(), behind(90)), ["old"; 4]);
}

/// That time is the sign of an entry that shall be looked at again; it is no stamp.
#[test]
fn what_has_no_change_time_is_looked_at_again() {
    assert_eq!(second_backup(&repository(), Node::LOOK_AGAIN), ["new"; 4]);
}
