//! Section 12: bending guard itself before it has locked down. The attacker controls the repository and, by way of
//! `.envrc`, a task runner or an earlier session, parts of the environment.
//!
//! Each case ends in one of two ways: guard refuses (exit 125, with words), or the agent runs as confined as ever.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::scene::{Scene, Try};
use super::support::{Output, User, need};

const TIERS: [&str; 2] = ["full", "landlock"];

/// What guard may do with a bad start.
#[derive(Clone, Copy, PartialEq, Eq)]
enum May {
    /// It must start all the same: the input has nothing to say.
    Run,
    /// It may also refuse.
    Refuse,
}

type Case = (&'static str, May, fn(&mut Scene) -> Try);

/// The probe reads the SSH key; outside with the same bad start it must get it.
fn read_key(scene: &Scene) -> Try {
    Try::probe(["read", &scene.key()])
}

fn start(scene: &Scene, attempt: &Try, cwd: &Path, guard: Option<&str>) -> Output {
    let mut run = scene.world.run(scene.user).cwd(cwd).wrap(&attempt.wrap);
    run = run.envs(attempt.env.iter().map(|(name, value)| (name, value)));
    for name in attempt.env.iter().filter(|(_, value)| value.is_empty()).map(|(name, _)| name) {
        run = run.env_remove(name);
    }
    if let Some(tier) = guard {
        let mut args = vec!["run".into(), "--quiet".into(), "--tier".into(), tier.into()];
        args.extend(attempt.guard.iter().cloned());
        run = run.guard(args);
    }
    if attempt.raw { run.cmd(&attempt.act).output() } else { run.probe(&attempt.act).output() }
}

/// Fails unless the act was refused by the kernel, or the start by guard in plain words.
fn confined(name: &str, may: May, scene: &Scene, out: Output) -> Output {
    let out = out.check(true, name).expect_no(&scene.canary);
    match out.code() {
        1 | 159 => out,
        125 if may == May::Refuse => {
            let plain = out.stderr().starts_with("guard: ");
            out.check(plain, &format!("{name}: a refusal says why"))
        }
        _ => out.check(false, &format!("{name}: expected a denial, or a refusal where that is allowed")),
    }
}

fn run(cases: &[Case]) {
    let mut failures = Vec::new();
    let mut ran = 0;
    for (name, may, prepare) in cases {
        for user in User::ALL {
            let mut scene = Scene::new(user);
            let attempt = prepare(&mut scene);
            let cwd = scene.project.clone();
            let bare = start(&scene, &attempt, &cwd, None);
            if !bare.mentions(&scene.canary) {
                failures.push(format!("=== {name} as {} (outside): no canary\n{}", user.name(), bare.report()));
            }
            for tier in TIERS {
                ran += 1;
                let mut scene = Scene::new(user);
                let attempt = prepare(&mut scene);
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    confined(name, *may, &scene, start(&scene, &attempt, &cwd, Some(tier)));
                }));
                if let Err(panic) = result {
                    let words = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                    failures.push(format!("=== {name} as {} ({tier}): {words}", user.name()));
                }
            }
        }
    }
    assert_eq!(ran, cases.len() * 4);
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// A configuration that would open everything, in words that are wrong at worst: it must not be looked at.
const ALLOW_ALL: &str = "require = \"landlock\"\n[fs]\nread = [\"/\"]\nwrite = [\"/\"]\n[env]\nallow = [\"*\"]\n";

fn plant_config(scene: &Scene, dir: &str) {
    for file in ["config.toml", "profiles/shell.toml", "profiles/base.toml"] {
        scene.world.write(scene.user, format!("{dir}/{file}"), ALLOW_ALL);
    }
}

