//! The system call filter as data: which calls are answered with an error, and when.
//!
//! In: the tier and the network mode. Out: [`SyscallRule`]s by name; numbers and machine code belong to the sandbox.
//! It is a deny list on purpose: what a program may do is decided by the two locks, and the filter takes away what
//! they do not see (terminal injection, keyrings) and the parts of the kernel that local root exploits came through.
//! Calls of a foreign architecture and x32 are killed by the sandbox before any rule here.

use super::Tier;
use crate::profile::schema::NetworkMode;

/// How a call is answered instead of being carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// `EPERM`.
    NotPermitted,
    /// `ENOSYS`: the caller takes its way around a kernel without the call.
    NoSuchCall,
    /// `EAFNOSUPPORT`.
    NoSuchFamily,
}

/// A test of the low 32 bits of one argument. The kernel passes 64, and what lies above is ignored by the calls
/// named here, so a filter that compared it could be stepped around (CVE-2019-10063).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgTest {
    /// The argument is this.
    Is(u8, u32),
    /// The argument is not this.
    IsNot(u8, u32),
    /// The argument has one of these bits.
    Has(u8, u32),
}

/// One rule: the call is answered so when all tests hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyscallRule {
    /// The call's name.
    pub name: &'static str,
    /// What must hold; nothing means always.
    pub when: Vec<ArgTest>,
    /// The answer.
    pub answer: Answer,
}

/// Answered with `EPERM` always.
const NEVER: &[&str] = &[
    // Mounts and roots: what is mounted over something could be taken off again.
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "open_tree",
    "open_tree_attr",
    "move_mount",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "mount_setattr",
    "setns",
    // Files by handle, past all paths.
    "open_by_handle_at",
    // Kernel keyrings are shared by uid and inherited, whatever the namespaces.
    "keyctl",
    "add_key",
    "request_key",
    // Kernel surface.
    "userfaultfd",
    "perf_event_open",
    "bpf",
    "fanotify_init",
    "modify_ldt",
    "uselib",
    "lookup_dcookie",
    "nfsservctl",
    "vhangup",
    "syslog",
    // The machine.
    "kexec_load",
    "kexec_file_load",
    "init_module",
    "finit_module",
    "delete_module",
    "swapon",
    "swapoff",
    "reboot",
    "acct",
    "quotactl",
    "quotactl_fd",
    "settimeofday",
    "clock_settime",
    "sethostname",
    "setdomainname",
    "iopl",
    "ioperm",
];

/// Answered with `ENOSYS` always. io_uring does file and network calls that no seccomp filter sees; programs that use
/// it fall back. The flags of clone3 lie in memory where a filter cannot read them; libc falls back to clone, and does
/// so only on `ENOSYS` (glibc sysdeps/unix/sysv/linux/clone-internal.c).
const UNKNOWN: &[&str] = &["io_uring_setup", "io_uring_enter", "io_uring_register", "clone3"];

// include/uapi/linux/sched.h
const CLONE_NEWTIME: u32 = 0x0000_0080;
const CLONE_NEW: u32 = 0x0002_0000 // NEWNS
    | 0x0200_0000 // NEWCGROUP
    | 0x0400_0000 // NEWUTS
    | 0x0800_0000 // NEWIPC
    | 0x1000_0000 // NEWUSER
    | 0x2000_0000 // NEWPID
    | 0x4000_0000; // NEWNET

// include/uapi/asm-generic/ioctls.h
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;
const TIOCCONS: u32 = 0x541d;
const TIOCSETD: u32 = 0x5423;

// include/linux/socket.h
const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const AF_NETLINK: u32 = 16;
const NETLINK_ROUTE: u32 = 0;

/// The rules for a tier and a network mode.
#[must_use]
pub fn rules(tier: Tier, network: NetworkMode) -> Vec<SyscallRule> {
    let rule = |name, when: &[ArgTest], answer| SyscallRule { name, when: when.to_vec(), answer };
    let mut rules: Vec<_> = NEVER.iter().map(|name| rule(name, &[], Answer::NotPermitted)).collect();
    rules.extend(UNKNOWN.iter().map(|name| rule(name, &[], Answer::NoSuchCall)));
    for request in [TIOCSTI, TIOCLINUX, TIOCCONS, TIOCSETD] {
        rules.push(rule("ioctl", &[ArgTest::Is(1, request)], Answer::NotPermitted));
    }
    rules.push(rule("clone", &[ArgTest::Has(0, CLONE_NEW)], Answer::NotPermitted));
    rules.push(rule("unshare", &[ArgTest::Has(0, CLONE_NEW | CLONE_NEWTIME)], Answer::NotPermitted));
    // Interface lists come from route queries, which dev servers ask for; the other netlink protocols are surface.
    rules.push(rule("socket", &[ArgTest::Is(0, AF_NETLINK), ArgTest::IsNot(2, NETLINK_ROUTE)], Answer::NoSuchFamily));
    let mut families = vec![ArgTest::IsNot(0, AF_UNIX), ArgTest::IsNot(0, AF_NETLINK)];
    // In the full tier a network namespace does it, and leaves a loopback of one's own.
    let no_internet = tier == Tier::Landlock && network != NetworkMode::Open;
    if !no_internet {
        families.extend([ArgTest::IsNot(0, AF_INET), ArgTest::IsNot(0, AF_INET6)]);
    }
    rules.push(rule("socket", &families, Answer::NoSuchFamily));
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_none_without_a_namespace_leaves_no_internet_socket() {
        for (tier, network, want) in [
            (Tier::Full, NetworkMode::Open, true),
            (Tier::Full, NetworkMode::None, true),
            (Tier::Landlock, NetworkMode::Open, true),
            (Tier::Landlock, NetworkMode::None, false),
        ] {
            let rules = rules(tier, network);
            let last = rules.iter().rfind(|r| r.name == "socket").unwrap();
            assert_eq!(last.when.contains(&ArgTest::IsNot(0, AF_INET)), want, "{tier:?} {network:?}");
        }
    }
}
