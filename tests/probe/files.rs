//! Acts that look at files: sections 1 and 2 of the threat table.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::{Path, PathBuf};

use crate::act::{Act, Doer, Step, c_path, c_string, check, number, path, setup, shown, text};

pub const ACTS: &[(&str, Doer)] = &[
    ("read", read),
    ("read-openat2", read_openat2),
    ("read-opath", read_opath),
    ("read-fd", read_fd),
    ("read-dirfd", read_dirfd),
    ("read-by-symlink", read_by_symlink),
    ("read-by-link", read_by_link),
    ("read-by-rename", read_by_rename),
    ("stat", stat),
    ("access", access),
    ("list", list),
    ("readlink", readlink),
    ("watch", watch),
    ("fanotify", fanotify),
    ("handle-of", handle_of),
    ("read-handle", read_handle),
    ("fds", fds),
    ("env", env),
];

/// What a file may hold before reading stops; `/dev/zero` and FIFOs must not hang an act for ever.
const LIMIT: u64 = 1 << 20;

fn contents(file: File) -> Act {
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes).step("read")?;
    Ok(shown(&bytes))
}

fn read(args: &[OsString]) -> Act {
    contents(File::open(path(args, 0)?).step("open")?)
}

/// From `/` with a relative path, by the newer system call.
fn read_openat2(args: &[OsString]) -> Act {
    let target = path(args, 0)?;
    std::env::set_current_dir("/").step("chdir")?;
    let relative = c_path(target.strip_prefix("/").unwrap_or(&target));
    let how = [u64::try_from(libc::O_RDONLY).expect("a flag"), 0, 0];
    // SAFETY: the kernel reads a string and a struct of three u64 (struct open_how), both alive here.
    let fd = check(unsafe {
        libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, relative.as_ptr(), how.as_ptr(), size_of_val(&how))
    })
    .step("openat2")?;
    contents(owned(fd))
}

/// An O_PATH descriptor needs no right on the file; reopening it through /proc does.
fn read_opath(args: &[OsString]) -> Act {
    let fd = o_path(&path(args, 0)?)?;
    contents(File::open(format!("/proc/self/fd/{}", fd.as_raw_fd())).step("reopen")?)
}

fn read_fd(args: &[OsString]) -> Act {
    let fd = number(args, 0)?;
    // SAFETY: asks about a number; EBADF when there is no such descriptor.
    check(unsafe { libc::fcntl(fd_number(fd)?, libc::F_GETFD) }).step("fcntl")?;
    contents(owned(fd))
}

fn read_dirfd(args: &[OsString]) -> Act {
    let name = c_string(args, 1)?;
    // SAFETY: the kernel reads the string, alive here.
    let fd =
        check(unsafe { libc::openat(fd_number(number(args, 0)?)?, name.as_ptr(), libc::O_RDONLY) }).step("openat")?;
    contents(owned(fd))
}

fn read_by_symlink(args: &[OsString]) -> Act {
    let link = path(args, 1)?;
    std::os::unix::fs::symlink(path(args, 0)?, &link).needed("symlink")?;
    contents(File::open(&link).step("open")?)
}

fn read_by_link(args: &[OsString]) -> Act {
    let link = path(args, 1)?;
    fs::hard_link(path(args, 0)?, &link).step("link")?;
    contents(File::open(&link).step("open")?)
}

/// Renames a file or directory here, and reads it (or its third argument below it).
fn read_by_rename(args: &[OsString]) -> Act {
    let target = path(args, 1)?;
    fs::rename(path(args, 0)?, &target).step("rename")?;
    let below = args.get(2).map_or(target.clone(), |name| target.join(name));
    contents(File::open(below).step("open")?)
}

fn stat(args: &[OsString]) -> Act {
    let meta = fs::symlink_metadata(path(args, 0)?)?;
    Ok(format!("{} bytes", meta.len()))
}

fn access(args: &[OsString]) -> Act {
    let file = c_string(args, 0)?;
    // SAFETY: the kernel reads the string, alive here.
    check(unsafe { libc::access(file.as_ptr(), libc::F_OK) })?;
    Ok(String::new())
}

fn list(args: &[OsString]) -> Act {
    let mut names = Vec::new();
    for entry in fs::read_dir(path(args, 0)?).step("opendir")? {
        names.push(entry.step("readdir")?.file_name().to_string_lossy().into_owned());
    }
    Ok(names.join(" "))
}