#[test]
fn home_and_xdg() {
    let cases: Vec<Case> = vec![
        ("HOME is the project", May::Refuse, |scene| {
            plant_config(scene, &scene.inside(".config/guard"));
            read_key(scene).env("HOME", &scene.inside(""))
        }),
        ("HOME is /", May::Refuse, |scene| read_key(scene).env("HOME", "/")),
        ("HOME is relative", May::Refuse, |scene| read_key(scene).env("HOME", "../..")),
        ("HOME is ~/.ssh", May::Refuse, |scene| read_key(scene).env("HOME", &scene.home(".ssh"))),
        ("HOME does not exist", May::Refuse, |scene| read_key(scene).env("HOME", "/no/such/home")),
        ("HOME is unset", May::Refuse, |scene| read_key(scene).env("HOME", "")),
        ("HOME is in /tmp", May::Refuse, |scene| {
            scene.world.mkdir(scene.user, "/tmp/home");
            plant_config(scene, "/tmp/home/.config/guard");
            read_key(scene).env("HOME", "/tmp/home")
        }),
        ("XDG directories in the project", May::Run, |scene| {
            plant_config(scene, &scene.inside("xdg/guard"));
            let xdg = scene.inside("xdg");
            ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CONFIG_DIRS", "XDG_CACHE_HOME"]
                .iter()
                .fold(read_key(scene), |attempt, name| attempt.env(name, &xdg))
        }),
        ("PWD lies", May::Run, |scene| read_key(scene).env("PWD", &scene.home(".ssh"))),
        ("markers of being inside", May::Run, |scene| {
            ["GUARD", "SANDBOX", "GUARD_ACTIVE", "GUARD_INSIDE", "IS_SANDBOX", "container"]
                .iter()
                .zip(["1", "guard", "1", "1", "1", "guard"])
                .fold(read_key(scene), |attempt, (name, value)| attempt.env(name, value))
        }),
        ("switches", May::Run, |scene| {
            [
                "GUARD_DISABLE",
                "GUARD_OFF",
                "GUARD_BYPASS",
                "GUARD_UNSANDBOXED",
                "NO_GUARD",
                "GUARD_TIER",
                "GUARD_REQUIRE",
            ]
            .iter()
            .fold(read_key(scene), |attempt, name| attempt.env(name, "1"))
        }),
        ("configuration by variable", May::Run, |scene| {
            plant_config(scene, &scene.inside("conf"));
            let file = scene.inside("conf/config.toml");
            ["GUARD_CONFIG", "GUARD_CONFIG_DIR", "GUARD_PROFILE", "GUARD_HOME", "GUARD_READ"]
                .iter()
                .fold(read_key(scene), |attempt, name| attempt.env(name, &file))
        }),
    ];
    run(&cases);
}

#[test]
fn tool_directories() {
    // The environment names the directories that toolchains live in; here it names the key's, or the whole home.
    const NAMES: [&str; 26] = [
        "TMPDIR",
        "CARGO_HOME",
        "RUSTUP_HOME",
        "CARGO_TARGET_DIR",
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
        "XDG_STATE_HOME",
        "XDG_RUNTIME_DIR",
        "GOPATH",
        "GOCACHE",
        "GOMODCACHE",
        "npm_config_cache",
        "NPM_CONFIG_PREFIX",
        "PNPM_HOME",
        "BUN_INSTALL",
        "DENO_DIR",
        "NVM_DIR",
        "PYENV_ROOT",
        "VIRTUAL_ENV",
        "CONDA_PREFIX",
        "JAVA_HOME",
        "GRADLE_USER_HOME",
        "CLAUDE_CONFIG_DIR",
        "CODEX_HOME",
        "MISE_DATA_DIR",
    ];
    fn with_all(scene: &Scene, value: &str) -> Try {
        NAMES.iter().fold(read_key(scene), |attempt, name| attempt.env(name, value))
    }
    run(&[
        ("tool directories are ~/.ssh", May::Refuse, |scene| with_all(scene, &scene.home(".ssh"))),
        ("tool directories are the home", May::Refuse, |scene| with_all(scene, &scene.home(""))),
        ("tool directories are /", May::Refuse, |scene| with_all(scene, "/")),
        ("tool directories are a link to ~/.ssh", May::Refuse, |scene| {
            let link = scene.shipped_link(&scene.home(".ssh"), "tools");
            with_all(scene, &link)
        }),
        ("PATH with ~/.ssh and the home", May::Refuse, |scene| {
            let path = format!("{}:{}:/usr/local/bin:/usr/bin:/bin", scene.home(".ssh"), scene.home(""));
            read_key(scene).env("PATH", &path)
        }),
    ]);
}

