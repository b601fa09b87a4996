//! Files on this machine: what a path, a folder or a pattern stands for, what is left out of it with the reason, and how one is
//! replaced as a whole.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::{
    exit::{Failure, Result},
    paths,
};

/// A file to be sent.
#[derive(Debug, Clone)]
pub struct LocalFile {
    pub path: PathBuf,
    /// `/`-separated, beneath the folder it was found in; its name if it was named itself.
    pub relative: String,
    pub size: u64,
    pub modified: Option<SystemTime>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Gathered {
    pub files: Vec<LocalFile>,
    /// Folders that hold nothing to be sent, `/`-separated beneath the root; the root itself is empty text.
    pub empty: Vec<String>,
    /// What is there and cannot be sent, and why.
    pub skipped: Vec<(PathBuf, String)>,
}

impl LocalFile {
    /// It is not as it was found, or gone.
    pub fn has_changed(&self) -> bool {
        let now = fs::metadata(&self.path).ok();
        now.is_none_or(|now| now.len() != self.size || now.modified().ok() != self.modified)
    }
}

impl Gathered {
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// Which files of a folder are wanted.
#[derive(Debug)]
pub struct Wanted {
    include: GlobSet,
    exclude: GlobSet,
}

impl Wanted {
    /// Globs are matched against the relative path, or the name if they hold no `/`. No include: everything.
    ///
    /// # Errors
    /// A glob that is not well formed.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Wanted> {
        Ok(Wanted { include: globs(include)?, exclude: globs(exclude)? })
    }

    pub fn everything() -> Wanted {
        Wanted { include: GlobSet::empty(), exclude: GlobSet::empty() }
    }

    /// Folders are wanted for their own sake only where no file has to match.
    fn wants_folder(&self, relative: &str) -> bool {
        self.include.is_empty() && !self.exclude.is_match(relative)
    }

    fn wants(&self, relative: &str) -> bool {
        (self.include.is_empty() || self.include.is_match(relative)) && !self.exclude.is_match(relative)
    }
}

fn globs(patterns: &[String]) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let anywhere = if pattern.contains('/') { pattern.clone() } else { format!("**/{pattern}") };
        set.add(glob(&anywhere)?);
    }
    set.build().map_err(|error| Failure::usage(error.to_string()))
}

fn glob(pattern: &str) -> Result<globset::Glob> {
    let built = GlobBuilder::new(pattern).literal_separator(true).build();
    built.map_err(|error| Failure::usage(error.to_string()))
}

/// The paths a pattern stands for where no shell has expanded it. A path that exists stands for itself.
///
/// # Errors
/// A pattern that is not well formed or matches nothing.
pub fn expand(typed: &str) -> Result<Vec<PathBuf>> {
    if !paths::is_glob(typed) || Path::new(typed).symlink_metadata().is_ok() {
        return Ok(vec![typed.into()]);
    }
    let cut = typed.find(['*', '?', '[', '{']).map_or(0, |at| typed[..at].rfind('/').map_or(0, |slash| slash + 1));
    let (base, pattern) = typed.split_at(cut);
    let base = if base.is_empty() { Path::new(".") } else { Path::new(base) };
    let matcher = glob(pattern)?.compile_matcher();
    let depth_max = if pattern.contains("**") { usize::MAX } else { pattern.split('/').count() };
    let mut found = Vec::new();
    let mut folders = vec![(base.to_owned(), String::new(), 1)];
    while let Some((folder, relative, depth)) = folders.pop() {
        for (path, name) in entries(&folder).map_err(|error| Failure::local(&folder, &error))? {
            let Some(name) = name.to_str() else { continue };
            let below = if relative.is_empty() { name.to_owned() } else { format!("{relative}/{name}") };
            let is_folder = path.symlink_metadata().is_ok_and(|about| about.is_dir());
            if matcher.is_match(&below) {
                found.push(path.strip_prefix("./").map(Path::to_owned).unwrap_or(path));
            } else if is_folder && depth < depth_max {
                folders.push((path, below, depth + 1));
            }
        }
    }
    found.sort();
    match found.is_empty() {
        true => Err(Failure::new(super::exit::Exit::NotFound, format!("{typed} matches nothing"))),
        false => Ok(found),
    }
}

