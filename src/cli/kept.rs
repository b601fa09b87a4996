//! Uploads under way, kept in small files so that the next run of the same command goes on where this one was stopped:
//! `$XDG_STATE_HOME/dropbox-connector/uploads/<key>.json`. The handle in it is sealed by the server and worth nothing
//! without its application parameter.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::local::{self, LocalFile};

/// An upload under way, if it is kept at all.
#[derive(Debug)]
pub struct Kept {
    place: PathBuf,
    state: KeptUpload,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KeptUpload {
    /// What else has to be equal for the upload to be the same: server, parameter, target, source, spec.
    subject: String,
    size: u64,
    modified_nanos: u128,
    upload_id: String,
}

impl Kept {
    /// The place of the upload `subject` of `file`. `None` where this machine has no place for state.
    pub fn find(subject: String, file: &LocalFile) -> Option<Kept> {
        Some(Kept::find_in(&folder()?, subject, file))
    }

    fn find_in(folder: &Path, subject: String, file: &LocalFile) -> Kept {
        let key = hex::encode(&Sha256::digest(&subject)[..16]);
        let place = folder.join(format!("{key}.json"));
        let modified_nanos = file.modified.unwrap_or(SystemTime::UNIX_EPOCH).duration_since(UNIX_EPOCH);
        let mut state = KeptUpload {
            subject,
            size: file.size,
            modified_nanos: modified_nanos.unwrap_or_default().as_nanos(),
            upload_id: String::new(),
        };
        let before = fs::read(&place).ok().and_then(|text| serde_json::from_slice::<KeptUpload>(&text).ok());
        if let Some(before) = before
            && (KeptUpload { upload_id: String::new(), ..before.clone() }) == state
        {
            state.upload_id = before.upload_id;
        }
        Kept { place, state }
    }

    /// The handle a former run left.
    pub fn upload_id(&self) -> Option<&str> {
        (!self.state.upload_id.is_empty()).then_some(&*self.state.upload_id)
    }

    /// Keeps the handle. That it cannot be kept costs the resume, not the upload.
    pub fn keep(&mut self, upload_id: &str) {
        self.state.upload_id = upload_id.to_owned();
        let text = serde_json::to_vec(&self.state).expect("strings and numbers are JSON");
        let folder = self.place.parent().map(fs::create_dir_all).transpose();
        let written = folder.and_then(|_| local::replace(&self.place, &text));
        if let Err(error) = written {
            tracing::debug!(place = %self.place.display(), %error, "an upload cannot be kept for a later run");
        }
    }

    pub fn forget(&mut self) {
        self.state.upload_id.clear();
        // A file that is not there is as good.
        let _ = fs::remove_file(&self.place);
    }
}

fn folder() -> Option<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("dropbox-connector/uploads"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64) -> LocalFile {
        LocalFile { path: "/x".into(), relative: "x".into(), size, modified: Some(UNIX_EPOCH) }
    }

    #[test]
    fn a_kept_upload_is_found_again_until_its_file_changes() {
        let folder = tempfile::tempdir().expect("a folder");
        let find = |subject: &str, size| Kept::find_in(folder.path(), subject.into(), &file(size));
        let mut kept = find("a", 1);
        assert_eq!(kept.upload_id(), None);
        kept.keep("handle");
        assert_eq!(find("a", 1).upload_id(), Some("handle"));
        assert_eq!(find("a", 2).upload_id(), None);
        assert_eq!(find("b", 1).upload_id(), None);
        kept.forget();
        assert_eq!(find("a", 1).upload_id(), None);
    }
}
