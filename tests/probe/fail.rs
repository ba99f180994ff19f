//! A kernel that says no: `fail` runs a command under a supervisor that answers chosen system calls with an error,
//! and `fault-agent` is the agent that tells how well it is sandboxed.
//!
//! `fail --call NAME|every --nth N|all|none --errno N --skip K --report FILE -- COMMAND`
//! Answers calls made between the Kth execve (from 1) of COMMAND's processes and the one after it: between guard's start
//! and the agent's. What happened goes to FILE as `word=number` pairs, with `every` also how often each call was made.
//! The filter needs no no_new_privs, which guard must set itself, so this takes root.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::act::{Act, Doer, Refusal, Step, check, number, path, setup, text};
use crate::exec::replace;

pub const ACTS: &[(&str, Doer)] = &[("fail", fail), ("fault-agent", fault_agent)];

macro_rules! calls {
    ($($call:ident)*) => { &[$((stringify!($call), libc::$call)),*] };
}

/// The calls that can be made to fail, as `SYS_name`.
const CALLS: &[(&str, libc::c_long)] = calls! {
    SYS_capget SYS_capset SYS_chdir SYS_clone SYS_close SYS_close_range SYS_execve SYS_fchdir SYS_fchmodat SYS_fcntl
    SYS_fdatasync SYS_flock SYS_fsconfig SYS_fsmount SYS_fsopen SYS_fstat SYS_ftruncate SYS_getcwd SYS_getdents64
    SYS_getegid SYS_geteuid SYS_getgid SYS_getgroups SYS_getpgid SYS_getpid SYS_getppid SYS_getrandom SYS_getuid
    SYS_inotify_add_watch SYS_inotify_init1 SYS_ioctl SYS_keyctl SYS_kill SYS_landlock_add_rule
    SYS_landlock_create_ruleset SYS_landlock_restrict_self SYS_lseek SYS_mkdirat SYS_mmap SYS_mount SYS_mount_setattr
    SYS_move_mount SYS_mprotect SYS_munmap SYS_newfstatat SYS_open_tree SYS_openat SYS_openat2 SYS_pivot_root SYS_prctl
    SYS_prlimit64 SYS_read SYS_readlinkat SYS_recvfrom SYS_renameat2 SYS_rt_sigaction SYS_rt_sigprocmask SYS_seccomp
    SYS_sendto SYS_setrlimit SYS_signalfd4 SYS_sigaltstack SYS_socket SYS_socketpair SYS_statx SYS_symlinkat SYS_umount2
    SYS_umask SYS_uname SYS_unlinkat SYS_wait4 SYS_write SYS_writev SYS_brk SYS_set_tid_address SYS_sched_getaffinity
    SYS_dup3 SYS_ppoll SYS_fchmod SYS_pread64 SYS_getrlimit SYS_exit_group SYS_set_robust_list SYS_rseq SYS_gettid SYS_tgkill SYS_futex SYS_madvise
    SYS_exit SYS_renameat SYS_linkat SYS_getresuid SYS_getresgid SYS_dup SYS_waitid SYS_pselect6 SYS_epoll_pwait
    SYS_statfs SYS_fstatfs SYS_faccessat SYS_faccessat2 SYS_utimensat SYS_mremap SYS_setsid SYS_setpgid SYS_rt_sigreturn
};

/// Calls that newer architectures no longer have.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[(&str, libc::c_long)] = calls! {
    SYS_access SYS_dup2 SYS_fork SYS_getpgrp SYS_lstat SYS_mkdir SYS_open SYS_poll SYS_readlink SYS_rename SYS_rmdir
    SYS_stat SYS_symlink SYS_unlink SYS_chmod SYS_arch_prctl SYS_vfork
};
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[(&str, libc::c_long)] = &[];

fn table() -> impl Iterator<Item = (&'static str, libc::c_long)> {
    CALLS.iter().chain(OLD_CALLS).map(|(name, number)| (&name["SYS_".len()..], *number))
}

/// A call by its name, or by its number where the table has none.
fn number_of(name: &str) -> Result<libc::c_long, Refusal> {
    let known = table().find(|(known, _)| *known == name).map(|(_, number)| number);
    known.or_else(|| name.parse().ok()).ok_or_else(|| Refusal::Setup(format!("unknown call {name}")))
}

fn name_of(call: libc::c_long) -> String {
    table().find(|(_, number)| *number == call).map_or_else(|| call.to_string(), |(name, _)| name.to_owned())
}

/// Which calls in the window are answered.
enum Nth {
    All,
    None,
    One(u64),
}

/// How long the whole command may take before it counts as hung.
const DEADLINE: Duration = Duration::from_secs(60);

