//! DNS messages: bytes to a question, a reply to bytes.
//!
//! Invariant: decoding never panics and never follows a pointer forwards; encoding never exceeds its limit, and what does
//! not fit sets TC. Reference: RFC 1035, RFC 2181 section 9, RFC 6891, RFC 9619 (one question).

use bytes::Bytes;
use domain::base::iana::{Class, Opcode, OptRcode, Rcode, Rtype};
use domain::base::message_builder::{AdditionalBuilder, MessageBuilder, StaticCompressor};
use domain::base::name::FlattenInto;
use domain::base::rdata::ComposeRecordData;
use domain::base::record::ParsedRecord;
use domain::base::{Message, Ttl};
use domain::rdata::AllRecordData;

use crate::name::{self, Name};

/// Data of a record.
pub type Data = AllRecordData<Bytes, Name>;
/// A record.
pub type Record = domain::base::Record<Name, Data>;

/// Smallest payload that every client takes over UDP (RFC 1035).
pub const MIN_UDP_BYTES: u16 = 512;
/// Largest payload that is sent over UDP, whatever the client says it takes.
pub const MAX_UDP_BYTES: u16 = 4096;
/// Records that a forwarded reply may have.
const MAX_RECORDS: usize = 4096;
/// Length of a forwarded reply's records with their names written out: compression must not make a small message large.
const MAX_EXPANDED_BYTES: usize = 256 * 1024;

/// What EDNS adds to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// Payload that the client takes over UDP.
    pub udp_bytes: u16,
    /// The version; only 0 exists.
    pub version: u8,
    /// DNSSEC records wanted.
    pub dnssec_ok: bool,
}

/// A question with what its header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The client's id.
    pub id: u16,
    /// Operation.
    pub opcode: Opcode,
    /// The name, its case as asked.
    pub name: Name,
    /// The type.
    pub rtype: Rtype,
    /// The class.
    pub class: Class,
    /// Recursion desired.
    pub rd: bool,
    /// Authentic data understood.
    pub ad: bool,
    /// Checking disabled.
    pub cd: bool,
    /// EDNS, if the client speaks it.
    pub edns: Option<Edns>,
    /// Length of the message.
    pub bytes: usize,
}

impl Query {
    /// A question of the server itself.
    pub fn new(name: Name, rtype: Rtype) -> Query {
        Query { id: 0, opcode: Opcode::QUERY, name, rtype, class: Class::IN, rd: true, ad: false, cd: false, edns: None, bytes: 0 }
    }

    /// The payload that the client takes over UDP.
    pub fn udp_bytes(&self) -> u16 {
        self.edns.map_or(MIN_UDP_BYTES, |edns| edns.udp_bytes.clamp(MIN_UDP_BYTES, MAX_UDP_BYTES))
    }

    /// Whether DNSSEC records are wanted.
    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }
}

/// Why a message is no question that can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejected {
    /// Nothing may be sent back: no header, or a response.
    Silently,
    /// The header alone is answered.
    With {
        /// The client's id.
        id: u16,
        /// Operation.
        opcode: Opcode,
        /// Recursion desired.
        rd: bool,
        /// Why.
        rcode: Rcode,
    },
}

/// Reads a question.
///
/// # Errors
/// A message that is not one question; what to send back is said.
pub fn decode_query(octets: &[u8]) -> Result<Query, Rejected> {
    let message = Message::from_slice(octets).map_err(|_| Rejected::Silently)?;
    let header = message.header();
    if header.qr() {
        return Err(Rejected::Silently);
    }
    let reject = |rcode| Rejected::With { id: header.id(), opcode: header.opcode(), rd: header.rd(), rcode };
    if header.opcode() != Opcode::QUERY {
        return Err(reject(Rcode::NOTIMP));
    }
    let question = message.sole_question().map_err(|_| reject(Rcode::FORMERR))?;
    // All sections are walked once, so that a message with garbage at its end is refused here and not half used later.
    let mut edns = None;
    for record in message.iter() {
        let (record, section) = record.map_err(|_| reject(Rcode::FORMERR))?;
        if record.rtype() == Rtype::OPT {
            if section != domain::base::message::Section::Additional || edns.is_some() {
                return Err(reject(Rcode::FORMERR));
            }
            // RFC 6891 section 6.1.3: class is the payload size, TTL holds extended rcode, version and flags.
            let [_, version, flags, _] = record.ttl().as_secs().to_be_bytes();
            edns = Some(Edns { udp_bytes: record.class().to_int(), version, dnssec_ok: flags & 0x80 != 0 });
        }
    }
    Ok(Query {
        id: header.id(),
        opcode: header.opcode(),
        name: name::own(question.qname()),
        rtype: question.qtype(),
        class: question.qclass(),
        rd: header.rd(),
        ad: header.ad(),
        cd: header.cd(),
        edns,
        bytes: octets.len(),
    })
}

