//! A session: from a plan to the agent's end, in guard's waiting parent.
//!
//! In: a plan. Out: how the agent [`Ended`], to be reported as the bare program would have. One thread waits on
//! signals, the supervisor and the files it keeps. The terminal's signals it lets pass: the agent is in the same
//! process group and has had them.

pub mod merge;
pub mod store;

use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::{Pid, getpgrp, getpid, tcgetpgrp, tcsetpgrp};

use crate::env::Env;
use crate::path::AbsPath;
use crate::plan::{Plan, Tier};
use crate::sandbox::{self, Command, Report, StartError, Supervised, sys};

/// How the agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Code(u8),
    /// By this signal.
    Signal(i32),
}

/// What a session came to.
#[derive(Debug)]
pub struct Outcome {
    /// How the agent ended.
    pub ended: Ended,
    /// Protected paths that did not exist when it started and do now.
    pub appeared: Vec<AbsPath>,
    /// What could not be kept equal, with the reason.
    pub unkept: Vec<(AbsPath, io::Error)>,
}

/// What this process does with its standard input and output while the agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdio {
    /// Lets go of them: a pipe must end when the agent closes it, not when the session does.
    Release,
    /// Keeps them, for what is printed afterwards.
    Keep,
}

/// How long to wait for a lock that a program outside holds.
const RETRY_MILLISECONDS: u16 = 100;

/// Runs the agent to its end. `secrets` is what guard was started with; it is wiped when the agent starts.
///
/// # Errors
/// [`StartError`]: nothing of the agent has run, and this process is as it was, so that another plan can be tried.
pub fn run(plan: &Plan, announce: Option<&str>, stdio: Stdio, secrets: &mut Env) -> Result<Outcome, StartError> {
    let mut mask = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, None, Some(&mut mask)).map_err(|e| error("cannot read the signal mask", e))?;
    let result = attempt(plan, announce, stdio, secrets);
    if result.is_err() {
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None).map_err(|e| error("cannot restore signals", e))?;
    }
    result
}

fn attempt(plan: &Plan, announce: Option<&str>, stdio: Stdio, secrets: &mut Env) -> Result<Outcome, StartError> {
    sandbox::prepare(plan)?;
    let mut keeper = Keeper::new(plan);
    keeper.round();
    let terminal = Terminal::remember();
    let supervised = sandbox::start(plan, announce, secrets)?;
    if plan.tier == Tier::Landlock {
        // Should the supervisor be killed, what is left comes here.
        sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1).map_err(|e| error("cannot become the subreaper", e))?;
    }
    let ended = wait(&supervised, &mut keeper, stdio, secrets)?;
    terminal.restore(ended);
    keeper.last_round();
    let appeared =
        plan.absent.iter().map(|(path, _)| path).filter(|p| fs::symlink_metadata(p).is_ok()).cloned().collect();
    Ok(Outcome { ended, appeared, unkept: keeper.unkept })
}

/// The agent is about to run: nobody may look into this process, and what it need not know any more it forgets.
fn settle(stdio: Stdio, secrets: &mut Env) -> Result<(), StartError> {
    secrets.wipe();
    sys::prctl(libc::PR_SET_DUMPABLE, 0).map_err(|e| error("cannot close this process to others", e))?;
    // Standard error stays, for what there is to say at the end.
    if stdio == Stdio::Release
        && let Ok(null) = fs::File::options().read(true).write(true).open("/dev/null")
    {
        for standard in 0..2 {
            sys::replace_fd(null.as_fd(), standard).map_err(|e| error("cannot let go of the terminal", e))?;
        }
    }
    Ok(())
}

fn error(what: &str, source: Errno) -> StartError {
    StartError { what: what.into(), source, lost: None, exit_code: 125 }
}

