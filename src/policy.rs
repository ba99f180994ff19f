//! The policy: what all layers together mean, every rule with its origin.
//!
//! In: [`Layer`]s, weakest first, and the [`Places`] their paths speak of. Out: [`Policy`]. Pure: it asks nothing of
//! the machine, so a rule's path is as written and may not exist. Merging is idempotent, and for one path the later
//! layer wins; a terminal rule is above all layers.

use std::collections::BTreeMap;

use toml::Spanned;

use crate::env::EnvPolicy;
use crate::path::AbsPath;
use crate::profile::schema::{NetworkMode, Require, Text};
use crate::profile::{Invalid, Layer, LayerKind, Origin, ProfileError, expand_home};

/// What a rule gives or takes. In this order: of several rules for one path in one layer the last one here wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Read and execute.
    Read,
    /// Read, write, execute.
    Write,
    /// Like `Write`, for an agent's own state: made where it does not exist.
    State,
    /// Read from the user's, written to a private layer.
    Overlay,
    /// Read-only below something writable.
    Protect,
    /// Shown as empty.
    Mask,
    /// Not there.
    Deny,
}

impl Access {
    /// Whether the rule opens something, as opposed to narrowing what another opens.
    #[must_use]
    pub fn grants(self) -> bool {
        match self {
            Self::Read | Self::Write | Self::State | Self::Overlay => true,
            Self::Protect | Self::Mask | Self::Deny => false,
        }
    }

    /// The key in a profile's `[fs]`.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::State => "state",
            Self::Overlay => "overlay",
            Self::Protect => "protect",
            Self::Mask => "mask",
            Self::Deny => "deny",
        }
    }
}

/// One rule on one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What it gives or takes.
    pub access: Access,
    /// Where it comes from.
    pub origin: Origin,
    /// No layer opens this path: what is denied or masked stays so below it too, what is protected stays read-only.
    pub terminal: bool,
}

/// What guard makes in the real home so that `protect` holds on to something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Create {
    /// An empty directory, mode 0700.
    Dir,
    /// A file with this content, mode 0600.
    File(String),
}

/// A JSON file shared by merging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergeRule {
    /// The real file.
    pub file: AbsPath,
    /// Dotted key paths that never leave the sandbox.
    pub keep_outside: Vec<String>,
    /// The key whose entries are named by directory.
    pub by_project: Option<String>,
    /// Where the rule comes from.
    pub origin: Origin,
}

/// A socket of the user's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Socket {
    /// `$SSH_AUTH_SOCK`.
    SshAgent,
    /// gpg-agent.
    GpgAgent,
    /// Docker's.
    Docker,
    /// Wayland's.
    Wayland,
    /// X11's.
    X11,
}

impl Socket {
    /// The key in a profile's `[sockets]`.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::SshAgent => "ssh-agent",
            Self::GpgAgent => "gpg-agent",
            Self::Docker => "docker",
            Self::Wayland => "wayland",
            Self::X11 => "x11",
        }
    }
}

/// Limits of a session; `None` leaves what guard was started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Processes and threads.
    pub processes: Option<u64>,
    /// Bytes of writable private memory for each process.
    pub memory_bytes: Option<u64>,
    /// Bytes of the private `/tmp`.
    pub tmp_bytes: u64,
}

/// The private `/tmp` of a policy whose profiles name no size: what a build needs, and a fraction of what machines
/// have. Memory is used only as files fill it.
const DEFAULT_TMP_BYTES: u64 = 4 << 30;

/// The least a limit may be set to: below, the agent's loader fails in ways nobody would trace to a profile.
const LEAST_TMP_BYTES: u64 = 64 << 10;
const LEAST_MEMORY_BYTES: u64 = 16 << 20;
const LEAST_PROCESSES: u64 = 8;

/// A profile in force, for the start line and the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerName {
    /// The profile's name.
    pub name: String,
    /// What it is.
    pub kind: LayerKind,
    /// Its file.
    pub file: String,
}

