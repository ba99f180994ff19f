//! Where guard is started: as whom, in which directory, with which home, limits and disks, in a container, beside
//! itself. In each place it starts in the tier that can be had there, or says what stands in the way and what to do;
//! it loses nothing of the user's and leaves nothing behind.

mod support;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use support::{Output, Run, User, World, need, poll_until};

const TIERS: [&str; 2] = ["full", "landlock"];

/// A world with a project, a secret, and rules of the user's own.
struct Place {
    world: World,
    user: User,
    project: PathBuf,
}

impl Place {
    fn new(user: User) -> Place {
        let world = World::new();
        let project = user.path("src/app");
        for (path, text) in
            [(".git/HEAD", "ref: refs/heads/main\n"), (".git/config", "[core]\n"), ("README.md", "app\n")]
        {
            world.write(user, project.join(path), text);
        }
        world.mkdir(user, project.join(".git/hooks"));
        world.write(user, ".ssh/id_ed25519", "the secret\n");
        Place { world, user, project }
    }

    fn run(&self, tier: &str) -> Run<'_> {
        self.world.run(self.user).cwd(&self.project).guard(["run", "--tier", tier])
    }

    fn secret(&self) -> String {
        self.user.path(".ssh/id_ed25519").display().to_string()
    }

    /// What every agent here does: says where it is, and fails to read the secret.
    fn script(&self) -> String {
        format!("echo \"agent ran in $PWD, $GUARD_TIER\"; cat {}; echo home=$HOME", self.secret())
    }

    /// Sessions that guard has left in its data.
    fn sessions(&self) -> Vec<PathBuf> {
        let dir = self.world.host_path(self.user.path(".local/share/guard/sessions"));
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    }
}

/// The agent ran, under the tier's locks.
#[track_caller]
fn ran(output: Output, tier: &str) -> Output {
    output.expect_code(0).expect_stdout("agent ran in ").expect_stdout(&format!(", {tier}")).expect_no("the secret")
}

/// guard said no: what, why and what to do, and nothing ran.
#[track_caller]
fn refused(output: Output, words: &str) -> Output {
    output.expect_code(125).expect_no("agent ran").expect_stderr("guard: ").expect_stderr("hint: ").expect_stderr(words)
}

/// Runs with mounts made before the world is entered, which takes root: a shell script, whose `$1` is the host path
/// it is about.
fn with_mounts(run: &Run<'_>, script: &str, host: &Path) -> Output {
    after_mounts(run, script, host, "exec \"$@\"")
}

fn after_mounts(run: &Run<'_>, script: &str, host: &Path, run_it: &str) -> Output {
    let script = format!("set -e; host=\"$1\"; {script}; shift; {run_it}");
    let unshare = ["/usr/bin/unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", &script, "sh"];
    let unshare = unshare.map(OsStr::new).into_iter().chain([host.as_os_str()]);
    run.clone().before(unshare).output()
}

fn both(test: impl Fn(Place, &str)) {
    for user in User::ALL {
        for tier in TIERS {
            test(Place::new(user), tier);
        }
    }
}

#[test]
fn an_ordinary_login_and_root() {
    both(|place, tier| {
        let output = ran(place.run(tier).sh(place.script()).output(), tier);
        output.expect_stdout(&place.project.display().to_string());
        assert!(place.sessions().is_empty(), "{:?}", place.sessions());
        // The full tier is what there is without a flag.
        let plain = place.world.run(place.user).cwd(&place.project).guard(["run"]).sh(place.script());
        ran(plain.output(), "full");
    });
}

#[test]
fn a_container_of_dockers_default_profile() {
    for user in User::ALL {
        let place = Place::new(user);
        let filter = ["guard-probe", "with-docker-filter", "--"];
        let plain = place.world.run(user).cwd(&place.project).wrap(filter).sh(place.script());
        refused(plain.clone().guard(["run"]).output(), "seccomp=unconfined").expect_stderr("--require landlock");
        ran(plain.clone().guard(["run", "--require", "landlock"]).output(), "landlock");
        ran(plain.guard(["run", "--tier", "landlock"]).output(), "landlock");
        assert!(place.sessions().is_empty(), "{:?}", place.sessions());
    }
}

