//! The file system as the planner sees it: look, do not touch.
//!
//! In: a path. Out: an [`Entry`], or why there is none. A trait, so that plans are made and tested over trees that
//! do not exist.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use crate::path::AbsPath;

/// What a path names, without following a symlink in its last component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The kind of thing.
    pub kind: Kind,
    /// Device and inode: what a mount must find again.
    pub id: (u64, u64),
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// Kinds of file system objects that matter to a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link with its text.
    Link(PathBuf),
    /// UNIX socket.
    Socket,
    /// FIFO or device.
    Special,
}

/// A look at a file system.
pub trait Tree {
    /// What is at this path; symlinks in all components but the last are followed by the system.
    ///
    /// # Errors
    /// The system's answer; `NotFound` for a path that does not exist.
    fn look(&self, path: &AbsPath) -> io::Result<Entry>;
}

/// The real file system.
#[derive(Debug, Clone, Copy)]
pub struct RealTree;

impl Tree for RealTree {
    fn look(&self, path: &AbsPath) -> io::Result<Entry> {
        let meta = fs::symlink_metadata(path)?;
        let kind = meta.file_type();
        let kind = if kind.is_dir() {
            Kind::Dir
        } else if kind.is_file() {
            Kind::File
        } else if kind.is_symlink() {
            Kind::Link(fs::read_link(path)?)
        } else if kind.is_socket() {
            Kind::Socket
        } else {
            Kind::Special
        };
        Ok(Entry { kind, id: (meta.dev(), meta.ino()), uid: meta.uid(), gid: meta.gid(), mode: meta.mode() & 0o7777 })
    }
}

/// The real file system, each path looked at once: a plan asks for the same directories again and again.
#[derive(Debug, Default)]
pub struct CachedTree(RefCell<BTreeMap<AbsPath, Result<Entry, i32>>>);

impl Tree for CachedTree {
    fn look(&self, path: &AbsPath) -> io::Result<Entry> {
        if let Some(known) = self.0.borrow().get(path) {
            return known.clone().map_err(io::Error::from_raw_os_error);
        }
        let found = RealTree.look(path);
        let remembered = match &found {
            Ok(entry) => Ok(entry.clone()),
            Err(e) => Err(e.raw_os_error().unwrap_or(libc::EIO)),
        };
        self.0.borrow_mut().insert(path.clone(), remembered);
        found
    }
}

/// A path followed to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The path without symlinks.
    pub real: AbsPath,
    /// What is there.
    pub entry: Entry,
    /// The symlinks on the way, each by its own path without symlinks, with its text.
    pub links: Vec<(AbsPath, PathBuf)>,
}

/// Why a path could not be followed to its end.
#[derive(Debug)]
pub enum Lost {
    /// It does not exist. Carries the path that was missing, without symlinks, as far as it could be known.
    Absent(AbsPath),
    /// A symlink that must not be followed: its place is given.
    Barred(AbsPath, PathBuf),
    /// The system's answer, at this path: a loop (`ELOOP`), no permission.
    Failed(AbsPath, io::Error),
}

/// The kernel's own limit of symlinks in one path (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

/// Follows a path symlink by symlink. `barred` says which links (by place) are not to be followed.
///
/// # Errors
/// [`Lost`].
pub fn follow(tree: &dyn Tree, path: &AbsPath, barred: impl Fn(&AbsPath) -> bool) -> Result<Found, Lost> {
    let mut links = Vec::new();
    let mut todo: Vec<std::ffi::OsString> = path.names().map(Into::into).collect();
    todo.reverse();
    let mut at = AbsPath::root();
    let mut entry = tree.look(&at).map_err(|e| Lost::Failed(at.clone(), e))?;
    while let Some(name) = todo.pop() {
        if name == ".." {
            at = at.parent().unwrap_or_else(AbsPath::root);
            entry = tree.look(&at).map_err(|e| Lost::Failed(at.clone(), e))?;
            continue;
        }
        let next = at.join(&name);
        entry = match tree.look(&next) {
            Ok(entry) => entry,
            Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ENOTDIR) => {
                let rest: PathBuf = todo.iter().rev().filter(|n| *n != "..").collect();
                return Err(Lost::Absent(if rest.as_os_str().is_empty() { next } else { next.join(rest) }));
            }
            Err(e) => return Err(Lost::Failed(next, e)),
        };
        let Kind::Link(target) = &entry.kind else {
            at = next;
            continue;
        };
        if barred(&next) {
            return Err(Lost::Barred(next, target.clone()));
        }
        if links.len() == MOST_LINKS {
            return Err(Lost::Failed(next, io::Error::from_raw_os_error(libc::ELOOP)));
        }
        for part in target.components().rev() {
            match part {
                std::path::Component::Normal(name) => todo.push(name.to_owned()),
                std::path::Component::ParentDir => todo.push("..".into()),
                std::path::Component::RootDir | std::path::Component::CurDir | std::path::Component::Prefix(_) => {}
            }
        }
        if target.is_absolute() {
            at = AbsPath::root();
        }
        links.push((next, target.clone()));
        if todo.is_empty() {
            entry = tree.look(&at).map_err(|e| Lost::Failed(at.clone(), e))?;
        }
    }
    Ok(Found { real: at, entry, links })
}

