//! Acts that knock on the parts of the kernel most local root bugs were in, and on what only root may ask for:
//! section 10 of the threat table, keyrings and shared memory of section 7.

use std::ffi::OsString;

use nix::errno::Errno;

use crate::act::{Act, Doer, Refusal, Step, c_string, check, number, reached, setup, shown, text};

pub const ACTS: &[(&str, Doer)] = &[
    ("io-uring", io_uring),
    ("userfaultfd", userfaultfd),
    ("perf-event", perf_event),
    ("bpf", bpf),
    ("modify-ldt", modify_ldt),
    ("add-key", add_key),
    ("request-key", request_key),
    ("keyctl", keyctl),
    ("key-read", key_read),
    ("shm-read", shm_read),
    ("kexec", kexec),
    ("init-module", init_module),
    ("swapon", swapon),
    ("reboot", reboot),
    ("acct", acct),
    ("quotactl", quotactl),
    ("kernel-log", kernel_log),
    ("set-hostname", set_hostname),
    ("set-clock", set_clock),
    ("unshare", unshare),
    ("clone-user", clone_user),
    ("clone3-user", clone3_user),
    ("capabilities", capabilities),
    ("no-new-privs", no_new_privs),
];

fn io_uring(_: &[OsString]) -> Act {
    let mut params = [0_u8; 120];
    // SAFETY: struct io_uring_params has 120 bytes, which the kernel reads and writes.
    check(unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, params.as_mut_ptr()) })?;
    Ok(String::new())
}

fn userfaultfd(_: &[OsString]) -> Act {
    // UFFD_USER_MODE_ONLY is what an unprivileged user may ask for.
    // SAFETY: makes a descriptor; no memory involved.
    check(unsafe { libc::syscall(libc::SYS_userfaultfd, 1) })?;
    Ok(String::new())
}

fn perf_event(_: &[OsString]) -> Act {
    let mut attr = [0_u8; 128];
    attr[0] = 1; // type: PERF_TYPE_SOFTWARE; config 0 is the CPU clock
    attr[4] = 128; // size
    attr[40] = 0b0110_0000; // exclude_kernel, exclude_hv: allowed at perf_event_paranoid 2
    // SAFETY: struct perf_event_attr has 128 bytes in this version, which the kernel reads.
    check(unsafe { libc::syscall(libc::SYS_perf_event_open, attr.as_ptr(), 0, -1, -1, 0) })?;
    Ok(String::new())
}

/// Makes an array map of one entry.
fn bpf(_: &[OsString]) -> Act {
    let attr: [u32; 30] = std::array::from_fn(|index| match index {
        0 => 2,
        1 | 2 => 4,
        3 => 1,
        _ => 0,
    });
    // SAFETY: the kernel reads the union's bytes, alive here.
    check(unsafe { libc::syscall(libc::SYS_bpf, 0, attr.as_ptr(), size_of_val(&attr)) })?;
    Ok(String::new())
}

fn modify_ldt(_: &[OsString]) -> Act {
    let mut table = [0_u8; 64];
    // SAFETY: function 0 reads the table into the buffer of the given length.
    check(unsafe { libc::syscall(libc::SYS_modify_ldt, 0, table.as_mut_ptr(), table.len()) })?;
    Ok(String::new())
}

const SESSION_KEYRING: i32 = -3;
const USER_KEYRING: i32 = -4;

fn add_key(_: &[OsString]) -> Act {
    // SAFETY: the kernel reads two strings and one byte, all literals.
    check(unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"user".as_ptr(),
            c"guard-probe".as_ptr(),
            c"x".as_ptr(),
            1,
            // The process keyring: gone with this process.
            -2,
        )
    })?;
    Ok(String::new())
}

