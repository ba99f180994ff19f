//! The probe: every escape of the threat table as a subcommand, in one static binary that needs no other tool, so
//! that a denial inside guard is guard's doing and not a missing program's.
//!
//! `guard-probe ACT [ARGS…]` prints one line: `ok …` (exit 0) when the act succeeded, `denied ERRNO …` (exit 1)
//! when the kernel refused it. Exit 2 means that the act could not be tried, which fails every test.
//!
//! `guard-probe each ACT ARGUMENT…` tries an act on many things in one process.
//!
//! Three other kinds of subcommand stand around the acts: `world` enters a test's outside world, `with-…` prepares
//! something (a leaked descriptor, a terminal, a limit) and execs the rest of its line, and `serve-…` and `holder`
//! are the victims: they print `ready …` and then run until they are killed.
#![allow(unsafe_code, reason = "an attacker makes raw system calls")]

mod act;
mod container;
mod exec;
mod fail;
mod files;
mod foreign;
mod kernel;
mod mounts;
mod paths;
mod process;
mod serve;
mod socket;
mod terminal;
mod tty;
mod victim;
mod with;
mod world;
mod write;

use std::ffi::OsString;
use std::process::ExitCode;

use act::{Act, Doer, Refusal};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let Some((name, rest)) = args.split_first() else { return usage() };
    if name == "world" {
        return world::enter(rest);
    }
    // With an argument: the agent of the terminal tests, whose exit code is its verdict.
    if name == "tty" && !rest.is_empty() {
        return ExitCode::from(tty::main(rest) as u8);
    }
    if name == "each" {
        return each(rest);
    }
    match doer(name) {
        Some(doer) => report(doer(rest), ""),
        None => usage(),
    }
}

/// `each ACT ARGUMENT…`: the act once for each argument, a line for each; exit 1 when any was refused.
fn each(args: &[OsString]) -> ExitCode {
    let Some((doer, rest)) = args.split_first().and_then(|(name, rest)| Some((doer(name)?, rest))) else {
        return usage();
    };
    let codes = rest.iter().map(|arg| report(doer(std::slice::from_ref(arg)), &arg.to_string_lossy()));
    codes.fold(ExitCode::SUCCESS, |worst, code| if code == ExitCode::SUCCESS { worst } else { code })
}

fn doer(name: &OsString) -> Option<Doer> {
    let tables: [&[(&str, Doer)]; 14] = [
        files::ACTS,
        write::ACTS,
        process::ACTS,
        kernel::ACTS,
        foreign::ACTS,
        mounts::ACTS,
        socket::ACTS,
        terminal::ACTS,
        exec::ACTS,
        with::ACTS,
        serve::ACTS,
        paths::ACTS,
        fail::ACTS,
        container::ACTS,
    ];
    let all = tables.into_iter().flatten().chain(victim::ACTS);
    all.into_iter().find(|(known, _)| name == known).map(|(_, doer)| *doer)
}

fn report(result: Act, about: &str) -> ExitCode {
    match result {
        Ok(text) => {
            println!("ok {about} {text}");
            ExitCode::SUCCESS
        }
        Err(Refusal::Denied(errno, what)) => {
            println!("denied {errno:?} {about} {what}");
            ExitCode::from(1)
        }
        Err(Refusal::Setup(why)) => {
            eprintln!("guard-probe: {about} {why}");
            ExitCode::from(2)
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: guard-probe ACT [ARGS…]; the acts are in tests/probe");
    ExitCode::from(2)
}
