//! How a command ends: the exit codes, and failures told with reason and remedy.

use std::{fmt, io, path::Path, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Exit codes; the table of `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Conflict = 4,
    Denied = 5,
    Unavailable = 6,
    Damaged = 7,
    Config = 64,
    Interrupted = 130,
}

/// The table for `--help`.
pub const CODES: &str = "\
Exit codes:
  0    done
  1    failed
  2    wrong usage, or an argument the server refuses
  3    not found
  4    conflict: something is there already, or has changed
  5    denied: not authenticated, or not permitted
  6    unavailable: server or Dropbox cannot be reached, or is busy; try again later
  7    damaged: the bytes are not what they should be
  64   configuration that cannot be used
  130  interrupted";

impl Exit {
    fn of(code: Code) -> Exit {
        match code {
            Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
            Code::NotFound => Exit::NotFound,
            Code::AlreadyExists | Code::Aborted => Exit::Conflict,
            Code::PermissionDenied | Code::Unauthenticated => Exit::Denied,
            Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => Exit::Unavailable,
            Code::DataLoss => Exit::Damaged,
            _ => Exit::Failed,
        }
    }
}

/// Why a command failed.
#[derive(Debug, Clone)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
    /// Name of the `ErrorReason`, where the server gave one.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
    /// What is wrong one by one, where it is more than one thing.
    pub lines: Vec<String>,
}

pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into(), reason: String::new(), remedy: String::new(), lines: Vec::new() }
    }

    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, message)
    }

    pub fn remedy(mut self, text: impl Into<String>) -> Failure {
        self.remedy = text.into();
        self
    }

    /// Nothing lies at this path of Dropbox: the same words whoever finds it.
    pub fn missing(path: &str) -> Failure {
        let mut failure = Failure::new(Exit::NotFound, format!("{path}: there is nothing at this path"));
        failure.reason = "PATH_NOT_FOUND".into();
        failure.remedy("`ls` shows what there is")
    }

    /// The same failure with a line for each of these.
    pub fn listing(mut self, lines: impl IntoIterator<Item = impl fmt::Display>) -> Failure {
        self.lines.extend(lines.into_iter().map(|line| line.to_string()));
        self
    }

    /// What could not be done with a local file.
    pub fn local(path: &Path, error: &io::Error) -> Failure {
        let exit = match error.kind() {
            io::ErrorKind::NotFound => Exit::NotFound,
            io::ErrorKind::PermissionDenied => Exit::Denied,
            _ => Exit::Failed,
        };
        Failure::new(exit, format!("{}: {error}", path.display()))
    }

    /// The same failure, about this.
    pub fn about(mut self, what: impl fmt::Display) -> Failure {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        let details = status.get_error_details();
        let mut message = status.message().to_owned();
        if message.is_empty() {
            message = format!("{:?}", status.code());
        }
        for violation in details.bad_request().iter().flat_map(|request| &request.field_violations) {
            if !message.contains(&violation.description) {
                message.push_str(&format!("; {}: {}", violation.field, violation.description));
            }
        }
        // Made by the transport: the server closed on us, or is none. What it makes of a connection that was up for a moment
        // depends on how far that had come: one whose client certificate is missing is refused behind the handshake (TLS 1.3).
        let broke = std::error::Error::source(&status).is_some() && status.code() == Code::Internal;
        let closed = broke || matches!(status.code(), Code::Cancelled | Code::Unknown);
        let unsaid_end = details.error_info().is_none() && closed;
        let exit = if unsaid_end { Exit::Unavailable } else { Exit::of(status.code()) };
        // The server's words about Dropbox's answer name no path; what it is about stands beside them.
        if let Some(about) = details.resource_info().filter(|about| about.resource_type == "dropbox.item")
            && status.code() == Code::NotFound
            && !about.resource_name.is_empty()
            && !message.contains(&about.resource_name)
        {
            message = format!("{}: {message}", about.resource_name);
        }
        let (reason, remedy) = match details.error_info() {
            Some(told) => {
                // What the server's remedy says of the API, said of flags; what is one command's own the command says.
                let remedy = match told.reason == "CALLER_UNAUTHENTICATED" {
                    true => "give --token, or DROPBOX_CONNECTOR_TOKEN, or --cert-file and --key-file",
                    false => told.metadata.get("remedy").map_or("", String::as_str),
                };
                (told.reason.clone(), remedy.to_owned())
            }
            None => (String::new(), unsaid(if unsaid_end { Code::Unknown } else { status.code() }).to_owned()),
        };
        if let Some(request) = details.request_info() {
            message.push_str(&format!(" (request {})", request.request_id));
        }
        Failure { exit, message, reason, remedy, lines: Vec::new() }
    }
}

/// What to say where no connector answered.
fn unsaid(code: Code) -> &'static str {
    match code {
        Code::Unavailable => "see that `dropbox-connector serve` runs and that --server names its data address",
        Code::Cancelled | Code::Unknown => {
            "the server closed the connection; one behind TLS may want a certificate: --cert-file and --key-file"
        }
        Code::Unimplemented => "the server has no such call: see that --server names the data address of a connector",
        _ => "",
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::out::plain(&self.message))?;
        if !self.reason.is_empty() {
            write!(f, " [{}]", self.reason)?;
        }
        for line in &self.lines {
            write!(f, "\n  {}", super::out::plain(line))?;
        }
        if !self.remedy.is_empty() {
            write!(f, "\n  → {}", self.remedy)?;
        }
        Ok(())
    }
}

/// How long to wait before the same request may go again; `None` if it must not. `repeatable`: the call may be made
/// twice, so a transport that broke under it is no reason to give up.
pub fn repeat_after(status: &Status, repeatable: bool, attempt: u32) -> Option<Duration> {
    let details = status.get_error_details();
    if let Some(retry) = details.retry_info() {
        return Some(retry.retry_delay.unwrap_or_default().max(backoff(attempt) / 4));
    }
    let spoken = details.error_info().is_some();
    let transport = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled);
    (!spoken && repeatable && transport).then(|| backoff(attempt))
}

/// 250 ms, doubled each time, at most 8 s, with jitter so that parallel transfers do not return in step.
pub fn backoff(attempt: u32) -> Duration {
    let full = Duration::from_millis(250) * 2u32.pow(attempt.min(5));
    full.mul_f64(rand::Rng::random_range(&mut rand::rng(), 0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    fn told(code: Code, reason: &str, retry: Option<Duration>) -> Status {
        let mut details =
            ErrorDetails::with_error_info(reason, "dropboxconnector", [("remedy".to_owned(), "rest".to_owned())]);
        if retry.is_some() {
            details.set_retry_info(retry);
        }
        Status::with_error_details(code, "no luck", details)
    }

    #[test]
    fn a_failure_tells_reason_and_remedy() {
        let failure = Failure::from(told(Code::NotFound, "PATH_NOT_FOUND", None));
        assert_eq!(failure.exit, Exit::NotFound);
        assert_eq!(failure.to_string(), "no luck [PATH_NOT_FOUND]\n  → rest");
    }

    #[test]
    fn a_connection_that_breaks_is_unavailable_however_far_it_had_come() {
        let broken = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        for code in [Code::Cancelled, Code::Unknown, Code::Internal, Code::Unavailable] {
            let mut status = Status::new(code, "transport error");
            status.set_source(std::sync::Arc::new(broken()));
            let failure = Failure::from(status);
            assert_eq!(failure.exit, Exit::Unavailable, "{code:?}");
            assert!(code == Code::Unavailable || failure.remedy.contains("--cert-file"), "{code:?}");
        }
        // What a server says itself is not its connection's doing.
        assert_eq!(Failure::from(Status::internal("a bug")).exit, Exit::Failed);
    }

    #[test]
    fn every_code_has_an_exit_code_of_the_table() {
        for code in 1..=16 {
            let exit = Exit::of(Code::from(code));
            assert!(CODES.contains(&format!("\n  {} ", exit as u8)), "{exit:?}");
        }
    }

    #[test]
    fn what_the_server_refused_goes_again_only_if_it_says_so() {
        let refused = told(Code::Unavailable, "SERVER_DRAINING", None);
        assert_eq!(repeat_after(&refused, true, 0), None);
        let busy = told(Code::ResourceExhausted, "CONNECTOR_BUSY", Some(Duration::from_secs(3)));
        assert_eq!(repeat_after(&busy, false, 0), Some(Duration::from_secs(3)));
    }

    #[test]
    fn a_broken_transport_repeats_only_what_may_be_made_twice() {
        let broken = Status::new(Code::Unknown, "transport error");
        assert!(repeat_after(&broken, true, 0).is_some());
        assert!(repeat_after(&broken, false, 0).is_none());
        assert!(repeat_after(&Status::new(Code::Unauthenticated, ""), true, 0).is_none());
    }
}
