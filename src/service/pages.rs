//! Page tokens: where a listing goes on, sealed to its parameter, its RPC and the arguments it was begun with. The context is
//! sealed, too: a later page without one goes on in it.

use prost::Message;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    call::Call,
    door::{Addressed, Door, Site},
};
use crate::{
    access::Permissions,
    api::v1 as api,
    convert::{self, AskedContext, path::Jail},
    fault::{Fault, Reason, Result},
    limits::ANSWER_BYTES_MAX,
    seal::HandleKind,
};

/// Where a listing goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Dropbox's cursor the page came from; empty for the first page.
    #[serde(rename = "c", default, skip_serializing_if = "String::is_empty")]
    pub cursor: String,
    /// Entries of that page which were given already.
    #[serde(rename = "n", default, skip_serializing_if = "is_zero")]
    pub given: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[derive(Serialize, Deserialize)]
struct Token {
    /// Digest of the arguments.
    a: String,
    /// The folder at Dropbox.
    p: String,
    /// The context of the first page, the message in hexadecimal; empty if it had none.
    #[serde(rename = "x", default, skip_serializing_if = "String::is_empty")]
    context: String,
    #[serde(flatten)]
    place: Place,
}

/// The arguments a token is bound to: the request without what may change between pages.
pub trait Paged: Addressed + Message + Clone {
    const RPC: &'static str;
    fn token(&self) -> &str;
    fn set_context(&mut self, context: api::RequestContext);
    /// Takes out id, context, page size and token.
    fn reduce(&mut self);
}

macro_rules! paged {
    ($($request:ident, $rpc:literal, $token:ident $(, $changing:ident)*;)*) => {
        $(impl Paged for api::$request {
            const RPC: &'static str = $rpc;

            fn token(&self) -> &str {
                &self.$token
            }

            fn set_context(&mut self, context: api::RequestContext) {
                self.context = Some(context);
            }

            fn reduce(&mut self) {
                self.application_parameter_id = Default::default();
                self.context = None;
                self.$token = Default::default();
                $(self.$changing = Default::default();)*
            }
        })*
    };
}

paged! {
    ListFolderRequest, "ListFolder", page_token, page_size;
    WalkFolderRequest, "WalkFolder", continue_token, max_items;
    SearchItemsRequest, "SearchItems", page_token, page_size;
    ListSharedLinksRequest, "ListSharedLinks", page_token, page_size;
}

/// Digest of what a token is bound to; the context is part of it, as it is in force.
fn arguments<Q: Paged>(site: &Site, request: &Q) -> String {
    let mut request = request.clone();
    request.reduce();
    let mut digest = Sha256::new();
    digest.update(request.encode_to_vec());
    digest.update(format!("{:?}", site.context()));
    hex::encode(&digest.finalize()[..12])
}

/// A token for `place` in the listing of `folder` (as Dropbox knows it).
///
/// # Errors
/// `INVALID_FIELD` if cursor and folder together are too long to be sealed.
pub fn seal<Q: Paged>(site: &Site, request: &Q, folder: &str, place: Place) -> Result<String> {
    let asked = request.context().filter(|_| *site.context() != AskedContext::default());
    let context = asked.map(|asked| hex::encode(asked.encode_to_vec())).unwrap_or_default();
    let token = Token { a: arguments(site, request), p: folder.to_owned(), context, place };
    site.keys().seal_handle(HandleKind::Page(Q::RPC), &site.owner(), &token)
}

/// Gives a later page that came without a context the one its token was given in. Whether it is still allowed is looked at
/// when the page is: a token grants nothing.
///
/// # Errors
/// What opening the parameter refuses, and `HANDLE_*`.
pub async fn take_context<Q: Paged>(door: &Door, call: &Call, request: &mut Q) -> Result<()> {
    if request.token().is_empty() || convert::context(request.context())? != AskedContext::default() {
        return Ok(());
    }
    let site = door.open(call, request, Permissions::default()).await?;
    let opened = site.keys().open_handle(HandleKind::Page(Q::RPC), &site.owner(), request.token());
    let token: Token = opened.map_err(|fault| site.told(fault))?;
    if !token.context.is_empty() {
        let context = hex::decode(&token.context).ok();
        let context = context.and_then(|bytes| api::RequestContext::decode(bytes.as_slice()).ok());
        request.set_context(context.ok_or_else(|| Fault::bug("a sealed context could not be read"))?);
    }
    Ok(())
}

