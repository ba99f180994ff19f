//! `guard profile`: show, list, check, schema.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use super::out::{self, Colour};
use super::{ProfileAction, show, stage_error};
use crate::account::Account;
use crate::env::Env;
use crate::path::AbsPath;
use crate::policy::Places;
use crate::profile::{self, BUILTINS, BuiltinKind, Layer, LayerKind, ProfileError};
use crate::project::Project;
use crate::start::{self, StageError};

pub(super) fn profile(action: ProfileAction, env: &Env, cwd: io::Result<PathBuf>) -> u8 {
    let result = match action {
        ProfileAction::Show { policy, agent } => show(env, cwd, agent.as_deref(), &policy.wishes()),
        ProfileAction::List => list(env),
        ProfileAction::Check { files } => check(env, &cwd.unwrap_or_default(), &files),
        ProfileAction::Schema => {
            out::print(&schema());
            Ok(())
        }
    };
    match result {
        Ok(()) => 0,
        Err(e) => {
            stage_error(env, &e);
            2
        }
    }
}

/// The JSON Schema of a profile file.
pub(super) fn schema() -> String {
    let schema = schemars::schema_for!(profile::Profile);
    let text = serde_json::to_string_pretty(&schema).expect("a schema is JSON");
    text + "\n"
}

fn show(env: &Env, cwd: io::Result<PathBuf>, agent: Option<&str>, wishes: &start::Wishes) -> Result<(), StageError> {
    let account = Account::read(env)?;
    let project = Project::find(cwd, &account)?;
    let agent = match agent {
        // A command's name, or a profile's.
        Some(name) if profile::builtin::by_command(name).is_some() => start::agent_of(OsStr::new(name), wishes),
        Some(name) => name.to_owned(),
        None => start::agent_of(OsStr::new(""), wishes),
    };
    let policy = start::policy(&account, &project, &agent, wishes)?;
    out::print(&show::policy_text(&policy, Colour::for_stdout(env)));
    Ok(())
}

fn list(env: &Env) -> Result<(), StageError> {
    let account = Account::read(env)?;
    let colour = Colour::for_stdout(env);
    let mut text = String::new();
    for (kind, title) in [
        (BuiltinKind::Agent, "agents"),
        (BuiltinKind::Toolchain, "toolchains"),
        (BuiltinKind::Base, "in every sandbox"),
    ] {
        let _ = writeln!(text, "{}", colour.strong(title));
        for builtin in BUILTINS.iter().filter(|b| b.kind == kind) {
            let source = profile::Source::new(builtin.file, builtin.text.to_owned());
            let about = profile::parse(&source)?.description.unwrap_or_default();
            let commands =
                if builtin.commands.is_empty() { String::new() } else { format!(" [{}]", builtin.commands.join(", ")) };
            let _ = writeln!(text, "  {:<18} {about}{}", builtin.name, colour.dim(&commands));
        }
    }
    let own = profile::user_profiles(&account.config());
    if !own.is_empty() {
        let _ = writeln!(text, "{}", colour.strong(&format!("yours, in {}/profiles", account.config())));
        for name in own {
            let _ = writeln!(text, "  {}", crate::path::printable(name.as_ref()));
        }
    }
    out::print(&text);
    Ok(())
}

/// Checks files as layers of their own: syntax, keys, types, paths, sizes.
fn check(env: &Env, cwd: &std::path::Path, files: &[PathBuf]) -> Result<(), StageError> {
    let account = Account::read(env)?;
    let config = account.config();
    let files: Vec<AbsPath> = if files.is_empty() {
        let own =
            profile::user_profiles(&config).into_iter().map(|n| config.join("profiles").join(format!("{n}.toml")));
        [config.join("config.toml")].into_iter().chain(own).filter(|f| f.as_path().exists()).collect()
    } else {
        files
            .iter()
            .map(|f| AbsPath::new(cwd.join(f)).map_err(|e| StageError::Path(f.clone(), e)))
            .collect::<Result<_, _>>()?
    };
    let places = Places {
        home: account.home.clone(),
        project: Some(AbsPath::known("/project")),
        git: Vec::new(),
        modules: Vec::new(),
        guard: None,
    };
    for file in &files {
        let missing = || ProfileError::Read { path: file.as_path().into(), source: io::ErrorKind::NotFound.into() };
        let source = profile::read(file, &[0, account.uid])?.ok_or_else(missing)?;
        let parsed = profile::parse(&source)?;
        let layer = Layer { name: "check".into(), kind: LayerKind::User, source: source.into(), profile: parsed };
        crate::policy::resolve(&[layer], "check", &places).map_err(StageError::from)?;
        out::print(&format!("{}: {file}\n", Colour::for_stdout(env).good("ok")));
    }
    if files.is_empty() {
        out::print(&format!("no profiles in {config}\n"));
    }
    Ok(())
}
