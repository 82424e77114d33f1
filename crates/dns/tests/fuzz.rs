//! 100,000 random messages and Corefiles, made from good ones by random damage: nothing panics, nothing hangs.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use bowline_dns::wire::{Query, Reply, encode_query, encode_reply, record};
use bowline_dns::{fuzz_corefile, fuzz_message, name};
use domain::base::iana::{Rcode, Rtype};
use domain::rdata::{A, Cname, Srv};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

const CASES: usize = 100_000;

fn damage(rng: &mut StdRng, seed: &[u8], pieces: &[&[u8]]) -> Vec<u8> {
    let mut octets = seed.to_vec();
    for _ in 0..rng.random_range(0..6) {
        let at = rng.random_range(0..=octets.len());
        match rng.random_range(0..5) {
            0 => octets.truncate(at),
            1 if at < octets.len() => octets[at] = rng.random(),
            2 if at < octets.len() => octets[at] ^= 1 << rng.random_range(0..8),
            3 => octets.insert(at, rng.random()),
            _ => {
                let piece = pieces.choose(rng).unwrap();
                octets.splice(at..at, piece.iter().copied());
            }
        }
    }
    octets
}

fn messages() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (asked, rtype) in [
        ("nginx.default.svc.cluster.local", Rtype::A),
        ("_http._tcp.nginx.default.svc.cluster.local", Rtype::SRV),
        ("1.0.168.192.in-addr.arpa", Rtype::PTR),
        ("fd00--1.default.pod.cluster.local", Rtype::ANY),
        (".", Rtype::NS),
    ] {
        let mut query = Query::new(name::parse(asked).unwrap(), rtype);
        query.edns = Some(bowline_dns::wire::Edns { udp_bytes: 1232, version: 0, dnssec_ok: true });
        seeds.push(encode_query(&query, 0));
        let target = name::parse("other.example.org").unwrap();
        let mut reply = Reply::empty(Rcode::NOERROR);
        reply.answer.push(record(query.name.clone(), 5, Cname::new(target.clone())));
        reply.answer.push(record(target.clone(), 5, A::new([10, 0, 0, 1].into())));
        reply.additional.push(record(target.clone(), 5, Srv::new(0, 10, 80, target)));
        let mut octets = Vec::new();
        encode_reply(&query, &reply, 1232, &mut octets);
        seeds.push(octets);
    }
    seeds
}

#[test]
fn messages_of_any_bytes_are_survived() {
    let mut rng = StdRng::seed_from_u64(0x00d5);
    let seeds = messages();
    let pieces: [&[u8]; 6] = [&[0xc0, 0x0c], &[0xc0, 0x00], &[0x3f], &[0xff; 4], &[0, 0, 41, 4, 0xd0, 0, 0, 0x80, 0, 0, 0], &[63; 64]];
    for _ in 0..CASES {
        let seed = seeds.choose(&mut rng).unwrap();
        fuzz_message(&damage(&mut rng, seed, &pieces));
    }
}

#[test]
fn corefiles_of_any_bytes_are_survived() {
    let seeds = [
        ".:53 {\n errors\n log . \"{remote} {type}\" {\n  class denial\n }\n health {\n  lameduck 5s\n }\n kubernetes cluster.local 10.0.0.0/12 {\n  pods verified\n  fallthrough in-addr.arpa\n }\n forward . 1.1.1.1 {\n  policy random\n }\n cache 30 {\n  prefetch 5 1m 10%\n }\n}\n",
        "(s) {\n import s\n cache\n}\na, b\nc:1053 {\n import s\n rewrite name regex (.*)\\.x {1}.y answer name (.*)\\.y {1}.x\n template IN A {\n  match ^(?P<a>.*)$\n  answer \"{{ .Name }} 5 IN A 1.2.3.4\"\n }\n acl {\n  block type A net 10.0.0.0/8\n }\n hosts {\n  1.2.3.4 a\n }\n}",
        ".\nerrors\n",
    ];
    let pieces: [&[u8]; 9] = [b"{", b"}", b"\n", b"\"", b"{$HOME}", b" import s ", b"#", b" 0.0.0.0/0 ", b"((((a*)*)*)*)"];
    let mut rng = StdRng::seed_from_u64(0xc0de);
    for _ in 0..CASES {
        let seed = seeds.choose(&mut rng).unwrap();
        fuzz_corefile(&damage(&mut rng, seed.as_bytes(), &pieces));
    }
}
