//! Acts that talk to programs outside, or to parts of the network stack nobody needs: sections 7 and 8.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::path::Path;

use crate::act::{Act, Doer, Refusal, Step, check, number, path, setup, shown, text};
use crate::files::o_path;

pub const ACTS: &[(&str, Doer)] = &[
    ("unix-stream", unix_stream),
    ("unix-relative", unix_relative),
    ("unix-fd", unix_fd),
    ("unix-dgram", unix_dgram),
    ("unix-seqpacket", unix_seqpacket),
    ("abstract-stream", abstract_stream),
    ("abstract-dgram", abstract_dgram),
    ("talk-fd", talk_fd),
    ("tcp", tcp),
    ("tcp-fastopen", tcp_fastopen),
    ("tcp-mptcp", tcp_mptcp),
    ("udp", udp),
    ("listen", listen),
    ("socket", socket),
];

/// What every act here says to whom it reaches.
const HELLO: &[u8] = b"hello from inside";

fn talk(mut stream: impl Read + Write) -> Act {
    stream.write_all(HELLO).step("write")?;
    let mut answer = [0; 256];
    let count = stream.read(&mut answer).step("read")?;
    Ok(shown(&answer[..count]))
}

fn unix_stream(args: &[OsString]) -> Act {
    talk(UnixStream::connect(path(args, 0)?).step("connect")?)
}

/// From the socket's own directory, where a filter on path strings sees only a name.
fn unix_relative(args: &[OsString]) -> Act {
    let socket = path(args, 0)?;
    std::env::set_current_dir(socket.parent().unwrap_or(Path::new("/"))).step("chdir")?;
    talk(UnixStream::connect(socket.file_name().unwrap_or_default()).step("connect")?)
}

/// By an O_PATH descriptor, through /proc/self/fd.
fn unix_fd(args: &[OsString]) -> Act {
    let fd = o_path(&path(args, 0)?)?;
    talk(UnixStream::connect(format!("/proc/self/fd/{}", fd.as_raw_fd())).step("connect")?)
}

/// sendto: no connect call at all.
fn unix_dgram(args: &[OsString]) -> Act {
    UnixDatagram::unbound().needed("socket")?.send_to(HELLO, path(args, 0)?).step("sendto")?;
    Ok(String::new())
}

fn unix_seqpacket(args: &[OsString]) -> Act {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::empty(), None).needed("socket")?;
    connect(fd.as_raw_fd(), &UnixAddr::new(&path(args, 0)?).needed("address")?).step("connect")?;
    talk(std::fs::File::from(fd))
}

fn abstract_name(args: &[OsString]) -> Result<SocketAddr, Refusal> {
    SocketAddr::from_abstract_name(text(args, 0)?).needed("address")
}

fn abstract_stream(args: &[OsString]) -> Act {
    talk(UnixStream::connect_addr(&abstract_name(args)?).step("connect")?)
}

fn abstract_dgram(args: &[OsString]) -> Act {
    UnixDatagram::unbound().needed("socket")?.send_to_addr(HELLO, &abstract_name(args)?).step("sendto")?;
    Ok(String::new())
}

/// Over a connected socket that the shell left open.
fn talk_fd(args: &[OsString]) -> Act {
    let fd = crate::files::fd_number(number(args, 0)?)?;
    // SAFETY: asks about a number; EBADF when there is no such descriptor.
    check(unsafe { libc::fcntl(fd, libc::F_GETFD) }).step("fcntl")?;
    // SAFETY: the descriptor was leaked to us, and nothing else here uses it.
    talk(std::fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// `tcp HOST:PORT`, also `[::1]:PORT` and `[::ffff:127.0.0.1]:PORT`.
fn tcp(args: &[OsString]) -> Act {
    talk(TcpStream::connect(text(args, 0)?).step("connect")?)
}

fn inet(port: i64) -> Result<libc::sockaddr_in, Refusal> {
    let Ok(port) = u16::try_from(port) else { return setup("not a port") };
    Ok(libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
        sin_zero: [0; 8],
    })
}

/// `tcp-fastopen PORT`: sendto with MSG_FASTOPEN connects without connect.
fn tcp_fastopen(args: &[OsString]) -> Act {
    let address = inet(number(args, 0)?)?;
    let fd = owned_socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    // SAFETY: the kernel reads the message and the address, alive here.
    check(unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            HELLO.as_ptr().cast(),
            HELLO.len(),
            libc::MSG_FASTOPEN,
            (&raw const address).cast(),
            size_of_val(&address) as u32,
        )
    } as i64)
    .step("sendto")?;
    let mut answer = [0; 256];
    let count = TcpStream::from(fd).read(&mut answer).step("read")?;
    Ok(shown(&answer[..count]))
}

/// `tcp-mptcp PORT`: the same protocol by a socket that Landlock's TCP rules do not know.
fn tcp_mptcp(args: &[OsString]) -> Act {
    let address = inet(number(args, 0)?)?;
    let fd = owned_socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP)?;
    // SAFETY: the kernel reads the address, alive here.
    check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as u32) })
        .step("connect")?;
    talk(TcpStream::from(fd))
}

/// `udp HOST:PORT`: waits for the answer, for a sent datagram may still go nowhere.
fn udp(args: &[OsString]) -> Act {
    let socket = UdpSocket::bind("0.0.0.0:0").step("bind")?;
    socket.connect(text(args, 0)?).step("connect")?;
    socket.send(HELLO).step("send")?;
    socket.set_read_timeout(Some(std::time::Duration::from_secs(20))).needed("timeout")?;
    let mut answer = [0; 256];
    let count = socket.recv(&mut answer).step("recv")?;
    Ok(shown(&answer[..count]))
}

/// `listen HOST:PORT`
fn listen(args: &[OsString]) -> Act {
    let listener = TcpListener::bind(text(args, 0)?).step("bind")?;
    Ok(listener.local_addr().needed("address")?.to_string())
}

fn owned_socket(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Refusal> {
    // SAFETY: makes a descriptor; no memory involved.
    let fd = check(unsafe { libc::socket(family, kind, protocol) }).step("socket")?;
    // SAFETY: fresh from the kernel.
    Ok(unsafe { OwnedFd::from_raw_fd(crate::files::fd_number(fd)?) })
}

/// `socket NAME`: that the kernel makes one is the success.
fn socket(args: &[OsString]) -> Act {
    let (family, kind, protocol) = match text(args, 0)? {
        "vsock" => (libc::AF_VSOCK, libc::SOCK_STREAM, 0),
        "packet" => (libc::AF_PACKET, libc::SOCK_RAW, 0),
        "raw" => (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        "ping" => (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
        "alg" => (libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
        "netlink-route" => (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE),
        "netlink-netfilter" => (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER),
        "netlink-audit" => (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT),
        "netlink-uevent" => (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_KOBJECT_UEVENT),
        "netlink-diag" => (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_SOCK_DIAG),
        "netlink-generic" => (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_GENERIC),
        "netlink-xfrm" => (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_XFRM),
        "bluetooth" => (libc::AF_BLUETOOTH, libc::SOCK_RAW, 1),
        "can" => (libc::AF_CAN, libc::SOCK_RAW, 1),
        "tipc" => (libc::AF_TIPC, libc::SOCK_DGRAM, 0),
        "xdp" => (libc::AF_XDP, libc::SOCK_RAW, 0),
        other => return setup(format!("unknown socket {other}")),
    };
    owned_socket(family, kind, protocol)?;
    Ok(String::new())
}
