//! What a finished command gave back, and expectations about it that print everything when they fail.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// Status, stdout and stderr of a command, with the words that describe the command.
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// All it wrote to stdout.
    pub stdout: Vec<u8>,
    /// All it wrote to stderr.
    pub stderr: Vec<u8>,
    pub(super) about: String,
}

impl Output {
    /// stdout as text.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// stderr as text.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The exit status, or 128+n after signal n, as a shell would say.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Whether stdout or stderr contains `text`.
    pub fn mentions(&self, text: &str) -> bool {
        self.stdout().contains(text) || self.stderr().contains(text)
    }

    /// Everything there is to say about the run.
    pub fn report(&self) -> String {
        format!(
            "{}\nstatus:  {}\n--- stdout\n{}\n--- stderr\n{}\n---",
            self.about,
            self.status,
            clip(&self.stdout()),
            clip(&self.stderr())
        )
    }

    /// Fails with `why` and the whole report unless `holds`.
    #[track_caller]
    pub fn check(self, holds: bool, why: &str) -> Output {
        assert!(holds, "{why}\n{}", self.report());
        self
    }

    /// Expects exit status 0.
    #[track_caller]
    pub fn success(self) -> Output {
        self.expect_code(0)
    }

    /// Expects this exit status (128+n for death by signal n).
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Output {
        let got = self.code();
        self.check(got == code, &format!("expected status {code}, got {got}"))
    }

    /// Expects `text` somewhere in stdout.
    #[track_caller]
    pub fn expect_stdout(self, text: &str) -> Output {
        let holds = self.stdout().contains(text);
        self.check(holds, &format!("expected {text:?} in stdout"))
    }

    /// Expects `text` somewhere in stderr.
    #[track_caller]
    pub fn expect_stderr(self, text: &str) -> Output {
        let holds = self.stderr().contains(text);
        self.check(holds, &format!("expected {text:?} in stderr"))
    }

    /// Expects `text` nowhere.
    #[track_caller]
    pub fn expect_no(self, text: &str) -> Output {
        let holds = !self.mentions(text);
        self.check(holds, &format!("did not expect {text:?}"))
    }
}

/// A failing 10 MB pipeline should not print 10 MB.
fn clip(text: &str) -> String {
    let limit = 8000;
    if text.len() <= limit {
        return text.to_owned();
    }
    let head: String = text.chars().take(limit).collect();
    format!("{head}\n… ({} bytes in all)", text.len())
}
