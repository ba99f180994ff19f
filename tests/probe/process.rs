//! Acts against processes outside: section 3 of the threat table. `victim.rs` has the process they aim at.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::unistd::{ForkResult, fork, getpid, setsid};

use crate::act::{Act, Doer, Refusal, Step, check, number, path, setup, shown};

pub const ACTS: &[(&str, Doer)] = &[
    ("kill", kill),
    ("tgkill", tgkill),
    ("sigqueue", sigqueue),
    ("pidfd-signal", pidfd_signal),
    ("sigio", sigio),
    ("ptrace", ptrace),
    ("ptrace-parent", ptrace_parent),
    ("environs", environs),
    ("cmdlines", cmdlines),
    ("vm-read", vm_read),
    ("mem-read", mem_read),
    ("pidfd-getfd", pidfd_getfd),
    ("setpriority", setpriority),
    ("prlimit", prlimit),
    ("affinity", affinity),
    ("daemon", daemon),
    ("forks", forks),
];

fn pid(args: &[OsString]) -> Result<i32, Refusal> {
    i32::try_from(number(args, 0)?).or_else(|_| setup("not a process id"))
}

fn kill(args: &[OsString]) -> Act {
    // SAFETY: sends a signal; no memory involved.
    check(unsafe { libc::kill(pid(args)?, libc::SIGUSR1) })?;
    Ok(String::new())
}

fn tgkill(args: &[OsString]) -> Act {
    let pid = pid(args)?;
    // SAFETY: sends a signal; no memory involved.
    check(unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, libc::SIGUSR1) })?;
    Ok(String::new())
}

fn sigqueue(args: &[OsString]) -> Act {
    let value = libc::sigval { sival_ptr: std::ptr::null_mut() };
    // SAFETY: sends a signal with a value that nobody follows as a pointer.
    check(unsafe { libc::sigqueue(pid(args)?, libc::SIGUSR1, value) })?;
    Ok(String::new())
}

fn pidfd_open(pid: i32) -> Result<i64, Refusal> {
    // SAFETY: makes a descriptor; no memory involved.
    check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).step("pidfd_open")
}

fn pidfd_signal(args: &[OsString]) -> Act {
    let fd = pidfd_open(pid(args)?)?;
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed: the kernel fills in its own.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, libc::SIGUSR1, no_info, 0) })
        .step("pidfd_send_signal")?;
    Ok(String::new())
}

/// The kernel sends the signal, when there is something to read; it says nothing to us when it would not.
fn sigio(args: &[OsString]) -> Act {
    let mut pair = [0; 2];
    // SAFETY: the kernel writes two descriptors to the array.
    check(unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr()) }).needed("socketpair")?;
    // SAFETY: fcntl with integers.
    check(unsafe { libc::fcntl(pair[0], libc::F_SETOWN, pid(args)?) }).step("F_SETOWN")?;
    // SAFETY: as above; 10 is F_SETSIG.
    check(unsafe { libc::fcntl(pair[0], 10, libc::SIGUSR1) }).step("F_SETSIG")?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(pair[0], libc::F_SETFL, libc::O_ASYNC) }).step("O_ASYNC")?;
    // SAFETY: the kernel reads one byte of a literal.
    check(unsafe { libc::write(pair[1], c"x".as_ptr().cast(), 1) } as i64).needed("write")?;
    Ok("asked for".into())
}

fn ptrace(args: &[OsString]) -> Act {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: seizes another process, which stops nothing; the null arguments are what PTRACE_SEIZE wants.
    check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid(args)?, nothing, nothing) })?;
    Ok(String::new())
}

fn ptrace_parent(_: &[OsString]) -> Act {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: as in `ptrace`.
    check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, libc::getppid(), nothing, nothing) })?;
    Ok(String::new())
}

/// One file of every process there is to see, except our own.
fn of_all_others(name: &str) -> Act {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").step("opendir")? {
        let entry = entry.step("readdir")?;
        let pid = entry.file_name().to_string_lossy().parse::<i32>().unwrap_or(0);
        if pid > 0 && pid != getpid().as_raw() {
            let file = std::fs::read(entry.path().join(name)).unwrap_or_default();
            found.push(format!("[{pid}] {}", shown(&file)));
        }
    }
    Ok(found.join(" "))
}

fn environs(_: &[OsString]) -> Act {
    of_all_others("environ")
}

