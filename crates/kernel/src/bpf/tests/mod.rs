//! The fast path against the kernel: two pods on a node, real packets, and rules by `nft` that tell who sees them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod begun;
mod full;
mod shaped;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bowline_bpf::abi::Count;
use bowline_dataplane::objects::hooks::{HookKey, Side};
use bowline_model::{Delta, Dual, Family, MacAddr};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

use super::attach::How;
use super::{Epoch, Fastpath, Sizes};
use crate::netlink::Netlink;
use crate::netns::NetNs;
use crate::netns::testing::fresh;
use crate::pod::{self, PodLinkSpec};
use crate::reconcile::{Driver, Reconciler, SyncMode};
use crate::sys::tcx::Hook;
use crate::{sys, sysctl};

const PORT: u16 = 7;
const BPFFS: &str = "/sys/fs/bpf";

/// A node with two pods, and the fast path between them.
struct Stage {
    node: NetNs,
    netlink: Netlink,
    a: NetNs,
    b: NetNs,
    fastpath: Fastpath,
    epoch: Epoch,
}

fn spec(name: &str, last: u8) -> PodLinkSpec {
    PodLinkSpec {
        host_ifname: name.to_owned(),
        host_mac: MacAddr([2, 0, 0, 0, 1, last]),
        pod_ifname: "eth0".to_owned(),
        pod_mac: MacAddr([2, 0, 0, 0, 2, last]),
        ips: Dual { v4: Some(address(false, last)), v6: Some(address(true, last)) },
        mtu_bytes: 1450,
    }
}

fn address(v6: bool, last: u8) -> IpAddr {
    if v6 { Ipv6Addr::new(0xfd42, 0, 0, 1, 0, 0, 0, u16::from(last)).into() } else { Ipv4Addr::new(10, 42, 1, last).into() }
}

fn wanted() -> BTreeMap<HookKey, Side> {
    ["bwa", "bwb"].into_iter().map(|link| (HookKey(link.into()), Side::Pod)).collect()
}

/// Runs a test on a thread with mounts of its own, where a BPF file system of its own is mounted. Says why where that cannot be.
fn staged(test: impl FnOnce(&mut Stage) + Send) {
    staged_as(None, test);
}

/// The same with the programs attached in one way, or in the better that the kernel has.
fn staged_as(how: Option<How>, test: impl FnOnce(&mut Stage) + Send) {
    staged_with(how, Sizes::default(), test);
}

/// Runs a test on a thread with mounts of its own, where a BPF file system of its own is mounted.
fn mounted(test: impl FnOnce() + Send) {
    let work = move || {
        sys::unshare_mounts().unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        mount("bpf", BPFFS, "bpf", MountFlags::empty(), None).unwrap();
        test();
    };
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap();
}

/// The same with maps of these sizes.
fn staged_with(how: Option<How>, sizes: Sizes, test: impl FnOnce(&mut Stage) + Send) {
    let (Some(node), Some(a), Some(b)) = (fresh(), fresh(), fresh()) else { return };
    mounted(move || {
        let mut netlink = Netlink::open_in(&node).unwrap();
        netlink.set_up("lo").unwrap();
        // What the node says to senders it says from an address of its own.
        for own in ["192.0.2.1/32", "2001:db8::1/128"] {
            netlink.add_address("lo", own.parse().unwrap(), true).unwrap();
        }
        for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            sysctl::write_in(&node, key, "1").unwrap();
        }
        pod::attach(&mut netlink, &a, &spec("bwa", 1)).unwrap();
        pod::attach(&mut netlink, &b, &spec("bwb", 2)).unwrap();
        let epoch = Epoch::default();
        let mut fastpath = node.run(|| Fastpath::open_as(how, Path::new(BPFFS), &epoch, sizes).unwrap()).unwrap();
        // Where the kernel has no tcx, too.
        fastpath.driver.leave_new_links_for(Duration::ZERO);
        let mut stage = Stage { node, netlink, a, b, fastpath, epoch };
        stage.hook();
        // Connection tracking looks at packets only where a rule wants it.
        stage.nft("add table inet t; add chain inet t passing { type filter hook forward priority 0; }; add rule inet t passing ct state invalid counter");
        sysctl::write_in(&stage.node, "net/netfilter/nf_conntrack_tcp_be_liberal", "1").unwrap();
        test(&mut stage);
    });
}

