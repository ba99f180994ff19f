//! A person at a terminal in a fresh world, and tables of what they do there.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use crate::pty::{PATIENCE, Shell, Size, Terminal};
use crate::support::{Run, User, World, poll_until};

/// In which way a command is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Without guard: the control.
    Bare,
    /// In the full tier.
    Full,
    /// In the landlock tier.
    Landlock,
}

impl How {
    /// All of them, the control first.
    pub const ALL: [Self; 3] = [Self::Bare, Self::Full, Self::Landlock];

    /// What stands before the command on a command line.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Bare => "",
            Self::Full => "guard run --quiet -- ",
            Self::Landlock => "guard run --quiet --tier landlock -- ",
        }
    }

    /// The same run, in this way.
    pub fn apply(self, run: Run<'_>) -> Run<'_> {
        match self {
            Self::Bare => run.outside(),
            Self::Full => run.guard(["run", "--quiet"]),
            Self::Landlock => run.guard(["run", "--quiet", "--tier", "landlock"]),
        }
    }
}

/// Who does a row, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// The user.
    pub user: User,
    /// With or without guard.
    pub how: How,
    /// The shell; rows without an interactive shell have bash here.
    pub shell: Shell,
}

/// The window at the start.
pub const SIZE: Size = Size { rows: 24, cols: 80 };

/// The directory rows are played in, below the user's home.
pub const PROJECT: &str = "src/p";

/// A fresh world with one project.
pub struct Place {
    /// Where everything happens.
    pub world: World,
    /// Who and how.
    pub case: Case,
}

impl Place {
    fn new(case: Case) -> Self {
        let world = World::new();
        world.mkdir(case.user, PROJECT);
        Self { world, case }
    }

    /// A command in the project, not yet inside guard.
    pub fn run(&self) -> Run<'_> {
        // The probe that enters the world ignores SIGPIPE, as all Rust programs do, and exec would keep that, and
        // what the runner of these tests ignores.
        self.world.run(self.case.user).cwd(PROJECT).wrap(["/usr/bin/env", "--default-signal"])
    }

    /// `guard-probe tty WORDS`, in the way of this case.
    pub fn probe(&self, words: &[&str]) -> Run<'_> {
        let mut act = vec!["tty"];
        act.extend(words);
        self.case.how.apply(self.run().probe(act))
    }

    /// `/bin/bash -c SCRIPT` where each `X ` stands for guard.
    pub fn script(&self, script: &str) -> Run<'_> {
        self.run().sh(self.expand(script))
    }

    /// `X cmd` → `guard run … -- cmd`, or `cmd` for the bare case.
    pub fn expand(&self, text: &str) -> String {
        text.replace("X ", self.case.how.prefix())
    }

    /// A terminal on which this is started.
    pub fn terminal(&self, run: &Run<'_>) -> Result<Terminal, String> {
        Terminal::start(run.command(), SIZE, self.case.user.uid()).map_err(|error| format!("cannot start: {error}"))
    }

    /// A FIFO in the project. Gives its path inside the world.
    pub fn fifo(&self, name: &str) -> PathBuf {
        let inside = self.case.user.path(PROJECT).join(name);
        let host = self.world.host_path(&inside);
        nix::unistd::mkfifo(&host, Mode::from_bits_truncate(0o600)).expect("a fresh name");
        std::os::unix::fs::chown(&host, Some(self.case.user.uid()), Some(self.case.user.uid())).expect("we are root");
        inside
    }

    /// A FIFO over which an agent is told what to do, as `--gate` wants it.
    pub fn gate(&self) -> Gate {
        let inside = self.fifo("gate");
        Gate { host: self.world.host_path(&inside) }
    }

    /// A FIFO that shows whether the process that opened it lives.
    pub fn alive(&self) -> Alive {
        let inside = self.fifo("alive");
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(self.world.host_path(&inside))
            .expect("a FIFO opens for reading at once");
        Alive { file }
    }

    /// Inside guard: nothing is left of it. Outside nothing is promised.
    pub fn nothing_left(&self) {
        if self.case.how != How::Bare {
            poll_until("the end of every process of the world", || self.world.processes().is_empty());
        }
    }
}

/// A person in an interactive shell.
pub struct Sitting<'p> {
    /// Where.
    pub place: &'p Place,
    /// The terminal their shell runs on.
    pub term: Terminal,
}

impl<'p> Sitting<'p> {
    /// Starts the shell and waits for its first prompt.
    pub fn new(place: &'p Place) -> Result<Self, String> {
        let shell = place.case.shell;
        let run = place.run().envs(shell.environment().iter().copied()).cmd(shell.interactive());
        let mut sitting = Self { place, term: place.terminal(&run)? };
        if let Some((starts, line)) = shell.setup() {
            sitting.term.expect(starts)?;
            sitting.term.line(line)?;
        }
        sitting.term.prompt()?;
        Ok(sitting)
    }

