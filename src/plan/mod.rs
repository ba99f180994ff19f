//! The plan: what this host will do to enforce the policy, step by step.
//!
//! In: [`Policy`], [`Host`], a [`Tree`] to look at, and the [`Subject`] of the start. Out: [`Plan`] or [`Refusal`].
//! Nothing is changed and nothing is decided later: `run` carries the plan out, `why` reads it, `--dry-run` prints
//! it, the tests probe it. Whatever cannot be held becomes a [`Gap`]; what must be held and cannot, a [`Refusal`].

mod filter;
mod flat;
mod gap;
mod mounts;
mod ruleset;
#[cfg(test)]
mod tests;
mod verdict;
mod view;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

pub use filter::{Answer, ArgTest, SyscallRule, rules as filter_rules};
pub use gap::{Gap, Refusal};
pub use ruleset::{Grant, PathGrant, Ruleset};
pub use verdict::{Act, Verdict, socket_words};

use crate::account::Account;
use crate::env::{Env, Filtered};
use crate::host::Host;
use crate::path::AbsPath;
use crate::policy::{Create, Policy, Resources};
use crate::profile::Origin;
use crate::profile::schema::{NetworkMode, Require};
use crate::program::Program;
use crate::project::Project;
use crate::tree::Tree;

/// How much of the protection there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Landlock and seccomp only.
    Landlock,
    /// A new root in namespaces, and Landlock and seccomp inside it.
    Full,
}

impl Tier {
    /// The word for it on the command line and in messages.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Landlock => "landlock",
            Self::Full => "full",
        }
    }
}

/// Where guard keeps what belongs to this sandbox. All of it lies in guard's data directory, which no sandbox sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// The sandbox home of the full tier.
    pub home: AbsPath,
    /// The sandbox home of the landlock tier, where granted parts of the real home are links.
    pub flat_home: AbsPath,
    /// Private layers of shared caches.
    pub layers: AbsPath,
    /// A directory of this session alone, removed when it ends.
    pub session: AbsPath,
    /// Files shared by merging, one directory an agent.
    pub shared: AbsPath,
    /// A file that must not be readable inside.
    pub canary: AbsPath,
}

/// What a start is about.
#[derive(Debug)]
pub struct Subject<'a> {
    /// The user.
    pub account: &'a Account,
    /// The directory.
    pub project: &'a Project,
    /// The command's file.
    pub program: &'a Program,
    /// The command's arguments.
    pub args: &'a [OsString],
    /// The environment guard was started with.
    pub env: &'a Env,
    /// Where guard keeps things.
    pub store: &'a Store,
    /// The device of the terminal, if one of the standard descriptors is a terminal.
    pub terminal: Option<&'a AbsPath>,
    /// The tier to use even where a better one could be had.
    pub tier: Option<Tier>,
}

/// A file or directory of the outside, with the identity it had when the plan was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its path, without symlinks.
    pub path: AbsPath,
    /// Device and inode; `None` for what the plan has made first.
    pub id: Option<(u64, u64)>,
}

/// Read-only or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// Refused.
    No,
    /// Allowed.
    Yes,
}

/// What is mounted or made at a place of the new root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A file or directory of the outside.
    Bind {
        /// Which.
        node: Node,
        /// A directory?
        dir: bool,
        /// Read-only or not.
        writes: Writes,
    },
    /// A device node of the outside.
    Device(Node),
    /// A directory that belongs to this sandbox, made where it does not exist.
    Private(AbsPath),
    /// The user's directory below, a private layer above.
    Overlay {
        /// The user's.
        lower: Node,
        /// The private layer: holds `upper` and `work`.
        layer: AbsPath,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Most bytes it may hold.
        bytes: u64,
        /// Permission bits of its root.
        mode: u32,
    },
    /// The processes of this sandbox.
    Proc,
    /// Terminals of this sandbox.
    Terminals,
    /// A symlink.
    Link(PathBuf),
    /// A part of what is mounted already, made read-only.
    Frozen,
    /// An empty read-only directory.
    EmptyDir(Hidden),
    /// An empty read-only file.
    EmptyFile(Hidden),
}

/// How an empty stand-in answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hidden {
    /// Reads as empty.
    Masked,
    /// Cannot be opened.
    Denied,
}

