//! Processes outside that hold secrets: in argv, environment, memory, an open file, a shared segment, a terminal.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;

use nix::pty::openpty;
use nix::sys::signal::{SigSet, Signal};

use crate::act::{Act, Doer, Step, path, shown, text};

pub const ACTS: &[(&str, Doer)] = &[("holder", holder), ("shm-holder", shm_holder), ("pty-holder", pty_holder)];

/// `holder FILE SECRET`: has FILE open, its directory as working directory, the secret in argv and in memory. Prints
/// `ready PID ADDRESS LENGTH FD`, then a line for each signal it is sent.
fn holder(args: &[OsString]) -> Act {
    let file = path(args, 0)?;
    let open = File::open(&file).needed("open")?;
    std::env::set_current_dir(file.parent().expect("an absolute path")).needed("chdir")?;
    let secret: &'static str = Box::leak(text(args, 1)?.to_owned().into_boxed_str());
    let mut wanted = SigSet::empty();
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2] {
        wanted.add(signal);
    }
    wanted.thread_block().needed("block")?;
    let address = secret.as_ptr().expose_provenance();
    println!("ready {} {address} {} {}", std::process::id(), secret.len(), open.as_raw_fd());
    loop {
        println!("signal {}", wanted.wait().needed("wait")?);
    }
}

/// `shm-holder SECRET`: a System V segment for this user only. Prints `ready ID`.
fn shm_holder(args: &[OsString]) -> Act {
    let secret = text(args, 0)?.as_bytes();
    // SAFETY: the segment is fresh, one page, and so large enough for the secret and a zero.
    unsafe {
        let id = libc::shmget(libc::IPC_PRIVATE, 4096, 0o600);
        let address = libc::shmat(id, std::ptr::null(), 0).cast::<u8>();
        address.copy_from_nonoverlapping(secret.as_ptr(), secret.len().min(4000));
        // Removed with the last process that has it attached: this one, whichever way it ends.
        libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut());
        println!("ready {id}");
    }
    loop {
        nix::unistd::pause();
    }
}

/// Another terminal of the user. Prints `ready PATH`, then `got TEXT` for what is written there.
fn pty_holder(_: &[OsString]) -> Act {
    let pty = openpty(None, None).needed("openpty")?;
    println!("ready {}", nix::unistd::ttyname(&pty.slave).needed("ttyname")?.display());
    let mut master = File::from(pty.master);
    let mut bytes = [0; 256];
    loop {
        let count = master.read(&mut bytes).needed("read")?;
        println!("got {}", shown(&bytes[..count]));
    }
}
