//! Where the text of a key ring comes from: a file, a variable of the environment, or what a command prints. A command is
//! run without a shell, has a time limit, and nothing it prints is ever shown.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

use crate::{
    fault::{Fault, Result},
    limits::KEY_TEXT_BYTES_MAX,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    File(PathBuf),
    /// The name of a variable. What it holds cannot change while the process runs.
    Environment(String),
    /// A program and its arguments.
    Command {
        words: Vec<String>,
        timeout: Duration,
    },
}

impl KeySource {
    /// The setting that named it.
    pub fn key(&self) -> &'static str {
        match self {
            KeySource::File(_) => "sealing_key_file",
            KeySource::Environment(_) => "sealing_key_env",
            KeySource::Command { .. } => "sealing_key_command",
        }
    }

    /// The mode of a key file that everybody on the machine may read or write.
    pub fn open_to_all(&self) -> Option<u32> {
        #[cfg(unix)]
        if let KeySource::File(path) = self {
            let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(path).ok()?) & 0o777;
            return (mode & 0o007 != 0).then_some(mode);
        }
        None
    }

    pub(super) async fn read(&self) -> Result<Zeroizing<String>> {
        match self {
            KeySource::File(path) => read_file(path),
            KeySource::Environment(name) => match std::env::var(name) {
                Ok(text) => Ok(Zeroizing::new(text)),
                Err(std::env::VarError::NotPresent) => Err(self.bad(format!("the variable {name} is not set"))),
                Err(std::env::VarError::NotUnicode(_)) => Err(self.bad(format!("the variable {name} is not text"))),
            },
            KeySource::Command { words, timeout } => {
                let read = tokio::time::timeout(*timeout, self.output(words)).await;
                read.unwrap_or_else(|_| Err(self.bad(format!("{} did not end within {timeout:?}", program(words)))))
            }
        }
    }

    async fn output(&self, words: &[String]) -> Result<Zeroizing<String>> {
        let name = program(words);
        let wrong = |error: std::io::Error| self.bad(format!("cannot run {name}: {error}"));
        let mut child = tokio::process::Command::new(name)
            .args(words.get(1..).unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // What it says there may quote a secret.
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(wrong)?;
        let out = child.stdout.take().ok_or_else(|| Fault::bug("the output of a command was not taken"))?;
        // All of it is given at once: a buffer that grew would leave copies behind.
        let mut text = Zeroizing::new(Vec::with_capacity(KEY_TEXT_BYTES_MAX + 1));
        out.take(KEY_TEXT_BYTES_MAX as u64 + 1).read_to_end(&mut text).await.map_err(wrong)?;
        if text.len() > KEY_TEXT_BYTES_MAX {
            return Err(self.bad(format!("{name} printed more than {KEY_TEXT_BYTES_MAX} bytes")));
        }
        let status = child.wait().await.map_err(wrong)?;
        if !status.success() {
            return Err(self.bad(format!("{name} failed ({status}); run it by hand to see why")));
        }
        let text = std::str::from_utf8(&text).map_err(|_| self.bad(format!("{name} did not print text")))?;
        Ok(Zeroizing::new(text.to_owned()))
    }

    pub(super) fn bad(&self, text: String) -> Fault {
        Fault::field(self.key(), "MALFORMED", text)
    }
}

pub(super) fn read_file(path: &Path) -> Result<Zeroizing<String>> {
    std::fs::read_to_string(path).map(Zeroizing::new).map_err(|error| {
        Fault::field("sealing_key_file", "MALFORMED", format!("cannot read {}: {error}", path.display()))
    })
}

fn program(words: &[String]) -> &str {
    words.first().map_or("", String::as_str)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::seal::KeyRing;

    fn command(words: &[&str], timeout: Duration) -> KeySource {
        KeySource::Command { words: words.iter().map(|word| (*word).to_owned()).collect(), timeout }
    }

    #[tokio::test]
    async fn keys_come_from_a_command_without_a_shell() {
        let line = KeyRing::new_line("k1");
        let source = command(&["printf", "%s\n# $(exit 1) `exit 1`\n", &line], Duration::from_secs(10));
        let ring = KeyRing::from_source(source).await.expect("keys");
        assert_eq!(ring.key_ids(), ["k1"]);
        assert!(!ring.reload(true).await.expect("the same"));
    }

    #[tokio::test]
    async fn a_command_that_fails_hangs_or_floods_is_told_by_its_setting_and_shows_nothing() {
        let shell = |script: &str| command(&["sh", "-c", script], Duration::from_millis(500));
        for (source, told) in [
            (shell("echo k1:hush; echo hush >&2; exit 3"), "exit status: 3"),
            (shell("echo k1:hush; exec sleep 60"), "did not end within"),
            (shell("yes hush"), "more than"),
            (shell("echo hush"), "line 1"),
            (shell("true"), "no key"),
            (shell("printf '\\377'"), "text"),
            (command(&["/nowhere/at-all"], Duration::from_secs(1)), "cannot run"),
        ] {
            let fault = KeyRing::from_source(source).await.expect_err(told);
            assert_eq!(fault.violations()[0].field, "sealing_key_command");
            assert!(fault.message().contains(told), "{fault:?} does not tell {told}");
            assert!(!format!("{fault:?}").contains("hush"), "{fault:?}");
        }
    }

    #[test]
    fn a_key_file_that_everybody_may_read_is_told_by_its_mode() {
        use std::os::unix::fs::PermissionsExt as _;
        let file = tempfile::NamedTempFile::new().expect("a file");
        let of = |mode| {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).expect("set");
            KeySource::File(file.path().to_owned()).open_to_all()
        };
        assert_eq!([of(0o600), of(0o640), of(0o644)], [None, None, Some(0o644)]);
    }

    #[tokio::test]
    async fn keys_come_from_the_environment() {
        let missing = KeyRing::from_source(KeySource::Environment("DROPBOX_CONNECTOR_NO_SUCH".into())).await;
        assert_eq!(missing.expect_err("not set").violations()[0].field, "sealing_key_env");
        // Every process has one of this name, and its text is no key ring.
        let wrong = KeyRing::from_source(KeySource::Environment("PATH".into())).await.expect_err("no keys");
        assert_eq!(wrong.violations()[0].field, "sealing_key_env");
    }

    #[tokio::test]
    async fn a_command_is_run_again_when_asked_and_a_failure_keeps_the_keys() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("keys");
        std::fs::write(&file, KeyRing::new_line("k1").as_bytes()).expect("written");
        let source = command(&["cat", &file.display().to_string()], Duration::from_secs(10));
        let ring = KeyRing::from_source(source).await.expect("keys");
        std::fs::write(&file, format!("{}\n{}", &*KeyRing::new_line("k2"), &*KeyRing::new_line("k1")))
            .expect("written");
        assert!(!ring.reload(false).await.expect("not yet"), "it is not run every few seconds");
        assert!(ring.reload(true).await.expect("asked"));
        assert_eq!(ring.sealing_key_id(), "k2");
        std::fs::remove_file(&file).expect("gone");
        ring.reload(true).await.expect_err("it fails");
        assert_eq!(ring.sealing_key_id(), "k2");
    }
}
