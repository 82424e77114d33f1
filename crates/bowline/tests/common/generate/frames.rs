//! Frames as they are, with Ethernet header and all: sent as they are given, and every one that comes or goes kept to be asked for; and
//! datagrams that the node itself takes.

use std::collections::BTreeMap;
use std::io::Read;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// `ETH_P_ALL`, as socket(2) takes it: in network byte order.
const ALL: i32 = i32::from_be(0x0003_0000);
/// Frames that are kept.
const KEPT_MAX: usize = 100_000;
/// Where nobody is: the discard port of an address that leads out of every pod.
const NOWHERE: &str = "192.0.2.77:9";
const NOWHERE6: &str = "[2001:db8::77]:9";

/// The numbers that a packet socket takes are behind a type without safe constructors; the kernel itself hands them out with what is
/// received: a datagram of our own, on its way to nobody, shows the link.
fn the_link() -> Result<SockAddr> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ALL))).context("a packet socket")?;
    let sent = [("0.0.0.0:0", NOWHERE), ("[::]:0", NOWHERE6)].into_iter().any(|(from, to)| {
        let sent = UdpSocket::bind(from).and_then(|socket| socket.send_to(b"where", to));
        sent.is_ok()
    });
    if !sent {
        bail!("no datagram can be sent");
    }
    let mut buffer = [MaybeUninit::uninit(); 2048];
    Ok(socket.recv_from(&mut buffer)?.1)
}

/// A line is `TIMES HEX`; its answer the number of frames that were sent.
pub(super) fn send() -> Result<()> {
    let link = the_link()?;
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    super::converse(|line| {
        let (times, hex) = line.split_once(' ').context("a number and a frame")?;
        let frame = bytes(hex)?;
        let times: u64 = times.parse()?;
        for _ in 0..times {
            socket.send_to(&frame, &link)?;
        }
        Ok(json!(times))
    })
}

/// Keeps what passes the links of this namespace. A line is `START HEX`; its answer the number of frames that begin with the first bytes (any,
/// where there is only a `-`) and have the second in them.
pub(super) fn tap() -> Result<()> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ALL))).context("a packet socket")?;
    let frames = Arc::<Mutex<Vec<Vec<u8>>>>::default();
    let kept = frames.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok(length) = (&socket).read(&mut buffer) {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < KEPT_MAX {
                kept.push(buffer.get(..length).unwrap_or_default().to_vec());
            }
        }
    });
    super::converse(|line| {
        let (start, wanted) = line.split_once(' ').context("a start and a part")?;
        let (start, wanted) = (if start == "-" { Vec::new() } else { bytes(start)? }, bytes(wanted)?);
        let frames = frames.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted.is_empty() || frames.len() == KEPT_MAX {
            bail!("nothing to look for, or more frames than are kept");
        }
        let is_one = |frame: &&Vec<u8>| frame.starts_with(&start) && frame.windows(wanted.len()).any(|part| part == wanted);
        Ok(json!(frames.iter().filter(is_one).count()))
    })
}

/// Hears datagrams on ports of this namespace's own, of both families; the answer to any line is how many came, by their first word.
pub(super) fn hear(ports: &[&str]) -> Result<()> {
    let counts = Arc::<Mutex<BTreeMap<String, u64>>>::default();
    for port in ports {
        let port = port.parse()?;
        for address in [SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))] {
            let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.bind(&address.into()).with_context(|| address.to_string())?;
            let (socket, counts) = (UdpSocket::from(socket), counts.clone());
            std::thread::spawn(move || {
                let mut buffer = [0; 2048];
                while let Ok(length) = socket.recv(&mut buffer) {
                    let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
                    let tag = text.split_whitespace().next().unwrap_or_default().to_owned();
                    *counts.lock().unwrap_or_else(PoisonError::into_inner).entry(tag).or_default() += 1;
                }
            });
        }
    }
    super::converse(|_| {
        Ok(counts.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(t, n)| (t.clone(), json!(n))).collect::<Value>())
    })
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    let digits = hex.trim().as_bytes().chunks(2);
    digits.map(|two| Ok(u8::from_str_radix(std::str::from_utf8(two)?, 16)?)).collect()
}
