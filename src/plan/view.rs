//! What of the file system the sandbox sees, and how: the rules of the policy brought to the paths on disk.
//!
//! In: policy, host, tree and subject. Out: [`View`]: in the full tier the mounts of the new root, in the landlock
//! tier the granted paths and the links that make a home of them. Symlinks are followed here, once, and what they
//! lead to is mounted by identity: a link changed later changes nothing.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{Gap, Hidden, Merged, Mount, Node, Refusal, Subject, Tier, What, Writes};
use crate::host::Host;
use crate::path::AbsPath;
use crate::policy::{Access, Create, Policy, Rule, Socket};
use crate::profile::Origin;
use crate::tree::{Entry, Found, Kind, Lost, Tree, follow};

/// The private `/var/tmp`, `/dev/shm` and runtime directory hold less than `/tmp`.
const SMALL_TMPFS_BYTES: u64 = 1 << 30;

/// What an agent may put in a masked directory: locks, addresses, snapshots of a shell.
const MASK_BYTES: u64 = 16 << 20;

/// Where merged files lie inside.
const SHARED_INSIDE: &str = "/run/guard/shared";

/// The user's runtime directory (XDG Base Directory; systemd's place for it).
pub(super) fn runtime_dir(uid: u32) -> AbsPath {
    AbsPath::known(format!("/run/user/{uid}"))
}

/// A granted or withheld thing by its path on disk.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) access: Access,
    pub(super) node: Node,
    pub(super) dir: bool,
    pub(super) origin: Origin,
    /// The path as the rule has it.
    pub(super) written: AbsPath,
}

/// What the sandbox sees.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) mounts: Vec<Mount>,
    pub(super) items: BTreeMap<AbsPath, Item>,
    pub(super) links: Vec<(AbsPath, AbsPath)>,
    pub(super) create: Vec<(AbsPath, Create)>,
    pub(super) merged: Vec<Merged>,
    pub(super) gaps: Vec<Gap>,
    pub(super) absent: Vec<(AbsPath, Origin)>,
    pub(super) idle: Vec<(AbsPath, Origin, String)>,
    pub(super) socket_vars: Vec<(&'static str, OsString)>,
}

pub(super) fn build(
    policy: &Policy,
    host: &Host,
    tree: &dyn Tree,
    subject: &Subject<'_>,
    tier: Tier,
) -> Result<View, Refusal> {
    let mut builder = Builder {
        policy,
        tree,
        subject,
        view: View::default(),
        symlinks: BTreeMap::new(),
        stand_ins: Vec::new(),
        writable: Vec::new(),
    };
    builder.rules()?;
    builder.program();
    builder.sockets();
    builder.commands();
    builder.merged(tier);
    match tier {
        Tier::Full => builder.new_root(host),
        Tier::Landlock => builder.flat(),
    }
    Ok(builder.view)
}

struct Builder<'a> {
    policy: &'a Policy,
    tree: &'a dyn Tree,
    subject: &'a Subject<'a>,
    view: View,
    /// Links on the way to granted things: place and text.
    symlinks: BTreeMap<AbsPath, (PathBuf, Origin)>,
    /// Protected links whose target is not granted: shown empty.
    stand_ins: Vec<(AbsPath, Hidden, Origin)>,
    /// Where writable rules lead through links.
    writable: Vec<AbsPath>,
}

