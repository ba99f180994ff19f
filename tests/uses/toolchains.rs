//! Uses 1 to 13 and 43, 44: git, cargo, node, python, C, and looking into one's own children.

use std::path::{Path, PathBuf};

use super::support::{User, need};
use super::{Place, Use, run, used};

pub fn uses() -> Vec<Use> {
    let mut all = git();
    all.extend(languages());
    all.extend(debuggers());
    all
}

#[test]
fn git_works() {
    need(&[("git", "git")]);
    run(&git());
}

#[test]
fn languages_work() {
    need(&[("node", "nodejs"), ("npm", "npm"), ("python3", "python3 python3-venv"), ("gcc", "gcc")]);
    run(&languages());
}

#[test]
fn debuggers_work() {
    need(&[("strace", "strace"), ("gdb", "gdb"), ("gcc", "gcc")]);
    run(&debuggers());
}

fn committed(place: &Place) -> bool {
    place.outside("git log --oneline | grep -q 'from inside'");
    true
}

fn git() -> Vec<Use> {
    vec![
        used(1, "git status", "git status --porcelain; git diff; git log --oneline", "first"),
        used(
            2,
            "git commit",
            "echo more >> README.md; git add -A; git commit -q -m 'from inside'; git log --oneline",
            "from inside",
        )
        .leaves(committed),
        used(
            3,
            "git branch, merge, rebase, stash, reset",
            "git checkout -q -b side; echo a > a; git add a; git commit -q -m side; git checkout -q main
             echo b > b; git add b; git commit -q -m 'from inside'; git rebase -q main side; git checkout -q main
             git merge -q --ff-only side; echo c >> a; git stash -q; git stash pop -q; git reset -q --hard
             git tag v1; git gc -q; git fsck 2>&1; git branch",
            "* main",
        )
        .leaves(committed),
        used(
            3,
            "git worktree add",
            "git worktree add -q trees/w -b w; cd trees/w; echo w > w; git add w; git commit -q -m w; git log --oneline; git worktree list",
            "trees/w",
        ),
        used(
            3,
            "a linked worktree",
            "echo l > l; git add l; git commit -q -m 'from inside'; git stash list; git branch made-inside; git log --oneline",
            "from inside",
        )
        .set_up(|place| {
            place.outside("git worktree add -q ../linked -b linked");
            place.project = place.user.path("src/linked");
        })
        .leaves(|place| {
            place.world.run(place.user).cwd("src/demo").sh("git branch --list made-inside linked").output().stdout().matches('\n').count() == 2
        }),
        used(
            3,
            "a subdirectory of the project as working directory",
            "cd ..; git status; git rev-parse --show-prefix; cat ../README.md; cd dir; git add -A; git commit -q -m 'from inside'; git log --oneline",
            "from inside",
        )
        .set_up(|place| {
            place.file("sub/dir/file", "x\n");
            place.project = place.project.join("sub/dir");
        }),
        used(4, "git identity from ~/.gitconfig", "git commit -q --allow-empty -m x; git log -1 --format=%ae", "global@example.org")
            .set_up(|place| {
                place.world.write(place.user, ".gitconfig", "[user]\n\tname = Global\n\temail = global@example.org\n");
                place.outside("git config --unset user.email; git config --unset user.name");
            }),
    ]
}

