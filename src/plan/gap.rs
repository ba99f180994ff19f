//! What a host cannot hold: gaps, which are named, and refusals, which end the start.

use std::fmt;

use super::Tier;
use crate::host::{Host, LandlockFault, NamespaceFault};
use crate::path::AbsPath;
use crate::policy::Policy;
use crate::profile::Origin;
use crate::profile::schema::NetworkMode;

/// A promise this host cannot keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gap {
    /// UNIX sockets with a path are reachable: agents of keys, docker, D-Bus, tmux.
    PathSockets,
    /// Abstract UNIX sockets are reachable.
    AbstractSockets,
    /// Processes outside can be signalled.
    Signals,
    /// Command lines of other processes are readable.
    ProcessList,
    /// Existence, size and times of any path; mode, owner and times of the user's own files can be changed.
    Metadata,
    /// System V memory and queues, and the user's kernel keyring objects by id, are shared.
    SystemV,
    /// Files below a writable directory cannot be withheld.
    Withheld(Vec<AbsPath>),
    /// Files below a writable directory cannot be made read-only.
    Protected(Vec<AbsPath>),
    /// Caches are read-only instead of having a private layer.
    Caches(Vec<AbsPath>),
    /// Files outside can be truncated.
    Truncate,
    /// Devices accept any ioctl.
    DeviceIoctl,
    /// Files cannot be moved between directories.
    Rename,
    /// No new terminals inside, no POSIX shared memory.
    NoTerminals,
    /// A limit that cannot be set.
    Limit(&'static str),
}

impl Gap {
    /// A few words for the start line.
    #[must_use]
    pub fn short(&self) -> &'static str {
        match self {
            Self::PathSockets => "sockets",
            Self::AbstractSockets => "abstract sockets",
            Self::Signals => "signals",
            Self::ProcessList => "process list",
            Self::Metadata => "file metadata",
            Self::SystemV => "System V IPC",
            Self::Withheld(_) => "withheld files",
            Self::Protected(_) => "protected files",
            Self::Caches(_) => "read-only caches",
            Self::Truncate => "truncation",
            Self::DeviceIoctl => "device ioctls",
            Self::Rename => "no moves between directories",
            Self::NoTerminals => "no new terminals",
            Self::Limit(_) => "limits",
        }
    }

    /// Whether something is lost for security, as opposed to something that does not work.
    #[must_use]
    pub fn weakens(&self) -> bool {
        match self {
            Self::PathSockets
            | Self::AbstractSockets
            | Self::Signals
            | Self::ProcessList
            | Self::Metadata
            | Self::SystemV
            | Self::Withheld(_)
            | Self::Protected(_)
            | Self::Truncate
            | Self::DeviceIoctl
            | Self::Limit(_) => true,
            Self::Caches(_) | Self::Rename | Self::NoTerminals => false,
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, paths: &[AbsPath]| -> fmt::Result {
            for (index, path) in paths.iter().enumerate() {
                write!(f, "{}{path}", if index == 0 { " " } else { ", " })?;
            }
            Ok(())
        };
        match self {
            Self::PathSockets => f.write_str(
                "UNIX sockets with a path are reachable (ssh-agent, gpg-agent, docker, D-Bus, tmux): \
                 any of them can act outside the sandbox",
            ),
            Self::AbstractSockets => f.write_str("abstract UNIX sockets are reachable (Landlock stops them from ABI 6, Linux 6.12)"),
            Self::Signals => f.write_str("processes of the same user outside can be signalled (Landlock stops it from ABI 6, Linux 6.12)"),
            Self::ProcessList => f.write_str("command lines of other processes are readable in /proc, secrets in them too; priorities and limits of the user's processes can be changed"),
            Self::Metadata => f.write_str("existence, size and times of any file can be seen; mode, owner and times of the user's files can be changed"),
            Self::SystemV => f.write_str("System V shared memory, semaphores and queues of the user are reachable"),
            Self::Withheld(paths) => {
                f.write_str("cannot be withheld, since they lie in a granted directory:")?;
                list(f, paths)
            }
            Self::Protected(paths) => {
                f.write_str("cannot be made read-only, since they lie in a writable directory:")?;
                list(f, paths)
            }
            Self::Caches(paths) => {
                f.write_str("read-only, without a private layer to write to:")?;
                list(f, paths)
            }
            Self::Truncate => f.write_str("files outside can be truncated (Landlock stops it from ABI 3, Linux 6.2)"),
            Self::DeviceIoctl => f.write_str("ioctls on devices are not limited (Landlock does it from ABI 5, Linux 6.10)"),
            Self::Rename => f.write_str("files cannot be moved or linked between directories (Landlock allows it from ABI 2, Linux 5.19)"),
            Self::NoTerminals => f.write_str("programs inside cannot open new terminals or POSIX shared memory: both directories hold those of other programs"),
            Self::Limit(what) => write!(f, "the limit on {what} cannot be set"),
        }
    }
}

