//! Where a start happens: the project, the home, withheld places, and the program itself.

use super::*;

#[test]
fn the_project_is_writable_wherever_it_lies() {
    for root in ["/home/ana/p", "/srv/work/p", "/home/ana/src/deep/p", "/mnt/disk"] {
        let file = format!("{root}/src/main.rs");
        for flat in [false, true] {
            let scene =
                Scene::new(&[&file, "/home/ana/diary", "/srv/work/other/x"]).at(&format!("{root}/src"), Some(root));
            let scene = if flat { scene.flat() } else { scene };
            let plan = scene.plan();
            assert_eq!(plan.cwd, AbsPath::known(format!("{root}/src")));
            scene.allows(Act::Write, &file, true);
            scene.allows(Act::Write, &format!("{root}/new"), true);
            closed(&scene, "/home/ana/diary");
            closed(&scene, "/srv/work/other/x");
            assert_eq!(plan.env.vars[std::ffi::OsStr::new("PWD")].reveal(), plan.cwd.as_path().as_os_str());
        }
    }
}

#[test]
fn the_home_as_current_directory_is_a_private_one() {
    let scene = Scene::new(&["/home/ana/diary"]).with_builtins("shell").at(HOME, None);
    let plan = scene.plan();
    assert_eq!((plan.cwd.clone(), shown(&plan, HOME)), (AbsPath::known(HOME), "private".into()));
    closed(&scene, "/home/ana/diary");
    let verdict = scene.verdict(Act::Write, "/home/ana/new");
    assert!(matches!(verdict, Verdict::Allowed(_, Some(_))), "{verdict}");
    let flat = scene.flat();
    closed(&flat, "/home/ana/diary");
    flat.allows(Act::Write, "/home/ana/new", false);
}

#[test]
fn the_root_as_current_directory_grants_nothing() {
    let scene = Scene::new(&["/secret", "/home/ana/diary"]).at("/", None);
    assert_eq!(scene.plan().cwd, AbsPath::root());
    closed(&scene, "/secret");
    closed(&scene, "/home/ana/diary");
    scene.allows(Act::Write, "/new", false);
}

#[test]
fn a_withheld_directory_is_no_project() {
    let tree = [
        "/home/ana/.ssh/work/id_rsa",
        "/home/ana/.aws/sso/cache/x",
        "/home/ana/.config/guard/profiles/x.toml",
        "/home/ana/.local/share/guard/homes/x/y",
        "/home/ana/.gnupg/private-keys-v1.d/k",
        "/etc/ssh/x",
    ];
    for dir in [
        "/home/ana/.ssh",
        // Below one too, though the project's own rule is the more specific one.
        "/home/ana/.ssh/work",
        "/home/ana/.aws",
        "/home/ana/.aws/sso/cache",
        "/home/ana/.config/guard",
        "/home/ana/.config/guard/profiles",
        "/home/ana/.local/share/guard/homes/x",
        "/home/ana/.gnupg/private-keys-v1.d",
    ] {
        for flat in [false, true] {
            let scene = Scene::new(&tree).with_builtins("shell").at(dir, Some(dir));
            let scene = if flat { scene.flat() } else { scene };
            let refusal = scene.make().expect_err(dir);
            assert!(matches!(refusal, Refusal::DeniedDirectory { .. }), "{dir}: {refusal}");
            assert_eq!(refusal.exit_code(), 125);
        }
    }
    // Without a project too, and by the user's own deny.
    let scene = Scene::new(&tree).with_builtins("shell").at("/etc/ssh", None);
    assert!(matches!(scene.make(), Err(Refusal::DeniedDirectory { .. })));
    let scene = Scene::new(&["/home/ana/w/secret/x"]).user("[fs]\ndeny = [\"~/w\"]");
    let scene = scene.at("/home/ana/w/secret", Some("/home/ana/w/secret"));
    assert!(matches!(scene.make(), Err(Refusal::DeniedDirectory { .. })));
}

#[test]
fn a_layer_that_names_it_opens_a_withheld_directory() {
    let dir = "/home/ana/.aws/sso";
    for rule in ["write = [\"~/.aws\"]", "write = [\"~/.aws/sso\"]"] {
        let scene = Scene::new(&["/home/ana/.aws/sso/x"]).with_builtins("shell").at(dir, Some(dir));
        scene.user(&format!("[fs]\n{rule}")).allows(Act::Write, "/home/ana/.aws/sso/x", true);
    }
}

