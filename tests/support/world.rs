//! The outside world of one test: a directory below `/var/tmp` whose parts are mounted over `/home`, `/root`,
//! `/tmp`, `/var/tmp`, `/run`, `/dev/shm`, `/etc` and `/usr/local/bin` for every command run in it.
//!
//! The mounts are made by the probe (`guard-probe world …`, see `tests/probe/world.rs`), in a mount namespace
//! that is private to each command. The files are shared, so a socket that one command makes is there for the
//! next. Making the mounts needs root; there is no other way to have two users in one test.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use super::run::Run;
use super::tools;

/// The users of a world. Both have a home, a login shell and an entry in `/etc/passwd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum User {
    /// An ordinary user, uid and gid 4242, home `/home/ana`.
    Ana,
    /// uid 0 with every capability the test itself has, home `/root`.
    Root,
}

impl User {
    /// Both of them, for tables that run once for each.
    pub const ALL: [User; 2] = [User::Ana, User::Root];

    /// The numeric user id, which is the group id too.
    pub fn uid(self) -> u32 {
        match self {
            User::Ana => 4242,
            User::Root => 0,
        }
    }

    /// The login name.
    pub fn name(self) -> &'static str {
        match self {
            User::Ana => "ana",
            User::Root => "root",
        }
    }

    /// The home directory as the user sees it.
    pub fn home(self) -> &'static str {
        match self {
            User::Ana => "/home/ana",
            User::Root => "/root",
        }
    }

    /// `path` itself when it is absolute, else `path` below the user's home.
    pub fn path(self, path: impl AsRef<Path>) -> PathBuf {
        Path::new(self.home()).join(path)
    }
}

/// What is mounted over what: a directory of the world, and the place the commands see it at.
const PLACES: [(&str, &str); 8] = [
    ("home", "/home"),
    ("root", "/root"),
    ("tmp", "/tmp"),
    ("var-tmp", "/var/tmp"),
    ("run", "/run"),
    ("shm", "/dev/shm"),
    ("etc", "/etc"),
    ("bin", "/usr/local/bin"),
];

/// A hermetic outside. Dropping it kills every process that still lives in it and removes its files.
pub struct World {
    dir: tempfile::TempDir,
    binds: Vec<(PathBuf, PathBuf)>,
}