#[cfg(test)]
pub(crate) mod fake {
    //! A tree that exists only in a test.

    use super::*;

    /// Paths with their kinds; directories above are there by themselves.
    #[derive(Debug, Default, Clone)]
    pub(crate) struct FakeTree(BTreeMap<AbsPath, (Kind, u32)>);

    impl FakeTree {
        /// `/x/` a directory, `/x` a file, `/x -> y` a link, `/x=` a socket.
        pub(crate) fn new(paths: &[&str]) -> Self {
            let mut tree = Self::default();
            for text in paths {
                let (path, kind) = if let Some((path, target)) = text.split_once(" -> ") {
                    (path, Kind::Link(target.into()))
                } else if let Some(path) = text.strip_suffix('/') {
                    (path, Kind::Dir)
                } else if let Some(path) = text.strip_suffix('=') {
                    (path, Kind::Socket)
                } else {
                    (*text, Kind::File)
                };
                let path = AbsPath::known(path);
                for dir in path.ancestors().skip(1) {
                    tree.0.entry(dir).or_insert((Kind::Dir, 0o755));
                }
                tree.0.insert(path, (kind, 0o755));
            }
            tree.0.entry(AbsPath::root()).or_insert((Kind::Dir, 0o755));
            tree
        }
    }

    impl Tree for FakeTree {
        fn look(&self, path: &AbsPath) -> io::Result<Entry> {
            // As the kernel: links above the last component are followed.
            let parent = match path.parent() {
                Some(parent) => follow(self, &parent, |_| false).map_err(|lost| match lost {
                    Lost::Failed(_, e) => e,
                    Lost::Absent(_) | Lost::Barred(..) => io::ErrorKind::NotFound.into(),
                })?,
                None => {
                    return Ok(Entry { kind: Kind::Dir, id: (1, 0), uid: 1000, gid: 1000, mode: 0o755 });
                }
            };
            let real = parent.real.join(path.file_name().expect("not the root"));
            let index = self.0.keys().position(|k| *k == real);
            match self.0.get(&real) {
                Some((kind, mode)) => Ok(Entry {
                    kind: kind.clone(),
                    id: (1, index.unwrap_or_default() as u64 + 1),
                    uid: 1000,
                    gid: 1000,
                    mode: *mode,
                }),
                None => Err(io::ErrorKind::NotFound.into()),
            }
        }
    }

    #[test]
    fn follows_as_the_kernel_does() {
        let tree = FakeTree::new(&[
            "/usr/bin/sh",
            "/bin -> usr/bin",
            "/l -> /bin/sh",
            "/a -> b",
            "/b -> a",
            "/up -> usr/../usr",
        ]);
        let real = |path: &str| follow(&tree, &AbsPath::known(path), |_| false).map(|f| f.real);
        assert_eq!(real("/l").unwrap(), AbsPath::known("/usr/bin/sh"));
        assert_eq!(real("/up/bin").unwrap(), AbsPath::known("/usr/bin"));
        assert!(matches!(real("/a"), Err(Lost::Failed(_, e)) if e.raw_os_error() == Some(libc::ELOOP)));
        assert!(matches!(real("/bin/x/y"), Err(Lost::Absent(p)) if p == AbsPath::known("/usr/bin/x/y")));
        assert!(matches!(
            follow(&tree, &AbsPath::known("/l"), |p| *p == AbsPath::known("/bin")),
            Err(Lost::Barred(p, _)) if p == AbsPath::known("/bin")
        ));
    }
}