/// Every file beneath `root`, in a fixed order. `pruned` says of a path and its name that it is not looked at.
/// Symlinks, names that are not UTF-8, names Dropbox refuses, and names that differ from another in case only are
/// skipped and told.
///
/// # Errors
/// `root` cannot be read. What beneath it cannot be read is skipped and told.
pub fn gather(root: &Path, wanted: &Wanted, pruned: &dyn Fn(&Path, &OsStr) -> bool) -> Result<Gathered> {
    let mut gathered = Gathered::default();
    let own = outputs();
    let mut folders = vec![(root.to_owned(), String::new())];
    while let Some((folder, relative)) = folders.pop() {
        let entries = match entries(&folder) {
            Ok(entries) => entries,
            Err(error) if folder == root => return Err(Failure::local(root, &error)),
            Err(error) => {
                gathered.skipped.push((folder, error.to_string()));
                continue;
            }
        };
        // Something in it is sent, or was left out because it is not wanted: then it need not be made for itself.
        let mut spoken_for = false;
        for (path, name) in entries {
            if pruned(&path, &name) {
                spoken_for = true;
                continue;
            }
            match look(&path, &name, &own) {
                Err(why) => gathered.skipped.push((path, why)),
                Ok((name, about)) => {
                    spoken_for = true;
                    let relative = if relative.is_empty() { name.to_owned() } else { format!("{relative}/{name}") };
                    if about.is_dir() {
                        folders.push((path, relative));
                    } else if wanted.wants(&relative) {
                        let modified = about.modified().ok();
                        gathered.files.push(LocalFile { path, relative, size: about.len(), modified });
                    }
                }
            }
        }
        if !spoken_for && wanted.wants_folder(&relative) {
            gathered.empty.push(relative);
        }
    }
    gathered.empty.sort();
    gathered.files.sort_by(|a, b| a.relative.cmp(&b.relative));
    skip_same_names(&mut gathered);
    Ok(gathered)
}

/// One file, named itself.
///
/// # Errors
/// It cannot be read, is no file, or has a name Dropbox refuses.
pub fn single(path: &Path) -> Result<LocalFile> {
    let about = fs::metadata(path).map_err(|error| Failure::local(path, &error))?;
    if !about.is_file() {
        return Err(Failure::usage(format!("{} is not a file", path.display())));
    }
    let name = path.file_name().and_then(OsStr::to_str);
    let name = name.ok_or_else(|| Failure::usage(format!("{}: the name is not UTF-8", path.display())))?;
    Ok(LocalFile { path: path.into(), relative: name.into(), size: about.len(), modified: about.modified().ok() })
}

fn entries(folder: &Path) -> io::Result<Vec<(PathBuf, std::ffi::OsString)>> {
    let mut entries = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| (entry.path(), entry.file_name())))
        .collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    Ok(entries)
}

fn look<'a>(path: &Path, name: &'a OsStr, own: &[(u64, u64)]) -> Result<(&'a str, fs::Metadata), String> {
    let name = name.to_str().ok_or("the name is not UTF-8")?;
    let about = path.symlink_metadata().map_err(|error| error.to_string())?;
    if about.is_symlink() {
        return Err("a symbolic link".into());
    }
    if !about.is_dir() && !about.is_file() {
        return Err("neither file nor folder".into());
    }
    if place(&about).is_some_and(|place| own.contains(&place)) {
        return Err("what this command says is written to it".into());
    }
    match paths::refusal(name) {
        Some(why) => Err(why.into()),
        None => Ok((name, about)),
    }
}

/// Device and inode, which say whether two names are one file.
fn place(about: &fs::Metadata) -> Option<(u64, u64)> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        about.is_file().then(|| (about.dev(), about.ino()))
    }
    #[cfg(not(unix))]
    {
        let _ = about;
        None
    }
}

/// The files that standard output and standard error go to: they grow while they are read.
fn outputs() -> Vec<(u64, u64)> {
    #[cfg(unix)]
    {
        use std::os::fd::AsFd as _;
        let (out, err) = (io::stdout(), io::stderr());
        let ends = [out.as_fd().try_clone_to_owned(), err.as_fd().try_clone_to_owned()];
        ends.into_iter().filter_map(|end| place(&fs::File::from(end.ok()?).metadata().ok()?)).collect()
    }
    #[cfg(not(unix))]
    Vec::new()
}

