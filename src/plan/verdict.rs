//! What the plan means for one path, socket or address: the answer of `guard why`.
//!
//! In: a [`Plan`], a [`Tree`], an [`Act`] and a target. Out: [`Verdict`] with the rule that decided. It resolves the
//! path as the kernel will inside, mount by mount and link by link. A verdict that differs from what the kernel does
//! is a bug; a property test compares them.
//! Limits: it judges by mode bits, not by access control lists; it cannot know what a program inside has made in
//! places that exist only there, nor process directories in `/proc`.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use super::{Hidden, Mount, Plan, Tier, What, Writes};
use crate::path::AbsPath;
use crate::policy::Socket;
use crate::profile::Origin;
use crate::profile::schema::NetworkMode;
use crate::tree::{Entry, Kind, Lost, RealTree, Tree, follow};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Open for reading, or list.
    Read,
    /// Open for writing, or create.
    Write,
    /// Execute.
    Exec,
    /// Make it the current directory.
    Enter,
    /// Connect to a socket.
    Connect,
}

/// The answer, with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It works, by this rule; a note says what is different from outside.
    Allowed(Origin, Option<&'static str>),
    /// It is not there.
    Absent(Option<Origin>),
    /// It is there, and this rule or lock refuses.
    Denied(String),
}

impl Verdict {
    /// Whether it works.
    #[must_use]
    pub fn allowed(&self) -> bool {
        matches!(self, Self::Allowed(..))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed(origin, None) => write!(f, "allowed by {origin}"),
            Self::Allowed(origin, Some(note)) => write!(f, "allowed by {origin}; {note}"),
            Self::Absent(Some(origin)) => write!(f, "not there inside ({origin})"),
            Self::Absent(None) => f.write_str("not there inside (no rule grants it)"),
            Self::Denied(why) => write!(f, "denied: {why}"),
        }
    }
}

/// What lies at an inside path.
enum There {
    /// Part of the new root's skeleton: a directory that leads to mounts.
    Skeleton,
    /// An object of the outside.
    Outside(Entry),
    /// The root of something that exists only inside.
    Inside,
    /// A symlink.
    Link(PathBuf),
    /// Nothing.
    Nothing,
}

const PRIVATE_NOTE: &str = "it goes to the sandbox's own copy, not to the real one";

impl Plan {
    /// Judges an act on a path.
    #[must_use]
    pub fn verdict(&self, tree: &dyn Tree, act: Act, path: &AbsPath) -> Verdict {
        match self.tier {
            Tier::Full => self.verdict_full(tree, act, path),
            Tier::Landlock => self.verdict_flat(tree, act, path),
        }
    }

