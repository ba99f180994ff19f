//! What the plan says of paths, in both tiers.

use super::*;

fn scene() -> Scene {
    Scene::new(&[
        "/usr/lib/libc.so",
        "/etc/shadow",
        "/home/ana/diary",
        "/home/ana/.npm/x",
        "/home/ana/.tool/state",
        "/home/ana/.tool/settings",
        "/home/ana/ro/x",
        "/home/ana/ro/s=",
        "/home/ana/p/src/main",
        "/home/ana/p/secret",
    ])
    .user(
        "[fs]\nread = [\"~/ro\"]\noverlay = [\"~/.npm\"]\nstate = [\"~/.tool\"]\nprotect = [\"~/.tool/settings\"]\n\
         deny = [\"$PROJECT/secret\"]",
    )
}

#[test]
fn of_a_full_plan() {
    let scene = scene();
    for (path, read, write, exec) in [
        ("/usr/lib/libc.so", true, false, true),
        ("/usr/lib", true, false, false),
        ("/usr/lib/new", false, false, false),
        ("/etc/shadow", false, false, false),
        ("/etc", false, false, false),
        ("/home/ana/diary", false, true, false),
        ("/home/ana/new", false, true, false),
        ("/home/ana/.npm/x", true, true, true),
        ("/home/ana/.npm/new", false, true, false),
        ("/home/ana/.tool/state", true, true, true),
        ("/home/ana/.tool/settings", true, false, true),
        ("/home/ana/ro/x", true, false, true),
        ("/home/ana/ro/s", false, false, false),
        ("/home/ana/p/src/main", true, true, true),
        ("/home/ana/p/src/../secret", false, false, false),
        ("/home/ana/p/secret", false, false, false),
        ("/home/ana/p/src/main/x", false, false, false),
        ("/", true, false, false),
        ("/home", true, false, false),
        ("/home/new", false, false, false),
        ("/tmp", true, true, false),
        ("/tmp/new", false, true, false),
        ("/dev/new", false, false, false),
        ("/run/user/1000", true, true, false),
        ("/proc/kcore", true, false, false),
    ] {
        let path = path.replace("/src/..", "");
        for (act, want) in [(Act::Read, read), (Act::Write, write), (Act::Exec, exec)] {
            scene.allows(act, &path, want);
        }
    }
    scene.allows(Act::Write, "/dev/null", true);
}

#[test]
fn of_a_landlock_plan() {
    let scene = scene().flat();
    for (path, read, write, exec) in [
        ("/usr/lib/libc.so", true, false, true),
        ("/etc/shadow", false, false, false),
        ("/home/ana/diary", false, false, false),
        ("/home/ana/new", false, false, false),
        ("/home/ana/.npm/x", true, false, true),
        ("/home/ana/.tool/state", true, true, true),
        // The gaps: Landlock cannot take away part of what it grants.
        ("/home/ana/.tool/settings", true, true, true),
        ("/home/ana/p/secret", true, true, true),
        ("/home/ana/ro/x", true, false, true),
        ("/home/ana/p/src/main", true, true, true),
        ("/", false, false, false),
        ("/home", false, false, false),
        ("/tmp", false, false, false),
        ("/tmp/new", false, false, false),
    ] {
        for (act, want) in [(Act::Read, read), (Act::Write, write), (Act::Exec, exec)] {
            scene.allows(act, path, want);
        }
    }
    let gaps = scene.plan().gaps;
    assert!(gaps.contains(&Gap::Protected(vec![AbsPath::known("/home/ana/.tool/settings")])), "{gaps:?}");
    assert!(gaps.contains(&Gap::Withheld(vec![AbsPath::known("/home/ana/p/secret")])), "{gaps:?}");
}

#[test]
fn each_names_the_rule_that_decided() {
    let scene = scene();
    for (act, path, words) in [
        (Act::Read, "/home/ana/ro/x", "allowed by made-up.toml:2"),
        (Act::Write, "/home/ana/ro/x", "read-only by made-up.toml:2"),
        (Act::Write, "/home/ana/.tool/settings", "made-up.toml:5"),
        (Act::Read, "/home/ana/p/secret", "made-up.toml:6 withholds it"),
        (Act::Read, "/etc/shadow", "no rule grants it"),
        (Act::Read, "/home/ana/diary", "sandbox home"),
        (Act::Write, "/home/ana/.npm/x", "not to the real one"),
        (Act::Write, "/home/new", "the new root's own directories are read-only"),
    ] {
        let verdict = scene.verdict(act, path).to_string();
        assert!(verdict.contains(words), "{act:?} {path}: {verdict}");
    }
}

