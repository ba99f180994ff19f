//! `guard why` against the kernel: hundreds of paths, each act on each, what the verdict says and what the system
//! calls inside answer. Any difference is a bug of the first rank.
//!
//! Half of the paths are a fixed list, the other half is drawn from a seed, which a failure prints; set
//! `GUARD_TEST_SEED` to draw the same again. Left out is what `src/plan/verdict.rs` names as its limits: access
//! control lists, what a program inside has made, process directories in `/proc`. `/dev/tty` answers by whether there
//! is a terminal.

mod support;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use support::{Output, User, World};

const TIERS: [&str; 2] = ["full", "landlock"];

/// Paths that the command itself is asked about, for each tier and user.
const SAMPLES: usize = 8;

/// The user's own rules, beside those of the profile.
const CONFIG: &str = r#"
[fs]
read = ["~/shared", "~/link-to-shared2", "~/lonely.txt"]
write = ["~/out", "~/out/kept/again"]
overlay = ["~/cache"]
state = ["~/made-by-guard"]
deny = ["~/shared/private", "$PROJECT/secret", "$PROJECT/secret.txt", "~/cache/token"]
mask = ["$PROJECT/masked.txt", "$PROJECT/masked", "~/shared/masked"]
protect = ["$PROJECT/Makefile", "$PROJECT/later", "~/out/kept"]
"#;

/// SplitMix64: small, and the same everywhere.
struct Seed(u64);