    /// Types a line in which `X ` stands for guard.
    pub fn line(&mut self, text: &str) -> Result<(), String> {
        let text = self.place.expand(text);
        self.term.line(&text)
    }

    /// Types a line as [`Sitting::line`] and waits for the next prompt: output and status.
    pub fn run(&mut self, text: &str) -> Result<(String, i32), String> {
        let text = self.place.expand(text);
        self.term.run(&text)
    }

    /// Starts an agent and waits until it listens.
    pub fn agent(&mut self, options: &str) -> Result<(), String> {
        self.line(&format!("X guard-probe tty agent {options}"))?;
        self.ready()
    }

    /// Waits for an agent to listen.
    pub fn ready(&mut self) -> Result<(), String> {
        self.term.expect("<ready>").map(drop)
    }

    /// Tells the agent at the keyboard to do something.
    pub fn tell(&mut self, command: &str) -> Result<(), String> {
        self.term.line(command)
    }

    /// The agent's count of caught signals.
    pub fn totals(&mut self) -> Result<String, String> {
        self.tell("totals")?;
        self.term.expect("<totals ?([^>]*)>")
    }

    /// Waits until something else than the shell is in the foreground; gives its process group.
    pub fn until_job_is_in_front(&mut self) -> Result<i32, String> {
        let shell = i32::try_from(self.term.leader()).expect("a process id");
        self.term.until_foreground(|group| group != shell)
    }

    /// Leaves the shell and waits until it has gone.
    fn leave(&mut self) -> Result<(), String> {
        // Twice: a shell with stopped jobs only warns the first time.
        self.term.send(b"exit\r")?;
        self.term.send(b"exit\r").ok();
        self.term.finish().map(drop)
    }

    /// Types `jobs` until its answer contains one of these words.
    pub fn until_jobs_say(&mut self, words: &[&str]) -> Result<String, String> {
        let start = Instant::now();
        loop {
            let (output, _) = self.run("jobs")?;
            let output = output.to_lowercase();
            if let Some(word) = words.iter().find(|&&word| output.contains(word)) {
                return Ok((*word).to_owned());
            }
            if start.elapsed() > PATIENCE {
                return Err(self.term.failure(&format!("jobs never said {words:?}")));
            }
        }
    }
}

/// A FIFO over which an agent is told what to do.
pub struct Gate {
    host: PathBuf,
}

impl Gate {
    /// Tells the agent this.
    pub fn tell(&self, command: &str) -> Result<(), String> {
        let mut file = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&self.host)
            .map_err(|error| format!("the agent does not listen at its gate: {error}"))?;
        file.write_all(format!("{command}\n").as_bytes()).map_err(|error| error.to_string())
    }
}

/// Whether the process that opened a FIFO lives.
pub struct Alive {
    file: File,
}

impl Alive {
    /// Waits for the process; gives its own idea of its process id.
    pub fn wait(&mut self) -> Result<String, String> {
        let start = Instant::now();
        let mut text = String::new();
        while !text.ends_with('\n') {
            if start.elapsed() > PATIENCE {
                return Err("nobody opened the FIFO".to_owned());
            }
            let mut byte = [0];
            match self.file.read(&mut byte) {
                Ok(1) => text.push(char::from(byte[0])),
                // Without a writer poll would wait only for the first one, so a pause has to do.
                _ => std::thread::park_timeout(std::time::Duration::from_millis(2)),
            }
        }
        Ok(text.trim_end().to_owned())
    }

    /// Whether it has ended by now.
    pub fn ended(&self) -> bool {
        self.hung_up(PollTimeout::ZERO)
    }

    /// Waits for its end.
    pub fn until_ended(&self) -> Result<(), String> {
        let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
        if self.hung_up(patience) { Ok(()) } else { Err("it is still alive".to_owned()) }
    }

