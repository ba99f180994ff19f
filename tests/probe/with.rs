//! `with-… ARGS -- COMMAND`: prepares something and becomes the command. These stand before guard and give it a bad
//! start: leaked descriptors, a session keyring full of keys, tiny limits, closed stdio.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::pty::openpty;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

use crate::act::{Act, Doer, Refusal, Step, c_string, check, number, path, setup, text};
use crate::exec::replace;

pub const ACTS: &[(&str, Doer)] = &[
    ("with-fd", with_fd),
    ("with-socket", with_socket),
    ("with-keys", with_keys),
    ("with-limit", with_limit),
    ("with-closed", with_closed),
    ("with-pty", with_pty),
    ("with-layers", with_layers),
    ("with-deleted-cwd", with_deleted_cwd),
    ("with-cwd", with_cwd),
];

/// The command behind `--`.
fn command(args: &[OsString]) -> Result<&[OsString], Refusal> {
    match args.iter().position(|arg| arg == "--") {
        Some(end) => Ok(&args[end + 1..]),
        None => setup("no -- and command"),
    }
}

fn become_command(args: &[OsString]) -> Act {
    match replace(command(args)?).needed("exec")? {}
}

/// Puts a descriptor at a number, to be inherited.
fn leave_at(fd: impl IntoRawFd, number: i64) -> Result<(), Refusal> {
    let number = crate::files::fd_number(number)?;
    // SAFETY: both are descriptors of ours (or the second is none).
    check(unsafe { libc::dup2(fd.into_raw_fd(), number) }).needed("dup2")?;
    // dup2 clears the close-on-exec flag, but not where both were the same number.
    // SAFETY: integers only.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, 0) }).needed("fcntl")?;
    Ok(())
}

/// `with-fd N PATH --`: a file or directory the shell forgot to close.
fn with_fd(args: &[OsString]) -> Act {
    leave_at(File::open(path(args, 1)?).needed("open")?, number(args, 0)?)?;
    become_command(args)
}

/// `with-socket N PATH --`: a connection the shell forgot to close.
fn with_socket(args: &[OsString]) -> Act {
    leave_at(UnixStream::connect(path(args, 1)?).needed("connect")?, number(args, 0)?)?;
    become_command(args)
}

/// `with-keys NAME VALUE --`: a new session keyring with a key, and the same in the user keyring, as a login with
/// pam_keyinit and a kerberos ticket leaves them.
fn with_keys(args: &[OsString]) -> Act {
    let (name, value) = (c_string(args, 0)?, text(args, 1)?);
    // KEYCTL_JOIN_SESSION_KEYRING
    // SAFETY: null: an anonymous keyring.
    check(unsafe { libc::syscall(libc::SYS_keyctl, 1, std::ptr::null::<u8>()) }).needed("new session keyring")?;
    // KEYCTL_LINK of the user keyring into the session keyring
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_keyctl, 8, -4, -3) }).needed("link")?;
    for keyring in [-4, -3] {
        // SAFETY: the kernel reads two strings and that many bytes, alive here.
        let key = check(unsafe {
            libc::syscall(libc::SYS_add_key, c"user".as_ptr(), name.as_ptr(), value.as_ptr(), value.len(), keyring)
        })
        .needed("add_key")?;
        // KEYCTL_SETPERM: all to the possessor and to the user, who then needs no possession.
        // SAFETY: integers only.
        check(unsafe { libc::syscall(libc::SYS_keyctl, 5, key, 0x3f3f_0000) }).needed("setperm")?;
        // KEYCTL_SET_TIMEOUT: the user keyring outlives the test, the key in it shall not by much.
        // SAFETY: integers only.
        check(unsafe { libc::syscall(libc::SYS_keyctl, 15, key, 600) }).needed("timeout")?;
    }
    become_command(args)
}

