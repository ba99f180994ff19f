//! `guard-probe tty ACT …`: what a program sees of its terminal and its process, and an agent that does as it is told.
//!
//! Answers stand in angle brackets (`<ready>`), which no command line typed by a test contains, so that a test never
//! mistakes the echo of what it typed for an answer. An agent's own exit code is its verdict.
//!
//! - `who`: which of 0-2 are terminals, whether `/dev/tty` opens, the window size, who is in the foreground
//! - `exit N`, `die SIGNAL`: end in that way
//! - `args …`: its arguments, as hexadecimal bytes
//! - `fds`: its open descriptors
//! - `count`: how many bytes stdin held and their sum; `flood N`: N bytes on stdout, whose sum `count` knows
//! - `linger KIND FIFO`: leaves a process behind that holds the FIFO open, and ends
//! - `grab`: takes the terminal's foreground, as a shell does, and is killed before it gives it back
//! - `agent [--catch SIGNALS] [--gate FIFO] [--alive FIFO] [--mute] [--raw]`: obeys lines from stdin (not with
//!   `--mute`) and from the FIFO, and reports the caught signals

// Signal handlers, the ioctls of terminals, and fork have no safe form.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, raise, sigaction};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{ForkResult, Pid, fork, getpgrp, getpid, setpgid, setsid, tcgetpgrp, tcsetpgrp};

/// Runs one act; returns the exit code.
pub fn main(args: &[OsString]) -> i32 {
    let words: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap_or("")).collect();
    match words.as_slice() {
        ["who"] => who(),
        ["exit", code] => return number(code),
        ["die", signal] => die(signal),
        ["args", ..] => arguments(&args[1..]),
        ["fds"] => descriptors(),
        ["count"] => count(),
        ["flood", bytes] => flood(number(bytes)),
        ["linger", kind, fifo] => linger(kind, fifo),
        ["grab"] => grab(),
        ["agent", options @ ..] => return Agent::new(options).run(),
        _ => {
            eprintln!("guard-probe tty: no such act: {words:?}");
            return 2;
        }
    }
    0
}

/// Writes one answer. The carriage return is for terminals in raw mode; the tests ignore it.
fn say(answer: &str) {
    let mut out = std::io::stdout().lock();
    // A reader that went away is a fact of some tests, not an error.
    let _ = out.write_all(format!("<{answer}>\r\n").as_bytes());
    let _ = out.flush();
}

fn number(word: &str) -> i32 {
    word.parse().expect("a number")
}

fn signal(word: &str) -> Signal {
    format!("SIG{word}").parse().expect("the name of a signal without SIG")
}

fn who() {
    let tty = |fd: i32| {
        // SAFETY: isatty takes any number.
        if unsafe { libc::isatty(fd) } == 1 { "tty" } else { "no" }
    };
    let own = OpenOptions::new().read(true).write(true).open("/dev/tty");
    let opened = match &own {
        Ok(_) => "open".to_owned(),
        Err(error) => error.to_string(),
    };
    let foreground = own.as_ref().is_ok_and(|tty| tcgetpgrp(tty) == Ok(getpgrp()));
    say(&format!(
        "who 0={} 1={} 2={} /dev/tty={opened} size={} foreground={foreground}",
        tty(0),
        tty(1),
        tty(2),
        size(),
    ));
}

fn size() -> String {
    // SAFETY: winsize is four integers, for which zero is a value.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: TIOCGWINSZ writes one winsize, which outlives the call.
    if unsafe { libc::ioctl(0, libc::TIOCGWINSZ, &raw mut size) } != 0 {
        return format!("none ({})", std::io::Error::last_os_error());
    }
    format!("{}x{}", size.ws_row, size.ws_col)
}

fn die(word: &str) {
    let signal = signal(word);
    // Rust's start-up installs a handler for some signals (SIGSEGV) and ignores others (SIGPIPE).
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    if signal != Signal::SIGKILL && signal != Signal::SIGSTOP {
        // SAFETY: the default action runs no code of ours.
        unsafe { sigaction(signal, &default) }.expect("the signal can be reset");
    }
    raise(signal).expect("the signal can be sent");
}

