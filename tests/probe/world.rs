//! `guard-probe world --dir DIR --uid N --cwd DIR [--bind SRC DST]… -- CMD…`: becomes CMD in a private mount
//! namespace in which DIR's parts lie over the machine's places, as user N, with the environment it was given.
//!
//! Nothing outlives the command: the mounts go with the namespace, and no file of the machine is touched.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, chdir, execvpe, setgroups, setresgid, setresuid};

/// Directories of the world that hide the machine's.
const OVER: [(&str, &str); 6] = [
    ("home", "/home"),
    ("root", "/root"),
    ("tmp", "/tmp"),
    ("run", "/run"),
    ("shm", "/dev/shm"),
    ("var-tmp", "/var/tmp"),
];

/// Directories of the world laid over the machine's, whose other files stay visible.
const MERGED: [(&str, &str); 2] = [("etc", "/etc"), ("bin", "/usr/local/bin")];

struct Entry {
    dir: PathBuf,
    uid: u32,
    cwd: PathBuf,
    binds: Vec<(PathBuf, PathBuf)>,
    command: Vec<CString>,
}

pub fn enter(args: &[OsString]) -> ExitCode {
    let Err(why) = parse(args).and_then(become_command);
    eprintln!("guard-probe world: {why}");
    ExitCode::from(2)
}

fn parse(args: &[OsString]) -> Result<Entry, String> {
    let mut entry = Entry { dir: "".into(), uid: 0, cwd: "/".into(), binds: Vec::new(), command: Vec::new() };
    let mut args = args.iter();
    while let Some(flag) = args.next() {
        let mut value = || args.next().cloned().ok_or(format!("{} needs a value", flag.display()));
        match flag.to_str() {
            Some("--dir") => entry.dir = value()?.into(),
            Some("--uid") => {
                entry.uid = value()?.to_str().and_then(|text| text.parse().ok()).ok_or("--uid needs a number")?;
            }
            Some("--cwd") => entry.cwd = value()?.into(),
            Some("--bind") => entry.binds.push((value()?.into(), value()?.into())),
            Some("--") => break,
            Some(_) | None => return Err(format!("unknown flag {}", flag.display())),
        }
    }
    entry.command = args.map(|arg| CString::new(arg.as_bytes()).expect("arguments hold no NUL")).collect();
    if entry.command.is_empty() { Err("no command".into()) } else { Ok(entry) }
}

fn become_command(entry: Entry) -> Result<Infallible, String> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| format!("unshare: {error} (these tests need root)"))?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(|error| format!("/: {error}"))?;

    // All sources are opened before the first mount, which may hide them.
    let mut binds = Vec::new();
    for (sub, place) in OVER {
        binds.push((open(&entry.dir.join(sub))?, PathBuf::from(place)));
    }
    for (source, place) in &entry.binds {
        binds.push((open(source)?, place.clone()));
    }
    for (sub, place) in MERGED {
        let layers = format!("lowerdir={}:{place}", entry.dir.join(sub).display());
        mount(Some("overlay"), place, Some("overlay"), MsFlags::MS_RDONLY, Some(layers.as_str()))
            .map_err(|error| format!("overlay on {place}: {error}"))?;
    }
    for (source, place) in &binds {
        let source = format!("/proc/self/fd/{}", source.as_raw_fd());
        mount(Some(source.as_str()), place, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
            .map_err(|error| format!("bind on {}: {error}", place.display()))?;
    }
    drop(binds);

    if entry.uid != 0 {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.uid));
        own_stdio(uid, gid)?;
        setgroups(&[gid]).map_err(|error| format!("setgroups: {error}"))?;
        setresgid(gid, gid, gid).map_err(|error| format!("setresgid: {error}"))?;
        setresuid(uid, uid, uid).map_err(|error| format!("setresuid: {error}"))?;
    }
    crate::exec::default_sigpipe();
    chdir(&entry.cwd).map_err(|error| format!("chdir {}: {error}", entry.cwd.display()))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let env: Vec<CString> = std::env::vars_os()
        .map(|(name, value)| {
            let pair = [name.as_bytes(), value.as_bytes()].join(&b'=');
            CString::new(pair).expect("the environment holds no NUL")
        })
        .collect();
    execvpe(&entry.command[0], &entry.command, &env)
        .map_err(|error| format!("exec {}: {error}", entry.command[0].to_string_lossy()))
}

/// Pipes and terminals belong to whoever made them, which was the test; a user's own shell would have made them as the
/// user, who can then open `/dev/stdout`.
fn own_stdio(uid: Uid, gid: Gid) -> Result<(), String> {
    let stdio: [&dyn AsFd; 3] = [&std::io::stdin(), &std::io::stdout(), &std::io::stderr()];
    for fd in stdio.map(|stream| stream.as_fd()) {
        let Ok(meta) = nix::sys::stat::fstat(fd) else { continue };
        let is_pipe = meta.st_mode & libc::S_IFMT == libc::S_IFIFO;
        if is_pipe || nix::unistd::isatty(fd).unwrap_or(false) {
            nix::unistd::fchown(fd, Some(uid), Some(gid)).map_err(|error| format!("fchown of stdio: {error}"))?;
        }
    }
    Ok(())
}

fn open(path: &Path) -> Result<File, String> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
        .open(path)
        .map_err(|error| format!("{}: {error}", path.display()))
}
