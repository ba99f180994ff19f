//! What an act is: a function of its arguments that either did the thing, was refused by the kernel, or could not be
//! tried.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::errno::Errno;

/// How an act ends when it does not succeed.
pub enum Refusal {
    /// The kernel said no; the words name the step.
    Denied(Errno, String),
    /// The act could not be tried: wrong arguments or a missing precondition. Never counts as a denial.
    Setup(String),
}

/// What an act printed after `ok`, or why not.
pub type Act = Result<String, Refusal>;

/// The code of an act.
pub type Doer = fn(&[OsString]) -> Act;

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Refusal {
        Refusal::Denied(errno, String::new())
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Refusal {
        match error.raw_os_error() {
            Some(errno) => Errno::from_raw(errno).into(),
            None => Refusal::Setup(error.to_string()),
        }
    }
}

/// A refusal of another kind than the kernel's.
pub fn setup<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Setup(why.into()))
}

/// Names the step that was refused.
pub trait Step<T> {
    /// Adds `what` to a denial.
    fn step(self, what: &str) -> Result<T, Refusal>;
    /// Turns a denial into a set-up failure: this step is no part of the attack.
    fn needed(self, what: &str) -> Result<T, Refusal>;
}

impl<T, E: Into<Refusal>> Step<T> for Result<T, E> {
    fn step(self, what: &str) -> Result<T, Refusal> {
        self.map_err(|error| match error.into() {
            Refusal::Denied(errno, _) => Refusal::Denied(errno, what.into()),
            other @ Refusal::Setup(_) => other,
        })
    }

    fn needed(self, what: &str) -> Result<T, Refusal> {
        self.map_err(|error| match error.into() {
            Refusal::Denied(errno, _) => Refusal::Setup(format!("{what}: {errno:?}")),
            other @ Refusal::Setup(_) => other,
        })
    }
}

/// The result of a raw system call: a negative value means errno.
pub fn check(result: impl Into<i64>) -> Result<i64, Refusal> {
    let result = result.into();
    if result < 0 { Err(Errno::last().into()) } else { Ok(result) }
}

/// For calls that fail outside too, because their arguments are nonsense on purpose: that the kernel got as far as
/// looking at the arguments is the success, and only these errors are the refusal.
pub fn reached(result: i64) -> Act {
    match Errno::last() {
        errno @ (Errno::EPERM | Errno::EACCES | Errno::ENOSYS) if result < 0 => Err(errno.into()),
        errno if result < 0 => Ok(format!("reached {errno:?}")),
        _ => Ok(String::new()),
    }
}

/// The argument at `index` as a path.
pub fn path(args: &[OsString], index: usize) -> Result<PathBuf, Refusal> {
    args.get(index).map(PathBuf::from).ok_or(Refusal::Setup(format!("argument {} (a path) is missing", index + 1)))
}

/// The argument at `index` as text.
pub fn text(args: &[OsString], index: usize) -> Result<&str, Refusal> {
    args.get(index)
        .and_then(|arg| arg.to_str())
        .ok_or(Refusal::Setup(format!("argument {} (text) is missing", index + 1)))
}

/// The argument at `index` as a number.
pub fn number(args: &[OsString], index: usize) -> Result<i64, Refusal> {
    text(args, index)?.parse().map_err(|_| Refusal::Setup(format!("argument {} must be a number", index + 1)))
}

/// The argument at `index` for a system call.
pub fn c_string(args: &[OsString], index: usize) -> Result<CString, Refusal> {
    Ok(c_path(&path(args, index)?))
}

/// A path for a system call.
pub fn c_path(path: &std::path::Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("arguments hold no NUL")
}

/// What was read, on one line.
pub fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace(['\n', '\0'], " ")
}
