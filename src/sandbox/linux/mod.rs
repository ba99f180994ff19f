//! The sandbox on Linux: the one ordered list of system calls from a plan to a running agent.
//!
//! The order is a contract; each step says why it stands where it stands. Whatever fails ends the start with a
//! report to the parent: there is no path from an error to `execve`, which takes the proof that [`check::check`] alone makes.

mod check;
mod landlock;
mod root;
mod seccomp;
mod supervise;
mod wire;

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::Pid;

use self::check::{Canary, Sandboxed, check};
use self::wire::Channel;
pub use self::wire::{Command, Report, StartError};
use super::sys::{self, Fork};
use crate::env::Env;
use crate::host::{Capability, NamespaceFault};
use crate::path::AbsPath;
use crate::plan::{Plan, Tier, What};
use crate::policy::Create;
use crate::profile::schema::NetworkMode;

/// A started sandbox: the supervising process and the line to it.
#[derive(Debug)]
pub struct Supervised {
    /// The supervising process, a child of this one.
    pub pid: Pid,
    channel: Channel,
}

impl Supervised {
    /// Waits for the next report. `None` when the supervisor is gone without one.
    ///
    /// # Errors
    /// The system's errno.
    pub fn report(&self) -> Result<Option<Report>, Errno> {
        self.channel.next_report()
    }

    /// Lets the agent start.
    ///
    /// # Errors
    /// The system's errno; the agent has not run then.
    pub fn go(&self) -> Result<(), Errno> {
        self.channel.command(Command::Go)
    }

    /// Tells the supervisor something. A supervisor that is gone is no error: its end is the next thing read.
    pub fn tell(&self, command: Command) {
        let _ = self.channel.command(command);
    }
}

impl AsFd for Supervised {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// Makes outside what the plan needs there: state directories, stand-ins for protected files, guard's own places.
///
/// # Errors
/// [`StartError`] naming the path.
pub fn prepare(plan: &Plan) -> Result<(), StartError> {
    let store = &plan.store;
    for dir in [&store.home, &store.flat_home, &store.shared] {
        make_dir(dir)?;
    }
    for merged in &plan.merged {
        make_dir(&merged.copy.parent().expect("a file below the store"))?;
    }
    for (path, create) in &plan.create {
        if let Some(parent) = path.parent() {
            make_dir(&parent)?;
        }
        match create {
            Create::Dir => make_dir(path)?,
            Create::File(content) => make_file(path, content.as_bytes())?,
        }
    }
    make_file(&store.canary, b"If you can read this, the sandbox does not hold.\n")?;
    match plan.tier {
        Tier::Full => {
            for mount in &plan.mounts {
                if let What::Overlay { layer, .. } = &mount.what {
                    make_dir(&layer.join("upper"))?;
                    make_dir(&layer.join("work"))?;
                }
            }
        }
        Tier::Landlock => {
            for dir in ["tmp", "run"] {
                make_dir(&store.session.join(dir))?;
            }
            for (place, target) in &plan.links {
                make_link(place, target, &store.flat_home)?;
            }
        }
    }
    Ok(())
}

fn failed(verb: &str, path: &AbsPath) -> impl FnOnce(io::Error) -> StartError {
    let what = format!("cannot {verb} {path}");
    move |e| StartError::new(what, Errno::from_raw(e.raw_os_error().unwrap_or_default()))
}

fn make_dir(path: &AbsPath) -> Result<(), StartError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make the directory", path))
}

fn make_file(path: &AbsPath, content: &[u8]) -> Result<(), StartError> {
    use std::io::Write as _;
    match fs::File::options().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => file.write_all(content).map_err(failed("write", path)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(failed("make", path)(e)),
    }
}

