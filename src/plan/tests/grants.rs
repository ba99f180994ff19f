//! Rules against rules: which one decides for a path, and what it comes to in the new root.

use super::*;

#[test]
fn the_most_specific_rule_decides() {
    let scene =
        Scene::new(&["/home/ana/docs/x", "/home/ana/docs/a/x", "/home/ana/docs/a/b/x", "/home/ana/docs/a/b/c/x"]).user(
            "[fs]\nread = [\"~/docs\"]\ndeny = [\"~/docs/a\"]\nwrite = [\"~/docs/a/b\"]\nprotect = [\"~/docs/a/b/c\"]",
        );
    let plan = scene.plan();
    for (at, want) in [("/home/ana/docs", "read"), ("/home/ana/docs/a/b", "write"), ("/home/ana/docs/a/b/c", "read")] {
        assert_eq!(shown(&plan, at), want, "{at}");
    }
    for (act, path, want) in [
        (Act::Read, "/home/ana/docs/x", true),
        (Act::Write, "/home/ana/docs/x", false),
        (Act::Read, "/home/ana/docs/a/x", false),
        (Act::Write, "/home/ana/docs/a/b/x", true),
        (Act::Read, "/home/ana/docs/a/b/c/x", true),
        (Act::Write, "/home/ana/docs/a/b/c/x", false),
        (Act::Write, "/home/ana/docs/a/b/c/new", false),
    ] {
        scene.allows(act, path, want);
    }
    closed(&scene, "/home/ana/docs/a/x");
}

#[test]
fn paths_are_compared_by_component() {
    let scene = Scene::new(&["/home/ana/code/x", "/home/ana/code-evil/x", "/home/ana/p-other/x"])
        .user("[fs]\nread = [\"~/code\"]");
    scene.allows(Act::Read, "/home/ana/code/x", true);
    closed(&scene, "/home/ana/code-evil/x");
    closed(&scene, "/home/ana/p-other/x");
}

#[test]
fn for_one_path_the_later_layer_decides() {
    let tree = ["/home/ana/x/f"];
    for (agent, user, want) in [
        ("read", "deny", "nothing"),
        ("deny", "read", "read"),
        ("write", "read", "read"),
        ("read", "write", "write"),
        ("write", "overlay", "overlay"),
        ("state", "mask", "nothing"),
    ] {
        let plan = Scene::new(&tree)
            .agent(&format!("[fs]\n{agent} = [\"~/x\"]"))
            .user(&format!("[fs]\n{user} = [\"~/x\"]"))
            .plan();
        assert_eq!(shown(&plan, "/home/ana/x"), want, "{agent}, then {user}");
    }
}

#[test]
fn a_terminal_deny_is_above_every_layer() {
    for kind in [LayerKind::Agent, LayerKind::User, LayerKind::Directory, LayerKind::CommandLine] {
        for access in ["read", "write", "state", "overlay", "protect", "mask"] {
            for path in ["~/.config/guard", "~/.config/guard/config.toml", "~/.config"] {
                let scene = Scene::new(&["/home/ana/.config/guard/config.toml", "/home/ana/.config/other/x"])
                    .layer(kind, &format!("[fs]\n{access} = [\"{path}\"]"))
                    .layer(LayerKind::Terminal, "[fs]\ndeny = [\"~/.config/guard\"]");
                closed(&scene, "/home/ana/.config/guard/config.toml");
                scene.allows(Act::Write, "/home/ana/.config/guard/config.toml", false);
            }
        }
    }
}

#[test]
fn what_narrows_inside_a_grant_is_held_in_place() {
    for (grant, rule, dir, want) in [
        ("read", "deny", true, "denied directory"),
        ("read", "deny", false, "denied file"),
        ("read", "mask", true, "tmpfs"),
        ("read", "mask", false, "masked file"),
        ("read", "protect", true, "nothing"),
        ("write", "deny", true, "denied directory"),
        ("write", "deny", false, "denied file"),
        ("write", "mask", true, "tmpfs"),
        ("write", "mask", false, "masked file"),
        ("write", "protect", true, "read"),
        ("write", "protect", false, "read"),
        ("write", "read", true, "read"),
        ("state", "protect", false, "read"),
        ("state", "deny", true, "denied directory"),
        ("overlay", "protect", true, "nothing"),
        ("overlay", "deny", false, "denied file"),
        ("overlay", "mask", false, "masked file"),
    ] {
        let below = if dir { "/home/ana/g/m/x/" } else { "/home/ana/g/m/x" };
        let scene = Scene::new(&[below]).user(&format!("[fs]\n{grant} = [\"~/g\"]\n{rule} = [\"~/g/m/x\"]"));
        assert_eq!(shown(&scene.plan(), "/home/ana/g/m/x"), want, "{rule} in {grant}, directory: {dir}");
    }
}

