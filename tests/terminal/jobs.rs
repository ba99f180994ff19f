//! Job control: stopping, continuing, and the background.

use nix::sys::signal::Signal;

use crate::pty::Shell;
use crate::sitting::{Want, play, send, typed};
use crate::support::need;

const STOPPED: [&str; 2] = ["stopped", "suspended"];

fn need_shells() {
    need(&[("bash", "bash"), ("zsh", "zsh"), ("fish", "fish")]);
}

#[test]
fn stop_and_continue() {
    need_shells();
    play(
        &Shell::ALL,
        &[
            typed(
                "50 Ctrl-Z, jobs, bg, fg",
                Want::PerShell([
                    "status 148, stopped, hello, running, INT=1 (terminal 1), status 42",
                    "status 148, suspended, hello, running, INT=1 (terminal 1), status 42",
                    "status 0, stopped, hello, running, INT=1 (terminal 1), status 0",
                ]),
                |sitting| {
                    let gate = sitting.place.gate();
                    sitting.agent("--mute --catch INT --gate gate")?;
                    sitting.term.send(b"\x1a")?;
                    let stopped = sitting.term.prompt()?;
                    let jobs = sitting.until_jobs_say(&STOPPED)?;
                    sitting.run("bg")?;
                    gate.tell("echo hello")?;
                    let hello = sitting.term.expect("<echo ([^>]*)>")?;
                    let running = sitting.until_jobs_say(&["running"])?;
                    sitting.line("fg")?;
                    sitting.until_job_is_in_front()?;
                    sitting.term.send(b"\x03")?;
                    sitting.term.expect("<caught INT 1>")?;
                    gate.tell("totals")?;
                    let totals = sitting.term.expect("<totals ?([^>]*)>")?;
                    gate.tell("exit 42")?;
                    let status = sitting.term.prompt()?;
                    Ok(format!("status {stopped}, {jobs}, {hello}, {running}, {totals}, status {status}"))
                },
            ),
            typed(
                "50 Ctrl-Z and fg, four times",
                Want::PerShell(["hello 4, status 42", "hello 4, status 42", "hello 4, status 0"]),
                |sitting| {
                    sitting.agent("")?;
                    let mut hello = 0;
                    for _ in 0..4 {
                        sitting.term.send(b"\x1a")?;
                        sitting.term.prompt()?;
                        sitting.line("fg")?;
                        sitting.until_job_is_in_front()?;
                        sitting.tell("echo hello")?;
                        sitting.term.expect("<echo hello>")?;
                        hello += 1;
                    }
                    sitting.tell("exit 42")?;
                    Ok(format!("hello {hello}, status {}", sitting.term.prompt()?))
                },
            ),
            typed(
                "the agent stops itself",
                Want::PerShell([
                    "STOP 147 lines=true echo=true signals=true, TSTP 148 lines=true echo=true signals=true, \
                     group 148 lines=true echo=true signals=true, status 5",
                    "STOP 147 lines=true echo=true signals=true, TSTP 148 lines=true echo=true signals=true, \
                     group 148 lines=true echo=true signals=true, status 5",
                    "STOP 0 lines=true echo=true signals=true, TSTP 0 lines=true echo=true signals=true, \
                     group 0 lines=true echo=true signals=true, status 0",
                ]),
                |sitting| {
                    sitting.agent("")?;
                    let mut seen = Vec::new();
                    for how in ["STOP", "TSTP", "group"] {
                        sitting.tell(&format!("stop {how}"))?;
                        let status = sitting.term.prompt()?;
                        sitting.line("fg")?;
                        sitting.term.expect("<back>")?;
                        seen.push(format!("{how} {status} {}", sitting.term.modes()?));
                    }
                    sitting.tell("exit 5")?;
                    Ok(format!("{}, status {}", seen.join(", "), sitting.term.prompt()?))
                },
            ),
            typed(
                "a full-screen agent: Ctrl-C is a key, Ctrl-Z restores the terminal and stops the group",
                Want::PerShell([
                    "key 3, status 148, shell cooked, back to raw lines=false echo=false signals=false, 24x80, status 6",
                    "key 3, status 148, shell cooked, back to raw lines=false echo=false signals=false, 24x80, status 6",
                    "key 3, status 0, shell cooked, back to raw lines=false echo=false signals=false, 24x80, status 0",
                ]),
                |sitting| {
                    sitting.agent("--raw")?;
                    sitting.term.send(b"\x03")?;
                    let key = sitting.term.expect("<control ([0-9]+)>")?;
                    sitting.term.send(b"\x1a")?;
                    let status = sitting.term.prompt()?;
                    // Three words in the output of stty; one that a full-screen program would leave has a dash.
                    let (modes, _) =
                        sitting.run("stty -a | tr ' ' '\\n' | grep -c -e '^icanon' -e '^echo;*$' -e '^isig'")?;
                    let cooked = if modes.contains("\n3\n") { "cooked" } else { "still raw" };
                    sitting.line("fg")?;
                    sitting.term.expect("<back>")?;
                    let modes = sitting.term.modes()?;
                    sitting.tell("size")?;
                    let size = sitting.term.expect("<size ([^>]*)>")?;
                    sitting.tell("exit 6")?;
                    let end = sitting.term.prompt()?;
                    Ok(format!("key {key}, status {status}, shell {cooked}, back to raw {modes}, {size}, status {end}"))
                },
            ),
            typed(
                "stopped and continued from elsewhere by signals to the group",
                Want::PerShell([
                    "stopped, hello, status 42",
                    "suspended, hello, status 42",
                    "stopped, hello, status 0",
                ]),
                |sitting| {
                    let gate = sitting.place.gate();
                    sitting.agent("--mute --gate gate")?;
                    let group = sitting.until_job_is_in_front()?;
                    send(-group, Signal::SIGSTOP)?;
                    sitting.term.prompt()?;
                    let jobs = sitting.until_jobs_say(&STOPPED)?;
                    send(-group, Signal::SIGCONT)?;
                    gate.tell("echo hello")?;
                    let hello = sitting.term.expect("<echo ([^>]*)>")?;
                    sitting.line("fg")?;
                    sitting.until_job_is_in_front()?;
                    gate.tell("exit 42")?;
                    Ok(format!("{jobs}, {hello}, status {}", sitting.term.prompt()?))
                },
            ),
            typed(
                "an agent that catches Ctrl-Z is not stopped",
                Want::Same("TSTP=3 (terminal 3), status 42"),
                |sitting| {
                    sitting.agent("--catch TSTP")?;
                    for nth in 1..=3 {
                        sitting.term.send(b"\x1a")?;
                        sitting.term.expect(&format!("<caught TSTP {nth}>"))?;
                    }
                    let totals = sitting.totals()?;
                    sitting.tell("exit 42")?;
                    Ok(format!("{totals}, status {}", sitting.term.prompt()?))
                },
            ),
            typed(
                "SIGSTOP to the process the shell started",
                Want::PerShell([
                    "status 147, hello, status 42",
                    "status 147, hello, status 42",
                    "status 0, hello, status 0",
                ]),
                |sitting| {
                    let gate = sitting.place.gate();
                    sitting.agent("--mute --gate gate")?;
                    let leader = sitting.until_job_is_in_front()?;
                    send(leader, Signal::SIGSTOP)?;
                    let status = sitting.term.prompt()?;
                    sitting.line("fg")?;
                    sitting.until_job_is_in_front()?;
                    gate.tell("echo hello")?;
                    let hello = sitting.term.expect("<echo ([^>]*)>")?;
                    gate.tell("exit 42")?;
                    Ok(format!("status {status}, {hello}, status {}", sitting.term.prompt()?))
                },
            ),
            typed(
                "in a pipeline",
                Want::PerShell(["stopped, hello", "suspended, hello", "stopped, hello"]),
                |sitting| {
                    sitting.line("X guard-probe tty agent | cat")?;
                    sitting.ready()?;
                    sitting.term.send(b"\x1a")?;
                    sitting.term.prompt()?;
                    let jobs = sitting.until_jobs_say(&STOPPED)?;
                    sitting.line("fg")?;
                    sitting.until_job_is_in_front()?;
                    sitting.tell("echo hello")?;
                    let hello = sitting.term.expect("<echo ([^>]*)>")?;
                    sitting.tell("exit 42")?;
                    sitting.term.prompt()?;
                    Ok(format!("{jobs}, {hello}"))
                },
            ),
            typed(
                "in a script that is stopped as a whole",
                Want::PerShell(["stopped, hello, inner 4", "suspended, hello, inner 4", "stopped, hello, inner 4"]),
                |sitting| {
                    sitting.line("bash -c 'X guard-probe tty agent; echo inner $?'")?;
                    sitting.ready()?;
                    sitting.term.send(b"\x1a")?;
                    sitting.term.prompt()?;
                    let jobs = sitting.until_jobs_say(&STOPPED)?;
                    sitting.line("fg")?;
                    sitting.until_job_is_in_front()?;
                    sitting.tell("echo hello")?;
                    let hello = sitting.term.expect("<echo ([^>]*)>")?;
                    sitting.tell("exit 4")?;
                    let inner = sitting.term.expect("inner ([0-9]+)")?;
                    sitting.term.prompt()?;
                    Ok(format!("{jobs}, {hello}, inner {inner}"))
                },
            ),
        ],
    );
    play(
        &[Shell::Bash, Shell::Zsh],
        &[typed("kill %1 of a stopped job", Want::Same("TERM=1 (terminal 0)"), |sitting| {
            let gate = sitting.place.gate();
            sitting.agent("--mute --catch TERM --gate gate")?;
            sitting.term.send(b"\x1a")?;
            sitting.term.prompt()?;
            sitting.line("kill %1")?;
            sitting.term.expect("<caught TERM 1>")?;
            gate.tell("totals")?;
            let totals = sitting.term.expect("<totals ?([^>]*)>")?;
            gate.tell("exit 0")?;
            Ok(totals)
        })],
    );
}