/// Makes a link in the sandbox home; what an agent left in its place is moved aside.
fn make_link(place: &AbsPath, target: &AbsPath, home: &AbsPath) -> Result<(), StartError> {
    if fs::read_link(place).is_ok_and(|text| text == target.as_path()) {
        return Ok(());
    }
    let parent = place.parent().expect("a path below the sandbox home");
    // What an agent left in the way above is its own: a link there would lead this one out of the sandbox home.
    let above: Vec<AbsPath> = parent.ancestors().filter(|dir| dir != home && dir.is_within(home)).collect();
    for dir in above.into_iter().rev() {
        match fs::symlink_metadata(&dir) {
            Ok(meta) if !meta.is_dir() => fs::remove_file(&dir).map_err(failed("move aside", &dir))?,
            Ok(_) | Err(_) => {}
        }
    }
    make_dir(&parent)?;
    if let Ok(meta) = fs::symlink_metadata(place) {
        if meta.is_dir() {
            let aside = parent.join(format!(
                "{}.aside-{}",
                place.file_name().map_or("x".into(), |n| n.to_string_lossy()),
                std::process::id()
            ));
            fs::rename(place, &aside).map_err(failed("move aside", place))?;
        } else {
            fs::remove_file(place).map_err(failed("move aside", place))?;
        }
    }
    std::os::unix::fs::symlink(target, place).map_err(failed("make the link", place))
}

/// Starts the agent. `announce` is written to standard error by the agent's process once every check has passed.
///
/// The variables guard was started with (`secrets`) are wiped in the new processes; the caller wipes its own copy
/// once it needs no other plan. All signals are blocked when this returns; the caller reads them from a descriptor.
///
/// # Errors
/// [`StartError`] when not even the supervising process could be made. Everything later comes as a [`Report`].
pub fn start(plan: &Plan, announce: Option<&str>, secrets: &mut Env) -> Result<Supervised, StartError> {
    let broken = |what: &str| {
        let what = what.to_owned();
        move |e| StartError::new(what, e)
    };
    // Before the fork: a child that an ignored SIGCHLD reaps unseen has no status.
    sys::default_disposition(libc::SIGCHLD).map_err(broken("cannot reset SIGCHLD"))?;
    let mut mask = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut mask))
        .map_err(broken("cannot block signals"))?;
    let (ours, theirs) = Channel::pair().map_err(broken("cannot make a channel"))?;
    let flags = match plan.tier {
        Tier::Full => {
            let network = if plan.network == NetworkMode::None { libc::CLONE_NEWNET } else { 0 };
            libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | network
        }
        Tier::Landlock => 0,
    };
    match sys::fork(flags) {
        Ok(Fork::Parent(pid)) => Ok(Supervised { pid, channel: ours }),
        Ok(Fork::Child) => {
            drop(ours);
            // This process lives inside as long as the agent does, and never execs.
            secrets.wipe();
            supervisor(plan, announce, &theirs, &mask)
        }
        Err(e) => {
            let error = StartError::new("cannot make namespaces", e);
            Err(match plan.tier {
                Tier::Full => error.losing(Capability::Namespaces(NamespaceFault::Refused(e))),
                Tier::Landlock => error,
            })
        }
    }
}

/// Tries what the full tier is built from, in a process that ends at once. Returns whether overlays can be had.
///
/// # Errors
/// [`StartError`] with the capability that is missing.
pub fn try_namespaces(uid: u32, gid: u32) -> Result<bool, StartError> {
    let broken = |e| StartError::new("cannot try namespaces", e);
    let (ours, theirs) = Channel::pair().map_err(broken)?;
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC;
    match sys::fork(flags) {
        Err(e) => {
            let lost = Capability::Namespaces(NamespaceFault::Refused(e));
            Err(StartError::new("cannot make namespaces", e).losing(lost))
        }
        Ok(Fork::Child) => {
            drop(ours);
            let report = match root::try_mounts(uid, gid) {
                Ok(overlay) => Report::Ended(i32::from(overlay)),
                Err(error) => Report::Failed(error),
            };
            let _ = theirs.report(&report);
            sys::exit_now(0)
        }
        Ok(Fork::Parent(pid)) => {
            drop(theirs);
            let report = ours.next_report();
            let _ = sys::wait_raw(pid.as_raw(), 0);
            match report.map_err(broken)? {
                Some(Report::Ended(overlay)) => Ok(overlay == 1),
                Some(Report::Failed(error)) => Err(error),
                Some(Report::Ready | Report::Stopped { .. } | Report::Running) | None => Err(broken(Errno::ECONNRESET)),
            }
        }
    }
}