#[test]
fn a_container_that_masks_proc() {
    need(&[("unshare", "util-linux"), ("mount", "mount")]);
    // As runc does: libcontainer, rootfs_linux.go, maskPaths.
    let mask = "for f in /proc/kcore /proc/keys /proc/timer_list; do test ! -e $f || mount --bind /dev/null $f; done; \
                for d in /proc/acpi /proc/scsi; do test ! -d $d || mount -t tmpfs -o ro none $d; done";
    for user in User::ALL {
        let place = Place::new(user);
        let run = place.world.run(user).cwd(&place.project).sh(place.script());
        let full = with_mounts(&run.clone().guard(["run"]), mask, Path::new("/"));
        refused(full, "systempaths=unconfined").expect_stderr("--require landlock");
        ran(with_mounts(&run.guard(["run", "--require", "landlock"]), mask, Path::new("/")), "landlock");
        assert!(place.sessions().is_empty(), "{:?}", place.sessions());
    }
}

#[test]
fn ci_without_terminal_home_or_stdio() {
    both(|place, tier| {
        let bare = place.run(tier).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("CI", "true");
        let home = match tier {
            "full" => format!("home={}", place.user.home()),
            _ => format!("home={}/.local/share/guard/", place.user.home()),
        };
        ran(bare.clone().sh(place.script()).output(), tier).expect_stdout(&home);
        ran(bare.clone().env_remove("PATH").sh(place.script()).output(), tier);
        // Closed stdio: what the agent opens must not become its stdout, and guard must not write into a file of it.
        for closed in [&["0"][..], &["0", "1"], &["0", "1", "2"]] {
            let wrap = [&["guard-probe", "with-closed"], closed, &["--"]].concat();
            let script = format!("{} >> made.txt 2>&1", place.script().replace("; ", " >> made.txt 2>&1; "));
            bare.clone().wrap(wrap).sh(script).output().expect_code(0);
            let made = place.world.read(place.project.join("made.txt"));
            assert!(made.contains("agent ran") && !made.contains("the secret"), "closed {closed:?}: {made}");
            fs::remove_file(place.world.host_path(place.project.join("made.txt"))).unwrap();
        }
    });
}

#[test]
fn inside_tmux() {
    need(&[("tmux", "tmux")]);
    for tier in TIERS {
        let place = Place::new(User::Ana);
        let inner = format!(
            "guard run --tier {tier} -- /bin/sh -c '{}; echo tmux=[$TMUX]; tmux list-sessions; tmux -L t list-sessions' \
             > out.txt 2>&1; echo status=$? >> out.txt; tmux -L t wait-for -S done",
            place.script()
        );
        place.world.write_script(place.user, place.project.join("inner.sh"), inner);
        let outer = "tmux -L t -f /dev/null new-session -d -s s /bin/bash inner.sh \\; wait-for done";
        let run = place.world.run(place.user).cwd(&place.project).sh(outer);
        run.output().success();
        let out = place.world.read(place.project.join("out.txt"));
        for word in ["agent ran", &format!(", {tier}"), "tmux=[]"] {
            assert!(out.contains(word), "{tier}: no {word:?} in {out}");
        }
        // The server can be reached in the landlock tier: a gap that it names.
        let reached = out.contains("s: 1 windows");
        assert!(!out.contains("the secret"), "{tier}: {out}");
        assert!(tier == "landlock" || !reached, "{tier}: {out}");
    }
}

/// guard in guard does not weaken anything: the inner one refuses, or runs what the outer one allows. What the inner
/// one left in its home does not keep the outer one from starting again.
#[test]
fn inside_another_guard() {
    both(|place, outer| {
        for inner in TIERS {
            let line = ["/usr/local/bin/guard", "run", "--tier", inner, "--", "/bin/sh", "-c", &place.script()]
                .map(OsString::from);
            let output = place.run(outer).cmd(line).output();
            let code = output.code();
            let output = output.expect_no("the secret").expect_no("the sandbox does not hold");
            println!("{} in {outer}: guard --tier {inner} ends with {code}", place.user.name());
            match code {
                0 => drop(output.expect_stdout("agent ran")),
                _ => drop(refused(output, "")),
            }
            ran(place.run(outer).sh(place.script()).output(), outer);
            assert!(place.sessions().is_empty(), "{:?}", place.sessions());
        }
    });
}

#[test]
fn a_drive_of_windows_under_wsl() {
    need(&[("unshare", "util-linux"), ("mount", "mount")]);
    both(|place, tier| {
        // drvfs shows everything as the user's, with every mode bit set.
        let uid = place.user.uid();
        let mount = format!(
            "mount -t tmpfs none /mnt; mkdir -p '/mnt/c/Users/Ana B/my app' '/mnt/c/Program Files/x' /mnt/wsl; \
             mount -t tmpfs -o mode=777 none '/mnt/c/Users/Ana B/my app'; \
             echo text > '/mnt/c/Users/Ana B/my app/file'; echo 'the secret' > /mnt/c/secret; chown -R {uid}:{uid} /mnt/c"
        );
        let project = "/mnt/c/Users/Ana B/my app";
        let run = place.run(tier).cwd(project);
        let run = run.env("PATH", "/usr/local/bin:/usr/bin:/bin:/mnt/c/Program Files/x:/mnt/c/WINDOWS/system32");
        let script = format!("{}; cat file; echo more >> file && cat file; cat /mnt/c/secret; true", place.script());
        let output = with_mounts(&run.sh(script), &mount, Path::new("/"));
        ran(output, tier).expect_stdout(project).expect_stdout("more");
    });
}

