//! Path strings as Dropbox reads them: what is malformed, what may not be a name, and the key under which an entry lies.
//! A key is the lower-cased path with NUL for `/`, so that everything under a folder is one run of keys.

/// Names Dropbox never takes, lower-cased.
const DISALLOWED: [&str; 6] = ["desktop.ini", "thumbs.db", ".ds_store", "icon\r", ".dropbox", ".dropbox.attr"];

/// Longest component in UTF-16 units.
const COMPONENT_UNITS_MAX: usize = 255;

/// A path string, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::emulator) enum Written {
    /// `/A/b`, or `` for the root.
    Path(String),
    /// `id:…`, with what may follow it.
    Id {
        id: String,
        rest: String,
    },
    Rev(String),
    /// `ns:12/A/b`
    Namespace {
        id: String,
        rest: String,
    },
}

/// `None` is `malformed_path`.
pub(in crate::emulator) fn read(text: &str) -> Option<Written> {
    let split = |text: &str| match text.split_once('/') {
        Some((head, rest)) => (head.to_owned(), format!("/{rest}")),
        None => (text.to_owned(), String::new()),
    };
    if let Some(rev) = text.strip_prefix("rev:") {
        return Some(Written::Rev(rev.to_owned()));
    }
    if text.starts_with("id:") {
        let (id, rest) = split(text);
        return well_formed(&rest).then_some(Written::Id { id, rest });
    }
    if let Some(text) = text.strip_prefix("ns:") {
        let (id, rest) = split(text);
        return well_formed(&rest).then_some(Written::Namespace { id, rest });
    }
    well_formed(text).then(|| Written::Path(text.to_owned()))
}

fn well_formed(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return path.is_empty() };
    !path.contains('\0')
        && rest.split('/').all(|name| {
            !name.is_empty()
                && name != "."
                && name != ".."
                && !name.contains('\\')
                && name.encode_utf16().count() <= COMPONENT_UNITS_MAX
        })
}

/// May the last component be the name of something new?
pub(in crate::emulator) fn allowed_name(name: &str) -> bool {
    !(DISALLOWED.contains(&lower(name).as_str()) || name.ends_with(' ') || name.contains('\u{7f}'))
}

pub(in crate::emulator) fn lower(text: &str) -> String {
    dbxcase::dbx_str_lowercase(text)
}

/// `/A/b` → `␀a␀b`.
pub(in crate::emulator) fn key_of(path: &str) -> String {
    path.chars().map(|c| if c == '/' { '\0' } else { dbxcase::dbx_lowercase(c) }).collect()
}

/// `␀a␀b` → `/a/b`.
pub(in crate::emulator) fn path_of(key: &str) -> String {
    key.replace('\0', "/")
}

/// The key of the folder around; the root has none.
pub(in crate::emulator) fn parent(key: &str) -> Option<&str> {
    key.rfind('\0').map(|at| &key[..at])
}

/// The last component.
pub(in crate::emulator) fn name(path: &str) -> &str {
    path.rsplit(['/', '\0']).next().unwrap_or(path)
}

/// Is `key` the entry at `folder`, or under it?
pub(in crate::emulator) fn within(key: &str, folder: &str) -> bool {
    key.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('\0'))
}

/// `a.tar.gz` → (`a.tar`, `.gz`); names that only begin with a dot have no extension.
pub(in crate::emulator) fn split_extension(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(at) if at > 0 => name.split_at(at),
        _ => (name, ""),
    }
}

/// Lower-cased, without the dot.
pub(in crate::emulator) fn extension(name: &str) -> String {
    lower(split_extension(name).1.trim_start_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_by_kind_and_bad_ones_are_malformed() {
        assert_eq!(read(""), Some(Written::Path(String::new())));
        assert_eq!(read("/A b/c"), Some(Written::Path("/A b/c".into())));
        assert_eq!(read("id:abc/x"), Some(Written::Id { id: "id:abc".into(), rest: "/x".into() }));
        assert_eq!(read("ns:12/x"), Some(Written::Namespace { id: "12".into(), rest: "/x".into() }));
        assert_eq!(read("rev:a1c10ce0dd78"), Some(Written::Rev("a1c10ce0dd78".into())));
        for bad in
            ["/", "/a/", "//a", "/a//b", "/a/../b", "/.", "a", "/a\0b", "/a\\b", &format!("/{}", "x".repeat(256))]
        {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_key_folds_case_one_to_one_and_keeps_a_folder_together() {
        assert_eq!(key_of("/ÀB/İx"), "\0àb\0ix");
        assert!(within("\0a\0b", "\0a") && within("\0a", "\0a") && !within("\0ab", "\0a") && within("\0a", ""));
        assert_eq!(parent("\0a\0b"), Some("\0a"));
        assert_eq!(parent("\0a"), Some(""));
        assert_eq!(parent(""), None);
        assert_eq!(split_extension("a.tar.gz"), ("a.tar", ".gz"));
        assert_eq!(split_extension(".profile"), (".profile", ""));
        assert!(!allowed_name("Thumbs.DB") && !allowed_name("a ") && allowed_name("a b"));
    }
}
