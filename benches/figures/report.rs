//! The table of a run.

use std::{fmt::Write as _, fs, process::Command, time::SystemTime};

use dropbox_connector::clock::dropbox_time;

use crate::Outcome;

/// Median, lowest and highest of several measurements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
    pub count: usize,
}

impl Spread {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Spread {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len().is_multiple_of(2) { (sorted[middle - 1] + sorted[middle]) / 2.0 } else { sorted[middle] };
        Spread { median, low: sorted[0], high: sorted[sorted.len() - 1], count: sorted.len() }
    }

    /// `1.23 (1.20–1.31, n=5)`
    pub fn show(&self, digits: usize, unit: &str) -> String {
        let Spread { median, low, high, count } = self;
        format!("{median:.digits$}{unit} ({low:.digits$}–{high:.digits$}, n={count})")
    }
}

/// One row. `holds` is `None` for what only explains another row.
#[derive(Debug, Clone)]
pub struct Figure {
    pub name: &'static str,
    pub target: &'static str,
    pub measured: String,
    pub holds: Option<bool>,
}

#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<String>,
}

impl Report {
    pub fn add(&mut self, figure: Figure) {
        self.take(&row(&figure));
    }

    /// A row as another run of this program wrote it.
    pub fn take(&mut self, row: &str) {
        crate::say(row);
        self.rows.push(row.to_owned());
    }

    /// A part that could not be measured, or not to its end.
    pub fn lacks(&mut self, part: &str, error: &str) {
        let error = error.replace('|', "/").replace('\n', " ");
        self.take(&format!("| part `{part}` | – | not measured to its end: {error} | **no** |"));
    }

    /// Writes `benches/RESULTS.md`.
    pub fn write(&self, started: SystemTime, command: &str) -> Outcome<()> {
        let mut text = String::from("# Figures of the last run\n\n");
        writeln!(text, "Written by `make bench`; `benches/README.md` says what is inside each figure.\n")?;
        writeln!(text, "- machine: {}", machine())?;
        writeln!(text, "- date: {}", dropbox_time(started))?;
        writeln!(text, "- command: `{command}`")?;
        writeln!(text, "- commit: {}\n", commit())?;
        writeln!(text, "| figure | target | measured: median (lowest–highest) | holds |\n|---|---|---|---|")?;
        for row in &self.rows {
            writeln!(text, "{row}")?;
        }
        Ok(fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/RESULTS.md"), text)?)
    }
}

fn row(figure: &Figure) -> String {
    let holds = match figure.holds {
        Some(true) => "yes",
        Some(false) => "**no**",
        None => "–",
    };
    format!("| {} | {} | {} | {holds} |", figure.name, figure.target, figure.measured)
}

fn machine() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
        line.and_then(|line| line.split_once(':')).map_or("?", |(_, value)| value.trim())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{} (family {}, model {}), {cores} cores, loopback",
        field("model name"),
        field("cpu family"),
        field("model")
    )
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(head) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".to_owned() };
    match git(&["status", "--porcelain", "--", "src", "proto", "Cargo.toml", "Cargo.lock"]) {
        Some(changes) if changes.is_empty() => head,
        _ => format!("{head} with changes"),
    }
}
