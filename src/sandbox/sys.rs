//! The one file with `unsafe`: system calls that no crate here wraps, and what must be known before `main`.
//!
//! In and out: descriptors, paths, numbers; every function returns the system's errno. Policy has no place here.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsStr, OsString, c_int, c_uint, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nix::errno::Errno;
use nix::unistd::Pid;

/// A result with the system's errno.
pub type Result<T> = std::result::Result<T, Errno>;

// ---- before main -------------------------------------------------------------------------------------------------

static SIGPIPE_WAS_IGNORED: AtomicBool = AtomicBool::new(false);
static SIGCHLD_WAS_IGNORED: AtomicBool = AtomicBool::new(false);
static SIGXFSZ_WAS_IGNORED: AtomicBool = AtomicBool::new(false);

/// The signals whose handling guard changes for itself, and what its caller had.
const REMEMBERED: [(c_int, &AtomicBool); 3] = [
    (libc::SIGPIPE, &SIGPIPE_WAS_IGNORED),
    (libc::SIGCHLD, &SIGCHLD_WAS_IGNORED),
    (libc::SIGXFSZ, &SIGXFSZ_WAS_IGNORED),
];

static UMASK: AtomicU32 = AtomicU32::new(0o022);

/// Rust's start-up sets SIGPIPE to be ignored; the agent must inherit what guard's caller had.
extern "C" fn remember_inherited() {
    // With the caller's mask guard's own files could come out unreadable to guard itself.
    // SAFETY: takes and returns a number.
    let mask = unsafe { libc::umask(0o022) };
    // It always succeeds (umask(2)), unless a filter around guard forbids it.
    if mask <= 0o777 {
        UMASK.store(mask, Ordering::Relaxed);
    }
    for (signal, memory) in REMEMBERED {
        // SAFETY: an all-zero sigaction is a valid value, and the kernel only writes to it.
        let old = unsafe {
            let mut old: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, std::ptr::null(), &raw mut old) != 0 {
                continue;
            }
            old
        };
        memory.store(old.sa_sigaction == libc::SIG_IGN, Ordering::Relaxed);
    }
    // A limit on file sizes must fail a write of guard's with EFBIG, not kill guard.
    let _ = set_disposition(libc::SIGXFSZ, libc::SIG_IGN);
}

#[used]
#[unsafe(link_section = ".init_array")]
static REMEMBER_INHERITED: extern "C" fn() = remember_inherited;

/// Puts the umask, SIGPIPE, SIGCHLD and SIGXFSZ back to what guard's caller had, for the agent.
///
/// # Errors
/// The system's errno.
pub fn restore_inherited() -> Result<()> {
    // SAFETY: takes and returns a number.
    unsafe { libc::umask(UMASK.load(Ordering::Relaxed)) };
    for (signal, ignored) in REMEMBERED {
        let handler = if ignored.load(Ordering::Relaxed) { libc::SIG_IGN } else { libc::SIG_DFL };
        set_disposition(signal, handler)?;
    }
    Ok(())
}

/// SIGCHLD must not be ignored in a process that waits: the kernel would reap its children unseen.
///
/// # Errors
/// The system's errno.
pub fn default_disposition(signal: c_int) -> Result<()> {
    set_disposition(signal, libc::SIG_DFL)
}

/// Whether this signal is ignored now.
#[must_use]
pub fn is_ignored(signal: c_int) -> bool {
    // SAFETY: as in `remember_inherited`.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut old) == 0 && old.sa_sigaction == libc::SIG_IGN
    }
}

fn set_disposition(signal: c_int, handler: libc::sighandler_t) -> Result<()> {
    // SAFETY: the handler is SIG_DFL or SIG_IGN, so no code of ours runs in signal context.
    let result = unsafe { libc::signal(signal, handler) };
    if result == libc::SIG_ERR { Err(Errno::last()) } else { Ok(()) }
}

/// Overwrites the environment strings that the kernel put on this process's stack. They stay readable there for the
/// life of every process forked without exec (`/proc/PID/environ`, core dumps), whatever is removed from `environ`.
pub fn wipe_environ() {
    unsafe extern "C" {
        static mut environ: *mut *mut libc::c_char;
    }
    // SAFETY: called once, from `main`, with one thread, after the variables were copied; nobody holds a pointer into
    // the strings. They lie in writable memory (execve(2) puts them on the stack), each ending in NUL.
    unsafe {
        let mut entry = environ;
        if entry.is_null() {
            return;
        }
        while !(*entry).is_null() {
            let length = libc::strlen(*entry);
            std::ptr::write_bytes(*entry, 0, length);
            entry = entry.add(1);
        }
        *environ = std::ptr::null_mut();
    }
}