    fn verdict_full(&self, tree: &dyn Tree, act: Act, path: &AbsPath) -> Verdict {
        let mut todo: Vec<OsString> = path.names().map(Into::into).collect();
        todo.reverse();
        let mut at = AbsPath::root();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == ".." {
                at = at.parent().unwrap_or_else(AbsPath::root);
                continue;
            }
            // Searching a directory takes its execute bit.
            if let Some(refused) = self.search(tree, &at) {
                return refused;
            }
            let next = at.join(&name);
            match self.there(tree, &next) {
                There::Link(target) => {
                    links += 1;
                    if links > 40 {
                        return Verdict::Denied("a loop of symbolic links".into());
                    }
                    for part in target.components().rev() {
                        match part {
                            std::path::Component::Normal(name) => todo.push(name.to_owned()),
                            std::path::Component::ParentDir => todo.push("..".into()),
                            std::path::Component::RootDir
                            | std::path::Component::CurDir
                            | std::path::Component::Prefix(_) => {}
                        }
                    }
                    if target.is_absolute() {
                        at = AbsPath::root();
                    }
                }
                There::Nothing if matches!(self.mount(&next).map(|m| &m.what), Some(What::Terminals)) => at = next,
                There::Nothing if todo.is_empty() && act == Act::Write => return self.create(tree, &at, &next),
                There::Nothing => return self.nothing(&next),
                There::Skeleton | There::Outside(..) | There::Inside => at = next,
            }
        }
        self.judge(tree, act, &at)
    }

    /// The mount a path lies in.
    fn mount(&self, path: &AbsPath) -> Option<&Mount> {
        // Sorted by path, so an ancestor's place is found by its own key.
        path.prefixes()
            .find_map(|p| self.mounts.binary_search_by(|m| m.at.as_bytes().cmp(p)).ok().map(|i| &self.mounts[i]))
    }

    fn there(&self, tree: &dyn Tree, path: &AbsPath) -> There {
        let leads_on = || self.mounts.iter().any(|m| m.at.is_within(path));
        let Some(mount) = self.mount(path) else {
            return if leads_on() || *path == AbsPath::root() { There::Skeleton } else { There::Nothing };
        };
        let below = path.below(&mount.at).expect("the mount lies above").to_path_buf();
        let top = below.as_os_str().is_empty();
        let outside = |base: &AbsPath| {
            let real = if top { base.clone() } else { base.join(&below) };
            match tree.look(&real) {
                Ok(Entry { kind: Kind::Link(target), .. }) if !top => There::Link(target),
                Ok(entry) => There::Outside(entry),
                Err(_) => There::Nothing,
            }
        };
        let found = match &mount.what {
            What::Link(target) if top => There::Link(target.clone()),
            What::Link(_) => There::Nothing,
            What::Bind { node, .. } | What::Device(node) => outside(&node.path),
            What::Private(dir) => match outside(dir) {
                // Made when the session starts.
                There::Nothing if top => There::Inside,
                found => found,
            },
            What::Overlay { lower, layer } => match outside(&layer.join("upper")) {
                There::Outside(Entry { kind: Kind::Special, .. }) => There::Nothing,
                There::Nothing => outside(&lower.path),
                found => found,
            },
            What::Proc | What::Frozen => outside(&mount.at),
            What::Tmpfs { .. } | What::Terminals | What::EmptyDir(_) | What::EmptyFile(_) if top => There::Inside,
            What::Tmpfs { .. } | What::Terminals | What::EmptyDir(_) | What::EmptyFile(_) => There::Nothing,
        };
        // What is made at the start may not be there yet; a mount point below shows it will be.
        match found {
            There::Nothing if self.will_be_made(path) => There::Inside,
            There::Nothing if leads_on() => There::Skeleton,
            found => found,
        }
    }

    fn will_be_made(&self, path: &AbsPath) -> bool {
        self.create.iter().any(|(made, _)| made == path)
    }

    fn search(&self, tree: &dyn Tree, dir: &AbsPath) -> Option<Verdict> {
        match self.there(tree, dir) {
            There::Outside(entry) if entry.kind == Kind::Dir && !self.may(&entry, 1) => {
                Some(Verdict::Denied(format!("the mode of {dir} forbids it ({:04o})", entry.mode)))
            }
            There::Inside if matches!(self.mount(dir).map(|m| &m.what), Some(What::EmptyDir(Hidden::Denied))) => {
                Some(Verdict::Denied(format!("{} withholds {dir}", self.origin(dir))))
            }
            There::Outside(..) | There::Skeleton | There::Inside | There::Link(_) | There::Nothing => None,
        }
    }

    fn may(&self, entry: &Entry, want: u32) -> bool {
        self.account.may(entry.mode, entry.uid, entry.gid, want)
    }

    fn origin(&self, path: &AbsPath) -> Origin {
        self.mount(path).map_or_else(|| Origin::text("the new root"), |m| m.origin.clone())
    }

    fn nothing(&self, path: &AbsPath) -> Verdict {
        Verdict::Absent(self.mount(path).map(|m| m.origin.clone()))
    }

    /// Writing to what does not exist: creating it in the directory above.
    fn create(&self, tree: &dyn Tree, dir: &AbsPath, path: &AbsPath) -> Verdict {
        if matches!(self.there(tree, dir), There::Outside(entry) if entry.kind != Kind::Dir) {
            return self.nothing(path);
        }
        match self.judge(tree, Act::Write, dir) {
            Verdict::Absent(_) => self.nothing(path),
            verdict => verdict,
        }
    }

    fn judge(&self, tree: &dyn Tree, act: Act, path: &AbsPath) -> Verdict {
        let there = self.there(tree, path);
        let Some(mount) = self.mount(path) else {
            return match act {
                Act::Read | Act::Enter => Verdict::Allowed(Origin::text("the new root"), None),
                Act::Write | Act::Exec | Act::Connect => {
                    Verdict::Denied("the new root's own directories are read-only".into())
                }
            };
        };
        let origin = mount.origin.clone();
        let (writable, note) = match &mount.what {
            What::Bind { writes, .. } => (*writes == Writes::Yes, None),
            What::Private(_) | What::Overlay { .. } => (true, Some(PRIVATE_NOTE)),
            What::Tmpfs { .. } => (mount.at != AbsPath::known("/dev"), Some("it is private to this session")),
            What::Device(_) => (true, None),
            // For root Landlock forbids writing in all of /proc.
            What::Proc => (self.account.uid != 0, None),
            What::Terminals => (false, None),
            What::Frozen | What::Link(_) => (false, None),
            What::EmptyDir(hidden) | What::EmptyFile(hidden) => match (hidden, act) {
                (Hidden::Masked, Act::Read) => return Verdict::Allowed(origin, Some("it reads as empty")),
                (Hidden::Masked, Act::Enter) if matches!(mount.what, What::EmptyDir(_)) => {
                    return Verdict::Allowed(origin, None);
                }
                _ => return Verdict::Denied(format!("{origin} withholds it")),
            },
        };
        let read_only = || Verdict::Denied(format!("read-only by {origin}"));
        let private = matches!(mount.what, What::Private(_) | What::Overlay { .. } | What::Tmpfs { .. });
        let allowed = || {
            Verdict::Allowed(origin.clone(), if act == Act::Write || private && act == Act::Read { note } else { None })
        };
        let entry = match there {
            There::Outside(entry) => entry,
            There::Inside | There::Skeleton | There::Link(_) => {
                return match act {
                    Act::Read | Act::Enter => allowed(),
                    Act::Write if writable => allowed(),
                    Act::Write => read_only(),
                    Act::Exec => Verdict::Denied("it is not a file".into()),
                    Act::Connect => Verdict::Denied("it is not a socket".into()),
                };
            }
            // Of the terminals of a session only the multiplexer is there from the start.
            There::Nothing if *path == AbsPath::known("/dev/pts/ptmx") && matches!(act, Act::Read | Act::Write) => {
                return Verdict::Allowed(origin, None);
            }
            There::Nothing => return self.nothing(path),
        };
        let by_mode = |want| {
            if self.may(&entry, want) {
                None
            } else {
                Some(Verdict::Denied(format!("its mode forbids it ({:04o})", entry.mode)))
            }
        };
        match act {
            Act::Read => match entry.kind {
                Kind::Socket => Verdict::Denied("it is a socket".into()),
                Kind::File | Kind::Dir | Kind::Link(_) | Kind::Special => by_mode(4).unwrap_or_else(allowed),
            },
            Act::Enter if entry.kind == Kind::Dir => by_mode(1).unwrap_or_else(allowed),
            Act::Enter => Verdict::Denied("it is not a directory".into()),
            Act::Write if entry.kind == Kind::Socket => Verdict::Denied("it is a socket".into()),
            // A read-only mount does not keep anyone from writing to a FIFO (fs/namei.c, sb_permission); Landlock does,
            // where it grants no more than reading.
            Act::Write
                if !writable && entry.kind == Kind::Special && self.granted(path, |g| g == super::Grant::Write) =>
            {
                by_mode(2).unwrap_or_else(allowed)
            }
            Act::Write if !writable => read_only(),
            // Creating in a directory takes its execute bit too.
            Act::Write => by_mode(if entry.kind == Kind::Dir { 3 } else { 2 }).unwrap_or_else(allowed),
            Act::Exec if entry.kind != Kind::File => Verdict::Denied("it is not a file".into()),
            Act::Exec => by_mode(1).unwrap_or_else(allowed),
            Act::Connect if entry.kind != Kind::Socket => Verdict::Denied("it is not a socket".into()),
            // The overlay's socket is another inode than the one somebody listens on.
            Act::Connect if matches!(mount.what, What::Overlay { .. }) => {
                Verdict::Denied("nobody listens on the overlay's side of a socket".into())
            }
            // A read-only mount does not keep anyone from connecting (fs/namei.c, sb_permission).
            Act::Connect if !writable && self.ruleset.abi >= 9 => read_only(),
            Act::Connect => by_mode(2).unwrap_or_else(allowed),
        }
    }

    /// The landlock tier: the path is what it is outside, and a rule must cover where it leads.
    fn verdict_flat(&self, tree: &dyn Tree, act: Act, path: &AbsPath) -> Verdict {
        use super::Grant;
        let found = match follow(tree, path, |_| false) {
            Ok(found) => Some(found),
            Err(Lost::Absent(_)) => None,
            Err(Lost::Barred(..)) => unreachable!("nothing is barred"),
            Err(Lost::Failed(at, e)) => return Verdict::Denied(format!("{at}: {e}")),
        };
        // What is created is created where a dangling link leads.
        let missing = match follow(tree, path, |_| false) {
            Err(Lost::Absent(missing)) => missing,
            Ok(_) | Err(Lost::Barred(..) | Lost::Failed(..)) => path.clone(),
        };
        let passed = found.as_ref().map_or(&missing, |f| &f.real);
        for dir in path.ancestors().skip(1).chain(passed.ancestors().skip(1)) {
            if let Ok(found) = follow(tree, &dir, |_| false)
                && found.entry.kind == Kind::Dir
                && !self.may(&found.entry, 1)
            {
                return Verdict::Denied(format!("the mode of {dir} forbids it ({:04o})", found.entry.mode));
            }
        }
        let made = self.store.session.is_within(path)
            || self.store.flat_home.is_within(path)
            || path.is_within(&self.store.session);
        let (real, entry) = match (&found, act) {
            (Some(found), _) => (found.real.clone(), Some(&found.entry)),
            (None, Act::Write) => {
                let Some(dir) = missing.parent().and_then(|dir| follow(tree, &dir, |_| false).ok()) else {
                    return Verdict::Absent(None);
                };
                if dir.entry.kind != Kind::Dir {
                    return Verdict::Absent(None);
                }
                let verdict = self.verdict_flat(tree, Act::Write, &dir.real);
                return match verdict {
                    Verdict::Absent(_) => Verdict::Absent(None),
                    verdict => verdict,
                };
            }
            (None, Act::Enter | Act::Read) if made => (path.clone(), None),
            (None, _) => return Verdict::Absent(None),
        };
        if act == Act::Connect {
            return match entry.map(|e| &e.kind) {
                Some(Kind::Socket) if entry.is_some_and(|e| !self.may(e, 2)) => {
                    Verdict::Denied("its mode forbids it".into())
                }
                Some(Kind::Socket) if self.ruleset.abi < 9 => {
                    Verdict::Allowed(Origin::text("Landlock below ABI 9 knows no rule for it"), None)
                }
                Some(Kind::Socket) if self.granted(&real, |g| g == Grant::Write) => {
                    Verdict::Allowed(self.rule_words(&real), None)
                }
                Some(Kind::Socket) => Verdict::Denied("no rule grants it".into()),
                Some(Kind::File | Kind::Dir | Kind::Link(_) | Kind::Special) | None => {
                    Verdict::Denied("it is not a socket".into())
                }
            };
        }
        let (kind, want) = match (entry.map(|e| &e.kind), act) {
            (Some(Kind::Socket), _) => return Verdict::Denied("it is a socket".into()),
            (Some(Kind::Dir), Act::Write) => ("dir", 3),
            (Some(Kind::Dir) | None, _) => ("dir", if act == Act::Enter { 1 } else { 4 }),
            (Some(_), Act::Enter) => return Verdict::Denied("it is not a directory".into()),
            (Some(_), Act::Read) => ("file", 4),
            (Some(_), Act::Write) => ("file", 2),
            (Some(_), Act::Exec | Act::Connect) => ("file", 1),
        };
        // The kernel's log takes a capability (fs/proc/kmsg.c), which nobody has inside.
        if real == AbsPath::known("/proc/kmsg") {
            return Verdict::Denied("the kernel's log takes a capability".into());
        }
        if act == Act::Exec && kind == "dir" {
            return Verdict::Denied("it is not a file".into());
        }
        if let Some(entry) = entry
            && !self.may(entry, want)
        {
            return Verdict::Denied(format!("its mode forbids it ({:04o})", entry.mode));
        }
        // Landlock knows no right for entering a directory.
        let granted = act == Act::Enter
            || self.granted(&real, |grant| match (grant, act) {
                (Grant::Write, _) => true,
                (Grant::Read, Act::Read | Act::Exec) => true,
                (Grant::ReadData | Grant::List, Act::Read) => grant == Grant::ReadData || kind == "dir",
                (Grant::WriteData | Grant::Device | Grant::Terminal, Act::Read | Act::Write) => true,
                (
                    Grant::Read | Grant::ReadData | Grant::List | Grant::WriteData | Grant::Device | Grant::Terminal,
                    _,
                ) => false,
            });
        if granted {
            Verdict::Allowed(self.rule_words(&real), None)
        } else {
            Verdict::Denied("no rule grants it".into())
        }
    }

    fn granted(&self, real: &AbsPath, enough: impl Fn(super::Grant) -> bool) -> bool {
        self.ruleset.paths.iter().any(|rule| real.is_within(&rule.path) && enough(rule.grant))
    }

    fn rule_words(&self, real: &AbsPath) -> Origin {
        let best = self.ruleset.paths.iter().filter(|r| real.is_within(&r.path)).max_by_key(|r| r.path.names().count());
        Origin::text(
            &best.map_or_else(|| "the kernel: no rule is needed".to_owned(), |r| format!("the rule on {}", r.path)),
        )
    }

    /// Judges a connection: a socket's path, `@name` for an abstract one, or `host:port`.
    #[must_use]
    pub fn connect(&self, tree: &dyn Tree, target: &str) -> Verdict {
        if let Ok(path) = AbsPath::new(target) {
            return self.verdict(tree, Act::Connect, &path);
        }
        if target.starts_with('@') {
            let own_network = self.tier == Tier::Full && self.network == NetworkMode::None;
            return match (self.ruleset.abi >= 6, own_network) {
                (false, false) => Verdict::Allowed(Origin::text("Landlock below ABI 6 knows no rule for it"), None),
                (true, _) | (false, true) => {
                    Verdict::Denied("sockets made outside the sandbox are out of reach".into())
                }
            };
        }
        match self.network {
            NetworkMode::Open => Verdict::Allowed(Origin::text("network mode open"), None),
            NetworkMode::Filtered | NetworkMode::None => Verdict::Denied("network mode none".into()),
        }
    }
}

/// The sockets a policy can open, for messages.
#[must_use]
pub fn socket_words(socket: Socket) -> &'static str {
    match socket {
        Socket::SshAgent => "signs with every key loaded",
        Socket::GpgAgent => "signs and decrypts with every key",
        Socket::Docker => "is root on this machine",
        Socket::Wayland => "reads and writes the clipboard",
        Socket::X11 => "sees and types into every window",
    }
}

impl Plan {
    /// [`Plan::verdict`] over the real file system.
    #[must_use]
    pub fn verdict_here(&self, act: Act, path: &AbsPath) -> Verdict {
        self.verdict(&RealTree, act, path)
    }
}