#[test]
fn a_masked_thing_reads_as_empty_and_a_denied_one_does_not_open() {
    let scene = Scene::new(&["/home/ana/p/m", "/home/ana/p/d", "/home/ana/p/md/x", "/home/ana/p/dd/x"])
        .user("[fs]\nmask = [\"$PROJECT/m\", \"$PROJECT/md\"]\ndeny = [\"$PROJECT/d\", \"$PROJECT/dd\"]");
    for (act, path, want) in [
        (Act::Read, "/home/ana/p/m", true),
        (Act::Write, "/home/ana/p/m", false),
        (Act::Read, "/home/ana/p/d", false),
        (Act::Write, "/home/ana/p/d", false),
        (Act::Read, "/home/ana/p/md", true),
        (Act::Read, "/home/ana/p/md/x", false),
        (Act::Write, "/home/ana/p/md/new", true),
        (Act::Read, "/home/ana/p/dd", false),
        (Act::Enter, "/home/ana/p/dd", false),
        (Act::Read, "/home/ana/p/dd/x", false),
        (Act::Write, "/home/ana/p/dd/new", false),
    ] {
        scene.allows(act, path, want);
    }
    for path in ["/home/ana/p/d", "/home/ana/p/dd/x", "/home/ana/p/md/x"] {
        closed(&scene, path);
    }
    for (rule, want) in [("mask", "withheld files"), ("deny", "withheld files"), ("protect", "protected files")] {
        let flat = Scene::new(&["/home/ana/p/m"]).user(&format!("[fs]\n{rule} = [\"$PROJECT/m\"]")).flat().plan();
        assert!(flat.gaps.iter().any(|g| g.short() == want), "{rule}");
    }
}

#[test]
fn the_landlock_tier_names_all_that_it_cannot_narrow() {
    let flat = Scene::new(&["/home/ana/s/guarded/key", "/home/ana/s/bin/", "/home/ana/c/key"])
        .user(
            "[fs]\nstate = [\"~/s\"]\nprotect = [\"~/s/guarded\"]\ndeny = [\"~/s/guarded/key\", \"~/c/key\"]\n\
             overlay = [\"~/s/bin\", \"~/c\"]",
        )
        .flat()
        .plan();
    let list = |paths: &[&str]| paths.iter().map(AbsPath::known).collect::<Vec<_>>();
    // Below something protected a file is as readable as the rest; below a state directory a cache is writable.
    assert!(
        flat.gaps.contains(&Gap::Withheld(list(&["/home/ana/c/key", "/home/ana/s/guarded/key"]))),
        "{:?}",
        flat.gaps
    );
    assert!(flat.gaps.contains(&Gap::Protected(list(&["/home/ana/s/bin", "/home/ana/s/guarded"]))), "{:?}", flat.gaps);
    assert!(flat.gaps.contains(&Gap::Caches(list(&["/home/ana/c"]))), "{:?}", flat.gaps);
}

#[test]
fn directories_above_a_held_path_are_pinned() {
    let scene = Scene::new(&["/home/ana/p/.git/hooks/pre-commit", "/home/ana/p/a/b/c/secret", "/home/ana/p/other/x"])
        .user("[fs]\nprotect = [\"$PROJECT/.git/hooks\"]\ndeny = [\"$PROJECT/a/b/c/secret\"]");
    let plan = scene.plan();
    for (at, want) in [
        // Or `mv .git` and a new one in its place would step around what is held below.
        ("/home/ana/p/.git", "write"),
        ("/home/ana/p/.git/hooks", "read"),
        ("/home/ana/p/a", "write"),
        ("/home/ana/p/a/b", "write"),
        ("/home/ana/p/a/b/c", "write"),
        ("/home/ana/p/a/b/c/secret", "denied file"),
        ("/home/ana/p/other", "nothing"),
    ] {
        assert_eq!(shown(&plan, at), want, "{at}");
    }
    // Bound onto itself: by its own path and identity.
    let pin = plan.mounts.iter().find(|m| m.at == AbsPath::known("/home/ana/p/.git")).unwrap();
    let What::Bind { node, .. } = &pin.what else { panic!() };
    assert!(node.path == pin.at && node.id.is_some());
    // Nothing to pin where the tree is read-only or private anyway.
    let plan = Scene::new(&["/home/ana/g/a/secret"]).user("[fs]\nread = [\"~/g\"]\ndeny = [\"~/g/a/secret\"]").plan();
    assert_eq!(shown(&plan, "/home/ana/g/a"), "nothing");
}