/// Waits for the last background job and shows the status. Not by the prompt: a job's end makes zsh draw it again.
fn wait_line(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash | Shell::Zsh => "wait $!; echo \"waited $?\"",
        Shell::Fish => "wait $last_pid; echo \"waited $status\"",
    }
}

#[test]
fn background() {
    need_shells();
    play(
        &Shell::ALL,
        &[
            typed(
                "a background start leaves the terminal to the shell; wait reports the agent's status",
                Want::PerShell([
                    "typed, status 0, shell in front, wait 42",
                    "typed, status 0, shell in front, wait 42",
                    "typed, status 0, shell in front, wait 0",
                ]),
                |sitting| {
                    let mut alive = sitting.place.alive();
                    let gate = sitting.place.gate();
                    sitting.run("X guard-probe tty agent --mute --catch INT --gate gate --alive alive &")?;
                    alive.wait()?;
                    let (output, status) = sitting.run("echo ty''ped")?;
                    let typed = if output.contains("typed") { "typed" } else { "lost" };
                    let shell = i32::try_from(sitting.term.leader()).expect("a process id");
                    let front = if sitting.term.foreground()? == shell { "shell in front" } else { "shell behind" };
                    sitting.line(wait_line(sitting.place.case.shell))?;
                    gate.tell("exit 42")?;
                    alive.until_ended()?;
                    let wait = sitting.term.expect("waited ([0-9]+)")?;
                    Ok(format!("{typed}, status {status}, {front}, wait {wait}"))
                },
            ),
            typed(
                "wait reports a background death by a signal",
                Want::PerShell(["wait 143", "wait 143", "wait 0"]),
                |sitting| {
                    let mut alive = sitting.place.alive();
                    let gate = sitting.place.gate();
                    sitting.run("X guard-probe tty agent --mute --gate gate --alive alive &")?;
                    alive.wait()?;
                    sitting.line(wait_line(sitting.place.case.shell))?;
                    gate.tell("die TERM")?;
                    Ok(format!("wait {}", sitting.term.expect("waited ([0-9]+)")?))
                },
            ),
            typed(
                "a background writer is stopped where the terminal says so",
                Want::PerShell([
                    "stopped, ready, status 42",
                    "suspended, ready, status 42",
                    "stopped, ready, status 0",
                ]),
                |sitting| {
                    let gate = sitting.place.gate();
                    // A shell sets its own modes at each prompt, so the flag is set where the job starts.
                    sitting.run("bash -c 'stty tostop; X guard-probe tty agent --mute --gate gate' &")?;
                    let jobs = sitting.until_jobs_say(&STOPPED)?;
                    sitting.line("fg")?;
                    sitting.ready()?;
                    gate.tell("exit 42")?;
                    Ok(format!("{jobs}, ready, status {}", sitting.term.prompt()?))
                },
            ),
            typed(
                "a background reader is stopped, and reads in the foreground",
                Want::PerShell(["stopped, read, status 0", "suspended, read, status 0", "stopped, read, status 0"]),
                |sitting| {
                    sitting.run("X cat &")?;
                    let jobs = sitting.until_jobs_say(&STOPPED)?;
                    sitting.line("fg")?;
                    sitting.until_job_is_in_front()?;
                    sitting.tell("a line to read")?;
                    // The echo, and then what cat read.
                    sitting.term.expect("a line to read\n")?;
                    sitting.term.expect("a line to read\n")?;
                    sitting.term.send(b"\x04")?;
                    Ok(format!("{jobs}, read, status {}", sitting.term.prompt()?))
                },
            ),
        ],
    );
}

