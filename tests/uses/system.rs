//! Uses 24 to 42, 46, 47: what programs expect of a system, of IPC and of signals.

use super::support::need;
use super::{Use, run, used};

const NO_PTY: &str = "a pty of one's own needs /dev/pts, and a grant of that opens the user's other terminals";

#[test]
fn system_works() {
    need(&[("ps", "procps"), ("python3", "python3"), ("tmux", "tmux"), ("script", "bsdutils"), ("getent", "libc-bin")]);
    assert!(
        std::path::Path::new("/etc/ssl/certs/ca-certificates.crt").exists(),
        "needs a CA bundle (Debian: apt-get install ca-certificates)"
    );
    run(&uses());
}

pub fn uses() -> Vec<Use> {
    let mut all = devices_and_kernel();
    all.extend(etc_and_environment());
    all.extend(ipc_and_net());
    all
}

fn devices_and_kernel() -> Vec<Use> {
    vec![
        used(
            24,
            "/dev basics",
            "echo x > /dev/null; test $(head -c 4 /dev/zero | wc -c) = 4; test $(head -c 4 /dev/urandom | wc -c) = 4
             test $(head -c 4 /dev/random | wc -c) = 4; ! echo x 2>/dev/null > /dev/full; echo done",
            "done",
        ),
        used(
            25,
            "/dev/stdin and process substitution",
            "echo a | cat /dev/stdin; echo b > /dev/stdout; echo c 2>&1 > /dev/stderr; diff <(echo d) <(echo d); ls /dev/fd/ > /dev/null; echo e | cat /dev/fd/0; echo done",
            "done",
        ),
        used(
            26,
            "/proc basics",
            "grep -q Name /proc/self/status; grep -qi processor /proc/cpuinfo; grep -q MemTotal /proc/meminfo; readlink /proc/self/exe
             cat /proc/loadavg /proc/uptime /proc/version /proc/stat > /dev/null; ls /proc/self/fd > /dev/null; nproc > /dev/null; echo done",
            "done",
        ),
        used(27, "ps", "ps -o pid,comm; ps aux", "bash"),
        used(
            32,
            "POSIX shared memory",
            r#"/usr/bin/python3 -c 'from multiprocessing import shared_memory as s
a = s.SharedMemory(create=True, size=16); b = s.SharedMemory(a.name); a.buf[0] = 7; print("seen", b.buf[0]); b.close(); a.close(); a.unlink()'"#,
            "seen 7",
        )
        .not_in_landlock("/dev/shm cannot be made private there, and is other programs'"),
        used(33, "hundreds of forks", "for i in $(seq 300); do /bin/true; done; for i in $(seq 100); do /bin/true & done; wait; echo done", "done"),
        used(34, "a 10 MB pipeline", "seq 1 1400000 | sort -rn | tee copy | head -n 1; wc -c < copy; wc -l < copy", "1400000"),
        used(
            41,
            "signals to children and groups",
            r#"/bin/sleep 1000 & kill -TERM $!; wait $! || echo status $?
               /usr/bin/python3 -c 'import os, signal, subprocess
p = subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True); os.killpg(p.pid, signal.SIGKILL); print("group", p.wait())'"#,
            "group -9",
        ),
        used(42, "signals to oneself", "trap 'echo caught' USR1; kill -USR1 $$; kill -0 $$; echo done", "caught"),
        used(46, "script", "script -qec 'tty; stty size > /dev/null; echo in script' /dev/null < /dev/null", "in script")
            .not_in_landlock(NO_PTY),
        used(
            47,
            "tmux",
            "export TMUX_TMPDIR=$(mktemp -d); mkfifo ready; tmux -f /dev/null new-session -d 'echo from tmux > out; echo > ready'
             read < ready; cat out; tmux kill-server 2>/dev/null || true",
            "from tmux",
        )
        .not_in_landlock(NO_PTY),
    ]
}

fn etc_and_environment() -> Vec<Use> {
    vec![
        used(
            28,
            "/etc basics",
            "getent passwd $(id -u) > /dev/null; getent group $(id -g) > /dev/null; id -un > /dev/null; getent hosts localhost > /dev/null
             test -r /etc/hosts; test -r /etc/resolv.conf; test -r /etc/nsswitch.conf; grep -q NAME /etc/os-release; date > /dev/null; echo done",
            "done",
        ),
        used(
            29,
            "CA bundle",
            r#"/usr/bin/python3 -c 'import ssl; print("certificates", ssl.create_default_context().cert_store_stats()["x509_ca"] > 10)'; test -s /etc/ssl/certs/ca-certificates.crt"#,
            "certificates True",
        ),
        used(30, "uid unchanged", "id -u; id -g; touch owned; stat -c '%U owns' owned; test -O owned; echo \"uid $(id -u)\"", "uid")
            .leaves(|place| {
                use std::os::unix::fs::MetadataExt;
                let meta = std::fs::metadata(place.world.host_path(place.project.join("owned"))).unwrap();
                meta.uid() == place.user.uid() && meta.gid() == place.user.uid()
            }),
        used(
            31,
            "HOME, PATH, TERM, LANG",
            "test -d \"$HOME\"; test -w \"$HOME\"; command -v git > /dev/null; test \"$TERM\" = xterm-256color; test \"$LANG\" = C.UTF-8; test -n \"$USER\"; echo done",
            "done",
        ),
    ]
}

fn ipc_and_net() -> Vec<Use> {
    const UNIX_SERVER: &str = r#"/usr/bin/python3 -c 'import os, socket, sys, tempfile
place = os.path.join(tempfile.gettempdir() if sys.argv[1] == "temp" else os.getcwd(), "own.sock")
s = socket.socket(socket.AF_UNIX); s.bind(place); s.listen()
if os.fork() == 0: c = socket.socket(socket.AF_UNIX); c.connect(place); c.send(b"over a socket"); os._exit(0)
print(s.accept()[0].recv(100).decode()); os.wait(); os.unlink(place)' "#;
    let in_temp: &'static str = Box::leak(format!("{UNIX_SERVER} temp").into_boxed_str());
    let in_project: &'static str = Box::leak(format!("{UNIX_SERVER} project").into_boxed_str());
    vec![
        used(35, "own socket in TMPDIR", in_temp, "over a socket"),
        used(36, "own socket in the project", in_project, "over a socket"),
        used(
            37,
            "socketpair and own abstract socket",
            r#"/usr/bin/python3 -c 'import os, socket
a, b = socket.socketpair(); a.send(b"pair"); print(b.recv(10).decode())
s = socket.socket(socket.AF_UNIX); name = "\0own-%d" % os.getpid(); s.bind(name); s.listen()
c = socket.socket(socket.AF_UNIX); c.connect(name); c.send(b"abstract"); print(s.accept()[0].recv(10).decode())'"#,
            "abstract",
        ),
        used(
            38,
            "resolve localhost",
            r#"getent hosts localhost; /usr/bin/python3 -c 'import socket; print(socket.getaddrinfo("localhost", 80)[0][0] is not None)'; node -e 'require("dns").lookup("localhost", (e, a) => console.log(e || "found"))'"#,
            "found",
        ),
        used(
            39,
            "own loopback server",
            r#"/usr/bin/python3 -c 'import http.server, threading, urllib.request
s = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=s.serve_forever, daemon=True).start()
print(urllib.request.build_opener(urllib.request.ProxyHandler({})).open("http://127.0.0.1:%d/README.md" % s.server_port).read().decode())' 2>&1"#,
            "# demo",
        ),
    ]
}