#[test]
fn a_directory_nothing_grants_is_refused_with_the_flag() {
    let refusal = Scene::new(&["/etc/x/y"]).at("/etc/x", None).make().unwrap_err();
    assert!(matches!(refusal, Refusal::DirectoryNotVisible(_)), "{refusal}");
    assert!(refusal.hint().contains("--read /etc/x"), "{}", refusal.hint());
    let refusal = Scene::new(&["/home/ana/p/private/x"])
        .user("[fs]\ndeny = [\"$PROJECT/private\"]")
        .at("/home/ana/p/private", Some(PROJECT))
        .make()
        .unwrap_err();
    assert!(matches!(refusal, Refusal::DeniedDirectory { .. }), "{refusal}");
}

#[test]
fn a_program_that_is_not_part_of_the_sandbox_is_refused() {
    for (deny, reason) in
        [("[fs]\ndeny = [\"/usr/bin/sh\"]", "withholds"), ("[fs]\ndeny = [\"/usr/bin\"]", "withholds")]
    {
        let refusal = Scene::new(&[]).user(deny).make().unwrap_err();
        let Refusal::ProgramNotVisible { reason: found, .. } = &refusal else { panic!("{refusal}") };
        assert!(found.contains(reason), "{found}");
        assert_eq!(refusal.exit_code(), 126);
        assert!(refusal.hint().contains("/usr/bin"), "{}", refusal.hint());
    }
}

#[test]
fn what_the_program_needs_is_readable_and_no_more() {
    let mut scene = Scene::new(&[
        "/home/ana/.local/share/tool/bin/tool",
        "/home/ana/.local/share/other",
        "/home/ana/.aws/bin/tool",
        "/home/ana/mixed/.secret",
        "/home/ana/mixed/tool",
    ])
    .user("[fs]\ndeny = [\"~/.aws\", \"~/mixed/.secret\"]");
    scene.needs = ["/home/ana/.local/share/tool", "/home/ana/.aws/bin/tool", "/home/ana/.aws", "/home/ana/mixed"]
        .map(AbsPath::known)
        .to_vec();
    scene.allows(Act::Read, "/home/ana/.local/share/tool/bin/tool", true);
    scene.allows(Act::Write, "/home/ana/.local/share/tool/bin/tool", false);
    closed(&scene, "/home/ana/.local/share/other");
    closed(&scene, "/home/ana/.aws/bin/tool");
    closed(&scene, "/home/ana/mixed/.secret");
}

#[test]
fn arguments_and_variables_fit_the_inside() {
    let scene = Scene::new(&[]).agent("[agent]\nsandbox_args = [\"-c\", \"x=y\"]\n[env]\nallow = [\"*\"]").env(&[
        ("PATH", "/usr/bin:relative::/opt/bin:."),
        ("XDG_CONFIG_HOME", "/elsewhere"),
        ("TMPDIR", "/home/ana/.ssh"),
        ("HOME", "/"),
        ("OLDPWD", "/home/ana/secret"),
        ("USER", "root"),
    ]);
    for (flat, home, tmp) in [
        (false, HOME.to_owned(), "/tmp".to_owned()),
        (true, store().flat_home.to_string(), store().session.join("tmp").to_string()),
    ] {
        let plan = if flat { scene.copy().flat().plan() } else { scene.plan() };
        assert_eq!(plan.argv, ["sh", "-c", "x=y"]);
        let get = |name: &str| plan.env.vars.get(std::ffi::OsStr::new(name)).map(|v| v.reveal().to_str().unwrap());
        for (name, want) in [
            ("HOME", Some(home.as_str())),
            ("TMPDIR", Some(tmp.as_str())),
            ("PATH", Some("/usr/bin:/opt/bin")),
            ("XDG_CONFIG_HOME", None),
            ("OLDPWD", None),
            ("USER", Some("ana")),
            ("PWD", Some(PROJECT)),
        ] {
            assert_eq!(get(name), want, "{name}");
        }
    }
}