/// Where this request goes on, and in which folder; `None` for a first page.
///
/// # Errors
/// `PAGE_TOKEN_MISMATCH` if other arguments came with it, `HANDLE_*`, `PATH_NOT_FOUND` if the folder left the jail.
pub fn open<Q: Paged>(site: &Site, request: &Q) -> Result<Option<(String, Place)>> {
    if request.token().is_empty() {
        return Ok(None);
    }
    let token: Token = site.keys().open_handle(HandleKind::Page(Q::RPC), &site.owner(), request.token())?;
    if token.a != arguments(site, request) {
        let text = "the page token was given for other arguments; repeat them, or start without a token";
        return Err(Fault::new(Reason::PageTokenMismatch, text));
    }
    if !stays_inside(site.jail(), Q::RPC, &token.p) {
        return Err(Jail::not_found(""));
    }
    Ok(Some((token.p, token.place)))
}

/// Whether a listing may go on in this folder. The jail may be newer than the token: an id or a namespace does not say
/// where it lies. Links of a whole account are given one by one through the jail.
fn stays_inside(jail: &Jail, rpc: &str, folder: &str) -> bool {
    let whole = folder.is_empty() && rpc == api::ListSharedLinksRequest::RPC;
    whole || jail.holds(Some(folder))
}

/// Tag and length before an entry.
const FRAMING_BYTES: usize = 8;

/// Takes entries of one Dropbox page for an answer until it would be too large.
#[derive(Debug)]
pub struct Answer<T> {
    pub taken: Vec<T>,
    bytes: usize,
    bytes_max: usize,
    items_max: usize,
}

impl<T: Message> Answer<T> {
    pub fn new() -> Self {
        Self::bounded(usize::MAX, ANSWER_BYTES_MAX)
    }

    pub fn bounded(items_max: usize, bytes_max: usize) -> Self {
        // Room for the token behind the items.
        let bytes_max = bytes_max - crate::limits::HANDLE_BYTES_MAX - 64;
        Self { taken: Vec::new(), bytes: 0, bytes_max, items_max }
    }

    /// Whether the entry fits. The first always does: an answer is never empty for want of room.
    pub fn has_room(&self, entry: &T) -> bool {
        let bytes = entry.encoded_len() + FRAMING_BYTES;
        self.taken.is_empty() || (self.taken.len() < self.items_max && self.bytes + bytes <= self.bytes_max)
    }

    pub fn put(&mut self, entry: T) {
        self.bytes += entry.encoded_len() + FRAMING_BYTES;
        self.taken.push(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_cut_before_it_is_too_large_and_never_empty() {
        let item = |bytes: usize| api::Item { name: "x".repeat(bytes), ..Default::default() };
        let mut answer = Answer::new();
        while answer.has_room(&item(1000)) {
            answer.put(item(1000));
        }
        let encoded: usize = answer.taken.iter().map(|item| item.encoded_len() + 4).sum();
        assert!(encoded < ANSWER_BYTES_MAX && encoded > ANSWER_BYTES_MAX - 20_000, "{encoded}");
        let mut answer = Answer::new();
        assert!(answer.has_room(&item(ANSWER_BYTES_MAX)));
        answer.put(item(ANSWER_BYTES_MAX));
        assert!(!answer.has_room(&item(1)));
        let mut answer = Answer::bounded(1, ANSWER_BYTES_MAX);
        answer.put(item(1));
        assert!(!answer.has_room(&item(1)));
    }

    #[test]
    fn a_token_from_before_the_jail_leads_nowhere_outside_it() {
        let jail = Jail::new("/in").unwrap();
        for folder in ["id:abcdefgh", "ns:7/out", "/out", ""] {
            assert!(!stays_inside(&jail, "ListFolder", folder), "{folder}");
            assert!(stays_inside(&Jail::new("").unwrap(), "ListFolder", folder), "{folder}");
        }
        assert!(stays_inside(&jail, "ListFolder", "/in/deep"));
        assert!(stays_inside(&jail, "ListSharedLinks", ""), "each link is looked at");
    }

    #[test]
    fn a_place_is_short_when_sealed() {
        let text = serde_json::to_string(&Place { cursor: "AAA".into(), given: 0 }).unwrap();
        assert_eq!(text, r#"{"c":"AAA"}"#);
        assert_eq!(serde_json::from_str::<Place>("{}").unwrap(), Place::default());
    }
}