// ---- processes ---------------------------------------------------------------------------------------------------

/// Which side of a fork this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The process that called, with the child's id.
    Parent(Pid),
    /// The new process.
    Child,
}

/// Makes a child process in the namespaces named by `flags` (`CLONE_NEW*`, or 0).
///
/// # Errors
/// The system's errno; `EBUSY` when this process has more than one thread, whose locks would stay taken for ever.
pub fn fork(flags: c_int) -> Result<Fork> {
    let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count);
    // A /proc that cannot be read says nothing; the check is for mistakes in guard itself.
    if threads.is_ok_and(|count| count > 1) {
        return Err(Errno::EBUSY);
    }
    // SAFETY: without CLONE_VM and without a stack this is fork(2): the child has its own copy of everything. With one
    // thread no lock of the C library can be held across it. What glibc caches about the process (its thread id) is
    // not used afterwards: signals are sent with kill(2).
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(flags | libc::SIGCHLD), 0, 0, 0, 0) };
    match Errno::result(pid)? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(Pid::from_raw(pid as i32))),
    }
}

/// Replaces this process's program.
///
/// Returns only on failure, with the system's errno.
#[must_use]
pub fn execve(program: &CStr, argv: &[CString], envp: &[CString]) -> Errno {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(argv), pointers(envp));
    // SAFETY: both lists end in a null pointer, and the strings outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    Errno::last()
}

/// Ends this process at once, without running anything of the C library's or Rust's exit handlers.
pub fn exit_now(code: c_int) -> ! {
    // SAFETY: _exit(2) takes any number and does not return.
    unsafe { libc::_exit(code) }
}

/// prctl(2) with one argument.
///
/// # Errors
/// The system's errno.
pub fn prctl(option: c_int, argument: libc::c_ulong) -> Result<c_int> {
    // SAFETY: only options that take numbers are passed here, none that takes a pointer.
    Errno::result(unsafe { libc::prctl(option, argument, 0, 0, 0) })
}

/// Takes every capability from this process, for good: effective, permitted, inheritable, ambient and bounding.
///
/// # Errors
/// The system's errno.
pub fn drop_capabilities() -> Result<()> {
    const PR_CAP_AMBIENT: c_int = 47;
    const PR_CAP_AMBIENT_CLEAR_ALL: libc::c_ulong = 4;
    // The bounding set needs CAP_SETPCAP, so it goes first; without it there is nothing in it that could be gained
    // again under no_new_privs. Numbers past the kernel's last capability answer EINVAL.
    for capability in 0..64 {
        match prctl(libc::PR_CAPBSET_DROP, capability) {
            Ok(_) | Err(Errno::EPERM) => {}
            Err(Errno::EINVAL) => break,
            Err(e) => return Err(e),
        }
    }
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)?;
    capset([0; 6])?;
    if effective_capabilities()? != 0 { Err(Errno::EPERM) } else { Ok(()) }
}

/// linux/capability.h: version 3 of the interface, whose data is two sets of three words.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

fn capset(words: [u32; 6]) -> Result<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    // SAFETY: header and data have the layout of version 3 and outlive the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) }).map(drop)
}

/// The effective and permitted capabilities of this process, as one number that is 0 when there are none.
///
/// # Errors
/// The system's errno.
pub fn effective_capabilities() -> Result<u32> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut words = [0u32; 6];
    // SAFETY: as in `capset`; the kernel writes six words.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw const header, words.as_mut_ptr()) })?;
    Ok(words.iter().fold(0, |all, word| all | word))
}

/// Closes every descriptor from `first` up but the ones in `keep`.
///
/// # Errors
/// The system's errno.
pub fn close_from(first: RawFd, keep: &[RawFd]) -> Result<()> {
    let mut keep: Vec<RawFd> = keep.iter().copied().filter(|fd| *fd >= first).collect();
    keep.sort_unstable();
    let mut from = first;
    for fd in keep {
        if fd > from {
            close_range(from as c_uint, (fd - 1) as c_uint)?;
        }
        from = fd + 1;
    }
    close_range(from as c_uint, c_uint::MAX)
}

fn close_range(first: c_uint, last: c_uint) -> Result<()> {
    // SAFETY: closes descriptors that this process no longer uses: the caller has listed those it does.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Puts `from` in the place of the standard descriptor `to`.
///
/// # Errors
/// The system's errno.
pub fn replace_fd(from: BorrowedFd<'_>, to: RawFd) -> Result<()> {
    // SAFETY: `to` is 0, 1 or 2, which no Rust object owns.
    Errno::result(unsafe { libc::dup2(from.as_raw_fd(), to) }).map(drop)
}

/// Joins a new, empty session keyring; the one inherited holds what the login put there.
///
/// # Errors
/// The system's errno; `ENOSYS` on kernels without keyrings.
pub fn new_session_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    Errno::result(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<c_void>()) })
        .map(drop)
}