/// Dropbox tells no upper from lower case, so of two names that differ in nothing else the first one goes.
fn skip_same_names(gathered: &mut Gathered) {
    let mut folders = HashSet::new();
    for file in &gathered.files {
        let key = paths::key(&file.relative);
        folders.extend(key.match_indices('/').map(|(at, _)| key[..at].to_owned()));
    }
    let mut taken: HashMap<String, String> = HashMap::new();
    let (mut kept, mut skipped) = (Vec::new(), Vec::new());
    for file in gathered.files.drain(..) {
        let key = paths::key(&file.relative);
        if folders.contains(&key) {
            skipped.push((file.path, "its name differs from a folder's in case only".to_owned()));
        } else if let Some(other) = taken.get(&key) {
            skipped.push((file.path, format!("its name differs from {other} in case only")));
        } else {
            taken.insert(key, file.relative.clone());
            kept.push(file);
        }
    }
    gathered.files = kept;
    gathered.skipped.extend(skipped);
}

/// Writes a file that only its owner may read: whole, or what was there stays, also where the machine loses its power.
pub fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut draft = file.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    // A draft that a crash left behind must not lend its permissions to the new one.
    let _ = fs::remove_file(&draft);
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut whole = options.open(&draft)?;
    whole.write_all(bytes)?;
    whole.sync_all()?;
    fs::rename(&draft, file)?;
    // The new name is on the disk once its folder is; where folders cannot be opened the system sees to that itself.
    #[cfg(unix)]
    {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, file).expect("written");
        }
        folder
    }

    fn relatives(gathered: &Gathered) -> Vec<&str> {
        gathered.files.iter().map(|file| file.relative.as_str()).collect()
    }

    #[test]
    fn a_folder_is_gathered_without_what_dropbox_refuses() {
        let folder = folder(&["b/e\u{301}😀.txt", "a.txt", "b/.DS_Store", "c ", "target/x", "A.TXT"]);
        #[cfg(unix)]
        std::os::unix::fs::symlink("a.txt", folder.path().join("link")).expect("linked");
        let gathered =
            gather(folder.path(), &Wanted::everything(), &|_, name| name == "target").expect("a readable folder");
        assert_eq!(relatives(&gathered), ["A.TXT", "b/e\u{301}😀.txt"]);
        assert_eq!(gathered.skipped.len(), if cfg!(unix) { 4 } else { 3 }, "{:?}", gathered.skipped);
    }

    #[test]
    fn folders_with_nothing_to_send_are_told_unless_files_have_to_match() {
        let folder = folder(&["a/b.txt", "only/.DS_Store", "skipped/x.md"]);
        fs::create_dir_all(folder.path().join("empty/deep")).expect("made");
        let empty = |include: &[String], exclude: &[String]| {
            let wanted = Wanted::new(include, exclude).expect("globs");
            gather(folder.path(), &wanted, &|_, _| false).expect("a readable folder").empty
        };
        assert_eq!(empty(&[], &[]), ["empty/deep", "only"]);
        assert_eq!(empty(&[], &["*.md".into(), "only".into()]), ["empty/deep"]);
        assert_eq!(empty(&["*.txt".into()], &[]), [""; 0]);
    }

    #[test]
    fn globs_choose_by_name_or_by_path() {
        let folder = folder(&["a.txt", "b/c.txt", "b/d/e.txt", "b/f.md"]);
        let chosen = |include: &str, exclude: &str| {
            let list = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            let wanted = Wanted::new(&list(include), &list(exclude)).expect("globs");
            let gathered = gather(folder.path(), &wanted, &|_, _| false).expect("a readable folder");
            relatives(&gathered).join(" ")
        };
        assert_eq!(chosen("*.txt", ""), "a.txt b/c.txt b/d/e.txt");
        assert_eq!(chosen("b/*.txt", ""), "b/c.txt");
        assert_eq!(chosen("", "b/**"), "a.txt");
    }

    #[test]
    fn a_pattern_no_shell_has_expanded_is_expanded() {
        let folder = folder(&["x/a.txt", "x/b.txt", "x/c.md", "x/y/d.txt"]);
        let typed = |pattern: &str| format!("{}/{pattern}", folder.path().display());
        let names = |pattern: &str| {
            let found = expand(&typed(pattern)).expect("matches");
            found.iter().filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect::<Vec<_>>()
        };
        assert_eq!(names("x/*.txt"), ["a.txt", "b.txt"]);
        assert_eq!(names("**/*.txt"), ["a.txt", "b.txt", "d.txt"]);
        assert!(expand(&typed("*.pdf")).is_err());
    }
}
