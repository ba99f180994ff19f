//! The process between guard's waiting parent and the agent: PID 1 in the full tier, a subreaper in the other.
//!
//! It reaps, passes on signals that were meant for the agent, reports stops and the end, and leaves nothing running.
//! It is under the same locks as the agent. Signals of the terminal it ignores: the agent is in the same process
//! group and has had them.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::WaitPidFlag;
use nix::unistd::Pid;

use super::wire::{Channel, Command, Report};
use crate::plan::Tier;
use crate::sandbox::sys;

/// A signal sent to the whole process group reaches guard's parent, this process and the agent within microseconds
/// of each other; what the parent then asks to pass on has arrived already. How late the parent asks depends on the
/// machine's load.
const SAME_SIGNAL: Duration = Duration::from_secs(5);

/// Runs until the agent has ended and nothing of the session is left. Returns the agent's wait status.
pub(super) fn supervise(agent: Pid, go: OwnedFd, channel: &Channel, tier: Tier) -> Result<i32, Errno> {
    let signals = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut had: BTreeMap<i32, Instant> = BTreeMap::new();
    // The signal and the number of the stop that the agent is in now, and how often it was stopped so far.
    let mut stopped: Option<(i32, u32)> = None;
    let mut stops = 0;
    let mut go = Some(go);
    loop {
        let mut polled =
            [PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(channel.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
        let asked = polled[1].any().unwrap_or(false);
        while let Some(info) = signals.read_signal()? {
            // From a process outside, not from the kernel on behalf of the terminal.
            if info.ssi_code <= 0 {
                had.insert(info.ssi_signo as i32, Instant::now());
            }
        }
        let mut question = None;
        let mut may_go = false;
        if asked {
            match channel.next_command()? {
                // guard is gone, killed perhaps: nothing goes on without it.
                None => {
                    end_all(tier);
                    sys::exit_now(137);
                }
                Some(Command::Go) => may_go = true,
                Some(Command::Signal(signal)) => {
                    // Not taken out: one process may have read two signals of a kind and the other one of both.
                    if had.get(&signal).is_none_or(|at| at.elapsed() >= SAME_SIGNAL) {
                        send(agent, signal);
                    }
                }
                Some(command @ (Command::Continue(_) | Command::Confirm)) => question = Some(command),
            }
        }
        while let Some((pid, status)) = reap()? {
            if pid != agent {
                continue;
            }
            if libc::WIFSTOPPED(status) {
                stops += 1;
                let signal = libc::WSTOPSIG(status);
                stopped = Some((signal, stops));
                // The parent is gone or going if this fails, and the next round sees it.
                let _ = channel.report(&Report::Stopped { signal, nth: stops, answer: false });
            } else if libc::WIFCONTINUED(status) {
                stopped = None;
            } else {
                end_all(tier);
                return Ok(status);
            }
        }
        // After the first look at the children has gone well.
        if may_go && let Some(go) = go.take() {
            nix::unistd::write(go, &[1])?;
        }
        // Last, when all that happened to the agent is known. In guard's process group it has had the SIGCONT that
        // continued guard, and may have been stopped anew since: that stop must not be undone.
        if let Some(question) = question {
            let report = match (stopped, question) {
                (None, _) => Report::Running,
                (Some((_, nth)), Command::Continue(of)) if nth == of => {
                    send(agent, libc::SIGCONT);
                    Report::Running
                }
                (Some((signal, nth)), _) => Report::Stopped { signal, nth, answer: true },
            };
            let _ = channel.report(&report);
        }
    }
}

fn send(pid: Pid, signal: i32) {
    if let Ok(signal) = Signal::try_from(signal) {
        // The agent may have ended a moment ago; then its status is on the way.
        let _ = kill(pid, signal);
    }
}

/// The next child that changed, with its raw wait status.
pub(super) fn reap() -> Result<Option<(Pid, i32)>, Errno> {
    let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED | WaitPidFlag::WCONTINUED;
    match sys::wait_raw(-1, flags.bits()) {
        Ok(Some((pid, status))) => Ok(Some((Pid::from_raw(pid), status))),
        Ok(None) | Err(Errno::ECHILD) => Ok(None),
        Err(Errno::EINTR) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Kills whatever descends from this process. In the full tier the kernel does it when PID 1 ends.
pub(super) fn end_all(tier: Tier) {
    if tier == Tier::Full {
        return;
    }
    // Killed children leave theirs to this process (it is their subreaper), so it ends when there are none.
    loop {
        for child in children() {
            let _ = kill(child, Signal::SIGKILL);
        }
        match sys::wait_raw(-1, 0) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// The children of this process (proc_pid_children(5)).
fn children() -> Vec<Pid> {
    let text = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}
