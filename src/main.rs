//! The program: allocator, TLS provider, open files, logs; the rest is `cli`.

use std::process::ExitCode;

use dropbox_connector::{cli, config::Config, telemetry};

/// Blocks of megabytes come and go; glibc would give each back to the kernel and fault it in again (PERFORMANCE rule 10).
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What is free goes back to the system within some seconds, by a thread that sees to it: without it the memory of a busy hour stays
/// until somebody asks for more. A block of some pages begins with its first page and not at a random place of it, which is meant
/// for caches: HTTP/2 writes into the first KiB of a connection's 16, and then that is one page and not up to two.
/// `_RJEM_MALLOC_CONF` in the environment overrides it.
#[cfg(not(target_env = "msvc"))]
#[allow(unsafe_code, reason = "the allocator reads its settings from a symbol of this name")]
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_SETTINGS: Option<&'static u8> =
    Some(&b"background_thread:true,dirty_decay_ms:5000,cache_oblivious:false\0"[0]);

fn main() -> ExitCode {
    // A second provider would be a second way to speak TLS; a failure means that one is set already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    #[cfg(unix)]
    raise_open_files();
    cli::run(logs)
}

fn logs(config: &Config) -> Result<(), String> {
    telemetry::install(config.log_format, &config.log_level).map_err(|fault| fault.message().to_owned())
}

/// A connection is a file, and the soft limit of most systems is 1024: take what the hard limit allows.
#[cfg(unix)]
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where it is refused the limit stays as it was.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
