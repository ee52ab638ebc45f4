//! Where a fuzzer begins: an example of everything, and what is known to be unkind
//! to parsers. The replay takes these too.

use tresor_engine::compress::compress_into;
use tresor_engine::format::{
    BlobId, BlobKind, Branch, Config, Content, ContentPage, Extent, ExtentPage, IndexData, KeySlot,
    LeftOut, LinkId, Node, NodeKind, ObjectId, PackEntry, PackTable, PathBytes, SegmentEntry,
    SlotInfo, SnapshotData, Stream, Summary, Time, TreePage, Xattr,
};

use crate::kit::{encoded, keys, with_length};
use crate::state;

/// Inputs for a target of this name.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let mut seeds = examples(target);
    if matches!(
        target,
        "config" | "key_slot" | "index" | "snapshot" | "state_file" | "tree_page" | "content_page"
    ) {
        let unkind: Vec<_> = seeds.iter().flat_map(|s| unkind(s)).collect();
        seeds.extend(unkind);
        seeds.extend(nested());
    }
    // The first byte says what the rest is; so each way gets each example.
    if matches!(target, "pack" | "sealed" | "index_run" | "repository" | "hostile") {
        let plain = std::mem::take(&mut seeds);
        for how in 0..8u8 {
            seeds.extend(plain.iter().map(|s| [&[how], s.as_slice()].concat()));
        }
    }
    seeds
}

fn time() -> Time {
    Time::new(1_795_436_405, 500_000_000)
}

fn segment() -> SegmentEntry {
    let mut segment = SegmentEntry::new(BlobKind::Tree);
    segment.sealed_len = 100;
    segment.push(&BlobId([1; 32]), 30);
    segment.push(&BlobId([2; 32]), 0);
    segment
}

fn index() -> IndexData {
    let pack = |id, marked| PackEntry {
        id: ObjectId([id; 32]),
        salt: [8; 32],
        size: 1000,
        segments: vec![segment(), segment()],
        marked,
    };
    IndexData {
        packs: vec![pack(1, None), pack(2, Some(time()))],
        replaces: vec![ObjectId([3; 32])],
    }
}

/// What a client has seen: the snapshot that is there and one that isn't, a key slot that
/// isn't there, what was removed, and a record of that. The engine keeps it to itself.
fn state() -> Vec<u8> {
    let time = encoded(&time());
    let id = |id: &[u8]| [&[0x58, 32], id].concat();
    let map = |pairs: &[(Vec<u8>, &[u8])]| -> Vec<u8> {
        let all = pairs.iter().flat_map(|(key, value)| [key, *value].concat());
        [0xa0 | pairs.len() as u8].into_iter().chain(all).collect()
    };
    let number = |n: u8| vec![n];
    let seen = [&[0x82], &time[..], &[0xf4]].concat();
    let track = |there: &[&[u8]], gone: &[&[u8]]| {
        let there: Vec<_> = there.iter().map(|of| (id(of), &seen[..])).collect();
        let gone: Vec<_> = gone.iter().map(|of| (id(of), &time[..])).collect();
        map(&[(number(0), &map(&there)), (number(1), &map(&gone))])
    };
    map(&[
        (number(0), &[&[0x50], &state::REPOSITORY[..]].concat()),
        (number(1), &time),
        (number(2), &[&[0x82], &time[..], &[0x62], b"/r"].concat()),
        (number(3), &track(&[&state::SNAPSHOT, &[1; 32]], &[&[2; 32]])),
        (number(4), &track(&[&[3; 32]], &[])),
        (number(5), &[&[0x81], &id(&[4; 32])[..]].concat()),
    ])
}

fn snapshot() -> SnapshotData {
    SnapshotData {
        utc_offset: 3600,
        host: "host".into(),
        user: "user".into(),
        paths: vec![PathBytes(b"/home".to_vec()), PathBytes(vec![b'/', 0xff])],
        tags: vec!["tag".into()],
        summary: Summary { files: 3, seconds: 0.5, ..Default::default() },
        program: "tresor".into(),
        xattr_names: Some(vec![PathBytes(b"user.x".to_vec())]),
        left_out: Some(LeftOut::Names(vec![PathBytes(b"proc".to_vec())])),
        ..SnapshotData::new(time(), BlobId([4; 32]))
    }
}

fn node(name: &str, content: Content) -> Node {
    let mut node = Node::new(name, NodeKind::File);
    node.size = content.size().unwrap_or(0);
    node.content = Some(content);
    node
}

