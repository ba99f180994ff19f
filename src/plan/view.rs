//! What of the file system the sandbox sees, and how: the rules of the policy brought to the paths on disk.
//!
//! In: policy, host, tree and subject. Out: [`View`]: in the full tier the mounts of the new root, in the landlock
//! tier the granted paths and the links that make a home of them. Symlinks are followed here, once, and what they
//! lead to is mounted by identity: a link changed later changes nothing.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{Gap, Hidden, Merged, Mount, Node, Refusal, Subject, Tier};
use crate::host::Host;
use crate::path::AbsPath;
use crate::policy::{Access, Create, Policy, Rule, Socket};
use crate::profile::Origin;
use crate::tree::{Entry, Found, Kind, Lost, Tree, follow};

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

/// A view being built; [`super::mounts`] and [`super::flat`] finish it for their tier.
pub(super) struct Builder<'a> {
    pub(super) policy: &'a Policy,
    pub(super) tree: &'a dyn Tree,
    pub(super) subject: &'a Subject<'a>,
    pub(super) view: View,
    /// Links on the way to granted things: place and text.
    pub(super) symlinks: BTreeMap<AbsPath, (PathBuf, Origin)>,
    /// Protected links whose target is not granted: shown empty.
    pub(super) stand_ins: Vec<(AbsPath, Hidden, Origin)>,
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
