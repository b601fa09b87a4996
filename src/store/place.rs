//! The file of an embedded store, made for its owner's eyes alone: what is sealed in it is still a list of who is connected.

use std::path::Path;

use crate::fault::{Fault, Reason, Result};

/// Makes the file, and the folder it lies in, if they are not there: 0600 and 0700. SQLite gives its side files the mode of
/// the database. What is there keeps the mode its owner gave it.
///
/// # Errors
/// `STORE_UNAVAILABLE` if it cannot be made.
pub(super) fn make_private(file: &Path) -> Result<()> {
    let failed = |error: std::io::Error| {
        Fault::new(Reason::StoreUnavailable, format!("the store {} cannot be made: {error}", file.display()))
    };
    if file.exists() {
        return Ok(());
    }
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists()) {
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(folder).map_err(failed)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(file) {
        Ok(_) => Ok(()),
        // Another process was quicker.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_store_is_made_for_its_owner_alone_and_one_that_is_there_is_let_be() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deep/er/store.db");
        make_private(&file).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        make_private(&file).unwrap();
        assert_eq!(mode(&file), 0o640);
        assert!(make_private(Path::new("/proc/nowhere/store.db")).is_err());
    }
}
