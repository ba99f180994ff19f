//! Fault injection: every system call of guard's start forced to fail in turn, by a supervisor outside
//! (`tests/probe/fail.rs`) that answers it with an error. Which calls there are, a first run tells.
//!
//! Whatever fails, one of two things follows: the agent runs under every lock, as it says itself from inside, which is
//! allowed for the calls listed as [`HARMLESS`] with the reason; or guard ends with 125 (126 or 127 where it is the
//! agent's program that cannot be executed) and says what, why and what to do, the agent has not run, and nothing is
//! left behind. Only a few calls, before guard's first line or needed to say anything at all, may end it
//! otherwise ([`SPEECHLESS`]); the agent does not run then either.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use support::{User, World};

/// The errors a kernel or a filter gives for a call it does not want to carry out.
const ERRORS: [(&str, i32); 4] =
    [("EPERM", libc::EPERM), ("ENOSYS", libc::ENOSYS), ("ENOMEM", libc::ENOMEM), ("EINVAL", libc::EINVAL)];

/// Calls whose failure may leave the agent running, under every lock and with everything withheld, and why.
const HARMLESS: &[(&str, &str)] = &[
    ("brk", "the allocator takes memory by mmap instead"),
    ("close", "a descriptor is left open, and closed by the exec"),
    ("fcntl", "asked by the library's own checks in debug builds"),
    ("fsopen", "an overlay that cannot be had is a gap: the cache is read-only"),
    ("fsconfig", "as fsopen"),
    ("fsmount", "as fsopen"),
    ("keyctl", "ENOSYS: no keyrings to lose; EPERM: Docker's filter; guard's own takes keyctl away"),
    ("prctl", "dropping from the bounding set: without it nothing is gained under no_new_privs"),
    ("getgroups", "groups are only for telling what file modes allow"),
    ("getpid", "only in names"),
    ("gettid", "only in the C library"),
    ("umask", "always succeeds (umask(2)); where a filter forbids it the caller's mask stays"),
    ("uname", "only in messages"),
    ("getrandom", "the library has /dev/urandom"),
    ("ioctl", "a terminal is not taken for one"),
    ("prlimit64", "the library's guess of the stack; a limit that the policy sets is another matter"),
    ("rseq", "the C library does without"),
    ("sched_getaffinity", "the library's guard page"),
    ("set_robust_list", "the C library does without"),
    ("set_tid_address", "the C library does without"),
    ("sigaltstack", "only for the message of a stack overflow"),
    ("rt_sigaction", "as sigaltstack"),
    ("sendto", "the report of an end; the end itself tells too"),
    // What merging cannot do is said when the session ends.
    ("fdatasync", "merging: said at the end"),
    ("rename", "merging: said at the end"),
    ("renameat", "merging: said at the end"),
    ("write", "merging: said at the end"),
    ("mkdir", "merging: said at the end; and what exists need not be made"),
    ("flock", "an old session that cannot be swept away, or merging"),
    ("inotify_init1", "merging happens at the end only"),
    ("inotify_add_watch", "merging happens at the end only"),
    // What cannot be looked at is not granted; what is withheld must be all the same, which the agent tells.
    ("statx", "it is looked at by the older call, or not granted"),
    ("newfstatat", "not granted"),
    ("getdents64", "a toolchain is not found, and not granted"),
    ("openat", "not granted"),
    ("read", "not granted"),
    ("readlink", "not granted"),
    ("access", "the C library does without"),
];

/// Rows of [`HARMLESS`] that hold for these errors alone.
const ONLY: &[(&str, &str)] = &[("keyctl", "ENOSYS EPERM"), ("getrandom", "ENOSYS EPERM")];

/// Calls without which guard cannot start, allocate or print. The agent does not run, but the exit status may be an
/// abort's and the message may be missing.
const SPEECHLESS: &[&str] =
    &["arch_prctl", "brk", "close", "getrandom", "mmap", "mprotect", "munmap", "poll", "rt_sigaction", "write"];

/// What every `guard run` of these tests obeys, beside the agent's profile.
const CONFIG: &str = r#"
[fs]
deny = ["$PROJECT/denied"]
mask = ["$PROJECT/masked"]
protect = ["$PROJECT/protected"]
"#;

/// How a first run of guard is made to fail.
#[derive(Clone)]
struct Fault {
    call: String,
    /// Which of the calls: its number from 1, or all.
    nth: Option<u64>,
    errno: (&'static str, i32),
}

impl Fault {
    fn none() -> Fault {
        Fault { call: "every".into(), nth: None, errno: ("none", 0) }
    }

    fn words(&self) -> String {
        let nth = self.nth.map_or("all".to_owned(), |nth| format!("number {nth}"));
        format!("{} {nth} {}", self.call, self.errno.0)
    }
}

/// What came of it.
struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
    report: BTreeMap<String, u64>,
    marker: bool,
    litter: Vec<String>,
}