impl Stage {
    fn hook(&mut self) {
        let driver = &mut self.fastpath.driver;
        let delta = Delta { set: wanted(), remove: Default::default() };
        let report = self.node.run(|| driver.apply(&delta)).unwrap();
        assert!(report.failed.is_empty(), "{:?}", report.failed);
    }

    fn nft(&self, commands: &str) {
        run(&self.node, "nft", &[commands]);
    }

    fn packets(&self) -> u64 {
        self.fastpath.tally.get(Count::Packets)
    }

    /// A server in pod b and a client in pod a whose port is its own.
    fn sockets(&self, v6: bool) -> (UdpSocket, UdpSocket) {
        (bound(&self.b, SocketAddr::new(address(v6, 2), PORT)), bound(&self.a, SocketAddr::new(address(v6, 1), 0)))
    }
}

fn run(namespace: &NetNs, program: &str, words: &[&str]) -> String {
    let output = namespace.run(|| Command::new(program).args(words).stderr(Stdio::piped()).output().unwrap()).unwrap();
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn bound(namespace: &NetNs, to: SocketAddr) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind(to).unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket
}

/// Round trips of a datagram, each there and back without a second try; the port that the server saw.
fn exchange(server: &UdpSocket, client: &UdpSocket, to: SocketAddr, rounds: u32) -> u16 {
    let mut seen = 0;
    for round in 0..rounds {
        let mut buffer = [0; 8];
        client.send_to(&round.to_be_bytes(), to).unwrap();
        let (length, peer) = server.recv_from(&mut buffer).unwrap_or_else(|e| panic!("datagram {round} to {to} arrives: {e}"));
        assert_eq!(buffer[..length], round.to_be_bytes());
        server.send_to(&round.to_be_bytes(), peer).unwrap();
        let (length, from) = client.recv_from(&mut buffer).unwrap_or_else(|e| panic!("and the answer: {e}"));
        assert_eq!((&buffer[..length], from), (&round.to_be_bytes()[..], to));
        seen = peer.port();
    }
    seen
}

fn own(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().unwrap()
}

#[test]
fn a_flow_is_carried_once_the_stack_has_let_it_through_both_ways() {
    staged(|stage| {
        // One router is passed, by either way.
        run(
            &stage.b,
            "nft",
            &["add table inet t; add chain inet t arriving { type filter hook input priority 0; }; \
            add rule inet t arriving meta l4proto udp ip ttl != 63 drop; add rule inet t arriving meta l4proto udp ip6 hoplimit != 63 drop"],
        );
        for v6 in [false, true] {
            let (server, client) = stage.sockets(v6);
            let before = stage.packets();
            exchange(&server, &client, own(&server), 1);
            assert_eq!(stage.packets(), before, "the stack sees the first of each direction");
            exchange(&server, &client, own(&server), 20);
            assert_eq!(stage.packets(), before + 40);
            // Another flow to the same server is another flow.
            let other = bound(&stage.a, SocketAddr::new(address(v6, 1), 0));
            exchange(&server, &other, own(&server), 1);
            assert_eq!(stage.packets(), before + 40);
        }
        assert_eq!(stage.fastpath.tally.get(Count::Confirmed), 8);
        assert_eq!(stage.fastpath.tally.fill().unwrap(), (8, 131_072));
    });
}

