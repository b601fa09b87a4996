//! Paths as callers write them, and the jail of a parameter that may only see one folder.
//! Comparison is Dropbox's own lowering, not `to_lowercase`.

use dbxcase::{dbx_str_lowercase, dbx_strip_prefix_ignore_case};

use crate::{
    fault::{Fault, Reason, Result},
    limits::{PATH_BYTES_MAX, SEGMENT_UNITS_MAX, STRING_BYTES_MAX},
};

/// A path in the form Dropbox takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemPath {
    /// `""` is the root, anything else begins with `/` and does not end with one.
    Plain(String),
    /// `id:…`, without a path behind it.
    Id(String),
    /// `rev:…`
    Rev(String),
    /// `ns:<digits>` and perhaps a path behind it.
    Namespace(String),
}

/// Which forms a field takes, by the pattern of its route (API-FACTS 4.1).
#[derive(Debug, Clone, Copy)]
pub struct Forms {
    id: bool,
    rev: bool,
    ns: bool,
    root: bool,
}

impl Forms {
    /// Routes that read one item. The root is let through: `GetItem` makes it up.
    pub const READ: Forms = Forms { id: true, rev: true, ns: true, root: true };
    /// Routes that read a folder.
    pub const FOLDER: Forms = Forms { id: true, rev: false, ns: true, root: true };
    /// Routes that read a file: never the root.
    pub const FILE: Forms = Forms { id: true, rev: true, ns: true, root: false };
    /// Routes that create something.
    pub const WRITE: Forms = Forms { id: false, rev: false, ns: true, root: false };
    /// Routes that change something that exists.
    pub const WRITE_OR_ID: Forms = Forms { id: true, rev: false, ns: true, root: false };
    /// Where a file goes.
    pub const UPLOAD: Forms = Forms::WRITE;
    /// The folder a file goes to.
    pub const UPLOAD_FOLDER: Forms = Forms { id: false, rev: false, ns: true, root: true };
    /// A plain path and nothing else.
    pub const PLAIN: Forms = Forms { id: false, rev: false, ns: false, root: true };
}

/// Why a path was not taken: `MALFORMED_PATH` or `DISALLOWED_NAME`.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub reason: Reason,
    pub text: String,
}

fn malformed(text: impl Into<String>) -> Refused {
    Refused { reason: Reason::MalformedPath, text: text.into() }
}

impl ItemPath {
    pub fn root() -> Self {
        ItemPath::Plain(String::new())
    }

