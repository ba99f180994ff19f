//! Section 8: what must not work with `--network none`, and what a user's own dev server must see with it open.

use super::scene::{Scene, Try};
use super::support::User;
use super::table::{Kind, Row, row, run};

fn server(scene: &mut Scene, kind: &str, address: &str) -> String {
    let canary = scene.canary.clone();
    scene.victim(&[kind, address, &canary]).remove(0)
}

fn without_network(name: &str, act: impl Fn(&mut Scene) -> Vec<String> + 'static) -> Row {
    row(name, Kind::Leak, move |scene| Try::probe(act(scene)).guard(&["--network", "none"]))
}

#[test]
fn none_is_none() {
    // In the landlock tier the filter refuses the sockets: Landlock's own rules know only plain TCP.
    run(vec![
        without_network("TCP", |scene| {
            let port = server(scene, "serve-tcp", "127.0.0.1:0");
            vec!["tcp".into(), format!("127.0.0.1:{port}")]
        }),
        without_network("TCP, IPv6", |scene| {
            let port = server(scene, "serve-tcp", "[::1]:0");
            vec!["tcp".into(), format!("[::1]:{port}")]
        }),
        without_network("TCP, IPv4 address in an IPv6 socket", |scene| {
            let port = server(scene, "serve-tcp", "127.0.0.1:0");
            vec!["tcp".into(), format!("[::ffff:127.0.0.1]:{port}")]
        }),
        without_network("TCP with fast open", |scene| {
            let port = server(scene, "serve-tcp", "127.0.0.1:0");
            vec!["tcp-fastopen".into(), port]
        }),
        without_network("MPTCP", |scene| {
            let port = server(scene, "serve-tcp", "127.0.0.1:0");
            vec!["tcp-mptcp".into(), port]
        })
        .may_lack(),
        without_network("UDP", |scene| {
            let port = server(scene, "serve-udp", "127.0.0.1:0");
            vec!["udp".into(), format!("127.0.0.1:{port}")]
        }),
    ]);
}

/// The other side of the coin: the default leaves the network as it is, in both tiers.
#[test]
fn open_is_open() {
    for user in User::ALL {
        for tier in ["full", "landlock"] {
            let mut scene = Scene::new(user);
            let port = server(&mut scene, "serve-tcp", "127.0.0.1:0");
            let run = scene.world.run(user).cwd(&scene.project).probe(["tcp", &format!("127.0.0.1:{port}")]);
            run.guard(["run", "--quiet", "--tier", tier]).output().success().expect_stdout(&scene.canary);
        }
    }
}

/// Sockets that have nothing to do with talking to a server.
#[test]
fn odd_sockets() {
    let mut rows = Vec::new();
    for name in [
        "vsock",
        "alg",
        "netlink-netfilter",
        "netlink-audit",
        "netlink-uevent",
        "netlink-diag",
        "netlink-generic",
        "netlink-xfrm",
        "tipc",
        "xdp",
    ] {
        let odd = row(format!("socket {name}"), Kind::Act, move |_| Try::probe(["socket", name])).may_lack();
        rows.push(if name == "xdp" { odd.only(User::Root, "needs CAP_NET_RAW") } else { odd });
    }
    for name in ["packet", "raw"] {
        rows.push(
            row(format!("socket {name}"), Kind::Act, move |_| Try::probe(["socket", name]))
                .only(User::Root, "needs CAP_NET_RAW"),
        );
    }
    run(rows);
}
