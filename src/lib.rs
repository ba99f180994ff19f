//! guard starts AI coding agents in an OS sandbox fitted to the directory they run in.
//!
//! One direction: what was typed ([`cli`]) becomes a [`policy`] (what is meant), a [`plan`] (what this host will do),
//! and a [`sandbox`] (system calls) that a [`session`] watches over. Everything up to the plan is a pure function of
//! printable values.
//!
//! The library exists for the `guard` binary and its tests; its interface follows them and is not stable.

pub mod account;
pub mod cli;
pub mod env;
pub mod host;
pub mod path;
pub mod plan;
pub mod policy;
pub mod profile;
pub mod program;
pub mod project;
pub mod sandbox;
pub mod secret;
pub mod session;
pub mod start;
pub mod tree;
