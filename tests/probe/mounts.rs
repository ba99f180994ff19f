//! Acts that rearrange what paths mean: the mount family, chroot, setns. `--own` first makes a user and a mount
//! namespace, which is how an unprivileged process gets to try.

use std::ffi::{CString, OsString};
use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::act::{Act, Doer, Refusal, Step, c_path, check, path, setup, shown, text};

pub const ACTS: &[(&str, Doer)] = &[
    ("mount-bind", bind),
    ("mount-tmpfs", tmpfs),
    ("mount-overlay", overlay),
    ("mount-proc", proc),
    ("mount-umount", unmount),
    ("mount-remount", remount),
    ("mount-fsopen", fsopen),
    ("mount-open-tree", open_tree),
    ("mount-setattr", setattr),
    ("pivot-root", pivot_root),
    ("chroot", chroot),
    ("setns", setns),
];

/// Takes `--own` off the front and does what it says.
fn enter(args: &[OsString]) -> Result<&[OsString], Refusal> {
    let Some((first, rest)) = args.split_first() else { return Ok(args) };
    if first != "--own" {
        return Ok(args);
    }
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).step("unshare")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).step("uid_map")?;
    fs::write("/proc/self/setgroups", "deny").step("setgroups")?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).step("gid_map")?;
    Ok(rest)
}

/// A place to mount on that is surely writable: given by the test, in the project.
fn place(args: &[OsString], index: usize) -> Result<PathBuf, Refusal> {
    let place = path(args, index)?;
    fs::create_dir_all(&place).needed("mkdir")?;
    Ok(place)
}

const NONE: Option<&str> = None;

/// `mount-bind [--own] SECRET-DIR NAME PLACE`: reads NAME through a bind mount of its directory.
fn bind(args: &[OsString]) -> Act {
    let args = enter(args)?;
    let place = place(args, 2)?;
    mount(Some(&path(args, 0)?), &place, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE).step("mount")?;
    read(&place.join(path(args, 1)?))
}

fn tmpfs(args: &[OsString]) -> Act {
    let args = enter(args)?;
    mount(Some("tmpfs"), &place(args, 0)?, Some("tmpfs"), MsFlags::empty(), NONE).step("mount")?;
    Ok(String::new())
}

/// `mount-overlay [--own] SECRET-DIR NAME PLACE`: the secret as lower layer.
fn overlay(args: &[OsString]) -> Act {
    let args = enter(args)?;
    let place = place(args, 2)?;
    let layers = format!("lowerdir={}:/usr/lib", path(args, 0)?.display());
    mount(Some("overlay"), &place, Some("overlay"), MsFlags::empty(), Some(layers.as_str())).step("mount")?;
    read(&place.join(path(args, 1)?))
}

/// A fresh /proc shows what the masked one hides.
fn proc(args: &[OsString]) -> Act {
    let args = enter(args)?;
    mount(Some("proc"), &place(args, 0)?, Some("proc"), MsFlags::empty(), NONE).step("mount")?;
    Ok(String::new())
}

/// Takes away what lies over a path, and lists what comes to light.
fn unmount(args: &[OsString]) -> Act {
    let args = enter(args)?;
    umount2(&path(args, 0)?, MntFlags::MNT_DETACH).step("umount")?;
    Ok(String::new())
}

/// Makes a read-only mount writable.
fn remount(args: &[OsString]) -> Act {
    let args = enter(args)?;
    mount(NONE, &path(args, 0)?, NONE, MsFlags::MS_REMOUNT | MsFlags::MS_BIND, NONE).step("remount")?;
    Ok(String::new())
}

/// The newer way: fsopen, fsconfig, fsmount, move_mount.
fn fsopen(args: &[OsString]) -> Act {
    let args = enter(args)?;
    let place = c_path(&place(args, 0)?);
    // SAFETY: the kernel reads a literal.
    let context = check(unsafe { libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), 0) }).step("fsopen")?;
    // FSCONFIG_CMD_CREATE
    // SAFETY: this command takes no key and no value.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, context, 6, 0, 0, 0) }).step("fsconfig")?;
    // SAFETY: integers only.
    let tree = check(unsafe { libc::syscall(libc::SYS_fsmount, context, 0, 0) }).step("fsmount")?;
    move_mount(tree, &place)
}

/// `mount-open-tree [--own] SECRET-DIR NAME PLACE`: a detached copy of the tree, attached here.
fn open_tree(args: &[OsString]) -> Act {
    let args = enter(args)?;
    let (source, place) = (c_path(&path(args, 0)?), place(args, 2)?);
    // OPEN_TREE_CLONE
    let flags = 1 | libc::AT_RECURSIVE;
    // SAFETY: the kernel reads the string, alive here.
    let tree = check(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, source.as_ptr(), flags) })
        .step("open_tree")?;
    move_mount(tree, &c_path(&place))?;
    read(&place.join(path(args, 1)?))
}

fn move_mount(tree: i64, place: &CString) -> Act {
    // MOVE_MOUNT_F_EMPTY_PATH
    // SAFETY: the kernel reads two strings, alive here.
    check(unsafe { libc::syscall(libc::SYS_move_mount, tree, c"".as_ptr(), libc::AT_FDCWD, place.as_ptr(), 4) })
        .step("move_mount")?;
    Ok(String::new())
}

/// Takes `MOUNT_ATTR_RDONLY` off a mount.
fn setattr(args: &[OsString]) -> Act {
    let args = enter(args)?;
    let place = c_path(&path(args, 0)?);
    let attr = [0_u64, 1, 0, 0];
    // SAFETY: struct mount_attr is four u64; the kernel reads both, alive here.
    check(unsafe {
        libc::syscall(libc::SYS_mount_setattr, libc::AT_FDCWD, place.as_ptr(), 0, attr.as_ptr(), size_of_val(&attr))
    })
    .step("mount_setattr")?;
    Ok(String::new())
}

/// Stacks the root on itself; harmless where it is allowed.
fn pivot_root(args: &[OsString]) -> Act {
    let args = enter(args)?;
    let place = place(args, 0)?;
    mount(Some("tmpfs"), &place, Some("tmpfs"), MsFlags::empty(), NONE).step("mount")?;
    std::env::set_current_dir(&place).step("chdir")?;
    // SAFETY: the kernel reads two literals.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) }).step("pivot_root")?;
    Ok(String::new())
}

fn chroot(args: &[OsString]) -> Act {
    let args = enter(args)?;
    nix::unistd::chroot(&path(args, 0)?)?;
    Ok(String::new())
}

/// `setns PID mnt|user|net|pid…`
fn setns(args: &[OsString]) -> Act {
    let file = fs::File::open(format!("/proc/{}/ns/{}", text(args, 0)?, text(args, 1)?)).step("open")?;
    // SAFETY: integers only.
    check(unsafe { libc::setns(file.as_raw_fd(), 0) }).step("setns")?;
    Ok(String::new())
}

fn read(file: &Path) -> Act {
    if file.as_os_str().is_empty() {
        return setup("nothing to read");
    }
    Ok(shown(&fs::read(file).step("read")?))
}
