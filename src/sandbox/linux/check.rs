//! The checks from inside: the agent's process proves that each lock holds before it becomes the agent.
//!
//! In: the plan. Out: a [`Sandboxed`], without which nothing can be executed, or an error. Each check looks for the
//! one answer that only the lock gives; "it did not work" is not enough.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;

use super::root::CANARY;
use super::wire::StartError;
use crate::plan::{Plan, Tier};
use crate::sandbox::sys;

/// Proof that the checks have passed in this process.
#[derive(Debug)]
pub(super) struct Sandboxed(());

/// guard's canary by its identity, taken while it can still be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Canary(u64, u64);

impl Canary {
    /// Looks at the file outside.
    pub(super) fn look(plan: &Plan) -> Result<Self, StartError> {
        let meta = std::fs::metadata(&plan.store.canary).map_err(|e| {
            StartError::new("cannot look at guard's canary", Errno::from_raw(e.raw_os_error().unwrap_or_default()))
        })?;
        Ok(Self(meta.dev(), meta.ino()))
    }
}

/// Looks at every lock.
pub(super) fn check(plan: &Plan, canary: Canary) -> Result<Sandboxed, StartError> {
    let broken = |what: &str, errno| Err(StartError::new(format!("the sandbox does not hold: {what}"), errno));
    match sys::prctl(libc::PR_GET_NO_NEW_PRIVS, 0) {
        Ok(1) => {}
        other => return broken("no_new_privs is not set", other.err().unwrap_or(Errno::UnknownErrno)),
    }
    match sys::effective_capabilities() {
        Ok(0) => {}
        other => return broken("capabilities are left", other.err().unwrap_or(Errno::UnknownErrno)),
    }
    // Without the filter the kernel says EBADF.
    match sys::try_terminal_injection() {
        Err(Errno::EPERM) => {}
        other => return broken("terminal injection is not filtered", other.err().unwrap_or(Errno::UnknownErrno)),
    }
    // guard's own file, outside: with the new root it does not exist, with Landlock alone it may not be opened.
    let expected = match plan.tier {
        Tier::Full => Errno::ENOENT,
        Tier::Landlock => Errno::EACCES,
    };
    match open(plan.store.canary.as_path()) {
        Err(errno) if errno == expected => {}
        // Of the same name, but another file: the sandbox home is the agent's to fill.
        Ok(found) if plan.tier == Tier::Full && found != canary => {}
        other => return broken("a file outside is within reach", other.err().unwrap_or(Errno::UnknownErrno)),
    }
    if plan.tier == Tier::Full {
        // A readable file of the new root without a rule: only Landlock stands in the way.
        match open(CANARY.as_ref()) {
            Err(Errno::EACCES) => {}
            other => return broken("Landlock is not in force", other.err().unwrap_or(Errno::UnknownErrno)),
        }
        if nix::unistd::getppid().as_raw() != 1 {
            return broken("the process namespace is not new", Errno::UnknownErrno);
        }
    }
    Ok(Sandboxed(()))
}

fn open(path: &std::path::Path) -> Result<Canary, Errno> {
    let errno = |e: io::Error| Errno::from_raw(e.raw_os_error().unwrap_or_default());
    let meta = File::open(path).and_then(|file| file.metadata()).map_err(errno)?;
    Ok(Canary(meta.dev(), meta.ino()))
}