/// On kernels before 6.6 there is no other way.
#[test]
fn classifiers_carry_as_well_and_leave_nothing() {
    staged_as(Some(How::Clsact), |stage| {
        for v6 in [false, true] {
            let (server, client) = stage.sockets(v6);
            let before = stage.packets();
            exchange(&server, &client, own(&server), 20);
            assert_eq!(stage.packets(), before + 38);
        }
        let filters = |stage: &Stage| run(&stage.node, "tc", &["filter", "show", "dev", "bwa", "ingress"]);
        let before = filters(stage);
        assert_eq!(before.matches("direct-action").count(), 1, "{before}");
        assert!(before.contains("bowline_enter"), "{before}");
        // Put on once more they are recognized; someone else's keeps the place when ours go.
        stage.hook();
        assert_eq!(filters(stage), before);
        let words = ["filter", "add", "dev", "bwb", "egress", "matchall", "action", "ok"];
        let strange = stage.node.run(|| Command::new("tc").args(words).output().unwrap().status.success()).unwrap();
        if !strange {
            eprintln!("skipped in part: this kernel has no classifier matchall to stand for someone else's");
        }
        let driver = &mut stage.fastpath.driver;
        let seen = stage.node.run(|| driver.read_owned(&wanted()).unwrap()).unwrap();
        // Where someone else's is, carried packets would pass it by.
        let same = |(key, seen): (&HookKey, _)| super::HookDriver::same(seen, &wanted()[key]) != (strange && &*key.0 == "bwb");
        assert!(seen.iter().all(same), "{seen:?}");
        let report = stage.node.run(|| driver.apply(&Delta { set: BTreeMap::new(), remove: wanted().into_keys().collect() })).unwrap();
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        assert!(!run(&stage.node, "tc", &["qdisc", "show", "dev", "bwa"]).contains("clsact"));
        assert_eq!(run(&stage.node, "tc", &["filter", "show", "dev", "bwb", "egress"]).contains("matchall"), strange);
        let seen = stage.node.run(|| stage.fastpath.driver.read_owned(&BTreeMap::new()).unwrap()).unwrap();
        assert!(seen.is_empty(), "{seen:?}");
    });
}

#[test]
fn tcp_is_carried_between_its_beginning_and_its_end() {
    staged(|stage| {
        for v6 in [false, true] {
            let before = stage.packets();
            let to = SocketAddr::new(address(v6, 2), 80);
            let listener = stage.b.run(|| TcpListener::bind(to).unwrap()).unwrap();
            let mut client = stage.a.run(|| TcpStream::connect(to).unwrap()).unwrap();
            client.set_nodelay(true).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            let mut buffer = [0; 4];
            for round in 0..100_u32 {
                client.write_all(&round.to_be_bytes()).unwrap();
                server.read_exact(&mut buffer).unwrap();
                server.write_all(&buffer).unwrap();
                client.read_exact(&mut buffer).unwrap();
                assert_eq!(buffer, round.to_be_bytes());
            }
            let carried = stage.packets() - before;
            assert!(carried >= 195, "{carried} of 200 segments were carried");
            // Much data in batches, to go through the link's limits whole.
            let data = vec![7_u8; 3_000_000];
            let sent = std::thread::scope(|scope| {
                let writer = scope.spawn(|| client.write_all(&data).map(|()| data.len()));
                let mut got = vec![0; data.len()];
                server.read_exact(&mut got).unwrap();
                assert!(got == data);
                writer.join().unwrap().unwrap()
            });
            assert_eq!(sent, data.len());
            drop(client);
            assert_eq!(server.read(&mut buffer).unwrap(), 0);
            drop(server);
            let port = format!("dport={}", to.port());
            let begun = Instant::now();
            loop {
                let tracked = run(&stage.node, "conntrack", &["-L", "-p", "tcp", "-f", if v6 { "ipv6" } else { "ipv4" }]);
                let ours: Vec<&str> = tracked.lines().filter(|line| line.contains(&port)).collect();
                assert_eq!(ours.len(), 1, "{tracked}");
                if ours[0].contains("TIME_WAIT") {
                    break;
                }
                assert!(begun.elapsed() < Duration::from_secs(5), "connection tracking missed the end: {tracked}");
            }
        }
        assert!(run(&stage.node, "nft", &["list table inet t"]).contains("invalid counter packets 0"), "the stack knew every packet");
    });
}

