//! The profile file as written: TOML tables and keys, nothing resolved.
//!
//! In: the text of one file. Out: [`Profile`], whose lists keep the byte span of every entry so that each rule can
//! name the line it came from. This module must not look at the machine: paths are strings here.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

/// A string together with the byte range it was read from.
pub type Text = Spanned<String>;

/// One profile file. Every table may be left out; what is left out grants nothing.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// One line for `guard profile list`.
    pub description: Option<String>,
    /// Names of profiles laid under this one, weakest first.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub extends: Vec<Text>,
    /// The least protection the agent may start with. Default `full`.
    #[schemars(with = "Option<Require>")]
    pub require: Option<Spanned<Require>>,
    /// What makes a command an agent, and what that agent needs. Only in agent profiles.
    pub agent: Option<Agent>,
    /// When this toolchain pack applies. Only in toolchain packs.
    pub detect: Option<Detect>,
    /// Files and directories.
    #[serde(default)]
    pub fs: Fs,
    /// Environment variables.
    #[serde(default)]
    pub env: EnvRules,
    /// Network access.
    #[serde(default)]
    pub network: Network,
    /// UNIX sockets of the user's session, by name.
    #[serde(default)]
    pub sockets: Sockets,
    /// Commands the agent cannot execute.
    #[serde(default)]
    pub commands: Commands,
    /// Limits on what a session may use up.
    #[serde(default)]
    pub resources: Resources,
    /// What guard prints when a session starts.
    #[serde(default)]
    pub start: Start,
}

/// The least protection a profile accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Require {
    /// Landlock alone will do where namespaces cannot be had; every lost promise is listed at the start.
    Landlock,
    /// Both locks: a new root in namespaces, and Landlock on the same paths.
    Full,
}

/// What makes a command an agent.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Names on PATH that start this agent.
    #[serde(default)]
    pub commands: Vec<String>,
    /// What package runners call it (`npx NAME`, `uvx NAME`).
    #[serde(default)]
    pub packages: Vec<String>,
    /// Arguments put before the user's own, only inside a verified sandbox; shown on the start line.
    #[serde(default)]
    pub sandbox_args: Vec<String>,
    /// Files in a project that steer this agent: instructions, settings, MCP servers.
    #[serde(default)]
    pub instructions: Vec<String>,
}

/// When a toolchain pack applies: any one match is enough.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Detect {
    /// Names in the project's top directory or the current one; `*` matches within a name.
    #[serde(default)]
    pub files: Vec<String>,
    /// Paths on the machine, `~` allowed.
    #[serde(default)]
    pub paths: Vec<String>,
}

/// Files and directories. A path is absolute, or starts with `~/` (the user's home) or `$PROJECT`. A rule on a
/// directory covers what is below it; the most specific rule wins, and for one path the later layer.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fs {
    /// Readable and executable. Skipped where it does not exist.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub read: Vec<Text>,
    /// Readable, writable and executable. Skipped where it does not exist.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub write: Vec<Text>,
    /// Directories an agent keeps its own state in: like `write`, but made (mode 0700) where they do not exist.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub state: Vec<Text>,
    /// Directories read from the user's and written to a private layer that only this project's sandbox sees.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub overlay: Vec<Text>,
    /// Not there at all, also below something granted.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub deny: Vec<Text>,
    /// Read-only below something writable, since something outside obeys or executes it later.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub protect: Vec<Text>,
    /// Shown as empty: a directory without entries, a file without content.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub mask: Vec<Text>,
    /// What guard makes in the real home where it is absent, so that `protect` has something to hold on to: a path
    /// with its content, or a path ending in `/` with an empty string for a directory.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub create: BTreeMap<Text, String>,
    /// Files written by atomic rename and shared between the sandbox and the real home by merging.
    #[serde(default)]
    pub merge: Vec<Merge>,
}

/// A JSON file that the agent replaces by rename, which a mount would break: the sandbox sees a copy, and guard's
/// waiting parent carries changes over in both directions, key by key.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Merge {
    /// The real file, in the user's home.
    #[schemars(with = "String")]
    pub file: Text,
    /// Keys whose changes inside never reach the real file, as dotted paths; `*` matches any one key.
    #[serde(default)]
    pub keep_outside: Vec<String>,
    /// A key whose entries are named by directory: only the entry of this project is carried out.
    pub by_project: Option<String>,
}

/// Environment variables. Names may contain `*`. Nothing passes that is not allowed.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvRules {
    /// Passed through when set, unless the value looks like a secret.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub allow: Vec<Text>,
    /// Passed through when set even if the value looks like a secret: the agent's own keys.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub secrets: Vec<Text>,
    /// Never passed.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub deny: Vec<Text>,
    /// Set inside to this value; `~/` at the start means the user's home.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub set: BTreeMap<Text, String>,
}

/// Network access.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Default `open`.
    #[schemars(with = "Option<NetworkMode>")]
    pub mode: Option<Spanned<NetworkMode>>,
}

/// What the sandbox reaches over the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// Everything the machine reaches.
    Open,
    /// Host names of an allow-list only. Refused until guard has its proxy.
    Filtered,
    /// Its own loopback only.
    None,
}

/// UNIX sockets of the user's session. A socket reaches a process outside the sandbox, so each is off by default.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sockets {
    /// `$SSH_AUTH_SOCK`: sign with every loaded key.
    #[schemars(with = "Option<bool>")]
    pub ssh_agent: Option<Spanned<bool>>,
    /// gpg-agent's socket: sign and decrypt with every key.
    #[schemars(with = "Option<bool>")]
    pub gpg_agent: Option<Spanned<bool>>,
    /// `/run/docker.sock`: root on this machine.
    #[schemars(with = "Option<bool>")]
    pub docker: Option<Spanned<bool>>,
    /// `$WAYLAND_DISPLAY`: read and write the clipboard, open windows.
    #[schemars(with = "Option<bool>")]
    pub wayland: Option<Spanned<bool>>,
    /// `/tmp/.X11-unix`: see and type into every X11 window.
    #[schemars(with = "Option<bool>")]
    pub x11: Option<Spanned<bool>>,
}

/// Commands the agent cannot execute.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Commands {
    /// Names looked up in every directory of PATH; each file found is masked. A copy the agent brings itself still
    /// runs: a guard rail, not a lock.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub deny: Vec<Text>,
}

/// Limits on what a session may use up. Sizes are bytes with an optional `K`, `M` or `G` (powers of 1024).
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Processes and threads at once in this sandbox (RLIMIT_NPROC in its user namespace).
    #[schemars(with = "Option<u64>")]
    pub processes: Option<Spanned<u64>>,
    /// Writable private memory of each process (RLIMIT_DATA).
    #[schemars(with = "Option<String>")]
    pub memory: Option<Text>,
    /// Size of the private `/tmp`, in memory.
    #[schemars(with = "Option<String>")]
    pub tmp: Option<Text>,
}

/// What guard prints when a session starts.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// No start line.
    pub quiet: Option<bool>,
}
