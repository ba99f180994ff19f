//! Starting, ending, interrupting: what is typed in an interactive bash, zsh and fish.

use nix::sys::signal::Signal;

use crate::pty::{Shell, Size};
use crate::sitting::{Want, play, send, typed};
use crate::support::need;

fn need_shells() {
    need(&[("bash", "bash"), ("zsh", "zsh"), ("fish", "fish")]);
}

#[test]
fn start_and_end() {
    need_shells();
    play(
        &Shell::ALL,
        &[
            typed(
                "45 the terminal is there",
                Want::Same("who 0=tty 1=tty 2=tty /dev/tty=open size=24x80 foreground=true, status 0"),
                |sitting| {
                    sitting.line("X guard-probe tty who")?;
                    let who = sitting.term.expect("<(who [^>]*)>")?;
                    Ok(format!("{who}, status {}", sitting.term.prompt()?))
                },
            ),
            typed("52 exit codes", Want::Same("0 1 42 126 127 255"), |sitting| {
                let mut seen = Vec::new();
                for code in [0, 1, 42, 126, 127, 255] {
                    let (_, status) = sitting.run(&format!("X guard-probe tty exit {code}"))?;
                    seen.push(status.to_string());
                }
                Ok(seen.join(" "))
            }),
            typed("commands that cannot start", Want::Same("127 126"), |sitting| {
                let (_, missing) = sitting.run("X no-such-command-anywhere")?;
                let (_, no_program) = sitting.run("X /etc/passwd")?;
                Ok(format!("{missing} {no_program}"))
            }),
            typed(
                "53 death by a signal",
                Want::PerShell([
                    "143 terminated, 137 killed, 139 segmentation fault, 129 hangup, 134 aborted",
                    "143 terminated, 137 killed, 139 segmentation fault, 129 hangup, 134 iot instruction",
                    "143 terminated by signal sigterm, 137 terminated by signal sigkill, \
                     139 terminated by signal sigsegv, 129 terminated by signal sighup, \
                     134 terminated by signal sigabrt",
                ]),
                |sitting| {
                    let said = "terminated by signal sig[a-z]+|terminated|killed|segmentation fault|hangup|aborted|iot instruction";
                    let said = regex::Regex::new(said).expect("the pattern is valid");
                    let mut seen = Vec::new();
                    for signal in ["TERM", "KILL", "SEGV", "HUP", "ABRT"] {
                        let (output, status) = sitting.run(&format!("X guard-probe tty die {signal}"))?;
                        let output = output.to_lowercase();
                        let word = said.find(&output).map_or("nothing said", |found| found.as_str());
                        seen.push(format!("{status} {word}"));
                    }
                    Ok(seen.join(", "))
                },
            ),
            typed("51 Ctrl-D is the end of input", Want::Same("status 9"), |sitting| {
                sitting.agent("")?;
                sitting.term.send(b"\x04")?;
                sitting.term.expect("<end of input>")?;
                Ok(format!("status {}", sitting.term.prompt()?))
            }),
            typed("49 resizing", Want::Same("40x100 30x90 WINCH=2 (terminal 2), status 0"), |sitting| {
                sitting.agent("--catch WINCH")?;
                let mut seen = Vec::new();
                for (nth, size) in [Size { rows: 40, cols: 100 }, Size { rows: 30, cols: 90 }].into_iter().enumerate() {
                    sitting.term.resize(size)?;
                    sitting.term.expect(&format!("<caught WINCH {}>", nth + 1))?;
                    sitting.tell("size")?;
                    seen.push(sitting.term.expect("<size ([^>]*)>")?);
                }
                seen.push(sitting.totals()?);
                sitting.tell("exit 0")?;
                Ok(format!("{}, status {}", seen.join(" "), sitting.term.prompt()?))
            }),
            typed("the window is closed", Want::Same("gone"), |sitting| {
                let mut alive = sitting.place.alive();
                sitting.agent("--alive alive")?;
                alive.wait()?;
                sitting.term.hang_up()?;
                alive.until_ended()?;
                Ok("gone".to_owned())
            }),
        ],
    );
    play(
        &[Shell::Bash],
        &[typed("what is typed ahead reaches the agent, and then the shell", Want::Same("early, late 2"), |sitting| {
            // One write, so that all of it is there before anything starts or ends.
            let lines = sitting.place.expand("X guard-probe tty agent\recho early\r");
            sitting.term.send(lines.as_bytes())?;
            let early = sitting.term.expect("<echo ([^>]*)>")?;
            sitting.term.send(b"exit 0\recho late=$((1 + 1))\r")?;
            Ok(format!("{early}, late {}", sitting.term.expect("late=([0-9]+)")?))
        })],
    );
}

