//! The store's URL: what it may be, and how it may be shown.

use url::Url;

pub(super) fn is_known(url: &str) -> bool {
    ["sqlite:", "postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme))
}

/// Without its password.
pub(super) fn without_password(url: &str) -> String {
    const HIDDEN: &str = "(redacted)";
    if url.starts_with("sqlite:") {
        return url.to_owned();
    }
    let Ok(mut shown) = Url::parse(url) else { return HIDDEN.to_owned() };
    if shown.password().is_some() && shown.set_password(Some("redacted")).is_err() {
        return HIDDEN.to_owned();
    }
    // libpq takes it as a parameter as well.
    if shown.query_pairs().any(|(key, _)| key == "password") {
        let kept: Vec<(String, String)> =
            shown.query_pairs().into_owned().filter(|(key, _)| key != "password").collect();
        shown.query_pairs_mut().clear().extend_pairs(kept).append_pair("password", "redacted");
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Overrides};

    #[test]
    fn the_password_of_the_store_is_not_printed() {
        for url in ["postgres://me:hunter2@db/x?sslmode=require", "postgres://me@db/x?password=hunter2&sslmode=require"]
        {
            let overrides = Overrides { store_url: Some(url.into()), ..Overrides::default() };
            let printed = Config::load(&overrides).expect("valid").print();
            assert!(!printed.contains("hunter2") && printed.contains("sslmode=require"), "{printed}");
            assert!(printed.contains("postgres://me") && printed.contains("@db/x"), "{printed}");
        }
        assert_eq!(without_password("sqlite://a b.db"), "sqlite://a b.db");
        assert_eq!(without_password("postgres://a:b@[x"), "(redacted)");
    }
}