/// What is answered to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Result.
    pub rcode: OptRcode,
    /// Authoritative.
    pub aa: bool,
    /// Recursion available.
    pub ra: bool,
    /// Validated by the one who answered.
    pub ad: bool,
    /// Cut short by the one who answered.
    pub tc: bool,
    /// Answer section.
    pub answer: Vec<Record>,
    /// Authority section.
    pub authority: Vec<Record>,
    /// Additional section, without OPT.
    pub additional: Vec<Record>,
}

impl Reply {
    /// A reply without records.
    pub fn empty(rcode: Rcode) -> Reply {
        Reply {
            rcode: rcode.into(),
            aa: false,
            ra: false,
            ad: false,
            tc: false,
            answer: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
        }
    }

    /// All its records.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.answer.iter().chain(&self.authority).chain(&self.additional)
    }

    /// All its records, to be changed.
    pub fn records_mut(&mut self) -> impl Iterator<Item = &mut Record> {
        self.answer.iter_mut().chain(&mut self.authority).chain(&mut self.additional)
    }

    /// Whether it says that the name does not exist.
    pub fn is_name_error(&self) -> bool {
        self.rcode == OptRcode::NXDOMAIN
    }
}

/// A record of class IN.
pub fn record(owner: Name, ttl_secs: u32, data: impl Into<Data>) -> Record {
    Record::new(owner, Class::IN, Ttl::from_secs(ttl_secs), data.into())
}

type Compressed = StaticCompressor<Vec<u8>>;

/// Writes the reply to `query` into `out` (what it held is lost), in at most `limit` bytes; says whether TC is set.
pub fn encode_reply(query: &Query, reply: &Reply, limit: usize, out: &mut Vec<u8>) -> bool {
    let target = StaticCompressor::new(std::mem::take(out));
    let Ok(mut builder) = MessageBuilder::from_target(target);
    // The OPT record is written last but must always fit: 11 bytes.
    let reserved = if query.edns.is_some() { 11 } else { 0 };
    builder.set_push_limit(limit.saturating_sub(reserved).saturating_add(1));
    {
        let header = builder.header_mut();
        header.set_id(query.id);
        header.set_qr(true);
        header.set_opcode(query.opcode);
        header.set_rd(query.rd);
        header.set_cd(query.cd);
        header.set_aa(reply.aa);
        header.set_ra(reply.ra);
        header.set_ad(reply.ad);
        header.set_rcode(reply.rcode.rcode());
    }
    let mut questions = builder.question();
    let mut cut = questions.push((&query.name, query.rtype, query.class)).is_err() || reply.tc;
    let mut answers = questions.answer();
    cut |= !reply.answer.iter().all(|record| answers.push_ref(record).is_ok());
    let mut authority = answers.authority();
    // Records after a gap would be taken for the whole.
    cut |= !cut && !reply.authority.iter().all(|record| authority.push(record).is_ok());
    let mut additional = authority.additional();
    if !cut {
        // RFC 2181 section 9: additional data that does not fit is left out and does not set TC.
        let _ = reply.additional.iter().all(|record| additional.push(record).is_ok());
    }
    additional.header_mut().set_tc(cut);
    if let Some(edns) = query.edns {
        push_opt(&mut additional, edns, reply.rcode, limit);
    }
    *out = additional.finish().into_target();
    cut
}

fn push_opt(additional: &mut AdditionalBuilder<Compressed>, edns: Edns, rcode: OptRcode, limit: usize) {
    additional.as_builder_mut().set_push_limit(limit.saturating_add(1));
    let _ = additional.opt(|opt| {
        opt.set_udp_payload_size(edns.udp_bytes.clamp(MIN_UDP_BYTES, MAX_UDP_BYTES));
        opt.set_dnssec_ok(edns.dnssec_ok);
        opt.set_rcode(rcode);
        Ok(())
    });
}