fn wait(
    supervised: &Supervised,
    keeper: &mut Keeper<'_>,
    stdio: Stdio,
    secrets: &mut Env,
) -> Result<Ended, StartError> {
    let signals = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|e| error("cannot read signals", e))?;
    // Between a question and its answer, reports are of what was before.
    let mut asked = false;
    let mut stop_sent = false;
    loop {
        let mut polled =
            vec![PollFd::new(supervised.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let timeout = if keeper.busy { PollTimeout::from(RETRY_MILLISECONDS) } else { PollTimeout::NONE };
        if let Some(inotify) = &keeper.inotify {
            polled.push(PollFd::new(inotify.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(error("cannot wait for the agent", e)),
        }
        let ready: Vec<bool> = polled.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        pass_on(&signals, supervised, &mut stop_sent);
        if ready[0] {
            match supervised.report() {
                Ok(Some(Report::Failed(failure))) => {
                    end(supervised);
                    return Err(failure);
                }
                Ok(Some(Report::Ready)) => {
                    settle(stdio, secrets)?;
                    if let Err(e) = supervised.go() {
                        end(supervised);
                        return Err(error("cannot let the agent start", e));
                    }
                }
                Ok(Some(Report::Stopped { signal, nth, answer: true })) => {
                    // A continuation that came before the stop would be lost: a stop signal discards it.
                    if !pass_on(&signals, supervised, &mut stop_sent) {
                        stop_sent = false;
                        stop(signal);
                    }
                    supervised.tell(Command::Continue(nth));
                    asked = true;
                }
                Ok(Some(Report::Stopped { answer: false, .. })) => {
                    // The whole group may have been continued before guard came to read of the stop; to stop now
                    // would be to stop for ever, with the agent running.
                    if !asked {
                        supervised.tell(Command::Confirm);
                        asked = true;
                    }
                }
                Ok(Some(Report::Running)) => asked = false,
                Ok(Some(Report::Ended(status))) => {
                    end(supervised);
                    return Ok(ended(status));
                }
                Err(e) => {
                    end(supervised);
                    return Err(error("cannot hear from the sandbox", e));
                }
                Ok(None) => {
                    // Killed: so was, by the kernel or below, everything in the sandbox. It does not end silently
                    // by itself unless it cannot speak.
                    return match ended(end(supervised)) {
                        Ended::Signal(signal) => Ok(Ended::Signal(signal)),
                        Ended::Code(_) => Err(error("cannot hear from the sandbox", Errno::ECONNRESET)),
                    };
                }
            }
        }
        if keeper.busy || ready.get(2).copied().unwrap_or(false) {
            keeper.changed();
        }
    }
}

/// Reads what signals there are, and tells the supervisor of those that were meant for the agent. Returns whether
/// SIGCONT was among them. `stop_sent`: a stop signal to guard alone was passed on, and no SIGCONT since.
fn pass_on(signals: &SignalFd, supervised: &Supervised, stop_sent: &mut bool) -> bool {
    let mut continued = false;
    while let Ok(Some(info)) = signals.read_signal() {
        let signal = info.ssi_signo as i32;
        let mut for_agent = is_for_agent(signal, info.ssi_code);
        match signal {
            libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU if for_agent => *stop_sent = true,
            libc::SIGCONT => {
                for_agent = std::mem::take(stop_sent);
                continued = true;
            }
            _ => {}
        }
        if for_agent {
            supervised.tell(Command::Signal(signal));
        }
    }
    continued
}

/// Whether a signal that guard got was meant for the agent and did not reach it as well.
fn is_for_agent(signal: i32, code: i32) -> bool {
    match signal {
        // What continues guard has continued the group; where not, `Command::Continue` continues the agent. A late
        // SIGCONT would undo the next Ctrl-Z, and that has discarded the supervisor's own copy.
        libc::SIGCHLD | libc::SIGPIPE | libc::SIGCONT => false,
        // From the terminal the whole process group has it; a hang-up goes to the session's leader alone.
        libc::SIGINT | libc::SIGQUIT | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU | libc::SIGWINCH => code <= 0,
        _ => true,
    }
}

fn ended(status: i32) -> Ended {
    if libc::WIFSIGNALED(status) {
        Ended::Signal(libc::WTERMSIG(status))
    } else {
        Ended::Code(libc::WEXITSTATUS(status) as u8)
    }
}

/// Ends the supervisor, and in the landlock tier what is left of its descendants. Returns its raw status.
fn end(supervised: &Supervised) -> i32 {
    let mut own = libc::SIGKILL;
    loop {
        match sys::wait_raw(-1, libc::WNOHANG) {
            Ok(Some((pid, status))) if pid == supervised.pid.as_raw() => own = status,
            Ok(Some(_)) | Err(Errno::EINTR) => {}
            Ok(None) => {
                // A supervisor that has reported is about to exit; killing it changes nothing but the wait.
                let text = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
                for child in text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()) {
                    let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
                }
                if let Ok(Some((pid, status))) = sys::wait_raw(-1, 0)
                    && pid == supervised.pid.as_raw()
                {
                    own = status;
                }
            }
            Err(_) => return own,
        }
    }
}

/// Stops this process as the agent was stopped, so that the shell sees its job stop. Returns when it is continued.
fn stop(signal: i32) {
    let by = match signal {
        libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU if !sys::is_ignored(signal) => signal,
        _ => libc::SIGSTOP,
    };
    let Ok(by) = Signal::try_from(by) else { return };
    let _ = kill(getpid(), by);
    let only = SigSet::from(by);
    // Unblocking delivers it: this process stops here.
    let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&only), None);
    let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&only), None);
}

