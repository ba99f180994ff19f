//! Sections 10 and 11 as far as a profile asks for it: using up the machine, and commands that are denied.

use std::fs;

use super::scene::Scene;
use super::support::{Output, User};

fn configured(user: User, config: &str) -> Scene {
    let scene = Scene::new(user);
    scene.world.write(user, ".config/guard/config.toml", config);
    scene
}

/// The probe, outside or in the full tier.
fn probe(scene: &Scene, inside: bool, act: &[&str]) -> Output {
    let run = scene.world.run(scene.user).cwd(&scene.project).probe(act);
    if inside { run.guard(["run", "--quiet"]).output() } else { run.output() }
}

#[test]
fn processes_and_space() {
    for user in User::ALL {
        let scene = configured(user, "[resources]\nprocesses = 40\ntmp = \"8M\"\n");
        drop(probe(&scene, false, &["forks", "100"]).success());
        drop(probe(&scene, false, &["fill", "/tmp", "16"]).success());
        drop(probe(&scene, true, &["forks", "10"]).success());
        if user == User::Root {
            // The kernel exempts uid 0 from RLIMIT_NPROC (copy_process in kernel/fork.c), so guard must say that it
            // cannot keep this limit.
            let run = scene.world.run(user).cwd(&scene.project).guard(["run", "--dry-run"]).cmd(["true"]);
            drop(run.output().success().expect_stdout("the limit on processes"));
        } else {
            drop(probe(&scene, true, &["forks", "100"]).expect_code(1).expect_stdout("denied EAGAIN"));
        }
        drop(probe(&scene, true, &["fill", "/tmp", "4"]).success());
        drop(probe(&scene, true, &["fill", "/tmp", "16"]).expect_code(1).expect_stdout("denied ENOSPC"));
    }
}

#[test]
fn denied_commands() {
    for user in User::ALL {
        let scene = configured(user, "[commands]\ndeny = [\"kubectl\"]\n");
        let real = "/usr/local/bin/kubectl";
        fs::copy(scene.world.host_path("/usr/local/bin/guard-probe"), scene.world.host_path(real)).unwrap();
        let link = scene.shipped_link(real, "innocent");
        scene.world.write_script(user, scene.inside("by-script"), format!("#!/bin/sh\nexec {real} id\n"));
        let script = scene.inside("by-script");
        // (how, the probe's act)
        let ways: [(&str, Vec<&str>); 6] = [
            ("by name", vec!["exec", "kubectl", "id"]),
            ("by path", vec!["exec", real, "id"]),
            ("by another path", vec!["exec", "/usr/../usr/local//bin/./kubectl", "id"]),
            ("by a symlink in the project", vec!["exec", &link, "id"]),
            ("from memory", vec!["exec-memfd", real, "id"]),
            ("by a script", vec!["exec", &script]),
        ];
        for (how, act) in ways {
            drop(probe(&scene, false, &act).success().expect_stdout("uid="));
            let out = probe(&scene, true, &act).expect_no("uid=");
            let refused = out.code() != 0;
            drop(out.check(refused, how));
        }
        // Its limit, which the documentation states: what the agent brings itself, runs.
        let copy = scene.inside("copy");
        fs::copy(scene.world.host_path(real), scene.world.host_path(&copy)).unwrap();
        drop(probe(&scene, true, &["exec", &copy, "id"]).success().expect_stdout("uid="));
    }
}