/// Writes what is sent back to a message that is no question; false where nothing may be sent.
pub fn encode_rejection(rejected: &Rejected, out: &mut Vec<u8>) -> bool {
    let Rejected::With { id, opcode, rd, rcode } = rejected else { return false };
    let Ok(mut builder) = MessageBuilder::from_target(std::mem::take(out));
    let header = builder.header_mut();
    header.set_id(*id);
    header.set_qr(true);
    header.set_opcode(*opcode);
    header.set_rd(*rd);
    header.set_rcode(*rcode);
    *out = builder.finish();
    true
}

/// Writes a question to an upstream, under an id of its own.
pub fn encode_query(query: &Query, id: u16) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    let header = builder.header_mut();
    header.set_id(id);
    header.set_opcode(query.opcode);
    header.set_rd(query.rd);
    header.set_ad(query.ad);
    header.set_cd(query.cd);
    let mut questions = builder.question();
    let _ = questions.push((&query.name, query.rtype, query.class));
    let mut additional = questions.additional();
    if let Some(edns) = query.edns {
        let _ = additional.opt(|opt| {
            opt.set_udp_payload_size(edns.udp_bytes.clamp(MIN_UDP_BYTES, MAX_UDP_BYTES));
            opt.set_dnssec_ok(edns.dnssec_ok);
            Ok(())
        });
    }
    additional.finish()
}

/// Why an upstream's bytes are no reply to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotReply {
    /// Another id or question, or no response at all: perhaps forged, the true one may still come.
    #[error("a message that does not belong to the question")]
    Foreign,
    /// The right id and question, but its records cannot be read.
    #[error("a malformed reply")]
    Malformed,
}

/// Reads an upstream's reply to `query`, sent under `id`.
///
/// # Errors
/// See [`NotReply`].
pub fn decode_reply(octets: Bytes, query: &Query, id: u16) -> Result<Reply, NotReply> {
    let message = Message::from_octets(octets).map_err(|_| NotReply::Foreign)?;
    let header = message.header();
    if !header.qr() || header.id() != id || header.opcode() != query.opcode {
        return Err(NotReply::Foreign);
    }
    match message.sole_question() {
        Ok(question)
            if question.qtype() == query.rtype
                && question.qclass() == query.class
                && domain::base::ToName::name_eq(question.qname(), &query.name) => {}
        Ok(_) => return Err(NotReply::Foreign),
        // Servers that refuse without repeating the question exist; their code is all that is taken.
        Err(_) if message.header_counts().qdcount() == 0 && header.rcode() != Rcode::NOERROR => {
            return Ok(Reply::empty(header.rcode()));
        }
        Err(_) => return Err(NotReply::Foreign),
    }
    let mut reply = Reply::empty(header.rcode());
    (reply.aa, reply.ra, reply.ad, reply.tc) = (header.aa(), header.ra(), header.ad(), header.tc());
    let mut expanded = 0_usize;
    for (seen, item) in message.iter().enumerate() {
        // A reply that was cut short in the middle of a record still says that it was.
        let Ok((parsed, section)) = item else {
            return if reply.tc { Ok(reply) } else { Err(NotReply::Malformed) };
        };
        if seen >= MAX_RECORDS {
            return Err(NotReply::Malformed);
        }
        if parsed.rtype() == Rtype::OPT {
            if let Some(opt) = message.opt() {
                reply.rcode = opt.rcode(header);
            }
            continue;
        }
        let owned = own_record(&parsed)?;
        expanded += owned.owner().len() + owned.data().rdlen(false).map_or(512, usize::from);
        if expanded > MAX_EXPANDED_BYTES {
            return Err(NotReply::Malformed);
        }
        match section {
            domain::base::message::Section::Answer => reply.answer.push(owned),
            domain::base::message::Section::Authority => reply.authority.push(owned),
            domain::base::message::Section::Additional => reply.additional.push(owned),
        }
    }
    Ok(reply)
}