#[test]
fn hostile_repository() {
    run(&[
        (".git file that points at ~/.ssh", May::Refuse, |scene| {
            git_file(scene, &format!("gitdir: {}\n", scene.home(".ssh")));
            read_key(scene)
        }),
        (".git file that points at the home", May::Refuse, |scene| {
            git_file(scene, &format!("gitdir: {}\n", scene.home("")));
            read_key(scene)
        }),
        (".git is a symlink to ~/.ssh", May::Refuse, |scene| {
            let git = scene.world.host_path(scene.inside(".git"));
            fs::remove_dir_all(&git).unwrap();
            symlink(scene.home(".ssh"), &git).unwrap();
            read_key(scene)
        }),
        ("commondir that points at ~/.ssh", May::Refuse, |scene| {
            scene.world.write(scene.user, scene.inside(".git/commondir"), format!("{}\n", scene.home(".ssh")));
            read_key(scene)
        }),
        ("worktree of another repository that does not know it", May::Refuse, |scene| {
            let canary = scene.canary.clone();
            scene.world.write(scene.user, "src/other/.git/HEAD", "ref: refs/heads/main\n");
            scene.world.write(scene.user, "src/other/.git/worktrees/x/HEAD", "ref: refs/heads/main\n");
            scene.world.write(scene.user, "src/other/.git/worktrees/x/commondir", "../..\n");
            scene.world.write(scene.user, "src/other/.git/worktrees/x/gitdir", "/somewhere/else/.git\n");
            let secret = scene.world.write(scene.user, "src/other/.git/secret", &canary);
            git_file(scene, &format!("gitdir: {}\n", scene.home("src/other/.git/worktrees/x")));
            Try::probe(["read", secret.to_str().unwrap()])
        }),
        (".guard.toml that allows all", May::Refuse, |scene| {
            scene.world.write(scene.user, scene.inside(".guard.toml"), ALLOW_ALL);
            read_key(scene)
        }),
        (".guard.toml is a symlink to the key", May::Refuse, |scene| {
            scene.shipped_link(&scene.key(), ".guard.toml");
            read_key(scene)
        }),
        (".guard.toml is a FIFO", May::Refuse, |scene| {
            let place = scene.world.host_path(scene.inside(".guard.toml"));
            nix::unistd::mkfifo(&place, nix::sys::stat::Mode::S_IRWXU).unwrap();
            read_key(scene)
        }),
        (".guard.toml never ends", May::Refuse, |scene| {
            scene.shipped_link("/dev/zero", ".guard.toml");
            read_key(scene)
        }),
        (".guard.toml is no text", May::Refuse, |scene| {
            scene.world.write(scene.user, scene.inside(".guard.toml"), b"\xff\xfe\x00[fs]\n");
            read_key(scene)
        }),
        (".guard.toml is a directory", May::Refuse, |scene| {
            scene.world.mkdir(scene.user, scene.inside(".guard.toml"));
            read_key(scene)
        }),
        ("profile name that is a path", May::Refuse, |scene| {
            scene.world.write(scene.user, scene.inside("evil.toml"), ALLOW_ALL);
            read_key(scene).guard(&["--profile", "../../../src/project/evil"])
        }),
        ("profile name that is a file of the project", May::Refuse, |scene| {
            scene.world.write(scene.user, scene.inside("evil.toml"), ALLOW_ALL);
            read_key(scene).guard(&["--profile", "./evil.toml"])
        }),
    ]);
}

fn git_file(scene: &Scene, text: &str) {
    let git = scene.world.host_path(scene.inside(".git"));
    fs::remove_dir_all(git).unwrap();
    scene.world.write(scene.user, scene.inside(".git"), text);
}