/// One step of building the new root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The place, inside.
    pub at: AbsPath,
    /// What is there.
    pub what: What,
    /// Who said so.
    pub origin: Origin,
}

/// A file shared by merging, as this plan does it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The real file.
    pub real: AbsPath,
    /// The sandboxes' copy, outside path.
    pub copy: AbsPath,
    /// The copy's directory, inside path.
    pub dir_inside: AbsPath,
    /// Key paths that never leave the sandbox.
    pub keep_outside: Vec<String>,
    /// The key whose entries are named by directory.
    pub by_project: Option<String>,
}

/// Everything a start will do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How much of the protection there is.
    pub tier: Tier,
    /// What to make outside before anything else, in the user's home: state directories and what `create` says.
    pub create: Vec<(AbsPath, Create)>,
    /// The new root, parents before children. Empty in the landlock tier.
    pub mounts: Vec<Mount>,
    /// Links to make in the sandbox home of the landlock tier: place and target.
    pub links: Vec<(AbsPath, AbsPath)>,
    /// Landlock's rules.
    pub ruleset: Ruleset,
    /// The system call filter.
    pub filter: Vec<SyscallRule>,
    /// Network.
    pub network: NetworkMode,
    /// Limits.
    pub resources: Resources,
    /// The environment, and why.
    pub env: Filtered,
    /// The file to execute, inside path.
    pub program: AbsPath,
    /// Its arguments, `argv[0]` first.
    pub argv: Vec<OsString>,
    /// The directory to start in, inside path.
    pub cwd: AbsPath,
    /// Files shared by merging.
    pub merged: Vec<Merged>,
    /// What this host cannot hold.
    pub gaps: Vec<Gap>,
    /// Protected paths that do not exist, so that nothing holds them; looked at again when the session ends.
    pub absent: Vec<(AbsPath, Origin)>,
    /// Rules without effect here, and why.
    pub idle: Vec<(AbsPath, Origin, String)>,
    /// Where guard keeps things.
    pub store: Store,
    /// The user.
    pub account: Account,
    /// The project's top directory.
    pub project: Option<AbsPath>,
}

/// Makes the plan.
///
/// # Errors
/// [`Refusal`]: what must hold and cannot on this host, or a start that makes no sense.
pub fn make(policy: &Policy, host: &Host, tree: &dyn Tree, subject: &Subject<'_>) -> Result<Plan, Refusal> {
    let tier = tier(policy, host, subject.tier)?;
    if let Some(origin) = withheld(policy, subject.project) {
        return Err(Refusal::DeniedDirectory { cwd: subject.project.cwd.clone(), origin });
    }
    let mut view = view::build(policy, host, tree, subject, tier)?;
    let env = environment(policy, subject, tier, &view);
    let ruleset = ruleset::build(&view, host.landlock_abi, subject, tier);
    let filter = filter_rules(tier, policy.network.0);
    let mut gaps = std::mem::take(&mut view.gaps);
    gaps.extend(gap::of_host(tier, host, policy, subject.account.uid));
    let mut argv = vec![subject.program.typed.clone()];
    argv.extend(policy.sandbox_args.iter().map(OsString::from));
    argv.extend(subject.args.iter().cloned());
    let plan = Plan {
        tier,
        create: view.create,
        mounts: view.mounts,
        links: view.links,
        ruleset,
        filter,
        network: policy.network.0,
        resources: policy.resources,
        env,
        program: subject.program.path.clone(),
        argv,
        cwd: subject.project.cwd.clone(),
        merged: view.merged,
        gaps,
        absent: view.absent,
        idle: view.idle,
        store: subject.store.clone(),
        account: subject.account.clone(),
        project: subject.project.root.clone(),
    };
    plan.settle(tree)
}

/// The home as the agent sees it.
pub(crate) fn inside_home(tier: Tier, subject: &Subject<'_>) -> AbsPath {
    match tier {
        Tier::Full => subject.account.home.clone(),
        Tier::Landlock => subject.store.flat_home.clone(),
    }
}