impl Seed {
    fn new() -> Seed {
        let given = std::env::var("GUARD_TEST_SEED").ok().and_then(|text| text.parse().ok());
        Seed(given.unwrap_or_else(|| {
            let mut bytes = [0; 8];
            std::io::Read::read_exact(&mut fs::File::open("/dev/urandom").unwrap(), &mut bytes).unwrap();
            u64::from_ne_bytes(bytes)
        }))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// A home, a project and a machine with everything in them that a verdict can depend on.
struct Fixture {
    world: World,
    user: User,
    project: PathBuf,
    paths: Vec<PathBuf>,
    listeners: Vec<UnixListener>,
}

impl Fixture {
    fn new(user: User) -> Fixture {
        let world = World::new();
        let project = user.path("src/app");
        let mut fixture = Fixture { world, user, project, paths: Vec::new(), listeners: Vec::new() };
        fixture.home();
        fixture.project();
        fixture.links();
        fixture.sockets();
        fixture.machine();
        fixture
    }

    fn host(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.world.host_path(inside)
    }

    fn file(&mut self, path: impl AsRef<Path>, mode: u32) -> PathBuf {
        let inside = self.world.write(self.user, path, "text\n");
        self.mode(&inside, mode);
        self.paths.push(inside.clone());
        inside
    }

    fn mode(&self, inside: &Path, mode: u32) {
        fs::set_permissions(self.host(inside), PermissionsExt::from_mode(mode)).unwrap();
    }

    fn link(&mut self, target: impl AsRef<Path>, path: impl AsRef<Path>) -> PathBuf {
        let inside = self.world.symlink(self.user, target, path);
        self.paths.push(inside.clone());
        inside
    }

    fn in_project(&self, path: &str) -> PathBuf {
        self.project.join(path)
    }

    fn home(&mut self) {
        for path in [
            ".ssh/id_ed25519",
            ".bashrc",
            ".gitconfig",
            ".config/git/config",
            ".config/git/credentials",
            ".config/guard/config.toml",
            ".local/share/guard/homes/other/.netrc",
            ".cargo/registry/index/x",
            ".cargo/credentials.toml",
            ".claude/settings.json",
            ".claude/sessions/1.json",
            ".claude/ide/port",
            ".claude/commands/deploy.md",
            ".inputrc",
            "src/other/notes.txt",
            "src/.env",
            "shared/notes.txt",
            "shared/private/diary.txt",
            "shared/masked/x",
            "shared2/x",
            "lonely.txt",
            "out/new.txt",
            "out/kept/x",
            "out/kept/again/x",
            "cache/a/b",
            "cache/token",
            "Documents/plan.txt",
        ] {
            self.file(path, 0o644);
            let parent = self.user.path(path).parent().unwrap().to_owned();
            self.paths.push(parent);
        }
        self.world.write(self.user, ".config/guard/config.toml", CONFIG);
        self.file(".local/bin/tool", 0o755);
        self.file("shared/tool", 0o755);
        self.file("shared/unreadable", 0o000);
        self.link("shared2", "link-to-shared2");
        self.link(".bashrc", "shared/rc");
        self.link("../Documents", "shared/documents");
        for path in ["", "new", "new/below", ".config", ".claude.json", ".cache", "made-by-guard/new", "made-by-guard"]
        {
            self.paths.push(self.user.path(path));
        }
    }

    fn project(&mut self) {
        for (path, mode) in [
            (".git/HEAD", 0o644),
            (".git/config", 0o644),
            (".git/hooks/pre-commit", 0o755),
            ("README.md", 0o644),
            ("Makefile", 0o644),
            ("Cargo.toml", 0o644),
            (".envrc", 0o644),
            (".vscode/tasks.json", 0o644),
            (".claude/settings.json", 0o644),
            ("secret.txt", 0o644),
            ("secret/x", 0o644),
            ("masked.txt", 0o644),
            ("masked/x", 0o644),
            ("src/main.rs", 0o644),
            ("run.sh", 0o755),
            ("no-execute.sh", 0o644),
            ("setuid", 0o4755),
            ("modes/nothing", 0o000),
            ("modes/write-only", 0o200),
            ("modes/read-only", 0o444),
            ("modes/execute-only", 0o111),
            ("modes/others-only", 0o007),
            ("modes/group-only", 0o070),
            ("closed/x", 0o644),
            ("list-only/x", 0o644),
            ("pass-only/x", 0o644),
            ("fixed/x", 0o644),
            ("with space", 0o644),
            ("new\nline", 0o644),
            ("quote'\"$(x)", 0o755),
            ("-dash", 0o644),
            ("\u{1f512} locked", 0o644),
            ("..dots", 0o644),
            ("deep/er/and/deep/er/still", 0o644),
        ] {
            self.file(self.in_project(path), mode);
        }
        let odd = self.project.join(OsStr::from_bytes(b"caf\xe9"));
        self.file(odd, 0o644);
        for (path, mode) in [("closed", 0o000), ("list-only", 0o444), ("pass-only", 0o111), ("fixed", 0o555)] {
            let path = self.in_project(path);
            self.mode(&path, mode);
            self.paths.push(path.join("new"));
            self.paths.push(path);
        }
        // Somebody else's, in the middle of the project.
        let other = if self.user == User::Root { User::Ana } else { User::Root };
        for (path, mode) in [("theirs", 0o600), ("theirs-open", 0o644), ("theirs-wide", 0o666), ("theirs-run", 0o755)] {
            let inside = self.file(self.in_project(path), mode);
            chown(self.host(&inside), Some(other.uid()), Some(other.uid())).unwrap();
        }
        for path in
            ["", ".git", ".git/hooks", ".git/new", "later", ".mcp.json", "modes", "none/new", "README.md/below", "src"]
        {
            self.paths.push(self.in_project(path));
        }
    }

    fn links(&mut self) {
        let (home, project) = (self.user.path(""), self.project.clone());
        for (target, name) in [
            (PathBuf::from("README.md"), "relative"),
            (project.join("README.md"), "absolute"),
            ("chain2".into(), "chain1"),
            ("chain3".into(), "chain2"),
            ("run.sh".into(), "chain3"),
            ("loop2".into(), "loop1"),
            ("loop1".into(), "loop2"),
            ("self".into(), "self"),
            ("src".into(), "to-dir"),
            ("to-dir/main.rs".into(), "through-dir"),
            ("src/../README.md".into(), "up-and-down"),
            ("to-dir/../README.md".into(), "up-from-link"),
            ("nowhere".into(), "dangling"),
            ("none/nowhere".into(), "dangling-deep"),
            ("/nowhere".into(), "dangling-root"),
            (home.join("new-by-link"), "dangling-home"),
            (home.join(".ssh/id_ed25519"), "to-key"),
            (home.join(".ssh"), "to-keys"),
            (home.join(".bashrc"), "to-rc"),
            (home.join("shared/notes.txt"), "to-shared"),
            (home.join("shared/private"), "to-private"),
            ("../other/notes.txt".into(), "to-other"),
            ("..".into(), "to-above"),
            (".".into(), "to-here"),
            ("/".into(), "to-root"),
            ("/etc/passwd".into(), "to-passwd"),
            ("/etc/shadow".into(), "to-shadow"),
            ("/bin/sh".into(), "to-sh"),
            ("/tmp".into(), "to-tmp"),
            ("/tmp/new".into(), "to-tmp-new"),
            ("/dev/null".into(), "to-null"),
            ("secret.txt".into(), "to-secret"),
            ("masked".into(), "to-masked"),
            ("closed/x".into(), "to-closed"),
            ("Makefile".into(), "to-protected"),
            (".git/config".into(), "to-git-config"),
        ] {
            self.link(target, project.join(name));
        }
        // One more than the kernel follows, and many. Not just as many: its count goes on when it walks a second time
        // (path_openat does not reset total_link_count), so that the last one fails now and then.
        for number in 0..41 {
            let target = if number == 0 { "README.md".to_owned() } else { format!("long{}", number - 1) };
            let link = self.world.symlink(self.user, target, project.join(format!("long{number}")));
            if number == 12 || number == 40 {
                self.paths.push(link);
            }
        }
        for below in
            ["to-dir/main.rs", "to-dir/new", "to-above/other/notes.txt", "to-root/etc/passwd", "to-here/run.sh"]
        {
            self.paths.push(project.join(below));
        }
    }

    fn sockets(&mut self) {
        let runtime = format!("/run/user/{}", self.user.uid());
        for path in [
            self.in_project("socket"),
            self.in_project("socket-closed"),
            self.in_project("secret/socket"),
            self.user.path("shared/socket"),
            self.user.path("cache/socket"),
            self.user.path("Documents/socket"),
            self.user.path(".claude/socket"),
            "/tmp/socket".into(),
            Path::new(&runtime).join("bus"),
            "/run/docker.sock".into(),
        ] {
            let host = self.host(&path);
            self.listeners.push(UnixListener::bind(&host).unwrap());
            chown(&host, Some(self.user.uid()), Some(self.user.uid())).unwrap();
            let mode = if path.ends_with("socket-closed") { 0o000 } else { 0o700 };
            self.mode(&path, mode);
            self.paths.push(path);
        }
        for path in [self.in_project("fifo"), self.user.path("shared/fifo"), self.user.path("Documents/fifo")] {
            let host = self.host(&path);
            nix::unistd::mkfifo(&host, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
            chown(&host, Some(self.user.uid()), Some(self.user.uid())).unwrap();
            self.paths.push(path);
        }
        self.link("socket", self.in_project("to-socket"));
        self.link("/run/docker.sock", self.in_project("to-docker"));
        self.link("fifo", self.in_project("to-fifo"));
    }

    fn machine(&mut self) {
        for path in ["/tmp/left.txt", "/var/tmp/left.txt", "/dev/shm/left", "/run/left"] {
            self.file(path, 0o644);
        }
        self.world.write(User::Root, "/etc/shadow", "root:*\n");
        let machine = "/ /bin /bin/sh /boot /dev /dev/console /dev/fd /dev/full /dev/kmsg /dev/mem /dev/new /dev/null \
             /dev/ptmx /dev/pts /dev/pts/0 /dev/pts/ptmx /dev/random /dev/shm /dev/shm/new /dev/urandom \
             /dev/zero /etc /etc/environment /etc/group /etc/hosts /etc/new /etc/passwd /etc/shadow /etc/ssh \
             /etc/ssl/certs /home /home/ana /home/new /lib /lib64 /lib64/ld-linux-x86-64.so.2 /mnt /new \
             /new/below /opt /opt/new /proc /proc/cmdline /proc/cpuinfo /proc/filesystems /proc/kallsyms \
             /proc/kcore /proc/keys /proc/kmsg /proc/meminfo /proc/new /proc/sys /proc/sys/kernel/core_pattern \
             /proc/sys/kernel/hostname /proc/sys/vm/drop_caches /proc/sysrq-trigger /proc/sys/new \
             /proc/timer_list /proc/uptime /proc/version /proc/irq /proc/fs /root /root/.bashrc /run \
             /run/guard /run/guard/canary /run/guard/shared /run/new /run/user /sbin /srv /sys /sys/class \
             /sys/devices /sys/devices/system/cpu /sys/devices/system/cpu/online /sys/fs/cgroup /sys/kernel \
             /tmp /tmp/new /tmp/new/below /usr /usr/bin /usr/bin/env /usr/bin/new /usr/bin/passwd \
             /usr/lib/os-release /usr/local/bin/guard /usr/sbin /var /var/lib /var/lib/dpkg/status /var/log \
             /var/tmp /var/tmp/new";
        self.paths.extend(machine.split(' ').map(PathBuf::from));
        self.paths.push(format!("/run/user/{}", self.user.uid()).into());
        self.paths.push(format!("/run/user/{}/new", self.user.uid()).into());
    }

    /// More of everything, at random: a tree of odd modes in the project, links from anywhere to anywhere, and known
    /// paths spelled or continued in other ways.
    fn draw(&mut self, seed: &mut Seed, count: usize) {
        let known = self.paths.clone();
        let mut dirs = vec![self.in_project("drawn"), self.user.path("shared/drawn"), self.user.path("out/drawn")];
        for dir in &dirs {
            self.world.mkdir(self.user, dir);
        }
        let mut modes: Vec<(PathBuf, u32)> = Vec::new();
        for number in 0..count {
            let parent = seed.pick(&dirs).clone();
            let path = parent.join(format!("{number}"));
            match seed.below(6) {
                0 => {
                    self.world.mkdir(self.user, &path);
                    dirs.push(path.clone());
                    if seed.below(3) == 0 {
                        modes.push((path.clone(), *seed.pick(&[0o000, 0o100, 0o300, 0o400, 0o500, 0o600, 0o070])));
                    }
                }
                1 => {
                    self.world.write(self.user, &path, "text\n");
                    modes.push((path.clone(), u32::try_from(seed.below(0o1000)).unwrap()));
                }
                2 | 3 => {
                    let target = seed.pick(&known).clone();
                    self.world.symlink(self.user, &target, &path);
                }
                4 => {
                    let target = ["..", ".", "../..", "0", "1", "../1/2", "2/../3", "./4"][seed.below(8)];
                    self.world.symlink(self.user, target, &path);
                }
                _ => {
                    let target = seed.pick(&known).clone();
                    let name = *seed.pick(&["new", "x", ".", "new/below", "0", "README.md"]);
                    self.paths.push(target.join(name));
                    continue;
                }
            }
            self.paths.push(path.clone());
            if seed.below(4) == 0 {
                self.paths.push(path.join(*seed.pick(&["new", "x", "1"])));
            }
        }
        for (path, mode) in modes {
            self.mode(&path, mode);
        }
    }

    /// For a message: where the links of a path in the world lead.
    fn leads_to(&self, path: &Path) -> String {
        let mut at = path.to_owned();
        let mut words = String::new();
        while ["/home", "/root"].iter().any(|top| at.starts_with(top))
            && words.len() < 300
            && let Ok(target) = fs::read_link(self.host(&at))
        {
            at = at.parent().expect("below a home").join(target);
            let _ = write!(words, " -> {at:?}");
            if at.components().any(|part| part == std::path::Component::ParentDir) {
                break;
            }
        }
        words
    }

    /// The paths that a verdict is promised for.
    fn list(&self) -> Vec<PathBuf> {
        let mut paths = self.paths.clone();
        paths.retain(|path| !path.starts_with("/proc/self") && path != Path::new("/dev/tty"));
        paths.sort();
        paths.dedup();
        paths
    }

    /// One line a path, from inside or from `guard why`.
    fn ask(&self, list: &[PathBuf], tier: &str, inside: bool) -> Vec<String> {
        let bytes: Vec<u8> = list.iter().flat_map(|path| [path.as_os_str().as_bytes(), b"\0"].concat()).collect();
        let run = self.world.run(self.user).cwd(&self.project).stdin(bytes);
        let run = if inside {
            run.guard(["run", "--profile", "claude", "--tier", tier]).probe(["paths"])
        } else {
            run.probe(["why-all", "claude", tier, "/usr/local/bin/guard-probe"])
        };
        let output = run.output().success();
        let text = output.stdout();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        assert_eq!(lines.pop().as_deref().map(str::trim), Some("ok"), "{}", output.report());
        assert_eq!(lines.len(), list.len(), "{}", output.report());
        lines
    }
}

/// `act=word` pairs of a line of [`Fixture::ask`], with what was said about each.
fn answers(line: &str) -> BTreeMap<String, (String, String)> {
    let fields: Vec<&str> = if line.contains('\t') { line.split('\t').collect() } else { line.split(' ').collect() };
    let mut found = BTreeMap::new();
    for (index, field) in fields.iter().enumerate() {
        if let Some((act, word)) = field.split_once('=')
            && ["read", "write", "exec", "connect"].contains(&act)
        {
            let said = fields.get(index + 1).copied().unwrap_or_default().trim();
            found.insert(act.to_owned(), (word.to_owned(), said.to_owned()));
        }
    }
    found
}

fn compare(user: User) {
    let mut seed = Seed::new();
    let drawn_from = seed.0;
    let mut fixture = Fixture::new(user);
    fixture.draw(&mut seed, 120);
    let list = fixture.list();
    let mut differences = String::new();
    let mut count = 0;
    for tier in TIERS {
        let said = fixture.ask(&list, tier, false);
        let done = fixture.ask(&list, tier, true);
        // What is compared is the library's answer; the command's own is the same one.
        for _ in 0..SAMPLES {
            let index = seed.below(list.len());
            for (act, (verdict, reason)) in &answers(&said[index]) {
                let why = ["why", "--profile", "claude", "--tier", tier, act].map(OsStr::new);
                let why = why.into_iter().chain([list[index].as_os_str()]);
                let why = fixture.world.run(user).cwd(&fixture.project).guard(why);
                let output = why.cmd(["/usr/local/bin/guard-probe"]).output();
                let code = i32::from(verdict != "ok");
                let words = output.stdout().replace(['\n', '\t'], " ").contains(reason);
                assert!(output.code() == code && words, "expected {code} and {reason:?}\n{}", output.report());
            }
        }
        for ((path, said), done) in list.iter().zip(&said).zip(&done) {
            let (said, done) = (answers(said), answers(done));
            assert_eq!((said.len(), done.len()), (4, 4), "{}: {said:?} {done:?}", path.display());
            for (act, (verdict, reason)) in &said {
                let kernel = &done[act].0;
                count += 1;
                if (verdict == "ok") != (kernel == "ok") || verdict == "error" {
                    let link = fixture.leads_to(path);
                    let words = format!("the kernel says {kernel}; guard says {reason}");
                    let _ = writeln!(differences, "{tier} {act} {path:?}{link}: {words}");
                }
            }
        }
    }
    println!("{count} verdicts compared for {}", user.name());
    assert!(
        differences.is_empty(),
        "as {}, with GUARD_TEST_SEED={drawn_from}, {} of {count} verdicts differ:\n{differences}",
        user.name(),
        differences.lines().count()
    );
}

#[test]
fn the_kernel_does_what_why_says_for_an_ordinary_user() {
    compare(User::Ana);
}

#[test]
fn the_kernel_does_what_why_says_for_root() {
    compare(User::Root);
}

/// Variables: what is there inside, and what `guard why env` says of each one set outside.
#[test]
fn variables_are_there_when_why_says_so() {
    let world = World::new();
    let user = User::Ana;
    let project = world.project(user, "app");
    // Made up here, and shaped like nobody's: the values decide about some names.
    let token = ["ghp", &"0123456789abcdefghijklmnopqrstuvwxyz".replace('0', "A")].join("_");
    let url = format!("https://ana:{}@proxy.example.org:8080", &token[10..30]);
    let vars: Vec<(OsString, OsString)> = [
        ("EDITOR", "vi"),
        ("LC_TIME", "C"),
        ("COLORTERM", "truecolor"),
        ("UNKNOWN_NAME", "1"),
        ("AWS_SECRET_ACCESS_KEY", &token),
        ("GITHUB_TOKEN", &token),
        ("PAGER", &token),
        ("HTTPS_PROXY", &url),
        ("http_proxy", "http://proxy.example.org:8080"),
        ("ANTHROPIC_API_KEY", &token),
        ("LD_PRELOAD", ""),
        ("BASH_ENV", "/tmp/x"),
        ("SSH_AUTH_SOCK", "/tmp/agent"),
        ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/x"),
        ("TMUX", "/tmp/tmux,1,0"),
        ("GUARD", "0"),
        ("GUARD_TIER", "none"),
        ("SANDBOX", "no"),
        ("TMPDIR", "/nowhere"),
        ("XDG_CONFIG_HOME", "/home/ana/.config"),
        ("XDG_RUNTIME_DIR", "/run/user/4242"),
        ("OLDPWD", "/"),
        ("PWD", "/nowhere"),
        ("GIT_AUTHOR_NAME", "Ana"),
        ("NODE_OPTIONS", "--require=/tmp/x"),
        ("PYTHONPATH", "/tmp"),
        ("EMPTY", ""),
        ("lower_case", "1"),
        ("WITH-DASH", "1"),
        ("BASH_FUNC_x%%", "() { :; }"),
        ("DEBUG", "a\nb"),
    ]
    .iter()
    .map(|(name, value)| (OsString::from(name), OsString::from(value)))
    .chain([
        (OsString::from_vec(b"NOT_UTF8_\xff".to_vec()), "1".into()),
        ("LANGUAGE".into(), OsString::from_vec(b"caf\xe9".to_vec())),
    ])
    .collect();
    for tier in TIERS {
        for flags in [&[][..], &["--profile", "claude"], &["--env", "GITHUB_TOKEN"]] {
            let ask = |word: &str| {
                let args = [&[word, "--tier", tier], flags].concat();
                world.run(user).cwd(&project).envs(vars.clone()).guard(args)
            };
            let output = ask("run").probe(["print-env"]).output().success();
            let inside: BTreeMap<&[u8], &[u8]> = output
                .stdout
                .split(|byte| *byte == 0)
                .filter_map(|pair| {
                    let at = pair.iter().position(|byte| *byte == b'=')?;
                    Some((&pair[..at], &pair[at + 1..]))
                })
                .collect();
            let outside = world.run(user).cwd(&project).envs(vars.clone()).probe(["print-env"]).output().success();
            let mut names: Vec<OsString> = inside
                .keys()
                .map(|name| OsStr::from_bytes(name).to_owned())
                .filter(|name| !name.as_bytes().starts_with(b"ok "))
                .collect();
            names.extend(vars.iter().map(|(name, _)| name.clone()));
            names.extend(["HOME", "PATH", "USER", "SHLVL", "NOT_SET_ANYWHERE"].map(OsString::from));
            names.sort();
            names.dedup();
            for name in names {
                let args = [OsStr::new("why"), "--tier".as_ref(), tier.as_ref()].map(OsStr::to_owned);
                let args = args.into_iter().chain(flags.iter().map(Into::into));
                let args = args.chain([OsString::from("env"), name.clone()]);
                let why = world.run(user).cwd(&project).envs(vars.clone()).guard(args).output();
                let allowed = why.code() == 0;
                let there = inside.contains_key(name.as_bytes());
                assert!(
                    allowed == there && (why.code() == 0 || why.code() == 1),
                    "{tier} {flags:?} {name:?}: inside {there}, why says {}\n{}",
                    why.code(),
                    why.report()
                );
                assert!(!why.mentions(&token) && !why.mentions(&url), "a value is printed\n{}", why.report());
            }
            drop(outside);
        }
    }
}

/// Connections that are no paths: abstract sockets and addresses.
#[test]
fn connections_go_where_why_says() {
    let world = World::new();
    let user = User::Ana;
    let project = world.project(user, "app");
    let name = world.id();
    let mut server = world.run(user).probe(["serve-abstract", &name, "hello"]).spawn();
    server.wait_for("ready");
    let mut tcp = world.run(user).probe(["serve-tcp", "127.0.0.1:0", "hello"]).spawn();
    let port = tcp.wait_for("ready").split_whitespace().nth(1).unwrap().to_owned();
    let port = port.rsplit(':').next().unwrap().to_owned();
    let address = format!("127.0.0.1:{port}");
    for tier in TIERS {
        for network in ["open", "none"] {
            for (target, act) in
                [(format!("@{name}"), vec!["abstract-stream", &name]), (address.clone(), vec!["tcp", &address])]
            {
                let flags = ["--tier", tier, "--network", network];
                let run = || world.run(user).cwd(&project);
                let why: Output = run().guard([&["why"], &flags[..], &["connect", &target]].concat()).output();
                let done = run().guard([&["run"], &flags[..]].concat()).probe(&act).output();
                assert!(
                    (why.code() == 0) == (done.code() == 0) && why.code() < 2 && done.code() < 2,
                    "{flags:?} {target}\n{}\n{}",
                    why.report(),
                    done.report()
                );
            }
        }
    }
}