fn fail(args: &[OsString]) -> Act {
    let end = args.iter().position(|arg| arg == "--").unwrap_or(args.len());
    let flag = |name: &str| {
        let at = args[..end].iter().position(|arg| arg == name);
        at.map(|at| at + 1).ok_or_else(|| Refusal::Setup(format!("{name} is missing")))
    };
    let name = text(args, flag("--call")?)?;
    let call = match name {
        "every" => None,
        name => Some(number_of(name)?),
    };
    let nth = match text(args, flag("--nth")?)? {
        "all" => Nth::All,
        "none" => Nth::None,
        _ => Nth::One(number(args, flag("--nth")?)?.cast_unsigned()),
    };
    let errno = i32::try_from(number(args, flag("--errno")?)?).expect("errnos are small");
    let skip = number(args, flag("--skip")?)?.cast_unsigned();
    let report = path(args, flag("--report")?)?;
    let command = args.get(end + 1..).unwrap_or_default();

    let place = shared_number()?;
    // With a shared descriptor table the listener is here as soon as the child has it; execve ends the sharing.
    // SAFETY: without CLONE_VM and without a stack this is fork(2).
    let child = check(unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_FILES | libc::SIGCHLD, 0, 0, 0, 0) })
        .needed("clone")?;
    if child == 0 {
        let listener = install(call);
        match listener {
            Ok(fd) => place.store(fd, Ordering::SeqCst),
            Err(errno) => {
                place.store(-(errno as i32), Ordering::SeqCst);
                std::process::exit(2);
            }
        }
        match replace(command).needed("exec")? {}
    }
    let fd = loop {
        match place.load(Ordering::SeqCst) {
            0 => std::thread::yield_now(),
            fd => break fd,
        }
    };
    if fd < 0 {
        return setup(format!("seccomp: {:?}", Errno::from_raw(-fd)));
    }
    // SAFETY: the child has just been given this descriptor, and closes its own copy with its exec.
    let listener = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut judge = Judge { call, nth, errno, skip, execs: 0, seen: BTreeMap::new(), answered: 0 };
    let ended = judge.sit(&listener, i32::try_from(child).expect("pids are small"))?;
    let counts: Vec<String> = judge.seen.iter().map(|(call, count)| format!("{}={count}", name_of(*call))).collect();
    let words = format!(
        "answered={} agent={} left={} hung={} {}\n",
        judge.answered,
        u8::from(judge.execs > judge.skip),
        u8::from(ended.left),
        u8::from(ended.status.is_none()),
        counts.join(" "),
    );
    fs::write(report, words).needed("report")?;
    let code = ended.status.map_or(99, |s| s.code().unwrap_or_else(|| 128 + s.signal().unwrap_or(0)));
    std::process::exit(code)
}

/// A number that a child process shares.
fn shared_number() -> Result<&'static AtomicI32, Refusal> {
    // SAFETY: a new page of zeroes, which is a valid AtomicI32, mapped for the life of the process.
    unsafe {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        let page = libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0);
        if page == libc::MAP_FAILED {
            return Err(Errno::last().into());
        }
        Ok(&*page.cast::<AtomicI32>())
    }
}

/// A filter that asks the listener about `call` (or every one) and about execve.
fn install(call: Option<libc::c_long>) -> Result<i32, Errno> {
    // linux/seccomp.h
    const SET_MODE_FILTER: libc::c_uint = 1;
    const NEW_LISTENER: libc::c_uint = 8;
    const WAIT_KILLABLE_RECV: libc::c_uint = 32;
    const USER_NOTIF: u32 = 0x7fc0_0000;
    const ALLOW: u32 = 0x7fff_0000;
    let op = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let number = |call: libc::c_long| u32::try_from(call).expect("call numbers are small");
    let mut program = [
        op(0x20, 0, 0, 0),
        op(0x15, number(libc::SYS_execve), 1, 0),
        op(0x15, number(call.unwrap_or_default()), 0, 1),
        op(0x06, USER_NOTIF, 0, 0),
        op(0x06, if call.is_some() { ALLOW } else { USER_NOTIF }, 0, 0),
    ];
    let program = libc::sock_fprog { len: 5, filter: program.as_mut_ptr() };
    let flags = NEW_LISTENER | WAIT_KILLABLE_RECV;
    // SAFETY: the kernel copies the program, alive here.
    let fd = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const program) };
    Errno::result(fd).map(|fd| i32::try_from(fd).expect("descriptors are small"))
}

struct Judge {
    call: Option<libc::c_long>,
    nth: Nth,
    errno: i32,
    skip: u64,
    execs: u64,
    /// Calls in the window, answered or not.
    seen: BTreeMap<libc::c_long, u64>,
    answered: u64,
}

/// How a command ended: without a status it was hung; left are processes that outlived it.
struct Ended {
    status: Option<ExitStatus>,
    left: bool,
}

