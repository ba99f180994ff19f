//! A terminal driven by a program: starts a command as session leader on a new pty, types, waits for text, resizes.
//!
//! What goes in: a ready [`Command`] (its environment, directory and user are the caller's affair) and a window size.
//! What comes out: the text the command wrote, without escape sequences and carriage returns, and its exit status.
//! Nothing here sleeps: every wait is a `poll` on the master with a deadline, and a wait that fails returns the whole
//! transcript, so that the row it belongs to can be reported with its evidence.
//!
//! Everything of the session is killed when the [`Terminal`] is dropped; processes that left the session (`setsid`)
//! are the test's own business.

// `setsid` and TIOCSCTTY must run between fork and exec, which std offers only as an unsafe function; the window size
// and the foreground group of a terminal are ioctls.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, grantpt, posix_openpt, unlockpt};
use nix::sys::termios::{LocalFlags, tcgetattr};
use regex::Regex;

/// How long any single wait may last. A machine under load needs some seconds; a hang is a failure all the same.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Rows and columns of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Lines of text.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

fn set_size(master: &File, size: Size) -> io::Result<()> {
    let winsize = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, which outlives the call.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const winsize) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A command on a terminal of its own.
pub struct Terminal {
    master: File,
    child: Child,
    /// Readable when the child has ended.
    watch: OwnedFd,
    ended: Option<ExitStatus>,
    escapes: Escapes,
    /// What the screen was told so far, readable.
    text: String,
    /// How much of `text` earlier waits have consumed.
    at: usize,
    /// What was typed, for the transcript: (position in `text`, bytes).
    typed: Vec<(usize, Vec<u8>)>,
    /// The number of the last prompt seen, see [`Terminal::prompt`].
    prompt: u64,
}

impl Terminal {
    /// Starts `command` as the leader of a new session whose controlling terminal is a new pty of this size.
    /// `owner` is the user the terminal belongs to, as after a login.
    pub fn start(mut command: Command, size: Size, owner: u32) -> io::Result<Self> {
        // Other tests fork at the same time: neither end may live on in a process of theirs, not for a moment.
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        // SAFETY: TIOCGPTPEER takes open flags and returns a new descriptor.
        let peer = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
        if peer < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let end = unsafe { OwnedFd::from_raw_fd(peer) };
        let master = File::from(OwnedFd::from(master));
        set_size(&master, size)?;
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        std::os::unix::fs::fchown(&end, Some(owner), None)?;
        let slave = |end: &OwnedFd| -> io::Result<Stdio> { Ok(Stdio::from(end.try_clone()?)) };
        command.stdin(slave(&end)?).stdout(slave(&end)?).stderr(slave(&end)?);
        // SAFETY: the closure makes two system calls and allocates nothing, so it is safe after a fork in a process
        // with threads.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn()?;
        // SAFETY: pidfd_open takes a process id and flags.
        let watch = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
        let watch = i32::try_from(watch).expect("a descriptor fits");
        if watch < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let watch = unsafe { OwnedFd::from_raw_fd(watch) };
        Ok(Self {
            master,
            child,
            watch,
            ended: None,
            escapes: Escapes::Ground,
            text: String::new(),
            at: 0,
            typed: Vec::new(),
            prompt: 0,
        })
    }

    /// The session leader's process id.
    pub fn leader(&self) -> u32 {
        self.child.id()
    }

    /// Types text and presses Enter.
    pub fn line(&mut self, text: &str) -> Result<(), String> {
        self.send(format!("{text}\r").as_bytes())
    }