fn arguments(args: &[OsString]) {
    let mut text = String::new();
    for arg in args {
        let hex: String = arg.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        text.push_str(&format!("<{hex}>\n"));
    }
    print!("{text}");
}

fn descriptors() {
    // SAFETY: F_GETFD takes any number.
    let open = (0..4096).filter(|&fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0);
    let list: Vec<String> = open.map(|fd: i32| fd.to_string()).collect();
    say(&format!("fds {}", list.join(" ")));
}

/// The byte at this place of a flood: a pattern that repeats after a prime number, so that no lost page fits.
fn byte_at(place: usize) -> u8 {
    u8::try_from(place % 251).expect("below 251")
}

/// A sum that sees order, unlike a plain one.
fn add(sum: u64, byte: u8) -> u64 {
    sum.wrapping_mul(31).wrapping_add(u64::from(byte))
}

fn count() {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).expect("stdin can be read");
    let sum = bytes.iter().fold(0, |sum, &byte| add(sum, byte));
    say(&format!("count {} {sum:x}", bytes.len()));
}

fn flood(bytes: i32) {
    let total = usize::try_from(bytes).expect("not negative");
    let data: Vec<u8> = (0..total).map(byte_at).collect();
    std::io::stdout().write_all(&data).expect("stdout can be written");
}

/// Forks; the child never returns.
fn child(work: impl FnOnce()) -> Pid {
    // SAFETY: the probe has one thread, so the child may use everything.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            work();
            std::process::exit(0)
        }
    }
}

/// Leaves a process behind and returns when that process holds the FIFO.
fn linger(kind: &str, fifo: &str) {
    let (mut reader, writer) = std::io::pipe().expect("pipe");
    let fifo = fifo.to_owned();
    let stay = move || {
        let mut alive = File::options().write(true).open(fifo).expect("the FIFO opens");
        writeln!(alive, "{}", getpid()).expect("the test reads");
        drop(writer);
        loop {
            // SAFETY: pause has no arguments; it returns only after a handler ran.
            unsafe { libc::pause() };
        }
    };
    match kind {
        "child" => {
            child(stay);
        }
        "daemon" => {
            let middle = child(|| {
                setsid().expect("a fresh child leads no group");
                child(stay);
            });
            nix::sys::wait::waitpid(middle, None).expect("the middle process ends");
        }
        "stubborn" => {
            child(|| {
                for signal in Signal::iterator() {
                    // SAFETY: ignoring runs no code of ours. KILL and STOP refuse, which is fine.
                    let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) };
                }
                setpgid(Pid::from_raw(0), Pid::from_raw(0)).expect("a fresh child leads no group");
                stay();
            });
        }
        "stopped" => {
            let pid = child(stay);
            let mut end = Vec::new();
            reader.read_to_end(&mut end).expect("the pipe is ours");
            kill(pid, Signal::SIGSTOP).expect("it is our child");
            let stopped = nix::sys::wait::WaitPidFlag::WUNTRACED;
            nix::sys::wait::waitpid(pid, Some(stopped)).expect("it is our child");
        }
        _ => panic!("no such kind: {kind}"),
    }
    // The parent's writer went into `stay`, which is dropped by now in this process.
    let mut end = Vec::new();
    reader.read_to_end(&mut end).expect("the pipe is ours");
}

/// What a shell with job control does first, without what it does last.
fn grab() {
    let me = getpid();
    setpgid(me, me).expect("not a session leader");
    let tty = OpenOptions::new().read(true).write(true).open("/dev/tty").expect("/dev/tty");
    // A process in the background that sets the foreground is stopped unless it ignores SIGTTOU.
    // SAFETY: ignoring runs no code of ours.
    unsafe { nix::sys::signal::signal(Signal::SIGTTOU, SigHandler::SigIgn) }.expect("SIGTTOU");
    tcsetpgrp(&tty, me).expect("the terminal is ours");
    say("grabbed");
    die("KILL");
}