#[test]
fn parents_come_before_children() {
    let plan = Scene::new(&["/home/ana/.ssh/id_rsa"]).with_builtins("claude").plan();
    for (index, mount) in plan.mounts.iter().enumerate() {
        for later in &plan.mounts[index + 1..] {
            assert!(!mount.at.is_within(&later.at), "{} before {}", mount.at, later.at);
        }
    }
}

#[test]
fn a_shared_cache_is_an_overlay_or_read_only_and_named() {
    let scene = Scene::new(&["/home/ana/.npm/x"]).user("[fs]\noverlay = [\"~/.npm\"]");
    let plan = scene.plan();
    let what = &plan.mounts.iter().find(|m| m.at == AbsPath::known("/home/ana/.npm")).unwrap().what;
    let What::Overlay { lower, layer } = what else { panic!("{what:?}") };
    assert_eq!(lower.path, AbsPath::known("/home/ana/.npm"));
    assert!(layer.is_within(&store().layers) && *layer != store().layers, "{layer}");
    let verdict = scene.verdict(Act::Write, "/home/ana/.npm/x");
    assert!(matches!(verdict, Verdict::Allowed(_, Some(_))), "the note says whose copy it is: {verdict}");

    let without = scene.host(|h| h.overlay = false);
    let plan = without.plan();
    assert_eq!(shown(&plan, "/home/ana/.npm"), "read");
    assert_eq!(plan.gaps, [Gap::Caches(vec![AbsPath::known("/home/ana/.npm")])]);
    without.allows(Act::Write, "/home/ana/.npm/x", false);
}

#[test]
fn private_layers_do_not_collide() {
    let plan = Scene::new(&["/c/a/b/", "/c/a%2fb/", "/c/a%252fb/"])
        .user("[fs]\noverlay = [\"/c/a/b\", \"/c/a%2fb\", \"/c/a%252fb\"]")
        .plan();
    let mut layers: Vec<&AbsPath> = plan
        .mounts
        .iter()
        .filter_map(|m| if let What::Overlay { layer, .. } = &m.what { Some(layer) } else { None })
        .collect();
    layers.sort();
    layers.dedup();
    assert_eq!(layers.len(), 3);
}

#[test]
fn what_is_not_there_is_listed_made_or_watched() {
    let scene = Scene::new(&[]).user(
        "[fs]\nread = [\"~/gone\"]\nwrite = [\"~/w\"]\noverlay = [\"~/o\"]\nstate = [\"~/.tool\"]\n\
         protect = [\"~/.tool/settings.json\", \"$PROJECT/.envrc\"]\ndeny = [\"~/d\"]\nmask = [\"~/m\"]\n\
         [fs.create]\n\"~/.tool/settings.json\" = \"{}\"",
    );
    let plan = scene.plan();
    for path in ["/home/ana/gone", "/home/ana/w", "/home/ana/o"] {
        assert_eq!(idle(&plan, path), "it does not exist", "{path}");
        assert_eq!(shown(&plan, path), "nothing", "{path}");
    }
    let made: Vec<_> = plan.create.iter().map(|(p, c)| (p.to_string(), c.clone())).collect();
    assert_eq!(
        made,
        [
            ("/home/ana/.tool".to_owned(), Create::Dir),
            ("/home/ana/.tool/settings.json".to_owned(), Create::File("{}".into()))
        ]
    );
    assert_eq!(shown(&plan, "/home/ana/.tool"), "write");
    assert_eq!(shown(&plan, "/home/ana/.tool/settings.json"), "read");
    let absent: Vec<_> = plan.absent.iter().map(|(p, _)| p.to_string()).collect();
    assert_eq!(absent, ["/home/ana/p/.envrc"]);
    // The verdict knows what will be made.
    scene.allows(Act::Enter, "/home/ana/.tool", true);
    scene.allows(Act::Write, "/home/ana/.tool/settings.json", false);
}

