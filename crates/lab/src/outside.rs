//! The host outside the cluster: an echo server and a small DNS server with a few records.
//!
//! `outside.test` has the client's addresses; `www.outside.test` is an alias of `alias.outside.test`, which is one of
//! `outside.test`. Invariant: answers leave from the address that was asked. Reference: RFC 1035.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use domain::base::iana::{Class, Rcode};
use domain::base::message_builder::AnswerBuilder;
use domain::base::{Message, MessageBuilder, Name, Rtype};
use domain::rdata::{A, Aaaa, Cname};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::echo::{self, Identity, Port};

/// The hidden command's name.
pub(crate) const COMMAND: &str = "lab-outside";

/// Seconds for which an answer may be kept.
const TTL: u32 = 30;

/// The hidden command: `lab-outside ADDRESS,ADDRESS`, readiness on standard input.
pub(crate) fn run(addresses: &str) -> Result<()> {
    let addresses: Vec<IpAddr> =
        addresses.split(',').map(|text| text.parse().with_context(|| format!("address {text:?}"))).collect::<Result<_>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let known: Arc<[IpAddr]> = addresses.clone().into();
        for socket in echo::bind(53, &addresses).context("listen on udp/53")? {
            tokio::spawn(serve_udp(socket, Arc::clone(&known)));
        }
        let listener = echo::listen(53).context("listen on tcp/53")?;
        tokio::spawn(async move {
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve_tcp(stream, Arc::clone(&known)));
                }
            }
        });
        let identity = Identity { name: "client".into(), ..Identity::default() };
        echo::serve(identity, &[Port::Tcp(80), Port::Udp(7)], &addresses, || crate::enter::notify(crate::enter::LISTENING)).await
    })
}

async fn serve_udp(socket: UdpSocket, known: Arc<[IpAddr]>) {
    let mut buffer = vec![0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        if let Some(reply) = answer(buffer.get(..length).unwrap_or_default(), &known) {
            let _ = socket.send_to(&reply, from).await;
        }
    }
}

async fn serve_tcp(mut stream: TcpStream, known: Arc<[IpAddr]>) -> Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut query = vec![0; usize::from(length)];
        stream.read_exact(&mut query).await?;
        let Some(reply) = answer(&query, &known) else { return Ok(()) };
        stream.write_u16(u16::try_from(reply.len())?).await?;
        stream.write_all(&reply).await?;
    }
}

/// The answer to a query; none to what is not one.
fn answer(query: &[u8], known: &[IpAddr]) -> Option<Vec<u8>> {
    let query = Message::from_octets(query).ok()?;
    if query.header().qr() {
        return None;
    }
    let Ok(question) = query.sole_question() else {
        return Some(MessageBuilder::new_vec().start_answer(&query, Rcode::FORMERR).ok()?.finish());
    };
    let asked = question.qname().to_string().to_ascii_lowercase();
    let chain: &[&str] = match asked.trim_end_matches('.') {
        "outside.test" => &["outside.test"],
        "alias.outside.test" => &["alias.outside.test", "outside.test"],
        "www.outside.test" => &["www.outside.test", "alias.outside.test", "outside.test"],
        _ => return Some(MessageBuilder::new_vec().start_answer(&query, Rcode::NXDOMAIN).ok()?.finish()),
    };
    let mut builder = MessageBuilder::new_vec().start_answer(&query, Rcode::NOERROR).ok()?;
    builder.header_mut().set_aa(true);
    builder.header_mut().set_ra(true);
    fill(&mut builder, question.qtype(), chain, known)?;
    Some(builder.finish())
}

fn fill(builder: &mut AnswerBuilder<Vec<u8>>, kind: Rtype, chain: &[&str], known: &[IpAddr]) -> Option<()> {
    let name = |text: &str| text.parse::<Name<Vec<u8>>>().ok();
    for (alias, target) in chain.iter().zip(chain.iter().skip(1)) {
        builder.push((name(alias)?, Class::IN, TTL, Cname::new(name(target)?))).ok()?;
        if kind == Rtype::CNAME {
            return Some(());
        }
    }
    let owner = name(chain.last()?)?;
    for address in known {
        match address {
            IpAddr::V4(v4) if kind == Rtype::A => {
                builder.push((&owner, Class::IN, TTL, A::new(*v4))).ok()?;
            }
            IpAddr::V6(v6) if kind == Rtype::AAAA => {
                builder.push((&owner, Class::IN, TTL, Aaaa::new(*v6))).ok()?;
            }
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;

    fn ask(name: &str, kind: Rtype) -> Message<Vec<u8>> {
        let mut query = MessageBuilder::new_vec().question();
        query.push((name.parse::<Name<Vec<u8>>>().unwrap(), kind)).unwrap();
        let known = ["203.0.113.10".parse().unwrap(), "2001:db8:113::10".parse().unwrap()];
        Message::from_octets(answer(&query.finish(), &known).unwrap()).unwrap()
    }

    #[test]
    fn a_chain_of_aliases_ends_in_addresses() {
        let reply = ask("WWW.outside.test.", Rtype::A);
        let kinds: Vec<Rtype> = reply.answer().unwrap().map(|record| record.unwrap().rtype()).collect();
        assert_eq!(kinds, [Rtype::CNAME, Rtype::CNAME, Rtype::A]);
        assert_eq!(ask("outside.test.", Rtype::AAAA).header_counts().ancount(), 1);
    }

    #[test]
    fn unknown_names_and_rubbish() {
        assert_eq!(ask("nowhere.test.", Rtype::A).header().rcode(), Rcode::NXDOMAIN);
        assert_eq!(ask("outside.test.", Rtype::TXT).header_counts().ancount(), 0);
        assert!(answer(b"x", &[]).is_none());
    }
}
