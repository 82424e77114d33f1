//! Real packets through maps, random numbers and counters: byte orders and registers are as the lowered rules take them to be.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
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
