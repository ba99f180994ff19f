//! From what was typed to a plan: the stages of a start in their order, for every command that needs one.
//!
//! In: the command, the flags that shape the policy, environment and current directory. Out: a [`Start`] that holds
//! each stage's result, and its plan. `run`, `why`, `profile show` and `doctor` all come through here, so that none
//! of them speaks of another policy than the one in force.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use crate::account::{Account, AccountError};
use crate::env::Env;
use crate::host::Host;
use crate::path::AbsPath;
use crate::plan::{Plan, Refusal, Store, Subject, Tier};
use crate::policy::{Places, Policy};
use crate::profile::schema::{NetworkMode, Profile, Require};
use crate::profile::{LayerKind, ProfileError, Request, builtin};
use crate::program::{Around, Program, ProgramError};
use crate::project::{Project, ProjectError};
use crate::tree::CachedTree;

/// The floor of organisations.
pub const MANAGED: &str = "/etc/guard/managed.toml";

/// What the command line says about the policy.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// The profile by name, instead of the one the command has.
    pub profile: Option<String>,
    /// The least protection accepted.
    pub require: Option<Require>,
    /// The tier to use.
    pub tier: Option<Tier>,
    /// The network mode.
    pub network: Option<NetworkMode>,
    /// Paths to grant for reading.
    pub read: Vec<PathBuf>,
    /// Paths to grant for writing.
    pub write: Vec<PathBuf>,
    /// Variables to pass, whatever their value.
    pub env: Vec<String>,
}

/// Why a start failed before there was a plan.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The user.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The directory.
    #[error(transparent)]
    Project(#[from] ProjectError),
    /// A profile.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The command.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A path of the command line.
    #[error("cannot use the path {}", crate::path::printable(.0.as_os_str()))]
    Path(PathBuf, #[source] crate::path::PathError),
}

impl StageError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Account(e) => e.hint(),
            Self::Project(e) => e.hint(),
            Self::Profile(e) => e.hint(),
            Self::Program(_) | Self::Path(..) => None,
        }
    }

    /// The exit code of `guard run`: 127 not found, 126 not executable, else 125.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Program(ProgramError::NotFound(_)) => 127,
            Self::Program(ProgramError::NotExecutable(_)) => 126,
            Self::Account(_) | Self::Project(_) | Self::Profile(_) | Self::Path(..) => 125,
        }
    }
}

/// Every stage's result up to the plan.
#[derive(Debug)]
pub struct Start {
    /// The user.
    pub account: Account,
    /// The directory.
    pub project: Project,
    /// The command's file.
    pub program: Program,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// What is meant.
    pub policy: Policy,
    /// What this machine can do, as far as is known now.
    pub host: Host,
    /// The tier asked for.
    pub tier: Option<Tier>,
}

impl Start {
    /// Goes through the stages.
    ///
    /// # Errors
    /// [`StageError`] of the first stage that failed.
    pub fn new(
        env: &Env,
        cwd: io::Result<PathBuf>,
        command: &OsStr,
        args: Vec<OsString>,
        wishes: &Wishes,
    ) -> Result<Self, StageError> {
        let account = Account::read(env)?;
        let project = Project::find(cwd, &account)?;
        account.check_against(&project.cwd)?;
        let around = Around { cwd: &project.cwd, home: &account.home, project: project.root.as_ref() };
        let program = Program::find(command, crate::plan::search(env), &around)?;
        let agent = agent_of(command, wishes);
        let policy = policy(&account, &project, &agent, wishes)?;
        let host = Host::read(account.uid);
        Ok(Self { account, project, program, args, policy, host, tier: wishes.tier })
    }

    /// The plan on the host as known now.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn plan(&self, env: &Env, store: &Store) -> Result<Plan, Refusal> {
        let terminal = terminal();
        let subject = Subject {
            account: &self.account,
            project: &self.project,
            program: &self.program,
            args: &self.args,
            env,
            store,
            terminal: terminal.as_ref(),
            tier: self.tier,
        };
        crate::plan::make(&self.policy, &self.host, &CachedTree::default(), &subject)
    }
}