/// Who withholds the place a start is about. Below a withheld directory the policy has no rule for the project, unless
/// a layer names it: standing among credentials does not make them one.
fn withheld(policy: &Policy, project: &Project) -> Option<Origin> {
    let top = project.root.as_ref().unwrap_or(&project.cwd);
    let denied = |path: &AbsPath| match policy.rule(path) {
        Some((_, rule)) if rule.access == crate::policy::Access::Deny => Some(rule.origin.clone()),
        Some(_) | None => None,
    };
    denied(&project.cwd).or_else(|| denied(top))
}

fn tier(policy: &Policy, host: &Host, forced: Option<Tier>) -> Result<Tier, Refusal> {
    if host.landlock_abi == 0 {
        return Err(Refusal::NoLandlock(host.landlock_fault));
    }
    if !host.seccomp {
        return Err(Refusal::NoSeccomp);
    }
    match (host.namespaces, policy.require.0, forced) {
        (None, _, None | Some(Tier::Full)) => Ok(Tier::Full),
        (_, Require::Landlock, Some(Tier::Landlock)) | (Some(_), Require::Landlock, None) => Ok(Tier::Landlock),
        (Some(fault), _, Some(Tier::Full)) | (Some(fault), Require::Full, None) => {
            Err(Refusal::NoNamespaces { fault, require: policy.require.1.clone() })
        }
        (_, Require::Full, Some(Tier::Landlock)) => Err(Refusal::TierBelowRequired(policy.require.1.clone())),
    }
}

/// What the inside must find in its variables, whatever the outside said.
fn environment(policy: &Policy, subject: &Subject<'_>, tier: Tier, view: &view::View) -> Filtered {
    let mut env = crate::env::filter(subject.env, &policy.env);
    let home = inside_home(tier, subject);
    let (tmp, runtime) = match tier {
        Tier::Full => (AbsPath::known("/tmp"), view::runtime_dir(subject.account.uid)),
        Tier::Landlock => (subject.store.session.join("tmp"), subject.store.session.join("run")),
    };
    for name in ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "OLDPWD"] {
        env.unset(name);
    }
    env.set_inside("HOME", home.as_path());
    env.set_inside("TMPDIR", tmp.as_path());
    env.set_inside("XDG_RUNTIME_DIR", runtime.as_path());
    env.set_inside("PWD", subject.project.cwd.as_path());
    env.set_inside("PATH", search_path(subject.env));
    env.set_inside("GUARD_TIER", tier.word());
    if let Some(name) = &subject.account.name {
        env.set_inside("USER", name);
        env.set_inside("LOGNAME", name);
    }
    for (name, value) in &view.socket_vars {
        env.set_inside(name, value.clone());
    }
    env
}

/// PATH without entries that mean another directory wherever one stands.
fn search_path(env: &Env) -> OsString {
    use std::os::unix::ffi::OsStrExt;
    let path = search(env);
    let dirs: Vec<&[u8]> = path.as_bytes().split(|b| *b == b':').filter(|dir| dir.starts_with(b"/")).collect();
    OsStr::from_bytes(&dirs.join(&b':')).to_owned()
}

/// The directories commands are searched in: PATH, or the system's default where it is not set.
#[must_use]
pub fn search(env: &Env) -> &OsStr {
    env.get("PATH").unwrap_or(OsStr::new("/usr/local/bin:/usr/bin:/bin"))
}

impl Plan {
    /// The last look: is the current directory there, and the program?
    fn settle(mut self, tree: &dyn Tree) -> Result<Self, Refusal> {
        let cwd = self.cwd.clone();
        if !self.verdict(tree, Act::Enter, &cwd).allowed() {
            // The home itself is there, private and empty; anything else would start in a place nobody asked for.
            if self.tier == Tier::Landlock && self.account.home == self.cwd {
                self.cwd = self.store.flat_home.clone();
                self.env.set_inside("PWD", self.cwd.as_path());
            } else {
                return Err(Refusal::DirectoryNotVisible(cwd));
            }
        }
        let verdict = self.verdict(tree, Act::Exec, &self.program);
        if !verdict.allowed() {
            return Err(Refusal::ProgramNotVisible { program: self.program.clone(), reason: verdict.to_string() });
        }
        Ok(self)
    }

    /// The home as the agent sees it.
    #[must_use]
    pub fn home(&self) -> &AbsPath {
        match self.tier {
            Tier::Full => &self.account.home,
            Tier::Landlock => &self.store.flat_home,
        }
    }
}