#[test]
fn of_links_and_loops() {
    let scene = Scene::new(&[
        "/home/ana/p/a -> b",
        "/home/ana/p/b -> a",
        "/home/ana/p/up -> ../../../usr/bin/sh",
        "/home/ana/p/abs -> /usr/bin",
        "/home/ana/p/gone -> nowhere",
    ]);
    for (act, path, want) in [
        (Act::Read, "/home/ana/p/a", false),
        (Act::Exec, "/home/ana/p/up", true),
        (Act::Exec, "/home/ana/p/abs/sh", true),
        (Act::Write, "/home/ana/p/abs/sh", false),
        (Act::Read, "/home/ana/p/gone", false),
        (Act::Write, "/home/ana/p/gone", true),
    ] {
        scene.allows(act, path, want);
    }
    assert!(scene.verdict(Act::Read, "/home/ana/p/a").to_string().contains("loop"));
}

#[test]
fn of_addresses_and_abstract_sockets() {
    for (network, flat, abi, target, want) in [
        ("open", false, 7, "example.org:443", true),
        ("none", false, 7, "example.org:443", false),
        ("none", false, 7, "127.0.0.1:80", false),
        ("open", true, 7, "example.org:443", true),
        ("none", true, 7, "example.org:443", false),
        ("open", false, 7, "@x", false),
        ("open", false, 5, "@x", true),
        ("none", false, 5, "@x", false),
        ("open", true, 5, "@x", true),
        ("none", true, 5, "@x", true),
        ("open", true, 6, "@x", false),
    ] {
        let scene = Scene::new(&[]).user(&format!("[network]\nmode = \"{network}\"")).host(|h| h.landlock_abi = abi);
        let scene = if flat { scene.flat() } else { scene };
        let verdict = scene.plan().connect(&scene.tree, target);
        assert_eq!(verdict.allowed(), want, "{network} flat {flat} ABI {abi} {target}: {verdict}");
    }
}

#[test]
fn of_path_sockets_in_the_landlock_tier() {
    for (abi, want) in [(1, true), (7, true), (8, true), (9, false), (10, false)] {
        let scene = Scene::new(&["/run/docker.sock="]).host(|h| h.landlock_abi = abi).flat();
        scene.allows(Act::Connect, "/run/docker.sock", want);
        let named = scene.plan().gaps.contains(&Gap::PathSockets);
        assert_eq!(named, want, "what is reachable is a gap, {abi}");
    }
    Scene::new(&["/run/docker.sock="]).allows(Act::Connect, "/run/docker.sock", false);
}

#[test]
fn root_cannot_write_in_proc() {
    for (uid, want) in [(1000, true), (0, false)] {
        let mut scene = Scene::new(&["/proc/self/"]);
        scene.uid = uid;
        let plan = scene.plan();
        let proc = plan.ruleset.paths.iter().find(|r| r.path == AbsPath::known("/proc")).unwrap();
        assert_eq!(proc.grant == Grant::WriteData, want, "{uid}");
    }
    Scene::new(&[]).allows(Act::Write, "/proc/sys", false);
}

#[test]
fn the_second_lock_covers_what_the_first_shows() {
    let plan = scene().plan();
    for mount in &plan.mounts {
        let grants = plan.ruleset.paths.iter().filter(|r| r.path == mount.at).map(|r| r.grant).collect::<Vec<_>>();
        match &mount.what {
            What::Bind { writes: Writes::No, .. } => assert_eq!(grants, [Grant::Read], "{}", mount.at),
            What::Bind { writes: Writes::Yes, .. } | What::Private(_) | What::Overlay { .. } => {
                assert_eq!(grants, [Grant::Write], "{}", mount.at);
            }
            What::EmptyDir(_) | What::EmptyFile(_) | What::Frozen | What::Link(_) => {
                assert_eq!(grants, [] as [Grant; 0], "{}", mount.at);
            }
            What::Device(_) | What::Tmpfs { .. } | What::Proc | What::Terminals => {
                assert_eq!(grants.len(), 1, "{}", mount.at);
            }
        }
    }
    let root = plan.ruleset.paths.iter().find(|r| r.path == AbsPath::root()).unwrap();
    assert_eq!(root.grant, Grant::List);
}
