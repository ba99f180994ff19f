//! Without a person: scripts, pipelines, `timeout`, and guard itself as the first process of a terminal.

use std::os::unix::process::ExitStatusExt as _;

use nix::sys::signal::Signal;

use crate::pty::{Shell, Size};
use crate::sitting::{Place, Want, placed, play, send};
use crate::support::need;

/// The state of the terminal's modes when somebody can type lines again.
const COOKED: &str = "lines=true echo=true signals=true";

#[test]
fn scripts_on_a_terminal() {
    need(&[("bash", "bash"), ("zsh", "zsh"), ("fish", "fish")]);
    play(
        &[Shell::Bash],
        &[
            placed("a script reads the status", Want::Same("bash 42, zsh 42, fish 42"), |place| {
                let mut seen = Vec::new();
                for (shell, status) in [("bash", "$?"), ("zsh", "$?"), ("fish", "$status")] {
                    let script = place.expand(&format!("X guard-probe tty exit 42; echo says {status}"));
                    let mut term = place.terminal(&place.run().cmd([shell, "-c", &script]))?;
                    let status = term.expect("says ([0-9]+)")?;
                    term.finish()?;
                    seen.push(format!("{shell} {status}"));
                }
                Ok(seen.join(", "))
            }),
            placed(
                "Ctrl-C in a script: an agent that goes on",
                Want::Same("INT=3 (terminal 3), says 42"),
                // bash only: zsh and fish die of the signal themselves and take the terminal with them.
                |place| {
                    let mut term =
                        place.terminal(&place.script("X guard-probe tty agent --catch INT; echo \"says $?\""))?;
                    term.expect("<ready>")?;
                    for nth in 1..=3 {
                        term.send(b"\x03")?;
                        term.expect(&format!("<caught INT {nth}>"))?;
                    }
                    term.line("totals")?;
                    let totals = term.expect("<totals ([^>]*)>")?;
                    term.line("exit 42")?;
                    let status = term.expect("says [0-9]+")?;
                    term.finish()?;
                    Ok(format!("{totals}, {status}"))
                },
            ),
            placed(
                "Ctrl-C in a script: an agent that dies takes the script with it",
                Want::Same("bash signal 2, zsh signal 2, fish signal 2"),
                |place| {
                    let mut seen = Vec::new();
                    for shell in ["bash", "zsh", "fish"] {
                        let script = place.expand("X guard-probe tty agent; echo went on");
                        let mut term = place.terminal(&place.run().cmd([shell, "-c", &script]))?;
                        term.expect("<ready>")?;
                        term.send(b"\x03")?;
                        let end = term.finish()?;
                        let on = if term.said("went on").is_some() { " and went on" } else { "" };
                        seen.push(format!("{shell} {end}{on}"));
                    }
                    Ok(seen.join(", "))
                },
            ),
            placed(
                "an agent killed in raw mode leaves the terminal as it was",
                Want::Differs {
                    bare: "says 137, lines=false echo=false signals=false",
                    inside: "says 137, lines=true echo=true signals=true",
                },
                |place| {
                    let script = "X guard-probe tty agent --raw; echo \"says $?\"; read line";
                    let mut term = place.terminal(&place.script(script))?;
                    term.expect("<ready>")?;
                    term.send(b"die KILL\r")?;
                    let status = term.expect("says [0-9]+")?;
                    let modes = term.modes()?;
                    // In raw mode Enter sends no newline, which is all that `read` understands.
                    term.send(b"\n")?;
                    term.finish()?;
                    Ok(format!("{status}, {modes}"))
                },
            ),
            placed(
                "the script reads on after an agent that took the foreground and died",
                Want::Differs { bare: "grabbed, got nothing", inside: "grabbed, got a line" },
                |place| {
                    let script = "X guard-probe tty grab; read line; echo \"got ${line:-nothing}\"";
                    let mut term = place.terminal(&place.script(script))?;
                    let grabbed = term.expect("<(grabbed)>")?;
                    term.line("a line")?;
                    let got = term.expect("got (a line|nothing)")?;
                    term.finish()?;
                    Ok(format!("{grabbed}, got {got}"))
                },
            ),
            placed("the script reads on after an interactive shell", Want::Same("says 3, got a line"), |place| {
                let script = "X env PS1='in''ner> ' bash --norc --noprofile -i; echo \"says $?\"; read line; \
                                  echo \"got $line\"";
                let mut term = place.terminal(&place.script(script))?;
                term.expect("inner> ")?;
                term.line("exit 3")?;
                let status = term.expect("says [0-9]+")?;
                term.line("a line")?;
                let got = term.expect("got [a-z ]+")?;
                term.finish()?;
                Ok(format!("{status}, {got}"))
            }),
        ],
    );
}