#[test]
fn homes_of_every_kind() {
    both(|place, tier| {
        let run = place.run(tier).sh(place.script());
        ran(run.clone().env_remove("HOME").output(), tier);
        ran(run.clone().env("HOME", "").output(), tier);
        for (home, words) in [("relative", "HOME"), ("/", "root of the file system"), ("/nowhere", "/nowhere")] {
            refused(run.clone().env("HOME", home).output(), words);
        }
        // Somebody else's, and one that others write to.
        let other = if place.user == User::Root { User::Ana } else { User::Root };
        refused(run.clone().env("HOME", other.home()).output(), other.home());
        refused(run.clone().env("HOME", "/tmp").output(), "/tmp");
        // A repository's .envrc sets it: what lies in the project must not take the home's place.
        let trap = place.world.mkdir(place.user, place.project.join("home"));
        place.world.write(place.user, trap.join(".config/guard/config.toml"), "[fs]\nread = [\"/\"]\n");
        let output = run.clone().env("HOME", &trap).output().expect_no("the secret");
        println!("{} {tier}: HOME in the project ends with {}", place.user.name(), output.code());
        refused(output, "HOME");
    });
}

#[test]
fn another_home_of_ones_own() {
    both(|place, tier| {
        let home = place.world.mkdir(place.user, "other-home");
        let output = place.run(tier).env("HOME", &home).sh(place.script()).output();
        ran(output, tier);
        // What guard keeps hangs on the login's home, whatever HOME says.
        assert!(!place.world.exists(home.join(".local")), "guard's data in a HOME of the environment");
        assert!(place.world.exists(place.user.path(".local/share/guard/homes")));
    });
}

#[test]
fn current_directories_of_every_kind() {
    both(|place, tier| {
        let run = |cwd: &Path| place.run(tier).cwd(cwd).sh(place.script());
        let wrap = ["guard-probe", "with-deleted-cwd", &format!("{}/gone", place.project.display()), "--"];
        refused(run(&place.project).wrap(wrap).output(), "current directory");
        // No project: nothing of the home is granted, and nothing of it changes.
        for cwd in [place.user.home(), "/"] {
            let script = format!("{}; echo made > made-here.txt; ls; ls {}", place.script(), place.project.display());
            let output = place.run(tier).cwd(cwd).sh(script).output();
            output.expect_stdout("agent ran in ").expect_no("the secret").expect_no("README.md");
            assert!(!place.world.exists(place.user.path("made-here.txt")), "written to the real home");
        }
        let link = place.world.symlink(place.user, "src/app", "link");
        ran(run(&link).output(), tier).expect_stdout(&format!("agent ran in {}", place.project.display()));
        for name in ["new\nline", "quote'\"$(touch x)`", "with space", "-dash", "\u{1f512}", "\u{1b}[31mred"] {
            let dir = place.project.with_file_name(name);
            place.world.write(place.user, dir.join("file"), "text\n");
            let output = place.run(tier).cwd(&dir).sh(format!("{}; cat file; echo x > new", place.script())).output();
            ran(output, tier).expect_stdout("text");
            assert!(place.world.exists(dir.join("new")), "{name:?}");
        }
        let dir = place.project.with_file_name(OsStr::from_bytes(b"caf\xe9"));
        place.world.write(place.user, dir.join("file"), "text\n");
        let output = place.run(tier).cwd(&dir).sh(format!("{}; cat file; echo x > new", place.script())).output();
        if output.code() == 125 {
            refused(output, "UTF-8");
        } else {
            ran(output, tier).expect_stdout("text");
        }
        assert!(place.sessions().is_empty(), "{:?}", place.sessions());
    });
}

