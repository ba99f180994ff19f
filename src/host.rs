//! What this machine can do.
//!
//! In: `/proc`, `/sys` and a few system calls that change nothing. Out: [`Host`]. [`Host::read`] is cheap and
//! believes the settings; what a start then finds missing it records with [`Host::lose`] and plans again, so that no
//! start pays for a probe and none goes on without what its plan says.

use std::fs;
use std::path::Path;

use nix::errno::Errno;

/// What this machine can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Landlock's version; 0 without Landlock.
    pub landlock_abi: u32,
    /// Why the kernel has no Landlock to offer, if it has none.
    pub landlock_fault: Option<LandlockFault>,
    /// What keeps user namespaces from being used, if anything.
    pub namespaces: Option<NamespaceFault>,
    /// Whether seccomp filters can be installed.
    pub seccomp: bool,
    /// Whether overlays can be mounted in a user namespace.
    pub overlay: bool,
    /// Kernel release, for messages.
    pub kernel: String,
}

/// Why there is no Landlock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LandlockFault {
    /// Compiled in, not started: `lsm=` on the kernel command line leaves it out.
    Disabled,
    /// Not in this kernel, or a filter around guard hides it.
    Missing,
}

/// What keeps user namespaces from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamespaceFault {
    /// `kernel.unprivileged_userns_clone = 0` (Debian's switch).
    DebianSwitch,
    /// `user.max_user_namespaces = 0`.
    Maximum,
    /// `kernel.apparmor_restrict_unprivileged_userns = 1` and no profile that allows guard to (Ubuntu 23.10 and later).
    AppArmor,
    /// Making one failed when it was tried: a container's filter, or too many of them.
    Refused(Errno),
    /// A new `/proc` cannot be mounted: a container masks parts of the old one.
    ProcMasked(Errno),
}

/// What a start found missing after the settings said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// User, mount, PID and IPC namespaces.
    Namespaces(NamespaceFault),
    /// Overlay mounts.
    Overlay,
}

impl Host {
    /// Reads the settings.
    #[must_use]
    pub fn read(uid: u32) -> Self {
        let (landlock_abi, landlock_fault) = landlock();
        Self {
            landlock_abi,
            landlock_fault,
            namespaces: namespaces(uid),
            seccomp: Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
            // Believed until a mount fails: as a module it is not listed before its first use, which loads it.
            overlay: true,
            kernel: nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default(),
        }
    }

    /// Notes what turned out to be missing. Returns whether that was news, so that planning again ends.
    pub fn lose(&mut self, capability: Capability) -> bool {
        match capability {
            Capability::Namespaces(fault) => self.namespaces.replace(fault).is_none(),
            Capability::Overlay => std::mem::replace(&mut self.overlay, false),
        }
    }
}

/// Landlock's version by the system call that states it.
/// <https://docs.kernel.org/userspace-api/landlock.html#creating-a-new-ruleset>
fn landlock() -> (u32, Option<LandlockFault>) {
    match crate::sandbox::landlock_version() {
        Ok(version) => (version, None),
        Err(Errno::EOPNOTSUPP) => (0, Some(LandlockFault::Disabled)),
        Err(_) => (0, Some(LandlockFault::Missing)),
    }
}

fn namespaces(uid: u32) -> Option<NamespaceFault> {
    let setting = |name: &str| fs::read_to_string(Path::new("/proc/sys").join(name)).ok().map(|s| s.trim().to_owned());
    if setting("user/max_user_namespaces").as_deref() == Some("0") {
        return Some(NamespaceFault::Maximum);
    }
    if uid != 0 && setting("kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        return Some(NamespaceFault::DebianSwitch);
    }
    if uid != 0 && setting("kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        // Confined by a profile of its own, guard may: the shipped one allows user namespaces.
        let label = fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
        if label.trim().is_empty() || label.starts_with("unconfined") {
            return Some(NamespaceFault::AppArmor);
        }
    }
    None
}