#[test]
fn nothing_is_made_without_a_rule_that_needs_it() {
    let plan = Scene::new(&["/home/ana/there"])
        .user("[fs]\nprotect = [\"~/there\"]\n[fs.create]\n\"~/there\" = \"x\"\n\"~/loose\" = \"x\"")
        .plan();
    assert_eq!(plan.create, []);
}

#[test]
fn a_terminal_path_that_is_not_there_yet_is_looked_for_again() {
    // With a writable grant above it the agent could make it, and the next start of guard would obey it.
    let scene = Scene::new(&["/home/ana/.config/"])
        .user("[fs]\nwrite = [\"~/.config\"]")
        .layer(LayerKind::Terminal, "[fs]\ndeny = [\"~/.config/guard\", \"~/.bashrc\"]");
    let absent: Vec<_> = scene.plan().absent.iter().map(|(p, _)| p.to_string()).collect();
    assert_eq!(absent, ["/home/ana/.config/guard"], "~/.bashrc would be made in the private home");
}

#[test]
fn a_git_file_decides_which_repository_git_obeys() {
    let mut scene = Scene::new(&["/home/ana/w/.git", "/home/ana/main/.git/hooks/", "/home/ana/main/.git/config"])
        .with_builtins("shell")
        .at("/home/ana/w", Some("/home/ana/w"));
    scene.project.git = vec![AbsPath::known("/home/ana/main/.git")];
    let plan = scene.plan();
    assert_eq!(shown(&plan, "/home/ana/w/.git"), "read");
    for (path, want) in [
        ("/home/ana/main/.git/index", true),
        ("/home/ana/main/.git/config", false),
        ("/home/ana/main/.git/hooks/pre-commit", false),
        ("/home/ana/w/.git", false),
        ("/home/ana/w/file", true),
    ] {
        scene.allows(Act::Write, path, want);
    }
    closed(&scene, "/home/ana/main/file");
}

#[test]
fn merged_files_are_a_link_to_a_shared_directory() {
    let rule = "[[fs.merge]]\nfile = \"~/.claude.json\"\nkeep_outside = [\"env\"]\nby_project = \"projects\"";
    let scene = Scene::new(&["/home/ana/.claude.json"]).agent(rule);
    let plan = scene.plan();
    assert_eq!(shown(&plan, "/home/ana/.claude.json"), "-> /run/guard/shared/claude/.claude.json");
    assert_eq!(shown(&plan, "/run/guard/shared/claude"), "private");
    assert_eq!(plan.merged[0].copy, store().shared.join("claude/.claude.json"));
    assert_eq!(plan.merged[0].keep_outside, ["env"]);
    closed(&scene, "/home/ana/.claude.json");

    let flat = Scene::new(&["/home/ana/.claude.json"]).agent(rule).flat().plan();
    let link = (store().flat_home.join(".claude.json"), store().shared.join("claude/.claude.json"));
    assert!(flat.links.contains(&link), "{:?}", flat.links);
    assert!(flat.ruleset.paths.iter().any(|r| r.path == store().shared.join("claude") && r.grant == Grant::Write));
}

#[test]
fn a_denied_file_is_not_shared_by_merging() {
    let rule = "[[fs.merge]]\nfile = \"~/.claude.json\"";
    for (kind, text) in [
        (LayerKind::User, "[fs]\ndeny = [\"~/.claude.json\"]"),
        (LayerKind::User, "[fs]\nmask = [\"~/.claude.json\"]"),
        (LayerKind::ManagedFloor, "[fs]\ndeny = [\"~/.claude.json\"]"),
        (LayerKind::Terminal, "[fs]\ndeny = [\"~/.claude.json\"]"),
    ] {
        let plan = Scene::new(&["/home/ana/.claude.json"]).agent(rule).layer(kind, text).plan();
        assert_eq!(plan.merged, [], "{kind:?} {text}");
        assert_eq!(shown(&plan, "/home/ana/.claude.json"), "nothing");
    }
}

