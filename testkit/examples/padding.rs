//! What padding costs in a repository, and how well chunks can be recognised from the
//! lengths of segments: `padding FOLDER PASSWORD-FILE`. See `scripts/padding`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tresor_engine::compress::compress_into;
use tresor_engine::contents::extents_in;
use tresor_engine::crypto::{Password, TAG_LEN};
use tresor_engine::format::{
    BlobId, Extent, ObjectId, ObjectKind, PACK_HEADER_LEN, PACK_TRAILER_LEN, PackEntry, PackTable,
};
use tresor_engine::history;
use tresor_engine::index::read_object;
use tresor_engine::padding::padme;
use tresor_engine::repo::{OpenOptions, Repository};
use tresor_engine::store::{LocalStore, Store};

/// What becomes of a length.
type Way = (&'static str, fn(u64) -> u64);
type Done = Result<(), Box<dyn std::error::Error>>;

fn main() -> Done {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, password] = &arguments[..] else {
        return Err("see the comment at the beginning of its source".into());
    };
    let password = std::fs::read_to_string(password)?;
    let password = Password::new(password.trim_end_matches('\n').as_bytes().to_vec());
    let store: Store = Arc::new(LocalStore::new(folder));
    let repo = Repository::open(store.clone(), &password, &OpenOptions::default())?;
    let mut packs: BTreeMap<ObjectId, PackEntry> = BTreeMap::new();
    for id in repo.index().objects() {
        let data = read_object(&store, repo.keys(), &id)?;
        packs.extend(data.packs.into_iter().map(|pack| (pack.id, pack)));
    }
    bytes(&store, &packs)?;
    recognition(&repo, &packs)
}

fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

/// What is stored, and what of it is padding; what padding each segment would add.
fn bytes(store: &Store, packs: &BTreeMap<ObjectId, PackEntry>) -> Done {
    for kind in [ObjectKind::Pack, ObjectKind::Index, ObjectKind::Snapshot] {
        let listed = store.list(kind)?;
        let sum: u64 = listed.iter().map(|(_, size)| size).sum();
        println!("{:<10} {:>8} objects {sum:>13} bytes", kind.folder(), listed.len());
    }
    let lengths = |pack: &PackEntry| -> Vec<u64> {
        pack.segments.iter().map(|s| u64::from(s.sealed_len)).collect()
    };
    let segments: Vec<u64> = packs.values().flat_map(lengths).collect();
    let stored: u64 = segments.iter().sum();
    let all: u64 = packs.values().map(|pack| pack.size).sum();
    let mut padding = 0;
    for pack in packs.values() {
        padding += pack.size - (lengths(pack).iter().sum::<u64>() + without_segments(pack)?);
    }
    println!("segments   {:>8}         {stored:>13} bytes", segments.len());
    println!("padding of packs          {padding:>15} bytes, {:.2} %", percent(padding, all));
    let ways: [Way; 3] = [
        ("Padmé", padme),
        ("to 4 KiB", |len| len.next_multiple_of(4 << 10)),
        ("to 16 KiB", |len| len.next_multiple_of(16 << 10)),
    ];
    for (way, padded) in ways {
        let more = segments.iter().map(|len| padded(*len) - len).sum();
        println!("segments padded {way:<10}{more:>15} bytes more, {:.2} %", percent(more, all));
    }
    Ok(())
}

/// Length of a pack without segments and padding.
fn without_segments(pack: &PackEntry) -> Result<u64, Box<dyn std::error::Error>> {
    let table = minicbor::to_vec(PackTable { segments: pack.segments.clone() })?;
    let mut payload = vec![0; 4];
    compress_into(&table, &mut payload);
    Ok((PACK_HEADER_LEN + payload.len() + 2 * TAG_LEN + PACK_TRAILER_LEN) as u64)
}

/// Who knows the lengths that a file's chunks have in this repository (from another copy of it,
/// say) and sees lengths of segments, as they are read: how many chunks of it must he see?
fn recognition(repo: &Repository, packs: &BTreeMap<ObjectId, PackEntry>) -> Done {
    let mut alone: HashMap<BlobId, u64> = HashMap::new();
    let (mut chunks, mut together) = (0u64, 0u64);
    for segment in packs.values().flat_map(|pack| &pack.segments) {
        match segment.blob_count() {
            1 => {
                let (id, ..) = segment.blobs().next().ok_or("an empty segment")?;
                alone.insert(id, u64::from(segment.sealed_len));
                chunks += 1;
            }
            n => together += n as u64,
        }
    }
    println!("blobs with a segment of their own {chunks}, with neighbours {together}");
    let mut files: Vec<Vec<u64>> = Vec::new();
    for snapshot in repo.snapshots()? {
        history::walk(repo, &snapshot.data.tree, &mut |_, node| {
            let mut extents = Vec::new();
            if let Some(content) = &node.content {
                extents = extents_in(repo, content, 0..node.size)?;
            }
            let of = |(_, extent): &(u64, Extent)| alone.get(&extent.id?).copied();
            let lengths = extents.iter().filter_map(of).collect();
            files.push(lengths);
            Ok(true)
        })?;
    }
    files.sort();
    files.dedup();
    let ways: [Way; 2] = [("as they are", |len| len), ("Padmé", padme)];
    for (way, padded) in ways {
        let lengths: Vec<Vec<u64>> =
            files.iter().map(|file| file.iter().map(|len| padded(*len)).collect()).collect();
        let mut distinct: Vec<u64> = lengths.iter().flatten().copied().collect();
        distinct.sort_unstable();
        distinct.dedup();
        print!("lengths {way}: {} distinct; unique runs of", distinct.len());
        for run in [1, 2, 3, 4, 8] {
            let mut seen: HashMap<&[u64], u64> = HashMap::new();
            lengths
                .iter()
                .flat_map(|f| f.windows(run))
                .for_each(|w| *seen.entry(w).or_default() += 1);
            let all: u64 = seen.values().sum();
            let unique = seen.values().filter(|n| **n == 1).count() as u64;
            print!(" {run}: {:.1} %,", percent(unique, all));
        }
        println!();
    }
    Ok(())
}
