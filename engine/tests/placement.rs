//! Where chunks are put: packs don't show their order (docs/threat-model.md).

use std::collections::HashMap;

use tresor_engine::contents::extents_in;
use tresor_engine::history;
use tresor_testkit::{Item, backup, options, random_bytes, repository};

const LEN: usize = 16 << 20;

/// With fair coins this fails once in millions of times.
#[test]
fn chunks_of_a_file_go_to_two_packs_at_random() {
    let repo = repository();
    let bytes = random_bytes(&mut fastrand::Rng::with_seed(1), LEN);
    let (snapshot, _) = backup(&repo, &Item::dir().with("file", Item::file(bytes)), &options(None));
    let mut packs = Vec::new();
    history::walk(&repo, &snapshot.data.tree, &mut |_, node| {
        for (_, extent) in extents_in(&repo, node.content.as_ref().unwrap(), 0..LEN as u64)? {
            packs.push(repo.locate(&extent.id.unwrap())?.segment.pack);
        }
        Ok(true)
    })
    .unwrap();
    let mut chunks: HashMap<_, usize> = HashMap::new();
    packs.iter().for_each(|pack| *chunks.entry(*pack).or_default() += 1);
    let turns = packs.windows(2).filter(|two| two[0] != two[1]).count();
    let all = packs.len();
    assert!(all > 80, "{all}");
    assert!(chunks.len() == 2 && chunks.values().all(|n| *n > all / 5), "{chunks:?}");
    // Neither one after the other, nor by turns.
    assert!((all / 5..all * 4 / 5).contains(&turns), "{turns} turns of {all}");
}
