//! Acts on terminals: section 9.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use crate::act::{Act, Doer, Refusal, Step, check, path, reached, text};

pub const ACTS: &[(&str, Doer)] = &[
    ("tiocsti", tiocsti),
    ("tiocsti-high", tiocsti_high),
    ("tioclinux", tioclinux),
    ("tty-write", tty_write),
    ("tty-read", tty_read),
    ("tty", tty),
];

/// `/dev/tty`, or with the word `stdin` descriptor 0.
fn terminal(args: &[OsString]) -> Result<File, Refusal> {
    let name = if args.first().is_some_and(|arg| arg == "stdin") { "/proc/self/fd/0" } else { "/dev/tty" };
    OpenOptions::new().read(true).write(true).open(name).needed(name)
}

fn push(args: &[OsString], request: u64) -> Act {
    let terminal = terminal(args)?;
    // SAFETY: the kernel reads one byte of a literal. A raw call, because libc cuts the request on some systems.
    check(unsafe { libc::syscall(libc::SYS_ioctl, terminal.as_raw_fd(), request, c"x".as_ptr()) })?;
    Ok(String::new())
}

/// Types into the terminal, so that the shell reads it after the session.
fn tiocsti(args: &[OsString]) -> Act {
    push(args, libc::TIOCSTI)
}

/// The same with bits set that the kernel drops and a 64-bit comparison does not (CVE-2019-10063).
fn tiocsti_high(args: &[OsString]) -> Act {
    push(args, 0x1_0000_0000 | libc::TIOCSTI)
}

/// Pastes the selection on a virtual console; a pty has none and says ENOTTY, which is far enough.
fn tioclinux(args: &[OsString]) -> Act {
    let terminal = terminal(args)?;
    // SAFETY: the kernel reads one byte of a literal: subcommand 3, paste.
    reached(unsafe { libc::syscall(libc::SYS_ioctl, terminal.as_raw_fd(), 0x541C, c"\x03".as_ptr()) })
}

/// `tty-write PATH TEXT`: to another terminal of the user.
fn tty_write(args: &[OsString]) -> Act {
    let mut other = OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY).open(path(args, 0)?).step("open")?;
    other.write_all(text(args, 1)?.as_bytes()).step("write")?;
    Ok(String::new())
}

fn tty_read(args: &[OsString]) -> Act {
    OpenOptions::new().read(true).custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK).open(path(args, 0)?).step("open")?;
    Ok(String::new())
}

/// Succeeds when there is a controlling terminal that opens.
fn tty(_: &[OsString]) -> Act {
    OpenOptions::new().read(true).write(true).open("/dev/tty").step("open")?;
    Ok(String::new())
}