#[test]
fn what_is_translated_is_never_carried_nor_mixed_up_with_what_is_not() {
    staged(|stage| {
        stage.nft(
            "add chain inet t nat { type nat hook prerouting priority -100; }; \
             add rule inet t nat ip daddr 10.99.0.1 udp dport 53 dnat ip to 10.42.1.2:7; \
             add rule inet t nat ip6 daddr fd99::1 udp dport 53 dnat ip6 to [fd42:0:0:1::2]:7",
        );
        for (v6, vip) in [(false, "10.99.0.1:53"), (true, "[fd99::1]:53")] {
            let vip: SocketAddr = vip.parse().unwrap();
            let (server, client) = stage.sockets(v6);
            let before = stage.packets();
            exchange(&server, &client, vip, 10);
            assert_eq!(stage.packets(), before, "translated");
            // From the same port straight to the endpoint: the server must not take one for the other, nor the client.
            let port = exchange(&server, &client, own(&server), 10);
            assert_ne!(port, own(&client).port(), "the stack keeps the two apart");
            exchange(&server, &client, vip, 10);
            exchange(&server, &client, own(&server), 10);
            assert_eq!(stage.packets(), before, "what shares its port with something translated is, too");
        }
    });
}

#[test]
fn a_new_epoch_asks_the_stack_again() {
    staged(|stage| {
        let (server, client) = stage.sockets(false);
        exchange(&server, &client, own(&server), 5);
        stage.nft("add rule inet t passing udp dport 7 drop");
        exchange(&server, &client, own(&server), 5);
        stage.epoch.advance().unwrap();
        server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        for _ in 0..5 {
            client.send_to(b"late", own(&server)).unwrap();
        }
        server.recv_from(&mut [0; 8]).expect_err("the stack drops it now");
        // The answers' direction alone opens nothing.
        server.send_to(b"back", own(&client)).unwrap();
        client.recv_from(&mut [0; 8]).unwrap();
        client.send_to(b"late", own(&server)).unwrap();
        server.recv_from(&mut [0; 8]).expect_err("nor does an answer bring it back");
        stage.nft("flush chain inet t passing");
        let before = stage.packets();
        exchange(&server, &client, own(&server), 10);
        assert!(stage.packets() >= before + 16);
    });
}

#[test]
fn what_does_not_fit_is_left_to_the_stack_which_tells_the_sender() {
    staged(|stage| {
        for v6 in [false, true] {
            let before = stage.fastpath.tally.get(Count::TooBig);
            run(&stage.node, "ip", &["link", "set", "bwb", "mtu", "1450"]);
            stage.hook();
            let (server, client) = stage.sockets(v6);
            exchange(&server, &client, own(&server), 3);
            run(&stage.node, "ip", &["link", "set", "bwb", "mtu", "1300"]);
            stage.hook();
            stage.epoch.advance().unwrap();
            exchange(&server, &client, own(&server), 3);
            let begun = Instant::now();
            let mut buffer = [0; 2000];
            server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            loop {
                // Once the sender knows, it sends pieces.
                let _ = client.send_to(&[1; 1400], own(&server));
                if server.recv_from(&mut buffer).is_ok_and(|(length, _)| length == 1400) {
                    break;
                }
                assert!(begun.elapsed() < Duration::from_secs(5), "the sender was never told");
            }
            assert!(stage.fastpath.tally.get(Count::TooBig) > before);
        }
    });
}

#[test]
fn fragments_and_a_strange_station_take_the_stack() {
    staged(|stage| {
        let (server, client) = stage.sockets(false);
        exchange(&server, &client, own(&server), 3);
        let before = stage.packets();
        client.send_to(&[9; 4000], own(&server)).unwrap();
        let mut buffer = [0; 5000];
        assert_eq!(server.recv_from(&mut buffer).unwrap().0, 4000);
        assert_eq!(stage.packets(), before);
        // The pod's replies go to another Ethernet address than its packets come from now.
        run(&stage.a, "ip", &["link", "set", "eth0", "address", "02:00:00:00:0f:0f"]);
        let gateway = pod::gateway(Family::V4).to_string();
        run(&stage.a, "ip", &["neigh", "replace", &gateway, "lladdr", "02:00:00:00:01:01", "dev", "eth0"]);
        client.send_to(b"odd", own(&server)).unwrap();
        assert_eq!(server.recv_from(&mut buffer).unwrap().0, 3, "nothing here forbids it");
        assert_eq!(stage.packets(), before);
    });
}

