//! Requests that are no gRPC client's. A browser sends some content types wherever the page it shows wants it to, with the
//! user's own certificate and network, and asks nobody; and it says whose page it is in `Origin`, which nobody else sends.
//! Neither reaches a handler, on no port. gRPC-Web is another door (`web.rs`): what comes in there was looked at.

use http::{HeaderValue, Request, Response, StatusCode, header};
use tonic::body::Body;

use super::{guard, status, web::Welcome};
use crate::fault::{Fault, Reason};

/// Content types of gRPC as it is spoken here; parameters may follow.
const SPOKEN: [&str; 2] = ["application/grpc", "application/grpc+proto"];

/// Why it is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stranger {
    OtherLanguage,
    Page,
}

impl Stranger {
    /// None: a gRPC client, or a page that was let in.
    pub(super) fn of<B>(request: &Request<B>) -> Option<Stranger> {
        let headers = request.headers();
        let language = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let language = language.split(';').next().unwrap_or_default().trim();
        if !SPOKEN.iter().any(|spoken| spoken.eq_ignore_ascii_case(language)) {
            return Some(Stranger::OtherLanguage);
        }
        let page = headers.contains_key(header::ORIGIN) && request.extensions().get::<Welcome>().is_none();
        page.then_some(Stranger::Page)
    }

    pub(super) fn fault(self) -> Fault {
        let (cause, text) = match self {
            Stranger::OtherLanguage => (
                "content_type",
                "gRPC is spoken here: the content type must be application/grpc or application/grpc+proto; for gRPC-Web \
                 switch grpc_web on, and call the data port",
            ),
            Stranger::Page => (
                "page",
                "the request carries an Origin, so a web page is behind it, and pages may not call here: switch grpc_web on, \
                 name the origin in grpc_web_origins and call the data port, or have the proxy in between drop the header",
            ),
        };
        Fault::new(Reason::CallerNotAllowed, text).fact("cause", cause)
    }

    /// As the gRPC protocol has it: a status to who speaks gRPC, 415 to who does not.
    pub(super) fn answer(self, fault: &Fault, request_id: &str) -> Response<Body> {
        match self {
            Stranger::Page => guard::told(status::refusal(fault, request_id), request_id),
            Stranger::OtherLanguage => {
                let mut response = Response::new(Body::new(format!("{}\n", fault.message())));
                *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
                response
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_from_what_looks_like_it() {
        let of = |language: Option<&str>| {
            let request = Request::post("/a/b");
            let request = language.into_iter().fold(request, |request, one| request.header("content-type", one));
            Stranger::of(&request.body(()).unwrap())
        };
        for spoken in ["application/grpc", "application/grpc+proto", "Application/gRPC; charset=utf-8"] {
            assert_eq!(of(Some(spoken)), None, "{spoken}");
        }
        let others = ["", "text/plain", "application/grpc-web", "application/grpc-web+proto", "application/grpc+json"];
        for other in others.map(Some).into_iter().chain([Some("application/grpcx"), None]) {
            assert_eq!(of(other), Some(Stranger::OtherLanguage), "{other:?}");
        }
    }

    #[test]
    fn a_page_is_known_by_its_origin_and_let_in_by_the_door_for_pages_alone() {
        let request = Request::post("/a/b").header("content-type", "application/grpc").header("origin", "null");
        let mut request = request.body(()).unwrap();
        assert_eq!(Stranger::of(&request), Some(Stranger::Page));
        request.extensions_mut().insert(Welcome);
        assert_eq!(Stranger::of(&request), None);
    }
}
