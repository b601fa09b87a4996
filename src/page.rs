//! The frame of every HTML page that a person may see: the connect page's, and the one that ends `connect` on the command line.
//! No script, nothing from elsewhere. The emulator's pages are its own.

use maud::{DOCTYPE, Markup, html};

/// A whole document; `stylesheet` is a path on the same host.
pub fn document(title: &str, stylesheet: Option<&str>, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " · Dropbox connector" }
                @if let Some(path) = stylesheet { link rel="stylesheet" href=(path); }
            }
            body { (body) }
        }
    }
}
