//! `guard why`: the plan's answer for one path, socket, command or variable.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::out::{self, Colour};
use super::{ActArg, WhyArgs, stage_error};
use crate::env::Env;
use crate::path::{AbsPath, printable};
use crate::plan::{Act, Plan, Verdict};
use crate::session::store;
use crate::start::Start;
use crate::tree::RealTree;

const ALLOWED: u8 = 0;
const DENIED: u8 = 1;
const ERROR: u8 = 2;

pub(super) fn why(args: &WhyArgs, env: &Env, cwd: io::Result<PathBuf>) -> u8 {
    let colour = Colour::for_stdout(env);
    let sh = OsStr::new("/bin/sh").to_owned();
    let (command, rest) = args.command.split_first().map_or((&sh, &[][..]), |(c, r)| (c, r));
    let mut start = match Start::new(env, cwd, command, rest.to_vec(), &args.policy.wishes()) {
        Ok(start) => start,
        Err(e) => {
            stage_error(env, &e);
            return ERROR;
        }
    };
    super::doctor::probe(&mut start.host, &start.account);
    let stored = store::locate(&start.account, &start.project);
    let plan = match start.plan(env, &stored) {
        Ok(plan) => plan,
        Err(refusal) => {
            out::error(Colour::for_stderr(env), &refusal, None, Some(&refusal.hint()));
            return ERROR;
        }
    };
    if args.act == ActArg::Env {
        return variable(&plan, &args.target, colour);
    }
    let shown = printable(&args.target);
    let (verdict, shown) = match (args.act, args.target.to_str()) {
        (ActArg::Connect, Some(target)) if !target.starts_with('/') && !Path::new(target).exists() => {
            (plan.connect(&RealTree, target), shown)
        }
        (ActArg::Exec, Some(name)) if !name.contains('/') => command_verdict(&plan, name, env),
        _ => {
            let act = match args.act {
                ActArg::Read => Act::Read,
                ActArg::Write => Act::Write,
                ActArg::Exec => Act::Exec,
                ActArg::Connect | ActArg::Env => Act::Connect,
            };
            match absolute(&args.target, &start.project.cwd) {
                Ok(path) => (plan.verdict_here(act, &path), path.to_string()),
                Err(e) => {
                    out::error(Colour::for_stderr(env), &e, None, None);
                    return ERROR;
                }
            }
        }
    };
    let mark = if verdict.allowed() { colour.good("yes") } else { colour.bad("no") };
    out::print(&format!("{mark}: {shown}: {verdict}\n"));
    if verdict.allowed() { ALLOWED } else { DENIED }
}

/// A target as typed, by the current directory; `..` as the shell shows it.
fn absolute(target: &OsStr, cwd: &AbsPath) -> io::Result<AbsPath> {
    let given = cwd.as_path().join(target);
    match AbsPath::new(&given) {
        Ok(path) => Ok(path),
        Err(crate::path::PathError::DotDot) => {
            let real = std::fs::canonicalize(&given)?;
            AbsPath::new(real).map_err(io::Error::other)
        }
        Err(e) => Err(io::Error::other(e)),
    }
}

/// A command by name: the first file of that name on PATH that can be executed inside.
fn command_verdict(plan: &Plan, name: &str, env: &Env) -> (Verdict, String) {
    let files = crate::program::all_named(name, crate::plan::search(env), &plan.cwd);
    let mut verdicts = files.into_iter().map(|file| (plan.verdict_here(Act::Exec, &file), file.to_string()));
    let first = verdicts.next().unwrap_or((Verdict::Absent(None), name.to_owned()));
    if first.0.allowed() { first } else { verdicts.find(|(v, _)| v.allowed()).unwrap_or(first) }
}

fn variable(plan: &Plan, name: &OsStr, colour: Colour) -> u8 {
    let shown = printable(name);
    match plan.env.reasons.get(name) {
        Some(reason) if reason.passes() => {
            out::print(&format!("{}: {shown}: {reason}\n", colour.good("yes")));
            ALLOWED
        }
        Some(reason) => {
            out::print(&format!("{}: {shown}: {reason}\n", colour.bad("no")));
            DENIED
        }
        None => {
            out::print(&format!("{}: {shown}: it is not set here\n", colour.bad("no")));
            DENIED
        }
    }
}