#[test]
fn first_process_of_a_terminal() {
    play(
        &[Shell::Bash],
        &[
            placed(
                "the terminal, Ctrl-C, resizing and the end",
                Want::Same(
                    "who 0=tty 1=tty 2=tty /dev/tty=open size=24x80 foreground=true, exit 0, \
                            40x100, INT=1 (terminal 1) WINCH=1 (terminal 1), exit 42",
                ),
                |place| {
                    let mut term = place.terminal(&place.probe(&["who"]))?;
                    let who = term.expect("<(who [^>]*)>")?;
                    let end = term.finish()?;
                    let mut term = place.terminal(&place.probe(&["agent", "--catch", "INT,WINCH"]))?;
                    term.expect("<ready>")?;
                    term.send(b"\x03")?;
                    term.expect("<caught INT 1>")?;
                    term.resize(Size { rows: 40, cols: 100 })?;
                    term.expect("<caught WINCH 1>")?;
                    term.line("size")?;
                    let size = term.expect("<size ([^>]*)>")?;
                    term.line("totals")?;
                    let totals = term.expect("<totals ([^>]*)>")?;
                    term.line("exit 42")?;
                    Ok(format!("{who}, {end}, {size}, {totals}, {}", term.finish()?))
                },
            ),
            placed("Ctrl-Z does nothing where nobody could continue it", Want::Same("hello, exit 3"), |place| {
                let mut term = place.terminal(&place.probe(&["agent"]))?;
                term.expect("<ready>")?;
                term.send(b"\x1a")?;
                term.line("echo hello")?;
                let hello = term.expect("<echo ([^>]*)>")?;
                term.line("exit 3")?;
                Ok(format!("{hello}, {}", term.finish()?))
            }),
            placed("its window is closed", Want::Same("gone"), |place| {
                let mut alive = place.alive();
                let mut term = place.terminal(&place.probe(&["agent", "--alive", "alive"]))?;
                alive.wait()?;
                term.hang_up()?;
                alive.until_ended()?;
                Ok("gone".to_owned())
            }),
            placed(
                "death in raw mode leaves the terminal as it was",
                Want::Differs {
                    bare: "signal 9, lines=false echo=false signals=false",
                    inside: "signal 9, lines=true echo=true signals=true",
                },
                |place| {
                    let mut term = place.terminal(&place.probe(&["agent", "--raw"]))?;
                    term.expect("<ready>")?;
                    term.send(b"die KILL\r")?;
                    let end = term.finish()?;
                    Ok(format!("{end}, {}", term.modes()?))
                },
            ),
        ],
    );
}

#[test]
fn the_start_line() {
    play(
        &[Shell::Bash],
        &[
            placed(
                "stderr is a terminal: one line, and none with --quiet",
                Want::Differs { bare: "0 0", inside: "1 0" },
                |place| {
                    let mut counts = Vec::new();
                    for quiet in [false, true] {
                        let script = place.expand("X /bin/true; echo end");
                        let script = if quiet { script } else { script.replace(" --quiet", "") };
                        let mut term = place.terminal(&place.run().sh(script))?;
                        term.expect("end\n")?;
                        counts.push((term.since(0).lines().count() - 1).to_string());
                        term.finish()?;
                    }
                    Ok(counts.join(" "))
                },
            ),
            placed("stderr is no terminal: nothing", Want::Same("\"\""), |place| {
                let script = place.expand("X /bin/true 2>said; echo end").replace(" --quiet", "");
                let mut term = place.terminal(&place.run().sh(script))?;
                term.expect("end\n")?;
                let lines = term.since(0).lines().count();
                term.finish()?;
                if lines != 1 {
                    return Err(term.failure("something was said"));
                }
                Ok(format!("{:?}", place.world.read(place.case.user.path("src/p/said"))))
            }),
        ],
    );
}