    /// # Errors
    /// `MALFORMED_PATH`.
    pub fn parse(text: &str, forms: Forms) -> Result<Self, Refused> {
        if text.len() > PATH_BYTES_MAX {
            return Err(malformed(format!("a path has at most {PATH_BYTES_MAX} bytes")));
        }
        if let Some(id) = text.strip_prefix("id:") {
            let well_formed = id.len() >= 4 && !id.contains(['/', '\\', '\0']);
            return match (forms.id, well_formed) {
                (true, true) => Ok(ItemPath::Id(text.to_owned())),
                (true, false) => Err(malformed("an id has at least 4 characters and no separator")),
                (false, _) => Err(malformed("an id is not taken here; a name that begins so is written /id:...")),
            };
        }
        if let Some(rev) = text.strip_prefix("rev:") {
            let well_formed = rev.len() >= 9 && rev.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            return match (forms.rev, well_formed) {
                (true, true) => Ok(ItemPath::Rev(text.to_owned())),
                (true, false) => Err(malformed("a rev has at least 9 lower-case hexadecimal digits")),
                (false, _) => Err(malformed("a rev is not taken here; a name that begins so is written /rev:...")),
            };
        }
        if let Some(rest) = text.strip_prefix("ns:").filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (id, path) = rest.split_at(digits);
            if !path.is_empty() && !path.starts_with(['/', '\\']) {
                return Err(malformed("a namespace id is decimal digits, then comes /"));
            }
            let path = normal(path)?;
            return match (forms.ns, forms.root || !path.is_empty()) {
                (true, true) => Ok(ItemPath::Namespace(format!("ns:{id}{path}"))),
                (true, false) => Err(malformed("the root is not taken here")),
                (false, _) => Err(malformed("a namespace is not taken here; a name that begins so is written /ns:...")),
            };
        }
        if text.is_empty() && !forms.root {
            return Err(malformed("required: name what is meant"));
        }
        let path = normal(text)?;
        if path.is_empty() && !forms.root {
            return Err(malformed("the root is not taken here"));
        }
        Ok(ItemPath::Plain(path))
    }

    /// A path whose last name is about to be created.
    ///
    /// # Errors
    /// `MALFORMED_PATH`, `DISALLOWED_NAME`.
    pub fn parse_new(text: &str, forms: Forms) -> Result<Self, Refused> {
        let path = Self::parse(text, forms)?;
        if !matches!(path, ItemPath::Id(_) | ItemPath::Rev(_)) {
            allowed_name(path.name())?;
        }
        Ok(path)
    }

    /// A folder and the name of something to be created in it.
    ///
    /// # Errors
    /// `MALFORMED_PATH` if the name holds a separator, `DISALLOWED_NAME`.
    pub fn join(&self, name: &str) -> Result<Self, Refused> {
        if name.contains(['/', '\\']) {
            return Err(malformed("a file name holds no separator"));
        }
        segment(name)?;
        allowed_name(name)?;
        let joined = format!("{}/{name}", self.as_str());
        if joined.len() > PATH_BYTES_MAX {
            return Err(malformed(format!("a path has at most {PATH_BYTES_MAX} bytes")));
        }
        match self {
            ItemPath::Plain(_) => Ok(ItemPath::Plain(joined)),
            ItemPath::Namespace(_) => Ok(ItemPath::Namespace(joined)),
            ItemPath::Id(_) | ItemPath::Rev(_) => Err(malformed("the folder is named by its path here")),
        }
    }

    /// As Dropbox takes it.
    pub fn as_str(&self) -> &str {
        match self {
            ItemPath::Plain(text) | ItemPath::Id(text) | ItemPath::Rev(text) | ItemPath::Namespace(text) => text,
        }
    }

    pub fn is_root(&self) -> bool {
        matches!(self, ItemPath::Plain(path) if path.is_empty())
    }

    /// The last name of the path; empty for the root.
    pub fn name(&self) -> &str {
        match self {
            ItemPath::Plain(path) | ItemPath::Namespace(path) => path.rsplit_once('/').map_or("", |(_, name)| name),
            ItemPath::Id(_) | ItemPath::Rev(_) => "",
        }
    }
}

/// The path with one kind of separator, each once, none at the end; `""` for the root.
fn normal(text: &str) -> Result<String, Refused> {
    let mut path = String::with_capacity(text.len() + 1);
    for part in text.split(['/', '\\']).filter(|part| !part.is_empty()) {
        segment(part)?;
        path.push('/');
        path.push_str(part);
    }
    Ok(path)
}

fn segment(part: &str) -> Result<(), Refused> {
    if part == "." || part == ".." {
        return Err(malformed(format!("{part} is not taken as a name")));
    }
    if part.contains('\0') {
        return Err(malformed("a name holds no NUL"));
    }
    if part.encode_utf16().count() > SEGMENT_UNITS_MAX {
        return Err(malformed(format!("a name has at most {SEGMENT_UNITS_MAX} UTF-16 code units")));
    }
    Ok(())
}

/// Names Dropbox keeps for itself, lower case.
const RESERVED: [&str; 6] = ["desktop.ini", "thumbs.db", ".ds_store", "icon\r", ".dropbox", ".dropbox.attr"];

fn allowed_name(name: &str) -> Result<(), Refused> {
    let disallowed = |text: &str| Err(Refused { reason: Reason::DisallowedName, text: text.to_owned() });
    if name.ends_with(' ') {
        return disallowed("Dropbox takes no name that ends with a space");
    }
    if name.contains('\u{7f}') {
        return disallowed("Dropbox takes no name that holds DEL");
    }
    if RESERVED.contains(&name.to_ascii_lowercase().as_str()) {
        return disallowed("Dropbox keeps this name for itself");
    }
    Ok(())
}