fn nodes() -> Vec<Node> {
    let id = BlobId([5; 32]);
    let mut dir = Node::new("d", NodeKind::Directory);
    (dir.tree, dir.user, dir.group) = (Some(id), Some("root".into()), Some("wheel".into()));
    let mut link = Node::new("link", NodeKind::Symlink);
    (link.target, link.size) = (Some(b"a".to_vec()), 1);
    let mut device = Node::new("tty", NodeKind::CharDevice);
    device.device = Some(0x0503);
    let mut named = node("c", Content::Pages { level: 1, pages: vec![ExtentPage { len: 9, id }] });
    named.link = Some(LinkId { device: 1, inode: 2, names: 3 });
    let content = Content::Extents(vec![Extent { len: 70_000, id: Some(id) }]);
    named.streams = Some(vec![Stream { name: b"user.long".to_vec(), content }]);
    named.xattrs = Some(vec![Xattr { name: b"user.x".to_vec(), value: b"y".to_vec() }]);
    let extents = vec![Extent { len: 5, id: Some(id) }, Extent { len: 7, id: None }];
    vec![
        node("a", Content::Inline(b"hi".to_vec())),
        node("b", Content::Extents(extents)),
        named,
        dir,
        link,
        device,
    ]
}

fn examples(target: &str) -> Vec<Vec<u8>> {
    let words = |list: &[&str]| list.iter().map(|w| w.as_bytes().to_vec()).collect();
    match target {
        "config" => {
            let config = Config::new(keys(), time(), None, Default::default()).unwrap();
            let secret = config.open_secret(keys()).unwrap();
            vec![encoded(&config), encoded(&secret)]
        }
        "key_slot" => {
            let slot = KeySlot {
                kind: 0,
                memory: 8192,
                passes: 1,
                lanes: 1,
                salt: [1; 32],
                wrapped: vec![2; 48],
                info: vec![3; 100],
                repository: [4; 16],
            };
            vec![encoded(&slot), encoded(&SlotInfo { created: time(), label: "me".into() })]
        }
        "index" => vec![encoded(&index()), encoded(&IndexData::default())],
        "snapshot" => vec![encoded(&snapshot())],
        "tree_page" => {
            let branch =
                |first: &str| Branch { first: first.into(), entries: 3, id: BlobId([6; 32]) };
            let branch = TreePage::Branch(vec![branch("a"), branch("m")]);
            let leaf = TreePage::Leaf(nodes());
            vec![leaf.encode(), branch.encode(), TreePage::Leaf(Vec::new()).encode()]
        }
        "content_page" => {
            let id = BlobId([7; 32]);
            let extents = vec![Extent { len: 5, id: Some(id) }, Extent { len: 7, id: None }];
            let pages = vec![ExtentPage { len: 12, id }; 2];
            vec![ContentPage::Extents(extents).encode(), ContentPage::Pages(pages).encode()]
        }
        "parity" => (0..64u8)
            .map(|how| {
                let damage = [3, 7, 0, how, 90, 1, 255, 2, 9, how % 4, 5, 0];
                [&[how, 64][..], &[how; 80], &[how * 3], &damage, &damage].concat()
            })
            .collect(),
        "pack" => {
            let table = encoded(&PackTable { segments: vec![segment()] });
            // After the length of the segment's bytes.
            vec![[&[0xff], &[1; 64][..], &table].concat(), with_length(&table), table]
        }
        "sealed" => [encoded(&snapshot()), encoded(&index())]
            .iter()
            .flat_map(|plain| {
                let mut payload = Vec::new();
                compress_into(plain, &mut payload);
                let lengths =
                    [(payload.len() as u32).to_le_bytes(), (plain.len() as u32).to_le_bytes()];
                [[&lengths.concat(), payload.as_slice()].concat()]
            })
            .chain([ObjectId::of(b"").0.to_vec()])
            .collect(),
        "segment" => [&b"abc"[..], &[0; 5000], &b"tresor ".repeat(40)]
            .iter()
            .map(|plain| {
                let mut payload = (plain.len() as u32).to_le_bytes()[..3].to_vec();
                payload.insert(0, 0);
                compress_into(plain, &mut payload);
                payload
            })
            .collect(),
        "index_run" => {
            vec![vec![2, 1, 2, 3, 0x40], vec![0, 200, 1], vec![1, 1, 2, 65, 0], vec![1; 4000]]
        }
        "patterns" => words(&[
            "*.o\n!keep.o\n# no\n/tmp/\n",
            "/a/**/b\n[a-z]?.{txt,md}",
            "[!a]*\\*",
            &format!("{}a{}", "{".repeat(300), "}".repeat(300)),
            &"{a,b}".repeat(200),
            &"?".repeat(2000),
        ]),
        "snapshot_spec" => words(&[
            "latest",
            "latest~3:/etc",
            "0a1b",
            "2026-11-23",
            "2026-11-23T14:30:05:/a:b",
            "yesterday",
            "2026-11-23 14.30.05",
        ]),
        "arguments" => words(&[
            "1.5GiB",
            "10k",
            "5%",
            "2/7",
            "1d12h",
            "2y5m7d3h",
            "host,paths",
            "unlimited",
            "28",
            "2026-11-23 14:30:05",
            "a, b,,c",
        ]),
        "mount_options" => words(&[
            "tresor:/srv/repo\0/mnt\0-o\0rw,allow_other,snapshot=latest,cache_dir=/c\0-f",
            "/r\0/m\0-t\0fuse.tresor\0-o\0idle-exit=5m,x-systemd.automount",
        ]),
        "state_file" => vec![state(), b"tresor state 1\n".to_vec()],
        // Lists of choices; the last one says of a pack's blobs that they are in another.
        "repository" => (0..16u8)
            .flat_map(|op| {
                [
                    vec![op, 3, 77, 0, 0, 0, 9],
                    vec![0x38 | op, 5, 1, 0, 0, 0, 7],
                    vec![0x80 | op, 1, 0, 1, op, 7],
                ]
            })
            .chain([vec![0x8a, 0x3b, 0x28]])
            .collect(),
        // Which server; then calls: how, a procedure, which handle, and its arguments.
        "nfs_calls" => {
            let lookup = |handle: u8, name: u8| [3, 3, handle, name];
            let way = [lookup(0, 0), lookup(1, 1), lookup(2, 2), lookup(3, 4)].concat();
            let more = [lookup(3, 6), lookup(3, 7), lookup(2, 3), lookup(1, 12)].concat();
            let read = [&[3, 6, 4][..], &[0; 8], &[0, 0, 1, 0]].concat();
            let list = |procedure: u8, handle: u8, from: u8, how: u8| {
                let words = [0, 8, 0, 0, 0, 64, 0, 0];
                [&[3 | how, procedure, handle, from][..], &words].concat()
            };
            let all = |how: u8| {
                let call = |procedure: u8| [&[3 | how, procedure, procedure][..], &[0, 9]].concat();
                (0..23).flat_map(call).collect::<Vec<_>>()
            };
            let lists =
                [list(16, 3, 0, 0), list(16, 3, 2, 0), list(17, 3, 0, 0), list(17, 2, 1, 8)];
            let mounts =
                [&[1, 60][..], b"/snapshots/late", &[9, 0, 2, 1, 3, 5, 2, 2, 2, 3]].concat();
            let raw = [&[0, 40][..], &[0; 7], &[2, 0, 1, 0x86, 0xa3, 0, 0, 0, 3, 9, 9]].concat();
            let whole = [&[0][..], &way, &more, &read, &lists.concat()].concat();
            let hows = [0, 8, 0x10, 0x20, 0x40, 0x80].map(|how| [&way[..], &all(how)].concat());
            let hows = hows.map(|calls| [&[0][..], &calls].concat());
            [whole, [&[1][..], &way, &read, &mounts, &raw].concat()]
                .into_iter()
                .chain(hows)
                .collect()
        }
        "hostile" => {
            let chunk = [0, 40, b'c', b'h', b'u', b'n', b'k', 3];
            let leaf = [5, 3, 7, 0, 0, 2, 2, 3, 0, 9, 1, 0, 2, 1, 0, 3, 11, 0, 0, 1, 60, 60];
            let dirs = [5, 2, 30, 1, 0, 0, 31, 1, 0, 0, 1];
            let pages = [1, 3, 0, 3, 0, 3, 0, 2, 1, 2, 2, 0, 3, 0, 3, 6, 2, 9, 0, 0, 1, 2, 0, 3];
            vec![
                [&chunk[..], &leaf, &dirs].concat(),
                [&chunk[..], &pages, &leaf].concat(),
                [&chunk[..], &chunk, &leaf, &dirs, &[3, 2, 0, 3, 50, 0, 3, 90], &dirs].concat(),
            ]
        }
        _ => Vec::new(),
    }
}

