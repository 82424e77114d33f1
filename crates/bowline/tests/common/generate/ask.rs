//! Asks targets of the lab's echo servers, several times each, and tells who answered whom on which port; and knocks where nobody may hear.

use std::collections::BTreeSet;
use std::io::{Error, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

/// Where datagrams come from.
const PORTS: std::ops::Range<u16> = 10_000..60_000;

/// What a question can end in.
enum Outcome {
    /// Who answered, whom it saw, and on which port (by UDP it does not say; an echo says nothing of these).
    Answer(String, IpAddr, u16),
    /// TCP reset or port unreachable.
    Refused,
    /// Nothing came back.
    Silence,
    /// There is no way there.
    NoWay,
}

/// A line is `tcp ADDRESS:PORT TIMES TIMEOUT_MS` (or `udp`, or `icmp` with whatever port) as often as wanted, with `;` between; its answer has an entry for each.
pub(super) fn run() -> Result<()> {
    super::converse(|line| {
        let askers: Vec<_> = line.split(';').map(|one| one.trim().to_owned()).map(|one| std::thread::spawn(move || ask(&one))).collect();
        askers.into_iter().map(|asker| asker.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?).collect()
    })
}

/// A line is an address and port; its answer is whether a connection there was made within a second.
pub(super) fn knock() -> Result<()> {
    super::converse(|line| Ok(json!(TcpStream::connect_timeout(&line.parse()?, Duration::from_secs(1)).is_ok())))
}

/// Takes connections at an address; the answer to any line is how many there were.
pub(super) fn listen(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let mut count = 0;
    super::converse(|_| {
        while listener.accept().is_ok() {
            count += 1;
        }
        Ok(json!(count))
    })
}

fn ask(question: &str) -> Result<Value> {
    let words: Vec<&str> = question.split_whitespace().collect();
    let [protocol, target, times, timeout] = words.as_slice() else { bail!("not understood: {question}") };
    let (target, timeout): (SocketAddr, Duration) = (target.parse()?, Duration::from_millis(timeout.parse()?));
    let (mut answers, mut refused, mut silent, mut no_way) = (BTreeSet::new(), 0, 0, 0);
    for _ in 0..times.parse::<usize>()? {
        let outcome = match *protocol {
            "tcp" => by_tcp(target, timeout),
            "udp" => by_udp(target, timeout),
            "icmp" => by_icmp(target.ip(), timeout),
            other => bail!("no such protocol: {other}"),
        };
        match outcome.with_context(|| question.to_owned())? {
            Outcome::Answer(who, client, port) => {
                answers.insert((who, client.to_string(), port));
            }
            Outcome::Refused => refused += 1,
            Outcome::Silence => silent += 1,
            Outcome::NoWay => no_way += 1,
        }
    }
    Ok(json!({"answers": answers, "refused": refused, "silent": silent, "noWay": no_way}))
}

fn ended(error: std::io::Error) -> Result<Outcome> {
    let is = |kinds: &[ErrorKind]| kinds.contains(&error.kind());
    if is(&[ErrorKind::ConnectionRefused]) {
        Ok(Outcome::Refused)
    } else if is(&[ErrorKind::TimedOut, ErrorKind::WouldBlock]) {
        Ok(Outcome::Silence)
    } else if is(&[ErrorKind::HostUnreachable, ErrorKind::NetworkUnreachable]) {
        Ok(Outcome::NoWay)
    } else {
        Err(error.into())
    }
}

fn by_tcp(target: SocketAddr, timeout: Duration) -> Result<Outcome> {
    let talk = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&target, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page)
    };
    let page = match talk() {
        Ok(page) => page,
        Err(error) => return ended(error),
    };
    let field = |name: &str| page.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no `{name}` in {page:?}"));
    let (client, server): (SocketAddr, SocketAddr) = (field("client: ")?.parse()?, field("server: ")?.parse()?);
    Ok(Outcome::Answer(field("pod: ")?.to_owned(), client.ip().to_canonical(), server.port()))
}

/// A socket with a port that no question came from before: to connection tracking one that did would be the same flow, long judged.
fn fresh(target: SocketAddr) -> Result<UdpSocket> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..PORTS.len() {
        let port = PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
        let own: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], port).into() } else { ([0_u16; 8], port).into() };
        match UdpSocket::bind(own) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            bound => return Ok(bound?),
        }
    }
    bail!("all of {PORTS:?} are in use")
}

fn by_udp(target: SocketAddr, timeout: Duration) -> Result<Outcome> {
    let socket = fresh(target)?;
    socket.set_read_timeout(Some(timeout))?;
    let mut buffer = [0; 512];
    let talk = socket.connect(target).and_then(|()| socket.send(b"who")).and_then(|_| socket.recv(&mut buffer));
    let length = match talk {
        Ok(length) => length,
        Err(error) => return ended(error),
    };
    let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
    let words: Vec<&str> = text.split_whitespace().collect();
    let ["pod", who, "client", client, ..] = words.as_slice() else { bail!("not an answer: {text:?}") };
    Ok(Outcome::Answer((*who).to_owned(), client.parse::<SocketAddr>()?.ip().to_canonical(), 0))
}

/// An echo (RFC 792, RFC 4443), under an identifier that none before it had.
fn by_icmp(target: IpAddr, timeout: Duration) -> Result<Outcome> {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let (domain, protocol, request, reply) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8_u8, 0_u8),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    // The kernel puts in the sum of ICMPv6, which is over addresses as well.
    let sum = u32::from(request) * 256 + u32::from(id);
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16))?;
    let message = [&[request, 0][..], &sum.to_be_bytes(), &id.to_be_bytes(), &[0; 2]].concat();
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).context("a socket for echoes")?;
    let until = Instant::now() + timeout;
    let talk = || -> std::io::Result<()> {
        socket.connect(&SocketAddr::new(target, 0).into())?;
        socket.send(&message)?;
        let mut buffer = [0; 512];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::from(ErrorKind::TimedOut));
            }
            socket.set_read_timeout(Some(left))?;
            let length = (&socket).read(&mut buffer)?;
            // Of IPv4 the header comes along, its length in words of four bytes.
            let header = buffer.first().filter(|_| target.is_ipv4()).map_or(0, |first| usize::from(first & 15) * 4);
            let heard = buffer.get(header..length).unwrap_or_default();
            if heard.first() == Some(&reply) && heard.get(4..6) == Some(&id.to_be_bytes()[..]) {
                return Ok(());
            }
        }
    };
    match talk() {
        Ok(()) => Ok(Outcome::Answer(String::new(), target, 0)),
        Err(error) => ended(error),
    }
}
