//! A short-lived access token as it lies in memory. Dropbox's have some 1,300 letters of 64, and every account that was called
//! has one: six bits for a letter save a quarter of what ten thousand accounts cost.

use std::{fmt, sync::Arc, time::SystemTime};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::future::BoxFuture;
use zeroize::Zeroizing;

use crate::{fault::Result, secret::Secret};

/// A short-lived access token.
#[derive(Debug, Clone)]
pub struct Bearer {
    pub token: Token,
    /// `None`: Dropbox did not say, or the token does not expire.
    pub expires_at: Option<SystemTime>,
    /// Grows with each renewal, so that a late rejection of an old token renews nothing.
    pub generation: u64,
}

/// The letters of an access token, packed.
#[derive(Clone)]
pub struct Token {
    /// What is not packed, then what is.
    bytes: Secret<Box<[u8]>>,
    /// Bytes that are not packed: up to the last dot, or all of a token that has other letters behind it.
    head: u32,
    /// Letters that are.
    letters: u32,
}

/// Where the bearer comes from. The transport asks and never knows about the store.
pub trait TokenSource: Send + Sync {
    /// The bearer at hand, without waiting. `None` when there is none or it is about to end.
    fn current(&self) -> Option<Arc<Bearer>>;

    /// Which grant they are of: the parameter's uid, and the grant's number there.
    fn grant(&self) -> (&str, i64);

    /// A new bearer. Callers share one refresh; `rejected` is the one Dropbox refused, if any.
    ///
    /// # Errors
    /// `REAUTHORIZATION_REQUIRED` when the grant is gone; what the token endpoint failed with otherwise.
    fn renew<'a>(&'a self, rejected: Option<&'a Bearer>) -> BoxFuture<'a, Result<Arc<Bearer>>>;
}

impl Token {
    fn new(text: &str) -> Token {
        let (head, tail) = text.split_at(text.rfind('.').map_or(0, |dot| dot + 1));
        let count = |text: &str| u32::try_from(text.len()).expect("an access token has less than 4 GiB");
        // Four letters are three bytes, so it is made up to a multiple of four.
        let mut full = Zeroizing::new(String::with_capacity(tail.len() + 3));
        full.push_str(tail);
        while !full.len().is_multiple_of(4) {
            full.push('A');
        }
        let mut bytes = vec![0; head.len() + full.len() / 4 * 3];
        bytes[..head.len()].copy_from_slice(head.as_bytes());
        let packed = URL_SAFE_NO_PAD.decode_slice(full.as_bytes(), &mut bytes[head.len()..]);
        let kept = Secret::new(bytes.into_boxed_slice());
        match packed {
            Ok(_) => Token { bytes: kept, head: count(head), letters: count(tail) },
            Err(_) => Token { bytes: Secret::new(text.as_bytes().into()), head: count(text), letters: 0 },
        }
    }

    /// Writes it in clear behind `text`: for the header writer.
    pub(super) fn append_to(&self, text: &mut String) {
        let (head, packed) = self.bytes.reveal().split_at(self.head as usize);
        text.reserve_exact(head.len() + packed.len().div_ceil(3) * 4);
        // It was split behind a dot, or not at all.
        text.push_str(str::from_utf8(head).unwrap_or_default());
        let length = text.len() + self.letters as usize;
        URL_SAFE_NO_PAD.encode_string(packed, text);
        text.truncate(length);
    }

    /// Is it this one?
    pub fn is(&self, text: &Secret<String>) -> bool {
        let mut mine = Zeroizing::new(String::new());
        self.append_to(&mut mine);
        *mine == *text.reveal()
    }
}

impl From<Secret<String>> for Token {
    fn from(text: Secret<String>) -> Token {
        Token::new(text.reveal())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(token: &Token) -> String {
        let mut text = "Bearer ".to_owned();
        token.append_to(&mut text);
        text.split_off(7)
    }

    #[test]
    fn a_token_of_dropboxs_takes_three_quarters_of_its_letters() {
        let text = format!("sl.u.{}", "AFz_-09bC".repeat(144));
        let token = Token::new(&text);
        assert_eq!(told(&token), text);
        assert!(token.is(&text.clone().into()) && !token.is(&text[1..].to_owned().into()));
        assert_eq!(token.bytes.reveal().len(), 5 + 972);
        assert!(!format!("{token:?}").contains("sl"));
    }

    proptest! {
        #[test]
        fn whatever_its_letters_are_it_is_told_as_it_was(
            text in prop_oneof!["[A-Za-z0-9_-]{0,70}", "sl\\.[A-Za-z0-9_-]{0,70}", "[A-Za-z0-9._~+/=-]{0,70}", "\\PC{0,20}"]
        ) {
            prop_assert_eq!(told(&Token::new(&text)), text);
        }
    }
}
