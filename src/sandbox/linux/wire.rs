//! What the process that supervises the agent and guard's waiting parent say to each other.
//!
//! A socket pair of sequenced packets: one message, one packet; the end of the other side is the end of file.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

use crate::host::{Capability, NamespaceFault};

/// What the sandbox reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The start failed before the agent ran.
    Failed(StartError),
    /// Every check has passed; the agent starts when it is told to.
    Ready,
    /// The agent was stopped.
    Stopped {
        /// By which signal.
        signal: i32,
        /// Which of its stops this is, from 1.
        nth: u32,
        /// Whether this answers a question: it is how things are now.
        answer: bool,
    },
    /// The other answer: the agent runs.
    Running,
    /// The agent has ended, with this wait status; nothing of it is left.
    Ended(i32),
}

/// What guard's parent tells the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Let the agent start.
    Go,
    /// Pass this signal on to the agent.
    Signal(i32),
    /// Is the agent stopped? Always answered.
    Confirm,
    /// guard was stopped together with the agent's stop of this number, and has been continued. Always answered.
    Continue(u32),
}

/// A start that failed. Nothing of the agent has run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct StartError {
    /// The act that failed, in guard's verbs.
    pub what: String,
    /// The system's answer.
    #[source]
    pub source: Errno,
    /// The capability that this shows to be missing on the host.
    pub lost: Option<Capability>,
    /// The exit code: 125, or 126 and 127 for a program that cannot be executed.
    pub exit_code: u8,
}

impl StartError {
    /// A failure of guard's own.
    pub(super) fn new(what: impl Into<String>, source: Errno) -> Self {
        Self { what: what.into(), source, lost: None, exit_code: 125 }
    }

    /// The same, as the sign of a missing capability.
    pub(super) fn losing(mut self, capability: Capability) -> Self {
        self.lost = Some(capability);
        self
    }
}

/// One end of the pair.
#[derive(Debug)]
pub(super) struct Channel(pub(super) OwnedFd);

/// Longest packet: a message with a path in it.
const MOST_BYTES: usize = 8192;

impl Channel {
    pub(super) fn pair() -> Result<(Self, Self), Errno> {
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self(a), Self(b)))
    }

    pub(super) fn report(&self, report: &Report) -> Result<(), Errno> {
        self.send(&encode(report))
    }

    pub(super) fn command(&self, command: Command) -> Result<(), Errno> {
        let (kind, number) = match command {
            Command::Go => (b'g', [0; 4]),
            Command::Signal(signal) => (b's', signal.to_le_bytes()),
            Command::Continue(nth) => (b'c', nth.to_le_bytes()),
            Command::Confirm => (b'?', [0; 4]),
        };
        self.send(&[&[kind][..], &number].concat())
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        send(self.0.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL).map(drop)
    }

    /// The next packet, or `None` when the other side is gone. Waits.
    fn receive(&self, flags: MsgFlags) -> Result<Option<Vec<u8>>, Errno> {
        let mut buffer = vec![0; MOST_BYTES];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, flags) {
                Ok(0) | Err(Errno::ECONNRESET) => return Ok(None),
                Ok(length) => {
                    buffer.truncate(length);
                    return Ok(Some(buffer));
                }
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e),
            }
        }
    }

    pub(super) fn next_report(&self) -> Result<Option<Report>, Errno> {
        Ok(self.receive(MsgFlags::empty())?.and_then(|bytes| decode(&bytes)))
    }

    pub(super) fn next_command(&self) -> Result<Option<Command>, Errno> {
        let bytes = self.receive(MsgFlags::empty())?;
        Ok(bytes.and_then(|bytes| {
            let (kind, number) = bytes.split_first()?;
            let number: [u8; 4] = number.try_into().ok()?;
            match kind {
                b'g' => Some(Command::Go),
                b's' => Some(Command::Signal(i32::from_le_bytes(number))),
                b'c' => Some(Command::Continue(u32::from_le_bytes(number))),
                b'?' => Some(Command::Confirm),
                _ => None,
            }
        }))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn encode(report: &Report) -> Vec<u8> {
    let (kind, number) = match report {
        Report::Failed(error) => (b'F', error.source as i32),
        Report::Ready => (b'R', 0),
        Report::Stopped { signal, answer: false, .. } => (b'S', *signal),
        Report::Stopped { signal, answer: true, .. } => (b'A', *signal),
        Report::Running => (b'G', 0),
        Report::Ended(status) => (b'E', *status),
    };
    let mut bytes = vec![kind];
    bytes.extend(number.to_le_bytes());
    if let Report::Stopped { nth, .. } = report {
        bytes.extend(nth.to_le_bytes());
    }
    if let Report::Failed(error) = report {
        let (lost, errno) = match error.lost {
            None => (0, 0),
            Some(Capability::Overlay) => (1, 0),
            Some(Capability::Namespaces(NamespaceFault::Refused(e))) => (2, e as i32),
            Some(Capability::Namespaces(NamespaceFault::ProcMasked(e))) => (3, e as i32),
            // Settings, which a start reads and does not find out.
            Some(Capability::Namespaces(
                NamespaceFault::DebianSwitch | NamespaceFault::Maximum | NamespaceFault::AppArmor,
            )) => (0, 0),
        };
        bytes.push(lost);
        bytes.extend(errno.to_le_bytes());
        bytes.push(error.exit_code);
        let room = MOST_BYTES - bytes.len();
        bytes.extend(error.what.as_bytes().iter().take(room));
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<Report> {
    let number = |at: usize| Some(i32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let value = number(1)?;
    Some(match bytes.first()? {
        b'R' => Report::Ready,
        kind @ (b'S' | b'A') => {
            let nth = u32::from_le_bytes(bytes.get(5..9)?.try_into().ok()?);
            Report::Stopped { signal: value, nth, answer: *kind == b'A' }
        }
        b'G' => Report::Running,
        b'E' => Report::Ended(value),
        b'F' => {
            let errno = Errno::from_raw(number(6)?);
            let lost = match bytes.get(5)? {
                1 => Some(Capability::Overlay),
                2 => Some(Capability::Namespaces(NamespaceFault::Refused(errno))),
                3 => Some(Capability::Namespaces(NamespaceFault::ProcMasked(errno))),
                _ => None,
            };
            let what = String::from_utf8_lossy(bytes.get(11..)?).into_owned();
            Report::Failed(StartError { what, source: Errno::from_raw(value), lost, exit_code: *bytes.get(10)? })
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        let (a, b) = Channel::pair().unwrap();
        let error = StartError::new("cannot mount /x", Errno::EPERM);
        for report in [
            Report::Failed(error.clone()),
            Report::Failed(StartError { exit_code: 127, ..error.clone() }),
            Report::Failed(error.clone().losing(Capability::Overlay)),
            Report::Failed(error.losing(Capability::Namespaces(NamespaceFault::ProcMasked(Errno::EPERM)))),
            Report::Ready,
            Report::Stopped { signal: 19, nth: 7, answer: false },
            Report::Stopped { signal: 20, nth: 8, answer: true },
            Report::Running,
            Report::Ended(256),
        ] {
            a.report(&report).unwrap();
            assert_eq!(b.next_report().unwrap(), Some(report));
        }
        for command in [Command::Go, Command::Signal(15), Command::Continue(7), Command::Confirm] {
            b.command(command).unwrap();
            assert_eq!(a.next_command().unwrap(), Some(command));
        }
        drop(b);
        assert_eq!(a.next_command().unwrap(), None);
    }
}
