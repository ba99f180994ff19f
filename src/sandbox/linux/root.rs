//! The new root: from the plan's mounts to what the agent sees as `/`.
//!
//! In: a [`Plan`], in a process that has its own user and mount namespace. Out: that process lives in the new root
//! and the old one is gone. Every source is opened by its exact path without following a symlink and compared with
//! the identity the plan saw, so what changed in between is an error and not another grant.

use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::mount::{MntFlags, MsFlags};
use nix::sys::stat::{Mode, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, fchdir, symlinkat, unlinkat};

use super::wire::StartError;
use crate::host::{Capability, NamespaceFault};
use crate::path::AbsPath;
use crate::plan::{Hidden, Mount, Node, Plan, What, Writes};
use crate::sandbox::sys;

/// A readable file of the new root that no Landlock rule covers: what the checks try to open.
pub(super) const CANARY: &str = "/run/guard/canary";

/// Empty stand-ins, made once and bound wherever something is hidden. Gone from the root before the agent starts.
const STAND_INS: &str = ".guard-stand-ins";

type Done = Result<(), StartError>;

/// Maps the user to itself, and nobody else.
pub(super) fn map_ids(uid: u32, gid: u32) -> Done {
    let write = |file: &str, text: String| {
        fs::write(file, text).map_err(|e| {
            let errno = Errno::from_raw(e.raw_os_error().unwrap_or_default());
            StartError::new(format!("cannot write {file}"), errno).losing(refused(errno))
        })
    };
    write("/proc/self/setgroups", "deny".into())?;
    write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}

fn refused(errno: Errno) -> Capability {
    Capability::Namespaces(NamespaceFault::Refused(errno))
}

/// Tries each kind of mount that settings can forbid. Returns whether overlays can be had.
pub(super) fn try_mounts(uid: u32, gid: u32) -> Result<bool, StartError> {
    map_ids(uid, gid)?;
    make_private()?;
    let root = attach_new_root()?;
    sys::new_filesystem(c"proc", &[], sys::MOUNT_NOSUID).map_err(|e| {
        StartError::new("cannot mount /proc", e).losing(Capability::Namespaces(NamespaceFault::ProcMasked(e)))
    })?;
    // Without options it cannot be made; a kernel that has it in this namespace says EINVAL, one that has not ENODEV.
    let overlay = !matches!(sys::new_filesystem(c"overlay", &[], 0), Err(Errno::ENODEV | Errno::EPERM));
    // An initial ramdisk's root cannot be changed (pivot_root(2)).
    change_root(root.as_fd())?;
    Ok(overlay)
}

/// A new root on top of the old one: names keep resolving in the old one, whose root directory this process still
/// has, so nothing is hidden from the binds that follow, wherever their sources lie.
fn attach_new_root() -> Result<OwnedFd, StartError> {
    let lost = |what: &'static str| move |e| StartError::new(what, e).losing(refused(e));
    let root = new_tmpfs(16 << 20, 0o755).map_err(lost("cannot make a new root"))?;
    let old = sys::open_exact(Path::new("/")).map_err(lost("cannot open the old root"))?;
    sys::attach(root.as_fd(), old.as_fd()).map_err(lost("cannot attach the new root"))?;
    Ok(root)
}

fn change_root(root: BorrowedFd<'_>) -> Done {
    let pivot = |e| StartError::new("cannot change the root", e).losing(refused(e));
    fchdir(root).map_err(pivot)?;
    // The old root ends up stacked on the new one at the same place, from where it is detached (pivot_root(2)).
    nix::unistd::pivot_root(".", ".").map_err(pivot)?;
    nix::mount::umount2(".", MntFlags::MNT_DETACH).map_err(pivot)?;
    nix::unistd::chdir("/").map_err(pivot)
}

/// Nothing mounted here may reach the outside, and nothing mounted outside later may reach here.
fn make_private() -> Done {
    nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(|e| StartError::new("cannot make the mounts private", e).losing(refused(e)))
}

/// Builds the new root and moves this process into it.
pub(super) fn enter(plan: &Plan) -> Done {
    make_private()?;
    let root = attach_new_root()?;
    let builder = Root { root, plan };
    builder.stand_ins()?;
    for mount in &plan.mounts {
        builder.step(mount)?;
    }
    builder.finish()
}

struct Root<'a> {
    root: OwnedFd,
    plan: &'a Plan,
}