/// Directories that the rules speak of.
#[derive(Debug, Clone)]
pub struct Places {
    /// The user's home.
    pub home: AbsPath,
    /// The project's top directory, or `None` when the current directory is not one.
    pub project: Option<AbsPath>,
    /// Git directories of the project that lie outside of it: of a linked worktree or a submodule.
    pub git: Vec<AbsPath>,
    /// What git obeys or executes from the git directories of submodules.
    pub modules: Vec<AbsPath>,
    /// guard's own binary, which no layer lets the agent replace.
    pub guard: Option<AbsPath>,
}

/// What is meant, before asking what this machine can do.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The agent's profile.
    pub agent: String,
    /// Rules by path; the most specific one decides.
    pub rules: BTreeMap<AbsPath, Rule>,
    /// What to make in the real home where it is absent.
    pub create: BTreeMap<AbsPath, Create>,
    /// Files shared by merging.
    pub merges: Vec<MergeRule>,
    /// Variables.
    pub env: EnvPolicy,
    /// Network, and what decided it.
    pub network: (NetworkMode, Origin),
    /// Sockets that are open, and by whose word.
    pub sockets: BTreeMap<Socket, Origin>,
    /// Commands that cannot be executed.
    pub commands: BTreeMap<String, Origin>,
    /// Limits.
    pub resources: Resources,
    /// The least protection accepted, and what decided it.
    pub require: (Require, Origin),
    /// Arguments put before the user's own inside.
    pub sandbox_args: Vec<String>,
    /// Project files that steer the agent.
    pub instructions: Vec<String>,
    /// No start line.
    pub quiet: bool,
    /// The layers, weakest first.
    pub layers: Vec<LayerName>,
    /// Rules that a terminal one overrode: path, whose, and which terminal rule.
    pub overridden: Vec<(AbsPath, Origin, Origin)>,
}

impl Policy {
    /// The rule that decides for a path, as written: symlinks are the plan's business.
    #[must_use]
    pub fn rule(&self, path: &AbsPath) -> Option<(&AbsPath, &Rule)> {
        path.prefixes().find_map(|p| self.rules.get_key_value(p))
    }
}

/// Merges the layers.
///
/// # Errors
/// [`ProfileError::Invalid`] at the first rule that cannot be meant: a path that is relative, has `..`, a wildcard or
/// a control character, or would open the whole home; a size or a variable's name that is none; a mode that does not
/// exist.
pub fn resolve(layers: &[Layer], agent: &str, places: &Places) -> Result<Policy, ProfileError> {
    let default = Origin::text("default");
    let mut policy = Policy {
        agent: agent.to_owned(),
        rules: BTreeMap::new(),
        create: BTreeMap::new(),
        merges: Vec::new(),
        env: EnvPolicy { allow: Vec::new(), secrets: Vec::new(), deny: Vec::new(), set: BTreeMap::new() },
        network: (NetworkMode::Open, default.clone()),
        sockets: BTreeMap::new(),
        commands: BTreeMap::new(),
        resources: Resources { processes: None, memory_bytes: None, tmp_bytes: DEFAULT_TMP_BYTES },
        require: (Require::Full, default),
        sandbox_args: Vec::new(),
        instructions: Vec::new(),
        quiet: false,
        layers: Vec::new(),
        overridden: Vec::new(),
    };
    let mut unnamed = None;
    for layer in layers {
        policy.layers.push(LayerName {
            name: layer.name.clone(),
            kind: layer.kind,
            file: layer.source.name.to_string(),
        });
        match layer.kind {
            LayerKind::Base
            | LayerKind::Toolchain
            | LayerKind::Agent
            | LayerKind::User
            | LayerKind::Directory
            | LayerKind::Project
            | LayerKind::CommandLine => {
                merge_files(&mut policy, layer, places, |_| true)?;
                merge_rest(&mut policy, layer, places)?;
            }
            LayerKind::ManagedGrants => {
                merge_files(&mut policy, layer, places, Access::grants)?;
                merge_rest(&mut policy, layer, places)?;
            }
            LayerKind::ManagedFloor | LayerKind::Terminal => {
                merge_files(&mut policy, layer, places, |access| !access.grants())?;
                merge_floor(&mut policy, layer)?;
            }
        }
        if layer.kind == LayerKind::Base && layer.name == "base" {
            grant_git(&mut policy, places);
        }
        if layer.kind == LayerKind::Base {
            unnamed = places.project.as_ref().and_then(|project| policy.rules.get(project).cloned());
        }
    }
    withhold_project(&mut policy, places, unnamed.as_ref());
    if let Some(guard) = &places.guard {
        let rule = Rule { access: Access::Protect, origin: Origin::text("guard itself"), terminal: true };
        policy.rules.insert(guard.clone(), rule);
    }
    uphold_terminal(&mut policy);
    Ok(policy)
}