/// Starts guard for the first time in a fresh world, with a fault.
fn start(user: User, tier: &str, fault: &Fault) -> Outcome {
    let world = World::new();
    let project = user.path("src/app");
    world.write(user, project.join(".git/HEAD"), "ref: refs/heads/main\n");
    world.write(user, project.join(".git/config"), "[core]\n");
    world.write(user, project.join("Cargo.toml"), "[package]\n");
    world.write(user, ".cargo/registry/index/x", "");
    world.write(user, ".claude.json", "{\"n\": 1}\n");
    world.write(user, ".config/guard/config.toml", CONFIG);
    for name in ["denied", "masked", "protected"] {
        world.write(user, project.join(name), "text\n");
    }
    let secret = world.write(user, ".ssh/id_ed25519", "secret\n");
    let marker = project.join("marker");
    let before = names(&world);

    let agent = world.run(user).cwd(&project).guard(["run", "--profile", "claude", "--tier", tier]);
    let agent = agent.probe([Path::new("fault-agent"), &project, &secret]).command();
    let scratch = tempfile::tempdir().unwrap();
    let [report, stdout, stderr] = ["report", "stdout", "stderr"].map(|name| scratch.path().join(name));
    let nth = match (fault.nth, fault.errno.1) {
        (_, 0) => "none".to_owned(),
        (None, _) => "all".to_owned(),
        (Some(nth), _) => nth.to_string(),
    };
    let mut command = Command::new(agent.get_program());
    command.args(["fail", "--call", &fault.call, "--nth", &nth, "--errno", &fault.errno.1.to_string()]);
    // The first execve enters the world, the second is guard's.
    command.args(["--skip", "2", "--report"]).arg(&report).arg("--").arg(agent.get_program()).args(agent.get_args());
    command.env_clear().envs(agent.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir("/");
    // Files, not pipes: whatever outlives guard must not keep the test waiting.
    command.stdin(Stdio::null()).stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap());
    let status = command.status().unwrap();

    let text = |path: &PathBuf| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let pairs = text(&report);
    let pairs = pairs.split_whitespace().filter_map(|pair| pair.split_once('='));
    let marker = world.exists(&marker);
    let litter = names(&world).difference(&before).filter(|name| !expected(name)).cloned().collect();
    Outcome {
        code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        stdout: text(&stdout),
        stderr: text(&stderr),
        report: pairs.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect(),
        marker,
        litter,
    }
}

/// Everything in the world, as commands in it see it.
fn names(world: &World) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut todo: Vec<PathBuf> = ["/home", "/root", "/tmp", "/var/tmp", "/run", "/dev/shm"].map(PathBuf::from).into();
    while let Some(inside) = todo.pop() {
        let host = world.host_path(&inside);
        if host.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            todo.extend(fs::read_dir(&host).unwrap().flatten().map(|entry| inside.join(entry.file_name())));
        }
        found.insert(inside.to_string_lossy().into_owned());
    }
    found
}

/// What a start is meant to leave: guard's own data (the next start sweeps what a failed one left in it), and the
/// agent's state with what its profile makes there.
fn expected(name: &str) -> bool {
    let below = name.strip_prefix("/home/ana/").or(name.strip_prefix("/root/")).unwrap_or(name);
    below.starts_with(".local/share/guard")
        || [".local", ".local/share", "src/app/marker"].contains(&below)
        || below.starts_with(".claude/")
        || below == ".claude"
}

