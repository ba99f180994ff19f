//! Every way out of the sandbox that is known to us, tried for real: outside, where it must work, and inside, where
//! it must not, as an ordinary user and as root, in both tiers.
//!
//! The tables follow the threat table: reading secrets, reading them indirectly, other processes, the environment,
//! persistence, IPC, network, terminal, kernel and privilege, and guard itself before it has locked down. What a
//! tier cannot stop stands in the table as a gap with its reason, and is tried too, so that the list stays true.

mod support;

#[path = "attacks/scene.rs"]
mod scene;
#[path = "attacks/table.rs"]
mod table;

#[path = "attacks/ipc.rs"]
mod ipc;
#[path = "attacks/kernel.rs"]
mod kernel;
#[path = "attacks/limits.rs"]
mod limits;
#[path = "attacks/network.rs"]
mod network;
#[path = "attacks/persist.rs"]
mod persist;
#[path = "attacks/processes.rs"]
mod processes;
#[path = "attacks/secrets.rs"]
mod secrets;
#[path = "attacks/subvert.rs"]
mod subvert;
#[path = "attacks/terminal.rs"]
mod terminal;