/// A structure in which each list and each string in turn says that it is endless, or
/// as long as can be said.
fn unkind(plain: &[u8]) -> Vec<Vec<u8>> {
    let heads = plain.iter().enumerate().filter(|(_, b)| matches!(*b >> 5, 2..=5));
    let lying = heads.flat_map(|(at, head)| {
        let kind = head & 0xe0;
        let with = |head: &[u8]| [&plain[..at], head, &plain[at + 1..]].concat();
        let longest = [&[kind | 27], &u64::MAX.to_be_bytes()[..]].concat();
        let long = [&[kind | 26], &u32::MAX.to_be_bytes()[..]].concat();
        [with(&longest), with(&long), with(&[kind | 31])]
    });
    // A few of them: structures have hundreds of heads.
    lying.step_by(7).take(40).collect()
}

/// Lists in lists, also under keys that nobody knows.
fn nested() -> Vec<Vec<u8>> {
    let deep = |byte: u8| vec![byte; 100_000];
    vec![
        deep(0x81),
        deep(0x9f),
        deep(0xc6),
        [&[0xa1, 0x18, 99][..], &deep(0x81)].concat(),
        [&[0xa1, 0x18, 99][..], &deep(0x9f)].concat(),
        [&[0xbf, 0x18, 99][..], &deep(0xbf)].concat(),
        [&[0xa1, 0x18, 99][..], &deep(0xc6)].concat(),
    ]
}