/// What is wrong with an outcome, if anything, and whether the agent ran.
fn judge(tier: &str, fault: &Fault, outcome: &Outcome) -> (bool, Option<String>) {
    let ran = outcome.marker || outcome.stdout.contains("agent nnp");
    let row = |list: &[(&str, &'static str)]| list.iter().find(|(call, _)| *call == fault.call).map(|(_, why)| *why);
    let harmless = row(HARMLESS).is_some() && row(ONLY).is_none_or(|errors| errors.contains(fault.errno.0));
    let wrong = if outcome.report.get("hung") != Some(&0) {
        Some("it hung".to_owned())
    } else if outcome.report.get("left") != Some(&0) {
        Some("processes outlived guard".to_owned())
    } else if ran {
        let mut locked = vec!["nnp=1 filters=2 eff=0000000000000000 tiocsti=Some(EPERM) secret=E", "fds=3"];
        if tier == "full" {
            locked.extend(["canary=EACCES", "denied=EACCES", "masked=empty", "protected=refused"]);
        }
        let open = locked.iter().find(|word| !outcome.stdout.contains(*word));
        if outcome.code != 0 {
            Some(format!("the agent ran, and guard ended with {}", outcome.code))
        } else if let Some(word) = open {
            Some(format!("the agent ran without {word}"))
        } else {
            (!harmless).then(|| "the agent ran, and nothing says that this call may fail".to_owned())
        }
    } else if SPEECHLESS.contains(&fault.call.as_str()) {
        (outcome.code == 0).then(|| "nothing ran, and guard ended with 0".to_owned())
    } else if !(125..=127).contains(&outcome.code) {
        Some(format!("guard ended with {}", outcome.code))
    } else {
        // The reason is a line of its own, or in a refusal part of the first.
        let missing = ["guard: ", "hint: "].into_iter().find(|word| !outcome.stderr.contains(word));
        missing.map(|word| format!("the message has no {word:?}"))
    };
    let wrong = wrong.or_else(|| {
        let litter = outcome.litter.join(" ");
        (!litter.is_empty()).then(|| format!("left behind: {litter}"))
    });
    (ran, wrong)
}

/// Which of `count` calls to fail: all of a few, else the first ones, the last, and some in between.
fn chosen(count: u64, most: u64) -> Vec<u64> {
    if count <= most {
        return (1..=count).collect();
    }
    let mut chosen: Vec<u64> = (0..most).map(|step| 1 + step * (count - 1) / (most - 1)).collect();
    chosen.dedup();
    chosen
}

fn inject(user: User, tier: &str) {
    let plain = start(user, tier, &Fault::none());
    let (ran, wrong) = judge(tier, &Fault { call: "close".into(), ..Fault::none() }, &plain);
    let reached = ran && plain.code == 0 && wrong.is_none();
    assert!(reached, "without a fault: {}, {wrong:?}\n{}\n{}", plain.code, plain.stdout, plain.stderr);
    let counts: BTreeMap<String, u64> = plain
        .report
        .into_iter()
        .filter(|(name, _)| {
            !["answered", "agent", "left", "hung", "rt_sigreturn", "exit_group"].contains(&name.as_str())
        })
        .collect();
    let mut faults = Vec::new();
    for (call, count) in counts {
        for (index, errno) in ERRORS.into_iter().enumerate() {
            // The other user's runs differ in little.
            if user == User::Ana || index % 3 == call.len() % 3 {
                faults.push(Fault { call: call.clone(), nth: None, errno });
            }
        }
        // Of calls that only look, and are many, some; of locks, each.
        let most = match call.as_str() {
            "prctl" | "capset" | "capget" | "seccomp" | "clone" | "landlock_restrict_self" | "fsopen" | "dup2" => 64,
            "statx" | "newfstatat" | "openat" | "read" | "readlink" | "getdents64" => 40,
            "openat2" | "open_tree" | "mount_setattr" | "move_mount" | "landlock_add_rule" | "fsconfig" | "fsmount" => {
                20
            }
            _ => 8,
        };
        for nth in chosen(count, if user == User::Ana { most } else { most / 8 + 2 }) {
            let errno = ERRORS[usize::try_from(nth).unwrap() % ERRORS.len()];
            faults.push(Fault { call: call.clone(), nth: Some(nth), errno });
        }
    }
    let (next, missed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let wrong = Mutex::new(String::new());
    let survived: Mutex<BTreeMap<String, u64>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(fault) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = start(user, tier, fault);
                    // guard's three processes go on side by side: the call may come after the agent's exec this time.
                    if outcome.report.get("answered") == Some(&0) {
                        missed.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    let (ran, why) = judge(tier, fault, &outcome);
                    if ran {
                        *survived.lock().unwrap().entry(fault.call.clone()).or_default() += 1;
                    }
                    if let Some(why) = why {
                        let said = [outcome.stdout.trim(), outcome.stderr.trim()].join(" | ").replace('\n', " ");
                        let _ = writeln!(wrong.lock().unwrap(), "{}: {why}: {said}", fault.words());
                    }
                }
            });
        }
    });
    let (wrong, survived) = (wrong.into_inner().unwrap(), survived.into_inner().unwrap());
    let missed = missed.into_inner();
    println!("{} faults, {missed} of them came too late; the agent ran after {survived:?}", faults.len());
    assert!(missed * 10 < faults.len(), "{missed} of {} faults came too late to tell anything", faults.len());
    assert!(
        wrong.is_empty(),
        "as {}, {tier} tier, {} of {} faults:\n{wrong}",
        user.name(),
        wrong.lines().count(),
        faults.len()
    );
}

#[test]
fn full_tier_as_an_ordinary_user() {
    inject(User::Ana, "full");
}

#[test]
fn full_tier_as_root() {
    inject(User::Root, "full");
}

#[test]
fn landlock_tier_as_an_ordinary_user() {
    inject(User::Ana, "landlock");
}

#[test]
fn landlock_tier_as_root() {
    inject(User::Root, "landlock");
}