/// What the terminal was like before the agent had it.
struct Terminal {
    modes: Option<Termios>,
    was_foreground: bool,
}

impl Terminal {
    fn remember() -> Self {
        let stdin = io::stdin();
        let modes = if stdin.is_terminal() { tcgetattr(stdin.as_fd()).ok() } else { None };
        Self { modes, was_foreground: tty().is_some_and(|tty| tcgetpgrp(tty).is_ok_and(|group| group == getpgrp())) }
    }

    /// Puts it back: the group in the foreground, if an agent that made its own is gone; the modes, if it was killed
    /// before it could.
    fn restore(&self, ended: Ended) {
        if !self.was_foreground {
            return;
        }
        let Some(tty) = tty() else { return };
        // Signals are blocked here, so the kernel lets a background process do this.
        if tcgetpgrp(&tty).is_ok_and(|group| group != getpgrp()) {
            let _ = tcsetpgrp(&tty, getpgrp());
        }
        if let (Ended::Signal(_), Some(modes)) = (ended, &self.modes) {
            let _ = tcsetattr(&tty, SetArg::TCSADRAIN, modes);
        }
    }
}

fn tty() -> Option<fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    fs::File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open("/dev/tty").ok()
}

/// Keeps merged files equal while the session lasts.
struct Keeper<'a> {
    plan: &'a Plan,
    inotify: Option<Inotify>,
    names: Vec<(WatchDescriptor, OsString)>,
    busy: bool,
    unkept: Vec<(AbsPath, io::Error)>,
}

impl<'a> Keeper<'a> {
    fn new(plan: &'a Plan) -> Self {
        let mut keeper = Self { plan, inotify: None, names: Vec::new(), busy: false, unkept: Vec::new() };
        if plan.merged.is_empty() {
            return keeper;
        }
        // Without a watch the rounds at the start and the end still carry everything over.
        let Ok(inotify) = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK) else { return keeper };
        let flags = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE;
        for (dir, name) in plan.merged.iter().flat_map(merge::watched) {
            if let Ok(watch) = inotify.add_watch(dir.as_path(), flags) {
                keeper.names.push((watch, name));
            }
        }
        keeper.inotify = Some(inotify);
        keeper
    }

    fn round(&mut self) {
        self.busy = false;
        self.unkept.clear();
        for pair in &self.plan.merged {
            match merge::sync(pair, self.plan.project.as_ref()) {
                Ok(merge::Round::Done) => {}
                Ok(merge::Round::Busy) => self.busy = true,
                Err(e) => self.unkept.push((pair.real.clone(), e)),
            }
        }
    }

    /// A round if something happened to one of the files.
    fn changed(&mut self) {
        let mut wanted = self.busy;
        if let Some(inotify) = &self.inotify {
            while let Ok(events) = inotify.read_events() {
                if events.is_empty() {
                    break;
                }
                wanted |= events.iter().any(|e| {
                    e.name.as_ref().is_none_or(|n| self.names.iter().any(|(watch, name)| *watch == e.wd && name == n))
                });
            }
        }
        if wanted {
            self.round();
        }
    }

    /// The last chance; a lock that stays is waited for until it would be stale.
    fn last_round(&mut self) {
        const MOST_TRIES: usize = 110;
        for _ in 0..MOST_TRIES {
            self.round();
            if !self.busy {
                return;
            }
            let _ = poll(&mut [], PollTimeout::from(RETRY_MILLISECONDS));
        }
    }
}

/// Ends this process as the agent ended, so that whoever waits sees what the bare program would have shown.
pub fn end_as(ended: Ended) -> ! {
    match ended {
        Ended::Code(code) => sys::exit_now(i32::from(code)),
        Ended::Signal(number) => {
            if let Ok(signal) = Signal::try_from(number) {
                // The agent's death may have left a core file; guard's would be of the wrong program.
                let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
                let _ = sys::default_disposition(number);
                let _ = kill(getpid(), signal);
                let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&SigSet::from(signal)), None);
            }
            sys::exit_now(128 + number)
        }
    }
}
