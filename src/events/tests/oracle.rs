//! Dropbox as the model test has it: the emulator's tree and cursors, called directly. Nothing waits, nothing listens.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use dropbox_sdk::types::files;
use futures::{FutureExt as _, future::BoxFuture};
use serde_json::{Value, json};

use super::{
    acts::Deed,
    truth::{Nodes, node_of, place_of},
};
use crate::{
    credentials::Ending,
    dropbox::Underway,
    emulator::{Options, direct::Direct},
    events::{News, Page, Scope, Upstream},
    fault::{Fault, Reason, Result},
};

pub(super) struct Oracle {
    pub dropbox: Direct,
    /// Calls until one fails; 0: none does.
    pub fails_after: AtomicU32,
}

impl fmt::Debug for Oracle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Oracle")
    }
}

impl Oracle {
    pub fn new(seed: u64) -> Oracle {
        let dropbox = Direct::new(&Options { rng_seed: seed, ..Options::default() });
        dropbox.call("files/create_folder_v2", json!({ "path": "/W" })).expect("an empty home");
        Oracle { dropbox, fails_after: AtomicU32::new(0) }
    }

    /// Somebody does it, or is refused.
    pub fn act(&self, deed: &Deed) {
        let call = |route: &str, arg: Value| self.dropbox.call(route, arg).ok();
        match deed {
            Deed::Put { path, content, strict } => {
                self.dropbox.put(path, &content.to_be_bytes(), *strict);
            }
            Deed::Folder(path) => _ = call("files/create_folder_v2", json!({ "path": path })),
            Deed::Delete(path) => _ = call("files/delete_v2", json!({ "path": path })),
            Deed::Move(from, to) => _ = call("files/move_v2", json!({ "from_path": from, "to_path": to })),
            Deed::Recase(path) => _ = self.dropbox.control().recase(None, path),
            Deed::Share(path) => {
                let shared = call("files/get_metadata", json!({ "path": path }))
                    .and_then(|item| Some(item["sharing_info"]["shared_folder_id"].as_str()?.to_owned()));
                match shared {
                    Some(id) => _ = call("sharing/unshare_folder", json!({ "shared_folder_id": id })),
                    None => _ = call("sharing/share_folder", json!({ "path": path })),
                }
            }
        }
    }

    /// Whether there is such a folder.
    pub fn is_there(&self) -> bool {
        self.dropbox.call("files/list_folder", json!({ "path": "/W" })).is_ok()
    }

    /// Somebody sees to it that there is.
    pub fn make_folder(&self) {
        if !self.is_there() {
            let _ = self.dropbox.call("files/delete_v2", json!({ "path": "/W" }));
            self.dropbox.call("files/create_folder_v2", json!({ "path": "/W" })).expect("nothing is there");
        }
    }

    /// What is there; without `recursive` in the folder itself alone.
    pub fn nodes(&self, recursive: bool) -> Nodes {
        let mut nodes = Nodes::new();
        let mut page = self.dropbox.call("files/list_folder", json!({ "path": "/W", "recursive": recursive })).unwrap();
        loop {
            let found = read(&page);
            nodes.extend(found.entries.iter().map(|item| (place_of(item), node_of(item))));
            if !found.has_more {
                nodes.remove("");
                return nodes;
            }
            page = self.dropbox.call("files/list_folder/continue", json!({ "cursor": found.cursor })).unwrap();
        }
    }

    fn ask(&self, route: &str, arg: Value) -> Result<Value> {
        if self.fails_after.load(Ordering::Relaxed) > 0 && self.fails_after.fetch_sub(1, Ordering::Relaxed) == 1 {
            let fault = Fault::new(Reason::DropboxUnavailable, "Dropbox is away for a moment");
            return Err(fault.retry_after(Duration::from_secs(1)));
        }
        self.dropbox.call(route, arg).map_err(|error| {
            let reason = match (error[".tag"].as_str(), error["path"][".tag"].as_str()) {
                (Some("reset"), _) => Reason::CursorReset,
                (_, Some("not_found")) => Reason::PathNotFound,
                (_, Some("not_folder")) => Reason::NotAFolder,
                _ => panic!("{route}: {error}"),
            };
            Fault::new(reason, error.to_string())
        })
    }

    fn page(&self, route: &str, arg: Value) -> Result<Page> {
        let found = read(&self.ask(route, arg)?);
        Ok(Page { entries: found.entries, cursor: found.cursor.into(), has_more: found.has_more })
    }
}

/// The published types read text, not a value that was read already.
fn read(page: &Value) -> files::ListFolderResult {
    serde_json::from_str(&page.to_string()).unwrap()
}

impl Upstream for Oracle {
    fn list<'a>(&'a self, scope: &'a Scope, limit: u32) -> BoxFuture<'a, Result<Page>> {
        let arg = json!({ "path": &*scope.path, "recursive": scope.recursive, "limit": limit });
        let page = self.page("files/list_folder", arg);
        async move { page }.boxed()
    }

    fn go_on<'a>(&'a self, _: &'a Scope, cursor: &'a str) -> BoxFuture<'a, Result<Page>> {
        let page = self.page("files/list_folder/continue", json!({ "cursor": cursor }));
        async move { page }.boxed()
    }

    fn latest<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Arc<str>>> {
        let arg = json!({ "path": &*scope.path, "recursive": scope.recursive });
        let found = self.ask("files/list_folder/get_latest_cursor", arg);
        async move { Ok(found?["cursor"].as_str().unwrap().into()) }.boxed()
    }

    fn longpoll<'a>(&'a self, _: &'a Scope, _: &'a str, _: Duration, _: Arc<Underway>) -> BoxFuture<'a, Result<News>> {
        unreachable!("the test says when there is news")
    }

    fn is_new<'a>(&'a self, _: &'a Scope, path: &'a str) -> BoxFuture<'a, Result<bool>> {
        let arg = json!({ "path": path, "mode": "path", "limit": 2 });
        let found = self.dropbox.call("files/list_revisions", arg);
        let new = found.is_ok_and(|found| found["entries"].as_array().unwrap().len() == 1);
        async move { Ok(new) }.boxed()
    }

    fn ending<'a>(&'a self, _: &'a Scope) -> BoxFuture<'a, Result<Option<Ending>>> {
        async move { Ok(None) }.boxed()
    }
}