fn languages() -> Vec<Use> {
    vec![
        used(5, "cargo run", "cargo run -q --offline", "Hello from cargo").set_up(rust),
        used(5, "cargo test", "cargo test -q --offline; echo tested", "tested").set_up(rust),
        used(6, "cargo home writable", "mkdir -p ~/.cargo/registry/src; echo x > ~/.cargo/registry/src/x; cat ~/.cargo/registry/src/x; cargo --version", "cargo 1")
            .set_up(rust)
            // The user builds from the registry outside, so nothing written inside may be there.
            .leaves(|place| place.world.exists(place.user.path(".cargo/registry/src/x")) != place.inside),
        used(7, "npm run", "npm run --silent hello", "hello from npm").set_up(|place| {
            place.file("package.json", r#"{"name":"demo","version":"1.0.0","scripts":{"hello":"node -e \"console.log('hello from npm')\""}}"#);
        }),
        used(
            8,
            "node with child processes",
            r#"node -e 'const c = require("child_process"); c.exec("echo from a child", (e, out) => { if (e) throw e; console.log(out); c.fork("-e", [], {execArgv: []}).on("error", () => {}).kill(); console.log(require("os").cpus().length > 0, Object.keys(require("os").networkInterfaces()).length >= 0) })'"#,
            "from a child",
        ),
        used(
            9,
            "node fs.watch",
            r#"node -e 'const fs = require("fs"); fs.writeFileSync("watched", ""); const t = setInterval(() => fs.appendFileSync("watched", "x"), 20); const w = fs.watch(".", (kind, name) => { if (name === "watched") { clearInterval(t); w.close(); console.log("saw it"); } })'"#,
            "saw it",
        ),
        used(
            10,
            "python venv and pip",
            "/usr/bin/python3 -m venv venv; . venv/bin/activate; pip install -q --no-index --disable-pip-version-check ./made_here-1.0-py3-none-any.whl
             python -c 'import made_here; print(made_here.text)'",
            "from a wheel",
        )
        .set_up(wheel),
        used(
            11,
            "python multiprocessing",
            r#"/usr/bin/python3 -c 'import multiprocessing as m
q = m.Queue(); l = m.Lock(); p = m.Process(target=lambda: q.put("from a process")); p.start(); print(q.get()); p.join()
with m.Pool(2) as pool: print(sum(pool.map(abs, range(-10, 0))))'"#,
            "55",
        )
        .not_in_landlock("semaphores live in /dev/shm, which cannot be made private there"),
        used(12, "compile C and run it", "gcc -g -o hello hello.c; ./hello", "hello from C").set_up(c_program),
        used(13, "run a script", "printf '#!/bin/sh\\necho from a script\\n' > s.sh; chmod +x s.sh; ./s.sh", "from a script"),
        used(13, "run a script by env", "printf '#!/usr/bin/env python3\\nprint(\"by env\")\\n' > s.py; chmod +x s.py; PATH=/usr/bin:/bin ./s.py", "by env"),
    ]
}

fn debuggers() -> Vec<Use> {
    vec![
        used(
            43,
            "strace of a child",
            "strace -f -o trace /bin/true; grep -c execve trace; grep exited trace",
            "exited with 0",
        ),
        used(
            44,
            "gdb of a child",
            "gcc -g -o hello hello.c; gdb -nx -batch -ex 'break main' -ex run -ex bt -ex continue ./hello 2>&1",
            "main () at hello.c",
        )
        .set_up(c_program),
    ]
}

fn c_program(place: &mut Place) {
    place.file("hello.c", "#include <stdio.h>\nint main(void) { puts(\"hello from C\"); return 0; }\n");
}

/// The machine's own toolchain as the user's: rustup's directories bound into the home.
fn rust(place: &mut Place) {
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or("/root".into()));
    let named = |name: &str, below: &str| std::env::var_os(name).map_or(home.join(below), PathBuf::from);
    let (rustup, cargo) = (named("RUSTUP_HOME", ".rustup"), named("CARGO_HOME", ".cargo"));
    if rustup.is_dir() {
        place.world.mkdir(place.user, ".cargo");
        place.world.bind(rustup, place.user.path(".rustup"));
        place.world.bind(cargo.join("bin"), place.user.path(".cargo/bin"));
        place.path = format!("{}/.cargo/bin:{}", place.user.home(), place.path);
    } else {
        assert!(Path::new("/usr/bin/cargo").exists(), "needs cargo: from rustup, or apt-get install cargo");
    }
    place.file("Cargo.toml", "[package]\nname = \"demo\"\nversion = \"0.1.0\"\nedition = \"2021\"\n");
    place.file("src/main.rs", "fn main() { println!(\"Hello from cargo\"); }\n#[test]\nfn works() {}\n");
    // In the world's default toolchain; the one these tests run with may be another.
    assert!(matches!(place.user, User::Ana | User::Root));
}

/// A wheel made by hand, so that nothing is fetched or built.
fn wheel(place: &mut Place) {
    place.outside(
        r#"/usr/bin/python3 - <<'END'
import zipfile
info = "made_here-1.0.dist-info/"
with zipfile.ZipFile("made_here-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("made_here.py", "text = 'from a wheel'\n")
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: made-here\nVersion: 1.0\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "RECORD", "made_here.py,,\n")
END"#,
    );
}
