//! Goes through what lies under a folder, in the order of keys, from any key on, across mounts.

use std::ops::Bound;

use super::{Deleted, NamespaceId, Node, Tree};
use crate::emulator::paths;

/// What is met on the way. `at` is the key as seen from where the walk began; a later walk can go on after it.
#[derive(Debug)]
pub(in crate::emulator) enum Visit<'a> {
    Live { namespace: NamespaceId, at: String, node: &'a Node },
    Deleted { namespace: NamespaceId, at: String, deleted: &'a Deleted },
}

/// How far a walk goes.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::emulator) struct Reach {
    pub recursive: bool,
    pub deleted: bool,
    /// Show folders that are mounts.
    pub mounted: bool,
}

impl Tree {
    /// Where the children of the folder at a place are kept: inside, if the folder is a mount.
    pub fn inside(&self, namespace: NamespaceId, key: &str) -> (NamespaceId, String) {
        match self.node(namespace, key).and_then(Node::mount) {
            Some(inner) => (inner, String::new()),
            None => (namespace, key.to_owned()),
        }
    }

    /// Visits the children (all descendants, if recursive) of a folder after the key `after`, until `visit` says false.
    pub fn walk<'a>(
        &'a self,
        namespace: NamespaceId,
        folder: &str,
        after: Option<&str>,
        reach: Reach,
        visit: &mut dyn FnMut(Visit<'a>) -> bool,
    ) -> bool {
        let (namespace, folder) = self.inside(namespace, folder);
        self.walk_inside(namespace, &folder, "", after, reach, visit)
    }

    fn walk_inside<'a>(
        &'a self,
        namespace: NamespaceId,
        folder: &str,
        prefix: &str,
        after: Option<&str>,
        reach: Reach,
        visit: &mut dyn FnMut(Visit<'a>) -> bool,
    ) -> bool {
        let Some(inner) = self.namespaces.get(&namespace) else { return true };
        let end = format!("{folder}\u{1}");
        let mut lower = format!("{folder}\0");
        if let Some(after) = after.and_then(|after| after.strip_prefix(prefix)) {
            // Stopped at a mount or inside: that one is finished first.
            let mount = inner.mounts.iter().find(|(at, _)| after.len() > folder.len() && paths::within(after, at));
            if let (Some((at, &id)), true) = (mount, reach.recursive && reach.mounted) {
                let prefix = format!("{prefix}{at}");
                let whole = format!("{prefix}{}", &after[at.len()..]);
                let from = Some(whole.as_str()).filter(|whole| *whole != prefix);
                if !self.walk_inside(id, "", &prefix, from, reach, visit) {
                    return false;
                }
            }
            if after > lower.as_str() {
                lower = if reach.recursive { after.to_owned() } else { past(after, folder) };
            }
        }
        loop {
            let bounds = (Bound::Excluded(lower.as_str()), Bound::Excluded(end.as_str()));
            if lower >= end {
                return true;
            }
            let live = inner.nodes.range::<str, _>(bounds).next();
            let gone = if reach.deleted { inner.deleted.range::<str, _>(bounds).next() } else { None };
            let deleted_first = match (live, gone) {
                (None, None) => return true,
                (Some((live, _)), Some((gone, _))) => gone < live,
                (live, _) => live.is_none(),
            };
            let key = if deleted_first { gone.map(|(key, _)| key) } else { live.map(|(key, _)| key) };
            let key = key.map_or("", String::as_str);
            let direct = !key[folder.len() + 1..].contains('\0');
            let mount = live.filter(|_| !deleted_first).and_then(|(_, node)| node.mount());
            let shown = (reach.recursive || direct) && (mount.is_none() || reach.mounted);
            if shown {
                let at = format!("{prefix}{key}");
                let more = match (deleted_first, live, gone) {
                    (false, Some((_, node)), _) => visit(Visit::Live { namespace, at, node }),
                    (_, _, Some((_, deleted))) => visit(Visit::Deleted { namespace, at, deleted }),
                    _ => true,
                };
                if !more {
                    return false;
                }
            }
            if let (Some(id), true, true) = (mount, reach.recursive, shown)
                && !self.walk_inside(id, "", &format!("{prefix}{key}"), None, reach, visit)
            {
                return false;
            }
            lower = if reach.recursive { key.to_owned() } else { past(key, folder) };
        }
    }
}

/// The last key before the next sibling: everything under the child of `folder` that `key` belongs to is left behind.
fn past(key: &str, folder: &str) -> String {
    let rest = &key[folder.len() + 1..];
    let child = rest.split('\0').next().unwrap_or(rest);
    format!("{folder}\0{child}\0\u{10ffff}")
}