/// A git directory outside the project must be writable for a commit, and what git executes or obeys from it must not.
fn grant_git(policy: &mut Policy, places: &Places) {
    let rule = |access| Rule { access, origin: Origin::text("the project's git directory"), terminal: false };
    for path in &places.modules {
        policy.rules.insert(path.clone(), rule(Access::Protect));
    }
    for dir in &places.git {
        policy.rules.insert(dir.clone(), rule(Access::Write));
        for name in ["hooks", "config", "config.worktree", "info/attributes", "commondir", "gitdir"] {
            policy.rules.insert(dir.join(name), rule(Access::Protect));
        }
    }
}

/// A project below `~/.aws` opens nothing of it: only a layer that names the path does, and `unnamed` is base's rule.
fn withhold_project(policy: &mut Policy, places: &Places, unnamed: Option<&Rule>) {
    let Some(project) = &places.project else { return };
    let above = project.prefixes().skip(1).find_map(|p| policy.rules.get(p));
    if unnamed.is_some() && policy.rules.get(project) == unnamed && above.is_some_and(|r| r.access == Access::Deny) {
        policy.rules.remove(project);
    }
}

fn merge_files(
    policy: &mut Policy,
    layer: &Layer,
    places: &Places,
    wanted: impl Fn(Access) -> bool,
) -> Result<(), ProfileError> {
    let fs = &layer.profile.fs;
    let lists = [
        (Access::Read, &fs.read),
        (Access::Write, &fs.write),
        (Access::State, &fs.state),
        (Access::Overlay, &fs.overlay),
        (Access::Protect, &fs.protect),
        (Access::Mask, &fs.mask),
        (Access::Deny, &fs.deny),
    ];
    for (access, list) in lists.into_iter().filter(|(access, _)| wanted(*access)) {
        for text in list {
            let Some(path) = expand(layer, text, places)? else { continue };
            // A grant of the home, or of a directory above it, opens everything the design exists to close.
            // A home below a system directory (/opt/jenkins) is covered by its private stand-in instead.
            if access.grants() && !layer.is_builtin() && places.home.is_within(&path) {
                return Err(layer.invalid(text, Invalid::TooWide));
            }
            let floor = matches!(layer.kind, LayerKind::Terminal | LayerKind::ManagedFloor);
            // A floor's mask must not take the place of a deny; the deny becomes the floor's.
            if floor
                && let Some(rule) = policy.rules.get_mut(&path)
                && rule.access > access
            {
                rule.terminal = true;
                continue;
            }
            policy.rules.insert(path, Rule { access, origin: layer.origin(text), terminal: floor });
        }
    }
    if matches!(layer.kind, LayerKind::Terminal | LayerKind::ManagedFloor) {
        return Ok(());
    }
    for (text, content) in &fs.create {
        let Some(path) = expand(layer, text, places)? else { continue };
        let create = if text.get_ref().ends_with('/') { Create::Dir } else { Create::File(content.clone()) };
        policy.create.insert(path, create);
    }
    for merge in &fs.merge {
        let Some(file) = expand(layer, &merge.file, places)? else { continue };
        policy.merges.retain(|m| m.file != file);
        policy.merges.push(MergeRule {
            file,
            keep_outside: merge.keep_outside.clone(),
            by_project: merge.by_project.clone(),
            origin: layer.origin(&merge.file),
        });
    }
    Ok(())
}