    /// Types these bytes: text or control characters.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.typed.push((self.text.len(), bytes.to_vec()));
        let mut rest = bytes;
        let deadline = Instant::now() + PATIENCE;
        while !rest.is_empty() {
            match self.master.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.read_some(deadline).map_err(|why| self.failure(&format!("cannot type {bytes:?}: {why}")))?;
                }
                Err(error) => return Err(self.failure(&format!("cannot type {bytes:?}: {error}"))),
            }
        }
        Ok(())
    }

    /// Waits until `pattern` matches what came since the last wait, consumes up to its end, and returns the text of
    /// its first group (or the whole match, without groups).
    pub fn expect(&mut self, pattern: &str) -> Result<String, String> {
        let regex = Regex::new(pattern).expect("the pattern is a literal of this test");
        self.expect_with(&regex, |_| true)
    }

    fn expect_with(&mut self, regex: &Regex, accept: impl Fn(&regex::Captures<'_>) -> bool) -> Result<String, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = regex.captures_iter(&self.text[self.at..]).find(|captures| accept(captures)).map(|captures| {
                let whole = captures.get(0).expect("group 0 always matches");
                let wanted = captures.get(1).unwrap_or(whole);
                (whole.end(), wanted.as_str().to_owned())
            });
            if let Some((end, wanted)) = found {
                self.at += end;
                return Ok(wanted);
            }
            if let Err(why) = self.read_some(deadline) {
                return Err(self.failure(&format!("waiting for /{regex}/: {why}")));
            }
        }
    }

    /// Waits for the next prompt of a shell set up by [`Shell::setup`]; returns the status it shows.
    ///
    /// Prompts are numbered, because fish and zsh draw one prompt several times.
    pub fn prompt(&mut self) -> Result<i32, String> {
        let regex = Regex::new(r"\[prompt (\d+) status (\d+)\] ").expect("the pattern is valid");
        let last = self.prompt;
        let number = |captures: &regex::Captures<'_>| captures[1].parse::<u64>().expect("digits");
        let shown = self.expect_with(&regex, |captures| number(captures) > last)?;
        self.prompt = shown.parse().expect("digits");
        let start = self.text[..self.at].rfind("[prompt ").expect("it was just found");
        let captures = regex.captures(&self.text[start..self.at]).expect("it was just found");
        Ok(captures[2].parse().expect("digits of a status"))
    }

    /// Runs one command line in a shell: types it, waits for the next prompt; returns the output and the status.
    pub fn run(&mut self, line: &str) -> Result<(String, i32), String> {
        let from = self.at;
        self.line(line)?;
        let status = self.prompt()?;
        Ok((self.text[from..self.at].to_owned(), status))
    }

    /// All text since `mark` (see [`Terminal::mark`]) that waits have consumed.
    pub fn since(&self, mark: usize) -> &str {
        &self.text[mark..self.at]
    }

    /// The first match of `pattern` (its first group, if it has one) in all that was shown so far.
    pub fn said(&self, pattern: &str) -> Option<String> {
        let regex = Regex::new(pattern).expect("the pattern is a literal of this test");
        let captures = regex.captures(&self.text)?;
        captures.get(1).or(captures.get(0)).map(|found| found.as_str().to_owned())
    }

    /// A place in the transcript, for [`Terminal::since`].
    pub fn mark(&self) -> usize {
        self.at
    }

    /// Changes the window size; the kernel sends SIGWINCH to the foreground process group.
    pub fn resize(&mut self, size: Size) -> Result<(), String> {
        set_size(&self.master, size).map_err(|error| self.failure(&format!("cannot resize: {error}")))
    }

    /// The terminal's modes in words, as the person at the keyboard feels them.
    pub fn modes(&self) -> Result<String, String> {
        let modes = tcgetattr(&self.master).map_err(|errno| self.failure(&errno.to_string()))?;
        let has = |flag: LocalFlags| modes.local_flags.contains(flag);
        Ok(format!(
            "lines={} echo={} signals={}",
            has(LocalFlags::ICANON),
            has(LocalFlags::ECHO),
            has(LocalFlags::ISIG)
        ))
    }

    /// The foreground process group.
    pub fn foreground(&self) -> Result<i32, String> {
        nix::unistd::tcgetpgrp(&self.master)
            .map(nix::unistd::Pid::as_raw)
            .map_err(|errno| self.failure(&format!("tcgetpgrp: {errno}")))
    }

    /// Waits for the end of the session leader.
    pub fn finish(&mut self) -> Result<Ending, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                self.ended = Some(status);
                // What it wrote last is still in the pty.
                while self.read_some(Instant::now()).is_ok() {}
                self.at = self.text.len();
                return Ok(Ending::of(status));
            }
            if Instant::now() >= deadline {
                return Err(self.failure("waiting for the end of the session leader"));
            }
            // Read on meanwhile: a leader that waits for room to write would never end.
            self.wait_readable(deadline);
            let _ = self.read_some(Instant::now());
        }
    }

    /// Closes the terminal under the session, as when its window is closed, and waits for the leader.
    pub fn hang_up(&mut self) -> Result<Ending, String> {
        let null = File::options().read(true).write(true).open("/dev/null");
        drop(std::mem::replace(&mut self.master, null.map_err(|error| error.to_string())?));
        let mut interest = [PollFd::new(self.watch.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut interest, patience());
        match self.child.try_wait() {
            Ok(Some(status)) => {
                self.ended = Some(status);
                Ok(Ending::of(status))
            }
            Ok(None) => Err(self.failure("the session leader outlived its terminal")),
            Err(error) => Err(self.failure(&format!("wait: {error}"))),
        }
    }

    /// Waits until the foreground process group is one that `wanted` accepts.
    pub fn until_foreground(&mut self, wanted: impl Fn(i32) -> bool) -> Result<i32, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let group = self.foreground()?;
            if wanted(group) {
                return Ok(group);
            }
            if Instant::now() >= deadline {
                return Err(self.failure(&format!("the foreground group is still {group}")));
            }
            // There is no event for this change.
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// Waits for output or for the end of the leader.
    fn wait_readable(&self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut interest =
            [PollFd::new(self.watch.as_fd(), PollFlags::POLLIN), PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut interest, timeout);
    }

    /// A failure report: what was awaited, and everything that was typed and shown.
    pub fn failure(&self, what: &str) -> String {
        let mut report = format!("{what}\n--- transcript (typed text in braces)\n");
        let mut from = 0;
        for (position, bytes) in &self.typed {
            report.push_str(&self.text[from..*position]);
            report.push_str(&format!("{{{}}}", bytes.escape_ascii()));
            from = *position;
        }
        report.push_str(&self.text[from..]);
        report.push_str(&format!(
            "\n--- processes of the session\n{}",
            session_of(self.leader()).iter().map(|process| format!("{process}\n")).collect::<String>()
        ));
        report
    }

    /// Reads once; `Err` with the reason when nothing can come any more or the deadline has passed.
    fn read_some(&mut self, deadline: Instant) -> Result<(), String> {
        let mut buffer = [0_u8; 16 * 1024];
        loop {
            match self.master.read(&mut buffer) {
                Ok(0) => return Err("the terminal was closed".to_owned()),
                Ok(count) => {
                    let answers = self.escapes.feed(&buffer[..count], &mut self.text);
                    // A full-screen program asks the terminal what it is and waits for the answer.
                    let _ = self.master.write_all(&answers);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // EIO: no process has the slave open any more.
                Err(error) => return Err(format!("the terminal was closed ({error})")),
            }
            if Instant::now() >= deadline {
                return Err(format!("nothing for {} s", PATIENCE.as_secs()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut interest = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut interest, timeout);
        }
    }
}

fn patience() -> PollTimeout {
    PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX)
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if self.ended.is_none() {
            for process in session_of(self.leader()) {
                let _ =
                    nix::sys::signal::kill(nix::unistd::Pid::from_raw(process.id), nix::sys::signal::Signal::SIGKILL);
            }
            let _ = self.child.wait();
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It exited with this code.
    Exit(i32),
    /// This signal killed it.
    Signal(i32),
}

impl Ending {
    /// The ending that `wait` reported.
    pub fn of(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Exit(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => unreachable!("wait without WUNTRACED reports ended processes only"),
        }
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exit(code) => write!(out, "exit {code}"),
            Self::Signal(signal) => write!(out, "signal {signal}"),
        }
    }
}

/// One line of a process table.
pub struct Process {
    /// Process id.
    pub id: i32,
    /// Parent's process id.
    pub parent: i32,
    /// Process group.
    pub group: i32,
    state: String,
    name: String,
}

impl std::fmt::Display for Process {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} {} parent={} group={} state={}", self.id, self.name, self.parent, self.group, self.state)
    }
}