/// An interactive shell whose prompt is `inner> `, which this line itself does not contain.
const INNER: &str = "X env PS1='in''ner> ' bash --norc --noprofile -i";

#[test]
fn shells_inside() {
    need_shells();
    play(
        &[Shell::Bash],
        &[
            typed(
                "an interactive shell inside has job control of its own",
                Want::Same("stopped, hello, inner 4, outer 3, shell in front"),
                |sitting| {
                    sitting.line(INNER)?;
                    sitting.term.expect("inner> ")?;
                    sitting.tell("guard-probe tty agent")?;
                    sitting.ready()?;
                    sitting.term.send(b"\x1a")?;
                    sitting.term.expect("inner> ")?;
                    sitting.tell("jobs")?;
                    let jobs = sitting.term.expect("[Ss]topped")?.to_lowercase();
                    sitting.tell("fg")?;
                    sitting.term.expect("guard-probe tty agent\n")?;
                    sitting.tell("echo hello")?;
                    let hello = sitting.term.expect("<echo ([^>]*)>")?;
                    sitting.tell("exit 4")?;
                    sitting.term.expect("inner> ")?;
                    sitting.tell("echo inner=$?")?;
                    let inner = sitting.term.expect("inner=([0-9]+)")?;
                    sitting.tell("exit 3")?;
                    let outer = sitting.term.prompt()?;
                    let shell = i32::try_from(sitting.term.leader()).expect("a process id");
                    let front = if sitting.term.foreground()? == shell { "shell in front" } else { "shell behind" };
                    Ok(format!("{jobs}, {hello}, inner {inner}, outer {outer}, {front}"))
                },
            ),
            typed(
                "an interactive shell inside suspends itself and comes back",
                Want::Same("status 147, sum 42, outer 3"),
                |sitting| {
                    sitting.line(INNER)?;
                    sitting.term.expect("inner> ")?;
                    sitting.tell("suspend")?;
                    let status = sitting.term.prompt()?;
                    sitting.line("fg")?;
                    sitting.until_job_is_in_front()?;
                    sitting.tell("echo sum=$((6 * 7))")?;
                    let sum = sitting.term.expect("sum=([0-9]+)")?;
                    sitting.tell("exit 3")?;
                    Ok(format!("status {status}, sum {sum}, outer {}", sitting.term.prompt()?))
                },
            ),
        ],
    );
}

