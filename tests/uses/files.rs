//! Uses 14 to 23: files in the project, temporary ones, the home.

use super::support::need;
use super::{Use, run, used};

const NO_PRIVATE_TMP: &str = "/tmp cannot be made private there, and is other programs'; TMPDIR points elsewhere";

#[test]
fn files_work() {
    need(&[("flock", "util-linux"), ("sqlite3", "sqlite3"), ("python3", "python3")]);
    run(&uses());
}

pub fn uses() -> Vec<Use> {
    vec![
        used(
            14,
            "create, rename, link, symlink, remove",
            "echo a > a; mv a b; ln b c; ln -s b d; cat d; rm b c d; mkdir -p x/y; rmdir x/y; mv x z; rm -r z; echo done",
            "done",
        ),
        used(
            15,
            "rename and link across directories",
            "mkdir one two; echo a > one/a; mv one/a two/a; ln two/a one/b; mv one two/one; cat two/one/b; echo done",
            "done",
        ),
        used(16, "mktemp", "f=$(mktemp); echo x > $f; d=$(mktemp -d); mkdir $d/e; rm -r $f $d; test -d ${TMPDIR:-/tmp}; echo done", "done"),
        used(17, "write to /tmp", "echo x > /tmp/made-here; cat /tmp/made-here; rm /tmp/made-here; echo done", "done")
            .not_in_landlock(NO_PRIVATE_TMP)
            .leaves(|place| !place.world.exists("/tmp/made-here")),
        used(
            18,
            "umask, chmod, utime",
            "umask 077; echo a > a; stat -c %a a; chmod 640 a; touch -d 2001-01-01 a; stat -c '%a %y' a",
            "640 2001-01-01",
        ),
        used(
            19,
            "flock and shared mmap",
            r#"flock lock true; /usr/bin/python3 -c 'import mmap, os
f = open("m", "w+b"); f.truncate(4096); m = mmap.mmap(f.fileno(), 4096)
if os.fork() == 0: m[0:4] = b"done"; os._exit(0)
os.wait(); print(m[0:4].decode())'"#,
            "done",
        ),
        used(
            20,
            "sqlite in WAL mode",
            "sqlite3 t.db 'pragma journal_mode = wal; create table t (x); insert into t values (41 + 1);'
             for i in 1 2 3; do sqlite3 t.db 'pragma busy_timeout = 60000; insert into t values (1);' > /dev/null & done; wait
             sqlite3 t.db 'select sum(x) from t; select count(*) from t;'",
            "45\n4",
        ),
        used(21, "~/.cache writable", "mkdir -p ~/.cache/tool; echo x > ~/.cache/tool/x; cat ~/.cache/tool/x; echo done", "done"),
        used(21, "dotfiles in the home", "echo x > ~/.stray; cat ~/.stray; test \"$(cd ~; pwd)\" = \"$HOME\"; echo done", "done")
            .leaves(|place| place.world.exists(place.user.path(".stray")) != place.inside),
        used(
            22,
            "agent state writable",
            "mkdir -p ~/.claude/projects; echo kept > ~/.claude/projects/log; cat ~/.claude/projects/log",
            "kept",
        )
        .set_up(|place| {
            place.world.mkdir(place.user, ".claude");
            place.guard = vec!["--profile", "claude"];
        })
        .leaves(|place| place.world.read(place.user.path(".claude/projects/log")) == "kept\n"),
        used(23, "same working directory", "test \"$(pwd -P)\" = \"$(readlink /proc/self/cwd)\"; pwd -P; pwd", "/src/demo"),
    ]
}
