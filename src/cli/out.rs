//! What is written to the terminal: results to standard output, everything about them to standard error. A closed pipe
//! ends the program quietly (`ls | head`).

use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
};

/// A line of the result.
pub fn line(text: impl Display) {
    written(writeln!(io::stdout().lock(), "{text}"));
}

/// A line about the work.
pub fn note(text: impl Display) {
    written(writeln!(io::stderr().lock(), "{text}"));
}

/// Bytes of the result.
pub fn bytes(data: &[u8]) {
    let mut out = io::stdout().lock();
    written(out.write_all(data).and_then(|()| out.flush()));
}

/// True if a person watches standard error.
pub fn watched() -> bool {
    io::stderr().is_terminal()
}

fn written(result: io::Result<()>) {
    if result.is_err() {
        // Nobody reads any more: what is left to say has no reader either.
        std::process::exit(1);
    }
}

/// `12.3 MiB`
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `1 file`, `2 files`
pub fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// Text from elsewhere, fit for a terminal: control characters are shown, not obeyed.
pub fn plain(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_the_unit_that_fits() {
        assert_eq!([size(0), size(1023), size(1024), size(150 << 20)], ["0 B", "1023 B", "1.0 KiB", "150.0 MiB"]);
        assert_eq!(size(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\rc é"), "a\\u{1b}[2Jb\\rc é");
    }
}
