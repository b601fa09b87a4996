//! What a cursor tells of changes: each place once per drain, in the order asked for, cut into pages. A drain is frozen when it
//! begins: what happens meanwhile is told by the next one, so whoever applies entries in sequence ends with the tree.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    World, hold,
    listing::{Cursor, View},
    paths,
    tree::{Change, Deleted, NamespaceId, Tree},
};

/// The order of a drain's entries. Dropbox promises none between the two halves of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeltaOrder {
    #[default]
    AsHappened,
    /// What a move leaves behind comes after where it went.
    DeletedLast,
    /// By this seed.
    Shuffled(u64),
}

/// One entry of a drain.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    namespace: NamespaceId,
    key: String,
    deleted: bool,
}

/// Which drain it is: after this change, up to that one, in this order.
type Span = (u64, u64, DeltaOrder);

/// The drain that was told last, so that its next page need not be worked out again.
#[derive(Debug, Default)]
pub(in crate::emulator) struct Drains(Mutex<Option<(Span, Arc<Vec<Step>>)>>);

/// A page of what has changed.
pub(in crate::emulator) fn told(
    world: &World,
    tree: &Tree,
    cursor: &Cursor,
    limit: usize,
) -> (Vec<Value>, Cursor, bool) {
    let switches = world.switches();
    let limit = limit.min(switches.delta_page.unwrap_or(usize::MAX)).max(1);
    let drain = cursor.drain.unwrap_or((cursor.sequence, tree.sequence, switches.delta_order));
    let steps = steps(world, tree, drain);
    let (shown, mut view) = (cursor.shown(), View::new(tree, cursor));
    let (mut entries, mut next) = (Vec::new(), None);
    for (index, step) in steps.iter().enumerate().skip(cursor.told) {
        let key = match view.covers(step.namespace, &step.key) {
            true => step.key.as_str(),
            // The listed folder went with one around it, and is there again.
            false if step.deleted && view.lies_in(step.namespace, &step.key) => &cursor.key,
            false => continue,
        };
        if entries.len() >= limit {
            next = Some(index);
            break;
        }
        match tree.node(step.namespace, key).filter(|_| !step.deleted) {
            Some(node) if cursor.shows(node) => entries.push(tree.show_node(&shown, step.namespace, node)),
            Some(_) => {}
            None => {
                let known = tree.namespace(step.namespace).and_then(|inner| inner.deleted.get(key));
                let forgotten = Deleted { display: paths::path_of(key), at: String::new(), folder: false };
                entries.push(tree.show_deleted(&shown, step.namespace, known.unwrap_or(&forgotten)));
            }
        }
    }
    let mut after = cursor.clone();
    match next {
        Some(told) => (after.drain, after.told) = (Some(drain), told),
        None => (after.sequence, after.drain, after.told) = (drain.1, None, 0),
    }
    (entries, after, next.is_some())
}

fn steps(world: &World, tree: &Tree, span: Span) -> Arc<Vec<Step>> {
    let mut last = hold(&world.drains.0);
    if let Some((known, steps)) = &*last
        && *known == span
    {
        return steps.clone();
    }
    let changes = tree.changes_since(span.0).into_iter().flatten().take_while(|change| change.sequence <= span.1);
    let steps = Arc::new(ordered(&changes.collect::<Vec<_>>(), span.2));
    *last = Some((span, steps.clone()));
    steps
}

/// Each place by its newest change, and folders that were deleted and made anew as both: what they held is gone.
fn ordered(changes: &[&Change], order: DeltaOrder) -> Vec<Step> {
    let mut newest: HashMap<(NamespaceId, &str), &Change> = HashMap::new();
    let mut emptied: HashMap<(NamespaceId, &str), u64> = HashMap::new();
    for change in changes {
        let place = (change.namespace, change.key.as_str());
        newest.insert(place, change);
        if change.gone && change.folder {
            emptied.insert(place, change.sequence);
        }
    }
    let mounts: Vec<&Change> = newest.values().copied().filter(|change| change.mount).collect();
    let mut steps = Vec::with_capacity(newest.len());
    for change in changes {
        let place = (change.namespace, change.key.as_str());
        let is_newest = newest[&place].sequence == change.sequence;
        let superseded = !is_newest && !newest[&place].gone && emptied.get(&place) == Some(&change.sequence);
        if !is_newest && !superseded {
            continue;
        }
        // What now shows through from another namespace must not be taken away by what it replaced.
        let hidden = mounts.iter().any(|mount| {
            mount.namespace == change.namespace
                && paths::within(&change.key, &mount.key)
                && (change.gone || change.key != mount.key)
        });
        let rank = match order {
            DeltaOrder::AsHappened => (0, 0),
            _ if superseded || hidden => (0, 0),
            DeltaOrder::DeletedLast => (1 + u64::from(change.gone), 0),
            DeltaOrder::Shuffled(seed) => {
                let mut hasher = DefaultHasher::new();
                (seed, place).hash(&mut hasher);
                (1, hasher.finish())
            }
        };
        steps.push((rank, change.sequence, change));
    }
    steps.sort_by_key(|(rank, sequence, _)| (*rank, *sequence));
    steps
        .into_iter()
        .map(|(.., change)| Step { namespace: change.namespace, key: change.key.clone(), deleted: change.gone })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(sequence: u64, key: &str, gone: bool) -> Change {
        Change { sequence, namespace: 1, key: key.to_owned(), gone, folder: gone && key.len() == 1, mount: false }
    }

    fn told(changes: &[Change], order: DeltaOrder) -> Vec<String> {
        let changes: Vec<&Change> = changes.iter().collect();
        let steps = ordered(&changes, order);
        steps.iter().map(|step| format!("{}{}", if step.deleted { "-" } else { "+" }, step.key)).collect()
    }

    #[test]
    fn a_move_is_told_in_either_order_and_a_folder_made_anew_is_emptied_first() {
        let moved = [change(1, "b1", true), change(2, "c1", false)];
        assert_eq!(told(&moved, DeltaOrder::AsHappened), ["-b1", "+c1"]);
        assert_eq!(told(&moved, DeltaOrder::DeletedLast), ["+c1", "-b1"]);
        let orders: std::collections::HashSet<_> =
            (0..20).map(|seed| told(&moved, DeltaOrder::Shuffled(seed))).collect();
        assert_eq!(orders.len(), 2);
        let again = [
            change(1, "b1", false),
            change(2, "a", true),
            change(3, "a", false),
            change(4, "a", true),
            change(5, "a", false),
        ];
        for order in [DeltaOrder::DeletedLast, DeltaOrder::Shuffled(3)] {
            let told = told(&again, order);
            assert_eq!((told[0].as_str(), told.len()), ("-a", 3), "{told:?}");
        }
        let twice = [change(1, "b1", true), change(2, "b1", false)];
        assert_eq!(told(&twice, DeltaOrder::AsHappened), ["+b1"]);
    }

    #[test]
    fn what_a_mount_replaces_goes_first_in_every_order() {
        let mount = Change { mount: true, ..change(3, "\0a", false) };
        let shared = [change(1, "\0a\0x", true), Change { namespace: 2, ..change(2, "\0x", false) }, mount];
        for order in [DeltaOrder::DeletedLast, DeltaOrder::Shuffled(1), DeltaOrder::Shuffled(2), DeltaOrder::AsHappened]
        {
            assert_eq!(told(&shared, order)[0], "-\0a\0x");
        }
    }
}
