//! Many paths at once, from a list on stdin: `paths` does the acts of `guard why` for real, `why-all` asks `guard why`
//! about them. Both print one line a path, in the same words, so that the two can be compared.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use guard::env::Env;
use guard::path::AbsPath;
use guard::plan::Tier;
use guard::profile::schema::Require;
use guard::session::store;
use guard::start::{Start, Wishes};
use nix::errno::Errno;

use crate::act::{Act, Doer, Refusal, Step, c_path, setup, text};

pub const ACTS: &[(&str, Doer)] = &[("paths", paths), ("why-all", why_all), ("print-env", print_env)];

/// The acts of `guard why` that have a path.
const WORDS: [&str; 4] = ["read", "write", "exec", "connect"];

/// The paths on stdin, each ending in NUL: a name may hold everything else.
fn list() -> Result<Vec<PathBuf>, Refusal> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).needed("stdin")?;
    let names = bytes.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| PathBuf::from(OsStr::from_bytes(name))).collect())
}

fn word(result: Result<(), Errno>) -> String {
    match result {
        Ok(()) => "ok".into(),
        Err(errno) => format!("{errno:?}"),
    }
}

/// Does each act on each path, and undoes what it made. `ok` is what the verdict calls allowed, everything else is
/// the kernel's answer.
fn paths(_: &[OsString]) -> Act {
    for path in list()? {
        let results = [read(&path), write(&path), exec(&path), connect(&path)];
        let words: Vec<String> =
            WORDS.iter().zip(results).map(|(name, result)| format!("{name}={}", word(result))).collect();
        println!("{}", words.join(" "));
    }
    Ok(String::new())
}

fn open(path: &Path, flags: libc::c_int) -> Result<fs::File, Errno> {
    let path = c_path(path);
    let flags = flags | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the kernel reads the string, alive here; the descriptor is owned by nobody else.
    unsafe {
        let fd = Errno::result(libc::open(path.as_ptr(), flags, 0o600))?;
        Ok(std::os::fd::FromRawFd::from_raw_fd(fd))
    }
}

fn read(path: &Path) -> Result<(), Errno> {
    let file = open(path, libc::O_RDONLY)?;
    if file.metadata().is_ok_and(|meta| meta.is_dir()) {
        // To open a directory is to be allowed to list it, but see.
        fs::read_dir(path).map(drop).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
    }
    Ok(())
}

/// Opens for writing what is there; makes and removes something in a directory, or the file itself where there is
/// none.
fn write(path: &Path) -> Result<(), Errno> {
    let made = |path: &Path| {
        // Without O_EXCL: through a dangling link the kernel makes its target.
        let file = open(path, libc::O_CREAT | libc::O_WRONLY)?;
        let real = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)));
        let removed = real.and_then(fs::remove_file);
        assert!(removed.is_ok(), "{} was made and cannot be removed: {removed:?}", path.display());
        Ok(())
    };
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => made(&path.join(".guard-probe-was-here")),
        Ok(_) => match open(path, libc::O_WRONLY) {
            // A FIFO that nobody reads: the right to open it was there.
            Err(Errno::ENXIO) if is(path, |kind| kind.is_fifo()) => Ok(()),
            result => result.map(drop),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => made(path),
        Err(_) => open(path, libc::O_WRONLY).map(drop),
    }
}

fn is(path: &Path, test: impl Fn(&fs::FileType) -> bool) -> bool {
    fs::metadata(path).is_ok_and(|meta| test(&meta.file_type()))
}

/// Asks the kernel whether it would execute the file, every lock included, and executes nothing.
fn exec(path: &Path) -> Result<(), Errno> {
    // include/uapi/linux/fcntl.h: AT_EXECVE_CHECK, Linux 6.14
    const CHECK: libc::c_int = 0x10000;
    let path = c_path(path);
    let argv = [path.as_ptr(), std::ptr::null()];
    let envp = [std::ptr::null::<libc::c_char>()];
    // SAFETY: NUL-terminated strings and lists that end in a null pointer, all alive here.
    let result = unsafe {
        libc::syscall(libc::SYS_execveat, libc::AT_FDCWD, path.as_ptr(), argv.as_ptr(), envp.as_ptr(), CHECK)
    };
    match Errno::result(result).map(drop) {
        Err(Errno::EINVAL) => panic!("this kernel has no AT_EXECVE_CHECK: Linux 6.14 or later is needed"),
        result => result,
    }
}

fn connect(path: &Path) -> Result<(), Errno> {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(errno) => Err(errno),
            // Too long for a socket's address.
            None => Err(Errno::ENAMETOOLONG),
        },
    }
}

/// `why-all PROFILE TIER CMD`: the verdict of `guard why ACT PATH --profile PROFILE --tier TIER -- CMD` for each, from one
/// plan instead of a process each. That the command says the same is compared by sample in `tests/why.rs`.
fn why_all(args: &[OsString]) -> Act {
    let tier = match text(args, 1)? {
        "full" => Tier::Full,
        "landlock" => Tier::Landlock,
        other => return setup(format!("unknown tier {other}")),
    };
    let env = Env::new(std::env::vars_os());
    let wishes = Wishes {
        profile: Some(text(args, 0)?.to_owned()),
        require: (tier == Tier::Landlock).then_some(Require::Landlock),
        tier: Some(tier),
        ..Wishes::default()
    };
    let command = OsStr::new(text(args, 2)?);
    let failed = |error: &dyn std::error::Error| Refusal::Setup(error.to_string());
    let mut start = Start::new(&env, std::env::current_dir(), command, Vec::new(), &wishes).map_err(|e| failed(&e))?;
    start.host.overlay =
        guard::sandbox::try_namespaces(start.account.uid, start.account.gid).map_err(|e| failed(&e))?;
    let plan = start.plan(&env, &store::locate(&start.account, &start.project)).map_err(|e| failed(&e))?;
    for path in list()? {
        let Ok(path) = AbsPath::new(&path) else { return setup(format!("{} is no plain path", path.display())) };
        let mut line = String::new();
        for (name, act) in WORDS.into_iter().zip([
            guard::plan::Act::Read,
            guard::plan::Act::Write,
            guard::plan::Act::Exec,
            guard::plan::Act::Connect,
        ]) {
            let verdict = plan.verdict_here(act, &path);
            let word = if verdict.allowed() { "ok" } else { "no" };
            let _ = write!(line, "{name}={word}\t{}\t", verdict.to_string().replace(['\n', '\t'], " "));
        }
        println!("{line}");
    }
    Ok(String::new())
}

/// Names and values of the variables this process has, each ending in NUL.
fn print_env(_: &[OsString]) -> Act {
    let mut bytes = Vec::new();
    for (name, value) in std::env::vars_os() {
        bytes.extend([name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat());
    }
    std::io::stdout().write_all(&bytes).needed("stdout")?;
    Ok(String::new())
}
