//! Acts that execute: set-user-ID programs, and the ways around a denied command (section 11).

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, signal};

use crate::act::{Act, Doer, Refusal, Step, check, path, setup};

pub const ACTS: &[(&str, Doer)] =
    &[("euid-zero", euid_zero), ("id", id), ("exec", exec), ("exec-loader", exec_loader), ("exec-memfd", exec_memfd)];

/// Run through a set-user-ID copy of this program.
fn euid_zero(_: &[OsString]) -> Act {
    if nix::unistd::geteuid().is_root() { Ok(String::new()) } else { Err(Errno::EPERM.into()) }
}

fn id(_: &[OsString]) -> Act {
    Ok(format!("uid={} gid={}", nix::unistd::getuid(), nix::unistd::getgid()))
}

/// `exec PROGRAM ARGS…`; on success that program's output and status are the answer.
fn exec(args: &[OsString]) -> Act {
    match replace(args)? {}
}

/// By the dynamic loader, which only reads the program.
fn exec_loader(args: &[OsString]) -> Act {
    let mut line = vec![OsString::from("/lib64/ld-linux-x86-64.so.2")];
    line.extend_from_slice(args);
    match replace(&line)? {}
}

/// From a copy in memory that no path names.
fn exec_memfd(args: &[OsString]) -> Act {
    let program = std::fs::read(path(args, 0)?).step("read")?;
    // SAFETY: the kernel reads a literal.
    let fd = check(unsafe { libc::memfd_create(c"copy".as_ptr(), 0) }).step("memfd_create")?;
    // SAFETY: fresh from the kernel.
    let mut file = unsafe { std::fs::File::from_raw_fd(crate::files::fd_number(fd)?) };
    file.write_all(&program).step("write")?;
    let line = c_strings(args);
    let through = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("no NUL");
    match nix::unistd::execv(&through, &line).step("exec")? {}
}

/// Becomes the command.
pub fn replace(args: &[OsString]) -> Result<Infallible, Refusal> {
    let line = c_strings(args);
    let Some(program) = line.first() else { return setup("no command") };
    default_sigpipe();
    nix::unistd::execvp(program, &line).step("exec")
}

/// Undoes what Rust's runtime does at the start, which a program we exec would inherit.
pub fn default_sigpipe() {
    // SAFETY: no handler is installed; the default action is restored.
    let restored = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    restored.expect("SIGPIPE can be set");
}

fn c_strings(args: &[OsString]) -> Vec<CString> {
    args.iter().map(|arg| CString::new(arg.as_bytes()).expect("arguments hold no NUL")).collect()
}
