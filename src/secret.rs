//! `Secret<T>`: a value that cannot be printed, serialised or compared by accident, and is zeroed when dropped.
//! Only `store`, `credentials`, the transport's header writer and `dropbox/bearer.rs`, which packs what that writes, may call
//! [`Secret::reveal`].

use std::fmt;

use zeroize::Zeroize;

/// A secret. It has no `Display`, no `Serialize`; its `Debug` shows nothing of the value.
#[derive(Clone)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value in clear, at the one place that must write it.
    pub fn reveal(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl From<String> for Secret<String> {
    fn from(value: String) -> Self {
        Self(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_the_value() {
        let secret = Secret::new(String::from("sl.very-secret"));
        assert!(!format!("{secret:?} {secret:#?}").contains("very"));
        assert_eq!(secret.reveal(), "sl.very-secret");
    }
}