#[test]
fn interrupt() {
    need_shells();
    play(
        &Shell::ALL,
        &[
            typed(
                "48 Ctrl-C reaches the agent once and it may go on",
                Want::Same("INT=10 (terminal 10), status 42"),
                |sitting| {
                    sitting.agent("--catch INT")?;
                    for nth in 1..=10 {
                        sitting.term.send(b"\x03")?;
                        sitting.term.expect(&format!("<caught INT {nth}>"))?;
                    }
                    let totals = sitting.totals()?;
                    sitting.tell("exit 42")?;
                    Ok(format!("{totals}, status {}", sitting.term.prompt()?))
                },
            ),
            typed("Ctrl-C kills who does not catch it", Want::Same("status 130"), |sitting| {
                sitting.agent("")?;
                sitting.term.send(b"\x03")?;
                Ok(format!("status {}", sitting.term.prompt()?))
            }),
            typed("Ctrl-C ends a loop of the shell", Want::Same("status 130, started 1"), |sitting| {
                let mark = sitting.term.mark();
                let command = "X guard-probe tty agent";
                let line = match sitting.place.case.shell {
                    Shell::Bash | Shell::Zsh => format!("for i in 1 2 3; do {command}; done"),
                    Shell::Fish => format!("for i in 1 2 3; {command}; end"),
                };
                sitting.line(&line)?;
                sitting.ready()?;
                sitting.term.send(b"\x03")?;
                let status = sitting.term.prompt()?;
                let started = sitting.term.since(mark).matches("<ready>").count();
                Ok(format!("status {status}, started {started}"))
            }),
            typed("Ctrl-\\ reaches the agent once", Want::Same("QUIT=3 (terminal 3), status 42"), |sitting| {
                sitting.agent("--catch QUIT")?;
                for nth in 1..=3 {
                    sitting.term.send(b"\x1c")?;
                    sitting.term.expect(&format!("<caught QUIT {nth}>"))?;
                }
                let totals = sitting.totals()?;
                sitting.tell("exit 42")?;
                Ok(format!("{totals}, status {}", sitting.term.prompt()?))
            }),
            typed("Ctrl-\\ kills who does not catch it", Want::Same("status 131"), |sitting| {
                sitting.agent("")?;
                sitting.term.send(b"\x1c")?;
                Ok(format!("status {}", sitting.term.prompt()?))
            }),
            typed(
                "a signal to the whole group arrives once",
                Want::Same("HUP=3 (terminal 0) TERM=3 (terminal 0) USR1=3 (terminal 0), status 42"),
                |sitting| {
                    sitting.agent("--catch HUP,TERM,USR1")?;
                    let group = sitting.until_job_is_in_front()?;
                    for nth in 1..=3 {
                        for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1] {
                            send(-group, signal)?;
                            sitting.term.expect(&format!("<caught {} {nth}>", &signal.as_str()[3..]))?;
                        }
                    }
                    let totals = sitting.totals()?;
                    sitting.tell("exit 42")?;
                    Ok(format!("{totals}, status {}", sitting.term.prompt()?))
                },
            ),
            typed(
                "54 a signal to the process the shell started arrives once",
                Want::Same("HUP=3 (terminal 0) TERM=3 (terminal 0) USR1=3 (terminal 0), status 42"),
                |sitting| {
                    sitting.agent("--catch HUP,TERM,USR1")?;
                    let leader = sitting.until_job_is_in_front()?;
                    for nth in 1..=3 {
                        for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1] {
                            send(leader, signal)?;
                            sitting.term.expect(&format!("<caught {} {nth}>", &signal.as_str()[3..]))?;
                        }
                    }
                    let totals = sitting.totals()?;
                    sitting.tell("exit 42")?;
                    Ok(format!("{totals}, status {}", sitting.term.prompt()?))
                },
            ),
        ],
    );
}
