//! Entry points for fuzzers: whatever the bytes, these return.

use bytes::Bytes;
use domain::base::iana::Rtype;

use crate::answer::{Answer, Facts, KubernetesOptions, PodMode, answer};
use crate::config::{Config, Surroundings};
use crate::corefile::{NoSources, parse};
use crate::index::DnsIndex;
use crate::metrics::Metrics;
use crate::name;
use crate::wire::{Query, decode_query, decode_reply, encode_rejection, encode_reply};

/// A message from a client, and the same bytes as an upstream's reply.
pub fn fuzz_message(octets: &[u8]) {
    let mut out = Vec::new();
    match decode_query(octets) {
        Ok(query) => {
            let zones = ["cluster.local", "in-addr.arpa", "ip6.arpa", "."].into_iter().filter_map(name::parse).collect();
            let options = KubernetesOptions { pods: PodMode::Insecure, ..KubernetesOptions::new(zones) };
            let index = DnsIndex::default();
            let facts = Facts { index: Some(&index), serial: 1, local: None };
            if let Answer::Reply(reply) | Answer::NoName(reply) | Answer::Alias(reply, _) = answer(&options, facts, &query) {
                let limit = usize::from(query.udp_bytes());
                encode_reply(&query, &reply, limit, &mut out);
                assert!(out.len() <= limit, "a reply of {} bytes where {limit} are allowed", out.len());
            }
        }
        Err(rejected) => {
            encode_rejection(&rejected, &mut out);
        }
    }
    let id = octets.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
    // The question that the message itself asks, so that its records are looked at.
    let question = domain::base::Message::from_slice(octets).ok().and_then(|message| {
        let question = message.sole_question().ok()?;
        Some(Query {
            opcode: message.header().opcode(),
            class: question.qclass(),
            ..Query::new(name::own(question.qname()), question.qtype())
        })
    });
    let query = question.unwrap_or_else(|| Query::new(name::Name::root_bytes(), Rtype::A));
    if let Ok(reply) = decode_reply(Bytes::copy_from_slice(octets), &query, id) {
        encode_reply(&query, &reply, 512, &mut out);
        assert!(out.len() <= 512, "a reply of {} bytes where 512 are allowed", out.len());
    }
}

/// A Corefile.
pub fn fuzz_corefile(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    let Ok(file) = parse("fuzz", text, &NoSources) else { return };
    let metrics = Metrics::default();
    let around = Surroundings {
        default_port: 53,
        metrics: &metrics,
        read_file: &|_| Err(std::io::ErrorKind::NotFound.into()),
        interface: &|_| Vec::new(),
    };
    let _ = Config::read(&file, around);
}