/// Where the signal handler writes.
static NOTES: AtomicI32 = AtomicI32::new(-1);

extern "C" fn note(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to a handler installed with SA_SIGINFO.
    let sender = unsafe { (*info).si_code };
    let note = [u8::try_from(signal).unwrap_or(0), u8::from(sender == libc::SI_KERNEL)];
    // SAFETY: write is safe in a handler; the descriptor and the two bytes outlive the call.
    unsafe { libc::write(NOTES.load(Ordering::Relaxed), note.as_ptr().cast(), note.len()) };
}

/// One caught signal, as it is reported.
struct Caught {
    name: &'static str,
    from_kernel: bool,
}

struct Agent {
    notes: File,
    gate: Option<File>,
    alive: Option<File>,
    reads_stdin: bool,
    raw: bool,
    cooked: Option<Termios>,
    caught: Vec<Caught>,
}

impl Agent {
    fn new(options: &[&str]) -> Self {
        let mut ends = [0; 2];
        // SAFETY: pipe2 writes two descriptors into the array.
        assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
        NOTES.store(ends[1], Ordering::Relaxed);
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let notes = File::from(unsafe { OwnedFd::from_raw_fd(ends[0]) });
        let mut agent = Self {
            notes,
            gate: None,
            alive: None,
            reads_stdin: true,
            raw: false,
            cooked: tcgetattr(std::io::stdin()).ok(),
            caught: Vec::new(),
        };
        let mut options = options.iter();
        while let Some(&option) = options.next() {
            let mut value = || *options.next().expect("the option has a value");
            match option {
                "--catch" => value().split(',').for_each(catch),
                // For reading and writing: opening does not wait, and a writer that leaves is no end of file.
                "--gate" => agent.gate = Some(open_fifo(value(), true)),
                "--alive" => agent.alive = Some(open_fifo(value(), false)),
                "--mute" => agent.reads_stdin = false,
                "--raw" => agent.raw = true,
                _ => panic!("no such option: {option}"),
            }
        }
        agent
    }

    fn run(mut self) -> i32 {
        if self.raw {
            self.set_raw();
        }
        if let Some(alive) = &mut self.alive {
            writeln!(alive, "{}", getpid()).expect("the test reads");
        }
        say("ready");
        let mut line = Vec::new();
        loop {
            let mut sources = vec![PollFd::new(self.notes.as_fd(), PollFlags::POLLIN)];
            if let Some(gate) = &self.gate {
                sources.push(PollFd::new(gate.as_fd(), PollFlags::POLLIN));
            }
            let stdin = std::io::stdin();
            if self.reads_stdin {
                sources.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
            }
            if poll(&mut sources, PollTimeout::NONE).is_err() {
                continue;
            }
            let ready: Vec<bool> =
                sources.iter().map(|source| source.revents().is_some_and(|events| !events.is_empty())).collect();
            if ready[0] {
                self.take_notes();
            }
            let gate = self.gate.is_some();
            if gate && ready[1] {
                let mut byte = [0];
                // One byte at a time, so that a command ends the reading where it stands.
                if self.gate.as_ref().is_some_and(|mut gate| gate.read(&mut byte).is_ok_and(|count| count == 1))
                    && let Some(code) = self.key(byte[0], &mut line)
                {
                    return code;
                }
            }
            if self.reads_stdin && ready[usize::from(gate) + 1] {
                let mut byte = [0_u8];
                // SAFETY: read writes at most one byte into the array. std's stdin would read ahead.
                match unsafe { libc::read(stdin.as_raw_fd(), byte.as_mut_ptr().cast(), 1) } {
                    1 => {
                        if let Some(code) = self.key(byte[0], &mut line) {
                            return code;
                        }
                    }
                    0 => {
                        say("end of input");
                        return 9;
                    }
                    _ => {
                        let error = std::io::Error::last_os_error();
                        if error.kind() != std::io::ErrorKind::Interrupted {
                            say(&format!("cannot read: {error}"));
                            return 8;
                        }
                    }
                }
            }
        }
    }