/// In the landlock tier no new terminal can be made: its name would lie in `/dev/pts` with those of all others.
#[test]
fn terminals_inside() {
    need(&[("script", "bsdutils"), ("tmux", "tmux")]);
    play(
        &[Shell::Bash],
        &[
            typed(
                "46 script makes a terminal of its own",
                Want::NotInLandlock {
                    full: "who 0=tty 1=tty 2=tty /dev/tty=open size=24x80 foreground=true, status 7",
                    landlock: "failed to create pseudo-terminal, status 1",
                },
                |sitting| {
                    sitting.line("X script -qec 'guard-probe tty who; exit 7' /dev/null")?;
                    let who = sitting.term.expect("<(who [^>]*)>|failed to create pseudo-terminal")?;
                    Ok(format!("{who}, status {}", sitting.term.prompt()?))
                },
            ),
            typed(
                "47 tmux runs inside",
                Want::NotInLandlock { full: "23x80, 29x90, status 0", landlock: "no tmux" },
                |sitting| {
                    sitting.line("X tmux -L inner -f /dev/null new-session 'guard-probe tty agent --catch WINCH'")?;
                    let start = sitting.term.expect("<ready>|[Pp]ermission denied|failed|exited")?;
                    if start != "<ready>" {
                        sitting.term.prompt()?;
                        return Ok("no tmux".to_owned());
                    }
                    sitting.tell("size")?;
                    let before = sitting.term.expect("<size ([^>]*)>")?;
                    sitting.term.resize(crate::pty::Size { rows: 30, cols: 90 })?;
                    sitting.term.expect("<caught WINCH 1>")?;
                    sitting.tell("size")?;
                    let after = sitting.term.expect("<size (29x[^>]*)>")?;
                    sitting.tell("exit 0")?;
                    Ok(format!("{before}, {after}, status {}", sitting.term.prompt()?))
                },
            ),
        ],
    );
}
