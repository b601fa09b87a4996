//! JSON made fit for a header: what is not plain ASCII becomes `\uXXXX`, one escape per UTF-16 unit, after
//! serialization. Dropbox reads `Dropbox-API-Arg` and `Dropbox-API-Path-Root` this way and never percent-decodes them.

use http::HeaderValue;
use serde::Serialize;

use super::Root;
use crate::fault::{Fault, Result};

/// JSON text as a header value.
pub(super) fn escape(json: &str) -> String {
    if json.bytes().all(|byte| byte < 0x7f) {
        return json.to_owned();
    }
    let mut text = String::with_capacity(json.len() + json.len() / 2);
    let mut units = [0u16; 2];
    for c in json.chars() {
        if c < '\u{7f}' {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut units) {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                text.push_str("\\u");
                for shift in [12, 8, 4, 0] {
                    text.push(char::from(HEX[usize::from(*unit >> shift) & 0xf]));
                }
            }
        }
    }
    text
}

/// Any serialized JSON as the value of `Dropbox-API-Arg`.
pub(super) fn header_value(json: &str) -> Result<HeaderValue> {
    HeaderValue::from_maybe_shared(bytes::Bytes::from(escape(json)))
        .map_err(|error| Fault::bug("an argument does not fit into a header").source(error))
}

/// The value of `Dropbox-API-Path-Root`.
pub(super) fn path_root(root: &Root) -> Result<HeaderValue> {
    #[derive(Serialize)]
    #[serde(tag = ".tag", rename_all = "snake_case")]
    enum PathRoot<'a> {
        Home,
        Root { root: &'a str },
        NamespaceId { namespace_id: &'a str },
    }
    let value = match root {
        Root::Home => PathRoot::Home,
        Root::Root(root) => PathRoot::Root { root },
        Root::Namespace(namespace_id) => PathRoot::NamespaceId { namespace_id },
    };
    let json = serde_json::to_string(&value).map_err(|error| Fault::bug("a path root is not JSON").source(error))?;
    header_value(&json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_vector_of_dropbox_s_documentation_holds() {
        assert_eq!(
            escape("{\"field\": \"some_üñîcødé_and_\u{7f}\"}"),
            r#"{"field": "some_\u00fc\u00f1\u00eec\u00f8d\u00e9_and_\u007f"}"#
        );
    }

    #[test]
    fn characters_beyond_the_first_plane_become_surrogate_pairs() {
        assert_eq!(escape("\"😀\""), r#""\ud83d\ude00""#);
    }

    #[test]
    fn path_roots_have_the_documented_form() {
        let text = |root| path_root(&root).expect("plain ids fit").to_str().expect("ASCII").to_owned();
        assert_eq!(text(Root::Home), r#"{".tag":"home"}"#);
        assert_eq!(text(Root::Root("7".into())), r#"{".tag":"root","root":"7"}"#);
        assert_eq!(text(Root::Namespace("ü".into())), r#"{".tag":"namespace_id","namespace_id":"\u00fc"}"#);
    }

    proptest! {
        #[test]
        fn every_text_survives_the_header(text in any::<String>()) {
            let json = serde_json::to_string(&text).expect("text is JSON");
            let escaped = escape(&json);
            prop_assert!(escaped.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
            prop_assert!(header_value(&json).is_ok());
            prop_assert_eq!(serde_json::from_str::<String>(&escaped).expect("still JSON"), text);
        }
    }

    #[test]
    fn every_character_there_is_survives_the_header() {
        for c in char::MIN..=char::MAX {
            let json = serde_json::to_string(&c).expect("a character is JSON");
            let escaped = escape(&json);
            assert!(escaped.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{c:?}");
            assert_eq!(serde_json::from_str::<char>(&escaped).expect("still JSON"), c);
        }
    }
}