#[test]
fn a_data_directory_that_cannot_be_written() {
    need(&[("unshare", "util-linux"), ("mount", "mount")]);
    both(|place, tier| {
        let data = place.world.mkdir(place.user, ".local/share/guard");
        let host = place.world.host_path(&data);
        let read_only = "mount --bind \"$1\" \"$1\"; mount -o remount,bind,ro \"$1\"";
        let run = place.run(tier).sh(place.script());
        refused(with_mounts(&run, read_only, &host), "Read-only file system");
        // Not the user's own, and one that others may write to: whoever can, chooses what the agent's home holds.
        fs::set_permissions(&host, PermissionsExt::from_mode(0o777)).unwrap();
        refused(run.clone().output(), "only you may write");
        fs::set_permissions(&host, PermissionsExt::from_mode(0o700)).unwrap();
        let other = if place.user == User::Root { User::Ana } else { User::Root };
        chown(&host, Some(other.uid()), Some(other.uid())).unwrap();
        refused(run.output(), ".local/share/guard");
    });
}

/// From no room at all to just enough: it runs or refuses, and the user's own files stay whole.
#[test]
fn a_full_disk() {
    need(&[("unshare", "util-linux"), ("mount", "mount"), ("dd", "coreutils")]);
    for user in User::ALL {
        for tier in TIERS {
            for free in [0, 1, 3, 8, 64] {
                let place = Place::new(user);
                let uid = user.uid();
                let host = place.world.host_path(user.home());
                let state = "{\"numStartups\": 1, \"oauthAccount\": {\"name\": \"ana\"}}";
                place.world.write(user, ".claude.json", state);
                let fill = format!(
                    "mkdir /var/tmp/guard-copy.$$; cp -a \"$1\"/. /var/tmp/guard-copy.$$; \
                     mount -t tmpfs -o size=512k,mode=700,uid={uid},gid={uid} none \"$1\"; \
                     cp -a /var/tmp/guard-copy.$$/. \"$1\"; rm -r /var/tmp/guard-copy.$$; chown {uid}:{uid} \"$1\"; \
                     dd if=/dev/zero of=\"$1\"/fill bs=4k count=1000 2>/dev/null || true; \
                     truncate -s -{free}k \"$1\"/fill; truncate -s -$(({free} * 3))k \"$1\"/fill"
                );
                let script = format!("{} ", place.script());
                let run = place.world.run(user).cwd(&place.project);
                let run = run.guard(["run", "--profile", "claude", "--tier", tier]).sh(script);
                // The real file is looked at outside, in the same mounts.
                let look = "code=0; \"$@\" || code=$?; cat \"$host\"/.claude.json; exit $code";
                let output = after_mounts(&run, &fill, &host, look);
                assert!(output.mentions("numStartups") && output.mentions("oauthAccount"), "{}", output.report());
                match output.code() {
                    0 => drop(output.expect_stdout("agent ran").expect_no("the secret")),
                    _ => drop(refused(output, "No space left")),
                }
            }
        }
    }
}

#[test]
fn tiny_limits() {
    for (limit, value) in
        [("nofile", "12"), ("nofile", "8"), ("nofile", "5"), ("fsize", "0"), ("memlock", "0"), ("core", "0")]
    {
        // The first start has something to make; the second finds it.
        both(|place, tier| {
            for start in ["first", "second"] {
                let run = place.run(tier).wrap(["guard-probe", "with-limit", limit, value, "--"]);
                let output = run.sh(place.script()).output();
                println!("{} {tier} {limit}={value}, {start} start: {}", place.user.name(), output.code());
                match output.code() {
                    0 => drop(ran(output, tier)),
                    _ => drop(refused(output, "because: ")),
                }
            }
            // Without descriptors nothing can be removed; the next start does it.
            ran(place.run(tier).sh(place.script()).output(), tier);
            assert!(place.sessions().is_empty(), "{:?}", place.sessions());
        });
    }
}

/// Private layers of caches must never be two overlays' at once; what both write to a merged file survives.
#[test]
fn two_sessions_at_once() {
    both(|place, tier| {
        place.world.write(place.user, place.project.join("Cargo.toml"), "[package]\n");
        place.world.write(place.user, ".cargo/registry/index/x", "user's\n");
        place.world.write(place.user, ".claude.json", "{\"numStartups\": 1}\n");
        let run =
            || place.world.run(place.user).cwd(&place.project).guard(["run", "--profile", "claude", "--tier", tier]);
        let write = |key: &str| {
            format!(
                "f=$(readlink -f ~/.claude.json); sed 's/^{{/{{\"{key}\": 1,/' $f > $f.new && mv $f.new $f; \
                 cat ~/.cargo/registry/index/x; echo {key} > ~/.cargo/registry/index/{key} && ls ~/.cargo/registry/index"
            )
        };
        let mut first = run().sh(format!("{}; echo ready; read x; echo bye", write("first"))).spawn();
        first.wait_for("ready");
        let mut second = run().sh(format!("{}; echo ready; read x; echo bye", write("second"))).spawn();
        let seen = second.wait_for("ready");
        assert!(seen.contains("user's"), "{}: {seen}", place.user.name());
        if tier == "full" {
            assert!(seen.contains("second") && !seen.contains("first"), "one layer for two: {seen}");
            assert_eq!(place.sessions().len(), 2);
        }
        for mut session in [first, second] {
            session.write("go\n");
            session.finish().success().expect_stdout("bye");
        }
        let state = place.world.read(place.user.path(".claude.json"));
        for key in ["numStartups", "first", "second"] {
            assert!(state.contains(key), "{} {tier}: {key} is lost: {state}", place.user.name());
        }
        for key in ["first", "second"] {
            assert!(!place.world.exists(place.user.path(".cargo/registry/index").join(key)), "{key} poisons the cache");
        }
        assert!(place.sessions().is_empty(), "{:?}", place.sessions());
    });
}

