//! TCP connections that begin without the stack, and their way back to it.

use super::*;
use crate::bpf::{HandedOver, Which};

/// A server in pod b.
fn server(stage: &Stage, v6: bool) -> TcpListener {
    stage.b.run(|| TcpListener::bind(SocketAddr::new(address(v6, 2), 80)).unwrap()).unwrap()
}

/// A connection of pod a's to it, with a byte there and back.
fn talk(stage: &Stage, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let to = listener.local_addr().unwrap();
    let near = stage.a.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    let mut ends = (near, far);
    echo(&mut ends);
    ends
}

fn echo((near, far): &mut (TcpStream, TcpStream)) {
    let mut byte = [0];
    near.write_all(&[1]).unwrap();
    far.read_exact(&mut byte).unwrap();
    far.write_all(&[2]).unwrap();
    near.read_exact(&mut byte).unwrap();
    assert_eq!(byte, [2]);
}

/// Both ends are closed in order.
fn end((near, mut far): (TcpStream, TcpStream)) {
    drop(near);
    assert_eq!(far.read(&mut [0]).unwrap(), 0);
}

fn begun(stage: &Stage) -> u64 {
    stage.fastpath.tally.get(Count::Begun)
}

/// Entries of connection tracking for this port of pod a's.
fn tracked(stage: &Stage, stream: &TcpStream) -> Vec<String> {
    let port = format!("sport={} ", stream.local_addr().unwrap().port());
    let families = ["ipv4", "ipv6"].map(|family| run(&stage.node, "conntrack", &["-L", "-p", "tcp", "-f", family]));
    families.iter().flat_map(|all| all.lines()).filter(|line| line.contains(&port)).map(ToOwned::to_owned).collect()
}

/// What policy asks of a selected pod: the beginning of a connection to the port, and what belongs to one.
const POLICY: &str = "add chain inet t judged { type filter hook forward priority 10; policy drop; }; \
    add rule inet t judged ct state established,related accept; \
    add rule inet t judged tcp dport 80 tcp flags & (syn|ack) == syn counter accept";

#[test]
fn what_the_stack_lets_begin_begins_without_it() {
    staged(|stage| {
        stage.nft(POLICY);
        for v6 in [false, true] {
            let listener = server(stage, v6);
            let before = begun(stage);
            end(talk(stage, &listener));
            assert_eq!(begun(stage), before, "the stack sees the first");
            for _ in 0..10 {
                end(talk(stage, &listener));
            }
            let ends = talk(stage, &listener);
            assert_eq!(begun(stage), before + 11);
            assert_eq!(tracked(stage, &ends.0), Vec::<String>::new(), "connection tracking knows nothing of it");
            // To another port nothing is known.
            let other = stage.b.run(|| TcpListener::bind(SocketAddr::new(address(v6, 2), 81)).unwrap()).unwrap();
            let to = other.local_addr().unwrap();
            let refused = stage.a.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)).is_err()).unwrap();
            assert!(refused && begun(stage) == before + 11, "another port is judged by itself");
        }
        let rules = run(&stage.node, "nft", &["list table inet t"]);
        assert!(rules.contains("counter packets 2 "), "one beginning of each family was shown: {rules}");
        assert!(rules.contains("invalid counter packets 0"), "{rules}");
    });
}

#[test]
fn connections_go_back_to_a_stack_that_knows_them() {
    staged(|stage| {
        stage.nft(POLICY);
        for v6 in [false, true] {
            let listener = server(stage, v6);
            end(talk(stage, &listener));
            let mut ends = talk(stage, &listener);
            let half = talk(stage, &listener);
            half.0.shutdown(std::net::Shutdown::Write).unwrap();
            let none = HandedOver::default();
            let young = stage.epoch.hand_over(Which::Grown).unwrap();
            assert_eq!((young.told.len(), young.young >= 2), (0, true), "{young:?}");
            stage.epoch.advance().unwrap();
            let before = stage.packets();
            echo(&mut ends);
            assert!(stage.packets() > before, "until it is handed over it goes on as it does");
            let done = stage.epoch.hand_over(Which::All).unwrap();
            assert_eq!(done.told.len(), 2, "{done:?}");
            assert!(tracked(stage, &ends.0)[0].contains("ESTABLISHED"), "{:?}", tracked(stage, &ends.0));
            // The answering end speaks first: it is no beginning.
            let (mut near, mut far) = ends;
            far.write_all(b"late").unwrap();
            near.read_exact(&mut [0; 4]).unwrap();
            let mut ends = (near, far);
            echo(&mut ends);
            echo(&mut ends);
            let before = stage.packets();
            echo(&mut ends);
            assert!(stage.packets() >= before + 2, "and is carried as any other");
            let (mut near, mut far) = half;
            far.write_all(b"rest").unwrap();
            near.read_exact(&mut [0; 4]).unwrap();
            drop(far);
            assert_eq!(near.read(&mut [0]).unwrap(), 0, "the other half ends in order");
            end(ends);
            assert_eq!(HandedOver { young: 0, forgotten: 0, ..stage.epoch.hand_over(Which::All).unwrap() }, none);
        }
        let rules = run(&stage.node, "nft", &["list table inet t"]);
        assert!(rules.contains("invalid counter packets 0"), "{rules}");
    });
}