fn cmdlines(_: &[OsString]) -> Act {
    of_all_others("cmdline")
}

/// `vm-read PID ADDRESS LENGTH`
fn vm_read(args: &[OsString]) -> Act {
    let (address, length) = (number(args, 1)?, number(args, 2)?);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let remote = libc::iovec {
        iov_base: std::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0)),
        iov_len: bytes.len(),
    };
    // SAFETY: the kernel writes at most iov_len bytes to our buffer; the remote address is only a number to us.
    check(unsafe { libc::process_vm_readv(pid(args)?, &raw const local, 1, &raw const remote, 1, 0) } as i64)?;
    Ok(shown(&bytes))
}

/// `mem-read PID ADDRESS LENGTH`
fn mem_read(args: &[OsString]) -> Act {
    let mut bytes = vec![0; usize::try_from(number(args, 2)?).unwrap_or(0)];
    let file = File::open(format!("/proc/{}/mem", pid(args)?)).step("open")?;
    file.read_exact_at(&mut bytes, number(args, 1)?.cast_unsigned()).step("read")?;
    Ok(shown(&bytes))
}

/// `pidfd-getfd PID FD`
fn pidfd_getfd(args: &[OsString]) -> Act {
    let fd = pidfd_open(pid(args)?)?;
    // SAFETY: makes a descriptor; no memory involved.
    let got = check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, fd, number(args, 1)?, 0) }).step("pidfd_getfd")?;
    let mut bytes = [0; 256];
    // SAFETY: the kernel writes at most that many bytes to the buffer.
    let count =
        check(unsafe { libc::pread(crate::files::fd_number(got)?, bytes.as_mut_ptr().cast(), bytes.len(), 0) } as i64)
            .step("pread")?;
    Ok(shown(&bytes[..usize::try_from(count).expect("checked above")]))
}

fn setpriority(args: &[OsString]) -> Act {
    // SAFETY: integers only.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, pid(args)?.cast_unsigned(), 19) })?;
    Ok(String::new())
}

fn prlimit(args: &[OsString]) -> Act {
    let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel reads the struct, alive here; null means: do not tell the old one.
    check(unsafe { libc::prlimit(pid(args)?, libc::RLIMIT_CORE, &raw const limit, std::ptr::null_mut()) })?;
    Ok(String::new())
}

fn affinity(args: &[OsString]) -> Act {
    let mask: u64 = 1;
    // SAFETY: the kernel reads eight bytes, alive here.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, pid(args)?, 8, &raw const mask) })?;
    Ok(String::new())
}

/// Leaves a process behind that belongs to nobody. It writes its state to the file given once it is on its own.
fn daemon(args: &[OsString]) -> Act {
    let file = path(args, 0)?;
    let (ready, done) = nix::unistd::pipe().needed("pipe")?;
    // SAFETY: this process has one thread.
    if let ForkResult::Child = unsafe { fork() }.step("fork")? {
        setsid().needed("setsid")?;
        // SAFETY: as above.
        if let ForkResult::Parent { .. } = unsafe { fork() }.step("fork")? {
            std::process::exit(0);
        }
        for fd in 0..3 {
            // SAFETY: closing makes the daemon let go of the test's pipes; nothing here uses them afterwards.
            unsafe { libc::close(fd) };
        }
        let _ = std::fs::write(&file, format!("{}", getpid()));
        drop((ready, done));
        loop {
            nix::unistd::pause();
        }
    }
    drop(done);
    // End of file: the daemon has let go of its end, so it is on its own and has written the file.
    nix::unistd::read(&ready, &mut [0]).needed("read")?;
    Ok(String::new())
}

/// `forks N`: so many processes at once.
fn forks(args: &[OsString]) -> Act {
    let mut children = Vec::new();
    let mut result = Ok(String::new());
    for _ in 0..number(args, 0)? {
        // SAFETY: this process has one thread.
        match unsafe { fork() } {
            Ok(ForkResult::Parent { child }) => children.push(child),
            Ok(ForkResult::Child) => loop {
                nix::unistd::pause();
            },
            Err(errno) => {
                result = Err(Refusal::Denied(errno, format!("after {}", children.len())));
                break;
            }
        }
    }
    for child in children {
        // It is our own child and still there: it has not been waited for.
        let _ = nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(child, None);
    }
    result
}