/// The processes whose session leader is `leader`, as the outermost /proc shows them.
pub fn session_of(leader: u32) -> Vec<Process> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // The name in parentheses may contain anything, so the fields are counted from its end.
        let (Some(open), Some(close)) = (stat.find('('), stat.rfind(')')) else {
            continue;
        };
        let fields: Vec<&str> = stat[close + 1..].split_whitespace().collect();
        let number = |index: usize| fields.get(index).and_then(|field| field.parse::<i32>().ok());
        if number(3) != i32::try_from(leader).ok() {
            continue;
        }
        let (Ok(id), Some(parent), Some(group)) = (stat[..open].trim().parse(), number(1), number(2)) else {
            continue;
        };
        found.push(Process { id, parent, group, state: fields[0].to_owned(), name: stat[open + 1..close].to_owned() });
    }
    found
}

/// Removes escape sequences from a terminal's output and answers the questions among them. Bytes may come in any
/// portions, so the place inside a sequence is kept.
enum Escapes {
    Ground,
    Escape,
    /// ESC and a character that needs one more, such as `ESC ( B`.
    OneMore,
    /// `ESC [`, with what follows up to its final byte.
    Control(Vec<u8>),
    /// OSC, DCS, PM, APC: up to BEL or ST; true after an ESC inside.
    Text(bool),
    /// Inside a character of UTF-8.
    Character(Vec<u8>),
}