impl Builder<'_> {
    /// Whether the agent can write at this place, by the policy: a link there may be the agent's own.
    fn agent_writable(&self, path: &AbsPath) -> bool {
        match self.policy.rule(path) {
            Some((_, rule)) if matches!(rule.access, Access::Write | Access::State) => true,
            Some(_) | None => self.writable.iter().any(|dir| path.is_within(dir)),
        }
    }

    fn follow(&self, path: &AbsPath) -> Result<Found, Lost> {
        follow(self.tree, path, |link| link.parent().is_some_and(|dir| self.agent_writable(&dir)))
    }

    fn inside_a_grant(&self, path: &AbsPath) -> bool {
        path.prefixes().skip(1).filter_map(|p| self.policy.rules.get(p)).any(|rule| rule.access.grants())
    }

    fn rules(&mut self) -> Result<(), Refusal> {
        // A linked ~/.claude is writable by its real path, and links in it may be the agent's own.
        let writes = self.policy.rules.iter().filter(|(_, r)| matches!(r.access, Access::Write | Access::State));
        self.writable = writes
            .filter_map(|(path, _)| follow(self.tree, path, |_| false).ok())
            .filter(|found| !found.links.is_empty() && !self.subject.account.home.is_within(&found.real))
            .map(|found| found.real)
            .collect();
        // Withheld things by their real paths, so that no link elsewhere leads a grant into them. An agent's own link
        // does not say what they are.
        let withheld: Vec<(AbsPath, AbsPath, bool)> = self
            .policy
            .rules
            .iter()
            .filter(|(_, rule)| rule.access == Access::Deny)
            .map(|(path, rule)| {
                let real = self.follow(path).map_or_else(|_| path.clone(), |found| found.real);
                (path.clone(), real, rule.terminal)
            })
            .collect();
        let astray = |path: &AbsPath, rule: &Rule, real: &AbsPath| {
            rule.access.grants()
                && withheld.iter().any(|(written, withheld, terminal)| {
                    real.is_within(withheld) && (*terminal || !path.is_within(written))
                })
        };
        for (path, rule) in &self.policy.rules {
            let found = match self.follow(path) {
                Ok(found) => found,
                Err(Lost::Absent(missing)) if astray(path, rule, &missing) => {
                    self.idle(path, rule, "it leads into something withheld");
                    continue;
                }
                Err(Lost::Absent(missing)) => {
                    self.absent(path, rule, &missing);
                    continue;
                }
                Err(Lost::Barred(link, target)) => {
                    self.barred(path, rule, &link, &target);
                    continue;
                }
                // What guard cannot look at it cannot grant. What it should withhold or protect, and is granted with
                // the directory around it, the agent could open up again: it may be the agent that closed it.
                Err(Lost::Failed(at, e))
                    if e.kind() == std::io::ErrorKind::PermissionDenied
                        && (rule.access.grants() || !self.inside_a_grant(&at)) =>
                {
                    self.idle(path, rule, "no permission to look at it");
                    continue;
                }
                Err(Lost::Failed(at, source)) => {
                    return Err(Refusal::Rule { path: at, origin: rule.origin.clone(), source });
                }
            };
            if astray(path, rule, &found.real) {
                self.idle(path, rule, "it leads into something withheld");
                continue;
            }
            if rule.access.grants() && self.subject.account.home.is_within(&found.real) {
                self.idle(path, rule, "it leads to the home directory or above");
                continue;
            }
            self.add(path, rule, found);
        }
        Ok(())
    }

    fn add(&mut self, written: &AbsPath, rule: &Rule, found: Found) {
        if matches!(found.entry.kind, Kind::Special | Kind::Socket) && rule.access.grants() {
            self.idle(written, rule, "it is neither a file nor a directory");
            return;
        }
        if matches!(rule.access, Access::State | Access::Overlay) && found.entry.kind != Kind::Dir {
            self.idle(written, rule, "it is not a directory");
            return;
        }
        // What a sandbox has of its own is not granted from outside; /etc/mtab is a link into /proc and stays one.
        let own = |path: &AbsPath| ["/proc", "/dev"].iter().any(|own| path.is_within(&AbsPath::known(own)));
        for (place, target) in found.links.iter().filter(|(place, _)| !own(place)) {
            self.symlinks.entry(place.clone()).or_insert_with(|| (target.clone(), rule.origin.clone()));
        }
        if own(&found.real) {
            return;
        }
        let item = item(written, rule.access, &found.entry, &found.real, &rule.origin);
        // Two rules, one file: what narrows wins, else the wider grant.
        match self.view.items.get(&found.real) {
            Some(other) if other.access >= item.access => {}
            Some(_) | None => {
                self.view.items.insert(found.real, item);
            }
        }
    }

    fn absent(&mut self, path: &AbsPath, rule: &Rule, missing: &AbsPath) {
        if let Some(create) =
            self.policy.create.get(path).cloned().or((rule.access == Access::State).then_some(Create::Dir))
        {
            // Made by its real path: everything above the missing part has been followed.
            self.view.create.push((missing.clone(), create.clone()));
            let dir = create == Create::Dir;
            let node = Node { path: missing.clone(), id: None };
            let item = Item { access: rule.access, node, dir, origin: rule.origin.clone(), written: path.clone() };
            self.view.items.insert(missing.clone(), item);
            return;
        }
        match rule.access {
            Access::Protect => self.view.absent.push((missing.clone(), rule.origin.clone())),
            // guard's own config, or a start-up file, that is not there yet and lies in a writable grant.
            Access::Deny if rule.terminal && missing.parent().is_some_and(|dir| self.agent_writable(&dir)) => {
                self.view.absent.push((missing.clone(), rule.origin.clone()));
            }
            Access::Read | Access::Write | Access::State | Access::Overlay => {
                self.idle(path, rule, "it does not exist")
            }
            Access::Mask | Access::Deny => {}
        }
    }

    /// A rule's path leads through a link that the agent could have made.
    fn barred(&mut self, path: &AbsPath, rule: &Rule, link: &AbsPath, target: &std::path::Path) {
        if rule.access.grants() {
            self.idle(path, rule, &format!("{link} is a link in a directory the agent writes to"));
            return;
        }
        // The link itself is held in place: a mount on it shows its target where that is granted anyway, and
        // nothing where it is not. Following it elsewhere would let an agent choose what the next start opens.
        let found = follow(self.tree, link, |_| false);
        let granted = found.ok().filter(|found| {
            rule.access == Access::Protect
                && matches!(found.entry.kind, Kind::File | Kind::Dir)
                && self.policy.rule(&found.real).is_some_and(|(_, r)| r.access.grants() || r.access == Access::Protect)
        });
        match granted {
            Some(found) => {
                let item = item(path, Access::Protect, &found.entry, &found.real, &rule.origin);
                self.view.items.insert(link.clone(), item);
            }
            None => {
                let hidden = if rule.access == Access::Deny { Hidden::Denied } else { Hidden::Masked };
                let why = format!(
                    "{link} is a link to {}, which no rule opens: shown as empty",
                    crate::path::printable(target.as_os_str())
                );
                self.idle(path, rule, &why);
                self.stand_ins.push((link.clone(), hidden, rule.origin.clone()));
            }
        }
    }

    fn idle(&mut self, path: &AbsPath, rule: &Rule, why: &str) {
        self.view.idle.push((path.clone(), rule.origin.clone(), why.to_owned()));
    }

    /// What the command itself needs to start, where no rule says anything about it.
    fn program(&mut self) {
        let origin = Origin::text("the command itself");
        let needs = &self.subject.program.needs;
        for path in needs {
            let rule = Rule { access: Access::Read, origin: origin.clone(), terminal: false };
            let withheld = |path: &AbsPath| self.policy.rule(path).is_some_and(|(_, r)| !r.access.grants());
            // A tree with something withheld in it is no installation: its files are named one by one.
            let holds_withheld = self.policy.rules.iter().any(|(p, r)| r.access == Access::Deny && p.is_within(path));
            if withheld(path) || holds_withheld {
                continue;
            }
            if let Ok(found) = self.follow(path)
                && !withheld(&found.real)
                && !self.covered(&found.real)
            {
                self.add(path, &rule, found);
            }
        }
    }

    fn covered(&self, real: &AbsPath) -> bool {
        real.prefixes().find_map(|p| self.view.items.get(p)).is_some_and(|item| item.access.grants())
    }

    fn sockets(&mut self) {
        let env = self.subject.env;
        let account = self.subject.account;
        let runtime = runtime_dir(account.uid);
        for (socket, origin) in &self.policy.sockets {
            let variable = |name: &str| env.get(name).map(PathBuf::from);
            let (paths, vars): (Vec<PathBuf>, &[&'static str]) = match socket {
                Socket::SshAgent => (variable("SSH_AUTH_SOCK").into_iter().collect(), &["SSH_AUTH_SOCK"]),
                Socket::GpgAgent => {
                    let below = |dir: &AbsPath| dir.as_path().join("S.gpg-agent");
                    (vec![below(&account.home.join(".gnupg")), below(&runtime.join("gnupg"))], &[])
                }
                Socket::Docker => (vec!["/run/docker.sock".into(), "/var/run/docker.sock".into()], &[]),
                Socket::Wayland => {
                    let display = variable("WAYLAND_DISPLAY").map(|d| runtime.as_path().join(d));
                    (display.into_iter().collect(), &["WAYLAND_DISPLAY"])
                }
                Socket::X11 => {
                    let auth = variable("XAUTHORITY").or(Some(account.home.as_path().join(".Xauthority")));
                    (["/tmp/.X11-unix".into()].into_iter().chain(auth).collect(), &["DISPLAY", "XAUTHORITY"])
                }
            };
            for path in paths {
                let Some(found) = AbsPath::new(&path).ok().and_then(|p| follow(self.tree, &p, |_| false).ok()) else {
                    continue;
                };
                let in_project = self.subject.project.root.as_ref().is_some_and(|root| found.real.is_within(root));
                // The variable is a claim: a socket of somebody else's making in the project is not the user's agent.
                if in_project || !(found.entry.uid == account.uid || found.entry.uid == 0) {
                    continue;
                }
                // Nor does a variable open a directory or a file: X11 alone has one of each.
                let x11_dir = path.as_path() == Path::new("/tmp/.X11-unix");
                let fits = match found.entry.kind {
                    Kind::Socket => true,
                    Kind::Dir => x11_dir,
                    Kind::File => {
                        let withheld = self.policy.rule(&found.real).is_some_and(|(_, r)| !r.access.grants());
                        *socket == Socket::X11 && !withheld
                    }
                    Kind::Link(_) | Kind::Special => false,
                };
                if !fits {
                    continue;
                }
                let written = AbsPath::known(&path);
                for (place, target) in &found.links {
                    self.symlinks.entry(place.clone()).or_insert_with(|| (target.clone(), origin.clone()));
                }
                self.view
                    .items
                    .insert(found.real.clone(), item(&written, Access::Write, &found.entry, &found.real, origin));
            }
            for name in vars {
                if let Some(value) = env.get(name) {
                    self.view.socket_vars.push((name, value.to_owned()));
                }
            }
        }
    }

    /// Denied commands: every file of that name on PATH, and what it leads to, cannot be opened.
    fn commands(&mut self) {
        let search = super::search(self.subject.env);
        for (name, origin) in &self.policy.commands {
            for path in crate::program::all_named(name, search, &self.subject.project.cwd) {
                if let Ok(found) = follow(self.tree, &path, |_| false) {
                    let item = item(&path, Access::Deny, &found.entry, &found.real, origin);
                    self.view.items.insert(found.real, item);
                }
            }
        }
    }

    fn merged(&mut self, tier: Tier) {
        let store = &self.subject.store.shared.join(&self.policy.agent);
        for rule in &self.policy.merges {
            let Some(name) = rule.file.file_name() else { continue };
            if let Some((_, by)) = self.policy.rule(&rule.file)
                && matches!(by.access, Access::Mask | Access::Deny)
            {
                let why = format!("{} withholds it", by.origin);
                self.view.idle.push((rule.file.clone(), rule.origin.clone(), why));
                continue;
            }
            let dir_inside = match tier {
                Tier::Full => AbsPath::known(SHARED_INSIDE).join(&self.policy.agent),
                Tier::Landlock => store.clone(),
            };
            self.view.merged.push(Merged {
                real: rule.file.clone(),
                copy: store.join(name),
                dir_inside,
                keep_outside: rule.keep_outside.clone(),
                by_project: rule.by_project.clone(),
            });
        }
    }

    /// The mounts of the new root.
    fn new_root(&mut self, host: &Host) {
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

    /// The landlock tier: nothing can be put over anything, so what narrows a grant is a gap.
    fn flat(&mut self) {
        let mut withheld = Vec::new();
        let mut protected = Vec::new();
        let mut caches = Vec::new();
        for (at, item) in &self.view.items {
            // What is only protected is as open as what is above it.
            let mut above = at.prefixes().skip(1).filter_map(|p| self.view.items.get(p)).map(|i| i.access);
            let above = above.find(|access| *access != Access::Protect);
            let writable = matches!(above, Some(Access::Write | Access::State));
            match item.access {
                Access::Mask | Access::Deny if above.is_some_and(Access::grants) => withheld.push(at.clone()),
                Access::Protect if writable => protected.push(at.clone()),
                Access::Read if writable => protected.push(at.clone()),
                Access::Overlay if writable => protected.push(at.clone()),
                Access::Overlay => caches.push(at.clone()),
                Access::Read | Access::Write | Access::State | Access::Mask | Access::Deny | Access::Protect => {}
            }
        }
        for (found, gap) in
            [(withheld, Gap::Withheld as fn(_) -> _), (protected, Gap::Protected), (caches, Gap::Caches)]
        {
            if !found.is_empty() {
                self.view.gaps.push(gap(found));
            }
        }
        let home = &self.subject.account.home;
        let mut links: BTreeMap<AbsPath, AbsPath> = BTreeMap::new();
        for item in self.view.items.values().filter(|item| item.access.grants()) {
            if let Some(below) = item.written.below(home)
                && !below.as_os_str().is_empty()
                && self.subject.project.root.as_ref().is_none_or(|root| !item.written.is_within(root))
            {
                links.insert(self.subject.store.flat_home.join(below), item.node.path.clone());
            }
        }
        for merged in &self.view.merged {
            if let Some(below) = merged.real.below(home) {
                links.insert(self.subject.store.flat_home.join(below), merged.copy.clone());
            }
        }
        // A link below a linked directory would be made in the real one.
        let tops: Vec<AbsPath> =
            links.keys().filter(|l| l.ancestors().skip(1).any(|p| links.contains_key(&p))).cloned().collect();
        for below in tops {
            links.remove(&below);
        }
        self.view.links = links.into_iter().collect();
    }
}

fn item(written: &AbsPath, access: Access, entry: &Entry, real: &AbsPath, origin: &Origin) -> Item {
    Item {
        access,
        node: Node { path: real.clone(), id: Some(entry.id) },
        dir: entry.kind == Kind::Dir,
        origin: origin.clone(),
        written: written.clone(),
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
