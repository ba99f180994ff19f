//! The full tier's part of the view: from granted and withheld things to the mounts of the new root.
//!
//! In: the items that [`super::view`] has found on disk. Out: [`Mount`]s, parents before children, without those that
//! would change nothing. The order of the map is the order of mounting.

use std::collections::BTreeMap;

use super::view::{Builder, runtime_dir};
use super::{Gap, Hidden, Mount, Node, What, Writes};
use crate::host::Host;
use crate::path::AbsPath;
use crate::policy::Access;
use crate::profile::Origin;
use crate::tree::{Entry, Kind};

/// The private `/var/tmp`, `/dev/shm` and runtime directory hold less than `/tmp`.
const SMALL_TMPFS_BYTES: u64 = 1 << 30;

/// What an agent may put in a masked directory: locks, addresses, snapshots of a shell.
const MASK_BYTES: u64 = 16 << 20;

impl Builder<'_> {
    /// The mounts of the new root.
    pub(super) fn new_root(&mut self, host: &Host) {
        let mut mounts: BTreeMap<AbsPath, (What, Origin)> = BTreeMap::new();
        self.base_mounts(&mut mounts);
        self.item_mounts(&mut mounts, host);
        for (link, hidden, origin) in &self.stand_ins {
            if self.writable_above(link, &mounts) {
                mounts.insert(link.clone(), (What::EmptyFile(*hidden), origin.clone()));
            }
        }
        self.pins(&mut mounts);
        for (place, (target, origin)) in &self.symlinks {
            // Inside something mounted the link is there already.
            let shown = place.prefixes().skip(1).find_map(|p| mounts.get(p));
            let bare = match shown {
                None => true,
                Some((What::Tmpfs { .. } | What::Private(_), _)) => true,
                Some(_) => false,
            };
            let below = mounts.keys().any(|at| at.is_within(place));
            if bare && !below {
                mounts.insert(place.clone(), (What::Link(target.clone()), origin.clone()));
            }
        }
        self.view.mounts = mounts.into_iter().map(|(at, (what, origin))| Mount { at, what, origin }).collect();
    }

    /// What every sandbox has of its own.
    fn base_mounts(&self, mounts: &mut BTreeMap<AbsPath, (What, Origin)>) {
        let own = Origin::text("every sandbox");
        let mut put = |at: &str, what| mounts.insert(AbsPath::known(at), (what, own.clone()));
        let small = |mode| What::Tmpfs { bytes: SMALL_TMPFS_BYTES.min(self.policy.resources.tmp_bytes), mode };
        put("/tmp", What::Tmpfs { bytes: self.policy.resources.tmp_bytes, mode: 0o1777 });
        put("/var/tmp", small(0o1777));
        put("/proc", What::Proc);
        // For root these accept writes by uid alone (proc_sys_permission, GLOBAL_ROOT_UID), whatever the namespace.
        for part in ["sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "scsi", "driver", "mtrr"] {
            self.if_there(&format!("/proc/{part}"), |_| put(&format!("/proc/{part}"), What::Frozen));
        }
        // What tells of the machine and its keys without being of use: the list container runtimes mask.
        for part in [
            "kcore",
            "keys",
            "key-users",
            "kmsg",
            "kpageflags",
            "kpagecount",
            "timer_list",
            "sched_debug",
            "vmallocinfo",
            "kallsyms",
        ] {
            self.if_there(&format!("/proc/{part}"), |_| put(&format!("/proc/{part}"), What::EmptyFile(Hidden::Masked)));
        }
        put("/dev", What::Tmpfs { bytes: 64 << 10, mode: 0o755 });
        for name in ["null", "zero", "full", "random", "urandom", "tty"] {
            let path = AbsPath::known(format!("/dev/{name}"));
            if let Ok(entry) = self.tree.look(&path) {
                put(&format!("/dev/{name}"), What::Device(Node { path, id: Some(entry.id) }));
            }
        }
        for (name, target) in [
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
            ("ptmx", "pts/ptmx"),
        ] {
            put(&format!("/dev/{name}"), What::Link(target.into()));
        }
        put("/dev/pts", What::Terminals);
        put("/dev/shm", small(0o1777));
        // ttyname(3) looks for the terminal's device by number in /dev when its path is not visible.
        if let Some(terminal) = self.subject.terminal
            && let Ok(entry) = self.tree.look(terminal)
        {
            put("/dev/console", What::Device(Node { path: terminal.clone(), id: Some(entry.id) }));
        }
        let runtime = runtime_dir(self.subject.account.uid);
        mounts.insert(runtime, (small(0o700), own.clone()));
        let store = self.subject.store;
        mounts.insert(
            self.subject.account.home.clone(),
            (What::Private(store.home.clone()), Origin::text("sandbox home")),
        );
        for merged in &self.view.merged {
            let dir = merged.copy.parent().expect("a file below the store");
            mounts.insert(merged.dir_inside.clone(), (What::Private(dir), Origin::text("shared by merging")));
            let target = merged.dir_inside.as_path().join(merged.copy.file_name().expect("a file below the store"));
            mounts.insert(merged.real.clone(), (What::Link(target), Origin::text("shared by merging")));
        }
    }

    fn if_there<T>(&self, path: &str, act: impl FnOnce(Entry) -> T) {
        if let Ok(entry) = self.tree.look(&AbsPath::known(path)) {
            act(entry);
        }
    }

    /// The policy's part of the new root, without mounts that change nothing.
    fn item_mounts(&mut self, mounts: &mut BTreeMap<AbsPath, (What, Origin)>, host: &Host) {
        let mut caches = Vec::new();
        for (at, item) in &self.view.items {
            let above = above(at, mounts);
            let bind = |writes| What::Bind { node: item.node.clone(), dir: item.dir, writes };
            let what = match item.access {
                Access::Read if above == Shown::ReadOnly => continue,
                Access::Read => bind(Writes::No),
                Access::Write | Access::State if above == Shown::Writable => continue,
                Access::Write | Access::State => bind(Writes::Yes),
                Access::Overlay if host.overlay => {
                    let name: String =
                        at.names().map(|n| n.to_string_lossy().replace('%', "%25")).collect::<Vec<_>>().join("%2f");
                    What::Overlay { lower: item.node.clone(), layer: self.subject.store.layers.join(name) }
                }
                Access::Overlay => {
                    caches.push(at.clone());
                    bind(Writes::No)
                }
                Access::Protect if above == Shown::Writable => bind(Writes::No),
                Access::Protect => continue,
                Access::Mask | Access::Deny => {
                    if above == Shown::Nothing {
                        continue;
                    }
                    match (item.access, item.dir) {
                        // An agent finds no lock of a daemon outside in a masked directory, and may start its own.
                        (Access::Mask, true) => What::Tmpfs { bytes: MASK_BYTES, mode: 0o700 },
                        // What a more specific rule grants in it needs a place and a way there.
                        (_, true) if self.grants_below(at) => What::Tmpfs { bytes: MASK_BYTES, mode: 0o700 },
                        (Access::Mask, false) => What::EmptyFile(Hidden::Masked),
                        (_, true) => What::EmptyDir(Hidden::Denied),
                        (_, false) => What::EmptyFile(Hidden::Denied),
                    }
                }
            };
            mounts.insert(at.clone(), (what, item.origin.clone()));
        }
        // A `.git` file decides which repository git obeys.
        if let Some(root) = &self.subject.project.root {
            let git = root.join(".git");
            if let Ok(entry) = self.tree.look(&git)
                && entry.kind == Kind::File
                && above(&git, mounts) == Shown::Writable
            {
                let node = Node { path: git.clone(), id: Some(entry.id) };
                mounts.insert(
                    git,
                    (What::Bind { node, dir: false, writes: Writes::No }, Origin::text("the project's git directory")),
                );
            }
        }
        if !caches.is_empty() {
            self.view.gaps.push(Gap::Caches(caches));
        }
    }

    fn grants_below(&self, dir: &AbsPath) -> bool {
        self.view.items.iter().any(|(at, item)| at != dir && at.is_within(dir) && item.access.grants())
    }

    fn writable_above(&self, path: &AbsPath, mounts: &BTreeMap<AbsPath, (What, Origin)>) -> bool {
        above(path, mounts) == Shown::Writable
    }

    /// Directories between a writable tree's top and something held read-only in it are bound onto themselves: a
    /// directory that only *contains* mounts can be renamed, and another put in its place.
    fn pins(&self, mounts: &mut BTreeMap<AbsPath, (What, Origin)>) {
        let mut pins = Vec::new();
        for (at, (what, origin)) in mounts.iter() {
            let holds = matches!(
                what,
                What::Bind { writes: Writes::No, .. }
                    | What::EmptyDir(_)
                    | What::EmptyFile(_)
                    | What::Tmpfs { .. }
                    | What::Overlay { .. }
            );
            if !holds {
                continue;
            }
            let mut between = Vec::new();
            for dir in at.ancestors().skip(1) {
                match mounts.get(&dir) {
                    Some((What::Bind { writes: Writes::Yes, .. }, _)) => {
                        pins.extend(between.iter().cloned().map(|dir: AbsPath| (dir, origin.clone())));
                        between.clear();
                    }
                    Some(_) => break,
                    None => between.push(dir),
                }
            }
        }
        for (dir, origin) in pins {
            if let Ok(entry) = self.tree.look(&dir)
                && entry.kind == Kind::Dir
            {
                let node = Node { path: dir.clone(), id: Some(entry.id) };
                mounts.entry(dir).or_insert((What::Bind { node, dir: true, writes: Writes::Yes }, origin));
            }
        }
    }
}

/// What shows at a place before anything is mounted there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// Nothing of the outside.
    Nothing,
    /// Something of the outside, read-only or in a private layer.
    ReadOnly,
    /// Something of the outside, writable.
    Writable,
}

fn above(at: &AbsPath, mounts: &BTreeMap<AbsPath, (What, Origin)>) -> Shown {
    match at.prefixes().skip(1).find_map(|p| mounts.get(p)) {
        Some((What::Bind { writes: Writes::Yes, .. }, _)) => Shown::Writable,
        Some((What::Bind { writes: Writes::No, .. } | What::Overlay { .. }, _)) => Shown::ReadOnly,
        Some((
            What::Device(_)
            | What::Private(_)
            | What::Tmpfs { .. }
            | What::Proc
            | What::Terminals
            | What::Link(_)
            | What::Frozen
            | What::EmptyDir(_)
            | What::EmptyFile(_),
            _,
        ))
        | None => Shown::Nothing,
    }
}
