//! Uses 40 and 52 to 57: status, signals, pipes and arguments pass through as if guard were not there.

use nix::sys::signal::Signal;

use super::support::{User, World};
use super::{Use, used};

/// The uses that are not rows but the tests below.
pub const PLAIN_TESTS: [u8; 6] = [40, 52, 53, 54, 55, 56];

const TIERS: [&str; 2] = ["full", "landlock"];

pub fn uses() -> Vec<Use> {
    vec![used(57, "arguments", ARGUMENTS, "7 arguments")]
}

/// In a script, the arguments are what bash makes of them; the bytes themselves are compared below.
const ARGUMENTS: &str = r#"f() { echo "$# arguments"; }; f '' 'a b' -- '"' '$HOME' '*' '\'"#;

/// Once in each tier, for both users, in a fresh project.
fn each(test: impl Fn(&World, User, &super::support::Run, &str)) {
    for user in User::ALL {
        for tier in TIERS {
            let world = World::new();
            let project = world.project(user, "demo");
            let run = world.run(user).cwd(project).guard(["run", "--quiet", "--tier", tier]);
            test(&world, user, &run, tier);
        }
    }
}

#[test]
fn arguments_in_scripts() {
    super::run(&uses());
}

#[test]
fn u40_the_users_dev_server() {
    each(|world, user, run, _| {
        let mut server = world.run(user).probe(["serve-tcp", "127.0.0.1:0", "from the dev server"]).spawn();
        let said = server.wait_for("ready");
        let port = said.split_whitespace().nth(1).unwrap().to_owned();
        let out = run.clone().probe(["tcp", &format!("127.0.0.1:{port}")]).output();
        drop(out.success().expect_stdout("from the dev server"));
    });
}

#[test]
fn u52_exit_status() {
    each(|_, _, run, _| {
        for code in [0, 1, 2, 42, 125, 126, 127, 128, 255] {
            let out = run.clone().sh(format!("exit {code}")).output().expect_code(code);
            drop(out.check(true, "status").expect_no("guard:"));
        }
    });
}

#[test]
fn u53_death_by_signal() {
    each(|_, _, run, _| {
        for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGSEGV, Signal::SIGHUP] {
            let out = run.clone().sh(format!("kill -{} $$", signal as i32)).output();
            let out = out.expect_code(128 + signal as i32);
            // A shell must see the same as without guard: a death by signal, not an exit with that number.
            let died = std::os::unix::process::ExitStatusExt::signal(&out.status) == Some(signal as i32);
            drop(out.check(died, "guard must die of the same signal"));
        }
    });
}

#[test]
fn u54_signals_to_guard() {
    each(|_, _, run, _| {
        for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGUSR1] {
            let name = &signal.as_str()[3..];
            let script = format!("trap 'echo got it; exit 7' {name}; echo up; /bin/sleep 1000 & wait");
            let mut agent = run.clone().sh(script).spawn();
            agent.wait_for("up");
            agent.signal(signal);
            drop(agent.finish().expect_code(7).expect_stdout("got it"));
        }
    });
}

#[test]
fn u55_stdin() {
    // Bytes with a pattern, so that a lost or repeated block shows.
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|index| (index % 251) as u8).collect();
    each(|_, _, run, _| {
        let out = run.clone().cmd(["/bin/cat"]).stdin(&bytes).output().success();
        let same = out.stdout == bytes;
        drop(out.check(same, "stdin must arrive complete, and stdout too"));
        let empty = run.clone().sh("cat; echo end").output().success();
        let stdout = empty.stdout();
        drop(empty.check(stdout == "end\n", "an empty stdin is an end of file"));
    });
}

#[test]
fn u56_stdout_and_stderr() {
    each(|_, _, run, _| {
        let script = "head -c 3000000 /dev/zero | tr '\\0' o; head -c 3000000 /dev/zero | tr '\\0' e >&2";
        let out = run.clone().sh(script).output().success();
        let complete = out.stdout == vec![b'o'; 3_000_000] && out.stderr == vec![b'e'; 3_000_000];
        drop(out.check(complete, "stdout and stderr must be complete and separate"));
        // A reader that goes away early is SIGPIPE, as without guard.
        let pipe = run.clone().sh("yes | head -n 1; echo ${PIPESTATUS[0]}");
        drop(pipe.clone().outside().output().success().expect_stdout("141"));
        drop(pipe.output().success().expect_stdout("141"));
    });
}

#[test]
fn u57_arguments() {
    use std::os::unix::ffi::OsStrExt;
    let arguments: [&[u8]; 14] = [
        b"",
        b"a b",
        b"--",
        b"-",
        b"\"'`",
        b"$HOME",
        b"*",
        b"new\nline",
        "grüße 你好".as_bytes(),
        b"back\\slash\\",
        b"not \xff utf-8",
        b"--quiet",
        b"--help",
        b"a=b",
    ];
    let arguments: Vec<&std::ffi::OsStr> = arguments.into_iter().map(OsStrExt::from_bytes).collect();
    each(|_, _, run, _| {
        let mut line: Vec<&std::ffi::OsStr> = vec!["/usr/bin/printf".as_ref(), "%s\\0".as_ref()];
        line.extend(&arguments);
        let out = run.clone().cmd(&line).output().success();
        let got: Vec<&[u8]> = out.stdout.split(|byte| *byte == 0).collect();
        let want: Vec<&[u8]> = arguments.iter().map(|arg| arg.as_bytes()).chain([&b""[..]]).collect();
        let same = got == want;
        drop(out.check(same, "the arguments must arrive as they were given"));
    });
}