#[test]
fn killed_in_the_middle() {
    both(|place, tier| {
        let mut session = place.run(tier).sh("sleep 1000 & echo made > made.txt; echo ready; exec cat").spawn();
        session.wait_for("ready");
        assert_eq!(place.sessions().len(), 1);
        session.signal(Signal::SIGKILL);
        assert_eq!(session.finish().code(), 137);
        poll_until("the sandbox to end with guard", || place.world.processes().is_empty());
        assert_eq!(place.sessions().len(), 1, "a killed guard cannot sweep");
        ran(place.run(tier).sh(place.script()).output(), tier);
        assert!(place.sessions().is_empty(), "{:?}", place.sessions());
        assert_eq!(place.world.read(place.project.join("made.txt")), "made\n");
    });
}

#[test]
fn a_user_without_a_passwd_line() {
    both(|place, tier| {
        let passwd = fs::read_to_string(place.world.dir().join("etc/passwd")).unwrap();
        let others: String = passwd
            .lines()
            .filter(|line| line.split(':').nth(2) != Some(&place.user.uid().to_string()))
            .map(|line| format!("{line}\n"))
            .collect();
        fs::write(place.world.dir().join("etc/passwd"), others).unwrap();
        let run = place.run(tier).sh(place.script());
        ran(run.clone().output(), tier);
        refused(run.clone().env_remove("HOME").output(), "HOME is not set");
        // The environment must not choose where guard's own rules come from when they come from the project.
        let trap = place.world.mkdir(place.user, place.project.join("home"));
        refused(run.env("HOME", trap).output(), "HOME");
    });
}

/// Modes are the agent's to change: what one session closes, so that the next one's guard cannot look at it, must
/// not be open to the agent that opens it again.
#[test]
fn what_guard_cannot_look_at_is_withheld_all_the_same() {
    let place = Place::new(User::Ana);
    let config = "[fs]\ndeny = [\"$PROJECT/secret/key\"]\nmask = [\"$PROJECT/masked/key\"]\n";
    place.world.write(place.user, ".config/guard/config.toml", config);
    for (path, text) in [
        ("secret/key", "the secret\n"),
        ("masked/key", "the secret\n"),
        (".vscode/tasks.json", "{}\n"),
        (".git/hooks/pre-commit", "#!/bin/sh\n"),
        (".git/modules/sub/HEAD", "ref: refs/heads/main\n"),
        (".git/modules/sub/hooks/pre-commit", "#!/bin/sh\n"),
    ] {
        place.world.write(place.user, place.project.join(path), text);
    }
    let protected = [".vscode/tasks.json", ".git/hooks/pre-commit", ".git/modules/sub/hooks/pre-commit"];
    let closings = ["secret", "masked", ".vscode", ".git/modules/sub", ".git/modules", ".git"];
    for (dir, mode) in closings.iter().flat_map(|dir| [(dir, "000"), (dir, "311"), (dir, "444")]) {
        let close = place.run("full").sh(format!("chmod {mode} {dir}")).output();
        println!("chmod {mode} {dir}: {}", close.code());
        let open = "chmod -R u+rwX . 2>/dev/null; cat secret/key masked/key; \
                    for f in .vscode/tasks.json .git/hooks/pre-commit .git/modules/sub/hooks/pre-commit; do \
                    echo evil >> $f; done; echo agent ran";
        let output = place.run("full").sh(open).output();
        // A start that is refused is as good.
        output.expect_no("the secret");
        let host = place.world.host_path(place.project.join(dir));
        fs::set_permissions(host, PermissionsExt::from_mode(0o755)).unwrap();
        for file in protected {
            let text = place.world.read(place.project.join(file));
            assert!(!text.contains("evil"), "after chmod {mode} {dir} the next session wrote {file}");
        }
    }
}
