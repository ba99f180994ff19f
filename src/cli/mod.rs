//! The command line: flags to values, results to text and exit codes.
//!
//! In: an [`Invocation`], read once by `main`. Out: text and an exit code. It reads nothing of the process itself,
//! decides no access, and every line it prints goes through [`out`].

mod demo;
mod doctor;
pub mod out;
mod profile;
mod run;
mod show;
mod why;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::env::Env;
use crate::plan::Tier;
use crate::profile::schema::{NetworkMode, Require};
use crate::start::{StageError, Wishes};

/// guard failed or refused: the agent has not run.
pub const GUARD_FAILED: u8 = 125;

/// What the process was started with.
#[derive(Debug)]
pub struct Invocation {
    /// The arguments, the program's name first.
    pub args: Vec<OsString>,
    /// The variables.
    pub env: Env,
    /// The current directory, by the kernel's word.
    pub cwd: io::Result<PathBuf>,
}

/// Start AI coding agents in a sandbox that fits the directory
///
/// `guard run -- claude` starts the agent in a sandbox that sees the project, the toolchains and the agent's own
/// state, and nothing else: no SSH keys, no cloud credentials, no other project, no secret that merely happened to
/// be exported. Colours, Ctrl-C, Ctrl-Z and exit codes are the agent's own.
#[derive(Debug, Parser)]
#[command(name = "guard", version, max_term_width = 100, propagate_version = true, disable_help_subcommand = true)]
#[command(after_help = "Try it without an agent: guard demo\nIs this machine ready?   guard doctor")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a command in the sandbox
    ///
    /// The profile follows from the command's name (`guard profile list`); any other command gets the profile
    /// `shell`. Exit codes: the command's own; 125 guard failed or refused, 126 not executable, 127 not found,
    /// 128+n ended by signal n.
    #[command(
        after_help = "Examples:\n  guard run -- claude --resume\n  guard run --network none -- cargo test\n  guard run --read ~/shared-docs -- opencode\n  guard run --dry-run -- claude"
    )]
    Run(RunArgs),
    /// Say whether something is allowed inside, and which rule decides
    ///
    /// Answers from the same plan that `guard run` carries out. Exit codes: 0 allowed, 1 denied, 2 error.
    #[command(
        after_help = "Examples:\n  guard why read ~/.ssh/id_ed25519\n  guard why write . -- claude\n  guard why env GITHUB_TOKEN\n  guard why connect /run/docker.sock\n  guard why exec kubectl"
    )]
    Why(WhyArgs),
    /// Show, list and check profiles
    Profile {
        /// What to do with them.
        #[command(subcommand)]
        action: ProfileAction,
    },
    /// Check what this machine can hold, by trying it
    Doctor(DoctorArgs),
    /// Watch a scripted agent steal from a made-up home, without and with guard
    ///
    /// Needs no agent and no network, and touches nothing of yours: it makes a temporary home with fake credentials
    /// and removes it at the end.
    Demo,
    /// Print completions for a shell
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, of guard or of one of its commands
    Man {
        /// A command, such as `run`.
        command: Option<String>,
    },
    /// The demo's agent.
    #[command(hide = true)]
    DemoAgent,
}

