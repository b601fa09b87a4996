//! Seeds of entries that no client could make: documents that can only be exported, items that are refused, folders shown from
//! another namespace.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Control, ControlError, refused};
use crate::emulator::{
    content::Content,
    tree::{Export, Terms},
};

/// A document without bytes of its own, as Paper and Google files are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    #[serde(default)]
    pub account_id: Option<String>,
    /// `/notes.paper`
    pub path: String,
    /// What it turns into when exported: format (`markdown`, `html`) → text.
    pub formats: BTreeMap<String, String>,
    #[serde(default)]
    pub paper_revision: Option<i64>,
}

/// Makes an item answer with an error of its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restriction {
    #[serde(default)]
    pub account_id: Option<String>,
    pub path: String,
    /// A tag of `LookupError` (`restricted_content`, `locked`, `unsupported_content_type`: reads are refused too) or of
    /// `WriteError` (`no_write_permission`, `operation_suppressed`, `team_folder`). Absent: none any more.
    #[serde(default)]
    pub tag: Option<String>,
}

impl Control {
    /// Puts a document into an account's home.
    ///
    /// # Errors
    /// `Invalid`: no such account, a bad path, no format.
    pub fn seed_document(&self, document: &Document) -> Result<(), ControlError> {
        let account = self.account(document.account_id.as_deref())?;
        if document.formats.is_empty() {
            return Err(ControlError::Invalid("a document needs a format to be exported in".to_owned()));
        }
        let formats = document.formats.iter();
        let formats = formats.map(|(format, text)| (format.clone(), Content::from_bytes(text.clone().into_bytes())));
        let export = Export { formats: formats.collect(), paper_revision: document.paper_revision };
        let mut tree = self.0.tree();
        let home = tree.account(&account).expect("just looked up").home;
        let place = tree.locate(home, &document.path).map_err(|_| refused(&document.path))?;
        // Its bytes mean nothing to anybody, but they differ from those of other states.
        let content = Content::from_bytes(serde_json::to_vec(document).expect("plain data"));
        let terms = Terms { export: Some(export), ..Terms::overwrite() };
        tree.write_file(&place, content, &terms).map_err(|_| refused(&document.path))?;
        Ok(())
    }

    /// Makes reads and writes of an item answer with a tag, or stops it.
    ///
    /// # Errors
    /// `Invalid`: no such account or item.
    pub fn restrict(&self, restriction: &Restriction) -> Result<(), ControlError> {
        let account = self.account(restriction.account_id.as_deref())?;
        let mut tree = self.0.tree();
        let home = tree.account(&account).expect("just looked up").home;
        let place = tree.locate(home, &restriction.path).map_err(|_| refused(&restriction.path))?;
        let node = tree.node_mut(place.namespace, &place.key);
        let node = node.ok_or_else(|| ControlError::Invalid(format!("nothing is at '{}'", restriction.path)))?;
        node.restricted.clone_from(&restriction.tag);
        Ok(())
    }

    /// Shows a new namespace, such as a shared folder has, at a path of an account's home; gives its id.
    ///
    /// # Errors
    /// `Invalid`: no such account, a bad path, something is there.
    pub fn mount_namespace(&self, account_id: Option<&str>, path: &str) -> Result<u64, ControlError> {
        let account = self.account(account_id)?;
        let mut tree = self.0.tree();
        let home = tree.account(&account).expect("just looked up").home;
        let place = tree.locate(home, path).map_err(|_| refused(path))?;
        tree.make_folder(&place, false).map_err(|_| refused(path))?;
        let id = tree.add_namespace(path.rsplit('/').next().unwrap_or_default());
        tree.mount(place.namespace, &place.display, id);
        Ok(id)
    }

    /// Every upload session ends, as after seven days.
    pub fn expire_sessions(&self) {
        self.0.sessions.clear();
    }

    /// Upload sessions that are not committed yet.
    pub fn open_sessions(&self) -> usize {
        self.0.sessions.open_count()
    }
}