impl Escapes {
    fn feed(&mut self, bytes: &[u8], text: &mut String) -> Vec<u8> {
        let mut answers = Vec::new();
        for &byte in bytes {
            let state = std::mem::replace(self, Self::Ground);
            *self = match (state, byte) {
                (Self::Ground, 0x1b) => Self::Escape,
                (Self::Ground, b'\r' | 0x07 | 0x0e | 0x0f) => Self::Ground,
                (Self::Ground, 0x80..) => Self::Character(vec![byte]),
                (Self::Ground, _) => {
                    text.push(char::from(byte));
                    Self::Ground
                }
                (Self::Character(mut character), 0x80..=0xbf) => {
                    character.push(byte);
                    match std::str::from_utf8(&character) {
                        Ok(whole) => {
                            text.push_str(whole);
                            Self::Ground
                        }
                        Err(_) if character.len() < 4 => Self::Character(character),
                        Err(_) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            Self::Ground
                        }
                    }
                }
                (Self::Character(_), _) => {
                    text.push(char::REPLACEMENT_CHARACTER);
                    if byte == 0x1b {
                        Self::Escape
                    } else {
                        if byte != b'\r' {
                            text.push(char::from(byte & 0x7f));
                        }
                        Self::Ground
                    }
                }
                (Self::Escape, b'[') => Self::Control(Vec::new()),
                (Self::Escape, b']' | b'P' | b'^' | b'_' | b'X' | b'k') => Self::Text(false),
                (Self::Escape, b'(' | b')' | b'*' | b'+' | b'#' | b'%' | b' ') => Self::OneMore,
                (Self::Escape | Self::OneMore, _) => Self::Ground,
                (Self::Control(parameters), 0x40..=0x7e) => {
                    match (byte, parameters.as_slice()) {
                        // Primary device attributes: a VT220 with colours.
                        (b'c', b"" | b"0") => answers.extend_from_slice(b"\x1b[?62;22c"),
                        // Secondary device attributes.
                        (b'c', b">" | b">0") => answers.extend_from_slice(b"\x1b[>41;330;0c"),
                        // Where is the cursor?
                        (b'n', b"6") => answers.extend_from_slice(b"\x1b[1;1R"),
                        _ => {}
                    }
                    Self::Ground
                }
                (Self::Control(mut parameters), _) => {
                    parameters.push(byte);
                    Self::Control(parameters)
                }
                (Self::Text(_), 0x07) | (Self::Text(true), b'\\') => Self::Ground,
                (Self::Text(_), _) => Self::Text(byte == 0x1b),
            };
        }
        answers
    }
}

/// The shells people sit in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// GNU bash.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

impl Shell {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Bash, Self::Zsh, Self::Fish];

    /// The command's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Zsh => "zsh",
            Self::Fish => "fish",
        }
    }

    /// An interactive shell without rc files.
    pub fn interactive(self) -> Vec<String> {
        let words: &[&str] = match self {
            Self::Bash => &["bash", "--norc", "--noprofile", "-i"],
            Self::Zsh => &["zsh", "-f", "-i", "-o", "prompt_subst", "-o", "no_prompt_sp"],
            Self::Fish => &[
                "fish",
                "--no-config",
                "-i",
                "-C",
                "set -g n 0; function count --on-event fish_prompt; set -g n (math $n + 1); end; \
                 function fish_prompt; set -l s $status; echo -n \"[prompt $n status $s] \"; end; \
                 function fish_greeting; end",
            ],
        };
        words.iter().map(|&word| word.to_owned()).collect()
    }

    /// The environment variables that make the prompt.
    pub fn environment(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Bash => &[("PS1", r"[prompt $((++n)) status $?] "), ("HISTFILE", "/dev/null")],
            Self::Zsh => &[("PS1", "[zsh starts] ")],
            Self::Fish => &[],
        }
    }

    /// What must be typed for the prompt `[prompt NUMBER status STATUS] `: what to wait for, and the line.
    /// zsh expands its prompt again whenever it draws it again, so it has to count elsewhere.
    pub fn setup(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Bash | Self::Fish => None,
            Self::Zsh => Some((r"\[zsh starts\] ", "precmd() { n=$((n+1)) }; PS1='[prompt $n status %?] '")),
        }
    }
}