fn own_record(parsed: &ParsedRecord<'_, Bytes>) -> Result<Record, NotReply> {
    let record = parsed.to_any_record::<AllRecordData<Bytes, domain::base::ParsedName<Bytes>>>();
    let record = record.map_err(|_| NotReply::Malformed)?;
    let owner = name::own(record.owner());
    let (class, ttl) = (record.class(), record.ttl());
    let data: Data = record.into_data().try_flatten_into().map_err(|_| NotReply::Malformed)?;
    Ok(Record::new(owner, class, cap_ttl(ttl), data))
}

/// RFC 2181 section 8: a TTL with its highest bit set counts as zero; more than a week is never believed.
fn cap_ttl(ttl: Ttl) -> Ttl {
    let secs = ttl.as_secs();
    Ttl::from_secs(if secs > i32::MAX.unsigned_abs() { 0 } else { secs.min(604_800) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use domain::rdata::A;

    use super::*;

    fn query(udp_bytes: Option<u16>) -> Query {
        let mut query = Query::new(name::parse("WWW.Example.org").unwrap(), Rtype::A);
        query.edns = udp_bytes.map(|udp_bytes| Edns { udp_bytes, version: 0, dnssec_ok: true });
        query
    }

    fn reply(records: u8) -> Reply {
        let mut reply = Reply::empty(Rcode::NOERROR);
        reply.answer = (0..records).map(|i| record(name::parse("www.example.org").unwrap(), 5, A::new([10, 0, 0, i].into()))).collect();
        reply
    }

    #[test]
    fn a_question_survives_the_wire() {
        for edns in [None, Some(1232)] {
            let asked = query(edns);
            let octets = encode_query(&asked, 77);
            let read = decode_query(&octets).unwrap();
            assert_eq!(read, Query { id: 77, bytes: octets.len(), ..asked });
            assert_eq!(read.name.to_string(), "WWW.Example.org");
        }
    }

    #[test]
    fn a_reply_survives_the_wire_with_the_case_of_the_question() {
        let asked = query(Some(1232));
        let mut octets = Vec::new();
        assert!(!encode_reply(&asked, &reply(3), 1232, &mut octets));
        let read = decode_reply(octets.into(), &asked, 0).unwrap();
        assert_eq!(read.answer.len(), 3);
        assert_eq!(read.answer[0].owner().to_string(), "WWW.Example.org");
    }

    #[test]
    fn what_does_not_fit_sets_tc() {
        for edns in [None, Some(600)] {
            let asked = query(edns);
            let limit = usize::from(asked.udp_bytes());
            let mut octets = Vec::new();
            assert!(encode_reply(&asked, &reply(200), limit, &mut octets));
            assert!(octets.len() <= limit && octets.len() > limit - 32, "{}", octets.len());
            let read = decode_reply(Bytes::from(octets), &asked, 0).unwrap();
            assert!(read.tc && !read.answer.is_empty() && read.answer.len() < 200);
        }
    }

    #[test]
    fn foreign_and_malformed_replies_are_told_apart() {
        let asked = query(None);
        let mut octets = Vec::new();
        encode_reply(&asked, &reply(1), 512, &mut octets);
        assert_eq!(decode_reply(octets.clone().into(), &asked, 1), Err(NotReply::Foreign));
        let other = Query::new(name::parse("www.example.com").unwrap(), Rtype::A);
        assert_eq!(decode_reply(octets.clone().into(), &other, 0), Err(NotReply::Foreign));
        octets.truncate(octets.len() - 1);
        assert_eq!(decode_reply(octets.into(), &asked, 0), Err(NotReply::Malformed));
    }

    #[test]
    fn responses_and_stumps_are_never_answered() {
        let asked = query(None);
        let mut octets = Vec::new();
        encode_reply(&asked, &reply(1), 512, &mut octets);
        assert_eq!(decode_query(&octets), Err(Rejected::Silently));
        assert_eq!(decode_query(&octets[..11]), Err(Rejected::Silently));
        let mut status = encode_query(&asked, 3);
        status[2] |= 0x10;
        assert!(matches!(decode_query(&status), Err(Rejected::With { id: 3, rcode: Rcode::NOTIMP, .. })));
        let mut two = encode_query(&asked, 3);
        two[5] = 2;
        assert!(matches!(decode_query(&two), Err(Rejected::With { rcode: Rcode::FORMERR, .. })));
    }
}