fn merge_rest(policy: &mut Policy, layer: &Layer, places: &Places) -> Result<(), ProfileError> {
    let profile = &layer.profile;
    for (list, into) in [
        (&profile.env.allow, &mut policy.env.allow),
        (&profile.env.secrets, &mut policy.env.secrets),
        (&profile.env.deny, &mut policy.env.deny),
    ] {
        for text in list {
            into.push((env_name(layer, text, true)?, layer.origin(text)));
        }
    }
    for (name, value) in &profile.env.set {
        let value = match value.strip_prefix("~/") {
            Some(rest) => format!("{}/{rest}", places.home.as_path().display()),
            None => value.clone(),
        };
        policy.env.set.insert(env_name(layer, name, false)?, (value, layer.origin(name)));
    }
    if let Some(mode) = &profile.network.mode {
        policy.network = (network(layer, mode)?, layer.origin(mode));
    }
    if let Some(require) = &profile.require {
        policy.require = (*require.get_ref(), layer.origin(require));
    }
    for (socket, open) in sockets(layer) {
        if *open.get_ref() {
            policy.sockets.insert(socket, layer.origin(open));
        } else {
            policy.sockets.remove(&socket);
        }
    }
    for name in &profile.commands.deny {
        policy.commands.insert(command_name(layer, name)?, layer.origin(name));
    }
    let limits = limits(layer)?;
    let resources = &mut policy.resources;
    resources.processes = limits.0.or(resources.processes);
    resources.memory_bytes = limits.1.or(resources.memory_bytes);
    resources.tmp_bytes = limits.2.unwrap_or(resources.tmp_bytes);
    if let Some(agent) = &profile.agent {
        policy.sandbox_args.clone_from(&agent.sandbox_args);
        policy.instructions.clone_from(&agent.instructions);
    }
    policy.quiet = profile.start.quiet.unwrap_or(policy.quiet);
    Ok(())
}

/// What a floor takes away can only add to what the layers below took away.
fn merge_floor(policy: &mut Policy, layer: &Layer) -> Result<(), ProfileError> {
    let profile = &layer.profile;
    for text in &profile.env.deny {
        let name = env_name(layer, text, true)?;
        policy.env.set.retain(|set, _| !crate::env::matches(&name, set));
        policy.env.deny.push((name, layer.origin(text)));
    }
    if let Some(mode) = &profile.network.mode
        && network(layer, mode)? > policy.network.0
    {
        policy.network = (network(layer, mode)?, layer.origin(mode));
    }
    if let Some(require) = &profile.require
        && *require.get_ref() > policy.require.0
    {
        policy.require = (*require.get_ref(), layer.origin(require));
    }
    for (socket, open) in sockets(layer) {
        if !*open.get_ref() {
            policy.sockets.remove(&socket);
        }
    }
    for name in &profile.commands.deny {
        policy.commands.insert(command_name(layer, name)?, layer.origin(name));
    }
    let (processes, memory, tmp) = limits(layer)?;
    let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
    let resources = &mut policy.resources;
    resources.processes = least(processes, resources.processes);
    resources.memory_bytes = least(memory, resources.memory_bytes);
    resources.tmp_bytes = tmp.map_or(resources.tmp_bytes, |t| t.min(resources.tmp_bytes));
    Ok(())
}

/// Takes out every rule at or below a terminal path that would open it.
fn uphold_terminal(policy: &mut Policy) {
    let terminal: BTreeMap<AbsPath, Rule> =
        policy.rules.iter().filter(|(_, r)| r.terminal).map(|(p, r)| (p.clone(), r.clone())).collect();
    let opened = |path: &AbsPath, access: Access| {
        let mut above = path.prefixes().filter_map(|p| terminal.get(p));
        above.find(|by| match by.access {
            Access::Deny => access != Access::Deny,
            Access::Mask => access.grants(),
            Access::Protect => matches!(access, Access::Write | Access::State),
            Access::Read | Access::Write | Access::State | Access::Overlay => false,
        })
    };
    let overridden = &mut policy.overridden;
    policy.rules.retain(|path, rule| match opened(path, rule.access) {
        Some(by) if !rule.terminal => {
            overridden.push((path.clone(), rule.origin.clone(), by.origin.clone()));
            false
        }
        Some(_) | None => true,
    });
    // What is made or shared by merging at such a path would open it as well.
    policy.create.retain(|path, _| opened(path, Access::State).is_none_or(|by| by.access == Access::Protect));
    policy.merges.retain(|merge| match opened(&merge.file, Access::State) {
        Some(by) => {
            overridden.push((merge.file.clone(), merge.origin.clone(), by.origin.clone()));
            false
        }
        None => true,
    });
}

