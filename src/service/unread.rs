//! Requests of which no message could be made. The codec refuses them before a handler hears of them, and says so in words
//! alone; here they get a reason, as every refusal has.

use tonic::{Code, Status};

use crate::{
    api::TOO_MANY_ELEMENTS,
    fault::{Fault, Reason},
    limits::{ADMIN_MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX},
};

/// Why no message could be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    TooLarge,
    /// Elements of repeated fields.
    TooMany,
    /// Not decoded, or not decompressed.
    Malformed,
}

impl Unread {
    /// What the codec meant. `None`: the caller's stream broke off.
    pub(super) fn of(status: &Status) -> Option<Unread> {
        let text = status.message();
        // Its codes tell how a connection or stream ended.
        if text.starts_with("h2 protocol error") {
            return None;
        }
        match status.code() {
            // tonic judges by the length prefix; other stacks call it RESOURCE_EXHAUSTED.
            Code::OutOfRange | Code::ResourceExhausted => Some(Unread::TooLarge),
            Code::InvalidArgument if text.starts_with(TOO_MANY_ELEMENTS) => Some(Unread::TooMany),
            Code::Internal | Code::InvalidArgument
                if ["decode", "decompress"].iter().any(|what| text.contains(what)) =>
            {
                Some(Unread::Malformed)
            }
            _ => None,
        }
    }

    /// The refusal of a call whose only message this is.
    pub(super) fn fault(self, status: &Status, admin: bool) -> Fault {
        let most = if admin { ADMIN_MESSAGE_BYTES_MAX } else { MESSAGE_BYTES_MAX };
        match self {
            Unread::TooLarge => {
                let text = format!("the message is too large: at most {most} bytes, decompressed");
                Fault::field("request", "TOO_LARGE", text).fact("limitBytes", most)
            }
            Unread::TooMany => Fault::field("request", "OUT_OF_RANGE", status.message()),
            Unread::Malformed => Fault::field("request", "MALFORMED", "the message is none of this RPC"),
        }
    }
}

/// The refusal instead of an answer that the codec gave to a call with one message; all others have details.
pub(super) fn refused(headers: &http::HeaderMap, admin: bool) -> Option<Fault> {
    let status = Status::from_header_map(headers)?;
    if status.code() == Code::Ok || !status.details().is_empty() {
        return None;
    }
    let cut_short = ["Missing request message", "Unexpected EOF"].iter().any(|text| status.message().starts_with(text));
    match Unread::of(&status) {
        Some(unread) => Some(unread.fault(&status, admin)),
        None if cut_short => {
            let text = "the request ended before its message did";
            Some(Fault::new(Reason::Cancelled, text).fact("sent", false))
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: &Status) -> Option<Reason> {
        let mut headers = http::HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        refused(&headers, false).map(|fault| fault.reason())
    }

    #[test]
    fn only_what_the_codec_refuses_gets_a_reason() {
        let too_many = Status::invalid_argument(format!("{TOO_MANY_ELEMENTS}: at most 3"));
        for (status, reason) in [
            (Status::out_of_range("decoded message length too large"), Some(Reason::InvalidField)),
            (too_many, Some(Reason::InvalidField)),
            (Status::internal("failed to decode Protobuf message: malformed"), Some(Reason::InvalidField)),
            (Status::internal("Missing request message."), Some(Reason::Cancelled)),
            (Status::internal("Unexpected EOF decoding stream."), Some(Reason::Cancelled)),
            (Status::internal("h2 protocol error: http2 error"), None),
            (Status::resource_exhausted("h2 protocol error: http2 error"), None),
            (Status::unimplemented("Content is compressed with `br` which isn't supported"), None),
            (Status::with_details(Code::Internal, "failed to decode", vec![1].into()), None),
            (Status::ok(""), None),
        ] {
            assert_eq!(told(&status), reason, "{status:?}");
        }
    }
}
