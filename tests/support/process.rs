//! A running command: feed it, wait for what it prints, signal it, wait for its end. Killed when dropped.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::output::Output;
use super::tools::{DEADLINE, poll_until};

/// A command that was started, with its pipes drained by threads so that it never blocks on the test.
pub struct Process {
    pid: Pid,
    about: String,
    stdin: Option<ChildStdin>,
    stdout: Pipe,
    stderr: Pipe,
    ended: Receiver<ExitStatus>,
    status: Option<ExitStatus>,
}

impl Process {
    pub(super) fn start(mut command: Command, about: String) -> Process {
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start: {error}\n{about}"));
        let stdin = child.stdin.take();
        let stdout = Pipe::drain(child.stdout.take().unwrap());
        let stderr = Pipe::drain(child.stderr.take().unwrap());
        let pid = Pid::from_raw(child.id().cast_signed());
        Process { pid, about, stdin, stdout, stderr, ended: wait_in_thread(child), status: None }
    }

    /// The process id; the command itself, since entering the world execs.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Writes to its stdin and keeps that open.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stdin.as_mut().expect("stdin is still open").write_all(bytes.as_ref()).unwrap();
    }

    /// Writes to its stdin from a thread, then closes it. A reader that went away early is no error.
    pub fn feed(&mut self, bytes: Vec<u8>) {
        let mut stdin = self.stdin.take().expect("stdin is still open");
        std::thread::spawn(move || stdin.write_all(&bytes));
    }

    /// Closes its stdin.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// What it has written to stdout so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until stdout contains `text`, and gives all of stdout so far.
    pub fn wait_for(&mut self, text: &str) -> String {
        poll_until(&format!("{text:?} on stdout of\n{}\n--- stderr\n{}", self.about, self.stderr()), || {
            let seen = self.stdout.text().contains(text);
            assert!(seen || !self.has_ended(), "ended without printing {text:?}\n{}", self.now());
            seen
        });
        self.stdout()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.ended.try_recv().ok();
        }
        self.status.is_some()
    }

    /// Closes stdin and waits for the end.
    ///
    /// # Panics
    /// When it does not end within [`DEADLINE`].
    pub fn finish(mut self) -> Output {
        self.stdin = None;
        if self.status.is_none() {
            self.status = self.ended.recv_timeout(DEADLINE).ok();
        }
        let Some(status) = self.status else {
            panic!("still running after {DEADLINE:?}\n{}", self.now());
        };
        // A daemon the command left behind may hold the pipes open for ever: then take what there is.
        self.stdout.settle();
        self.stderr.settle();
        Output { status, stdout: self.stdout.bytes(), stderr: self.stderr.bytes(), about: self.about.clone() }
    }

    fn now(&self) -> String {
        format!("{}\n--- stdout\n{}\n--- stderr\n{}\n---", self.about, self.stdout(), self.stderr())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_ended() {
            // It may end by itself at this very moment; the waiting thread reaps it either way.
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = self.ended.recv_timeout(DEADLINE);
        }
    }
}

fn wait_in_thread(mut child: Child) -> Receiver<ExitStatus> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(child.wait().unwrap()));
    receiver
}

struct Pipe {
    bytes: Arc<Mutex<Vec<u8>>>,
    closed: Receiver<()>,
}

impl Pipe {
    fn drain(mut from: impl Read + Send + 'static) -> Pipe {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let (sender, closed) = channel();
        let sink = Arc::clone(&bytes);
        std::thread::spawn(move || {
            let mut chunk = vec![0; 65536];
            while let Ok(count @ 1..) = from.read(&mut chunk) {
                sink.lock().unwrap().extend_from_slice(&chunk[..count]);
            }
            sender.send(())
        });
        Pipe { bytes, closed }
    }

    /// Waits until the pipe is closed, or for a while.
    fn settle(&self) {
        let _ = self.closed.recv_timeout(Duration::from_secs(5));
    }

    fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }
}