/// The policy for an agent in a directory, without a command: what `profile show` prints.
///
/// # Errors
/// [`StageError`].
pub fn policy(account: &Account, project: &Project, agent: &str, wishes: &Wishes) -> Result<Policy, StageError> {
    let request = Request {
        agent,
        config: &account.config(),
        home: &account.home,
        directory: &project.cwd,
        markers: &project.markers,
        command_line: command_line(wishes, &project.cwd)?,
        uid: account.uid,
        managed: Path::new(MANAGED),
    };
    let layers = crate::profile::load(request)?;
    let guard = std::env::current_exe().ok().and_then(|path| AbsPath::new(path).ok());
    let places = Places {
        home: account.home.clone(),
        project: project.root.clone(),
        git: project.git.clone(),
        modules: project.modules.clone(),
        guard,
    };
    Ok(crate::policy::resolve(&layers, agent, &places)?)
}

/// The profile of a command: by its name, whatever the path, or `shell` for any other.
#[must_use]
pub fn agent_of(command: &OsStr, wishes: &Wishes) -> String {
    if let Some(profile) = &wishes.profile {
        return profile.clone();
    }
    let name = Path::new(command).file_name().and_then(OsStr::to_str).unwrap_or_default();
    builtin::by_command(name).map_or("shell", |b| b.name).to_owned()
}

/// The flags as a profile, the strongest layer below the managed floor.
fn command_line(wishes: &Wishes, cwd: &AbsPath) -> Result<Profile, StageError> {
    let text = |value: String| toml::Spanned::new(0..0, value);
    let path = |path: &PathBuf| -> Result<toml::Spanned<String>, StageError> {
        let given = cwd.as_path().join(path);
        // A `..` typed by a person means what the shell shows them: the directory above on disk.
        let clean = AbsPath::new(&given).or_else(|e| match std::fs::canonicalize(&given) {
            Ok(real) => AbsPath::new(real),
            Err(_) => Err(e),
        });
        let clean = clean.map_err(|e| StageError::Path(path.clone(), e))?;
        match clean.as_path().to_str() {
            Some(utf8) => Ok(text(utf8.to_owned())),
            None => Err(StageError::Path(path.clone(), crate::path::PathError::NotText)),
        }
    };
    let mut profile = Profile {
        description: None,
        extends: Vec::new(),
        require: wishes.require.map(|r| toml::Spanned::new(0..0, r)),
        agent: None,
        detect: None,
        fs: Default::default(),
        env: Default::default(),
        network: Default::default(),
        sockets: Default::default(),
        commands: Default::default(),
        resources: Default::default(),
        start: Default::default(),
    };
    profile.fs.read = wishes.read.iter().map(path).collect::<Result<_, _>>()?;
    profile.fs.write = wishes.write.iter().map(path).collect::<Result<_, _>>()?;
    profile.env.secrets = wishes.env.iter().cloned().map(text).collect();
    profile.network.mode = wishes.network.map(|mode| toml::Spanned::new(0..0, mode));
    Ok(profile)
}

/// The device of the terminal on a standard descriptor, by the kernel's word.
fn terminal() -> Option<AbsPath> {
    use std::io::IsTerminal as _;
    let is_terminal = [io::stdin().is_terminal(), io::stdout().is_terminal(), io::stderr().is_terminal()];
    let number = is_terminal.iter().position(|t| *t)?;
    let path = std::fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
    AbsPath::new(path).ok().filter(|p| p.is_within(&AbsPath::known("/dev")))
}

/// Names of the layers for the start line: the agent's, then what else shaped the policy.
#[must_use]
pub fn layer_words(policy: &Policy) -> String {
    let mut words = vec![policy.agent.clone()];
    for layer in &policy.layers {
        let word = match layer.kind {
            LayerKind::Toolchain | LayerKind::Directory | LayerKind::Project => layer.name.clone(),
            LayerKind::User => "config.toml".to_owned(),
            LayerKind::ManagedFloor => "managed.toml".to_owned(),
            LayerKind::Agent
            | LayerKind::Base
            | LayerKind::CommandLine
            | LayerKind::ManagedGrants
            | LayerKind::Terminal => {
                continue;
            }
        };
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words.join(" + ")
}
