//! Time spans in settings: `500ms`, `5s`, `30m`, `1h`.

use std::time::Duration;

use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let span: jiff::SignedDuration =
        text.parse().map_err(|_| D::Error::custom(format!("`{text}` is not a time span like 500ms, 5s, 30m, 1h")))?;
    Duration::try_from(span).map_err(|_| D::Error::custom(format!("`{text}` is negative")))
}

pub(super) fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    let shown = jiff::SignedDuration::try_from(*span).map_err(serde::ser::Error::custom)?;
    serializer.collect_str(&format_args!("{shown:#}"))
}
