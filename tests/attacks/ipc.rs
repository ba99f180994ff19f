//! Section 7: programs outside that would do the agent's bidding.

use super::scene::{Scene, Try};
use super::support::{User, need, poll_until};
use super::table::{Kind, Row, row, run};

const PATH_SOCKETS: &str = "Landlock does not mediate pathname sockets before ABI 9";
const HELLO: &str = "got hello";

/// The stream socket of a service: what it stands for, and where it is.
fn services(scene: &Scene) -> Vec<(&'static str, String)> {
    vec![
        ("ssh-agent in /tmp", "/tmp/ssh-abcdef/agent.1234".into()),
        ("ssh-agent below the home", scene.home(".ssh/agent.sock")),
        ("gpg-agent", scene.home(".gnupg/S.gpg-agent")),
        ("keyring control", scene.runtime("keyring/control")),
        ("session bus", scene.runtime("bus")),
        ("systemd of the user", scene.runtime("systemd/private")),
        ("docker", "/run/docker.sock".into()),
        ("docker below the home", scene.home(".colima/default/docker.sock")),
        ("podman", scene.runtime("podman/podman.sock")),
        ("tmux", format!("/tmp/tmux-{}/default", scene.user.uid())),
        ("emacs", scene.runtime("emacs/server")),
        ("editor", scene.runtime("vscode-ipc-1.sock")),
        ("X11", "/tmp/.X11-unix/X7".into()),
        ("Wayland", scene.runtime("wayland-0")),
        ("PipeWire", scene.runtime("pipewire-0")),
    ]
}

#[test]
fn path_sockets() {
    let names: Vec<&str> = services(&Scene::new(User::Ana)).into_iter().map(|(name, _)| name).collect();
    let mut rows: Vec<Row> = names
        .into_iter()
        .enumerate()
        .map(|(index, name)| {
            row(format!("socket of {name}"), Kind::Leak, move |scene| {
                let (_, path) = services(scene).swap_remove(index);
                if path.starts_with("/run/docker") {
                    // The daemon is root's; the user is in its group.
                    make_room(scene, "/run");
                }
                scene.server("serve-stream", &path);
                Try::probe(["unix-stream", &path])
            })
            .gap(PATH_SOCKETS)
        })
        .collect();
    rows.push(by("unix-relative", Kind::Leak, "serve-stream"));
    rows.push(by("unix-fd", Kind::Leak, "serve-stream"));
    rows.push(by("unix-seqpacket", Kind::Leak, "serve-seqpacket"));
    rows.push(by("unix-dgram", Kind::Reach(HELLO), "serve-dgram"));
    rows.push(
        row("socket through a symlink in the project", Kind::Leak, |scene| {
            let path = scene.home(".agent.sock");
            scene.server("serve-stream", &path);
            let link = scene.shipped_link(&path, "link.sock");
            Try::probe(["unix-stream", &link])
        })
        .gap(PATH_SOCKETS),
    );
    run(rows);
}

fn by(act: &'static str, kind: Kind, server: &'static str) -> Row {
    row(format!("socket by {act}"), kind, move |scene| {
        let path = scene.home(".agent.sock");
        scene.server(server, &path);
        Try::probe([act, &path])
    })
    .gap(PATH_SOCKETS)
}

fn make_room(scene: &Scene, place: &str) {
    use std::os::unix::fs::PermissionsExt;
    let host = scene.world.host_path(place);
    std::fs::set_permissions(host, std::fs::Permissions::from_mode(0o777)).unwrap();
}

#[test]
fn other_channels() {
    run(vec![
        row("abstract socket", Kind::Leak, |scene| {
            let name = scene.world.id();
            scene.server("serve-abstract", &name);
            Try::probe(["abstract-stream", &name])
        }),
        row("abstract datagram socket", Kind::Reach(HELLO), |scene| {
            let name = scene.world.id();
            scene.server("serve-abstract-dgram", &name);
            Try::probe(["abstract-dgram", &name])
        }),
        row("command FIFO", Kind::Reach(HELLO), |scene| {
            let path = scene.home(".commands");
            scene.server("serve-fifo", &path);
            Try::probe(["fifo-write", &path, "hello from inside"])
        }),
        row("System V shared memory", Kind::Leak, |scene| {
            let canary = scene.canary.clone();
            let id = scene.victim(&["shm-holder", &canary]).remove(0);
            Try::probe(["shm-read", &id])
        })
        .gap("Landlock does not mediate System V IPC"),
        with_keys("session"),
        with_keys("user"),
    ]);
}

fn with_keys(keyring: &'static str) -> Row {
    row(format!("{keyring} keyring"), Kind::Leak, move |scene| {
        let (name, canary) = (scene.world.id(), scene.canary.clone());
        Try::probe(["key-read", keyring, &name]).wrap(["guard-probe", "with-keys", &name, &canary, "--"])
    })
}

/// The real thing: a server that runs commands for whoever can reach its socket.
#[test]
fn tmux_run_shell() {
    need(&[("tmux", "tmux")]);
    run(vec![
        row("tmux run-shell", Kind::Change, |scene| {
            let dir = format!("/tmp/tmux-{}", scene.user.uid());
            scene.world.mkdir(scene.user, &dir);
            let host = scene.world.host_path(&dir);
            std::fs::set_permissions(host, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
            let socket = format!("{dir}/default");
            let server = scene.world.run(scene.user).cmd(["tmux", "-D", "-f", "/dev/null", "-S", &socket]);
            scene.victims.push(server.spawn());
            let greet = scene.world.run(scene.user).cmd(["tmux", "-S", &socket, "run-shell", "true"]);
            poll_until("tmux", || greet.output().code() == 0);
            Try::command(["tmux", "-S", &socket, "run-shell", &format!("touch {}", scene.home("planted"))])
        })
        .gap(PATH_SOCKETS),
    ]);
}
