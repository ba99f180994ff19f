//! The sandbox: carries a plan out and gives the agent's process to the session.
//!
//! In: a [`Plan`](crate::plan::Plan). Out: a [`Supervised`] process, or a [`StartError`] after which nothing of the
//! agent has run. It decides nothing: if a step here had to ask about policy, it would be in the wrong module.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub mod sys;

#[cfg(target_os = "linux")]
pub use linux::{Command, Report, StartError, Supervised, prepare, start, try_namespaces};
#[cfg(target_os = "linux")]
pub use sys::landlock_version;
