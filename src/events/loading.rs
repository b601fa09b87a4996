//! Brings the part of an index into memory that a page, or a portion of the end of a drain, can touch: what stands on its
//! paths, what has its ids, and all above those.

use std::collections::{BTreeMap, BTreeSet};

use super::{index::Tree, seen::Seen};
use crate::{
    fault::Result,
    store::{INDEX_ROOT, IndexRow, Store, WaitingRow},
};

/// False: the index is not there any more, for the scope was swept. So for the next one.
pub(super) async fn for_page(store: &Store, scope: i64, tree: &mut Tree, entries: &[Seen]) -> Result<bool> {
    tree.load(store.index_upwards(scope, &[INDEX_ROOT]).await?);
    if !tree.knows(INDEX_ROOT) {
        return Ok(false);
    }
    by_ids(store, scope, tree, entries).await?;
    on_paths(store, scope, tree, entries).await?;
    if store.any_waiting(scope).await? {
        waiting(store, scope, tree, entries).await?;
    }
    Ok(true)
}

pub(super) async fn for_end(
    store: &Store,
    scope: i64,
    tree: &mut Tree,
    waits: &[&[WaitingRow]],
    gone: &[IndexRow],
) -> Result<bool> {
    let numbers: Vec<i64> = gone.iter().map(|row| row.n).chain([INDEX_ROOT]).collect();
    tree.load(store.index_upwards(scope, &numbers).await?);
    if !tree.knows(INDEX_ROOT) {
        return Ok(false);
    }
    let entries: Vec<Seen> = waits.iter().flat_map(|waits| waits.iter()).filter_map(Seen::from_waiting).collect();
    by_ids(store, scope, tree, &entries).await?;
    on_paths(store, scope, tree, &entries).await?;
    waiting(store, scope, tree, &entries).await?;
    Ok(true)
}

/// Level by level: one question for all paths of a page. An item that this page moves takes what lies in it along, so its own
/// children count as standing at its new place, too.
async fn on_paths(store: &Store, scope: i64, tree: &mut Tree, entries: &[Seen]) -> Result<()> {
    let mut levels: Vec<BTreeSet<&str>> = Vec::new();
    let mut arriving: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for entry in entries {
        for (level, place) in entry.places().enumerate() {
            if levels.len() == level {
                levels.push(BTreeSet::new());
            }
            levels[level].insert(place);
        }
        arriving.entry(&entry.path).or_default().extend(entry.id().and_then(|id| tree.number_of(id)));
    }
    // Place to the rows that stand there, or will, of the level above.
    let mut above: BTreeMap<&str, Vec<i64>> = BTreeMap::from([("", vec![INDEX_ROOT])]);
    for level in levels {
        let split = |place: &str| -> Vec<(i64, String)> {
            let (folder, name) = place.rsplit_once('/').unwrap_or(("", place));
            above.get(folder).into_iter().flatten().map(|parent| (*parent, name.to_owned())).collect()
        };
        let wanted: Vec<(i64, String)> = level.iter().flat_map(|place| split(place)).collect();
        // Where nothing stands something may arrive, and bring along what stands on the next level.
        if !wanted.is_empty() {
            let asked: Vec<(i64, &str)> = wanted.iter().map(|(parent, name)| (*parent, name.as_str())).collect();
            tree.load(store.index_at(scope, &asked).await?);
        }
        let stands = |place: &&'_ str| -> Vec<i64> {
            let there = split(place).into_iter().filter_map(|(parent, name)| tree.number_at(parent, &name));
            there.chain(arriving.get(*place).into_iter().flatten().copied()).collect()
        };
        let next: BTreeMap<&str, Vec<i64>> = level.iter().map(|place| (*place, stands(place))).collect();
        above = next;
    }
    Ok(())
}

async fn by_ids(store: &Store, scope: i64, tree: &mut Tree, entries: &[Seen]) -> Result<()> {
    let unknown: BTreeSet<&str> =
        entries.iter().filter_map(Seen::id).filter(|id| tree.number_of(id).is_none()).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let unknown: Vec<&str> = unknown.into_iter().collect();
    let found = store.index_by_id(scope, &unknown).await?;
    let numbers: Vec<i64> = found.iter().map(|row| row.n).filter(|n| !tree.knows(*n)).collect();
    if !numbers.is_empty() {
        tree.load(store.index_upwards(scope, &numbers).await?);
    }
    Ok(())
}

async fn waiting(store: &Store, scope: i64, tree: &mut Tree, entries: &[Seen]) -> Result<()> {
    let places: BTreeSet<&str> = entries.iter().flat_map(Seen::places).collect();
    let places: Vec<&str> = places.into_iter().collect();
    tree.load_waiting(store.waiting_at(scope, &places).await?);
    Ok(())
}
