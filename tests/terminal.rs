//! The terminal and the process: a command started by guard looks, to the person at the keyboard, to their shell and
//! to itself, as it would without guard.
//!
//! Every row is played three times: bare, which is the control and shows that the row tests something, inside guard,
//! and inside guard in its weaker tier; each time as an ordinary user and as root. What was observed is one line of
//! text. Most rows want the same line three times; where guard differs on purpose the row says so.
//!
//! After each play inside guard no process of it may be left.

mod support;

#[path = "support/pty.rs"]
mod pty;

#[path = "terminal/sitting.rs"]
mod sitting;

#[path = "terminal/jobs.rs"]
mod jobs;
#[path = "terminal/plumbing.rs"]
mod plumbing;
#[path = "terminal/scripts.rs"]
mod scripts;
#[path = "terminal/shells.rs"]
mod shells;