#[test]
fn pipelines_and_wrappers() {
    need(&[("timeout", "coreutils"), ("nohup", "coreutils"), ("setsid", "util-linux"), ("env", "coreutils")]);
    play(
        &[Shell::Bash],
        &[
            placed("in the middle of a pipeline", Want::Same("HELLO"), |place| {
                let output = place.script("echo hello | X cat | tr a-z A-Z").output();
                Ok(output.stdout().trim().to_owned())
            }),
            placed("a reader that leaves early kills the writer by SIGPIPE", Want::Same("y 141 0"), |place| {
                let output = place.script("X yes | head -n 1; echo \"${PIPESTATUS[*]}\"").output();
                Ok(output.stdout().split_whitespace().collect::<Vec<_>>().join(" "))
            }),
            placed("under timeout", Want::Same("3 124 124"), |place| {
                let mut seen = Vec::new();
                for line in [
                    "timeout 60 X guard-probe tty exit 3",
                    "timeout 0.3 X guard-probe tty agent --mute",
                    "timeout --foreground 0.3 X guard-probe tty agent --mute",
                ] {
                    seen.push(place.script(line).output().code().to_string());
                    place.nothing_left();
                }
                Ok(seen.join(" "))
            }),
            placed("under nohup, setsid and env", Want::Same("4 5 6"), |place| {
                let mut seen = Vec::new();
                for line in [
                    "nohup X guard-probe tty exit 4",
                    "setsid --wait X guard-probe tty exit 5",
                    "env A=b X guard-probe tty exit 6",
                ] {
                    seen.push(place.script(line).output().code().to_string());
                }
                Ok(seen.join(" "))
            }),
            placed(
                "a pipe ends when the agent closes it, not when guard does",
                Want::Same("stdout ended 5, stdin ended 5"),
                |place| {
                    place.fifo("gate");
                    // Whoever waits for the other end of the pipe opens the gate, for which the agent waits.
                    let stdout = "X /bin/sh -c 'exec >&-; cat gate >&2; exit 5' | { cat; echo go >gate; }; \
                              echo stdout ended ${PIPESTATUS[0]}";
                    let stdin =
                        "{ yes; echo go >gate; } | X /bin/sh -c 'exec <&-; cat gate >&2; exit 5'; echo stdin ended $?";
                    let mut seen = Vec::new();
                    for script in [stdout, stdin] {
                        seen.push(place.script(script).output().success().stdout().trim().to_owned());
                    }
                    Ok(seen.join(", "))
                },
            ),
            placed("exec replaces the script", Want::Same("7"), |place| {
                Ok(place.script("exec X guard-probe tty exit 7").output().code().to_string())
            }),
        ],
    );
}

/// An agent without a terminal, its stdin and stdout at the test.
fn agent(place: &Place, options: &[&str]) -> crate::support::Process {
    let mut words = vec!["agent"];
    words.extend(options);
    let mut process = place.probe(&words).spawn();
    process.wait_for("<ready>");
    process
}

