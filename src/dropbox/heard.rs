//! What Dropbox called its answers to one RPC. Where a single answer made ours, its name is told along.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The answers of one RPC's calls.
#[derive(Debug, Default)]
pub struct Heard(Mutex<Answers>);

#[derive(Debug, Default)]
struct Answers {
    calls: u32,
    last: Option<String>,
}

impl Heard {
    pub(super) fn note(&self, request_id: Option<&str>) {
        let mut answers = self.answers();
        answers.calls = answers.calls.saturating_add(1);
        answers.last = request_id.map(str::to_owned);
    }

    /// `X-Dropbox-Request-Id` of the answer, if there was exactly one call.
    pub fn only(&self) -> Option<String> {
        let answers = self.answers();
        answers.last.clone().filter(|_| answers.calls == 1)
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_told_only_where_one_answer_made_ours() {
        let heard = Heard::default();
        assert_eq!(heard.only(), None);
        heard.note(Some("a"));
        assert_eq!(heard.only().as_deref(), Some("a"));
        heard.note(Some("b"));
        assert_eq!(heard.only(), None);
    }
}