/// A path below a folder, as it is in a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Below {
    /// One kind of separator, none before or behind.
    pub path: String,
    /// Which of its names Dropbox does not take, and those behind the longest path that it takes.
    pub bad_names: Vec<usize>,
}

impl Below {
    /// `bytes_max`: of the path. What Dropbox does not take is told, for the file is there all the same; what no file system has
    /// is refused. No form but a plain path is meant: `id:x` is a name.
    ///
    /// # Errors
    /// `MALFORMED_PATH`.
    pub fn parse(text: &str, bytes_max: usize) -> Result<Below, Refused> {
        if text.len() > STRING_BYTES_MAX {
            return Err(malformed(format!("a path here has at most {STRING_BYTES_MAX} bytes")));
        }
        let (mut path, mut bad_names) = (String::with_capacity(text.len()), Vec::new());
        for (at, name) in text.split(['/', '\\']).filter(|name| !name.is_empty()).enumerate() {
            if name == "." || name == ".." || name.contains('\0') {
                return Err(malformed("neither . nor .. is taken as a name, nor one that holds NUL"));
            }
            if at > 0 {
                path.push('/');
            }
            path.push_str(name);
            let fits = path.len() <= bytes_max && name.encode_utf16().count() <= SEGMENT_UNITS_MAX;
            if !fits || allowed_name(name).is_err() {
                bad_names.push(at);
            }
        }
        if path.is_empty() {
            return Err(malformed("name a file below the folder"));
        }
        Ok(Below { path, bad_names })
    }
}

/// The folder a parameter is confined to, or none. Its callers never see the prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Jail {
    /// `""` or `/a/b`, in display case.
    prefix: String,
}

impl Jail {
    /// `prefix` as the administrator wrote it; empty and `/` are no jail.
    ///
    /// # Errors
    /// `INVALID_FIELD` on `path_prefix`.
    pub fn new(prefix: &str) -> Result<Self> {
        match ItemPath::parse(prefix, Forms::PLAIN) {
            Ok(path) => Ok(Jail { prefix: path.as_str().to_owned() }),
            Err(refused) => Err(Fault::field("path_prefix", refused.reason.name(), refused.text)),
        }
    }