fn request_key(_: &[OsString]) -> Act {
    // SAFETY: the kernel reads two strings; null: no upcall.
    let result = unsafe {
        libc::syscall(libc::SYS_request_key, c"user".as_ptr(), c"no-such".as_ptr(), std::ptr::null::<u8>(), 0)
    };
    match Errno::last() {
        // It looked and there was none.
        Errno::ENOKEY if result < 0 => Ok("none such".into()),
        errno if result < 0 => Err(errno.into()),
        _ => Ok(String::new()),
    }
}

fn keyctl(_: &[OsString]) -> Act {
    // KEYCTL_GET_KEYRING_ID of the session keyring, without making one.
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_keyctl, 0, SESSION_KEYRING, 0) })?;
    Ok(String::new())
}

/// `key-read session|user DESCRIPTION`: finds a key in a keyring that was there before us, and reads it.
fn key_read(args: &[OsString]) -> Act {
    let keyring = if text(args, 0)? == "user" { USER_KEYRING } else { SESSION_KEYRING };
    let name = c_string(args, 1)?;
    // KEYCTL_SEARCH
    // SAFETY: the kernel reads two strings, alive here.
    let key = check(unsafe { libc::syscall(libc::SYS_keyctl, 10, keyring, c"user".as_ptr(), name.as_ptr(), 0) })
        .step("KEYCTL_SEARCH")?;
    let mut bytes = [0_u8; 256];
    // KEYCTL_READ
    // SAFETY: the kernel writes at most that many bytes to the buffer.
    let count = check(unsafe { libc::syscall(libc::SYS_keyctl, 11, key, bytes.as_mut_ptr(), bytes.len()) })
        .step("KEYCTL_READ")?;
    Ok(shown(&bytes[..usize::try_from(count).expect("checked above").min(bytes.len())]))
}

/// `shm-read ID`: attaches a System V segment and reads it.
fn shm_read(args: &[OsString]) -> Act {
    let id = i32::try_from(number(args, 0)?).or_else(|_| setup("not an id"))?;
    // SAFETY: the kernel picks an unused address; read-only.
    let address = unsafe { libc::shmat(id, std::ptr::null(), libc::SHM_RDONLY) };
    if address.addr() == usize::MAX {
        return Err(Errno::last().into());
    }
    // SAFETY: the victim's segment is a page that ends in zeros (see victim.rs), now mapped.
    let found = unsafe { std::ffi::CStr::from_ptr(address.cast()) };
    Ok(shown(found.to_bytes()))
}

fn kexec(_: &[OsString]) -> Act {
    // SAFETY: no segments: at worst this unloads an image that nobody has loaded.
    reached(unsafe { libc::syscall(libc::SYS_kexec_load, 0, 0, std::ptr::null::<u8>(), 0) })
}

fn init_module(_: &[OsString]) -> Act {
    // SAFETY: an empty image at no address; the kernel refuses it at the latest when it looks.
    reached(unsafe { libc::syscall(libc::SYS_init_module, std::ptr::null::<u8>(), 0, c"".as_ptr()) })
}

fn swapon(_: &[OsString]) -> Act {
    // SAFETY: the kernel reads a literal; there is no such file.
    reached(unsafe { libc::syscall(libc::SYS_swapon, c"/no/such/swap".as_ptr(), 0) })
}

fn reboot(_: &[OsString]) -> Act {
    // SAFETY: the magic numbers are wrong, so the kernel can only complain about them.
    reached(unsafe { libc::syscall(libc::SYS_reboot, 1, 2, 3, 0) })
}

fn acct(_: &[OsString]) -> Act {
    // SAFETY: the kernel reads a literal; there is no such file.
    reached(unsafe { libc::syscall(libc::SYS_acct, c"/no/such/file".as_ptr()) })
}

fn quotactl(_: &[OsString]) -> Act {
    // Q_QUOTAOFF for the users' quota of a device that is none.
    // SAFETY: the kernel reads a literal.
    reached(unsafe { libc::syscall(libc::SYS_quotactl, 0x0080_0003_u32 << 8, c"/no/such/device".as_ptr(), 0, 0) })
}

