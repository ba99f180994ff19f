//! The system call filter: from rules by name to the kernel's machine code.
//!
//! In: [`SyscallRule`]s. Out: a classic BPF program, installed. One filter holds everything: the check of the
//! architecture, the end of x32, and an answer per rule, which the filter crates cannot mix in one program.
//! Calls without a rule are allowed without looking at arguments, which lets the kernel cache the verdict
//! (Linux 5.11), so that they cost next to nothing.

use libc::sock_filter;
use nix::errno::Errno;

use super::wire::StartError;
use crate::plan::{Answer, ArgTest, SyscallRule};
use crate::sandbox::sys;

// linux/audit.h, for the architectures guard is built for.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// x32 calls come with the architecture of x86-64 and this bit in the number (arch/x86/include/uapi/asm/unistd.h).
#[cfg(target_arch = "x86_64")]
const X32_BIT: u32 = 0x4000_0000;

// linux/filter.h and linux/bpf_common.h
const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
#[cfg(target_arch = "x86_64")]
const JUMP_GREATER_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const JUMP_BITS: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

// linux/seccomp.h
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

// struct seccomp_data: nr at 0, arch at 4, args at 16, eight bytes each; the low half first on little-endian machines.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;
#[cfg(not(target_endian = "little"))]
compile_error!("the filter reads the low half of an argument at its first byte");

