//! `serve-… WHERE ANSWER`: programs outside that listen, as stand-ins for an ssh-agent, a docker daemon, a session
//! bus. Each prints `ready …`, then `got TEXT` for what it was sent, and answers.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};

use crate::act::{Act, Doer, Step, c_string, check, path, shown, text};

pub const ACTS: &[(&str, Doer)] = &[
    ("serve-stream", stream),
    ("serve-abstract", abstract_stream),
    ("serve-dgram", dgram),
    ("serve-abstract-dgram", abstract_dgram),
    ("serve-seqpacket", seqpacket),
    ("serve-tcp", tcp),
    ("serve-udp", udp),
    ("serve-fifo", fifo),
];

fn say(line: &str) {
    println!("{line}");
}

fn answer(mut peer: impl Read + Write, with: &str) {
    let mut bytes = [0; 256];
    // A peer that connects and goes away is none of our business.
    if let Ok(count) = peer.read(&mut bytes)
        && count > 0
    {
        say(&format!("got {}", shown(&bytes[..count])));
        let _ = peer.write_all(with.as_bytes());
    }
}

fn stream(args: &[OsString]) -> Act {
    let listener = UnixListener::bind(path(args, 0)?).needed("bind")?;
    say("ready");
    loop {
        answer(listener.accept().needed("accept")?.0, text(args, 1)?);
    }
}

fn abstract_stream(args: &[OsString]) -> Act {
    let address = SocketAddr::from_abstract_name(text(args, 0)?).needed("address")?;
    let listener = UnixListener::bind_addr(&address).needed("bind")?;
    say("ready");
    loop {
        answer(listener.accept().needed("accept")?.0, text(args, 1)?);
    }
}

fn dgram(args: &[OsString]) -> Act {
    receive(&UnixDatagram::bind(path(args, 0)?).needed("bind")?)
}

fn abstract_dgram(args: &[OsString]) -> Act {
    let address = SocketAddr::from_abstract_name(text(args, 0)?).needed("address")?;
    receive(&UnixDatagram::bind_addr(&address).needed("bind")?)
}

fn receive(socket: &UnixDatagram) -> Act {
    say("ready");
    let mut bytes = [0; 256];
    loop {
        let count = socket.recv(&mut bytes).needed("recv")?;
        say(&format!("got {}", shown(&bytes[..count])));
    }
}

fn seqpacket(args: &[OsString]) -> Act {
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::empty(), None).needed("socket")?;
    bind(fd.as_raw_fd(), &UnixAddr::new(&path(args, 0)?).needed("address")?).needed("bind")?;
    listen(&fd, Backlog::new(8).needed("backlog")?).needed("listen")?;
    say("ready");
    loop {
        // SAFETY: null: the peer's address is not asked for.
        let peer = check(unsafe { libc::accept(fd.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut()) })
            .needed("accept")?;
        use std::os::fd::FromRawFd;
        // SAFETY: fresh from the kernel.
        answer(unsafe { File::from_raw_fd(crate::files::fd_number(peer)?) }, text(args, 1)?);
    }
}

/// `serve-tcp ADDRESS:0 ANSWER` prints `ready PORT`.
fn tcp(args: &[OsString]) -> Act {
    let listener = TcpListener::bind(text(args, 0)?).needed("bind")?;
    say(&format!("ready {}", listener.local_addr().needed("address")?.port()));
    loop {
        answer(listener.accept().needed("accept")?.0, text(args, 1)?);
    }
}

fn udp(args: &[OsString]) -> Act {
    let socket = UdpSocket::bind(text(args, 0)?).needed("bind")?;
    say(&format!("ready {}", socket.local_addr().needed("address")?.port()));
    let mut bytes = [0; 256];
    loop {
        let (count, peer) = socket.recv_from(&mut bytes).needed("recv")?;
        say(&format!("got {}", shown(&bytes[..count])));
        socket.send_to(text(args, 1)?.as_bytes(), peer).needed("send")?;
    }
}

/// A program that takes commands from a FIFO.
fn fifo(args: &[OsString]) -> Act {
    let place = c_string(args, 0)?;
    // SAFETY: the kernel reads the string, alive here.
    check(unsafe { libc::mkfifo(place.as_ptr(), 0o600) }).needed("mkfifo")?;
    // Open for both, so that it never ends.
    let mut file = File::options().read(true).write(true).open(path(args, 0)?).needed("open")?;
    say("ready");
    let mut bytes = [0; 256];
    loop {
        let count = file.read(&mut bytes).needed("read")?;
        say(&format!("got {}", shown(&bytes[..count])));
    }
}