#[test]
fn hostile_process_state() {
    const PROBE: &str = "guard-probe";
    run(&[
        ("twelve descriptors", May::Refuse, |scene| read_key(scene).wrap([PROBE, "with-limit", "nofile", "12", "--"])),
        ("five descriptors", May::Refuse, |scene| read_key(scene).wrap([PROBE, "with-limit", "nofile", "5", "--"])),
        // The probe's line goes to a pipe, to which the limit does not apply.
        ("files of no size", May::Refuse, |scene| read_key(scene).wrap([PROBE, "with-limit", "fsize", "0", "--"])),
        ("no locked memory", May::Run, |scene| read_key(scene).wrap([PROBE, "with-limit", "memlock", "0", "--"])),
        ("stdin closed", May::Refuse, |scene| read_key(scene).wrap([PROBE, "with-closed", "0", "--"])),
        ("stderr closed", May::Run, |scene| read_key(scene).wrap([PROBE, "with-closed", "2", "--"])),
        ("stdin and stderr closed", May::Run, |scene| read_key(scene).wrap([PROBE, "with-closed", "0", "2", "--"])),
        ("one Landlock layer left", May::Refuse, |scene| read_key(scene).wrap([PROBE, "with-layers", "15", "--"])),
        ("no Landlock layer left", May::Refuse, |scene| read_key(scene).wrap([PROBE, "with-layers", "16", "--"])),
        ("working directory deleted", May::Refuse, |scene| {
            read_key(scene).wrap([PROBE, "with-deleted-cwd", &scene.inside("gone"), "--"])
        }),
        ("working directory is a link to the home", May::Refuse, |scene| {
            let link = scene.shipped_link(&scene.home(""), "home");
            read_key(scene).wrap([PROBE, "with-cwd", &link, "--"]).env("PWD", &link)
        }),
        ("working directory is a link to ~/.ssh", May::Refuse, |scene| {
            let link = scene.shipped_link(&scene.home(".ssh"), "keys");
            Try::probe(["read", "id_ed25519"]).wrap([PROBE, "with-cwd", &link, "--"]).env("PWD", &link)
        }),
        ("working directory is ~/.ssh", May::Refuse, |scene| {
            Try::probe(["read", "id_ed25519"]).wrap([PROBE, "with-cwd", &scene.home(".ssh"), "--"])
        }),
        ("working directory is the home", May::Run, |scene| {
            read_key(scene).wrap([PROBE, "with-cwd", &scene.home(""), "--"])
        }),
        ("working directory is the home, relative path", May::Run, |scene| {
            Try::probe(["read", ".ssh/id_ed25519"]).wrap([PROBE, "with-cwd", &scene.home(""), "--"])
        }),
        ("working directory is /", May::Run, |scene| read_key(scene).wrap([PROBE, "with-cwd", "/", "--"])),
        ("working directory is the runtime directory", May::Refuse, |scene| {
            Try::probe(["read", "secret"]).wrap([PROBE, "with-cwd", &scene.runtime(""), "--"])
        }),
        ("working directory is guard's data", May::Refuse, |scene| {
            let data = scene.home(".local/share/guard");
            Try::probe(["read", "homes/other/.netrc"]).wrap([PROBE, "with-cwd", &data, "--"])
        }),
        ("working directory is above many projects", May::Run, |scene| {
            read_key(scene).wrap([PROBE, "with-cwd", &scene.home("src"), "--"])
        }),
        // The words after -- are the command of guard outside, too: a guard that starts a guard.
        ("guard in guard with a looser policy", May::Refuse, |scene| {
            let file = scene.home("Documents/diary.txt");
            let open = ["/usr/local/bin/guard", "run", "--quiet", "--read", &file, "--tier", "landlock", "--"];
            nested(&open, &file)
        }),
        ("guard in guard without a sandbox", May::Refuse, |scene| {
            nested(&["/usr/local/bin/guard", "run", "--quiet", "--unsandboxed", "--"], &scene.key())
        }),
    ]);
}

/// The inner guard is the command of the outer one.
fn nested(guard: &[&str], file: &str) -> Try {
    let probe = ["/usr/local/bin/guard-probe", "read", file];
    Try::command(guard.iter().chain(&probe).copied())
}

/// Directory names that break rules built from strings. The agent must be able to work there, and only there.
#[test]
fn names_of_directories() {
    let names: [&[u8]; 10] = [
        b"new\nline",
        b"quote\"and'",
        b"star*",
        b"${HOME}",
        b"$(touch planted)",
        b"colon:/home/ana/.ssh",
        b"a -- b",
        b" leading and trailing ",
        b"back\\slash",
        b"not \xff utf-8",
    ];
    for name in names {
        for user in User::ALL {
            for tier in TIERS {
                let scene = Scene::new(user);
                let path: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(name);
                let dir = scene.world.mkdir(user, Path::new("src").join(path));
                let run = scene.world.run(user).cwd(&dir).guard(["run", "--quiet", "--tier", tier]);
                run.clone().probe(["write", "here", "text"]).output().success();
                assert_eq!(scene.world.read(dir.join("here")), "text");
                let denied = run.probe(["read", &scene.key()]).output().expect_code(1).expect_no(&scene.canary);
                drop(denied.expect_stdout("denied"));
            }
        }
    }
}

/// A name, variables of the environment, and a command that falls for them.
type Trap<'a> = (&'a str, Vec<(&'a str, &'a str)>, Vec<&'a str>);

const IN_REPOSITORY: &str = "core.fsmonitor in the repository";

