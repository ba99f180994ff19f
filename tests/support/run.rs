//! One command in a [`World`]: who, where, with which environment and input, inside guard or outside.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::output::Output;
use super::process::Process;
use super::world::{User, World};

/// A command that has not started yet. Made by [`World::run`].
#[derive(Clone)]
pub struct Run<'w> {
    world: &'w World,
    user: User,
    cwd: PathBuf,
    env: BTreeMap<OsString, OsString>,
    before: Vec<OsString>,
    wrap: Vec<OsString>,
    guard: Option<Vec<OsString>>,
    cmd: Vec<OsString>,
    stdin: Vec<u8>,
}

impl<'w> Run<'w> {
    pub(super) fn new(world: &'w World, user: User) -> Run<'w> {
        let env = [
            ("HOME", user.home()),
            ("USER", user.name()),
            ("LOGNAME", user.name()),
            ("SHELL", "/bin/bash"),
            ("PATH", "/usr/local/bin:/usr/bin:/bin"),
            ("TERM", "xterm-256color"),
            ("LANG", "C.UTF-8"),
            ("SHLVL", "1"),
        ];
        Run {
            world,
            user,
            cwd: world.home(user),
            env: env.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            before: Vec::new(),
            wrap: Vec::new(),
            guard: None,
            cmd: Vec::new(),
            stdin: Vec::new(),
        }
    }

    /// The directory to start in, as the world sees it; a relative one is below the user's home.
    pub fn cwd(mut self, cwd: impl AsRef<Path>) -> Self {
        self.cwd = self.user.path(cwd);
        self
    }

    /// Sets one variable of the environment guard starts with.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// Sets several variables.
    pub fn envs<N: AsRef<OsStr>, V: AsRef<OsStr>>(self, vars: impl IntoIterator<Item = (N, V)>) -> Self {
        vars.into_iter().fold(self, |run, (name, value)| run.env(name, value))
    }

    /// Takes one variable away.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.remove(name.as_ref());
        self
    }

    /// Takes them all away.
    pub fn env_clear(mut self) -> Self {
        self.env.clear();
        self
    }

    /// Runs the command through `guard ARGS… -- CMD…`, as in `.guard(["run", "--quiet"])`. For subcommands that take
    /// no command (`why`, `doctor`, `profile`), leave out `cmd`, and no `--` is added.
    pub fn guard<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.guard = Some(args.into_iter().map(|arg| arg.as_ref().to_owned()).collect());
        self
    }

    /// Runs the command without guard, which is also how a new `Run` starts.
    pub fn outside(mut self) -> Self {
        self.guard = None;
        self
    }

    /// A program that stands before guard (or before the command, outside) and execs the rest, such as
    /// `["guard-probe", "with-fd", "9", "/root/secret", "--"]`.
    pub fn wrap<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.wrap.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// A program that stands before the entry into the world, as the test's own user, and execs the rest.
    pub fn before<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.before = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        self
    }

    /// The command and its arguments.
    pub fn cmd<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.cmd = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        self
    }

    /// `/bin/bash -c SCRIPT` as the command.
    pub fn sh(self, script: impl AsRef<OsStr>) -> Self {
        self.cmd([OsStr::new("/bin/bash"), OsStr::new("-c"), script.as_ref()])
    }

    /// The probe as the command: `guard-probe ACT ARGS…`.
    pub fn probe<S: AsRef<OsStr>>(self, args: impl IntoIterator<Item = S>) -> Self {
        let mut line = vec![OsString::from("/usr/local/bin/guard-probe")];
        line.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self.cmd(line)
    }

    /// What the command reads from its standard input; without this it is empty.
    pub fn stdin(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.stdin = bytes.as_ref().to_owned();
        self
    }

    /// The whole command line, from the entry into the world on.
    pub fn line(&self) -> Vec<OsString> {
        let mut line = self.before.clone();
        line.extend(self.world.entry(self.user, &self.cwd));
        line.extend(self.wrap.iter().cloned());
        if let Some(args) = &self.guard {
            line.push("/usr/local/bin/guard".into());
            line.extend(args.iter().cloned());
            if !self.cmd.is_empty() {
                line.push("--".into());
            }
        }
        line.extend(self.cmd.iter().cloned());
        line
    }

    /// The same as a `Command`, for tests that bring their own stdio (a pty, say).
    pub fn command(&self) -> Command {
        let line = self.line();
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).env_clear().envs(&self.env).current_dir("/");
        command
    }

    /// Runs the command to its end.
    ///
    /// # Panics
    /// When it does not end within [`super::DEADLINE`].
    pub fn output(&self) -> Output {
        let mut process = self.spawn();
        process.feed(self.stdin.clone());
        process.finish()
    }

    /// Starts the command and leaves it running, stdin open; it is killed when the `Process` is dropped.
    pub fn spawn(&self) -> Process {
        let mut command = self.command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Process::start(command, self.describe())
    }

    /// What a failed expectation prints first.
    pub fn describe(&self) -> String {
        let line = self.line();
        let entered = line.iter().position(|arg| arg == "--").map_or(0, |end| end + 1);
        let shown: Vec<String> = line[entered..].iter().map(|arg| quote(arg)).collect();
        let env: Vec<String> =
            self.env.iter().map(|(name, value)| format!("{}={}", quote(name), quote(value))).collect();
        format!(
            "user:    {}\ncwd:     {}\nenv:     {}\ncommand: {}",
            self.user.name(),
            self.cwd.display(),
            env.join(" "),
            shown.join(" ")
        )
    }
}

fn quote(arg: &OsStr) -> String {
    let text = arg.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=/.,:+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.into_owned() } else { format!("{text:?}") }
}
