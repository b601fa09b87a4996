//! What became of many files: each failure told as it happens, one exit code at the end.

use super::{
    exit::{Exit, Failure, Result},
    out,
};

/// Failures told one by one; the rest is counted.
const TOLD_MAX: usize = 50;

#[derive(Debug, Default)]
pub struct Tally {
    pub done: usize,
    pub bytes: u64,
    /// Were as wanted already.
    pub same: usize,
    failed: Vec<Exit>,
}

impl Tally {
    /// Counts a failure and gives the line to print, if it is to be printed.
    pub fn fail(&mut self, failure: Failure) -> Option<String> {
        self.failed.push(failure.exit);
        (self.failed.len() <= TOLD_MAX).then(|| format!("error: {failure}"))
    }

    /// # Errors
    /// There were failures. Their exit code is common, or 1. The message is empty: each has been told.
    pub fn finish(self, verb: &str) -> Result<()> {
        let Some(first) = self.failed.first() else { return Ok(()) };
        let exit = if self.failed.iter().all(|exit| exit == first) { *first } else { Exit::Failed };
        let all = self.done + self.same + self.failed.len();
        if all == 1 {
            return Err(Failure::new(exit, ""));
        }
        Err(Failure::new(exit, format!("{} of {} not {verb}", self.failed.len(), out::count(all, "file"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_that_of_the_failures_if_they_agree() {
        let ended = |exits: &[Exit]| {
            let mut tally = Tally { done: 1, ..Tally::default() };
            for exit in exits {
                assert!(tally.fail(Failure::new(*exit, "x")).is_some());
            }
            tally.finish("sent").map_err(|failure| failure.exit)
        };
        assert_eq!(ended(&[]), Ok(()));
        assert_eq!(ended(&[Exit::Conflict, Exit::Conflict]), Err(Exit::Conflict));
        assert_eq!(ended(&[Exit::Conflict, Exit::NotFound]), Err(Exit::Failed));
    }
}
