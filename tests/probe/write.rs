//! Acts that change files: section 5 of the threat table, and what root could make of device nodes.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

use crate::act::{Act, Doer, Step, c_string, check, number, path, text};
use crate::files::o_path;

pub const ACTS: &[(&str, Doer)] = &[
    ("write", write),
    ("append", append),
    ("create", create),
    ("truncate", truncate),
    ("unlink", unlink),
    ("mkdir", mkdir),
    ("rename", rename),
    ("swap-directory", swap_directory),
    ("chmod", chmod),
    ("chmod-opath", chmod_opath),
    ("chown", chown),
    ("utime", utime),
    ("setxattr", setxattr),
    ("mknod", mknod),
    ("fill", fill),
    ("fifo-write", fifo_write),
];

/// Writes text (or "planted") to a file, making its parents like any installer would.
fn write(args: &[OsString]) -> Act {
    let file = path(args, 0)?;
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent).step("mkdir of the parents")?;
    }
    fs::write(&file, text(args, 1).unwrap_or("planted"))?;
    Ok(String::new())
}

fn append(args: &[OsString]) -> Act {
    OpenOptions::new().append(true).open(path(args, 0)?).step("open")?.write_all(text(args, 1)?.as_bytes())?;
    Ok(String::new())
}

fn create(args: &[OsString]) -> Act {
    OpenOptions::new().write(true).create_new(true).open(path(args, 0)?)?;
    Ok(String::new())
}

/// By path, which Landlock mediates only from ABI 3 on.
fn truncate(args: &[OsString]) -> Act {
    let file = c_string(args, 0)?;
    // SAFETY: the kernel reads the string, alive here.
    check(unsafe { libc::truncate(file.as_ptr(), 0) })?;
    Ok(String::new())
}

fn unlink(args: &[OsString]) -> Act {
    fs::remove_file(path(args, 0)?)?;
    Ok(String::new())
}

fn mkdir(args: &[OsString]) -> Act {
    fs::create_dir(path(args, 0)?)?;
    Ok(String::new())
}

fn rename(args: &[OsString]) -> Act {
    fs::rename(path(args, 0)?, path(args, 1)?)?;
    Ok(String::new())
}

/// Moves a directory away and puts another, with a planted file, in its place.
fn swap_directory(args: &[OsString]) -> Act {
    let dir = path(args, 0)?;
    let aside = dir.with_extension("aside");
    fs::rename(&dir, &aside).step("rename")?;
    fs::create_dir(&dir).step("mkdir")?;
    fs::write(dir.join("planted"), "planted").step("write")?;
    Ok(String::new())
}

fn chmod(args: &[OsString]) -> Act {
    fs::set_permissions(path(args, 0)?, fs::Permissions::from_mode(0o777))?;
    Ok(String::new())
}

/// Through an O_PATH descriptor, which no right on the file was needed for.
fn chmod_opath(args: &[OsString]) -> Act {
    let fd = o_path(&path(args, 0)?)?;
    let through = format!("/proc/self/fd/{}", fd.as_raw_fd());
    fs::set_permissions(through, fs::Permissions::from_mode(0o777)).step("chmod")?;
    Ok(String::new())
}

/// Gives the file the owner it should not get (or, for a user, the one it has: allowed outside all the same).
fn chown(args: &[OsString]) -> Act {
    let id = u32::try_from(number(args, 1)?).ok();
    std::os::unix::fs::lchown(path(args, 0)?, id, id)?;
    Ok(String::new())
}

fn utime(args: &[OsString]) -> Act {
    let file = c_string(args, 0)?;
    let times = [libc::timespec { tv_sec: 1, tv_nsec: 0 }, libc::timespec { tv_sec: 1, tv_nsec: 0 }];
    // SAFETY: the kernel reads the string and two timespecs, alive here.
    check(unsafe { libc::utimensat(libc::AT_FDCWD, file.as_ptr(), times.as_ptr(), 0) })?;
    Ok(String::new())
}

fn setxattr(args: &[OsString]) -> Act {
    let file = c_string(args, 0)?;
    // SAFETY: the kernel reads two strings and two bytes, alive here.
    check(unsafe { libc::setxattr(file.as_ptr(), c"user.probe".as_ptr(), c"x".as_ptr().cast(), 1, 0) })?;
    Ok(String::new())
}

/// `mknod char|block PATH`: a node for the memory device or the first disk.
fn mknod(args: &[OsString]) -> Act {
    let (kind, device) = match text(args, 0)? {
        "char" => (libc::S_IFCHR, libc::makedev(1, 1)),
        _ => (libc::S_IFBLK, libc::makedev(8, 0)),
    };
    let node = c_string(args, 1)?;
    // SAFETY: the kernel reads the string, alive here.
    check(unsafe { libc::mknod(node.as_ptr(), kind | 0o600, device) })?;
    Ok(String::new())
}

/// `fill DIR MIB`: how much fits.
fn fill(args: &[OsString]) -> Act {
    let mut file = fs::File::create(path(args, 0)?.join("fill")).step("create")?;
    let chunk = vec![1; 1 << 20];
    for _ in 0..number(args, 1)? {
        file.write_all(&chunk).step("write")?;
    }
    Ok(String::new())
}

/// Gives a command to the program that reads the FIFO.
fn fifo_write(args: &[OsString]) -> Act {
    OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path(args, 0)?)
        .step("open")?
        .write_all(text(args, 1)?.as_bytes())
        .step("write")?;
    Ok(String::new())
}