#[test]
fn what_has_ended_is_forgotten_and_a_reset_ends_at_once() {
    staged(|stage| {
        let listener = server(stage, false);
        end(talk(stage, &listener));
        let (near, far) = talk(stage, &listener);
        let known = || stage.fastpath.tally.begun().unwrap().0;
        assert_eq!(known(), 1);
        rustix::net::sockopt::set_socket_linger(&near, Some(Duration::ZERO)).unwrap();
        drop(near);
        assert!((&far).read(&mut [0]).is_err(), "reset");
        assert_eq!(known(), 0);
        end(talk(stage, &listener));
        let begun = Instant::now();
        while known() > 0 {
            let done = stage.epoch.hand_over(Which::Grown).unwrap();
            assert_eq!(done.told, [], "{done:?}");
            assert!(begun.elapsed() < Duration::from_secs(5), "what has ended is still there");
        }
        assert!(begun.elapsed() >= Duration::from_millis(900), "its last words have a second to be said again");
    });
}

#[test]
fn a_new_epoch_begins_nothing_by_the_old_rules() {
    staged(|stage| {
        stage.nft(POLICY);
        let listener = server(stage, false);
        end(talk(stage, &listener));
        end(talk(stage, &listener));
        let (before, to) = (begun(stage), listener.local_addr().unwrap());
        assert_eq!(before, 1);
        stage.nft("insert rule inet t judged tcp dport 80 ct state new drop");
        stage.epoch.advance().unwrap();
        let refused = stage.a.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)).is_err()).unwrap();
        assert!(refused, "the stack drops it now");
        assert_eq!(begun(stage), before);
    });
}

#[test]
fn where_the_stack_translates_it_begins_everything() {
    staged(|stage| {
        stage.nft(
            "add chain inet t nat { type nat hook prerouting priority -100; }; \
             add rule inet t nat ip daddr 10.99.0.1 tcp dport 8080 dnat ip to 10.42.1.2:80; \
             add rule inet t nat ip6 daddr fd99::1 tcp dport 8080 dnat ip6 to [fd42:0:0:1::2]:80",
        );
        for (v6, vip) in [(false, "10.99.0.1:8080"), (true, "[fd99::1]:8080")] {
            let vip: SocketAddr = vip.parse().unwrap();
            let listener = server(stage, v6);
            end(talk(stage, &listener));
            let through = |stage: &Stage| {
                let near = stage.a.run(|| TcpStream::connect_timeout(&vip, Duration::from_secs(5)).unwrap()).unwrap();
                let mut ends = (near, listener.accept().unwrap().0);
                echo(&mut ends);
                ends
            };
            let translated = through(stage);
            let before = begun(stage);
            // Even one by one to the endpoint itself: a port that is in use by a translated connection must be the stack's to give.
            for _ in 0..5 {
                end(talk(stage, &listener));
            }
            assert_eq!(begun(stage), before);
            end(translated);
        }
    });
}

/// What connection tracking remembers beside (the way that answers take) it cannot be told later.
#[test]
fn what_has_a_mark_the_stack_begins_each_time() {
    staged(|stage| {
        stage.nft(
            "add chain inet t back { type filter hook prerouting priority -150; }; \
             add rule inet t back ct state new meta mark set 0x1000",
        );
        for v6 in [false, true] {
            let listener = server(stage, v6);
            for _ in 0..5 {
                end(talk(stage, &listener));
            }
            assert_eq!(begun(stage), 0);
            let mut ends = talk(stage, &listener);
            let before = stage.packets();
            for _ in 0..5 {
                echo(&mut ends);
            }
            assert!(stage.packets() > before, "once it is known it is carried as any other");
        }
    });
}

#[test]
fn only_its_own_link_and_station_begin_or_end_a_connection() {
    staged(|stage| {
        let listener = server(stage, false);
        end(talk(stage, &listener));
        let mut ends = talk(stage, &listener);
        let before = begun(stage);
        // A third pod, with the first's address, begins, and resets.
        let Some(third) = fresh() else { return };
        pod::attach(&mut stage.netlink, &third, &PodLinkSpec { ips: spec("bwc", 1).ips, ..spec("bwc", 3) }).unwrap();
        let links = BTreeMap::from([(HookKey("bwc".into()), Side::Pod)]);
        let driver = &mut stage.fastpath.driver;
        let report = stage.node.run(|| driver.apply(&Delta { set: links, remove: Default::default() })).unwrap();
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        let to = listener.local_addr().unwrap();
        let port = ends.0.local_addr().unwrap().port();
        third
            .run(|| {
                let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
                rustix::net::sockopt::set_socket_reuseaddr(&socket, true).unwrap();
                rustix::net::bind(&socket, &SocketAddr::new(address(false, 1), port)).unwrap();
                rustix::io::ioctl_fionbio(&socket, true).unwrap();
                let _ = rustix::net::connect(&socket, &to);
            })
            .unwrap();
        assert_eq!(begun(stage), before, "nothing was begun from elsewhere");
        assert_eq!(stage.fastpath.tally.begun().unwrap().0, 1, "and nothing ended");
        let carried = stage.packets();
        echo(&mut ends);
        assert!(stage.packets() >= carried + 2);
        end(ends);
    });
}