    /// One byte of input; the exit code when a whole command says so.
    fn key(&mut self, byte: u8, line: &mut Vec<u8>) -> Option<i32> {
        match byte {
            b'\r' | b'\n' => {
                let text = String::from_utf8_lossy(line).into_owned();
                line.clear();
                self.obey(&text)
            }
            // In raw mode Ctrl-Z is a byte; a full-screen program restores the terminal and stops its whole group.
            0x1a => {
                self.pause("group");
                None
            }
            0..0x20 => {
                say(&format!("control {byte}"));
                None
            }
            _ => {
                line.push(byte);
                None
            }
        }
    }

    fn obey(&mut self, command: &str) -> Option<i32> {
        match command.split(' ').collect::<Vec<_>>().as_slice() {
            [""] => {}
            ["exit", code] => {
                self.set_cooked();
                return Some(number(code));
            }
            ["die", word] => die(word),
            ["stop", how] => self.pause(how),
            ["raw"] => {
                self.set_raw();
                say("raw");
            }
            ["size"] => say(&format!("size {}", size())),
            ["echo", text] => say(&format!("echo {text}")),
            ["totals"] => {
                // Signals are delivered before a system call returns, so what was sent by now is in the pipe.
                self.take_notes();
                self.totals();
            }
            other => say(&format!("no such command: {other:?}")),
        }
        None
    }

    /// Stops as programs do it: `STOP` itself with SIGSTOP, `TSTP` itself with SIGTSTP, `group` with kill(0, SIGTSTP).
    fn pause(&mut self, how: &str) {
        let was_raw = self.raw;
        self.set_cooked();
        match how {
            "STOP" => kill(getpid(), Signal::SIGSTOP),
            "TSTP" => kill(getpid(), Signal::SIGTSTP),
            "group" => kill(Pid::from_raw(0), Signal::SIGTSTP),
            _ => panic!("no such way to stop: {how}"),
        }
        .expect("one may signal oneself");
        if was_raw {
            self.set_raw();
        }
        say("back");
    }

    fn set_raw(&mut self) {
        if let Some(cooked) = &self.cooked {
            let mut raw = cooked.clone();
            cfmakeraw(&mut raw);
            tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw).expect("tcsetattr");
        }
        self.raw = true;
    }

    fn set_cooked(&mut self) {
        if let (true, Some(cooked)) = (self.raw, &self.cooked) {
            tcsetattr(std::io::stdin(), SetArg::TCSANOW, cooked).expect("tcsetattr");
        }
        self.raw = false;
    }

    fn take_notes(&mut self) {
        loop {
            let mut sources = [PollFd::new(self.notes.as_fd(), PollFlags::POLLIN)];
            if poll(&mut sources, PollTimeout::ZERO) != Ok(1) {
                return;
            }
            let mut note = [0; 2];
            if self.notes.read_exact(&mut note).is_err() {
                continue;
            }
            let signal = Signal::try_from(i32::from(note[0])).expect("only caught signals are noted");
            let name = &signal.as_str()["SIG".len()..];
            self.caught.push(Caught { name, from_kernel: note[1] == 1 });
            let seen = self.caught.iter().filter(|caught| caught.name == name).count();
            say(&format!("caught {name} {seen}"));
        }
    }

    fn totals(&self) {
        let mut names: Vec<&str> = self.caught.iter().map(|caught| caught.name).collect();
        names.sort_unstable();
        names.dedup();
        let mut text = String::from("totals");
        for name in names {
            let of_this = || self.caught.iter().filter(|caught| caught.name == name);
            let kernel = of_this().filter(|caught| caught.from_kernel).count();
            text.push_str(&format!(" {name}={} (terminal {kernel})", of_this().count()));
        }
        say(&text);
    }
}

fn catch(word: &str) {
    let action = SigAction::new(SigHandler::SigAction(note), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler only writes to a pipe.
    unsafe { sigaction(signal(word), &action) }.expect("the signal can be caught");
}

fn open_fifo(path: &str, gate: bool) -> File {
    OpenOptions::new()
        .read(gate)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(path)
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}
