//! Landlock's rules as data: the second lock on the same paths.
//!
//! In: the view. Out: [`Ruleset`], whose grants are words ([`Grant`]); which rights a word means on which ABI belongs
//! to the sandbox. Landlock only allows, so what narrows a grant has no rule here: in the full tier the mount alone
//! holds it.

use super::view::View;
use super::{Subject, Tier, What, Writes};
use crate::path::AbsPath;
use crate::policy::Access;

/// What a rule allows below its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grant {
    /// List directories.
    List,
    /// Read and execute files, list directories.
    Read,
    /// Read files, list directories.
    ReadData,
    /// Read and write files, list directories: `/proc`.
    WriteData,
    /// Everything but device nodes.
    Write,
    /// Read and write a device.
    Device,
    /// Read, write and control terminals.
    Terminal,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathGrant {
    /// The path, as it is when the rules are made: inside in the full tier.
    pub path: AbsPath,
    /// What is allowed.
    pub grant: Grant,
    /// A directory?
    pub dir: bool,
}

/// All of Landlock's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// The kernel's version of Landlock.
    pub abi: u32,
    /// What is allowed; everything else the version knows is not.
    pub paths: Vec<PathGrant>,
}

pub(super) fn build(view: &View, abi: u32, subject: &Subject<'_>, tier: Tier) -> Ruleset {
    let paths = match tier {
        Tier::Full => new_root(view, subject),
        Tier::Landlock => flat(view, subject),
    };
    Ruleset { abi, paths }
}

fn new_root(view: &View, subject: &Subject<'_>) -> Vec<PathGrant> {
    // The root holds nothing but what is granted, so its names may be listed.
    let mut paths = vec![PathGrant { path: AbsPath::root(), grant: Grant::List, dir: true }];
    for mount in &view.mounts {
        let (grant, dir) = match &mount.what {
            What::Bind { dir, writes: Writes::Yes, .. } => (Grant::Write, *dir),
            What::Bind { dir, writes: Writes::No, .. } => (Grant::Read, *dir),
            What::Private(_) | What::Overlay { .. } => (Grant::Write, true),
            // The directory of devices is read-only but for what is mounted in it.
            What::Tmpfs { .. } if mount.at == AbsPath::known("/dev") => (Grant::ReadData, true),
            What::Tmpfs { .. } => (Grant::Write, true),
            // Root could write what belongs to its uid: below the read-only mounts this is the second lock.
            What::Proc if subject.account.uid == 0 => (Grant::ReadData, true),
            What::Proc => (Grant::WriteData, true),
            What::Terminals => (Grant::Terminal, true),
            What::Device(_) => (device(&mount.at), false),
            What::Link(_) | What::Frozen | What::EmptyDir(_) => continue,
            What::EmptyFile(_) => continue,
        };
        paths.push(PathGrant { path: mount.at.clone(), grant, dir });
    }
    paths
}

fn device(at: &AbsPath) -> Grant {
    let terminal = ["/dev/tty", "/dev/console"].iter().any(|t| *at == AbsPath::known(t));
    if terminal { Grant::Terminal } else { Grant::Device }
}

fn flat(view: &View, subject: &Subject<'_>) -> Vec<PathGrant> {
    let mut paths: Vec<PathGrant> = Vec::new();
    for (at, item) in &view.items {
        let grant = match item.access {
            Access::Read | Access::Overlay => Grant::Read,
            Access::Write | Access::State => Grant::Write,
            Access::Protect | Access::Mask | Access::Deny => continue,
        };
        paths.push(PathGrant { path: at.clone(), grant, dir: item.dir });
    }
    let mut put = |path: AbsPath, grant, dir| paths.push(PathGrant { path, grant, dir });
    put(subject.store.flat_home.clone(), Grant::Write, true);
    put(subject.store.session.clone(), Grant::Write, true);
    for merged in &view.merged {
        put(merged.copy.parent().expect("a file below the store"), Grant::Write, true);
    }
    put(AbsPath::known("/proc"), Grant::ReadData, true);
    for name in ["null", "zero", "full", "random", "urandom"] {
        put(AbsPath::known(format!("/dev/{name}")), Grant::Device, false);
    }
    put(AbsPath::known("/dev/tty"), Grant::Terminal, false);
    if let Some(terminal) = subject.terminal {
        put(terminal.clone(), Grant::Terminal, false);
    }
    paths
}