#[test]
fn programs_are_put_back_replaced_and_taken_off() {
    staged(|stage| {
        let Stage { node, fastpath, netlink, .. } = stage;
        let index = netlink.index_of("bwa").unwrap();
        let tally = &fastpath.tally;
        let (mut links, other) = node
            .run(|| {
                let open = |bpffs| {
                    let mut driver = Fastpath::open_at(Path::new(bpffs), &Epoch::default(), Sizes::default()).unwrap().driver;
                    driver.leave_new_links_for(Duration::ZERO);
                    driver
                };
                let driver = open(BPFFS);
                mount("bpf", "/mnt", "bpf", MountFlags::empty(), None).unwrap();
                (Reconciler::new(driver), open("/mnt"))
            })
            .unwrap();
        links.want(Delta { set: wanted(), remove: Default::default() });
        links.allow_removal();
        let report = node.run(|| links.sync(SyncMode::Full, 0)).unwrap();
        assert_eq!((report.written, report.removed), (0, 0), "an agent of the same build finds all as it should be: {report:?}");
        assert_eq!(node.run(|| links.driver().robbed()).unwrap(), 0);

        let how = node.run(|| How::of_kernel(index).unwrap()).unwrap();
        let at = |hook| node.run(|| how.attached(&mut Netlink::open().unwrap(), index, hook).unwrap()).unwrap();
        let id = at(Hook::Ingress)[0];
        node.run(|| how.detach(&mut Netlink::open().unwrap(), id, index, Hook::Ingress).unwrap()).unwrap();
        assert_eq!(node.run(|| links.driver().robbed()).unwrap(), 1);
        let report = node.run(|| links.sync(SyncMode::Full, 1)).unwrap();
        assert_eq!((report.written, at(Hook::Ingress).len()), (1, 1), "{report:?}");

        // Someone else's program stays, whatever we do; an agent with other maps puts its own in the place of ours.
        let mut other = Reconciler::new(other);
        other.want(Delta { set: wanted(), remove: Default::default() });
        other.allow_removal();
        let report = node.run(|| other.sync(SyncMode::Full, 0)).unwrap();
        assert_eq!(report.written, 2, "{report:?}");
        assert_eq!((at(Hook::Ingress).len(), at(Hook::Egress).len()), (1, 1));
        assert_ne!(at(Hook::Ingress)[0], id);

        assert_eq!(node.run(|| Fastpath::left().unwrap().len()).unwrap(), 4);
        other.want(Delta { set: BTreeMap::new(), remove: wanted().into_keys().collect() });
        let report = node.run(|| other.sync(SyncMode::Shadow, 2)).unwrap();
        assert_eq!((report.removed, at(Hook::Ingress).len(), at(Hook::Egress).len()), (2, 0, 0), "{report:?}");
        let report = node.run(|| links.sync(SyncMode::Full, 3)).unwrap();
        assert_eq!(report.written, 2);
        assert_eq!(node.run(|| Fastpath::uninstall().unwrap()).unwrap(), 4);
        assert_eq!(node.run(|| Fastpath::left().unwrap()).unwrap(), Vec::<String>::new());

        let pinned = || std::fs::read_dir(format!("{BPFFS}/bowline/{}", Sizes::default().directory())).map_or(0, Iterator::count);
        assert_eq!(pinned(), 7);
        std::fs::remove_dir_all(format!("{BPFFS}/bowline")).unwrap();
        assert!(links.driver().keep_pins().unwrap());
        assert_eq!((pinned(), links.driver().keep_pins().unwrap()), (7, false));
        assert_eq!(tally.get(Count::Packets), 0);
    });
}