/// The gaps that follow from the tier and the kernel.
pub(super) fn of_host(tier: Tier, host: &Host, policy: &Policy, uid: u32) -> Vec<Gap> {
    let mut gaps = Vec::new();
    let abi = host.landlock_abi;
    let own_network = tier == Tier::Full && policy.network.0 == NetworkMode::None;
    if tier == Tier::Landlock {
        if abi < 9 {
            gaps.push(Gap::PathSockets);
        }
        gaps.extend([Gap::ProcessList, Gap::Metadata, Gap::SystemV, Gap::NoTerminals]);
        if abi < 6 {
            gaps.push(Gap::Signals);
        }
        if abi < 3 {
            gaps.push(Gap::Truncate);
        }
        if abi < 5 {
            gaps.push(Gap::DeviceIoctl);
        }
    }
    // Without a user namespace the limit counts all of the user's processes, and would hit them; root is exempt from
    // it (copy_process in kernel/fork.c).
    if policy.resources.processes.is_some() && (tier == Tier::Landlock || uid == 0) {
        gaps.push(Gap::Limit("processes"));
    }
    if abi < 6 && !own_network {
        gaps.push(Gap::AbstractSockets);
    }
    if abi < 2 {
        gaps.push(Gap::Rename);
    }
    gaps
}