impl Judge {
    /// Until the last process under the filter is gone.
    fn sit(&mut self, listener: &OwnedFd, child: i32) -> Result<Ended, Refusal> {
        let start = Instant::now();
        let mut status = None;
        loop {
            let mut polled = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut polled, PollTimeout::from(20_u8));
            let happened = polled[0].revents().unwrap_or(PollFlags::empty());
            if happened.contains(PollFlags::POLLIN) {
                self.answer(listener)?;
            }
            if status.is_none() {
                let mut raw = 0;
                // SAFETY: the kernel writes one int.
                if unsafe { libc::waitpid(child, &raw mut raw, libc::WNOHANG) } == child {
                    status = Some(ExitStatus::from_raw(raw));
                }
            }
            if happened.contains(PollFlags::POLLHUP) && status.is_some() {
                return Ok(Ended { status, left: false });
            }
            if start.elapsed() > DEADLINE {
                // SAFETY: integers only. A process that is gone is as good as killed.
                unsafe { libc::kill(child, libc::SIGKILL) };
                return Ok(Ended { status, left: status.is_some() });
            }
        }
    }

    fn answer(&mut self, listener: &OwnedFd) -> Result<(), Refusal> {
        // linux/seccomp.h: _IOWR('!', 0, struct seccomp_notif), _IOWR('!', 1, struct seccomp_notif_resp)
        const RECV: libc::c_ulong = 0xc050_2100;
        const SEND: libc::c_ulong = 0xc018_2101;
        const CONTINUE: u32 = 1;
        #[repr(C)]
        #[derive(Default)]
        struct Notification {
            id: u64,
            pid: u32,
            flags: u32,
            number: i32,
            architecture: u32,
            instruction: u64,
            arguments: [u64; 6],
        }
        #[repr(C)]
        struct Answer {
            id: u64,
            value: i64,
            error: i32,
            flags: u32,
        }
        let fd = std::os::fd::AsRawFd::as_raw_fd(listener);
        let mut asked = Notification::default();
        // SAFETY: the struct has the kernel's layout and is all zeroes, as the call demands.
        match Errno::result(unsafe { libc::ioctl(fd, RECV, &raw mut asked) }) {
            Ok(_) => {}
            // The process died while it asked.
            Err(Errno::ENOENT | Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        let call = libc::c_long::from(asked.number);
        let mut refuse = false;
        if self.call.is_none_or(|wanted| wanted == call) && self.execs == self.skip {
            let seen = self.seen.entry(call).or_default();
            *seen += 1;
            refuse = match self.nth {
                Nth::All => true,
                Nth::None => false,
                Nth::One(one) => one == *seen,
            };
        }
        if call == libc::SYS_execve && !refuse {
            self.execs += 1;
        }
        self.answered += u64::from(refuse);
        let (error, flags) = if refuse { (-self.errno, 0) } else { (0, CONTINUE) };
        let answer = Answer { id: asked.id, value: 0, error, flags };
        // SAFETY: the struct has the kernel's layout. Who asked may have been killed since; then nobody needs it.
        unsafe { libc::ioctl(fd, SEND, &raw const answer) };
        Ok(())
    }
}

/// `fault-agent PROJECT SECRET`: leaves the file `marker`, and says what holds: no_new_privs, the number of filters,
/// capabilities, terminal injection, and what opening the secret and guard's own canary came to. Of the project it
/// tries what the policy withholds: `denied` and `masked` to be read, `protected` to be written.
fn fault_agent(args: &[OsString]) -> Act {
    let project = path(args, 0)?;
    fs::write(project.join("marker"), "").step("marker")?;
    let status = fs::read_to_string("/proc/self/status").needed("status")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map_or("?", |value| value.trim_start_matches(':').trim()).to_owned()
    };
    // SAFETY: no such descriptor: without a filter the kernel answers EBADF.
    let injected = unsafe { libc::ioctl(-1, libc::TIOCSTI, c"x".as_ptr()) };
    let injection = Errno::result(injected).err();
    let opened = |path: &Path| match fs::read(path) {
        Ok(bytes) if bytes.is_empty() => "empty".to_owned(),
        Ok(_) => "opened".to_owned(),
        Err(error) => format!("{:?}", Errno::from_raw(error.raw_os_error().unwrap_or(0))),
    };
    let written = fs::File::options().append(true).open(project.join("protected")).is_ok();
    let descriptors = fs::read_dir("/proc/self/fd").map(Iterator::count).needed("fd")?;
    Ok(format!(
        "agent nnp={} filters={} eff={} tiocsti={:?} secret={} canary={} denied={} masked={} protected={} fds={}",
        field("NoNewPrivs"),
        field("Seccomp_filters"),
        field("CapEff"),
        injection,
        opened(&path(args, 1)?),
        opened(Path::new("/run/guard/canary")),
        opened(&project.join("denied")),
        opened(&project.join("masked")),
        if written { "written" } else { "refused" },
        // But for the one it looks with.
        descriptors - 1,
    ))
}
