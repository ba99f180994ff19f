//! Sections 5 and 6: what is written inside and would be executed or trusted outside later. Inside, a write to the
//! private home may succeed; the real file must stay what it was, or not there.

use super::scene::Try;
use super::support::User;
use super::table::{Kind, Row, row, run};

/// Places below the home from which something is run, or which something trusts.
const PLANTS: [&str; 52] = [
    ".bashrc",
    ".bash_profile",
    ".zshrc",
    ".zshenv",
    ".profile",
    ".config/fish/conf.d/planted.fish",
    ".inputrc",
    ".pam_environment",
    ".config/environment.d/planted.conf",
    ".xprofile",
    ".config/autostart/planted.desktop",
    ".local/share/applications/planted.desktop",
    ".config/systemd/user/planted.service",
    "bin/ls",
    ".local/bin/git",
    ".cargo/bin/cargo",
    ".ssh/authorized_keys",
    ".ssh/config",
    ".ssh/rc",
    ".gitconfig",
    ".config/git/config",
    ".config/git/hooks/pre-commit",
    ".claude/settings.json",
    ".claude/CLAUDE.md",
    ".claude.json",
    ".codex/config.toml",
    ".config/opencode/opencode.json",
    ".gemini/settings.json",
    ".config/guard/config.toml",
    ".config/guard/profiles/shell.toml",
    ".local/share/guard/trust/planted",
    ".local/share/direnv/allow/planted",
    ".config/direnv/direnvrc",
    ".cargo/config.toml",
    ".npmrc",
    ".config/pip/pip.conf",
    ".local/lib/python3.11/site-packages/usercustomize.py",
    ".config/Code/User/settings.json",
    ".vscode/extensions/planted/package.json",
    ".vimrc",
    ".config/nvim/init.lua",
    ".emacs.d/init.el",
    ".gdbinit",
    ".lldbinit",
    ".tmux.conf",
    ".docker/config.json",
    ".kube/config",
    ".aws/config",
    "src/other/Makefile",
    "src/CLAUDE.md",
    "src/.guard.toml",
    "src/other/.git/hooks/pre-commit",
];

fn change(name: impl Into<String>, act: impl Fn(&mut super::scene::Scene) -> Vec<String> + 'static) -> Row {
    row(name, Kind::Change, move |scene| Try::probe(act(scene)))
}

/// Three more, that every user can write to.
const SHARED: [&str; 3] = ["/tmp/build.sh", "/var/tmp/build.sh", "/dev/shm/build.sh"];

#[test]
fn new_and_changed_files() {
    run(vec![row("files that something runs later", Kind::Changes(PLANTS.len() + SHARED.len()), |scene| {
        let paths: Vec<String> = PLANTS.iter().map(|path| scene.home(path)).chain(SHARED.map(str::to_owned)).collect();
        for (index, path) in paths.iter().enumerate() {
            // Every second one exists already. Guard's own stay absent: with nonsense in them it would not start.
            if index % 2 == 0 && !path.contains("guard") {
                scene.world.write(scene.user, path, "as it was\n");
            }
        }
        Try::probe(["each".to_owned(), "write".to_owned()].into_iter().chain(paths))
    })]);
}

#[test]
fn destroyed_files() {
    let mut rows = Vec::new();
    for act in ["truncate", "unlink"] {
        for path in [".ssh/id_ed25519", "Documents/diary.txt", ".config/guard/profiles/other.toml"] {
            rows.push(change(format!("{act} of {path}"), move |scene| vec![act.into(), scene.home(path)]));
        }
    }
    for path in [".ssh", ".config/guard", ".local/share/guard", "src/other", "src/project", "src"] {
        rows.push(change(format!("rename of {path}"), move |scene| {
            vec!["rename".into(), scene.home(path), scene.home(&format!("{path}.aside"))]
        }));
        rows.push(change(format!("swap of {path}"), move |scene| vec!["swap-directory".into(), scene.home(path)]));
    }
    rows.push(change("append to .bashrc", |scene| vec!["append".into(), scene.home(".bashrc"), "planted".into()]));
    rows.push(change("move of .ssh into the project", |scene| {
        vec!["rename".into(), scene.home(".ssh"), scene.inside("moved")]
    }));
    run(rows);
}

#[test]
fn attributes() {
    const NOT_MEDIATED: &str = "Landlock does not mediate changes of attributes";
    let mut rows = Vec::new();
    for act in ["chmod", "chmod-opath", "utime"] {
        rows.push(
            row(format!("{act} of the SSH key"), Kind::Act, move |scene| Try::probe([act, &scene.key()]))
                .gap(NOT_MEDIATED),
        );
    }
    rows.push(
        row("setxattr on the SSH key", Kind::Act, |scene| Try::probe(["setxattr", &scene.key()])).gap(NOT_MEDIATED),
    );
    rows.push(
        row("chown of the SSH key", Kind::Act, |scene| Try::probe(["chown", &scene.key(), "4242"]))
            .gap(NOT_MEDIATED)
            .only(User::Ana, "giving a file to its owner is all a user may do"),
    );
    rows.push(
        row("chown of the SSH key", Kind::Act, |scene| Try::probe(["chown", &scene.key(), "4242"]))
            .only(User::Root, "without capabilities root may give no file away"),
    );
    run(rows);
}

/// What the project's own tools run outside later.
#[test]
fn in_the_project() {
    const LATER: &str = "what does not exist yet is seen only when the project is guarded";
    const WITHIN: &str = "Landlock cannot take away a part of a granted tree";
    let planted = |path: &'static str| {
        row(format!("write of {path} in the project"), Kind::Act, move |scene| {
            Try::probe(["write", &scene.inside(path), "planted"])
        })
    };
    let mut rows = Vec::new();
    for path in [".git/hooks/pre-commit", ".git/hooks/post-checkout", ".git/config", ".envrc", ".vscode/tasks.json"] {
        rows.push(planted(path).gap(WITHIN));
    }
    for path in [".git/info/attributes", ".mcp.json", ".claude/settings.json", ".vscode/launch.json"] {
        rows.push(planted(path).open(LATER));
    }
    for path in ["Makefile", "CLAUDE.md", "build.rs"] {
        rows.push(planted(path).open("writing these is the agent's work"));
    }
    for path in [".git", ".git/hooks", ".vscode"] {
        rows.push(
            row(format!("swap of {path} in the project"), Kind::Act, move |scene| {
                Try::probe(["swap-directory", &scene.inside(path)])
            })
            .gap(WITHIN),
        );
    }
    run(rows);
}