/// Why guard does not start the agent.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No Landlock: one of the two locks is missing.
    #[error("cannot lock the file system: this kernel offers no Landlock")]
    NoLandlock(Option<LandlockFault>),
    /// No seccomp.
    #[error("cannot filter system calls: this kernel offers no seccomp")]
    NoSeccomp,
    /// No user namespaces, and the policy demands them.
    #[error("cannot make a new root: {}", fault_words(*fault))]
    NoNamespaces {
        /// What keeps them from being used.
        fault: NamespaceFault,
        /// Who demands them.
        require: Origin,
    },
    /// The weaker tier was asked for, and the policy demands more.
    #[error("cannot use the landlock tier: the policy requires the full one ({0})")]
    TierBelowRequired(Origin),
    /// The current directory is withheld by the policy.
    #[error("cannot start in {cwd}: the policy withholds it ({origin})")]
    DeniedDirectory {
        /// The directory.
        cwd: AbsPath,
        /// Who withholds it.
        origin: Origin,
    },
    /// The current directory is not part of the sandbox.
    #[error("cannot start in {0}: nothing grants it to the sandbox")]
    DirectoryNotVisible(AbsPath),
    /// The program is not part of the sandbox.
    #[error("cannot execute {program} inside the sandbox: {reason}")]
    ProgramNotVisible {
        /// The program.
        program: AbsPath,
        /// What stands in the way.
        reason: String,
    },
    /// A rule's path cannot be followed.
    #[error("cannot follow the path {path} of a rule ({origin})")]
    Rule {
        /// The path.
        path: AbsPath,
        /// Whose rule.
        origin: Origin,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

fn fault_words(fault: NamespaceFault) -> String {
    match fault {
        NamespaceFault::DebianSwitch => {
            "user namespaces are switched off (kernel.unprivileged_userns_clone = 0)".into()
        }
        NamespaceFault::Maximum => "user namespaces are switched off (user.max_user_namespaces = 0)".into(),
        NamespaceFault::AppArmor => {
            "AppArmor restricts user namespaces (kernel.apparmor_restrict_unprivileged_userns = 1)".into()
        }
        NamespaceFault::Refused(errno) => format!("user namespaces are refused here ({})", errno.desc()),
        NamespaceFault::ProcMasked(errno) => {
            format!("parts of /proc are masked here, as containers do ({})", errno.desc())
        }
    }
}

/// The command that installs the shipped AppArmor profile.
pub const APPARMOR_COMMAND: &str = "guard doctor --apparmor | sudo tee /etc/apparmor.d/guard >/dev/null && sudo apparmor_parser -r /etc/apparmor.d/guard";

impl Refusal {
    /// What to do about it, with its price.
    #[must_use]
    pub fn hint(&self) -> String {
        const LESS: &str = "or pass `--require landlock` to run with one lock less; `guard doctor` lists what is lost";
        match self {
            Self::NoLandlock(Some(LandlockFault::Disabled)) => {
                "Landlock is built in but not started: add `landlock` to the `lsm=` kernel boot parameter and reboot"
                    .into()
            }
            Self::NoLandlock(Some(LandlockFault::Missing) | None) => {
                "Landlock needs Linux 5.13 or later built with CONFIG_SECURITY_LANDLOCK; \
                 in a container, its seccomp profile must allow the landlock_* system calls"
                    .into()
            }
            Self::NoSeccomp => "use a kernel built with CONFIG_SECCOMP_FILTER".into(),
            Self::NoNamespaces { fault, .. } => match fault {
                NamespaceFault::DebianSwitch => format!("`sudo sysctl kernel.unprivileged_userns_clone=1`, {LESS}"),
                NamespaceFault::Maximum => format!("`sudo sysctl user.max_user_namespaces=15000`, {LESS}"),
                NamespaceFault::AppArmor => format!("install guard's AppArmor profile: `{APPARMOR_COMMAND}`, {LESS}"),
                NamespaceFault::Refused(_) => format!(
                    "in a container, start it with a seccomp profile that allows user namespaces \
                     (docker run --security-opt seccomp=unconfined), {LESS}"
                ),
                NamespaceFault::ProcMasked(_) => format!(
                    "start the container with an unmasked /proc (docker run --security-opt systempaths=unconfined), {LESS}"
                ),
            },
            Self::TierBelowRequired(_) => "pass `--require landlock` too, if no managed policy forbids it".into(),
            Self::DeniedDirectory { .. } => {
                "`cd` into a project; credentials and guard's own files are never one".into()
            }
            Self::DirectoryNotVisible(cwd) => format!("`cd` into a project, or grant it: `--read {cwd}`"),
            Self::ProgramNotVisible { program, .. } => {
                let dir = program.parent().unwrap_or_else(AbsPath::root);
                format!("grant the directory it is installed in: `--read {dir}`")
            }
            Self::Rule { path, source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                let dir = path.parent().unwrap_or_else(AbsPath::root);
                format!("guard cannot see what it should withhold there; look at it, then `chmod u+rx {dir}`")
            }
            Self::Rule { .. } => "remove the rule, or mend the path".into(),
        }
    }

    /// The exit code in a shell's terms: 126 for a program that cannot be executed, else 125.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::ProgramNotVisible { .. } => 126,
            Self::NoLandlock(_)
            | Self::NoSeccomp
            | Self::NoNamespaces { .. }
            | Self::TierBelowRequired(_)
            | Self::DeniedDirectory { .. }
            | Self::DirectoryNotVisible(_)
            | Self::Rule { .. } => 125,
        }
    }
}
