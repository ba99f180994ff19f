//! What the integration tests share: a hermetic outside [`World`], commands run in it with and without
//! guard ([`Run`]), and what they gave back ([`Output`], [`Process`]).
//!
//! Declare it with `mod support;` and start with `World::new()`. Tests never touch the machine's own
//! `/home`, `/root`, `/tmp` or `/etc`: each command sees the world's directories mounted over them.
#![allow(dead_code, unused_imports, reason = "each test binary uses its own part of the harness")]

mod output;
mod process;
mod run;
mod tools;
mod world;

pub use output::Output;
pub use process::Process;
pub use run::Run;
pub use tools::{DEADLINE, need, poll_until};
pub use world::{User, World};