    fn hung_up(&self, timeout: PollTimeout) -> bool {
        let mut interest = [PollFd::new(self.file.as_fd(), PollFlags::empty())];
        let _ = poll(&mut interest, timeout);
        interest[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
    }
}

/// Sends a signal to a process, or with a negative number to a group.
pub fn send(target: i32, signal: Signal) -> Result<(), String> {
    kill(Pid::from_raw(target), signal).map_err(|errno| format!("kill {target}: {errno}"))
}

/// What a row wants to see.
#[derive(Clone, Copy)]
pub enum Want {
    /// This line, with and without guard.
    Same(&'static str),
    /// This line in bash, zsh and fish, with and without guard.
    PerShell([&'static str; 3]),
    /// One line without guard and another one with it: a promise beyond fidelity.
    Differs {
        /// Without guard.
        bare: &'static str,
        /// With guard, in both tiers.
        inside: &'static str,
    },
    /// One line without guard and in the full tier, another one in the landlock tier: a promise that this tier has
    /// to give up.
    NotInLandlock {
        /// Without guard and in the full tier.
        full: &'static str,
        /// In the landlock tier.
        landlock: &'static str,
    },
    /// Whatever the bare run shows; for facts that belong to the machine.
    AsBare,
}

/// What a play shows: the observation, or the evidence of a failure.
pub type Seen = Result<String, String>;

/// How a row is played.
#[derive(Clone, Copy)]
pub enum Play {
    /// By a person in each interactive shell.
    Typed(fn(&mut Sitting<'_>) -> Seen),
    /// By a program.
    Placed(fn(&Place) -> Seen),
}

/// One behaviour.
pub struct Row {
    name: &'static str,
    want: Want,
    play: Play,
}

/// A row that a person plays in each interactive shell.
pub fn typed(name: &'static str, want: Want, play: fn(&mut Sitting<'_>) -> Seen) -> Row {
    Row { name, want, play: Play::Typed(play) }
}

/// A row that a program plays.
pub fn placed(name: &'static str, want: Want, play: fn(&Place) -> Seen) -> Row {
    Row { name, want, play: Play::Placed(play) }
}

impl Row {
    fn play(&self, case: Case) -> Seen {
        let place = Place::new(case);
        let seen = match self.play {
            Play::Typed(play) => {
                let mut sitting = Sitting::new(&place)?;
                let seen = play(&mut sitting)?;
                sitting.leave()?;
                seen
            }
            Play::Placed(play) => play(&place)?,
        };
        place.nothing_left();
        Ok(seen)
    }

    /// What this case should see, given what the bare run showed.
    fn wanted(&self, case: Case, bare: &str) -> String {
        match self.want {
            Want::Same(text) => text.to_owned(),
            Want::PerShell([bash, zsh, fish]) => match case.shell {
                Shell::Bash => bash.to_owned(),
                Shell::Zsh => zsh.to_owned(),
                Shell::Fish => fish.to_owned(),
            },
            Want::Differs { bare, inside } => if case.how == How::Bare { bare } else { inside }.to_owned(),
            Want::NotInLandlock { full, landlock } => {
                if case.how == How::Landlock { landlock } else { full }.to_owned()
            }
            Want::AsBare => bare.to_owned(),
        }
    }
}

/// Plays every row for both users: bare, in the full tier, in the landlock tier.
///
/// For work on one row, `TERMINAL_ROW=word` plays only rows whose name contains the word, and `TERMINAL_HOW=full`
/// (or `landlock`, `bare`) only that way and the control.
///
/// # Panics
/// With every row that showed something else than it should.
pub fn play(shells: &[Shell], rows: &[Row]) {
    let only_row = std::env::var("TERMINAL_ROW").unwrap_or_default();
    let only_how = std::env::var("TERMINAL_HOW").unwrap_or_default();
    let mut failures = Vec::new();
    let mut played = 0;
    for row in rows.iter().filter(|row| row.name.contains(&only_row)) {
        let shells = if matches!(row.play, Play::Typed(_)) { shells } else { &[Shell::Bash] };
        for (&shell, user) in shells.iter().flat_map(|shell| User::ALL.map(|user| (shell, user))) {
            let mut bare = String::new();
            for how in How::ALL {
                if how != How::Bare && !format!("{how:?}").to_lowercase().contains(&only_how) {
                    continue;
                }
                let case = Case { user, how, shell };
                let start = Instant::now();
                let seen = catch_unwind(AssertUnwindSafe(|| row.play(case))).unwrap_or_else(|panic| {
                    let text = panic.downcast_ref::<String>().map(String::as_str);
                    Err(format!("panicked: {}", text.or(panic.downcast_ref().copied()).unwrap_or("?")))
                });
                played += 1;
                let label = format!("{} [{how:?}, {}, {}]", row.name, shell.name(), user.name());
                println!("{:5} ms  {label}: {seen:?}", start.elapsed().as_millis());
                match seen {
                    Ok(seen) => {
                        if how == How::Bare {
                            bare.clone_from(&seen);
                        }
                        let wanted = row.wanted(case, &bare);
                        if seen != wanted {
                            failures.push(format!("{label}\n  wanted {wanted:?}\n  saw    {seen:?}"));
                        }
                    }
                    Err(why) => failures.push(format!("{label}\n  {}", why.replace('\n', "\n  "))),
                }
            }
        }
    }
    assert!(played > 0 || !only_row.is_empty(), "an empty table");
    let count = failures.len();
    assert!(failures.is_empty(), "{count} of {played} plays failed\n\n{}", failures.join("\n\n"));
}