#[derive(Debug, Args)]
struct PolicyArgs {
    /// Use this profile instead of the one the command has
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Accept no less than this protection [default: full, or what the profile says]
    #[arg(long, value_name = "TIER")]
    require: Option<TierArg>,
    /// Use exactly this tier; `landlock` also accepts it
    #[arg(long, value_name = "TIER")]
    tier: Option<TierArg>,
    /// Network inside: everything, or only a loopback of its own
    #[arg(long, value_name = "MODE")]
    network: Option<NetworkArg>,
    /// Grant reading a path
    #[arg(long, value_name = "PATH")]
    read: Vec<PathBuf>,
    /// Grant reading and writing a path
    #[arg(long, value_name = "PATH")]
    write: Vec<PathBuf>,
    /// Pass a variable, whatever its value
    #[arg(long, value_name = "NAME")]
    env: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TierArg {
    /// Both locks: a new root in namespaces, and Landlock
    Full,
    /// Landlock alone; what is lost is listed
    Landlock,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum NetworkArg {
    /// Everything this machine reaches
    Open,
    /// Host names of an allow-list (does not exist yet)
    Filtered,
    /// Only a loopback of its own
    None,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    policy: PolicyArgs,
    /// Print no start line
    #[arg(long, short)]
    quiet: bool,
    /// Print the plan and start nothing
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: as JSON
    #[arg(long, requires = "dry_run")]
    json: bool,
    /// Start the command without any sandbox
    #[arg(long, conflicts_with_all = ["dry_run", "profile", "require", "tier", "network", "read", "write", "env"])]
    unsandboxed: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, Args)]
struct WhyArgs {
    #[command(flatten)]
    policy: PolicyArgs,
    /// The act
    act: ActArg,
    /// A path, a command, a socket (`/path`, `@abstract`, `host:port`) or a variable's name
    target: OsString,
    /// The command whose sandbox is meant [default: a shell]
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ActArg {
    /// Open for reading, or list
    Read,
    /// Open for writing, or create
    Write,
    /// Execute
    Exec,
    /// Connect to a socket or an address
    Connect,
    /// See a variable
    Env,
}

#[derive(Debug, Subcommand)]
enum ProfileAction {
    /// Print every rule in force here, with its origin
    Show {
        #[command(flatten)]
        policy: PolicyArgs,
        /// An agent's command or profile [default: shell]
        agent: Option<String>,
    },
    /// List the profiles there are
    List,
    /// Check profile files, or all of yours
    Check {
        /// The files.
        files: Vec<PathBuf>,
    },
    /// Print the JSON Schema of profiles, for editors
    Schema,
}

#[derive(Debug, Args)]
struct DoctorArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Print the AppArmor profile that lets guard use user namespaces (Ubuntu 23.10 and later)
    #[arg(long)]
    apparmor: bool,
}

impl PolicyArgs {
    fn wishes(&self) -> Wishes {
        let require = match (self.require, self.tier) {
            (Some(TierArg::Full), _) => Some(Require::Full),
            (Some(TierArg::Landlock), _) | (None, Some(TierArg::Landlock)) => Some(Require::Landlock),
            (None, Some(TierArg::Full) | None) => None,
        };
        Wishes {
            profile: self.profile.clone(),
            require,
            tier: self.tier.map(|tier| match tier {
                TierArg::Full => Tier::Full,
                TierArg::Landlock => Tier::Landlock,
            }),
            network: self.network.map(|mode| match mode {
                NetworkArg::Open => NetworkMode::Open,
                NetworkArg::Filtered => NetworkMode::Filtered,
                NetworkArg::None => NetworkMode::None,
            }),
            read: self.read.clone(),
            write: self.write.clone(),
            env: self.env.clone(),
        }
    }
}

/// Runs guard to its end.
pub fn main(invocation: Invocation) -> ! {
    let cli = match Cli::try_parse_from(&invocation.args) {
        Ok(cli) => cli,
        Err(e) => {
            // clap's own code for a wrong command line is 2; `run` promises 125 for everything that is guard's.
            let runs = invocation.args.get(1).is_some_and(|a| a == "run");
            let code = if e.use_stderr() && runs { GUARD_FAILED } else { e.exit_code() as u8 };
            let _ = e.print();
            exit(code)
        }
    };
    let Invocation { env, cwd, .. } = invocation;
    let code = match cli.command {
        Command::Run(args) => run::run(args, env, cwd),
        Command::Why(args) => why::why(&args, &env, cwd),
        Command::Profile { action } => profile::profile(action, &env, cwd),
        Command::Doctor(args) => doctor::doctor(&args, &env, cwd),
        Command::Demo => demo::demo(&env),
        Command::DemoAgent => demo::agent(&env),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "guard", &mut text);
            out::print(&String::from_utf8_lossy(&text));
            0
        }
        Command::Man { command } => man(command.as_deref(), &env),
    };
    exit(code)
}

fn exit(code: u8) -> ! {
    crate::session::end_as(crate::session::Ended::Code(code))
}

fn man(name: Option<&str>, env: &Env) -> u8 {
    let mut command = Cli::command();
    command.build();
    let command = match name {
        None => command,
        Some(name) => match command.find_subcommand(name) {
            Some(found) => found.clone(),
            None => {
                let error = io::Error::other(format!("there is no command `{name}`"));
                out::error(out::Colour::for_stderr(env), &error, None, Some("`guard --help` lists the commands"));
                return 2;
            }
        },
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(command).render(&mut text).expect("writing to memory");
    out::print(&String::from_utf8_lossy(&text));
    0
}

/// Prints what is wrong with a start.
fn stage_error(env: &Env, error: &StageError) {
    let place = match error {
        StageError::Profile(e) => e.place(),
        StageError::Account(_) | StageError::Project(_) | StageError::Program(_) | StageError::Path(..) => None,
    };
    out::error(out::Colour::for_stderr(env), error, place, error.hint().as_deref());
}