fn op(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Compiles the rules. Names this architecture does not have are skipped; names nobody knows are an error.
fn compile(rules: &[SyscallRule]) -> Result<Vec<sock_filter>, StartError> {
    let mut program = vec![
        op(LOAD_WORD, ARCHITECTURE_AT, 0, 0),
        op(JUMP_EQUAL, ARCHITECTURE, 1, 0),
        op(RETURN, KILL_PROCESS, 0, 0),
        op(LOAD_WORD, NUMBER_AT, 0, 0),
    ];
    #[cfg(target_arch = "x86_64")]
    program.extend([op(JUMP_GREATER_EQUAL, X32_BIT, 0, 1), op(RETURN, KILL_PROCESS, 0, 0)]);
    for rule in rules {
        let number = match number(rule.name) {
            Number::Is(number) => number as u32,
            Number::NotHere => continue,
            Number::Unknown => {
                return Err(StartError::new(format!("no number for the system call {}", rule.name), Errno::ENOSYS));
            }
        };
        let answer = ERRNO
            | match rule.answer {
                Answer::NotPermitted => libc::EPERM as u32,
                Answer::NoSuchCall => libc::ENOSYS as u32,
                Answer::NoSuchFamily => libc::EAFNOSUPPORT as u32,
            };
        if rule.when.is_empty() {
            program.extend([op(JUMP_EQUAL, number, 0, 1), op(RETURN, answer, 0, 0)]);
            continue;
        }
        // Each test is a load and a jump; a test that fails jumps to the end, where the number is loaded again.
        let length = rule.when.len() * 2 + 1;
        program.push(op(JUMP_EQUAL, number, 0, u8::try_from(length + 1).expect("a rule has a handful of tests")));
        for (index, test) in rule.when.iter().enumerate() {
            // From the test's jump over the tests that follow and the answer.
            let to_end = u8::try_from(length - index * 2 - 2).expect("a rule has a handful of tests");
            let (argument, code, value, jt, jf) = match *test {
                ArgTest::Is(argument, value) => (argument, JUMP_EQUAL, value, 0, to_end),
                ArgTest::IsNot(argument, value) => (argument, JUMP_EQUAL, value, to_end, 0),
                ArgTest::Has(argument, bits) => (argument, JUMP_BITS, bits, 0, to_end),
            };
            program.extend([op(LOAD_WORD, ARGUMENTS_AT + 8 * u32::from(argument), 0, 0), op(code, value, jt, jf)]);
        }
        program.extend([op(RETURN, answer, 0, 0), op(LOAD_WORD, NUMBER_AT, 0, 0)]);
    }
    program.push(op(RETURN, ALLOW, 0, 0));
    Ok(program)
}

/// Installs the filter on this process and everything it starts.
pub(super) fn install(rules: &[SyscallRule]) -> Result<(), StartError> {
    let program = compile(rules)?;
    sys::install_filter(&program).map_err(|e| StartError::new("cannot install the system call filter", e))
}

enum Number {
    Is(libc::c_long),
    /// This architecture never had the call.
    NotHere,
    Unknown,
}

fn number(name: &str) -> Number {
    // open_tree_attr(2) is younger than the list of numbers at hand (Linux 6.15, asm-generic/unistd.h: 467).
    const OPEN_TREE_ATTR: libc::c_long = 467;
    let known: &[(&str, libc::c_long)] = &[
        ("mount", libc::SYS_mount),
        ("umount2", libc::SYS_umount2),
        ("pivot_root", libc::SYS_pivot_root),
        ("chroot", libc::SYS_chroot),
        ("open_tree", libc::SYS_open_tree),
        ("open_tree_attr", OPEN_TREE_ATTR),
        ("move_mount", libc::SYS_move_mount),
        ("fsopen", libc::SYS_fsopen),
        ("fsconfig", libc::SYS_fsconfig),
        ("fsmount", libc::SYS_fsmount),
        ("fspick", libc::SYS_fspick),
        ("mount_setattr", libc::SYS_mount_setattr),
        ("setns", libc::SYS_setns),
        ("open_by_handle_at", libc::SYS_open_by_handle_at),
        ("keyctl", libc::SYS_keyctl),
        ("add_key", libc::SYS_add_key),
        ("request_key", libc::SYS_request_key),
        ("userfaultfd", libc::SYS_userfaultfd),
        ("perf_event_open", libc::SYS_perf_event_open),
        ("bpf", libc::SYS_bpf),
        ("fanotify_init", libc::SYS_fanotify_init),
        ("lookup_dcookie", libc::SYS_lookup_dcookie),
        ("nfsservctl", libc::SYS_nfsservctl),
        ("vhangup", libc::SYS_vhangup),
        ("syslog", libc::SYS_syslog),
        ("kexec_load", libc::SYS_kexec_load),
        ("kexec_file_load", libc::SYS_kexec_file_load),
        ("init_module", libc::SYS_init_module),
        ("finit_module", libc::SYS_finit_module),
        ("delete_module", libc::SYS_delete_module),
        ("swapon", libc::SYS_swapon),
        ("swapoff", libc::SYS_swapoff),
        ("reboot", libc::SYS_reboot),
        ("acct", libc::SYS_acct),
        ("quotactl", libc::SYS_quotactl),
        ("quotactl_fd", libc::SYS_quotactl_fd),
        ("settimeofday", libc::SYS_settimeofday),
        ("clock_settime", libc::SYS_clock_settime),
        ("sethostname", libc::SYS_sethostname),
        ("setdomainname", libc::SYS_setdomainname),
        ("io_uring_setup", libc::SYS_io_uring_setup),
        ("io_uring_enter", libc::SYS_io_uring_enter),
        ("io_uring_register", libc::SYS_io_uring_register),
        ("clone3", libc::SYS_clone3),
        ("ioctl", libc::SYS_ioctl),
        ("clone", libc::SYS_clone),
        ("unshare", libc::SYS_unshare),
        ("socket", libc::SYS_socket),
    ];
    #[cfg(target_arch = "x86_64")]
    let only_here: &[(&str, libc::c_long)] = &[
        ("modify_ldt", libc::SYS_modify_ldt),
        ("uselib", libc::SYS_uselib),
        ("iopl", libc::SYS_iopl),
        ("ioperm", libc::SYS_ioperm),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let only_here: &[(&str, libc::c_long)] = &[];
    if let Some((_, number)) = known.iter().chain(only_here).find(|(n, _)| *n == name) {
        return Number::Is(*number);
    }
    if ["modify_ldt", "uselib", "iopl", "ioperm"].contains(&name) { Number::NotHere } else { Number::Unknown }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel's interpreter does with the program, for the instructions used here.
    fn run(program: &[sock_filter], arch: u32, number: u32, args: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_le_bytes());
        data.extend(arch.to_le_bytes());
        data.extend(0u64.to_le_bytes());
        data.extend(args.iter().flat_map(|a| a.to_le_bytes()));
        let (mut at, mut accumulator) = (0, 0u32);
        loop {
            let op = program[at];
            at += 1;
            let jump = |condition: bool| usize::from(if condition { op.jt } else { op.jf });
            match op.code {
                LOAD_WORD => {
                    accumulator = u32::from_le_bytes(data[op.k as usize..op.k as usize + 4].try_into().unwrap())
                }
                JUMP_EQUAL => at += jump(accumulator == op.k),
                #[cfg(target_arch = "x86_64")]
                JUMP_GREATER_EQUAL => at += jump(accumulator >= op.k),
                JUMP_BITS => at += jump(accumulator & op.k != 0),
                RETURN => return op.k,
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    fn rule(name: &'static str, when: &[ArgTest], answer: Answer) -> SyscallRule {
        SyscallRule { name, when: when.to_vec(), answer }
    }

    #[test]
    fn answers() {
        let rules = [
            rule("keyctl", &[], Answer::NotPermitted),
            rule("ioctl", &[ArgTest::Is(1, 0x5412)], Answer::NotPermitted),
            rule("ioctl", &[ArgTest::Is(1, 0x541c)], Answer::NotPermitted),
            rule("clone", &[ArgTest::Has(0, 0x1002_0000)], Answer::NotPermitted),
            rule("socket", &[ArgTest::Is(0, 16), ArgTest::IsNot(2, 0)], Answer::NoSuchFamily),
            rule("socket", &[ArgTest::IsNot(0, 1), ArgTest::IsNot(0, 16), ArgTest::IsNot(0, 2)], Answer::NoSuchFamily),
            rule("clone3", &[], Answer::NoSuchCall),
        ];
        let program = compile(&rules).unwrap();
        let errno = |code: i32| ERRNO | code as u32;
        let call = |number: libc::c_long, args: &[u64]| {
            let mut all = [0; 6];
            all[..args.len()].copy_from_slice(args);
            run(&program, ARCHITECTURE, number as u32, all)
        };
        for (number, args, want) in [
            (libc::SYS_read, &[0, 0][..], ALLOW),
            (libc::SYS_keyctl, &[], errno(libc::EPERM)),
            (libc::SYS_ioctl, &[0, 0x5412], errno(libc::EPERM)),
            (libc::SYS_ioctl, &[0, 0x1_0000_5412], errno(libc::EPERM)),
            (libc::SYS_ioctl, &[0, 0x541c], errno(libc::EPERM)),
            (libc::SYS_ioctl, &[0, 0x5413], ALLOW),
            (libc::SYS_clone, &[0x1000_0000], errno(libc::EPERM)),
            (libc::SYS_clone, &[0x0002_0011], errno(libc::EPERM)),
            (libc::SYS_clone, &[0x0001_0011], ALLOW),
            (libc::SYS_socket, &[16, 3, 0], ALLOW),
            (libc::SYS_socket, &[16, 3, 9], errno(libc::EAFNOSUPPORT)),
            (libc::SYS_socket, &[2, 1, 0], ALLOW),
            (libc::SYS_socket, &[40, 1, 0], errno(libc::EAFNOSUPPORT)),
            (libc::SYS_socket, &[0x1_0000_0028, 1, 0], errno(libc::EAFNOSUPPORT)),
            (libc::SYS_clone3, &[], errno(libc::ENOSYS)),
        ] {
            assert_eq!(call(number, args), want, "{number} {args:x?}");
        }
        assert_eq!(run(&program, 0x4000_0003, 1, [0; 6]), KILL_PROCESS, "32-bit");
        #[cfg(target_arch = "x86_64")]
        assert_eq!(run(&program, ARCHITECTURE, X32_BIT | 1, [0; 6]), KILL_PROCESS, "x32");
    }

    #[test]
    fn every_rule_of_a_plan_has_a_number() {
        use crate::plan::Tier;
        use crate::profile::schema::NetworkMode;
        for tier in [Tier::Full, Tier::Landlock] {
            for network in [NetworkMode::Open, NetworkMode::None] {
                let program = compile(&crate::plan::filter_rules(tier, network)).unwrap();
                // BPF_MAXINSNS
                assert!(program.len() < 4096);
            }
        }
    }

    #[test]
    fn a_name_nobody_knows_is_an_error() {
        assert!(compile(&[rule("frobnicate", &[], Answer::NotPermitted)]).is_err());
    }
}