/// Programs and code that a wrapper would run by accident. Each leaves a mark when it runs.
#[test]
fn helpers_and_startup_files() {
    need(&[("git", "git"), ("gcc", "gcc"), ("bash", "bash")]);
    for user in User::ALL {
        let scene = Scene::new(user);
        let mark = scene.inside("it-ran");
        let script = format!("#!/bin/sh\n/usr/bin/touch {mark}\n");
        for name in [
            "git",
            "sh",
            "bash",
            "env",
            "uname",
            "id",
            "getent",
            "newuidmap",
            "newgidmap",
            "ip",
            "mount",
            "stat",
            "node",
            "python3",
            "hostname",
            "tput",
            "stty",
            "which",
            "readlink",
            "realpath",
            "bwrap",
            "landlock",
        ] {
            scene.world.write_script(user, scene.inside(&format!("node_modules/.bin/{name}")), &script);
        }
        scene.world.write(user, scene.inside("startup.sh"), format!("/usr/bin/touch {mark}\n"));
        scene.world.write_script(user, scene.inside("fsmonitor.sh"), &script);
        let monitor = format!("[core]\n\tfsmonitor = {}\n", scene.inside("fsmonitor.sh"));
        let git_config = scene.world.read(scene.inside(".git/config")) + &monitor;
        let library = library(&scene, &mark);

        let fake_path = format!("{}:/usr/local/bin:/usr/bin:/bin", scene.inside("node_modules/.bin"));
        let startup = scene.inside("startup.sh");
        let monitor = scene.inside("fsmonitor.sh");
        let cases: [Trap; 6] = [
            ("PATH", vec![("PATH", &fake_path)], vec!["/bin/bash", "-c", "git status"]),
            ("BASH_ENV", vec![("BASH_ENV", &startup), ("ENV", &startup)], vec!["/bin/bash", "-c", "true"]),
            (
                "core.fsmonitor by variable",
                vec![
                    ("GIT_CONFIG_COUNT", "1"),
                    ("GIT_CONFIG_KEY_0", "core.fsmonitor"),
                    ("GIT_CONFIG_VALUE_0", &monitor),
                ],
                vec!["git", "status"],
            ),
            ("LD_PRELOAD", vec![("LD_PRELOAD", &library)], vec!["/bin/true"]),
            ("LD_AUDIT", vec![("LD_AUDIT", &library)], vec!["/bin/true"]),
            (IN_REPOSITORY, vec![], vec!["git", "status"]),
        ];
        for (name, vars, falls) in cases {
            if name == IN_REPOSITORY {
                scene.world.write(user, scene.inside(".git/config"), &git_config);
            }
            let run = scene.world.run(user).cwd(&scene.project).envs(vars);
            run.clone().cmd(falls).output();
            assert!(scene.world.exists(&mark), "{name}: outside it must run, that is the control");
            fs::remove_file(scene.world.host_path(&mark)).unwrap();
            for tier in TIERS {
                let inside = run.clone().guard(["run", "--quiet", "--tier", tier]);
                inside.probe(["id"]).output().success().expect_stdout("uid=");
                assert!(!scene.world.exists(&mark), "{name}: guard ran it (tier {tier}, {})", user.name());
            }
        }
        // The variables that start code do not reach the agent's own shell either.
        for (name, value) in [("BASH_ENV", &startup), ("ENV", &startup), ("LD_PRELOAD", &library)] {
            for tier in TIERS {
                let run = scene.world.run(user).cwd(&scene.project).env(name, value);
                run.guard(["run", "--quiet", "--tier", tier]).cmd(["/bin/bash", "-c", "true"]).output().success();
                assert!(!scene.world.exists(&mark), "{name} reached the agent's shell (tier {tier}, {})", user.name());
            }
        }
    }
}

/// A shared library that leaves the mark as soon as it is loaded. Gives its path.
fn library(scene: &Scene, mark: &str) -> String {
    let code = format!(
        "#include <fcntl.h>\n#include <unistd.h>\n\
         unsigned int la_version(unsigned int version) {{ return version; }}\n\
         __attribute__((constructor)) static void loaded(void) {{ close(open(\"{mark}\", O_CREAT | O_WRONLY, 0600)); }}\n"
    );
    scene.world.write(scene.user, scene.inside("mark.c"), code);
    let library = scene.inside("libmark.so");
    let gcc = ["gcc", "-shared", "-fPIC", "-o", &library, "mark.c"];
    scene.world.run(scene.user).cwd(&scene.project).cmd(gcc).output().success();
    library
}