/// What a place must be for something to be mounted on it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Dir,
    File,
}

impl Root<'_> {
    fn stand_ins(&self) -> Done {
        let failed = |e| StartError::new("cannot make stand-ins for hidden files", e);
        let dir = AbsPath::root().join(STAND_INS);
        self.make(&dir, Place::Dir).map_err(failed)?;
        for (name, place, mode) in [
            ("file", Place::File, 0o444),
            ("denied", Place::File, 0),
            ("dir", Place::Dir, 0o555),
            ("denied-dir", Place::Dir, 0),
        ] {
            let fd = self.make(&dir.join(name), place).map_err(failed)?;
            chmod(fd.as_fd(), mode).map_err(failed)?;
        }
        Ok(())
    }

    fn step(&self, mount: &Mount) -> Done {
        let at = &mount.at;
        let failed = |e| StartError::new(format!("cannot mount {at} ({})", mount.origin), e);
        match &mount.what {
            What::Bind { node, dir, writes } => {
                let attributes =
                    sys::MOUNT_NOSUID | sys::MOUNT_NODEV | if *writes == Writes::No { sys::MOUNT_RDONLY } else { 0 };
                self.bind(node, *dir, attributes, at).map_err(failed)
            }
            What::Device(node) => self.bind(node, false, sys::MOUNT_NOSUID | sys::MOUNT_NOEXEC, at).map_err(failed),
            What::Private(dir) => {
                let node = Node { path: dir.clone(), id: None };
                self.bind(&node, true, sys::MOUNT_NOSUID | sys::MOUNT_NODEV, at).map_err(failed)
            }
            What::Overlay { lower, layer } => {
                let lost = |e| failed(e).losing(Capability::Overlay);
                let tree = overlay(lower, layer).map_err(lost)?;
                self.attach(&tree, at, Place::Dir).map_err(failed)
            }
            What::Tmpfs { bytes, mode } => {
                let tree = new_tmpfs(*bytes, *mode).map_err(failed)?;
                self.attach(&tree, at, Place::Dir).map_err(failed)
            }
            What::Proc => {
                let attributes = sys::MOUNT_NOSUID | sys::MOUNT_NODEV | sys::MOUNT_NOEXEC;
                let tree = sys::new_filesystem(c"proc", &[], attributes)
                    .map_err(|e| failed(e).losing(Capability::Namespaces(NamespaceFault::ProcMasked(e))))?;
                self.attach(&tree, at, Place::Dir).map_err(failed)
            }
            What::Terminals => {
                let options = [(c"newinstance", None), (c"ptmxmode", Some(c"0666")), (c"mode", Some(c"0620"))];
                let tree =
                    sys::new_filesystem(c"devpts", &options, sys::MOUNT_NOSUID | sys::MOUNT_NOEXEC).map_err(failed)?;
                self.attach(&tree, at, Place::Dir).map_err(failed)
            }
            What::Link(target) => {
                self.link(target, at).map_err(|e| StartError::new(format!("cannot make the link {at}"), e))
            }
            What::Frozen => {
                let place = self.open(at).map_err(failed)?;
                let tree = sys::clone_tree(place.as_fd()).map_err(failed)?;
                sys::set_attributes(tree.as_fd(), sys::MOUNT_RDONLY, true).map_err(failed)?;
                sys::attach(tree.as_fd(), place.as_fd()).map_err(failed)
            }
            What::EmptyDir(hidden) => {
                self.stand_in(if *hidden == Hidden::Denied { "denied-dir" } else { "dir" }, at).map_err(failed)
            }
            What::EmptyFile(hidden) => {
                self.stand_in(if *hidden == Hidden::Denied { "denied" } else { "file" }, at).map_err(failed)
            }
        }
    }

    fn bind(&self, node: &Node, dir: bool, attributes: u64, at: &AbsPath) -> Result<(), Errno> {
        let source = open_node(node)?;
        let tree = sys::clone_tree(source.as_fd())?;
        sys::set_attributes(tree.as_fd(), attributes, true)?;
        self.attach(&tree, at, if dir { Place::Dir } else { Place::File })
    }

    fn stand_in(&self, name: &str, at: &AbsPath) -> Result<(), Errno> {
        let source = self.open(&AbsPath::root().join(STAND_INS).join(name))?;
        let tree = sys::clone_tree(source.as_fd())?;
        let attributes = sys::MOUNT_RDONLY | sys::MOUNT_NOSUID | sys::MOUNT_NODEV | sys::MOUNT_NOEXEC;
        sys::set_attributes(tree.as_fd(), attributes, true)?;
        self.attach(&tree, at, if name.ends_with("dir") { Place::Dir } else { Place::File })
    }

    fn attach(&self, tree: &OwnedFd, at: &AbsPath, place: Place) -> Result<(), Errno> {
        let place = self.make(at, place)?;
        sys::attach(tree.as_fd(), place.as_fd())
    }

    fn open(&self, at: &AbsPath) -> Result<OwnedFd, Errno> {
        sys::open_below(self.root.as_fd(), relative(at))
    }

    /// Opens a place, making it and the directories above where they are missing. What an earlier session left in
    /// the sandbox home in the way of a mount is moved aside: it is the agent's own, and it may be a symlink.
    fn make(&self, at: &AbsPath, place: Place) -> Result<OwnedFd, Errno> {
        match self.open(at) {
            Ok(found) if !self.is_in_home(at) || fits(found.as_fd(), place)? => return Ok(found),
            Ok(_) | Err(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR) => {}
            Err(e) => return Err(e),
        }
        let mut dir =
            openat(self.root.as_fd(), ".", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        let names: Vec<&OsStr> = at.names().collect();
        let (last, above) = names.split_last().ok_or(Errno::EBUSY)?;
        let mut path = AbsPath::root();
        for name in above {
            path = path.join(name);
            dir = self.make_one(&dir, name, &path, Place::Dir)?;
        }
        self.make_one(&dir, last, at, place)
    }

    fn make_one(&self, dir: &OwnedFd, name: &OsStr, at: &AbsPath, place: Place) -> Result<OwnedFd, Errno> {
        let open = || openat(dir.as_fd(), name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty());
        match open() {
            Ok(found) if fits(found.as_fd(), place)? => return Ok(found),
            Ok(_) if self.is_in_home(at) => move_aside(dir.as_fd(), name)?,
            Ok(found) => {
                // A protected symlink: the mount goes onto the link itself.
                return if place == Place::File { Ok(found) } else { Err(Errno::ENOTDIR) };
            }
            Err(Errno::ENOENT) => {}
            Err(e) => return Err(e),
        }
        match place {
            // Another session of the project may make the same place at the same moment: then theirs is as good.
            Place::Dir => match mkdirat(dir.as_fd(), name, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(e) => return Err(e),
            },
            Place::File => {
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
                match openat(dir.as_fd(), name, flags, Mode::from_bits_truncate(0o644)) {
                    Ok(_) | Err(Errno::EEXIST) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        let made = open()?;
        if fits(made.as_fd(), place)? { Ok(made) } else { Err(Errno::EEXIST) }
    }

    fn link(&self, target: &Path, at: &AbsPath) -> Result<(), Errno> {
        let parent = at.parent().ok_or(Errno::EEXIST)?;
        let name = at.file_name().ok_or(Errno::EEXIST)?;
        let dir = self.make(&parent, Place::Dir)?;
        match symlinkat(target, dir.as_fd(), name) {
            Err(Errno::EEXIST) => {
                let same = nix::fcntl::readlinkat(dir.as_fd(), name).is_ok_and(|text| text == target.as_os_str());
                if same {
                    return Ok(());
                }
                if !self.is_in_home(at) {
                    return Err(Errno::EEXIST);
                }
                move_aside(dir.as_fd(), name)?;
                symlinkat(target, dir.as_fd(), name)
            }
            result => result,
        }
    }

    fn is_in_home(&self, at: &AbsPath) -> bool {
        // The nearest mount above decides: a granted part of the real home is not the sandbox's to rearrange.
        let mounts = &self.plan.mounts;
        let nearest = at.prefixes().skip(1).find_map(|p| mounts.binary_search_by(|m| m.at.as_bytes().cmp(p)).ok());
        nearest.map(|index| &mounts[index]).is_some_and(|m| matches!(m.what, What::Private(_)))
    }

    fn finish(&self) -> Done {
        let failed = |e| StartError::new("cannot finish the new root", e);
        // Unlinking leaves the mounts made from them; listing the root shows no trace.
        let dir = self.open(&AbsPath::root().join(STAND_INS)).map_err(failed)?;
        for (name, kind) in [
            ("file", UnlinkatFlags::NoRemoveDir),
            ("denied", UnlinkatFlags::NoRemoveDir),
            ("dir", UnlinkatFlags::RemoveDir),
            ("denied-dir", UnlinkatFlags::RemoveDir),
        ] {
            unlinkat(dir.as_fd(), name, kind).map_err(failed)?;
        }
        unlinkat(self.root.as_fd(), STAND_INS, UnlinkatFlags::RemoveDir).map_err(failed)?;
        self.make(&AbsPath::known(CANARY), Place::File).map_err(failed)?;
        // What was made to mount on stays as it is from here on.
        let dev = self.open(&AbsPath::known("/dev")).map_err(failed)?;
        sys::set_attributes(dev.as_fd(), sys::MOUNT_RDONLY, false).map_err(failed)?;
        sys::set_attributes(self.root.as_fd(), sys::MOUNT_RDONLY, false).map_err(failed)?;
        change_root(self.root.as_fd())
    }
}

fn relative(at: &AbsPath) -> &Path {
    match at.below(&AbsPath::root()) {
        Some(path) if !path.as_os_str().is_empty() => path,
        Some(_) | None => Path::new("."),
    }
}

fn fits(found: BorrowedFd<'_>, place: Place) -> Result<bool, Errno> {
    let kind = fstat(found)?.st_mode & libc::S_IFMT;
    Ok(match place {
        Place::Dir => kind == libc::S_IFDIR,
        Place::File => kind != libc::S_IFDIR && kind != libc::S_IFLNK,
    })
}

/// Renames something out of the way, or removes what is not a directory.
fn move_aside(dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    let is_dir = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    if !is_dir {
        return unlinkat(dir, name, UnlinkatFlags::NoRemoveDir);
    }
    for number in 1..100 {
        let mut aside = name.to_owned();
        aside.push(format!(".aside-{number}"));
        match nix::fcntl::renameat2(dir, name, dir, aside.as_os_str(), nix::fcntl::RenameFlags::RENAME_NOREPLACE) {
            Err(Errno::EEXIST) => {}
            result => return result,
        }
    }
    Err(Errno::EEXIST)
}

fn open_node(node: &Node) -> Result<OwnedFd, Errno> {
    let source = sys::open_exact(node.path.as_path())?;
    if let Some(id) = node.id {
        let stat = fstat(source.as_fd())?;
        // Changed since the plan was made: what the policy spoke of is not what lies here now.
        if (stat.st_dev, stat.st_ino) != id {
            return Err(Errno::ESTALE);
        }
    }
    Ok(source)
}

fn new_tmpfs(bytes: u64, mode: u32) -> Result<OwnedFd, Errno> {
    let text = |text: String| CString::new(text).expect("numbers have no NUL");
    let (size, mode) = (text(bytes.to_string()), text(format!("{mode:o}")));
    sys::new_filesystem(
        c"tmpfs",
        &[(c"size", Some(&size)), (c"mode", Some(&mode))],
        sys::MOUNT_NOSUID | sys::MOUNT_NODEV,
    )
}

fn overlay(lower: &Node, layer: &AbsPath) -> Result<OwnedFd, Errno> {
    let lower = open_node(lower)?;
    let upper = sys::open_exact(layer.join("upper").as_path())?;
    let work = sys::open_exact(layer.join("work").as_path())?;
    // By descriptor, not by name: an overlay's options give meaning to commas, colons and backslashes.
    let path = |fd: &OwnedFd| CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).expect("numbers have no NUL");
    let (lower_path, upper_path, work_path) = (path(&lower), path(&upper), path(&work));
    let options: [(&CStr, Option<&CStr>); 4] = [
        (c"lowerdir", Some(&lower_path)),
        (c"upperdir", Some(&upper_path)),
        (c"workdir", Some(&work_path)),
        // Without privileges overlayfs may not use trusted.* attributes.
        (c"userxattr", None),
    ];
    sys::new_filesystem(c"overlay", &options, sys::MOUNT_NOSUID | sys::MOUNT_NODEV)
}

fn chmod(fd: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    // fchmod(2) refuses an O_PATH descriptor; by its name in /proc it works.
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    nix::sys::stat::fchmodat(
        nix::fcntl::AT_FDCWD,
        OsStr::from_bytes(path.as_bytes()),
        Mode::from_bits_truncate(mode),
        nix::sys::stat::FchmodatFlags::FollowSymlink,
    )
}