#[test]
fn signals_and_survivors() {
    play(
        &[Shell::Bash],
        &[
            placed(
                "54 signals to guard reach the agent once; its own exit code returns",
                Want::Same("HUP=3 INT=3 QUIT=3 TERM=3 USR1=3 USR2=3, exit 42"),
                |place| {
                    let mut process = agent(place, &["--catch", "HUP,INT,QUIT,TERM,USR1,USR2"]);
                    for nth in 1..=3 {
                        for (name, signal) in [
                            ("TERM", Signal::SIGTERM),
                            ("HUP", Signal::SIGHUP),
                            ("INT", Signal::SIGINT),
                            ("QUIT", Signal::SIGQUIT),
                            ("USR1", Signal::SIGUSR1),
                            ("USR2", Signal::SIGUSR2),
                        ] {
                            process.signal(signal);
                            process.wait_for(&format!("<caught {name} {nth}>"));
                        }
                    }
                    process.write("totals\n");
                    process.wait_for("<totals");
                    process.write("exit 42\n");
                    let output = process.finish();
                    let text = output.stdout();
                    let totals = text.split("<totals ").nth(1).and_then(|rest| rest.split('>').next());
                    let totals = totals.unwrap_or("none").replace(" (terminal 0)", "");
                    Ok(format!("{totals}, exit {}", output.status.code().unwrap_or(-1)))
                },
            ),
            placed(
                "53 wait reports the signal that killed the agent",
                Want::Same("TERM 15, KILL 9, SEGV 11, ABRT 6, HUP 1, INT 2, QUIT 3, PIPE 13, USR1 10"),
                |place| {
                    let mut seen = Vec::new();
                    for name in ["TERM", "KILL", "SEGV", "ABRT", "HUP", "INT", "QUIT", "PIPE", "USR1"] {
                        let output = place.probe(&["die", name]).output();
                        let signal = output.status.signal();
                        seen.push(
                            signal.map_or(format!("{name} {}", output.status), |signal| format!("{name} {signal}")),
                        );
                    }
                    Ok(seen.join(", "))
                },
            ),
            placed("SIGTERM to guard kills an agent that does not catch it", Want::Same("signal 15"), |place| {
                let process = agent(place, &["--mute"]);
                process.signal(Signal::SIGTERM);
                let output = process.finish();
                Ok(format!("signal {}", output.status.signal().unwrap_or(-1)))
            }),
            placed("stopped and continued by SIGSTOP and SIGCONT to guard alone", Want::Same("exit 42"), |place| {
                let mut process = agent(place, &[]);
                send(process.pid(), Signal::SIGSTOP)?;
                send(process.pid(), Signal::SIGCONT)?;
                process.write("echo hello\n");
                process.wait_for("<echo hello>");
                send(process.pid(), Signal::SIGTSTP)?;
                send(process.pid(), Signal::SIGCONT)?;
                process.write("echo again\n");
                process.wait_for("<echo again>");
                process.write("exit 42\n");
                Ok(format!("exit {}", process.finish().status.code().unwrap_or(-1)))
            }),
            placed(
                "nothing survives the agent",
                Want::Differs {
                    bare: "child left, daemon left, stubborn left, stopped left",
                    inside: "child gone, daemon gone, stubborn gone, stopped gone",
                },
                |place| {
                    let mut seen = Vec::new();
                    let mut alive = place.alive();
                    for kind in ["child", "daemon", "stubborn", "stopped"] {
                        let mut process = place.probe(&["linger", kind, "alive"]).spawn();
                        let pid = alive.wait()?;
                        poll_end(&mut process);
                        // Not later: when guard has returned, nothing of the session may be left.
                        seen.push(format!("{kind} {}", if alive.ended() { "gone" } else { "left" }));
                        if !alive.ended() {
                            send(pid.parse().expect("the process id"), Signal::SIGKILL)?;
                            alive.until_ended()?;
                        }
                    }
                    Ok(seen.join(", "))
                },
            ),
            placed(
                "nothing survives guard, not even when it is killed with SIGKILL",
                Want::Differs { bare: "daemon left", inside: "daemon gone" },
                |place| {
                    let mut alive = place.alive();
                    let script = "guard-probe tty linger daemon alive; exec guard-probe tty agent";
                    let run = place.case.how.apply(place.run().sh(script));
                    let mut process = run.spawn();
                    let pid = alive.wait()?;
                    process.wait_for("<ready>");
                    process.signal(Signal::SIGKILL);
                    poll_end(&mut process);
                    if place.case.how == crate::sitting::How::Bare {
                        let seen = if alive.ended() { "gone" } else { "left" };
                        send(pid.parse().expect("the process id"), Signal::SIGKILL)?;
                        return Ok(format!("daemon {seen}"));
                    }
                    alive.until_ended()?;
                    place.nothing_left();
                    Ok("daemon gone".to_owned())
                },
            ),
        ],
    );
}

fn poll_end(process: &mut crate::support::Process) {
    crate::support::poll_until("the end of the command", || process.has_ended());
}

#[test]
fn modes_are_compared_with_the_normal_state() {
    // The rows above call a terminal restored when it is as a new one; a new one must be cooked.
    play(
        &[Shell::Bash],
        &[placed("a new terminal", Want::Same(COOKED), |place| {
            let mut term = place.terminal(&place.probe(&["agent"]))?;
            term.expect("<ready>")?;
            let modes = term.modes()?;
            term.line("exit 0")?;
            term.finish()?;
            Ok(modes)
        })],
    );
}
