//! Listing with continuation: one page after another of `files/list_folder`. A page may be empty and more may follow.
//! Sequential on purpose: identical listings side by side earn a 429.

use dropbox_sdk::files::{ListFolderArg, ListFolderContinueArg, Metadata};

use crate::{
    dropbox::{Caller, routes},
    fault::Result,
};

/// A listing under way.
#[derive(Debug, Clone)]
pub struct Walk {
    caller: Caller,
    next: Next,
}

#[derive(Debug, Clone)]
enum Next {
    Begin(Box<ListFolderArg>),
    Continue(String),
    End,
}

/// One page as Dropbox gave it.
#[derive(Debug)]
pub struct WalkPage {
    pub entries: Vec<Metadata>,
    /// Continues behind this page; behind the last page it tells of changes.
    pub cursor: String,
    pub has_more: bool,
}

impl Walk {
    pub fn begin(caller: Caller, arg: ListFolderArg) -> Walk {
        Walk { caller, next: Next::Begin(Box::new(arg)) }
    }

    pub fn resume(caller: Caller, cursor: String) -> Walk {
        Walk { caller, next: Next::Continue(cursor) }
    }

    /// The next page, `None` behind the last. Cancel-safe: a page that was not taken is asked for again.
    ///
    /// # Errors
    /// `PATH_NOT_FOUND`, `NOT_A_FOLDER`, `CURSOR_RESET`, common ones.
    pub async fn page(&mut self) -> Result<Option<WalkPage>> {
        let answer = match &self.next {
            Next::Begin(arg) => self.caller.call(&routes::LIST_FOLDER, &**arg).await?,
            Next::Continue(cursor) => {
                let arg = ListFolderContinueArg::new(cursor.clone());
                self.caller.call(&routes::LIST_FOLDER_CONTINUE, &arg).await?
            }
            Next::End => return Ok(None),
        };
        let page = answer.value;
        self.next = if page.has_more { Next::Continue(page.cursor.clone()) } else { Next::End };
        Ok(Some(WalkPage { entries: page.entries, cursor: page.cursor, has_more: page.has_more }))
    }
}