impl World {
    /// A fresh world: empty homes, empty `/tmp`, `/run/user/UID` for each user, guard and the probe in
    /// `/usr/local/bin`, the machine's own `/usr` and the rest of its `/etc`.
    ///
    /// # Panics
    /// When the test does not run as root, or the probe has not been built.
    pub fn new() -> World {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests build a private world out of mounts: run them as root, for example in a container"
        );
        let dir = tempfile::Builder::new().prefix("guard-world-").tempdir_in("/var/tmp").unwrap();
        let world = World { dir, binds: Vec::new() };
        set_mode(world.dir(), 0o755);
        for (sub, place) in PLACES {
            let path = world.dir().join(sub);
            fs::create_dir(&path).unwrap();
            let mode = match place {
                "/root" => 0o700,
                "/tmp" | "/var/tmp" | "/dev/shm" => 0o1777,
                _ => 0o755,
            };
            set_mode(&path, mode);
        }
        for user in User::ALL {
            world.make_home(user);
        }
        world.make_etc();
        world.make_bin();
        world
    }

    /// The world's directory on the machine. Inside the world it is not visible.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The name no other world has; good for abstract sockets and other things without a directory.
    pub fn id(&self) -> String {
        self.dir().file_name().unwrap().to_str().unwrap().to_owned()
    }

    /// The user's home as commands in the world see it.
    pub fn home(&self, user: User) -> PathBuf {
        PathBuf::from(user.home())
    }

    /// Where the test finds what commands in the world see at `inside`.
    ///
    /// # Panics
    /// When `inside` is relative, contains `..`, or is not in one of the world's own places.
    pub fn host_path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        assert!(
            inside.is_absolute() && !inside.components().any(|part| part == Component::ParentDir),
            "{} is not a plain absolute path",
            inside.display()
        );
        for (sub, place) in PLACES {
            if let Ok(rest) = inside.strip_prefix(place) {
                return self.dir().join(sub).join(rest);
            }
        }
        panic!("{} is the machine's, not the world's", inside.display());
    }

    /// Writes a file as `user`: its parents are made, file and new parents belong to the user. A relative path is
    /// below the user's home. Gives the path as the world sees it.
    pub fn write(&self, user: User, path: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> PathBuf {
        let inside = user.path(path);
        self.mkdir(user, inside.parent().unwrap());
        let host = self.host_path(&inside);
        fs::write(&host, contents).unwrap_or_else(|error| panic!("cannot write {}: {error}", host.display()));
        chown(&host, Some(user.uid()), Some(user.uid())).unwrap();
        inside
    }

    /// Like [`World::write`], and makes the file executable.
    pub fn write_script(&self, user: User, path: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> PathBuf {
        let inside = self.write(user, path, contents);
        set_mode(&self.host_path(&inside), 0o755);
        inside
    }

    /// Makes a directory and its parents as `user`; what exists stays as it is.
    pub fn mkdir(&self, user: User, path: impl AsRef<Path>) -> PathBuf {
        let inside = user.path(path);
        let host = self.host_path(&inside);
        if !host.is_dir() {
            if let Some(parent) = inside.parent()
                && !self.host_path(parent).is_dir()
            {
                self.mkdir(user, parent);
            }
            fs::create_dir(&host).unwrap_or_else(|error| panic!("cannot make {}: {error}", host.display()));
            chown(&host, Some(user.uid()), Some(user.uid())).unwrap();
        }
        inside
    }

    /// Makes a symbolic link at `path` that says `target`.
    pub fn symlink(&self, user: User, target: impl AsRef<Path>, path: impl AsRef<Path>) -> PathBuf {
        let inside = user.path(path);
        self.mkdir(user, inside.parent().unwrap());
        let host = self.host_path(&inside);
        std::os::unix::fs::symlink(target, &host).unwrap();
        std::os::unix::fs::lchown(&host, Some(user.uid()), Some(user.uid())).unwrap();
        inside
    }

    /// The file's bytes, as text.
    pub fn read(&self, inside: impl AsRef<Path>) -> String {
        let host = self.host_path(inside);
        let bytes = fs::read(&host).unwrap_or_else(|error| panic!("cannot read {}: {error}", host.display()));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether anything, also a dangling link, is at `inside`.
    pub fn exists(&self, inside: impl AsRef<Path>) -> bool {
        self.host_path(inside).symlink_metadata().is_ok()
    }

    /// A git repository `~/src/NAME` with an identity and one commit (`README.md`). Gives its path.
    pub fn project(&self, user: User, name: &str) -> PathBuf {
        let dir = user.path("src").join(name);
        self.write(user, dir.join("README.md"), format!("# {name}\n"));
        let script = "git init -q -b main . && git config user.name Ana && git config user.email ana@example.org \
                      && git add -A && git commit -q -m first";
        self.run(user).cwd(&dir).sh(script).output().success();
        dir
    }

    /// Shows the machine's `source` at `place`, which must lie in one of the world's own places, to every command
    /// run from now on. For toolchains; the tree stays what it is, so nothing in it should be writable by `ana`.
    pub fn bind(&mut self, source: impl Into<PathBuf>, place: impl Into<PathBuf>) {
        let (source, place) = (source.into(), place.into());
        let host = self.host_path(&place);
        if source.is_dir() {
            let owner = if place.starts_with("/home/ana") { User::Ana } else { User::Root };
            self.mkdir(owner, &place);
        } else if !host.exists() {
            let owner = if place.starts_with("/home/ana") { User::Ana } else { User::Root };
            self.write(owner, &place, "");
        }
        self.binds.push((source, place));
    }

    /// A command to be run as `user`, at first in the user's home and outside guard.
    pub fn run(&self, user: User) -> Run<'_> {
        Run::new(self, user)
    }

    /// The part of the command line that enters the world: program and arguments up to and with `--`.
    pub fn entry(&self, user: User, cwd: &Path) -> Vec<OsString> {
        let mut line: Vec<OsString> = vec![tools::probe().into(), "world".into()];
        for (flag, value) in [
            ("--dir", self.dir().as_os_str().to_owned()),
            ("--uid", user.uid().to_string().into()),
            ("--cwd", cwd.as_os_str().to_owned()),
        ] {
            line.extend([flag.into(), value]);
        }
        for (source, place) in &self.binds {
            line.extend(["--bind".into(), source.into(), place.into()]);
        }
        line.push("--".into());
        line
    }

    /// The processes that live in this world now, inside and outside of guard: those whose mount table names it.
    pub fn processes(&self) -> Vec<i32> {
        let needle = format!("/{}/", self.id());
        let ours = fs::read_link("/proc/self/ns/mnt").unwrap();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            // Most processes are the machine's own; their mount namespace is ours, and needs no reading.
            if fs::read_link(entry.path().join("ns/mnt")).is_ok_and(|theirs| theirs == ours) {
                continue;
            }
            // A process may be gone by now, and a zombie has no mount table.
            if fs::read_to_string(entry.path().join("mountinfo")).is_ok_and(|table| table.contains(&needle)) {
                found.push(pid);
            }
        }
        found
    }

    /// Kills what [`World::processes`] lists. Gives whether there was any.
    pub fn kill_all(&self) -> bool {
        let found = self.processes();
        for pid in &found {
            // Gone already is as good as killed.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL);
        }
        !found.is_empty()
    }

    fn make_home(&self, user: User) {
        let home = self.host_path(user.home());
        if !home.is_dir() {
            fs::create_dir(&home).unwrap();
        }
        let runtime = self.dir().join("run/user").join(user.uid().to_string());
        fs::create_dir_all(&runtime).unwrap();
        for dir in [&home, &runtime] {
            chown(dir, Some(user.uid()), Some(user.uid())).unwrap();
            set_mode(dir, 0o700);
        }
    }

    fn make_etc(&self) {
        let ana = |line: &str| format!("{line}\n");
        for (file, extra) in [("passwd", ana("ana:x:4242:4242:Ana:/home/ana:/bin/bash")), ("group", ana("ana:x:4242:"))]
        {
            let machine = fs::read_to_string(Path::new("/etc").join(file)).unwrap();
            let others = machine.lines().filter(|line| !line.starts_with("ana:") && !line.contains(":4242:"));
            let text: String = others.map(|line| format!("{line}\n")).collect();
            fs::write(self.dir().join("etc").join(file), text + &extra).unwrap();
        }
    }

    fn make_bin(&self) {
        for (source, name) in [(tools::guard(), "guard"), (tools::probe(), "guard-probe")] {
            let target = self.dir().join("bin").join(name);
            // A link where it can be had: a debug build is large, and there are many worlds.
            if fs::hard_link(&source, &target).is_err() {
                fs::copy(&source, &target).unwrap();
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // More than once: a round may have met a process in the middle of forking.
        for _ in 0..3 {
            if !self.kill_all() {
                break;
            }
        }
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs a command on the machine itself, outside every world; for building what a test needs.
pub fn machine(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).stdin(Stdio::null()).status();
    assert!(status.is_ok_and(|status| status.success()), "{program} {args:?} failed on the machine");
}
