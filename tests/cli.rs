//! The command line as a person and a program meet it: help, errors, exit codes, JSON, documents that stay true.

mod support;

use std::path::Path;

use support::{User, World};

/// Runs guard with these arguments in a project and returns what it gave back.
fn guard(world: &World, args: &[&str]) -> support::Output {
    let project = world.mkdir(User::Ana, "p");
    world.run(User::Ana).cwd(project).outside().cmd(std::iter::once(&"/usr/local/bin/guard").chain(args)).output()
}

fn repo(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn every_command_explains_itself() {
    let world = World::new();
    for command in [
        "run",
        "why",
        "profile",
        "profile show",
        "profile list",
        "profile check",
        "profile schema",
        "doctor",
        "demo",
        "completions",
        "man",
    ] {
        let mut args: Vec<&str> = command.split(' ').collect();
        args.push("--help");
        let text = guard(&world, &args).success().stdout();
        assert!(text.contains("Usage: guard"), "{command}: {text}");
    }
    guard(&world, &["--version"]).success().expect_stdout(env!("CARGO_PKG_VERSION"));
}

#[test]
fn completions_and_manual_pages_know_every_flag_of_run() {
    let world = World::new();
    let help = guard(&world, &["run", "--help"]).success().stdout();
    let options = help.split("Options:").nth(1).unwrap().split("Examples:").next().unwrap();
    let flags: Vec<&str> = options
        .lines()
        .filter_map(|l| l.trim_start().split("--").nth(1).filter(|_| l.trim_start().starts_with('-')))
        .filter_map(|flag| flag.split([' ', ',']).next())
        .collect();
    assert!(flags.len() > 8, "{help}");
    for shell in ["bash", "zsh", "fish"] {
        let text = guard(&world, &["completions", shell]).success().stdout();
        for flag in &flags {
            assert!(text.contains(flag), "{shell} does not complete --{flag}");
        }
    }
    let page = guard(&world, &["man", "run"]).success().stdout();
    assert!(page.starts_with(".ie") || page.contains(".TH"), "{page}");
    assert!(page.contains("require"), "{page}");
    assert_eq!(guard(&world, &["man", "nonsense"]).code(), 2);
}

#[test]
fn exit_codes() {
    let world = World::new();
    for (args, code) in [
        (&["run", "--quiet", "--", "true"][..], 0),
        (&["run", "--quiet", "--", "sh", "-c", "exit 42"], 42),
        (&["run", "--quiet", "true"], 0),
        (&["run", "--", "no-such-command"], 127),
        (&["run", "--", "/etc/passwd"], 126),
        (&["run"], 125),
        (&["run", "--no-such-flag", "--", "true"], 125),
        (&["run", "--network", "filtered", "--", "true"], 125),
        (&["run", "--profile", "nonsense", "--", "true"], 125),
        (&["run", "--tier", "landlock", "--require", "full", "--", "true"], 125),
        (&["why", "read", "."], 0),
        (&["why", "read", "/etc/shadow"], 1),
        (&["why", "read", "/etc/shadow", "--profile", "nonsense"], 2),
        (&["why", "env", "NOT_SET_ANYWHERE"], 1),
        (&["why", "exec", "ls"], 0),
        (&["why", "exec", "no-such-command"], 1),
        (&["why", "connect", "/run/docker.sock"], 1),
        (&["profile", "check", "/nonexistent.toml"], 2),
        (&["nonsense"], 2),
    ] {
        let output = guard(&world, args);
        let report = output.report();
        assert_eq!(output.code(), code, "{args:?}\n{report}");
    }
}

#[test]
fn an_error_says_what_why_and_how_to_fix() {
    let world = World::new();
    world.write(User::Ana, ".config/guard/config.toml", "[fs]\nraed = [\"~/docs\"]\n");
    let output = guard(&world, &["run", "--", "true"]).expect_code(125);
    for part in [
        "guard: cannot use the profile",
        "because: unknown field `raed`",
        "config.toml:2:1",
        "    2 | raed",
        "^^^^",
        "hint: did you mean `read`?",
    ] {
        assert!(output.stderr().contains(part), "no {part:?} in\n{}", output.report());
    }
    assert_eq!(output.stdout(), "");
    let output = guard(&world, &["run", "--network", "filtered", "--", "true"]);
    assert!(!output.stderr().contains('\u{1b}'), "colours in a pipe\n{}", output.report());
}

#[test]
fn quiet_when_nobody_looks() {
    let world = World::new();
    let output = guard(&world, &["run", "--", "echo", "hello"]).success();
    assert_eq!(output.stdout(), "hello\n");
    assert_eq!(output.stderr(), "", "the start line is for terminals");
}

#[test]
fn json_is_json_and_names_no_value() {
    let world = World::new();
    let project = world.project(User::Ana, "p");
    let value = format!("hush-{}", world.id());
    let plan = world
        .run(User::Ana)
        .cwd(&project)
        .env("MY_TOKEN", &value)
        .outside()
        .cmd(["/usr/local/bin/guard", "run", "--dry-run", "--json", "--", "true"])
        .output()
        .success();
    assert!(!plan.mentions(&value), "{}", plan.report());
    let json: serde_json::Value = serde_json::from_str(&plan.stdout()).unwrap();
    assert_eq!(json["tier"], "full");
    assert_eq!(json["project"], project.to_str().unwrap());
    assert!(json["mounts"].as_array().unwrap().len() > 20);
    assert!(json["landlock"]["rules"].as_array().unwrap().len() > 20);
    assert!(json["seccomp"].as_array().unwrap().iter().any(|r| r["call"] == "io_uring_setup"));
    let hidden = json["environment"].as_array().unwrap().iter().find(|v| v["name"] == "MY_TOKEN").unwrap();
    assert_eq!(hidden["passes"], false);
    let doctor = guard(&world, &["doctor", "--json"]).success();
    let json: serde_json::Value = serde_json::from_str(&doctor.stdout()).unwrap();
    assert!(json["tiers"].as_array().unwrap().iter().all(|t| t["holds"] == true), "{json:#}");
}

#[test]
fn a_dry_run_changes_nothing() {
    let world = World::new();
    guard(&world, &["run", "--dry-run", "--", "claude-not-here"]).expect_code(127);
    guard(&world, &["run", "--dry-run", "--", "true"]).success();
    guard(&world, &["why", "read", "/etc/passwd"]).success();
    assert!(!world.exists("/home/ana/.local"), "a look at the plan left something");
}

#[test]
fn the_demo_holds_and_leaves_nothing() {
    let world = World::new();
    for user in [User::Ana, User::Root] {
        let output =
            world.run(user).cwd(user.home()).outside().cmd(["/usr/local/bin/guard", "demo"]).output().success();
        let text = output.stdout();
        let rows: Vec<&str> = text.lines().filter(|l| l.contains("GOT IT")).collect();
        assert_eq!(rows.len(), 9, "every theft succeeds without guard\n{}", output.report());
        assert!(rows.iter().all(|r| r.matches("GOT IT").count() == 1), "and none with it\n{}", output.report());
        assert!(text.contains("works              works"), "{}", output.report());
        let homes = world.host_path(user.path(".local/share/guard/homes"));
        let left = std::fs::read_dir(homes).map(|d| d.count()).unwrap_or_default();
        assert_eq!(left, 0, "sandbox homes of the demo");
        assert_eq!(std::fs::read_dir(world.host_path("/tmp")).unwrap().count(), 0, "temporary homes of the demo");
    }
}

#[test]
fn the_readme_tells_the_truth() {
    let text = repo("README.md");
    // Each profile example is one the checker accepts.
    let world = World::new();
    let mut checked = 0;
    for block in text.split("```toml\n").skip(1).filter_map(|b| b.split("```").next()) {
        let (first, _) = block.split_once('\n').unwrap();
        if first.contains("directories.toml") {
            world.write(User::Ana, ".config/guard/profiles/work.toml", "");
            world.write(User::Ana, ".config/guard/directories.toml", block);
            guard(&world, &["profile", "show"]).success();
        } else {
            let file = world.write(User::Ana, "example.toml", block);
            guard(&world, &["profile", "check", file.to_str().unwrap()]).success();
        }
        checked += 1;
    }
    assert_eq!(checked, 2, "examples in the README");
    // Each command line in it is one guard understands: its flags exist.
    for line in text.lines().filter_map(|l| l.strip_prefix("$ guard ")) {
        let line = line.split('#').next().unwrap().trim();
        let command = line.split(' ').next().unwrap();
        let help = guard(&world, &[command, "--help"]).success().stdout();
        for flag in line.split(" -- ").next().unwrap().split(' ').filter(|w| w.starts_with("--") && w.len() > 2) {
            assert!(help.contains(flag), "guard {line}: no {flag} in\n{help}");
        }
    }
    // The tour names files that exist.
    for path in text.split('`').filter(|p| p.starts_with("src/") || p.starts_with("benches/")) {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists(), "{path}");
    }
}

#[test]
fn the_apparmor_profile_names_this_binary() {
    let world = World::new();
    let text = guard(&world, &["doctor", "--apparmor"]).success().stdout();
    assert!(text.contains("userns,"), "{text}");
    assert!(text.contains("/usr/local/bin/guard"), "{text}");
}
