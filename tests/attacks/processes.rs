//! Sections 3 and 4: other processes, and the environment.

use super::scene::{Scene, Try};
use super::support::{User, poll_until};
use super::table::{Kind, row, run};

const CMDLINE: &str = "Landlock does not mediate /proc/PID/cmdline";
const NO_HOOK: &str = "Landlock has no hook there";

/// A shell that stays as parent, as the user's own shell does.
const SHELL: [&str; 4] = ["/bin/bash", "-c", r#""$@"; exit $?"#, "bash"];

#[test]
fn looking() {
    run(vec![
        row("environment of a process outside", Kind::Leak, |scene| {
            let pid = scene.holder().remove(0);
            Try::probe(["read", &format!("/proc/{pid}/environ")])
        }),
        row("environments of all processes there are", Kind::Leak, |scene| {
            let canary = scene.canary.clone();
            Try::probe(["environs"]).wrap(SHELL).env("SHELL_SECRET", &canary)
        }),
        row("arguments of a process outside", Kind::Leak, |scene| {
            let pid = scene.holder().remove(0);
            Try::probe(["read", &format!("/proc/{pid}/cmdline")])
        })
        .gap(CMDLINE),
        row("arguments of all processes there are", Kind::Leak, |scene| {
            scene.holder();
            Try::probe(["cmdlines"])
        })
        .gap(CMDLINE),
        row("memory of a process outside by /proc", Kind::Leak, |scene| {
            let held = scene.holder();
            Try::probe(["mem-read", &held[0], &held[1], &held[2]])
        }),
        row("memory of a process outside by process_vm_readv", Kind::Leak, |scene| {
            let held = scene.holder();
            Try::probe(["vm-read", &held[0], &held[1], &held[2]])
        }),
        row("descriptor of a process outside by pidfd_getfd", Kind::Leak, |scene| {
            let held = scene.holder();
            Try::probe(["pidfd-getfd", &held[0], &held[3]])
        }),
        row("ptrace of a process outside", Kind::Act, |scene| {
            let pid = scene.holder().remove(0);
            Try::probe(["ptrace", &pid])
        }),
        row("ptrace of the parent", Kind::Act, |_| Try::probe(["ptrace-parent"]).wrap(SHELL)),
    ]);
}

#[test]
fn touching() {
    let mut rows = Vec::new();
    for act in ["kill", "tgkill", "sigqueue", "pidfd-signal", "sigio"] {
        rows.push(row(format!("signal by {act}"), Kind::Reach("signal SIGUSR1"), move |scene| {
            let pid = scene.holder().remove(0);
            Try::probe([act, &pid])
        }));
    }
    let with_holder = |act: &'static str| {
        move |scene: &mut Scene| {
            let pid = scene.holder().remove(0);
            Try::probe([act, &pid])
        }
    };
    rows.push(row("prlimit", Kind::Act, with_holder("prlimit")).gap(NO_HOOK));
    for act in ["setpriority", "affinity"] {
        rows.push(row(act, Kind::Act, with_holder(act)).gap(NO_HOOK).only(User::Ana, "root's row differs, see below"));
        // In the landlock tier this root has fewer capabilities than its victim, which the kernel compares.
        rows.push(row(act, Kind::Act, with_holder(act)).only(User::Root, "the user's row differs, see above"));
    }
    run(rows);
}

/// Nothing of a session survives it. Outside, the same daemon does.
#[test]
fn daemons_end_with_the_session() {
    for user in User::ALL {
        for tier in [None, Some("full"), Some("landlock")] {
            let scene = Scene::new(user);
            let mut run = scene.world.run(user).cwd(&scene.project).probe(["daemon", &scene.inside("daemon.pid")]);
            if let Some(tier) = tier {
                run = run.guard(["run", "--quiet", "--tier", tier]);
            }
            run.output().success();
            assert!(scene.world.exists(scene.inside("daemon.pid")), "the daemon has not started");
            let survivors = scene.world.processes();
            match tier {
                None => assert_eq!(survivors.len(), 1, "outside a daemon survives: that is the control"),
                // The parent kills them before it returns; a dying process may still be listed for a moment.
                Some(tier) => poll_until(&format!("the end of all processes in tier {tier}"), || {
                    scene.world.processes().is_empty()
                }),
            }
        }
    }
}

#[test]
fn environment() {
    const NAMES: [&str; 22] = [
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "GITHUB_TOKEN",
        "GH_TOKEN",
        "NPM_TOKEN",
        "CARGO_REGISTRY_TOKEN",
        "OPENAI_API_KEY",
        "ANTHROPIC_API_KEY",
        "KUBECONFIG",
        "SSH_AUTH_SOCK",
        "DBUS_SESSION_BUS_ADDRESS",
        "DOCKER_HOST",
        "TMUX",
        "GPG_AGENT_INFO",
        "VSCODE_IPC_HOOK_CLI",
        "WAYLAND_DISPLAY",
        "SUDO_ASKPASS",
        "PGPASSWORD",
        "A_NAME_NO_PATTERN_KNOWS",
        "lower_case",
        "LD_LIBRARY_PATH_OLD",
        "BASH_FUNC_helper%%",
    ];
    run(vec![row("variables", Kind::Leaks(2 * NAMES.len() + 2), |scene| {
        let canary = scene.canary.clone();
        // A password within a value, too. Outside each is seen twice: by the program and in /proc/self/environ.
        let url = format!("postgres://app:{canary}@db.example.org/app");
        let attempt = Try::probe(["env"]).env("DATABASE_URL", &url);
        NAMES.iter().fold(attempt, |attempt, name| attempt.env(name, &canary))
    })]);
}

/// A variable that is allowed by name is dropped all the same when its value is a token.
#[test]
fn tokens_in_allowed_variables() {
    for user in User::ALL {
        for tier in ["full", "landlock"] {
            let scene = Scene::new(user);
            // Made here, so that no text in this repository looks like a token.
            let letters: String = scene.canary.bytes().map(|byte| char::from(b'a' + byte % 26)).collect();
            let token = format!("ghp_{:A<36.36}", letters);
            let run = scene.world.run(user).cwd(&scene.project).env("EDITOR", &token).probe(["env"]);
            run.clone().outside().output().success().expect_stdout(&token);
            run.clone().guard(["run", "--quiet", "--tier", tier]).output().success().expect_no(&token);
            let plain = run.env("EDITOR", "vi").guard(["run", "--quiet", "--tier", tier]);
            plain.output().success().expect_stdout("EDITOR=vi");
        }
    }
}
