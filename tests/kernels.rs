//! The real, static guard on real kernels: Debian's 6.1 (Landlock ABI 2) and 6.12 (ABI 6), each with and without
//! Landlock, with user namespaces on, off (`user.max_user_namespaces=0`) and forbidden to users
//! (`kernel.unprivileged_userns_clone=0`), and on a root that cannot be pivoted away from.
//!
//! Each machine runs a list of cases as a user and as root and reports their status and output; the tables here say
//! what each must be: which tier started, what it stopped, or with which words guard refused. A command that guard
//! refused never printed its first line. Set-up: `tests/setup/kernels.sh` and `cargo build --examples`.

#[path = "support/qemu.rs"]
mod qemu;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use qemu::{Initramfs, Kernel, Outcome, Report};
use regex::Regex;

/// The number of the machine's ordinary user.
const ANA: u32 = 4242;

/// What the user's private key holds: it must never come out of a sandbox.
const CANARY: &str = "canary-in-the-ssh-key";

/// The kernel's Landlock as far as guard can use it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Landlock {
    Off,
    Abi(u32),
}

/// Who runs a case.
#[derive(Clone, Copy, PartialEq, Eq)]
enum User {
    Ana,
    Root,
    /// Root again, but outside any project: looks at the machine, runs no guard.
    Host,
}

impl User {
    fn suffix(self) -> &'static str {
        match self {
            User::Ana => "ana",
            User::Root => "root",
            User::Host => "host",
        }
    }

    fn home(self) -> &'static str {
        match self {
            User::Ana => "/home/ana",
            User::Root | User::Host => "/root",
        }
    }
}

/// What must come of a `guard run` of the facts script.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// Both locks.
    Full,
    /// Landlock alone; what it cannot stop is named by `guard run --dry-run` with the same flags.
    Landlock,
    /// Exit 125 with a message that matches all of these; nothing ran.
    Refused(&'static [&'static str]),
    /// Root may do without user namespaces what a user cannot; it may as well be refused.
    FullOrRefused,
    /// Whatever runs is in one of the two tiers.
    AnyTierOrRefused,
}

/// Why each kind of machine is refused: lower-case patterns that the lower-case message must match.
const NO_LANDLOCK: Verdict = Verdict::Refused(&["landlock", r"\blsm="]);
const NO_USER_NAMESPACES: Verdict = Verdict::Refused(&["user namespaces", r"user\.max_user_namespaces"]);
const FORBIDDEN_TO_USERS: Verdict = Verdict::Refused(&["user namespaces", r"kernel\.unprivileged_userns_clone"]);
const NEITHER: Verdict = Verdict::Refused(&["landlock"]);

/// `--network`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Network {
    Open,
    None,
}

/// A way to ask guard for a sandbox, and the flags that say so.
struct Way {
    name: &'static str,
    flags: &'static str,
    network: Network,
}

const DEFAULT: Way = Way { name: "default", flags: "", network: Network::Open };
const ACCEPT: Way = Way { name: "accept", flags: "--require landlock", network: Network::Open };
const FORCE: Way = Way { name: "force", flags: "--tier landlock", network: Network::Open };
const NO_NETWORK: Way = Way { name: "no-network", flags: "--network none", network: Network::None };
const ACCEPT_NO_NETWORK: Way =
    Way { name: "accept-no-network", flags: "--require landlock --network none", network: Network::None };

