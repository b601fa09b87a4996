//! Dropbox's clock, read from the `Date` of any answer: a wrong clock here makes bearers look fresh that are not.

use std::time::{Duration, SystemTime};

use super::{Host, Transport};
use crate::fault::{Fault, Reason, Result};

const DATE_TIMEOUT: Duration = Duration::from_secs(10);

impl Transport {
    /// What time it is at Dropbox, to the second. Sends one request without credentials.
    ///
    /// # Errors
    /// `DROPBOX_UNAVAILABLE`; `DROPBOX_PROTOCOL` for an answer without a date.
    pub async fn server_time(&self) -> Result<SystemTime> {
        let unavailable = |text: &str| Fault::new(Reason::DropboxUnavailable, text).retry_after(Duration::from_secs(1));
        let answer =
            tokio::time::timeout(DATE_TIMEOUT, self.client(Host::Api)?.head(self.endpoints.api.clone()).send())
                .await
                .map_err(|_| unavailable("Dropbox did not answer in time"))?
                .map_err(|error| unavailable("the connection to Dropbox failed").source(error.without_url()))?;
        let date = answer.headers().get("date").and_then(|value| value.to_str().ok());
        date.and_then(|text| jiff::fmt::rfc2822::parse(text).ok())
            .map(|date| SystemTime::from(date.timestamp()))
            .ok_or_else(|| Fault::new(Reason::DropboxProtocol, "Dropbox's answer carries no date"))
    }
}
