//! How the C library copies. glibc 2.36 takes one instruction (`rep movsb`) for more than 4 KiB, which an AMD of family 25 (Zen 3 and
//! Zen 4) does up to fifteen times slower than a loop, depending on where source and target lie (its bug 30994). It
//! can be told not to, but only by the environment of a process that starts: so what moves bytes for long starts once more there, as
//! itself.

use std::{env, fs, os::unix::process::CommandExt as _, process::Command};

const VARIABLE: &str = "GLIBC_TUNABLES";
const SETTING: &str = "glibc.cpu.x86_rep_movsb_threshold";
/// Bytes: nothing is as large.
const NEVER: &str = "1000000000";

/// Replaces this process by itself where that makes copies fast; else, or where it is refused, everything stays as it is.
pub fn settle() {
    let mut arguments = env::args_os();
    let Some(name) = arguments.next() else { return };
    let before = env::var_os(VARIABLE).map_or(Some(String::new()), |set| set.into_string().ok());
    let Some(set) = before.and_then(|before| with_setting(&before)) else { return };
    if is_slow()
        && let Ok(program) = env::current_exe()
    {
        // It returns only if it failed.
        let _ = Command::new(program).arg0(name).args(arguments).env(VARIABLE, set).exec();
    }
}

/// The variable with our setting; `None`: somebody has set it.
fn with_setting(before: &str) -> Option<String> {
    match before {
        "" => Some(format!("{SETTING}={NEVER}")),
        _ if before.contains(SETTING) => None,
        _ => Some(format!("{before}:{SETTING}={NEVER}")),
    }
}

fn is_slow() -> bool {
    fs::read_to_string("/proc/cpuinfo").is_ok_and(|processors| is_family_25(&processors))
}

fn is_family_25(processors: &str) -> bool {
    let value = |name: &str| {
        let (_, value) =
            processors.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name)?;
        Some(value.trim())
    };
    (value("vendor_id"), value("cpu family")) == (Some("AuthenticAMD"), Some("25"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_has_set_stays() {
        let ours = "glibc.cpu.x86_rep_movsb_threshold=1000000000";
        assert_eq!(with_setting("").as_deref(), Some(ours));
        assert_eq!(with_setting("glibc.malloc.check=3"), Some(format!("glibc.malloc.check=3:{ours}")));
        assert_eq!(with_setting("glibc.cpu.x86_rep_movsb_threshold=4096"), None);
        assert_eq!(with_setting(ours), None, "it is not started a third time");
    }

    #[test]
    fn processors_are_known_by_vendor_and_family() {
        let told = |vendor: &str, family: &str| {
            format!("processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: 1\n\nprocessor\t: 1\n")
        };
        assert!(is_family_25(&told("AuthenticAMD", "25")));
        assert!(!is_family_25(&told("AuthenticAMD", "26")) && !is_family_25(&told("GenuineIntel", "25")));
        assert!(!is_family_25(""));
    }
}