/// What is asserted of a case.
enum Check {
    /// The facts script under guard.
    Facts { verdict: Verdict, network: Network, gaps: String },
    /// The facts script outside: everything works. `except` names what this phase forbids to everybody.
    Control { except: &'static [&'static str] },
    /// One of these statuses.
    Status { want: &'static [i32] },
    /// One of these statuses, and standard output matches these lower-case patterns.
    Says { want: &'static [i32], patterns: Vec<String> },
    /// Standard output is one JSON object.
    Json,
    /// Status 0 and this standard output.
    Output { want: &'static str },
    /// Looked at by another case.
    Recorded,
}

struct Case {
    name: String,
    user: User,
    script: String,
    check: Check,
}

impl Case {
    fn id(&self, phase: &Phase) -> String {
        format!("{}/{}.{}", phase.name, self.name, self.user.suffix())
    }
}

/// Cases that run after the same commands of the machine's owner.
struct Phase {
    name: &'static str,
    setup: &'static str,
    cases: Vec<Case>,
}

impl Phase {
    fn new(name: &'static str, setup: &'static str) -> Phase {
        let mut phase = Phase { name, setup, cases: Vec::new() };
        phase.add("before", User::Host, PROCESSES_AND_MOUNTS, Check::Recorded);
        phase
    }

    fn add(&mut self, name: &str, user: User, script: &str, check: Check) {
        self.cases.push(Case { name: name.to_owned(), user, script: script.to_owned(), check });
    }

    /// The facts script under guard in one way, and what the dry run says of the same.
    fn facts(&mut self, user: User, way: &Way, verdict: Verdict) {
        let dry = format!("dry-{}", way.name);
        self.add(&dry, user, &format!("exec guard run {} --dry-run -- true", way.flags), Check::Recorded);
        let script = format!("exec guard run {} -- facts {} $(cat /run/outsider)", way.flags, user.home());
        let check =
            Check::Facts { verdict, network: way.network, gaps: format!("{}/{dry}.{}", self.name, user.suffix()) };
        self.add(way.name, user, &script, check);
    }

    fn control(&mut self, user: User, except: &'static [&'static str]) {
        let script = format!("exec facts {} $(cat /run/outsider)", user.home());
        self.add("control", user, &script, Check::Control { except });
    }

    /// `guard doctor` in both forms; `patterns` as in [`Verdict::Refused`].
    fn doctor(&mut self, patterns: &[&str]) {
        let patterns = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        let check = Check::Says { want: &[0, 1], patterns };
        self.add("doctor", User::Ana, "exec guard doctor", check);
        self.add("doctor-json", User::Ana, "exec guard doctor --json", Check::Json);
    }

    /// The last cases of a phase: guard left no process, no mount and no file behind.
    fn finish(mut self) -> Phase {
        let litter = "cd / && find tmp var/tmp dev/shm run home -mindepth 1 -not -path 'home/ana/.local*' -not -path 'home/ana/.config*' | sort";
        self.add("litter", User::Host, litter, Check::Output { want: OUTSIDE });
        self.add("after", User::Host, PROCESSES_AND_MOUNTS, Check::Recorded);
        self
    }
}

/// What runs on the machine and how many mounts there are: the same before and after each phase.
const PROCESSES_AND_MOUNTS: &str = "readlink /proc/[0-9]*/exe | sort | uniq -c; wc -l </proc/self/mountinfo";

/// Every file of the places that guard might litter, but for its own data directory.
const OUTSIDE: &str = "home/ana
home/ana/.cargo
home/ana/.cargo/registry
home/ana/.cargo/registry/cached
home/ana/.profile
home/ana/.ssh
home/ana/.ssh/id_ed25519
home/ana/other
home/ana/other/ledger
home/ana/other/notes
home/ana/project
home/ana/project/Cargo.toml
home/ana/project/README
home/ana/project/written
run/ana
run/ana/socket
run/never
run/outside
run/outside/abstract
run/outside/memory
run/outside/process
run/outside/stream
run/outside/tcp
run/outside/udp
run/outsider
";

/// What `guard doctor` must say of this Landlock.
fn landlock_words(landlock: Landlock) -> String {
    match landlock {
        Landlock::Off => r"landlock[^\n]*(off|not|no\b|missing|disabled|unavailable)".to_owned(),
        Landlock::Abi(abi) => format!(r"landlock[^\n]*\b{abi}\b"),
    }
}

/// The phases on a machine with Landlock.
fn with_landlock(abi: u32) -> (Vec<Phase>, Vec<Phase>) {
    let words = landlock_words(Landlock::Abi(abi));

    let mut rootfs = Phase::new("rootfs", "");
    for user in [User::Ana, User::Root] {
        rootfs.control(user, &[]);
        rootfs.facts(user, &DEFAULT, Verdict::FullOrRefused);
        rootfs.facts(user, &ACCEPT, Verdict::AnyTierOrRefused);
    }
    rootfs.doctor(&[&words]);

    let mut plain = Phase::new("plain", "");
    for user in [User::Ana, User::Root] {
        plain.control(user, &[]);
        plain.facts(user, &DEFAULT, Verdict::Full);
        plain.facts(user, &ACCEPT, Verdict::Full);
        plain.facts(user, &FORCE, Verdict::Landlock);
        plain.facts(user, &NO_NETWORK, Verdict::Full);
        let key = format!("{}/.ssh/id_ed25519", user.home());
        plain.add("key-outside", user, &format!("exec cat {key}"), Check::Output { want: "canary-in-the-ssh-key\n" });
        plain.add("key-inside", user, &format!("exec guard run -- cat {key}"), Check::Status { want: &[1] });
        plain.add("why-key", user, &format!("exec guard why read {key}"), Check::Status { want: &[1] });
        plain.add("why-project", user, "exec guard why read README", Check::Status { want: &[0] });
    }
    plain.add("status", User::Ana, "exec guard run -- sh -c 'exit 42'", Check::Status { want: &[42] });
    plain.add("signal", User::Ana, "guard run -- sh -c 'kill -TERM $$'; exit $?", Check::Status { want: &[143] });
    plain.add("missing", User::Ana, "exec guard run -- no-such-command", Check::Status { want: &[127] });
    plain.add("not-executable", User::Ana, "exec guard run -- ./README", Check::Status { want: &[126] });
    // Debian's overlayfs is a module: without it the machine starts sandboxes all the same.
    plain.add("rmmod", User::Host, "rmmod overlay", Check::Status { want: &[0] });
    plain.add("no-overlayfs", User::Ana, "exec guard run -- true", Check::Status { want: &[0] });
    plain.doctor(&[&words]);

    let mut limit = Phase::new("max-user-namespaces", "echo 0 >/proc/sys/user/max_user_namespaces");
    limit.control(User::Ana, &["make-user-namespace"]);
    limit.facts(User::Ana, &DEFAULT, NO_USER_NAMESPACES);
    limit.facts(User::Ana, &ACCEPT, Verdict::Landlock);
    limit.facts(User::Ana, &FORCE, Verdict::Landlock);
    limit.facts(User::Ana, &ACCEPT_NO_NETWORK, Verdict::AnyTierOrRefused);
    limit.facts(User::Root, &DEFAULT, Verdict::FullOrRefused);
    limit.facts(User::Root, &ACCEPT, Verdict::AnyTierOrRefused);
    limit.doctor(&[&words, r"user namespaces?\b", r"user\.max_user_namespaces"]);

    let setup = "echo 1000 >/proc/sys/user/max_user_namespaces; echo 0 >/proc/sys/kernel/unprivileged_userns_clone";
    let mut clone = Phase::new("unprivileged-userns-clone", setup);
    clone.control(User::Ana, &["make-user-namespace"]);
    clone.facts(User::Ana, &DEFAULT, FORBIDDEN_TO_USERS);
    clone.facts(User::Ana, &ACCEPT, Verdict::Landlock);
    clone.facts(User::Root, &DEFAULT, Verdict::Full);
    clone.doctor(&[&words, r"user namespaces?\b", r"kernel\.unprivileged_userns_clone"]);

    let tmpfs = [plain, limit, clone].map(Phase::finish);
    (vec![rootfs.finish()], tmpfs.into())
}

/// The phases on a machine whose `lsm=` leaves Landlock out: one lock is missing, so nothing ever starts.
fn without_landlock() -> (Vec<Phase>, Vec<Phase>) {
    let words = landlock_words(Landlock::Off);
    let mut plain = Phase::new("plain", "");
    for user in [User::Ana, User::Root] {
        plain.control(user, &[]);
        plain.facts(user, &DEFAULT, NO_LANDLOCK);
        plain.facts(user, &ACCEPT, NO_LANDLOCK);
        plain.facts(user, &FORCE, NO_LANDLOCK);
    }
    plain.doctor(&[&words, r"\blsm="]);

    let mut limit = Phase::new("max-user-namespaces", "echo 0 >/proc/sys/user/max_user_namespaces");
    for user in [User::Ana, User::Root] {
        limit.control(user, &["make-user-namespace"]);
        limit.facts(user, &DEFAULT, NEITHER);
        limit.facts(user, &ACCEPT, NEITHER);
        limit.facts(user, &FORCE, NEITHER);
    }
    limit.doctor(&[&words, r"\blsm="]);
    (Vec::new(), vec![plain.finish(), limit.finish()])
}

/// What must work in every sandbox.
const WORKS: [&str; 5] = ["read-project", "write-project", "make-temporary", "read-etc", "read-shared-cache"];

/// What works, or else the dry run says that it does not (lower-case pattern).
const WORKS_OR_GAP: (&str, &str) = ("write-shared-cache", r"\bcaches?\b|read-only");

/// What the network mode decides, and the lower-case pattern that names it where it cannot be stopped.
const NETWORK: [(&str, u32, &str); 2] = [("talk-tcp", 4, r"network|\btcp\b"), ("talk-udp", NEVER, r"network|\budp\b")];

/// Every attack of the facts script; the control must find each one working.
const ATTACKS: &[Attack] = &[
    Attack { fact: "read-ssh-key", landlock_since: 1, gap: "" },
    Attack { fact: "read-other-project", landlock_since: 1, gap: "" },
    Attack { fact: "write-other-project", landlock_since: 1, gap: "" },
    Attack { fact: "list-other-project", landlock_since: 1, gap: "" },
    Attack { fact: "read-outsider-environ", landlock_since: 1, gap: "" },
    // seccomp's work, in both tiers.
    Attack { fact: "make-user-namespace", landlock_since: 1, gap: "" },
    Attack { fact: "make-io-uring", landlock_since: 1, gap: "" },
    Attack { fact: "truncate-other-project", landlock_since: 3, gap: "truncat" },
    Attack { fact: "signal-outsider", landlock_since: 6, gap: "signal" },
    Attack { fact: "connect-abstract-socket", landlock_since: 6, gap: "abstract" },
    Attack { fact: "connect-path-socket", landlock_since: NEVER, gap: "sockets? with a path|path(name)? sockets?" },
    Attack { fact: "read-outsider-memory", landlock_since: NEVER, gap: "system v" },
    Attack { fact: "stat-ssh-key", landlock_since: NEVER, gap: r"\bstat\b|exist|metadata" },
    Attack { fact: "read-outsider-argv", landlock_since: NEVER, gap: r"cmdline|command lines?|argv|arguments" },
];

struct Attack {
    fact: &'static str,
    /// The Landlock ABI that stops it without a new root; [`NEVER`] when none does.
    landlock_since: u32,
    /// The lower-case pattern by which the dry run names it where nothing stops it.
    gap: &'static str,
}

const NEVER: u32 = u32::MAX;

/// What the facts script said of `fact`.
fn fact(outcome: &Outcome, fact: &str) -> Option<bool> {
    outcome.stdout.lines().find_map(|line| match line.split_once(' ') {
        Some(("yes", name)) if name == fact => Some(true),
        Some(("no", name)) if name == fact => Some(false),
        _ => None,
    })
}

fn matches(pattern: &str, text: &str) -> bool {
    Regex::new(pattern).expect("patterns of this file are well formed").is_match(&text.to_lowercase())
}

fn ran(outcome: &Outcome) -> bool {
    outcome.stdout.lines().any(|line| line == "ran")
}

/// Everything wrong with a refusal.
fn refusal_faults(outcome: &Outcome, patterns: &[&str]) -> Vec<String> {
    let mut faults = Vec::new();
    if outcome.status != 125 {
        faults.push(format!("status {} instead of a refusal", outcome.status));
    }
    if ran(outcome) {
        faults.push("the refused command ran".to_owned());
    }
    if !outcome.stderr.starts_with("guard: ") || outcome.stderr.contains("panicked") {
        faults.push("the message does not begin with `guard: WHAT`".to_owned());
    }
    for pattern in patterns.iter().chain(&["hint: "]) {
        if !matches(pattern, &outcome.stderr) {
            faults.push(format!("the message does not match /{pattern}/"));
        }
    }
    faults
}

/// Everything wrong with a run in the given tier. `gaps` is what the dry run said.
fn run_faults(outcome: &Outcome, user: User, full: bool, abi: u32, network: Network, gaps: &Outcome) -> Vec<String> {
    let mut faults = Vec::new();
    if outcome.status != 0 || !ran(outcome) {
        faults.push(format!("status {}, the command did not run to its end", outcome.status));
        return faults;
    }
    let uid = if user == User::Ana { ANA } else { 0 };
    for line in ["NoNewPrivs 1", "Seccomp 2", "CapEff 0000000000000000", &format!("Uid {uid}")] {
        if !outcome.stdout.lines().any(|found| found == format!("status {line}")) {
            faults.push(format!("/proc/self/status lacks {line}"));
        }
    }
    let gap_text = format!("{}{}", gaps.stdout, gaps.stderr);
    let mut stopped = |name, stoppable, gap| match fact(outcome, name) {
        None => faults.push(format!("{name} was not tried")),
        Some(false) => {}
        Some(true) if stoppable => faults.push(format!("{name} works")),
        Some(true) if matches(gap, &gap_text) => {}
        Some(true) => faults.push(format!("{name} works and no gap says so (/{gap}/ in the dry run)")),
    };
    for attack in ATTACKS {
        // A new root does not close abstract sockets; a new network namespace does.
        let root = full && (network != Network::Open || attack.fact != "connect-abstract-socket");
        stopped(attack.fact, root || abi >= attack.landlock_since, attack.gap);
    }
    if network == Network::None {
        for (name, landlock_since, gap) in NETWORK {
            stopped(name, full || abi >= landlock_since, gap);
        }
    }
    let network = NETWORK.map(|(name, ..)| name).into_iter().filter(|_| network == Network::Open);
    for name in WORKS.into_iter().chain(network) {
        if fact(outcome, name) != Some(true) {
            faults.push(format!("{name} does not work"));
        }
    }
    let (name, gap) = WORKS_OR_GAP;
    if fact(outcome, name) != Some(true) && !matches(gap, &gap_text) {
        faults.push(format!("{name} does not work and no gap says so (/{gap}/ in the dry run)"));
    }
    faults
}

/// Everything wrong with one case.
fn faults(case: &Case, outcome: &Outcome, report: &Report, landlock: Landlock) -> Vec<String> {
    let abi = match landlock {
        Landlock::Off => 0,
        Landlock::Abi(abi) => abi,
    };
    match &case.check {
        Check::Facts { verdict, network, gaps } => {
            let gaps = report.case(gaps);
            let run = |full| run_faults(outcome, case.user, full, abi, *network, gaps);
            match verdict {
                Verdict::Refused(patterns) => refusal_faults(outcome, patterns),
                Verdict::FullOrRefused | Verdict::AnyTierOrRefused if outcome.status == 125 => {
                    refusal_faults(outcome, &[])
                }
                Verdict::Full | Verdict::FullOrRefused => run(true),
                Verdict::Landlock | Verdict::AnyTierOrRefused => run(false),
            }
        }
        Check::Control { except } => {
            let attacks = ATTACKS.iter().map(|attack| attack.fact);
            let network = NETWORK.map(|(name, ..)| name);
            let all = WORKS.into_iter().chain([WORKS_OR_GAP.0]).chain(attacks).chain(network);
            all.filter(|name| fact(outcome, name) != Some(!except.contains(name)))
                .map(|name| format!("outside, {name} is not {}", !except.contains(&name)))
                .collect()
        }
        Check::Status { want } => status_faults(outcome, want),
        Check::Says { want, patterns } => {
            let missing = patterns.iter().filter(|pattern| !matches(pattern, &outcome.stdout));
            let missing = missing.map(|pattern| format!("standard output does not match /{pattern}/"));
            status_faults(outcome, want).into_iter().chain(missing).collect()
        }
        Check::Json => match serde_json::from_str::<serde_json::Map<_, _>>(&outcome.stdout) {
            Ok(_) => status_faults(outcome, &[0, 1]),
            Err(error) => vec![format!("standard output is no JSON object: {error}")],
        },
        Check::Output { want } if outcome.stdout == *want => status_faults(outcome, &[0]),
        Check::Output { want } => vec![format!("standard output is not {want:?}")],
        Check::Recorded => Vec::new(),
    }
}

fn status_faults(outcome: &Outcome, want: &[i32]) -> Vec<String> {
    if want.contains(&outcome.status) { Vec::new() } else { vec![format!("status {}, not {want:?}", outcome.status)] }
}

/// The probe, which `cargo test` builds as an example next to guard.
fn probe() -> PathBuf {
    let guard = Path::new(env!("CARGO_BIN_EXE_guard"));
    let probe = guard.parent().expect("guard lies in a directory").join("examples/probe");
    assert!(probe.is_file(), "{} is missing; run cargo build --examples", probe.display());
    probe
}

/// The file system of the machine: a merged /usr as on Debian, two users with the same files, the cases.
fn initramfs(kernel: &Kernel, rootfs: &[Phase], tmpfs: &[Phase]) -> Vec<u8> {
    let mut archive = Initramfs::new();
    for directory in ["usr", "usr/bin", "usr/lib", "usr/lib64", "usr/local", "usr/local/bin", "etc", "run", "run/ana"] {
        archive.directory(directory, 0o755, 0);
    }
    for directory in ["run/outside", "opt", "var", "home", "phases", "phases/rootfs", "phases/tmpfs"] {
        archive.directory(directory, 0o755, 0);
    }
    for directory in ["tmp", "var/tmp"] {
        archive.directory(directory, 0o1777, 0);
    }
    for (link, target) in [("bin", "usr/bin"), ("sbin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        archive.symlink(link, target);
    }
    let busybox = Path::new("/bin/busybox");
    assert!(busybox.is_file(), "busybox is missing; run tests/setup/kernels.sh or install busybox-static");
    archive
        .copy("usr/bin/busybox", 0o755, busybox)
        .copy("usr/local/bin/guard", 0o755, Path::new(env!("CARGO_BIN_EXE_guard")))
        .copy("usr/local/bin/guard-probe", 0o755, &probe())
        .copy("overlay.ko", 0o644, &kernel.overlay)
        .file("usr/local/bin/facts", 0o755, 0, include_bytes!("kernels/facts.sh"))
        .file("init", 0o755, 0, include_bytes!("kernels/init.sh"))
        .file("etc/passwd", 0o644, 0, b"root:x:0:0:root:/root:/bin/sh\nana:x:4242:4242:Ana:/home/ana:/bin/sh\n")
        .file("etc/group", 0o644, 0, b"root:x:0:\nana:x:4242:\n")
        .file("etc/hosts", 0o644, 0, b"127.0.0.1 localhost\n");
    for (home, owner) in [("root", 0), ("home/ana", ANA)] {
        archive.directory(home, 0o700, owner);
        for directory in [".ssh", ".cargo", ".cargo/registry", "project", "other"] {
            archive.directory(&format!("{home}/{directory}"), 0o700, owner);
        }
        archive
            .file(&format!("{home}/.ssh/id_ed25519"), 0o600, owner, format!("{CANARY}\n").as_bytes())
            .file(&format!("{home}/.profile"), 0o644, owner, b"# nothing yet\n")
            .file(&format!("{home}/other/notes"), 0o644, owner, b"notes of another project\n")
            .file(&format!("{home}/other/ledger"), 0o644, owner, b"an entry\n")
            .file(&format!("{home}/.cargo/registry/cached"), 0o644, owner, b"a crate\n")
            .file(&format!("{home}/project/Cargo.toml"), 0o644, owner, b"[workspace]\n")
            .file(&format!("{home}/project/README"), 0o644, owner, b"a project\n");
    }
    for (root, phases) in [("rootfs", rootfs), ("tmpfs", tmpfs)] {
        for (number, phase) in phases.iter().enumerate() {
            let directory = format!("phases/{root}/{number:02}-{}", phase.name);
            archive.directory(&directory, 0o755, 0);
            archive.file(&format!("{directory}/setup.sh"), 0o644, 0, format!("{}\n", phase.setup).as_bytes());
            for (number, case) in phase.cases.iter().enumerate() {
                let path = format!("{directory}/{number:02}-{}.{}.sh", case.name, case.user.suffix());
                archive.file(&path, 0o644, 0, format!("{}\n", case.script).as_bytes());
            }
        }
    }
    archive.finish()
}

/// Boots one machine and compares every case with its table.
fn check(version: &str, command_line: &str, landlock: Landlock, (rootfs, tmpfs): (Vec<Phase>, Vec<Phase>)) {
    let kernel = Kernel::find(version);
    let report = qemu::boot(&kernel, &initramfs(&kernel, &rootfs, &tmpfs), command_line);
    let (mut count, mut wrong) = (0, String::new());
    for phase in rootfs.iter().chain(&tmpfs) {
        for case in &phase.cases {
            count += 1;
            let outcome = report.case(&case.id(phase));
            let mut faults = faults(case, outcome, &report, landlock);
            // No case under guard ever shows the key, whatever else it does.
            if case.script.contains("guard ") && format!("{}{}", outcome.stdout, outcome.stderr).contains(CANARY) {
                faults.push("the private key came out".to_owned());
            }
            if !faults.is_empty() {
                let (id, Outcome { status, stdout, stderr }) = (case.id(phase), outcome);
                write!(wrong, "\n== {id}: {}\n-- {}\n-- status {status}\n", faults.join("; "), case.script)
                    .and_then(|()| write!(wrong, "-- stdout\n{stdout}-- stderr\n{stderr}"))
                    .expect("writing to a String cannot fail");
            }
        }
        let left = ["before", "after"].map(|name| &report.case(&format!("{}/{name}.host", phase.name)).stdout);
        if left[0] != left[1] {
            write!(wrong, "\n== {}: other processes or mounts after it: {left:?}\n", phase.name)
                .expect("writing to a String cannot fail");
        }
    }
    assert_eq!(report.cases().count(), count, "the machine ran cases that are in no table");
    println!("Linux {version} {command_line}: {count} cases in {:.1} s", report.took.as_secs_f32());
    assert!(wrong.is_empty(), "Linux {version} {command_line}: not as expected:\n{wrong}");
}

/// Debian's default order of security modules without Landlock.
const LSM: &str = "lsm=lockdown,capability,yama,apparmor,tomoyo,bpf";

#[test]
fn linux_6_1() {
    check("6.1", "", Landlock::Abi(2), with_landlock(2));
}

#[test]
fn linux_6_1_without_landlock() {
    check("6.1", LSM, Landlock::Off, without_landlock());
}

#[test]
fn linux_6_12() {
    check("6.12", "", Landlock::Abi(6), with_landlock(6));
}

#[test]
fn linux_6_12_without_landlock() {
    check("6.12", LSM, Landlock::Off, without_landlock());
}