fn expand(layer: &Layer, text: &Text, places: &Places) -> Result<Option<AbsPath>, ProfileError> {
    let written = text.get_ref();
    if written.chars().any(char::is_control) {
        return Err(layer.invalid(text, Invalid::Control));
    }
    // The command line names real files, which may have a star in their name.
    if written.contains('*') && layer.kind != LayerKind::CommandLine {
        return Err(layer.invalid(text, Invalid::Wildcard));
    }
    if written.split('/').any(|part| part == "..") {
        return Err(layer.invalid(text, Invalid::Path(crate::path::PathError::DotDot)));
    }
    if let Some(rest) = written.strip_prefix("$PROJECT")
        && (rest.is_empty() || rest.starts_with('/'))
    {
        return Ok(places.project.as_ref().map(|project| match rest.trim_matches('/') {
            "" => project.clone(),
            below => project.join(below),
        }));
    }
    expand_home(written, &places.home).map(Some).map_err(|e| layer.invalid(text, Invalid::Path(e)))
}

fn env_name(layer: &Layer, text: &Text, wildcard: bool) -> Result<String, ProfileError> {
    let name = text.get_ref();
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_' || (wildcard && c == '*');
    if name.is_empty() || !name.chars().all(valid) {
        return Err(layer.invalid(text, Invalid::EnvName));
    }
    Ok(name.clone())
}

fn command_name(layer: &Layer, text: &Text) -> Result<String, ProfileError> {
    let name = text.get_ref();
    if name.is_empty() || name.contains(['/', '*']) || name.chars().any(char::is_control) {
        return Err(layer.invalid(text, Invalid::CommandName));
    }
    Ok(name.clone())
}

fn network(layer: &Layer, mode: &Spanned<NetworkMode>) -> Result<NetworkMode, ProfileError> {
    match mode.get_ref() {
        NetworkMode::Filtered => Err(layer.invalid(mode, Invalid::Filtered)),
        NetworkMode::Open | NetworkMode::None => Ok(*mode.get_ref()),
    }
}

fn sockets(layer: &Layer) -> impl Iterator<Item = (Socket, &Spanned<bool>)> {
    let s = &layer.profile.sockets;
    [
        (Socket::SshAgent, &s.ssh_agent),
        (Socket::GpgAgent, &s.gpg_agent),
        (Socket::Docker, &s.docker),
        (Socket::Wayland, &s.wayland),
        (Socket::X11, &s.x11),
    ]
    .into_iter()
    .filter_map(|(socket, open)| open.as_ref().map(|open| (socket, open)))
}

type Limits = (Option<u64>, Option<u64>, Option<u64>);

/// Processes, memory and temporary space of one layer.
fn limits(layer: &Layer) -> Result<Limits, ProfileError> {
    let size = |text: &Option<Text>, least: u64| -> Result<Option<u64>, ProfileError> {
        let Some(text) = text else { return Ok(None) };
        let bytes = parse_size(text.get_ref()).ok_or_else(|| layer.invalid(text, Invalid::Size))?;
        if bytes < least { Err(layer.invalid(text, Invalid::TooSmall(least))) } else { Ok(Some(bytes)) }
    };
    let resources = &layer.profile.resources;
    let processes = match &resources.processes {
        Some(n) if *n.get_ref() < LEAST_PROCESSES => return Err(layer.invalid(n, Invalid::TooSmall(LEAST_PROCESSES))),
        Some(n) => Some(*n.get_ref()),
        None => None,
    };
    Ok((processes, size(&resources.memory, LEAST_MEMORY_BYTES)?, size(&resources.tmp, LEAST_TMP_BYTES)?))
}

/// `512M` as bytes, or `None` when it is not a size.
fn parse_size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests;
