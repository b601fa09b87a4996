//! Whether paths keep apart: what goes to Dropbox together must not meet, and keeps its order where it does. Pure.

use std::collections::HashSet;

/// Paths that are taken, with all that is above and below them.
#[derive(Default)]
pub(super) struct Paths {
    taken: HashSet<String>,
    above: HashSet<String>,
}

impl Paths {
    /// The paths of one entry, as Dropbox compares paths. False: one of them meets one of an entry before. They are taken all
    /// the same, for whoever comes behind.
    pub(super) fn take(&mut self, paths: &[String]) -> bool {
        let meets = paths.iter().any(|path| {
            self.taken.contains(path)
                || self.above.contains(path)
                || above(path).any(|folder| self.taken.contains(folder))
        });
        for path in paths {
            self.above.extend(above(path).map(str::to_owned));
            self.taken.insert(path.clone());
        }
        !meets
    }
}

fn above(path: &str) -> impl Iterator<Item = &str> {
    path.char_indices().filter(|(at, c)| *c == '/' && *at > 0).map(|(at, _)| &path[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_are_equal_or_lie_in_each_other_meet() {
        let mut paths = Paths::default();
        for (entry, free) in [
            (&["/a/b"][..], true),
            (&["/a/c"], true),
            (&["/a/b"], false),
            (&["/a"], false),
            (&["/a/b/c"], false),
            (&["/ab"], true),
            (&["/b"], true),
            (&["/b/c/d"], false),
            (&["/b/c"], false),
            (&["/c/x"], true),
            (&["ns:7/a"], true),
            (&["ns:7/a/b"], false),
            (&["/from", "/from/to"], true),
            (&["/new", "/from"], false),
            (&["/new/er"], false),
        ] {
            let entry: Vec<String> = entry.iter().map(|path| (*path).to_owned()).collect();
            assert_eq!(paths.take(&entry), free, "{entry:?}");
        }
    }
}
