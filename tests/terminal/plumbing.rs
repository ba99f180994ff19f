//! Descriptors, arguments and what a process inherits.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use crate::pty::Shell;
use crate::sitting::{How, Place, Want, placed, play};
use crate::support::need;

const MEGABYTES_3: usize = 3 * 1024 * 1024;

/// The bytes of `guard-probe tty flood N`.
fn flood(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|place| u8::try_from(place % 251).expect("below 251")).collect()
}

#[test]
fn streams() {
    play(
        &[Shell::Bash],
        &[
            placed("55 stdin from a pipe is complete", Want::Same("right"), |place| {
                let bytes = flood(MEGABYTES_3);
                let sum = bytes.iter().fold(0_u64, |sum, &byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
                let output = place.probe(&["count"]).stdin(&bytes).output();
                let right = output.stdout().contains(&format!("<count {MEGABYTES_3} {sum:x}>"));
                if right { Ok("right".to_owned()) } else { Err(output.report()) }
            }),
            placed("56 3 MB to stdout are complete", Want::Same("right"), |place| {
                let output = place.probe(&["flood", &MEGABYTES_3.to_string()]).output().success();
                let same = output.stdout == flood(MEGABYTES_3);
                if same { Ok("right".to_owned()) } else { Err(format!("{} bytes came", output.stdout.len())) }
            }),
            placed(
                "stdout and stderr stay apart, and nothing is added",
                Want::Same("\"out\\n\" \"err\\n\""),
                |place| {
                    let run = place.run().cmd(["/bin/sh", "-c", "echo out; echo err >&2"]);
                    let output = place.case.how.apply(run).output().success();
                    Ok(format!("{:?} {:?}", output.stdout(), output.stderr()))
                },
            ),
            placed("stdin that is closed stays at its end", Want::Same("<count 0 0>"), |place| {
                Ok(place.probe(&["count"]).output().success().stdout().trim().to_owned())
            }),
            placed(
                "no descriptor above 2 is inherited",
                Want::Differs { bare: "0 1 2 and 7 9 200", inside: "0 1 2" },
                |place| {
                    let script = "exec 7</etc/passwd 9>/dev/null 200</; exec X guard-probe tty fds";
                    let text = place.script(script).output().success().stdout();
                    let list = text.trim().trim_start_matches("<fds ").trim_end_matches('>');
                    // The test's own runner may leak more, which the bare agent sees too.
                    let opened = list.split(' ').filter(|fd| ["7", "9", "200"].contains(fd)).collect::<Vec<_>>();
                    let bare = place.case.how == How::Bare && list.starts_with("0 1 2 ");
                    Ok(if bare { format!("0 1 2 and {}", opened.join(" ")) } else { list.to_owned() })
                },
            ),
            placed("closed descriptors", Want::AsBare, closed),
        ],
    );
}

/// Each of 0, 1, 2 closed, and all of them. The observation is made by dash, because Rust's start-up opens
/// `/dev/null` in the place of what is closed. guard may do the same, and nothing else: where the bare run has no
/// descriptor, the agent has none or `/dev/null`, never a file of guard's.
fn closed(place: &Place) -> Result<String, String> {
    const LOOK: &str = "for fd in 0 1 2; do \
                        if [ -e /proc/$$/fd/$fd ]; then readlink /proc/$$/fd/$fd; else echo closed; fi; \
                        done >seen; exit 42";
    let mut seen = Vec::new();
    for (name, redirections, shut) in [
        ("0", "<&-", &[0][..]),
        ("1", ">&-", &[1]),
        ("2", "2>&-", &[2]),
        ("0 and 1", "<&- >&-", &[0, 1]),
        ("1 and 2", ">&- 2>&-", &[1, 2]),
        ("all", "<&- >&- 2>&-", &[0, 1, 2]),
    ] {
        let script = place.expand(&format!("exec {redirections}; exec X /bin/dash ./look"));
        place.world.write(place.case.user, "src/p/look", LOOK);
        let output = place.run().sh(script).output();
        let text = place.world.read(place.case.user.path("src/p/seen"));
        let found: Vec<&str> = text.lines().collect();
        if found.len() != 3 {
            return Err(format!("{name} closed: {found:?}\n{}", output.report()));
        }
        for (fd, &found) in found.iter().enumerate() {
            // `>seen` of the loop is descriptor 1, for as long as it looks.
            let right = match (shut.contains(&fd), fd) {
                (_, 1) => found.ends_with("/seen"),
                (true, _) => found == "closed" || (place.case.how != How::Bare && found == "/dev/null"),
                (false, _) => found.starts_with("pipe:"),
            };
            if !right {
                return Err(format!("{name} closed, but descriptor {fd} is {found}"));
            }
        }
        seen.push(format!("{name}: status {}", output.code()));
    }
    Ok(seen.join(", "))
}

#[test]
fn arguments() {
    play(
        &[Shell::Bash],
        &[placed("57 arguments arrive byte by byte", Want::Same("all"), |place| {
            let plain = [
                "",
                " ",
                "  two  blanks  ",
                "--",
                "-",
                "--help",
                "-c",
                "--quiet",
                "\"",
                "'",
                "it's",
                "`id`",
                "$HOME",
                "${HOME}",
                "$(id)",
                "*",
                "?",
                "[a-z]",
                "~",
                "!",
                "#",
                ";",
                "&&",
                "|",
                ">",
                "\\",
                "\\n",
                "a\nb",
                "\n",
                "\t",
                "\r",
                "grüße",
                "日本",
                "\u{1f680}",
                "a=b",
                "@file",
                "{1..3}",
                "%s",
                "\u{1b}[31m",
            ];
            let mut args: Vec<OsString> = plain.iter().map(OsString::from).collect();
            args.push(OsString::from_vec(vec![0xff, 0xfe, b'x', 0xc3]));
            args.push(OsString::from_vec((1..=255).collect()));
            args.push("x".repeat(100 * 1024).into());
            args.extend((0..1000).map(|number| OsString::from(number.to_string())));
            let mut command: Vec<&OsStr> = vec!["guard-probe".as_ref(), "tty".as_ref(), "args".as_ref()];
            command.extend(args.iter().map(OsString::as_os_str));
            let output = place.case.how.apply(place.run().cmd(&command)).output().success();
            let text = output.stdout();
            let mut lines = text.lines();
            for arg in &args {
                let hex: String = arg.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
                let line = lines.next().unwrap_or("nothing");
                if line != format!("<{hex}>") {
                    return Err(format!("{arg:?} arrived as {line}"));
                }
            }
            match lines.next() {
                None => Ok("all".to_owned()),
                Some(more) => Err(format!("one argument too many: {more}")),
            }
        })],
    );
}

#[test]
fn inheritance() {
    need(&[("dash", "dash"), ("nice", "coreutils"), ("taskset", "util-linux"), ("prlimit", "util-linux")]);
    play(
        &[Shell::Bash],
        &[
            placed("umask", Want::Same("0027 0777"), |place| {
                let output = place.script("umask 027; X /bin/dash -c umask; umask 777; X /bin/dash -c umask").output();
                Ok(output.success().stdout().split_whitespace().collect::<Vec<_>>().join(" "))
            }),
            placed("directory", Want::AsBare, |place| Ok(place.script("X /bin/pwd -P").output().success().stdout())),
            placed("niceness", Want::AsBare, |place| {
                let output = place.script("nice -n 7 X nice").output();
                Ok(output.success().stdout().trim().to_owned())
            }),
            // The signals of a Rust program are not those it was started with, so a C program looks.
            placed("ignored and blocked signals: none", Want::Same("SigBlk: 0 SigIgn: 0"), |place| {
                Ok(signals(place, "X grep -E '^Sig(Blk|Ign)' /proc/self/status"))
            }),
            placed(
                "ignored signals: HUP (as under nohup), QUIT, TERM, USR1",
                Want::Same("SigBlk: 0 SigIgn: 4205"),
                |place| Ok(signals(place, "trap '' HUP QUIT TERM USR1; X grep -E '^Sig(Blk|Ign)' /proc/self/status")),
            ),
            placed("ignored signals: PIPE", Want::Same("SigBlk: 0 SigIgn: 1000"), |place| {
                Ok(signals(place, "trap '' PIPE; X grep -E '^Sig(Blk|Ign)' /proc/self/status"))
            }),
            placed(
                "ignored signals: INT, TSTP, TTIN, TTOU, WINCH, CHLD",
                Want::Same("SigBlk: 0 SigIgn: 8390002"),
                |place| {
                    let script = "trap '' INT TSTP TTIN TTOU WINCH CHLD; X grep -E '^Sig(Blk|Ign)' /proc/self/status";
                    Ok(signals(place, script))
                },
            ),
            placed("an ignored SIGHUP does not reach the agent", Want::Same("exit 42"), |place| {
                let script = "trap '' HUP; exec X guard-probe tty agent";
                let mut process = place.script(script).spawn();
                process.wait_for("<ready>");
                process.signal(nix::sys::signal::Signal::SIGHUP);
                process.write("exit 42\n");
                Ok(format!("exit {}", process.finish().status.code().unwrap_or(-1)))
            }),
            placed("limits", Want::AsBare, |place| {
                let script = "ulimit -S -n 64; ulimit -H -n 128; ulimit -c 0; ulimit -f 123456; ulimit -s 4096; \
                              ulimit -t 600; ulimit -l 64; ulimit -q 1000; X grep -E '^Max' /proc/self/limits";
                let text = place.script(script).output().success().stdout();
                // What a profile's [resources] may set is not compared.
                let own = ["Max processes", "Max address space"];
                let lines = text.lines().filter(|line| !own.iter().any(|name| line.starts_with(name)));
                Ok(lines
                    .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                    .collect::<Vec<_>>()
                    .join("; "))
            }),
            placed("processors it may run on", Want::AsBare, |place| {
                let output = place.script("taskset -c 0 X grep Cpus_allowed_list /proc/self/status").output();
                Ok(output.success().stdout().split_whitespace().collect::<Vec<_>>().join(" "))
            }),
            placed("few descriptors are enough to start", Want::Same("0"), |place| {
                Ok(place.script("ulimit -n 16; X /bin/true").output().code().to_string())
            }),
            placed("user and groups", Want::AsBare, |place| Ok(place.script("X id").output().success().stdout())),
        ],
    );
}

/// The masks in this output, without the two signals that the C library keeps for itself (32 and 33).
fn signals(place: &Place, script: &str) -> String {
    let text = place.script(script).output().success().stdout();
    let mask =
        |word: &str| u64::from_str_radix(word, 16).map_or(word.to_owned(), |mask| format!("{:x}", mask & !(3 << 31)));
    text.split_whitespace().map(mask).collect::<Vec<_>>().join(" ")
}