/// The life of the supervising process.
fn supervisor(plan: &Plan, announce: Option<&str>, channel: &Channel, mask: &SigSet) -> ! {
    let result = Canary::look(plan)
        .and_then(|canary| lock(plan, channel).map(|()| canary))
        .and_then(|canary| launch(plan, announce, channel, mask, canary));
    let agent = match result {
        Ok(agent) => agent,
        Err(error) => {
            let _ = channel.report(&Report::Failed(error));
            sys::exit_now(125)
        }
    };
    match supervise::supervise(agent.pid, agent.go, channel, plan.tier) {
        Ok(status) => {
            let told = channel.report(&Report::Ended(status));
            sys::exit_now(if told.is_ok() { 0 } else { 125 })
        }
        Err(errno) => {
            supervise::end_all(plan.tier);
            let _ = channel.report(&Report::Failed(StartError::new("cannot supervise the agent", errno)));
            sys::exit_now(125)
        }
    }
}

/// Every lock, in order, on the process that will be the agent's parent.
fn lock(plan: &Plan, channel: &Channel) -> Result<(), StartError> {
    let step = |what: &'static str| move |e| StartError::new(what, e);
    // First: what the shell or an earlier program left open must not be there when anything of this fails.
    sys::close_from(3, &[channel.0.as_raw_fd()]).map_err(step("cannot close inherited descriptors"))?;
    match plan.tier {
        Tier::Full => {
            // Before anything that needs the namespace's rights.
            root::map_ids(plan.account.uid, plan.account.gid)?;
            // After the maps, which clear it with the change of credentials. guard's death ends the sandbox at once;
            // the closed channel would end it too, a moment later.
            sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)
                .map_err(step("cannot bind the session to guard"))?;
            root::enter(plan)?;
            if plan.network == NetworkMode::None {
                sys::loopback_up().map_err(step("cannot switch the loopback interface on"))?;
            }
        }
        Tier::Landlock => {
            // So that a daemon's children come back here to be ended.
            sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1).map_err(step("cannot become the subreaper"))?;
        }
    }
    nix::unistd::chdir(plan.cwd.as_path()).map_err(|e| StartError::new(format!("cannot change to {}", plan.cwd), e))?;
    match sys::new_session_keyring() {
        // A filter around guard, such as Docker's, answers EPERM; guard's own takes keyctl away in any case.
        Ok(()) | Err(Errno::ENOSYS | Errno::EPERM) => {}
        Err(e) => return Err(StartError::new("cannot leave the session keyring", e)),
    }
    // After the mounts, which need them.
    sys::drop_capabilities().map_err(step("cannot drop capabilities"))?;
    // This process holds a copy of guard's memory and shares the agent's user: nobody may look into it or trace it.
    sys::prctl(libc::PR_SET_DUMPABLE, 0).map_err(step("cannot close this process to others"))?;
    // Before the two that the kernel grants to unprivileged processes only with it.
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(step("cannot set no_new_privs"))?;
    // After the new root: rules are made on what is mounted there.
    landlock::restrict(&plan.ruleset)?;
    // Last, so that the filter needs to allow nothing of the above.
    seccomp::install(&plan.filter)
}

/// The agent's process, and the end of a pipe that lets it go on.
struct Launched {
    pid: Pid,
    go: OwnedFd,
}