fn kernel_log(_: &[OsString]) -> Act {
    let mut bytes = [0_u8; 64];
    // SYSLOG_ACTION_READ_ALL
    // SAFETY: the kernel writes at most that many bytes to the buffer.
    check(unsafe { libc::syscall(libc::SYS_syslog, 3, bytes.as_mut_ptr(), bytes.len()) })?;
    Ok(String::new())
}

/// Sets the name the machine has already.
fn set_hostname(_: &[OsString]) -> Act {
    let name = nix::unistd::gethostname().needed("gethostname")?;
    nix::unistd::sethostname(name)?;
    Ok(String::new())
}

/// Sets the kernel's time zone to what it is on every machine that keeps UTC, so that nothing changes.
fn set_clock(_: &[OsString]) -> Act {
    let utc = [0_i32, 0];
    // SAFETY: the kernel reads struct timezone, two integers; null: the time itself stays.
    check(unsafe { libc::syscall(libc::SYS_settimeofday, std::ptr::null::<libc::timeval>(), utc.as_ptr()) })?;
    Ok(String::new())
}

/// `unshare user|mount|pid|net|ipc|uts|cgroup`
fn unshare(args: &[OsString]) -> Act {
    let flag = match text(args, 0)? {
        "user" => libc::CLONE_NEWUSER,
        "mount" => libc::CLONE_NEWNS,
        "pid" => libc::CLONE_NEWPID,
        "net" => libc::CLONE_NEWNET,
        "ipc" => libc::CLONE_NEWIPC,
        "uts" => libc::CLONE_NEWUTS,
        "cgroup" => libc::CLONE_NEWCGROUP,
        other => return setup(format!("unknown namespace {other}")),
    };
    // SAFETY: integers only; this process has one thread.
    check(unsafe { libc::unshare(flag) })?;
    Ok(String::new())
}

fn clone_user(_: &[OsString]) -> Act {
    let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
    // SAFETY: like fork: no stack given, so the child gets a copy of ours.
    let child = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
    finish(child)
}

fn clone3_user(_: &[OsString]) -> Act {
    let mut clone_args = [0_u64; 11];
    clone_args[0] = u64::from(libc::CLONE_NEWUSER.cast_unsigned());
    clone_args[4] = u64::from(libc::SIGCHLD.cast_unsigned());
    // SAFETY: struct clone_args is eleven u64; no stack given, so the child gets a copy of ours.
    let child = check(unsafe { libc::syscall(libc::SYS_clone3, clone_args.as_ptr(), size_of_val(&clone_args)) })?;
    finish(child)
}

/// Ends the child of a raw clone, or waits for it.
fn finish(child: i64) -> Act {
    if child == 0 {
        // SAFETY: the child has nothing to clean up.
        unsafe { libc::_exit(0) };
    }
    // SAFETY: null: the status is not asked for.
    unsafe { libc::waitpid(i32::try_from(child).expect("a process id"), std::ptr::null_mut(), 0) };
    Ok(String::new())
}

/// Succeeds when this process holds any capability, in any of its sets.
fn capabilities(_: &[OsString]) -> Act {
    let status = std::fs::read_to_string("/proc/self/status").needed("/proc/self/status")?;
    let sets: Vec<&str> = status.lines().filter(|line| line.starts_with("Cap")).collect();
    let held = |line: &&str| line.split_whitespace().nth(1).is_some_and(|hex| hex.bytes().any(|byte| byte != b'0'));
    let all = sets.join(" ").replace('\t', " ");
    if sets.iter().any(held) { Ok(all) } else { Err(Refusal::Denied(Errno::EPERM, all)) }
}

/// Succeeds when this process could still gain rights by executing a set-user-ID program.
fn no_new_privs(_: &[OsString]) -> Act {
    // SAFETY: integers only.
    let set = check(unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) }).needed("prctl")?;
    if set == 0 { Ok("not set".into()) } else { Err(Refusal::Denied(Errno::EPERM, "set".into())) }
}
