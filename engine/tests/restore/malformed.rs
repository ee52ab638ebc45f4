//! Entries that don't add up, as only a fault of the program or somebody with the key can make
//! them: what a restore refuses, `check` finds and names, and `repair snapshots` mends.

use std::sync::Arc;

use tresor_engine::format::{
    BlobKind, Branch, Content, ContentPage, Extent, ExtentPage, Node, NodeKind, SnapshotData,
    Stream, Time, TreePage,
};
use tresor_engine::maintenance::{
    CheckOptions, CheckReport, RepairSnapshotsOptions, RepairedSnapshot, check, repair_snapshots,
};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::Repository;

use crate::kit::*;

impl Maker {
    fn save(&self, tree: tresor_engine::format::BlobId) {
        let data = SnapshotData::new(Time::new(1_700_000_000, 0), tree);
        self.open().save_snapshot(&data).unwrap();
    }
}

fn look(repo: &Arc<Repository>) -> CheckReport {
    check(repo, &CheckOptions::default(), &Quiet::default()).unwrap()
}

/// What a repair has saved.
fn saved(maker: &Maker, repaired: &RepairedSnapshot) -> Arc<SnapshotData> {
    let mut snapshots = maker.open().snapshots().unwrap();
    snapshots.retain(|s| Some(s.id) == repaired.repaired);
    snapshots.remove(0).data
}

/// One thing that a restore can't do.
struct Case {
    what: &'static str,
    /// The entries of the root.
    nodes: Vec<Node>,
    /// The one of them that is wrong, or what is wrong in it.
    wrong: &'static str,
    /// Where what is left of it is, once it is repaired.
    kept: Option<&'static str>,
}

/// Each comes beside a file that shares all it can with it, and is right.
fn cases(maker: &Maker) -> Vec<Case> {
    let [a, b] = [maker.chunk(&[1; 5000]), maker.chunk(&[2; 6000])];
    let longer = Extent { len: 5001, ..a };
    let list = |extents: &[Extent]| maker.content_page(&ContentPage::Extents(extents.to_vec()));
    let inner = list(&[a, b]);
    let upper = |len| ContentPage::Pages(vec![ExtentPage { len, id: inner }]);
    let paged = |level, len, id| Content::Pages { level, pages: vec![ExtentPage { len, id }] };
    let right = file("right", 11_000, Content::Extents(vec![a, b]));
    let right_paged = file("right", 11_000, paged(1, 11_000, inner));
    let link = |target: Option<&[u8]>| Node {
        target: target.map(Vec::from),
        ..node("wrong", NodeKind::Symlink)
    };
    let with_stream = |content| Node {
        streams: Some(vec![Stream { name: b"user.s".to_vec(), content }]),
        ..maker.file("wrong", b"its data")
    };
    let case = |what, right: &Node, wrong: Node, kept| Case {
        what,
        nodes: vec![right.clone(), wrong],
        wrong: "/wrong",
        kept,
    };
    let damaged = Some("wrong.damaged");
    let inline = Content::Inline(b"tiny".to_vec());
    vec![
        case("inline", &right, file("wrong", 5, inline), damaged),
        case("sum", &right, file("wrong", 11_001, Content::Extents(vec![a, b])), damaged),
        case("chunk", &right, file("wrong", 11_001, Content::Extents(vec![longer, b])), damaged),
        case("only chunk", &right, file("wrong", 5001, Content::Extents(vec![longer])), None),
        case("page", &right_paged, file("wrong", 11_001, paged(1, 11_001, inner)), damaged),
        case(
            "page below",
            &right_paged,
            file("wrong", 11_001, paged(2, 11_001, maker.content_page(&upper(11_001)))),
            damaged,
        ),
        case(
            "chunk of a page",
            &right,
            file("wrong", 11_001, paged(1, 11_001, list(&[longer, b]))),
            damaged,
        ),
        case(
            "too much for any number",
            &right,
            file("wrong", 5, Content::Extents(vec![hole(u64::MAX), a])),
            None,
        ),
        case("directory", &right, node("wrong", NodeKind::Directory), damaged),
        case("symlink", &right, link(None), None),
        Case {
            wrong: "/wrong (stream user.s)",
            ..case("stream", &right, with_stream(Content::Extents(vec![a, longer])), Some("wrong"))
        },
        Case {
            wrong: "/wrong (stream user.s)",
            ..case(
                "sum of a stream",
                &right,
                with_stream(Content::Extents(vec![hole(u64::MAX), a])),
                Some("wrong"),
            )
        },
    ]
}

