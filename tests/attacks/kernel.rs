//! Section 10: privilege and kernel surface.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::scene::Try;
use super::support::User;
use super::table::{Kind, row, run};

const AS_ROOT: &str = "the kernel lets only root try it";

#[test]
fn privilege() {
    let mut rows = vec![
        row("set-user-ID program", Kind::Act, |scene| {
            let program = scene.world.host_path("/usr/local/bin/suid-probe");
            fs::copy(scene.world.host_path("/usr/local/bin/guard-probe"), &program).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
            Try::probe(["exec", "/usr/local/bin/suid-probe", "euid-zero"])
        })
        .only(User::Ana, "root is root already"),
        row("no_new_privs unset", Kind::Act, |_| Try::probe(["no-new-privs"])),
        row("capabilities", Kind::Act, |_| Try::probe(["capabilities"])).only(User::Root, "a user has none"),
    ];
    for act in [["mknod", "char"], ["mknod", "block"]] {
        rows.push(
            row(format!("{} {}", act[0], act[1]), Kind::Act, move |scene| {
                Try::probe([act[0], act[1], &scene.inside("node")])
            })
            .only(User::Root, AS_ROOT),
        );
    }
    for act in [
        "kexec",
        "init-module",
        "swapon",
        "reboot",
        "acct",
        "quotactl",
        "kernel-log",
        "set-hostname",
        "set-clock",
        "bpf",
    ] {
        rows.push(row(act, Kind::Act, move |_| Try::probe([act])).only(User::Root, AS_ROOT).may_lack());
    }
    run(rows);
}

#[test]
fn surface() {
    let mut rows = Vec::new();
    for act in
        ["io-uring", "userfaultfd", "perf-event", "modify-ldt", "add-key", "request-key", "int80-getpid", "x32-getpid"]
    {
        rows.push(row(act, Kind::Act, move |_| Try::probe([act])).may_lack());
    }
    rows.push(row("keyctl", Kind::Act, |scene| {
        let name = scene.world.id();
        Try::probe(["keyctl"]).wrap(["guard-probe", "with-keys", &name, "x", "--"])
    }));
    run(rows);
}