    pub fn is_open(&self) -> bool {
        self.prefix.is_empty()
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The absolute form of a plain path.
    pub fn absolute(&self, plain: &str) -> String {
        format!("{}{plain}", self.prefix)
    }

    /// The path as its caller knows it; `None` if it lies outside.
    pub fn relative<'a>(&self, absolute: &'a str) -> Option<&'a str> {
        if self.is_open() {
            return Some(absolute);
        }
        let rest = dbx_strip_prefix_ignore_case(absolute, &self.prefix)?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    }

    /// True if something at this lowered path is for this parameter's eyes. Without a path it is outside.
    pub fn holds(&self, path_lower: Option<&str>) -> bool {
        self.is_open() || path_lower.is_some_and(|path| self.relative(path).is_some())
    }

    /// The fault as its caller may see it: no trace of the prefix.
    pub fn told(&self, fault: Fault) -> Fault {
        if self.is_open() {
            return fault;
        }
        let facts: Vec<_> = fault.facts().iter().map(|(key, value)| (*key, self.hide(value))).collect();
        let about = fault.about().map(|about| (about.kind, self.hide(&about.name)));
        let message = self.hide(fault.message());
        let fault = facts.into_iter().fold(fault.with_message(message), |fault, (key, value)| fault.fact(key, value));
        match about {
            Some((kind, name)) => fault.resource(kind, name),
            None => fault,
        }
    }

    /// `text` without the prefix, wherever it stands.
    fn hide(&self, text: &str) -> String {
        let lower = dbx_str_lowercase(text);
        let prefix = dbx_str_lowercase(&self.prefix);
        if !lower.contains(&prefix) {
            return text.to_owned();
        }
        // Dropbox's lowering maps one character to one, so characters, unlike bytes, keep their places.
        let (text, lower, prefix): (Vec<char>, Vec<char>, Vec<char>) =
            (text.chars().collect(), lower.chars().collect(), prefix.chars().collect());
        let mut told = String::with_capacity(text.len());
        let mut at = 0;
        while at < text.len() {
            if lower[at..].starts_with(&prefix) {
                at += prefix.len();
            } else {
                told.push(text[at]);
                at += 1;
            }
        }
        told
    }

    pub fn not_found(path: &str) -> Fault {
        Fault::new(Reason::PathNotFound, "there is nothing at this path").resource("dropbox.item", path)
    }

    pub fn refusal() -> Fault {
        Fault::new(Reason::OutsideJail, "the application parameter is confined to a folder; this reaches beyond it")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(text: &str) -> String {
        ItemPath::parse(text, Forms::READ).unwrap().as_str().to_owned()
    }

    fn reason(parsed: Result<ItemPath, Refused>) -> Reason {
        parsed.unwrap_err().reason
    }

    #[test]
    fn both_separators_collapse_and_the_root_has_three_spellings() {
        for root in ["", "/", "\\", "//\\"] {
            assert!(ItemPath::parse(root, Forms::READ).unwrap().is_root());
        }
        assert_eq!(plain("a\\b/c"), "/a/b/c");
        assert_eq!(plain("//a///b//"), "/a/b");
        assert_eq!(plain("/Ünï/🎉 x/e\u{301}"), "/Ünï/🎉 x/e\u{301}");
        assert_eq!(plain(" / "), "/ / ");
    }

    #[test]
    fn dots_nul_and_long_names_are_malformed() {
        for bad in ["/a/./b", "..", "a/..", "/a\0b", &"x".repeat(256), &"/a".repeat(1025)] {
            assert_eq!(reason(ItemPath::parse(bad, Forms::READ)), Reason::MalformedPath, "{bad:?}");
        }
        // 255 UTF-16 units, not bytes: an emoji is two.
        assert!(ItemPath::parse(&"🎉".repeat(127), Forms::READ).is_ok());
        assert!(ItemPath::parse(&"🎉".repeat(128), Forms::READ).is_err());
        assert!(ItemPath::parse("/...", Forms::READ).is_ok());
    }

    #[test]
    fn only_a_value_that_begins_so_is_an_id_a_rev_or_a_namespace() {
        assert_eq!(ItemPath::parse("id:abcd", Forms::READ), Ok(ItemPath::Id("id:abcd".into())));
        assert_eq!(ItemPath::parse("/id:abcd", Forms::READ), Ok(ItemPath::Plain("/id:abcd".into())));
        assert_eq!(ItemPath::parse("ns:12\\a//b/", Forms::READ), Ok(ItemPath::Namespace("ns:12/a/b".into())));
        assert_eq!(ItemPath::parse("ns:x", Forms::READ), Ok(ItemPath::Plain("/ns:x".into())));
        assert_eq!(ItemPath::parse("rev:0123456789", Forms::READ), Ok(ItemPath::Rev("rev:0123456789".into())));
        for bad in ["id:abc", "id:abcd/x", "rev:123", "rev:012345678Z", "ns:12x"] {
            assert_eq!(reason(ItemPath::parse(bad, Forms::READ)), Reason::MalformedPath, "{bad}");
        }
        for bad in ["rev:0123456789", "id:abcd", "", "/", "ns:12"] {
            assert_eq!(reason(ItemPath::parse(bad, Forms::WRITE)), Reason::MalformedPath, "{bad}");
        }
    }

    #[test]
    fn names_dropbox_refuses_are_told_before_anything_is_sent() {
        for bad in ["/a/b ", "/a\u{7f}", "/Desktop.INI", "x/Thumbs.db", "/icon\r", "ns:1/.dropbox"] {
            assert_eq!(reason(ItemPath::parse_new(bad, Forms::WRITE)), Reason::DisallowedName, "{bad:?}");
        }
        assert!(ItemPath::parse_new("/a /b", Forms::WRITE).is_ok());
        let folder = ItemPath::parse("/in", Forms::PLAIN).unwrap();
        assert_eq!(folder.join("a.txt").unwrap().as_str(), "/in/a.txt");
        assert_eq!(reason(folder.join("a/b")), Reason::MalformedPath);
        assert_eq!(reason(folder.join("..")), Reason::MalformedPath);
        assert_eq!(reason(folder.join(".dropbox")), Reason::DisallowedName);
    }

    #[test]
    fn a_path_below_a_folder_is_what_a_file_system_has_and_says_what_dropbox_does_not_take() {
        let below = |text: &str| Below::parse(text, 40).map(|below| (below.path, below.bad_names));
        let good = |path: &str| Ok((path.to_owned(), Vec::new()));
        assert_eq!(below("/a\\b//c/"), good("a/b/c"));
        for plain in ["id:abcd", "rev:0123456789", "ns:1/x", " a"] {
            assert_eq!(below(plain), good(plain));
        }
        assert_eq!(below("x /b/.dropbox"), Ok(("x /b/.dropbox".into(), vec![0, 2])));
        let long = format!("a/{}/b", "x".repeat(40));
        assert_eq!(below(&long).unwrap().1, [1, 2]);
        assert_eq!(Below::parse(&"🎉".repeat(128), 2000).unwrap().bad_names, [0]);
        for bad in ["", "/", "a/../b", ".", "a\0b", &"x".repeat(4097)] {
            assert_eq!(below(bad).unwrap_err().reason, Reason::MalformedPath, "{bad:?}");
        }
    }

    #[test]
    fn a_jail_ends_at_a_separator_and_ignores_case() {
        let jail = Jail::new("\\Apps\\Acme/").unwrap();
        assert_eq!(jail.absolute("/x"), "/Apps/Acme/x");
        assert_eq!(jail.relative("/apps/ACME/X/y"), Some("/X/y"));
        assert_eq!(jail.relative("/apps/acme"), Some(""));
        for outside in ["/apps/acmeX", "/apps", "/x", ""] {
            assert_eq!(jail.relative(outside), None, "{outside}");
        }
        assert!(!jail.holds(None));
        assert!(Jail::new("/").unwrap().holds(None));
        assert!(Jail::new("/a/../b").is_err());
    }

    #[test]
    fn a_fault_told_through_a_jail_does_not_show_it() {
        let jail = Jail::new("/Apps/Acme").unwrap();
        let fault = Fault::new(Reason::PathNotFound, "nothing at /apps/ACME/x")
            .fact("path", "/apps/acme/x")
            .resource("dropbox.item", "/Apps/Acme/x");
        let told = jail.told(fault);
        assert!(!format!("{told:?}").to_lowercase().contains("acme"), "{told:?}");
        assert_eq!(told.get("path"), Some("/x"));
        assert_eq!(told.about().unwrap().name, "/x");
    }

    proptest! {
        #[test]
        fn a_parsed_path_parses_to_itself(text in "[a-zA-Z0-9/\\\\. éß🎉:]{0,60}") {
            if let Ok(path) = ItemPath::parse(&text, Forms::READ) {
                prop_assert_eq!(ItemPath::parse(path.as_str(), Forms::READ), Ok(path.clone()));
                if let ItemPath::Plain(path) = path {
                    prop_assert!(path.is_empty() || (path.starts_with('/') && !path.ends_with('/')));
                    prop_assert!(!path.contains("//") && !path.contains('\\'));
                    prop_assert!(path.split('/').all(|part| part != "." && part != ".."));
                }
            }
        }

        #[test]
        fn what_goes_into_a_jail_comes_out_as_it_was(prefix in "/[a-zA-Zéß]{1,8}(/[a-zA-Z]{1,8})?", text in "(/[a-zA-Z🎉é ]{1,9}){0,4}") {
            let jail = Jail::new(&prefix).unwrap();
            let absolute = jail.absolute(&text);
            prop_assert_eq!(jail.relative(&absolute), Some(text.as_str()));
            prop_assert!(jail.relative(&dbx_str_lowercase(&absolute)).is_some());
        }

        #[test]
        fn nothing_a_caller_writes_leaves_the_jail(text in ".{0,80}") {
            let jail = Jail::new("/Apps/Acme").unwrap();
            if let Ok(ItemPath::Plain(path)) = ItemPath::parse(&text, Forms::READ) {
                let absolute = jail.absolute(&path);
                prop_assert!(absolute.split('/').all(|part| part != ".."));
                prop_assert!(jail.holds(Some(&dbx_str_lowercase(&absolute))));
            }
        }
    }
}
