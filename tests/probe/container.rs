//! `with-docker-filter --`: the system calls a container of Docker's default profile has, for the command behind it.

use std::ffi::OsString;

use nix::errno::Errno;

use crate::act::{Act, Doer, Step, check, setup};
use crate::exec::replace;

pub const ACTS: &[(&str, Doer)] = &[("with-docker-filter", with_docker_filter)];

/// What the default profile leaves out for a container without CAP_SYS_ADMIN, of what guard uses or offers
/// (moby profiles/seccomp/default.json): answered with EPERM.
const REFUSED: [libc::c_long; 18] = [
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
];

fn with_docker_filter(args: &[OsString]) -> Act {
    const LOAD: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const BITS: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    // The mask of the profile's rule on clone: every CLONE_NEW flag.
    const NEW: u32 = 0x7e02_0000;
    let op = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let number = |call: libc::c_long| u32::try_from(call).expect("call numbers are small");
    let errno = |errno: Errno| ERRNO | (errno as i32).cast_unsigned();
    let mut program = vec![op(LOAD, 0, 0, 0)];
    for call in REFUSED {
        program.extend([op(EQUAL, number(call), 0, 1), op(RETURN, errno(Errno::EPERM), 0, 0)]);
    }
    program.extend([op(EQUAL, number(libc::SYS_clone3), 0, 1), op(RETURN, errno(Errno::ENOSYS), 0, 0)]);
    program.extend([
        op(EQUAL, number(libc::SYS_clone), 0, 3),
        op(LOAD, 16, 0, 0),
        op(BITS, NEW, 0, 1),
        op(RETURN, errno(Errno::EPERM), 0, 0),
        op(RETURN, ALLOW, 0, 0),
    ]);
    let program = libc::sock_fprog { len: u16::try_from(program.len()).expect("a few"), filter: program.as_mut_ptr() };
    // A user may filter only what cannot gain rights; a container's runtime needs no such promise.
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).needed("no_new_privs")?;
    // SAFETY: the kernel copies the program, alive here.
    check(unsafe { libc::syscall(libc::SYS_seccomp, 1, 0, &raw const program) }).needed("seccomp")?;
    match args.iter().position(|arg| arg == "--") {
        Some(end) => match replace(&args[end + 1..]).needed("exec")? {},
        None => setup("no -- and command"),
    }
}
