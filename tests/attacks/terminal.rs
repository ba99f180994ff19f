//! Section 9: the user's terminals.

use super::scene::Try;
use super::table::{Kind, row, run};

const PTY: [&str; 3] = ["guard-probe", "with-pty", "--"];

#[test]
fn typing_into_the_shell() {
    let mut rows = Vec::new();
    for act in ["tiocsti", "tiocsti-high", "tioclinux"] {
        for terminal in ["/dev/tty", "stdin"] {
            // Outside, TIOCSTI needs sysctl dev.tty.legacy_tiocsti=1 where the kernel has that switch.
            rows.push(row(format!("{act} on {terminal}"), Kind::Act, move |_| Try::probe([act, terminal]).wrap(PTY)));
        }
    }
    run(rows);
}

#[test]
fn other_terminals() {
    run(vec![
        row("write to another terminal", Kind::Reach("got hello"), |scene| {
            let path = scene.victim(&["pty-holder"]).remove(0);
            Try::probe(["tty-write", &path, "hello from inside"])
        }),
        row("write to another terminal, from a terminal", Kind::Reach("got hello"), |scene| {
            let path = scene.victim(&["pty-holder"]).remove(0);
            Try::probe(["tty-write", &path, "hello from inside"]).wrap(PTY)
        }),
        row("read from another terminal", Kind::Act, |scene| {
            let path = scene.victim(&["pty-holder"]).remove(0);
            Try::probe(["tty-read", &path])
        }),
    ]);
}