fn readlink(args: &[OsString]) -> Act {
    Ok(fs::read_link(path(args, 0)?)?.display().to_string())
}

/// Names of files the user touches, by inotify.
fn watch(args: &[OsString]) -> Act {
    let file = c_string(args, 0)?;
    // SAFETY: makes a descriptor.
    let fd = check(unsafe { libc::inotify_init1(libc::IN_CLOEXEC) }).needed("inotify_init1")?;
    // SAFETY: the kernel reads the string, alive here.
    check(unsafe { libc::inotify_add_watch(fd_number(fd)?, file.as_ptr(), libc::IN_ALL_EVENTS) })
        .step("inotify_add_watch")?;
    Ok(String::new())
}

fn fanotify(_: &[OsString]) -> Act {
    // FAN_REPORT_FID is what an unprivileged user may ask for.
    // SAFETY: makes a descriptor.
    check(unsafe { libc::syscall(libc::SYS_fanotify_init, 0x200, libc::O_RDONLY) })?;
    Ok(String::new())
}

/// The kernel's handle of a file, for `read-handle`: type and bytes as hex.
fn handle_of(args: &[OsString]) -> Act {
    let file = c_string(args, 0)?;
    let mut handle = Handle { bytes: 128, kind: 0, data: [0; 128] };
    let mut mount_id = 0;
    // SAFETY: struct file_handle is a length, a type and that many bytes; all alive here.
    check(unsafe {
        libc::syscall(libc::SYS_name_to_handle_at, libc::AT_FDCWD, file.as_ptr(), &raw mut handle, &raw mut mount_id, 0)
    })?;
    let data: String = handle.data.iter().take(handle.bytes as usize).map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{} {data}", handle.kind))
}

/// `read-handle PATH-ON-THE-FILE-SYSTEM TYPE HEX`: the "shocker" of 2014.
fn read_handle(args: &[OsString]) -> Act {
    let place = c_string(args, 0)?;
    let hex = text(args, 2)?;
    let mut handle = Handle { bytes: 0, kind: i32::try_from(number(args, 1)?).unwrap_or(0), data: [0; 128] };
    for pair in hex.as_bytes().chunks(2) {
        let Ok(byte) = u8::from_str_radix(&String::from_utf8_lossy(pair), 16) else { return setup("not hex") };
        handle.data[handle.bytes as usize] = byte;
        handle.bytes += 1;
    }
    // SAFETY: the kernel reads the string, alive here.
    let mount = check(unsafe { libc::open(place.as_ptr(), libc::O_RDONLY) }).needed("open of the mount")?;
    // SAFETY: struct file_handle is a length, a type and that many bytes; all alive here.
    let fd = check(unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount, &raw const handle, libc::O_RDONLY) })?;
    contents(owned(fd))
}

#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    data: [u8; 128],
}

/// The descriptors this process was started with, and what they are.
fn fds(_: &[OsString]) -> Act {
    let mut found = Vec::new();
    for fd in 0..1024 {
        // SAFETY: asks about a number; EBADF when there is no such descriptor.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0 {
            let target = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_else(|_| PathBuf::from("?"));
            found.push(format!("{fd}={}", target.display()));
        }
    }
    Ok(found.join(" "))
}

/// The environment as it came, and as the kernel's own copy has it.
fn env(_: &[OsString]) -> Act {
    let kernel = fs::read("/proc/self/environ").needed("/proc/self/environ")?;
    let ours: Vec<String> = std::env::vars_os().map(|(k, v)| format!("{}={}", k.display(), v.display())).collect();
    Ok(format!("{} | {}", ours.join(" ").replace('\n', " "), shown(&kernel)))
}

pub fn o_path(file: &Path) -> Result<File, crate::act::Refusal> {
    let file = c_path(file);
    // SAFETY: the kernel reads the string, alive here.
    let fd = check(unsafe { libc::open(file.as_ptr(), libc::O_PATH) }).step("open with O_PATH")?;
    Ok(owned(fd))
}

fn owned(fd: i64) -> File {
    // SAFETY: the caller got this descriptor from the kernel and uses it nowhere else.
    unsafe { File::from_raw_fd(i32::try_from(fd).expect("descriptors are small")) }
}

pub fn fd_number(fd: i64) -> Result<i32, crate::act::Refusal> {
    i32::try_from(fd).or_else(|_| setup("not a descriptor"))
}