// ---- mounts ------------------------------------------------------------------------------------------------------

// linux/mount.h
const OPEN_TREE_CLONE: c_uint = 1;
const OPEN_TREE_CLOEXEC: c_uint = libc::O_CLOEXEC as c_uint;
const AT_RECURSIVE: c_uint = 0x8000;
const AT_EMPTY_PATH: c_uint = libc::AT_EMPTY_PATH as c_uint;
const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 4;
const MOVE_MOUNT_T_EMPTY_PATH: c_uint = 0x40;
const FSOPEN_CLOEXEC: c_uint = 1;
const FSMOUNT_CLOEXEC: c_uint = 1;
const FSCONFIG_SET_FLAG: c_uint = 0;
const FSCONFIG_SET_STRING: c_uint = 1;
const FSCONFIG_CMD_CREATE: c_uint = 6;
/// Read-only.
pub const MOUNT_RDONLY: u64 = 1;
/// No set-user-id.
pub const MOUNT_NOSUID: u64 = 2;
/// No device nodes.
pub const MOUNT_NODEV: u64 = 4;
/// No execution.
pub const MOUNT_NOEXEC: u64 = 8;

fn owned(result: libc::c_long) -> Result<OwnedFd> {
    let fd = Errno::result(result)?;
    // SAFETY: the system call has just returned this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn c_path(path: &OsStr) -> Result<CString> {
    CString::new(path.as_bytes()).map_err(|_| Errno::EINVAL)
}

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Opens a path without reading it (`O_PATH`), refusing every symlink on the way and at its end.
///
/// # Errors
/// The system's errno; `ELOOP` for a symlink.
pub fn open_exact(path: &Path) -> Result<OwnedFd> {
    const RESOLVE_NO_MAGICLINKS: u64 = 2;
    const RESOLVE_NO_SYMLINKS: u64 = 4;
    openat2(
        libc::AT_FDCWD,
        path.as_os_str(),
        libc::O_PATH | libc::O_NOFOLLOW,
        RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS,
    )
}

/// Opens a path below a directory (`O_PATH`), refusing symlinks on the way; one at the end is opened itself.
///
/// # Errors
/// The system's errno; `ELOOP` for a symlink on the way.
pub fn open_below(dir: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    const RESOLVE_NO_MAGICLINKS: u64 = 2;
    const RESOLVE_NO_SYMLINKS: u64 = 4;
    const RESOLVE_BENEATH: u64 = 8;
    let strict = RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH;
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    match openat2(dir.as_raw_fd(), path.as_os_str(), flags, strict | RESOLVE_NO_SYMLINKS) {
        Err(Errno::ELOOP) => {
            // The end may be a symlink; what leads there may not.
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
            let name = path.file_name().ok_or(Errno::ELOOP)?;
            let parent = match parent {
                Some(parent) => {
                    openat2(dir.as_raw_fd(), parent.as_os_str(), libc::O_PATH, strict | RESOLVE_NO_SYMLINKS)?
                }
                None => openat2(dir.as_raw_fd(), OsStr::new("."), libc::O_PATH, strict)?,
            };
            openat2(parent.as_raw_fd(), name, flags, strict)
        }
        result => result,
    }
}

fn openat2(dir: RawFd, path: &OsStr, flags: c_int, resolve: u64) -> Result<OwnedFd> {
    let path = c_path(path)?;
    let how = OpenHow { flags: (flags | libc::O_CLOEXEC) as u64, mode: 0, resolve };
    // SAFETY: path is NUL-terminated; `how` has the kernel's layout, and its size is passed along.
    owned(unsafe {
        libc::syscall(libc::SYS_openat2, dir, path.as_ptr(), &raw const how, std::mem::size_of::<OpenHow>())
    })
}

/// A copy of the mounts below an open file or directory, attached nowhere.
///
/// # Errors
/// The system's errno.
pub fn clone_tree(object: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE;
    // SAFETY: an empty path with AT_EMPTY_PATH means the descriptor itself.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, object.as_raw_fd(), c"".as_ptr(), flags) })
}

/// Sets mount attributes, on all mounts of the tree when `recursive`.
///
/// # Errors
/// The system's errno.
pub fn set_attributes(tree: BorrowedFd<'_>, attributes: u64, recursive: bool) -> Result<()> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let attr = MountAttr { set: attributes, clear: 0, propagation: 0, userns_fd: 0 };
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: `attr` has the kernel's layout, and its size is passed along.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            std::mem::size_of::<MountAttr>(),
        )
    };
    Errno::result(result).map(drop)
}

