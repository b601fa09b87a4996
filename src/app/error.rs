//! Why the connector did not start, or did not end well, in the words of an operator: which setting, which file, which port.

use std::{fmt, net::SocketAddr};

use crate::{
    config::Config,
    fault::{Fault, Reason},
    seal::KeySource,
};

/// Why the connector did not start, or did not end well.
#[derive(Debug)]
pub enum AppError {
    /// A setting that cannot be used: its key is named.
    Config(String),
    /// An address that cannot be listened on.
    Listen { key: &'static str, address: SocketAddr, source: std::io::Error },
    /// The store or the emulator.
    Start(String),
    /// Streams that had to be cut when the grace ended.
    Cut,
}

impl fmt::Display for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AppError::Config(text) | AppError::Start(text) => f.write_str(text),
            AppError::Listen { key, address, source } => {
                write!(
                    f,
                    "{key}: cannot listen on {address}: {source}; --{} chooses another address",
                    key.replace('_', "-")
                )
            }
            AppError::Cut => f.write_str("streams were still open when drain_grace ended; they were cut"),
        }
    }
}

impl std::error::Error for AppError {}

/// The first error somebody with a real account meets says what to do.
pub(super) fn key_fault(fault: &Fault, config: &Config) -> AppError {
    let remedy = match config.key_source() {
        KeySource::File(file) if !file.exists() => {
            format!("; make it with `dropbox-connector keys generate {}`", file.display())
        }
        _ => String::new(),
    };
    AppError::Config(format!("{}{remedy}", fault.message()))
}

pub(super) fn config_fault(fault: Fault) -> AppError {
    AppError::Config(fault.message().to_owned())
}

/// With the cause: an operator has to know which of disk, path and permission it is.
pub(super) fn store_fault(fault: Fault) -> AppError {
    let cause = std::error::Error::source(&fault).map(|cause| format!(": {cause}")).unwrap_or_default();
    match fault.reason() {
        Reason::InvalidField => AppError::Config(format!("{}{cause}", fault.message())),
        // What may pass is told to callers in words that do not help here.
        _ if fault.retry_delay().is_some() => AppError::Start(format!("store_url: the store cannot be opened{cause}")),
        _ => AppError::Start(format!("store_url: {}{cause}", fault.message())),
    }
}

pub(super) fn start_fault(fault: Fault) -> AppError {
    AppError::Start(fault.to_string())
}
