//! Sections 1 and 2: reading what is secret, directly and by detours.

use std::path::Path;

use super::scene::{SECRETS, Scene, Try};
use super::support::User;
use super::table::{Kind, Row, row, run};

const STAT: &str = "Landlock does not mediate stat";
const AS_ROOT: &str = "the kernel lets only root try it";
const OWN_NAMESPACE: &str = "an ordinary user needs a user namespace for it";

fn leak(name: &str, act: impl Fn(&mut Scene) -> Vec<String> + 'static) -> Row {
    row(name, Kind::Leak, move |scene| Try::probe(act(scene)))
}

fn line(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn files() {
    let elsewhere = |scene: &Scene| {
        let mut all = vec![scene.runtime("secret")];
        all.extend(["/tmp/left.txt", "/var/tmp/left.txt", "/dev/shm/left"].map(str::to_owned));
        all
    };
    run(vec![
        row("secrets in the home", Kind::Leaks(SECRETS.len()), |scene| {
            let paths = SECRETS.map(|path| scene.home(path));
            Try::probe(["each".to_owned(), "read".to_owned()].into_iter().chain(paths))
        }),
        row("files other programs left", Kind::Leaks(4), move |scene| {
            Try::probe(["each".to_owned(), "read".to_owned()].into_iter().chain(elsewhere(scene)))
        }),
        leak("/etc/shadow", |_| line(&["read", "/etc/shadow"])).only(User::Root, AS_ROOT),
    ]);
}

#[test]
fn names() {
    run(vec![
        leak("list of the home", |scene| line(&["list", &scene.home("")])),
        leak("list of a directory in the home", |scene| line(&["list", &scene.home("Documents")])),
        leak("list of another project's parent, by ..", |scene| {
            scene.world.write(scene.user, format!("src/{}", scene.canary), "");
            line(&["list", &scene.inside("..")])
        }),
        row("existence of a file", Kind::Act, |scene| Try::probe(["access", &scene.key()])).gap(STAT),
        row("size of a file", Kind::Act, |scene| Try::probe(["stat", &scene.key()])).gap(STAT),
        row("size of a file in a private directory of /tmp", Kind::Act, |_| Try::probe(["stat", "/tmp/left.txt"]))
            .gap(STAT),
        row("which files the user touches, by inotify", Kind::Act, |scene| {
            Try::probe(["watch", &scene.home("Documents")])
        })
        .gap("Landlock does not mediate inotify"),
        row("which files anyone touches, by fanotify", Kind::Act, |_| Try::probe(["fanotify"])).may_lack(),
        leak("target of a symlink", |scene| {
            scene.world.symlink(scene.user, &scene.canary, "link");
            line(&["readlink", &scene.home("link")])
        })
        .gap("Landlock does not mediate readlink"),
    ]);
}

#[test]
fn detours_by_path() {
    run(vec![
        leak("openat2 from /", |scene| line(&["read-openat2", &scene.key()])),
        leak("O_PATH and /proc/self/fd", |scene| line(&["read-opath", &scene.key()])),
        leak("/proc/self/cwd and ..", |_| line(&["read", "/proc/self/cwd/../../.ssh/id_ed25519"])),
        leak("/proc/self/root", |scene| line(&["read", &format!("/proc/self/root{}", scene.key())])),
        leak("/proc/thread-self/root", |scene| line(&["read", &format!("/proc/thread-self/root/{}", scene.key())])),
        leak("slashes and dots", |scene| line(&["read", &format!("//.//{}", scene.home("./.ssh//././id_ed25519"))])),
        leak(".. from the project", |_| line(&["read", "../../.ssh/id_ed25519"])),
        leak("new symlink to the file", |scene| line(&["read-by-symlink", &scene.key(), "link"])),
        leak("symlink shipped in the project", |scene| {
            let link = scene.shipped_link(&scene.key(), "data.txt");
            line(&["read", &link])
        }),
        leak("directory symlink shipped in the project", |scene| {
            let link = scene.shipped_link(&scene.home(".ssh"), "data");
            line(&["read", &format!("{link}/id_ed25519")])
        }),
        leak("symlink to .. shipped in the project", |scene| {
            let link = scene.shipped_link("../..", "up");
            line(&["read", &format!("{link}/.ssh/id_ed25519")])
        }),
        leak("new hard link", |scene| line(&["read-by-link", &scene.key(), "link"])),
        leak("rename of the file", |scene| line(&["read-by-rename", &scene.key(), "moved"])),
        leak("rename of its directory", |scene| line(&["read-by-rename", &scene.home(".ssh"), "moved", "id_ed25519"])),
        leak("hard link that was there before", |scene| {
            let (key, here) = (scene.key(), scene.inside("shipped"));
            std::fs::hard_link(scene.world.host_path(key), scene.world.host_path(&here)).unwrap();
            line(&["read", &here])
        })
        .open("the file is in the project as much as in ~/.ssh"),
        leak("int 0x80", |scene| line(&["int80-open", &scene.key()])).may_lack(),
        leak("x32", |scene| line(&["x32-open", &scene.key()])).may_lack(),
    ]);
}

#[test]
fn detours_by_descriptor() {
    const DIR: &str = "guard-probe";
    run(vec![
        row("a file the shell left open", Kind::Leak, |scene| {
            Try::probe(["read-fd", "7"]).wrap([DIR, "with-fd", "7", &scene.key(), "--"])
        }),
        row("a file left open at a high number", Kind::Leak, |scene| {
            Try::probe(["read-fd", "900"]).wrap([DIR, "with-fd", "900", &scene.key(), "--"])
        }),
        row("a directory the shell left open", Kind::Leak, |scene| {
            Try::probe(["read-dirfd", "3", ".ssh/id_ed25519"]).wrap([DIR, "with-fd", "3", &scene.home(""), "--"])
        }),
        row("the root directory left open", Kind::Leak, |scene| {
            let key = scene.key();
            let relative = key.trim_start_matches('/').to_owned();
            Try::probe(["read-dirfd", "5", &relative]).wrap([DIR, "with-fd", "5", "/", "--"])
        }),
        row("which files the shell left open", Kind::Leak, |scene| {
            let plan = scene.home(&format!("Documents/{}-plan.txt", scene.canary));
            Try::probe(["fds"]).wrap([DIR, "with-fd", "8", &plan, "--"])
        }),
        row("a connection the shell left open", Kind::Leak, |scene| {
            let socket = scene.home(".agent.sock");
            scene.server("serve-stream", &socket);
            Try::probe(["talk-fd", "9"]).wrap([DIR, "with-socket", "9", &socket, "--"])
        }),
        leak("root of a process outside", |scene| {
            let pid = scene.holder().remove(0);
            line(&["read", &format!("/proc/{pid}/root{}", scene.key())])
        }),
        leak("working directory of a process outside", |scene| {
            let pid = scene.holder().remove(0);
            line(&["read", &format!("/proc/{pid}/cwd/id_ed25519")])
        }),
        leak("descriptor of a process outside", |scene| {
            let held = scene.holder();
            line(&["read", &format!("/proc/{}/fd/{}", held[0], held[3])])
        }),
        leak("by the kernel's handle of the file", |scene| {
            let out = scene.world.run(scene.user).probe(["handle-of", &scene.key()]).output().success();
            let said = out.stdout();
            let words: Vec<&str> = said.split_whitespace().collect();
            line(&["read-handle", ".", words[1], words[2]])
        })
        .only(User::Root, AS_ROOT),
    ]);
}

/// As root directly, as a user in a namespace of their own.
fn with_namespace(name: &str, kind: Kind, act: impl Fn(&Scene) -> Vec<String> + Clone + 'static) -> [Row; 2] {
    let own = act.clone();
    [
        row(format!("{name} (own namespaces)"), kind, move |scene| {
            let mut words = own(scene);
            words.insert(1, "--own".into());
            Try::probe(words)
        })
        .only(User::Ana, OWN_NAMESPACE),
        row(name, kind, move |scene| Try::probe(act(scene))).only(User::Root, AS_ROOT),
    ]
}

#[test]
fn detours_by_mount() {
    let mut rows = Vec::new();
    for act in ["mount-bind", "mount-overlay", "mount-open-tree"] {
        rows.extend(with_namespace(act, Kind::Leak, move |scene| {
            line(&[act, &scene.home(".ssh"), "id_ed25519", &scene.inside("mnt")])
        }));
    }
    for act in ["mount-tmpfs", "mount-fsopen", "pivot-root"] {
        rows.extend(with_namespace(act, Kind::Act, move |scene| line(&[act, &scene.inside("mnt")])));
    }
    rows.push(
        row("mount-proc", Kind::Act, |scene| Try::probe(["mount-proc", &scene.inside("mnt")]))
            .only(User::Root, "a user needs a process namespace for it"),
    );
    rows.push(
        row("umount of what covers something", Kind::Act, |_| Try::probe(["mount-umount", "/usr/local/bin"]))
            .only(User::Root, "mounts of the parent are locked in a user's namespace"),
    );
    for act in ["mount-remount", "mount-setattr"] {
        rows.push(
            row(act, Kind::Act, move |_| Try::probe([act, "/usr/local/bin"]))
                .only(User::Root, "mounts of the parent are locked in a user's namespace"),
        );
    }
    rows.extend(with_namespace("chroot", Kind::Act, |scene| line(&["chroot", &scene.inside("")])));
    rows.push(
        row("setns to the mounts of a process outside", Kind::Act, |scene| {
            let pid = scene.holder().remove(0);
            Try::probe(["setns", &pid, "mnt"])
        })
        .only(User::Root, AS_ROOT),
    );
    for namespace in ["user", "mount", "pid", "net", "ipc", "uts", "cgroup"] {
        let with_rights = row(format!("unshare {namespace}"), Kind::Act, move |_| Try::probe(["unshare", namespace]));
        rows.push(if namespace == "user" { with_rights } else { with_rights.only(User::Root, AS_ROOT) });
    }
    rows.push(row("clone with a new user namespace", Kind::Act, |_| Try::probe(["clone-user"])));
    rows.push(row("clone3 with a new user namespace", Kind::Act, |_| Try::probe(["clone3-user"])));
    run(rows);
}

/// The dotenv file of the project itself, and ways around a mask on it.
#[test]
fn masked_files() {
    const LATER: &str = "the project's own .env is readable until masks exist";
    run(vec![
        leak(".env of the project", |scene| line(&["read", &scene.inside(".env")])).open(LATER),
        leak(".env moved aside", |scene| line(&["read-by-rename", &scene.inside(".env"), "aside"])).open(LATER),
        leak(".env linked aside", |scene| line(&["read-by-link", &scene.inside(".env"), "aside"])).open(LATER),
    ]);
}

/// The attacks name files by their place below the home; a scene must really have put them there.
#[test]
fn scene_holds_what_is_attacked() {
    let scene = Scene::new(User::Ana);
    for path in SECRETS {
        assert!(scene.world.read(Path::new(&scene.home(path))).contains(&scene.canary), "{path}");
    }
}