/// Forks the agent's process and lets go of the terminal's descriptors.
fn launch(
    plan: &Plan,
    announce: Option<&str>,
    channel: &Channel,
    mask: &SigSet,
    canary: Canary,
) -> Result<Launched, StartError> {
    let pipe = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| StartError::new("cannot make a pipe", e))?;
    let (wait, go) = pipe;
    match sys::fork(0).map_err(|e| StartError::new("cannot fork", e))? {
        Fork::Parent(pid) => {
            // A pipe must end when the agent closes it, not when the session does.
            if let Ok(null) = fs::File::options().read(true).write(true).open("/dev/null") {
                for standard in 0..3 {
                    sys::replace_fd(null.as_fd(), standard)
                        .map_err(|e| StartError::new("cannot let go of the terminal", e))?;
                }
            }
            Ok(Launched { pid, go })
        }
        Fork::Child => {
            drop(go);
            let Err(error) = agent(plan, announce, channel, mask, canary, &wait);
            let _ = channel.report(&Report::Failed(error));
            sys::exit_now(125)
        }
    }
}

/// The agent's process up to the moment it becomes the agent.
fn agent(
    plan: &Plan,
    announce: Option<&str>,
    channel: &Channel,
    mask: &SigSet,
    canary: Canary,
    wait: &OwnedFd,
) -> Result<Infallible, StartError> {
    let proof = check(plan, canary)?;
    limit(plan)?;
    channel.report(&Report::Ready).map_err(|e| StartError::new("cannot report to guard", e))?;
    // Until guard and the supervisor are ready for what may come: whatever fails there, the agent has not run.
    let mut byte = [0];
    loop {
        match nix::unistd::read(wait, &mut byte) {
            Ok(1) => break,
            Ok(_) => return Err(StartError::new("guard gave up before the agent started", Errno::ECONNRESET)),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(StartError::new("cannot wait for guard", e)),
        }
    }
    if let Some(line) = announce {
        // A terminal that is gone is no reason not to start.
        let _ = nix::unistd::write(io::stderr(), line.as_bytes());
    }
    sys::restore_inherited().map_err(|e| StartError::new("cannot restore signals", e))?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(mask), None).map_err(|e| StartError::new("cannot restore signals", e))?;
    execute(plan, proof)
}

/// Lowers the limits that the policy sets; what guard was started with is the ceiling.
fn limit(plan: &Plan) -> Result<(), StartError> {
    let mut limits = Vec::new();
    if let Some(bytes) = plan.resources.memory_bytes {
        limits.push((Resource::RLIMIT_DATA, bytes, "memory"));
    }
    // In a user namespace of its own the count is the sandbox's (Linux 5.14); without one it is all of the user's.
    if let (Some(count), Tier::Full) = (plan.resources.processes, plan.tier) {
        limits.push((Resource::RLIMIT_NPROC, count, "processes"));
    }
    for (resource, value, name) in limits {
        let failed = |e| StartError::new(format!("cannot limit {name}"), e);
        let (_, hard) = getrlimit(resource).map_err(failed)?;
        let value = value.min(hard);
        setrlimit(resource, value, value).map_err(failed)?;
    }
    Ok(())
}

fn execute(plan: &Plan, _proof: Sandboxed) -> Result<Infallible, StartError> {
    let text = |bytes: &[u8]| {
        CString::new(bytes).map_err(|_| StartError::new("cannot pass a NUL byte to the agent", Errno::EINVAL))
    };
    let program = text(plan.program.as_bytes())?;
    let argv = plan.argv.iter().map(|a| text(a.as_bytes())).collect::<Result<Vec<_>, _>>()?;
    let envp = plan.env.vars.iter().map(|(name, value)| sys::assignment(name, value.reveal()));
    let envp =
        envp.collect::<Result<Vec<_>, _>>().map_err(|e| StartError::new("cannot pass a NUL byte to the agent", e))?;
    let errno = sys::execve(&program, &argv, &envp);
    let mut error = StartError::new(format!("cannot execute {}", plan.program), errno);
    error.exit_code = if errno == Errno::ENOENT { 127 } else { 126 };
    Err(error)
}