/// Attaches a mount at an open place.
///
/// # Errors
/// The system's errno.
pub fn attach(tree: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: empty paths with the two flags mean the descriptors themselves.
    let result = unsafe {
        libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), c"".as_ptr(), place.as_raw_fd(), c"".as_ptr(), flags)
    };
    Errno::result(result).map(drop)
}

/// A new file system instance, attached nowhere. An option without value is a flag.
///
/// # Errors
/// The system's errno.
pub fn new_filesystem(kind: &CStr, options: &[(&CStr, Option<&CStr>)], attributes: u64) -> Result<OwnedFd> {
    // SAFETY: the name is NUL-terminated.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })?;
    let configure = |command: c_uint, key: *const libc::c_char, value: *const libc::c_char| {
        // SAFETY: key and value are null or NUL-terminated and outlive the call.
        Errno::result(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0) })
    };
    for (key, value) in options {
        match value {
            Some(value) => configure(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr())?,
            None => configure(FSCONFIG_SET_FLAG, key.as_ptr(), std::ptr::null())?,
        };
    }
    configure(FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null())?;
    // SAFETY: the context is configured; the attributes are mount attribute bits.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) })
}

// ---- filters and rules -------------------------------------------------------------------------------------------

/// Installs a system call filter on this process.
///
/// # Errors
/// The system's errno.
pub fn install_filter(program: &[libc::sock_filter]) -> Result<()> {
    const SECCOMP_SET_MODE_FILTER: c_uint = 1;
    let program = libc::sock_fprog {
        len: program.len().try_into().map_err(|_| Errno::E2BIG)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies the program; it does not write to it.
    Errno::result(unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &raw const program) }).map(drop)
}

/// The version of Landlock this kernel speaks.
///
/// # Errors
/// `EOPNOTSUPP` when it is switched off at boot, `ENOSYS` when the kernel does not have it.
pub fn landlock_version() -> Result<u32> {
    const LANDLOCK_CREATE_RULESET_VERSION: c_uint = 1;
    // SAFETY: with this flag and no attributes the call only returns a number.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<c_void>(), 0, LANDLOCK_CREATE_RULESET_VERSION)
    };
    Errno::result(version).map(|v| v as u32)
}

/// Asks for terminal injection on no terminal at all, with bits above the 32 that the call looks at.
///
/// # Errors
/// `EPERM` when the filter is in force, `EBADF` when it is not.
pub fn try_terminal_injection() -> Result<()> {
    const TIOCSTI_WITH_HIGH_BITS: u64 = 0x1_0000_5412;
    // SAFETY: no such descriptor: without a filter the kernel answers EBADF before it looks at anything.
    Errno::result(unsafe { libc::syscall(libc::SYS_ioctl, -1, TIOCSTI_WITH_HIGH_BITS, c"".as_ptr()) }).map(drop)
}

// ---- network and terminal ----------------------------------------------------------------------------------------

/// Switches the loopback interface of this network namespace on.
///
/// # Errors
/// The system's errno.
pub fn loopback_up() -> Result<()> {
    // SAFETY: an all-zero ifreq is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: plain numbers; the result is checked.
    let socket =
        owned(libc::c_long::from(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }))?;
    // SAFETY: the request has the kernel's layout and outlives the call.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }).map(drop)
}

/// The foreground process group of a terminal.
///
/// # Errors
/// `ENOTTY` when it is not this process's terminal.
pub fn foreground_group(terminal: BorrowedFd<'_>) -> Result<Pid> {
    nix::unistd::tcgetpgrp(terminal)
}

// ---- environment -------------------------------------------------------------------------------------------------

/// `NAME=value` for execve.
///
/// # Errors
/// `EINVAL` for a NUL byte inside.
pub fn assignment(name: &OsStr, value: &OsStr) -> Result<CString> {
    let mut text = OsString::from(name);
    text.push("=");
    text.push(value);
    c_path(&text)
}

/// waitpid(2) with the raw status: of a death by signal it keeps every bit. `None` when nothing has changed.
///
/// # Errors
/// The system's errno; `ECHILD` without children.
pub fn wait_raw(pid: i32, flags: c_int) -> Result<Option<(i32, c_int)>> {
    let mut status = 0;
    // SAFETY: the kernel writes one int.
    let pid = Errno::result(unsafe { libc::waitpid(pid, &raw mut status, flags) })?;
    Ok((pid != 0).then_some((pid, status)))
}
