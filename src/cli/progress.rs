//! How far the work is: a bar where a person watches, now and then a line where none does.

use std::{
    fmt::Display,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::out;

/// Time between two lines where no terminal shows a bar.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Progress of a number of files. Clones show the same.
#[derive(Debug, Clone)]
pub struct Progress {
    bar: ProgressBar,
    work: Arc<Work>,
}

#[derive(Debug)]
struct Work {
    verb: &'static str,
    files: u64,
    files_done: AtomicU64,
    bytes: u64,
    /// When a line was printed last; `None` prints no lines.
    spoken: Option<Mutex<Instant>>,
}

impl Progress {
    pub fn new(verb: &'static str, files: usize, bytes: u64) -> Progress {
        let spoken = (!out::watched()).then(|| Mutex::new(Instant::now()));
        Progress::with(ProgressDrawTarget::stderr(), spoken, verb, files, bytes)
    }

    /// Shows nothing.
    pub fn none() -> Progress {
        Progress::with(ProgressDrawTarget::hidden(), None, "", 0, 0)
    }

    fn with(
        target: ProgressDrawTarget,
        spoken: Option<Mutex<Instant>>,
        verb: &'static str,
        files: usize,
        bytes: u64,
    ) -> Progress {
        let style = ProgressStyle::with_template(
            "{prefix:>12} [{bar:32}] {percent:>3}% {binary_bytes:>10} of {binary_total_bytes:10} {binary_bytes_per_sec:>13}  {msg}",
        )
        .expect("the template is well formed")
        .progress_chars("=> ");
        let bar = ProgressBar::with_draw_target(Some(bytes), target).with_style(style).with_prefix(verb);
        let work = Work { verb, files: files as u64, files_done: AtomicU64::new(0), bytes, spoken };
        Progress { bar, work: Arc::new(work) }
    }

    /// The part of one file.
    pub fn meter(&self) -> Meter {
        Meter { progress: self.clone(), at: Arc::new(AtomicU64::new(0)) }
    }

    pub fn file_done(&self) {
        let done = self.work.files_done.fetch_add(1, Ordering::Relaxed) + 1;
        if self.work.files > 1 {
            self.bar.set_message(format!("{done} of {} files", self.work.files));
        }
        self.speak();
    }

    /// A line that does not tear the bar.
    pub fn say(&self, text: impl Display) {
        self.bar.suspend(|| out::note(text));
    }

    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }

    fn speak(&self) {
        let Some(spoken) = &self.work.spoken else { return };
        let mut spoken = spoken.lock().unwrap_or_else(PoisonError::into_inner);
        if spoken.elapsed() < SILENCE_MAX {
            return;
        }
        *spoken = Instant::now();
        let Work { verb, files, bytes, .. } = &*self.work;
        let done = self.work.files_done.load(Ordering::Relaxed);
        let (at, all) = (out::size(self.bar.position()), out::size(*bytes));
        out::note(format_args!("  {verb}: {done} of {files} files, {at} of {all}"));
    }
}

/// How far one file is. It may go back: what was lost on the way is sent again.
#[derive(Debug, Clone)]
pub struct Meter {
    progress: Progress,
    at: Arc<AtomicU64>,
}

impl Meter {
    pub fn none() -> Meter {
        Progress::none().meter()
    }

    pub fn at(&self, offset: u64) {
        let before = self.at.swap(offset, Ordering::Relaxed);
        if offset >= before {
            self.progress.bar.inc(offset - before);
        } else {
            self.progress.bar.dec(before - offset);
        }
        self.progress.speak();
    }

    /// Tells that a file goes on where a former run stopped.
    pub fn resumed(&self, name: &str, at: u64, of: u64) {
        if at > 0 {
            let (at, of) = (out::size(at), out::size(of));
            self.progress.say(format_args!("{}: resumed at {at} of {of}", out::plain(name)));
        }
    }

    pub fn done(&self) {
        self.progress.file_done();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_again_is_counted_once() {
        let progress = Progress::none();
        let (one, two) = (progress.meter(), progress.meter());
        one.at(10);
        two.at(5);
        one.at(4);
        one.at(12);
        assert_eq!(progress.bar.position(), 17);
    }
}
