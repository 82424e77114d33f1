//! Real packets through maps, random numbers and counters: byte orders and registers are as the lowered rules take them to be.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bowline_dataplane::objects::net::RouteSpec;
use bowline_dataplane::objects::nft::{MetaKey, PayloadBase, Reg};
use bowline_model::Family;

use super::*;
use crate::netlink::Netlink;

const VIP: &str = "10.96.0.1";

/// A service of two endpoints in the output hook: VIP, protocol, port to a chain; these and a random number to an endpoint.
fn service(endpoints: [SocketAddr; 2]) -> Objects {
    let mut objects = Objects::new();
    let key = [Field::Ipv4, Field::Proto, Field::Port];
    objects.insert(set_key("svc4"), NftObject::Set(set_of(&key, SetData::Verdict)));
    let data = SetData::Value(vec![Field::Ipv4, Field::Port]);
    objects.insert(set_key("ep4"), NftObject::Set(set_of(&[&key[..], &[Field::Index]].concat(), data)));
    let load = vec![
        Expr::Payload { base: PayloadBase::Network, offset: 16, len: 4, to: Reg(0) },
        Expr::Meta { key: MetaKey::L4Proto, to: Reg(1) },
        Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, to: Reg(2) },
    ];
    let look = Expr::LookupVerdict { set: "svc4".into(), key: Reg(0) };
    objects.insert(chain_key("out"), base(ChainKind::Nat, Hook::Output, -100, vec![rule([load.clone(), vec![look]].concat())]));
    let pick = vec![
        Expr::Random { to: Reg(3), modulus: 2 },
        Expr::LookupValue { set: "ep4".into(), key: Reg(0), to: Reg(4) },
        Expr::Counter,
        Expr::Dnat { family: Family::V4, address: Reg(4), port: Some(Reg(5)) },
    ];
    objects.insert(chain_key("n_2"), chain(vec![commented("pick", [load, pick].concat())]));
    let vip = || ip(VIP).proto(17).port(53);
    objects.insert(element_key("svc4", vip()), point(ElementData::Verdict(goto("n_2"))));
    for (index, endpoint) in (0..).zip(endpoints) {
        let endpoint = KeyBuilder::new().ip(endpoint.ip()).port(endpoint.port());
        objects.insert(element_key("ep4", vip().host_u32(index)), point(value(endpoint)));
    }
    objects
}

fn answering(socket: UdpSocket, count: usize) {
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let name = socket.local_addr().unwrap().port().to_be_bytes();
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        for _ in 0..count {
            let Ok((_, from)) = socket.recv_from(&mut buffer) else { return };
            socket.send_to(&name, from).unwrap();
        }
    });
}

/// The port of the endpoint that answers.
fn ask(client: &UdpSocket) -> u16 {
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    client.connect((VIP, 53)).unwrap();
    client.send(b"?").unwrap();
    let mut answer = [0; 2];
    client.recv(&mut answer).unwrap();
    u16::from_be_bytes(answer)
}

#[test]
fn a_service_answers_from_each_endpoint_and_its_packets_are_counted() {
    let Some((ns, mut driver)) = start() else { return };
    let mut links = Netlink::open_in(&ns).unwrap();
    links.set_up("lo").unwrap();
    let to_lo = RouteSpec::Unicast { link: "lo".into(), gateway: None, source: None, mtu_bytes: None };
    links.replace_route(254, "10.96.0.0/16".parse().unwrap(), &to_lo, 0, 118).unwrap();
    let servers: Vec<UdpSocket> = ns.run(|| (0..2).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect()).unwrap();
    let endpoints = [servers[0].local_addr().unwrap(), servers[1].local_addr().unwrap()];
    turn(&mut driver, &Objects::new(), &service(endpoints));
    for server in servers {
        answering(server, 64);
    }
    let answers: BTreeSet<u16> = ns
        .run(|| {
            // A socket each, open to the end, so that each is a connection of its own.
            let clients: Vec<_> = (0..64).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
            clients.iter().map(ask).collect()
        })
        .unwrap();
    // Both ports, and no third one: the chance that 64 fair picks miss one is 2 in 2^64.
    assert_eq!(answers, endpoints.iter().map(SocketAddr::port).collect());
    let counters = driver.counters("n_2").unwrap();
    assert_eq!(counters.len(), 1);
    assert_eq!((counters[0].rule, counters[0].comment.as_deref()), (0, Some("pick")));
    assert_eq!((counters[0].packets, counters[0].bytes), (64, 64 * 29));
    assert_eq!(driver.counters("out").unwrap(), []);
    assert_eq!(driver.counters("no_such_chain").unwrap(), []);
}

/// The verdict map of pods as it is lowered, in the input hook: an address to a list, which comes with the transaction that leads to it.
fn judged_by(list: &str) -> Objects {
    let daddr = Expr::Payload { base: PayloadBase::Network, offset: 16, len: 4, to: Reg(0) };
    let look = rule(vec![daddr, Expr::LookupVerdict { set: "pods".into(), key: Reg(0) }]);
    let drop = || rule(vec![Expr::Verdict(Verdict::Drop)]);
    Objects::from([
        (set_key("pods"), NftObject::Set(set_of(&[Field::Ipv4], SetData::Verdict))),
        (chain_key("hook"), base(ChainKind::Filter, Hook::Input, 0, vec![rule(vec![Expr::Verdict(goto("to_pod"))])])),
        (chain_key("to_pod"), chain(vec![look, drop()])),
        (chain_key(list), chain(vec![drop()])),
        (element_key("pods", ip("127.0.0.1")), point(ElementData::Verdict(Verdict::Jump(list.into())))),
    ])
}

/// Ends a flood, in whatever way the test does.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// By `goto` 85 of 25,106 packets got past a new list, into which they looked by the rules of before (Linux 6.18); by `jump` none does.
#[test]
fn no_packet_gets_past_a_list_while_it_is_exchanged() {
    const EXCHANGES: usize = 3000;
    const PACKETS: usize = 10_000;
    let Some((ns, mut driver)) = start() else { return };
    Netlink::open_in(&ns).unwrap().set_up("lo").unwrap();
    let mut now = judged_by("list_0");
    turn(&mut driver, &Objects::new(), &now);
    let server = ns.run(|| UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    server.set_nonblocking(true).unwrap();
    let to = server.local_addr().unwrap();
    let (over, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let exchanges = std::thread::scope(|scope| {
        scope.spawn(|| {
            let client = ns.run(|| UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
            while !over.load(Ordering::Relaxed) {
                sent.fetch_add(usize::from(client.send_to(b"!", to).is_ok()), Ordering::Relaxed);
            }
        });
        let _over = Over(&over);
        let mut number = 0;
        // On a busy machine the flood may have to wait for its turn.
        while number < EXCHANGES || sent.load(Ordering::Relaxed) < PACKETS {
            number += 1;
            let next = judged_by(&format!("list_{number}"));
            turn(&mut driver, &now, &next);
            now = next;
        }
        number
    });
    let sent = sent.into_inner();
    let mut through = 0;
    while server.recv(&mut [0; 4]).is_ok() {
        through += 1;
    }
    assert_eq!(through, 0, "of {sent} packets during {exchanges} exchanges");
    println!("0 of {sent} packets during {exchanges} exchanges");
}
