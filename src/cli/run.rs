//! `guard run`: a plan, a session, and the agent's own exit code.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use super::out::{self, Colour};
use super::{GUARD_FAILED, RunArgs, show, stage_error};
use crate::env::Env;
use crate::plan::{Plan, Tier};
use crate::session::{self, Outcome, Stdio, store};
use crate::start::{Start, layer_words};

pub(super) fn run(args: RunArgs, mut env: Env, cwd: io::Result<PathBuf>) -> u8 {
    let colour = Colour::for_stderr(&env);
    let mut command = args.command.into_iter();
    let name = command.next().expect("clap demands a command");
    let rest: Vec<OsString> = command.collect();
    if name.as_encoded_bytes().starts_with(b"-") {
        // clap takes everything from the first word it does not know for the command.
        let error = io::Error::other(format!("there is no option {}", crate::path::printable(&name)));
        out::error(colour, &error, None, Some("`guard run --help` lists the options; they come before the command"));
        return GUARD_FAILED;
    }
    if args.unsandboxed {
        return unsandboxed(&name, rest, &env, args.quiet);
    }
    let mut start = match Start::new(&env, cwd, &name, rest, &args.policy.wishes()) {
        Ok(start) => start,
        Err(e) => {
            stage_error(&env, &e);
            return e.exit_code();
        }
    };
    if args.dry_run {
        return dry_run(&mut start, &env, args.json, colour);
    }
    let (stored, hold) = match store::open(&start.account, &start.project) {
        Ok(opened) => opened,
        Err(e) => {
            out::error(
                colour,
                &e,
                None,
                Some("guard keeps each project's sandbox home there; make room, or make it writable"),
            );
            return GUARD_FAILED;
        }
    };
    // What a try shows to be missing is noted, and the next plan does without it or refuses; each can be lost once.
    loop {
        let plan = match start.plan(&env, &stored) {
            Ok(plan) => plan,
            Err(refusal) => {
                out::error(colour, &refusal, None, Some(&refusal.hint()));
                return refusal.exit_code();
            }
        };
        let loud = io::stderr().is_terminal() && !args.quiet && !start.policy.quiet;
        let line = loud.then(|| start_line(&start, &plan, colour));
        match session::run(&plan, line.as_deref(), Stdio::Release, &mut env) {
            Ok(outcome) => {
                drop(hold);
                say_what_happened(&outcome, &plan, colour);
                session::end_as(outcome.ended)
            }
            Err(e) if e.lost.is_some_and(|capability| start.host.lose(capability)) => {}
            Err(e) => {
                out::error(colour, &e, None, Some("`guard doctor` tries each part by itself"));
                return e.exit_code;
            }
        }
    }
}

/// The one line before the agent's own: what, in which profile, how well protected, what it does not see.
fn start_line(start: &Start, plan: &Plan, colour: Colour) -> String {
    let hidden = plan.env.hidden().count();
    let tier = match plan.tier {
        Tier::Full => colour.good("full"),
        Tier::Landlock => colour.warn("landlock"),
    };
    let mut line = format!("{} {} · {tier}", colour.dim("guard:"), layer_words(&start.policy));
    line += &colour.dim(&format!(" · {hidden} variable{} hidden", if hidden == 1 { "" } else { "s" }));
    if plan.network != crate::profile::schema::NetworkMode::Open {
        line += &colour.dim(" · no network");
    }
    if start.project.root.is_none() {
        line += &colour.warn(" · no project here: the home is a private one");
    }
    // Without capabilities root writes only what the mode lets anybody write.
    if start.project.owner != start.account.uid {
        line += &colour.warn(&format!(
            " · the project belongs to uid {}, the agent is uid {}",
            start.project.owner, start.account.uid
        ));
    }
    // More than this in one directory is somebody's whole work.
    if start.project.repositories_below > 2 {
        line += &colour.warn(&format!(" · {} repositories below are granted", start.project.repositories_below));
    }
    let lost: Vec<&str> = plan.gaps.iter().filter(|g| g.weakens()).map(crate::plan::Gap::short).collect();
    if !lost.is_empty() {
        line += &colour.warn(&format!(" · not held: {}", lost.join(", ")));
    }
    if !start.policy.sandbox_args.is_empty() {
        line += &colour.dim(&format!(" · added {}", start.policy.sandbox_args.join(" ")));
    }
    line + "\n"
}

fn say_what_happened(outcome: &Outcome, plan: &Plan, colour: Colour) {
    for path in &outcome.appeared {
        let origin = plan.absent.iter().find(|(p, _)| p == path).map(|(_, o)| o.to_string()).unwrap_or_default();
        eprintln!(
            "{} {path} is new since the session began; programs outside obey or execute it ({origin}). Look at it first.",
            colour.warn("guard:")
        );
    }
    for (path, error) in &outcome.unkept {
        eprintln!("{} could not carry changes over to {path}: {error}", colour.warn("guard:"));
    }
}

fn dry_run(start: &mut Start, env: &Env, json: bool, colour: Colour) -> u8 {
    super::doctor::probe(&mut start.host, &start.account);
    let stored = store::locate(&start.account, &start.project);
    match start.plan(env, &stored) {
        Ok(plan) => {
            let text =
                if json { show::plan_json(&plan) } else { show::plan_text(&plan, start, Colour::for_stdout(env)) };
            out::print(&text);
            0
        }
        Err(refusal) => {
            out::error(colour, &refusal, None, Some(&refusal.hint()));
            refusal.exit_code()
        }
    }
}

/// The one deliberate way out: explicit, and visible even where the start line is not.
fn unsandboxed(name: &OsString, rest: Vec<OsString>, env: &Env, quiet: bool) -> u8 {
    let colour = Colour::for_stderr(env);
    if !quiet {
        eprintln!("{} {}", colour.warn("guard:"), colour.bad("no sandbox: this command runs with all of your rights"));
    }
    let _ = crate::sandbox::sys::restore_inherited();
    let mut command = std::process::Command::new(name);
    command.args(rest).env_clear();
    for (name, value) in env.iter() {
        command.env(name, value.reveal());
    }
    let error = command.exec();
    let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    let what = io::Error::other(format!("cannot execute {}: {error}", crate::path::printable(name)));
    out::error(colour, &what, None, None);
    code
}