#[test]
fn denied_commands_do_not_open_by_any_path() {
    use std::os::unix::fs::PermissionsExt as _;
    // Commands are searched on the real PATH; the made-up tree has the same files.
    let dir = tempfile::tempdir().unwrap();
    let bin = std::fs::canonicalize(dir.path()).unwrap();
    std::fs::write(bin.join("kubectl-1.30"), "").unwrap();
    std::fs::set_permissions(bin.join("kubectl-1.30"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("kubectl-1.30", bin.join("kubectl")).unwrap();
    let bin = bin.to_str().unwrap();
    let tree = [format!("{bin}/kubectl-1.30"), format!("{bin}/kubectl -> kubectl-1.30"), format!("{bin}/other")];
    let tree: Vec<&str> = tree.iter().map(String::as_str).collect();
    let scene = Scene::new(&tree)
        .user(&format!("[fs]\nread = [\"{bin}\"]\n[commands]\ndeny = [\"kubectl\"]"))
        .env(&[("PATH", &format!("/usr/bin:{bin}"))]);
    assert_eq!(shown(&scene.plan(), &format!("{bin}/kubectl-1.30")), "denied file");
    for (name, want) in [("kubectl", false), ("kubectl-1.30", false), ("other", true)] {
        scene.allows(Act::Exec, &format!("{bin}/{name}"), want);
        if !want {
            scene.allows(Act::Read, &format!("{bin}/{name}"), false);
        }
    }
    let flat = scene.flat().plan();
    assert!(flat.gaps.iter().any(|g| matches!(g, Gap::Withheld(_))), "the landlock tier cannot, and says so");
}

#[test]
fn sockets_are_closed_until_named() {
    let tree = [
        "/run/user/1000/agent=",
        "/run/docker.sock=",
        "/var/run -> ../run",
        "/run/user/1000/gnupg/S.gpg-agent=",
        "/run/user/1000/wayland-0=",
        "/tmp/.X11-unix/X0=",
        "/home/ana/.Xauthority",
    ];
    let vars = [("SSH_AUTH_SOCK", "/run/user/1000/agent"), ("WAYLAND_DISPLAY", "wayland-0"), ("DISPLAY", ":0")];
    let all = [
        ("ssh-agent", "/run/user/1000/agent"),
        ("gpg-agent", "/run/user/1000/gnupg/S.gpg-agent"),
        ("docker", "/run/docker.sock"),
        ("wayland", "/run/user/1000/wayland-0"),
        ("x11", "/tmp/.X11-unix/X0"),
    ];
    for (name, _) in all {
        let scene = Scene::new(&tree).env(&vars).user(&format!("[sockets]\n{name} = true"));
        for (other, path) in all {
            scene.allows(Act::Connect, path, other == name);
        }
        let variable = scene.plan().env.vars.contains_key(std::ffi::OsStr::new("SSH_AUTH_SOCK"));
        assert_eq!(variable, name == "ssh-agent");
    }
    Scene::new(&tree).env(&vars).user("[sockets]\ndocker = true").allows(Act::Connect, "/var/run/docker.sock", true);
}

#[test]
fn a_variable_that_names_a_socket_opens_nothing_else() {
    // `.envrc` sets variables, and the user has opened ssh-agent, Wayland or X11.
    let tree = ["/home/ana/.ssh/id_rsa", "/home/ana/p/fake=", "/home/ana/.aws/credentials"];
    for (name, variable) in [("ssh-agent", "SSH_AUTH_SOCK"), ("wayland", "WAYLAND_DISPLAY"), ("x11", "XAUTHORITY")] {
        for target in ["/home/ana/.ssh", "/home/ana/.ssh/id_rsa", "/home/ana", "/", "/home/ana/.aws/credentials"] {
            let scene = Scene::new(&tree)
                .env(&[(variable, target)])
                .user(&format!("[sockets]\n{name} = true\n[fs]\ndeny = [\"~/.ssh\", \"~/.aws\"]"));
            closed(&scene, "/home/ana/.ssh/id_rsa");
            closed(&scene, "/home/ana/.aws/credentials");
        }
    }
}

#[test]
fn connecting_needs_a_writable_socket_not_a_writable_mount() {
    // As the kernel has it: a read-only bind does not keep anyone from a socket in it.
    let scene = Scene::new(&["/srv/d/s="]).user("[fs]\nread = [\"/srv/d\"]");
    scene.allows(Act::Connect, "/srv/d/s", true);
    scene.allows(Act::Write, "/srv/d/s", false);
    scene.allows(Act::Connect, "/srv/d/none", false);
}