#[test]
fn what_a_restore_refuses_is_found_and_mended() {
    let number = cases(&Maker::new()).len();
    for i in 0..number {
        let maker = Maker::new();
        let Case { what, nodes, wrong, kept } = cases(&maker).swap_remove(i);
        let root = maker.dir(nodes);
        maker.save(root);
        let repo = maker.open();
        let mut target = Target::new();
        let (_, problems) = target.try_restore(&repo, &root, &Default::default());
        assert_eq!(problems.len(), 1, "{what}: {problems:?}");
        assert_eq!(target.read("right").len(), 11_000, "{what}");

        let found = look(&repo);
        let [problem] = &found.problems[..] else { panic!("{what}: {:?}", found.problems) };
        assert_eq!((&problem.object[..], problem.snapshots.len()), ("trees", 1), "{what}");
        assert!(problem.files.iter().all(|f| f.ends_with(&format!(":{wrong}"))), "{problem:?}");
        assert!(!problem.files.is_empty(), "{what}");

        let options = RepairSnapshotsOptions::default();
        let report = repair_snapshots(&repo, &options, &Quiet::default()).unwrap();
        let [repaired] = &report.repaired[..] else { panic!("{what}: {report:?}") };
        let [loss] = &repaired.losses[..] else { panic!("{what}: {report:?}") };
        assert_eq!(loss.path, b"/wrong", "{what}");
        let kept_as = kept.map(|kept| format!("/{kept}").into_bytes());
        assert_eq!(loss.kept_as, kept_as, "{what}");
        let repaired = saved(&maker, repaired);
        let mut target = Target::new();
        target.restore(&maker.open(), &repaired.tree);
        assert_eq!(target.read("right").len(), 11_000, "{what}");
        assert_eq!(target.listing().len(), 1 + usize::from(kept.is_some()), "{what}");
        repo.forget(&[report.repaired[0].original.id]).unwrap();
        assert!(look(&maker.open()).problems.is_empty(), "{what}");
    }
}

/// A list of pages that says of one what it doesn't hold, though another says it right, and
/// whichever of them is come to first.
#[test]
fn pages_that_hold_something_else_are_found_whoever_comes_first() {
    for (right, wrong) in [("a", "b"), ("b", "a")] {
        let maker = Maker::new();
        let leaf = |names: &[&str]| maker.page(names.iter().map(|n| maker.file(n, b"x")).collect());
        let (one, two) = (leaf(&["a1", "a2"]), leaf(&["b1", "b2"]));
        let branch = |entries| {
            let [one, two] = [("a1", 2, one), ("b1", entries, two)]
                .map(|(first, entries, id)| Branch { first: first.into(), entries, id });
            maker.put(BlobKind::Tree, &TreePage::Branch(vec![one, two]).encode())
        };
        let root = maker.dir(vec![dir(right, branch(2)), dir(wrong, branch(3))]);
        maker.save(root);
        let repo = maker.open();
        let (_, problems) = Target::new().try_restore(&repo, &root, &Default::default());
        assert_eq!(problems.len(), 1, "{problems:?}");
        let found = look(&repo);
        let [problem] = &found.problems[..] else { panic!("{:?}", found.problems) };
        assert!(
            matches!(&problem.files[..], [file] if file.ends_with(&format!(":/{wrong}"))),
            "{problem:?}"
        );

        let options = RepairSnapshotsOptions::default();
        let report = repair_snapshots(&repo, &options, &Quiet::default()).unwrap();
        let repaired = &report.repaired[0];
        assert_eq!((repaired.losses.len(), repaired.losses[0].entries), (1, Some(0)));
        let data = saved(&maker, repaired);
        let mut target = Target::new();
        target.restore(&maker.open(), &data.tree);
        for path in ["a/a1", "a/a2", "a/b1", "a/b2", "b/a1", "b/a2", "b/b1", "b/b2"] {
            assert_eq!(target.read(path), b"x");
        }
    }
}
