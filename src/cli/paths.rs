//! Paths at Dropbox as a person types them, and where files land on this machine. Pure.

use std::path::{Component, Path, PathBuf};

use unicode_normalization::UnicodeNormalization as _;

use super::exit::{Failure, Result};

/// Names Dropbox never takes, lower-cased.
const RESERVED: [&str; 6] = ["desktop.ini", "thumbs.db", ".ds_store", "icon\r", ".dropbox", ".dropbox.attr"];

/// `docs/a/` → `/docs/a`; the root is empty; `id:…`, `rev:…`, `ns:…` stay as they are.
pub fn remote(text: &str) -> String {
    let handle = ["id:", "rev:", "ns:"].iter().any(|prefix| text.starts_with(prefix));
    let kept: Vec<_> = text.split('/').filter(|name| !name.is_empty()).collect();
    match kept.is_empty() {
        true => String::new(),
        false if handle => kept.join("/"),
        false => format!("/{}", kept.join("/")),
    }
}

/// The path of `name` in `folder`.
pub fn join(folder: &str, name: &str) -> String {
    format!("{}/{}", folder.trim_end_matches('/'), name.trim_start_matches('/'))
}

/// The last component.
pub fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// True if the text has a wildcard.
pub fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '[', '{'])
}

/// `/a/b/*.txt` → (`/a/b`, `*.txt`): the folder that holds all matches, and the pattern beneath it. A pattern of one
/// component is held to that folder by `/` matches; the depth is the caller's to bound.
pub fn split_glob(path: &str) -> (String, String) {
    let names: Vec<_> = path.split('/').filter(|name| !name.is_empty()).collect();
    let plain = names.iter().take_while(|name| !is_glob(name)).count();
    (remote(&names[..plain].join("/")), names[plain..].join("/"))
}

/// Levels beneath its folder that a pattern can match at; 0 is any.
pub fn glob_depth(pattern: &str) -> i32 {
    match pattern.contains("**") {
        true => 0,
        false => i32::try_from(pattern.split('/').count()).unwrap_or(0),
    }
}

/// Why Dropbox would refuse a file of this name, if it would.
pub fn refusal(name: &str) -> Option<&'static str> {
    if RESERVED.contains(&dbxcase::dbx_str_lowercase(name).as_str()) {
        return Some("a name Dropbox reserves");
    }
    if name.ends_with(' ') {
        return Some("the name ends in a space");
    }
    if name.contains(['\\', '\u{7f}', '\0']) {
        return Some("a character Dropbox does not take in names");
    }
    (name.encode_utf16().count() > 255).then_some("the name is longer than 255 characters")
}

/// The key under which Dropbox keeps a path: two paths with the same key are one.
pub fn key(path: &str) -> String {
    dbxcase::dbx_str_lowercase(path)
}

/// The same for names of this machine's disk, which may write an accent in another way than Dropbox.
pub fn composed_key(path: &str) -> String {
    key(path).nfc().collect()
}

/// What is left of `path` beneath `base`, by Dropbox's rules of case.
pub fn beneath<'a>(base: &str, path: &'a str) -> Option<&'a str> {
    let rest = dbxcase::dbx_strip_prefix_ignore_case(path, base)?;
    if base.is_empty() { rest.strip_prefix('/').or(Some(rest)) } else { rest.strip_prefix('/') }
}

/// The place of `relative` (from the server) under `folder`, never outside it.
///
/// # Errors
/// A relative path with `..`, a root, or characters this system takes for separators.
pub fn landing(folder: &Path, relative: &str) -> Result<PathBuf> {
    let below = Path::new(relative);
    let tame = !relative.is_empty()
        && !relative.contains('\0')
        && below.components().all(|part| matches!(part, Component::Normal(_)));
    match tame {
        true => Ok(folder.join(below)),
        false => Err(Failure::usage(format!("{relative:?} cannot be a path on this machine"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_as_people_type_them() {
        let cases = [("", ""), ("/", ""), ("a", "/a"), ("//a//b/", "/a/b"), ("id:x", "id:x"), ("ns:1/a/", "ns:1/a")];
        for (typed, path) in cases {
            assert_eq!(remote(typed), path, "{typed}");
        }
    }

    #[test]
    fn a_glob_is_cut_at_its_first_wildcard() {
        let cases = [
            ("/a/b/*.txt", "/a/b", "*.txt", 1),
            ("*.txt", "", "*.txt", 1),
            ("/a/**/x?.md", "/a", "**/x?.md", 0),
            ("/a/{b,c}/d", "/a", "{b,c}/d", 2),
        ];
        for (typed, base, pattern, depth) in cases {
            assert_eq!(split_glob(typed), (base.to_owned(), pattern.to_owned()), "{typed}");
            assert_eq!(glob_depth(pattern), depth, "{typed}");
        }
    }

    #[test]
    fn names_dropbox_refuses_are_known() {
        for name in ["Desktop.INI", ".DS_Store", "a ", "a\\b", "a\u{7f}", &"😀".repeat(128)] {
            assert!(refusal(name).is_some(), "{name:?}");
        }
        for name in ["desktop.txt", " a", "e\u{301}😀", &"é".repeat(255)] {
            assert_eq!(refusal(name), None, "{name:?}");
        }
    }

    #[test]
    fn nothing_lands_outside_its_folder() {
        let folder = Path::new("/tmp/x");
        assert_eq!(landing(folder, "a/b").expect("tame"), Path::new("/tmp/x/a/b"));
        for wild in ["", "..", "a/../b", "/etc/passwd", "a\0b"] {
            assert!(landing(folder, wild).is_err(), "{wild:?}");
        }
    }

    #[test]
    fn what_is_beneath_a_folder_is_told_whatever_its_case() {
        assert_eq!(beneath("/A/É", "/a/é/c/D"), Some("c/D"));
        assert_eq!(beneath("", "/c"), Some("c"));
        assert_eq!(beneath("/a", "/ab"), None);
    }
}