/// `with-limit nofile|fsize|nproc|as N --`, soft and hard.
fn with_limit(args: &[OsString]) -> Act {
    let resource = match text(args, 0)? {
        "nofile" => Resource::RLIMIT_NOFILE,
        "fsize" => Resource::RLIMIT_FSIZE,
        "nproc" => Resource::RLIMIT_NPROC,
        "as" => Resource::RLIMIT_AS,
        "core" => Resource::RLIMIT_CORE,
        "memlock" => Resource::RLIMIT_MEMLOCK,
        other => return setup(format!("unknown limit {other}")),
    };
    let limit = number(args, 1)?.cast_unsigned();
    let (_, hard) = getrlimit(resource).needed("getrlimit")?;
    setrlimit(resource, limit.min(hard), limit.min(hard)).needed("setrlimit")?;
    become_command(args)
}

/// `with-closed N… --`
fn with_closed(args: &[OsString]) -> Act {
    for index in 0..args.iter().position(|arg| arg == "--").unwrap_or(0) {
        // SAFETY: nothing here uses the descriptor again.
        unsafe { libc::close(crate::files::fd_number(number(args, index)?)?) };
    }
    become_command(args)
}

/// `with-pty --`: the command gets a terminal of its own as controlling terminal and stdio. What it prints comes out
/// here, and its status is ours.
fn with_pty(args: &[OsString]) -> Act {
    let pty = openpty(None, None).needed("openpty")?;
    // Without echo, so that what is typed into the terminal does not mix with what the command prints.
    let mut modes = tcgetattr(&pty.slave).needed("tcgetattr")?;
    modes.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(&pty.slave, SetArg::TCSANOW, &modes).needed("tcsetattr")?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }.needed("fork")? {
        ForkResult::Child => {
            drop(pty.master);
            setsid().needed("setsid")?;
            // SAFETY: integers only.
            check(unsafe { libc::ioctl(pty.slave.as_raw_fd(), libc::TIOCSCTTY, 0) }).needed("TIOCSCTTY")?;
            dup2_stdin(&pty.slave).needed("dup2")?;
            dup2_stdout(&pty.slave).needed("dup2")?;
            dup2_stderr(&pty.slave).needed("dup2")?;
            drop(pty.slave);
            become_command(args)
        }
        ForkResult::Parent { child } => {
            drop(pty.slave);
            let mut master = File::from(pty.master);
            let mut bytes = [0; 4096];
            // EIO is how a pty says that the last one has closed the other side.
            while let Ok(count @ 1..) = master.read(&mut bytes) {
                std::io::stdout().write_all(&bytes[..count]).needed("write")?;
            }
            let code = match waitpid(child, None).needed("waitpid")? {
                WaitStatus::Exited(_, code) => code,
                WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
                WaitStatus::Stopped(..)
                | WaitStatus::PtraceEvent(..)
                | WaitStatus::PtraceSyscall(_)
                | WaitStatus::Continued(_)
                | WaitStatus::StillAlive => return setup("the command has not ended"),
            };
            std::process::exit(code)
        }
    }
}

/// `with-layers N --`: so many Landlock domains already, of the 16 that fit.
fn with_layers(args: &[OsString]) -> Act {
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).needed("no_new_privs")?;
    for _ in 0..number(args, 0)? {
        // A ruleset that handles making block devices, and so allows everything a test wants.
        let handled = [1_u64 << 11, 0];
        // SAFETY: the kernel reads the first eight bytes, which are all of the first version of the struct.
        let ruleset = check(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, handled.as_ptr(), 8, 0) })
            .needed("ruleset")?;
        // SAFETY: integers only.
        check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0) }).needed("restrict")?;
        // SAFETY: nothing here uses the descriptor again.
        unsafe { libc::close(crate::files::fd_number(ruleset)?) };
    }
    become_command(args)
}

/// `with-deleted-cwd DIR --`: starts in a directory that is gone by then.
fn with_deleted_cwd(args: &[OsString]) -> Act {
    let dir = path(args, 0)?;
    std::fs::create_dir(&dir).needed("mkdir")?;
    std::env::set_current_dir(&dir).needed("chdir")?;
    std::fs::remove_dir(&dir).needed("rmdir")?;
    become_command(args)
}

/// `with-cwd DIR --`: through a symlink, say.
fn with_cwd(args: &[OsString]) -> Act {
    match std::env::set_current_dir(path(args, 0)?) {
        Ok(()) => become_command(args),
        Err(error) => Err(Refusal::Denied(Errno::from_raw(error.raw_os_error().unwrap_or(0)), "chdir".into())),
    }
}
