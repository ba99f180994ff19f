//! Symlinks: followed once, never into what is withheld, and never where the agent could have made them.

use super::*;

#[test]
fn a_grant_through_a_link_opens_what_it_leads_to() {
    let scene = Scene::new(&["/data/docs/x", "/home/ana/docs -> /data/docs"]).user("[fs]\nread = [\"~/docs\"]");
    let plan = scene.plan();
    assert_eq!(shown(&plan, "/data/docs"), "read");
    assert_eq!(shown(&plan, "/home/ana/docs"), "-> /data/docs");
    scene.allows(Act::Read, "/home/ana/docs/x", true);
    scene.allows(Act::Write, "/home/ana/docs/x", false);
    let flat = scene.flat();
    flat.allows(Act::Read, "/home/ana/docs/x", true);
    assert!(flat.plan().links.contains(&(store().flat_home.join("docs"), AbsPath::known("/data/docs"))));
}

#[test]
fn a_link_into_something_withheld_opens_nothing() {
    for (links, deny, grant) in [
        (&["/home/ana/docs -> /home/ana/.ssh"][..], "~/.ssh", "~/docs"),
        (&["/home/ana/docs -> .ssh/keys"], "~/.ssh", "~/docs"),
        (&["/home/ana/docs -> a", "/home/ana/a -> .ssh"], "~/.ssh", "~/docs"),
        (&["/home/ana/up -> p/.."], "~/.ssh", "~/up/.ssh"),
        // What is withheld may be a link itself.
        (&["/home/ana/.aws -> .ssh"], "~/.aws", "~/.ssh/keys"),
        (&["/home/ana/.aws -> .ssh", "/home/ana/docs -> .ssh/keys"], "~/.aws", "~/docs"),
        // Also where the thing is not there yet.
        (&["/home/ana/docs -> .ssh/new"], "~/.ssh", "~/docs"),
    ] {
        for access in ["read", "write", "state", "overlay"] {
            let mut tree = vec!["/home/ana/.ssh/keys/k"];
            tree.extend(links);
            let scene = Scene::new(&tree)
                .user(&format!("[fs]\n{access} = [\"{grant}\"]"))
                .layer(LayerKind::Terminal, &format!("[fs]\ndeny = [\"{deny}\"]"));
            for flat in [false, true] {
                let scene = if flat { scene.copy().flat() } else { scene.copy() };
                closed(&scene, "/home/ana/.ssh/keys/k");
                assert_eq!(scene.plan().create, [], "{links:?} {access}");
            }
        }
    }
}

#[test]
fn a_withheld_link_withholds_what_it_leads_to() {
    let scene = Scene::new(&["/home/ana/g/real/key", "/home/ana/g/.aws -> real"])
        .user("[fs]\nread = [\"~/g\"]\ndeny = [\"~/g/.aws\"]");
    assert_eq!(shown(&scene.plan(), "/home/ana/g/real"), "denied directory");
    closed(&scene, "/home/ana/g/real/key");
    scene.allows(Act::Read, "/home/ana/g/.aws/key", false);
}

#[test]
fn a_link_the_agent_could_have_made_is_not_followed() {
    // Real ways: an agent's state is writable, and below it lie rules for caches and settings.
    let victims = ["/home/ana/Documents/diary", "/home/ana/q/.env", "/home/ana/.ssh/id_rsa"];
    for target in ["/home/ana/Documents", "/home/ana/q", "/home/ana/.ssh", "/home", "/"] {
        for rule in ["read", "write", "state", "overlay", "protect", "mask", "deny"] {
            let link = format!("/home/ana/.tool/bin -> {target}");
            let mut tree = victims.to_vec();
            tree.extend(["/home/ana/.tool/x", &link]);
            let scene = Scene::new(&tree)
                .agent("[fs]\nstate = [\"~/.tool\"]")
                .agent(&format!("[fs]\n{rule} = [\"~/.tool/bin\"]"));
            for victim in victims {
                closed(&scene, victim);
            }
        }
    }
}

#[test]
fn a_link_made_in_a_linked_state_directory_is_not_followed_either() {
    let tree = [
        "/home/ana/Documents/diary",
        "/home/ana/dotfiles/tool/x",
        "/home/ana/.tool -> dotfiles/tool",
        "/home/ana/dotfiles/tool/bin -> /home/ana/Documents",
    ];
    for rule in ["read", "write", "state", "overlay", "protect"] {
        let scene =
            Scene::new(&tree).agent("[fs]\nstate = [\"~/.tool\"]").agent(&format!("[fs]\n{rule} = [\"~/.tool/bin\"]"));
        closed(&scene, "/home/ana/Documents/diary");
    }
}

