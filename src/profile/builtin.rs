//! The profiles that come with the binary, indexed at build time by what a start asks for.

/// What a built-in profile is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuiltinKind {
    /// Part of every sandbox.
    Base,
    /// A toolchain pack.
    Toolchain,
    /// An agent, or `shell` for any other command.
    Agent,
}

/// A profile compiled in.
#[derive(Debug)]
pub struct Builtin {
    /// Its name, as `extends` and `--profile` take it.
    pub name: &'static str,
    /// What it is for.
    pub kind: BuiltinKind,
    /// The file in guard's sources, which origins name.
    pub file: &'static str,
    /// Its text.
    pub text: &'static str,
    /// Commands that start the agent.
    pub commands: &'static [&'static str],
    /// What package runners call it.
    pub packages: &'static [&'static str],
    /// Project files that call for the pack.
    pub files: &'static [&'static str],
    /// Paths on the machine that call for the pack.
    pub paths: &'static [&'static str],
}

/// All of them, base first.
pub static BUILTINS: &[Builtin] = include!(concat!(env!("OUT_DIR"), "/builtin.rs"));

/// The built-in profile of this name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Builtin> {
    BUILTINS.iter().find(|b| b.name == name)
}

/// The agent profile whose command this is.
#[must_use]
pub fn by_command(command: &str) -> Option<&'static Builtin> {
    BUILTINS.iter().find(|b| b.commands.contains(&command))
}
