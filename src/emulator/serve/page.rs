//! What a shared link shows a person who opens it: a page, or the file itself with `dl=1` or `raw=1`, as Dropbox's would. The
//! links have Dropbox's address; their paths open on the www host of the emulator.

use std::sync::Arc;

use http::{Method, Request, Response, header};
use hyper::body::Incoming;

use super::{
    answer::{Answer, Body},
    request,
};
use crate::emulator::{
    World,
    oauth::{escape, page},
    sharing::Opened,
};

/// Where shared links live on the www host.
pub(super) const LINKS: &str = "/scl/";

pub(super) fn shared_link(world: &Arc<World>, request: &Request<Incoming>) -> Response<Body> {
    let request_id = world.random_text(32).to_ascii_lowercase();
    let plan = world.script.plan("shared_link");
    let ticket = world.ledger.begin("shared_link", request.headers());
    show(world, request).send(&request_id, &plan, ticket)
}

fn show(world: &World, request: &Request<Incoming>) -> Answer {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Answer::canned(&page(405, "Wrong method", "<p>GET or HEAD</p>"));
    }
    let query = |name: &str| request::query_value(request.uri().query(), name);
    let asked = request.uri().path_and_query().map_or("", |whole| whole.as_str());
    let opened = match world.links.open(world, asked, query("link_password").as_deref()) {
        Ok(opened) => opened,
        Err("shared_link_access_denied") => {
            let text =
                "<p>It has ended, is meant for others, or wants its password as <code>&amp;link_password=…</code>.</p>";
            return Answer::canned(&page(403, "This link lets nobody in like this", text));
        }
        Err(_) => return Answer::canned(&page(404, "This link leads nowhere", "<p>There is nothing behind it.</p>")),
    };
    let inline = query("raw").as_deref() == Some("1");
    match opened {
        Opened { name, content: Some(content), rev, .. } if inline || query("dl").as_deref() == Some("1") => {
            let mut answer = Answer::download(world, None, request.headers(), content, Some(&format!("\"{rev}\"")));
            let name: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
            let shown = if inline { "inline" } else { "attachment" };
            answer.set(header::CONTENT_DISPOSITION, &format!("{shown}; filename*=UTF-8''{}", name.replace('+', "%20")));
            answer
        }
        opened => {
            Answer::canned(&page(200, &escape(&opened.name), &body(&opened, request.uri().path(), query("rlkey"))))
        }
    }
}

fn body(opened: &Opened, path: &str, key: Option<String>) -> String {
    let key: String = url::form_urlencoded::byte_serialize(key.unwrap_or_default().as_bytes()).collect();
    match &opened.content {
        Some(content) => {
            let address = format!("{}?rlkey={key}&amp;dl=1", escape(path));
            format!("<p>{} bytes</p><p><a href=\"{address}\">Download</a></p>", content.size())
        }
        None if opened.is_folder => "<p>A folder.</p>".to_owned(),
        None => "<p>This file cannot be downloaded.</p>".to_owned(),
    }
}