#[test]
fn a_planted_link_in_the_place_of_something_protected_is_held_and_shown_empty() {
    let scene = Scene::new(&["/home/ana/.ssh/id_rsa", "/home/ana/.tool/settings -> /home/ana/.ssh/id_rsa"])
        .agent("[fs]\nstate = [\"~/.tool\"]\nprotect = [\"~/.tool/settings\"]");
    let plan = scene.plan();
    assert_eq!(shown(&plan, "/home/ana/.tool/settings"), "masked file");
    assert!(idle(&plan, "/home/ana/.tool/settings").contains("no rule opens"), "{:?}", plan.idle);
    closed(&scene, "/home/ana/.ssh/id_rsa");
    // Where it leads to something that is open anyway, its content shows and the link stays what it is.
    let scene = Scene::new(&["/home/ana/p/tool.json", "/home/ana/.tool/settings -> /home/ana/p/tool.json"])
        .agent("[fs]\nstate = [\"~/.tool\"]\nprotect = [\"~/.tool/settings\"]");
    assert_eq!(shown(&scene.plan(), "/home/ana/.tool/settings"), "read");
}

#[test]
fn links_in_the_project_are_followed_inside_only() {
    let scene =
        Scene::new(&["/home/ana/.ssh/id_rsa", "/home/ana/p/key -> ../.ssh/id_rsa", "/home/ana/p/l -> .git/HEAD"]);
    closed(&scene, "/home/ana/.ssh/id_rsa");
    scene.allows(Act::Read, "/home/ana/p/key", false);
    scene.allows(Act::Read, "/home/ana/p/l", true);
    // Nor does a rule of the user on a path in the project.
    for access in ["read", "write", "state", "overlay"] {
        let scene = Scene::new(&["/home/ana/Documents/x", "/home/ana/p/out -> ../Documents"])
            .user(&format!("[fs]\n{access} = [\"$PROJECT/out\"]"));
        closed(&scene, "/home/ana/Documents/x");
        assert!(idle(&scene.plan(), "/home/ana/p/out").contains("is a link"));
    }
}

#[test]
fn dangling_links_open_nothing() {
    let scene = Scene::new(&["/home/ana/docs -> /nowhere/x", "/home/ana/p/.envrc -> /nowhere/y"])
        .user("[fs]\nread = [\"~/docs\"]\nprotect = [\"$PROJECT/.envrc\"]");
    let plan = scene.plan();
    assert_eq!(idle(&plan, "/home/ana/docs"), "it does not exist");
    assert_eq!(shown(&plan, "/home/ana/docs"), "nothing");
    assert_eq!(shown(&plan, "/home/ana/p/.envrc"), "masked file", "held, or the agent could point it elsewhere");
}

#[test]
fn a_loop_of_links_ends_the_start_with_the_rule() {
    let tree = ["/home/ana/a -> b", "/home/ana/b -> a"];
    for access in ["read", "write", "state", "overlay", "deny", "mask", "protect"] {
        let refusal = Scene::new(&tree).user(&format!("[fs]\n{access} = [\"~/a/x\"]")).make().unwrap_err();
        assert!(matches!(refusal, Refusal::Rule { .. }), "{refusal}");
        assert!(refusal.to_string().contains("made-up.toml:2"), "{refusal}");
        assert_eq!(refusal.exit_code(), 125);
        let source = std::error::Error::source(&refusal).unwrap().to_string();
        assert!(source.contains("symbolic links"), "{source}");
    }
    // A loop in the project is the repository's doing and must not keep a rule's owner from working there.
    let scene = Scene::new(&["/home/ana/p/.envrc -> .envrc"]).user("[fs]\nprotect = [\"$PROJECT/.envrc\"]");
    assert_eq!(shown(&scene.plan(), "/home/ana/p/.envrc"), "masked file");
}

#[test]
fn a_link_to_the_home_or_above_opens_nothing() {
    for target in ["/home/ana", "/home", "/", "/home/ana/p/.."] {
        let link = format!("/srv/l -> {target}");
        for access in ["read", "write", "overlay", "state"] {
            let scene = Scene::new(&["/home/ana/diary", &link]).user(&format!("[fs]\n{access} = [\"/srv/l\"]"));
            closed(&scene, "/home/ana/diary");
            assert!(idle(&scene.plan(), "/srv/l").contains("home"), "{target} {access}");
        }
    }
}

#[test]
fn system_links_are_shown_as_links() {
    let plan = Scene::new(&[]).plan();
    assert_eq!(shown(&plan, "/bin"), "-> usr/bin");
    assert_eq!(shown(&plan, "/usr"), "read");
    Scene::new(&[]).allows(Act::Exec, "/bin/sh", true);
}
