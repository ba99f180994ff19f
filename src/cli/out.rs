//! What guard prints: errors in one form, colours where they are wanted, names from disk made harmless.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};

use crate::env::Env;
use crate::profile::Place;

/// Whether and how a stream may be coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// Escape sequences are welcome.
    On,
    /// Plain text.
    Off,
}

impl Colour {
    /// By the stream and by <https://no-color.org>.
    #[must_use]
    pub fn for_stdout(env: &Env) -> Self {
        Self::decide(env, io::stdout().is_terminal())
    }

    /// By the stream and by <https://no-color.org>.
    #[must_use]
    pub fn for_stderr(env: &Env) -> Self {
        Self::decide(env, io::stderr().is_terminal())
    }

    fn decide(env: &Env, terminal: bool) -> Self {
        let set = |name: &str| env.get(name).is_some_and(|v| !v.is_empty());
        if terminal && !set("NO_COLOR") && env.get("TERM").is_none_or(|t| t != "dumb") { Self::On } else { Self::Off }
    }

    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::On => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::Off => text.to_owned(),
        }
    }

    /// What holds.
    #[must_use]
    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// What is lost or denied.
    #[must_use]
    pub fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// What to look at.
    #[must_use]
    pub fn warn(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// What to read first.
    #[must_use]
    pub fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// What to read last.
    #[must_use]
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }
}

/// An error as guard prints it: what, why (the chain of causes), where, how to fix.
pub fn error(colour: Colour, error: &dyn Error, place: Option<&Place>, hint: Option<&str>) {
    let mut text = format!("{} {error}\n", colour.bad("guard:"));
    let mut cause = error.source();
    while let Some(error) = cause {
        // A place in a file comes with its line and caret.
        let _ = writeln!(text, "  because: {}", error.to_string().replace('\n', "\n           "));
        cause = error.source();
    }
    if let Some(place) = place {
        let _ = writeln!(text, "  at: {place}");
    }
    if let Some(hint) = hint {
        let _ = writeln!(text, "  {} {hint}", colour.strong("hint:"));
    }
    // With standard error gone there is nobody to tell.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Writes to standard output; a reader that has gone away ends guard quietly, as it would end `cat`.
pub fn print(text: &str) {
    if io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()).is_err() {
        crate::session::end_as(crate::session::Ended::Signal(libc::SIGPIPE));
    }
}
