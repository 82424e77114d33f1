//! Probes of what must be closed: each millisecond a datagram and a SYN to each target; whatever shows that one arrived is counted.
//!
//! An answer, an accepted connection, and also a refusal by the target itself (RST, port unreachable) show that a packet got through.

use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

/// Time between two probes of a target.
const EVERY: Duration = Duration::from_millis(1);

/// How long a SYN may be answered: as many are under way at once as fit in between.
const ANSWER_WITHIN: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Seen {
    tried: AtomicU64,
    through: AtomicU64,
    first: Mutex<Option<String>>,
    stop: AtomicBool,
}

impl Seen {
    fn through(&self, target: SocketAddr, how: &str) {
        self.through.fetch_add(1, Ordering::Relaxed);
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| format!("{target}: {how}"));
    }

    fn report(&self) -> Value {
        json!({
            "tried": self.tried.load(Ordering::Relaxed), "through": self.through.load(Ordering::Relaxed),
            "first": *self.first.lock().unwrap_or_else(PoisonError::into_inner),
        })
    }
}

/// Lines `+ADDRESS:PORT` and `-ADDRESS:PORT` add and take away targets; each is answered with what was seen of that target; `?` with all.
pub(super) fn run(targets: &[SocketAddr]) -> Result<()> {
    let mut all: BTreeMap<SocketAddr, Arc<Seen>> = BTreeMap::new();
    for target in targets {
        all.insert(*target, start(*target)?);
    }
    let total = |all: &BTreeMap<SocketAddr, Arc<Seen>>| -> Value { all.iter().map(|(t, s)| (t.to_string(), s.report())).collect() };
    super::converse(|line| {
        let (sign, rest) = line.split_at_checked(1).context("an empty line")?;
        match sign {
            "+" => {
                let target = rest.parse()?;
                let seen = all.entry(target).or_insert(start(target)?);
                Ok(seen.report())
            }
            "-" => {
                let seen = all.remove(&rest.parse()?).context("no such target")?;
                seen.stop.store(true, Ordering::Relaxed);
                Ok(seen.report())
            }
            "?" => Ok(total(&all)),
            _ => bail!("not understood: {line}"),
        }
    })?;
    super::say(&total(&all).to_string())
}

fn start(target: SocketAddr) -> Result<Arc<Seen>> {
    let seen = Arc::new(Seen::default());
    let any: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let datagrams = UdpSocket::bind(any)?;
    datagrams.connect(target)?;
    datagrams.set_nonblocking(true)?;
    let shared = seen.clone();
    std::thread::spawn(move || {
        let mut under_way = VecDeque::new();
        let mut due = Instant::now();
        while !shared.stop.load(Ordering::Relaxed) {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            due = (due + EVERY).max(Instant::now());
            datagram(&datagrams, target, &shared);
            syn(&mut under_way, target, &shared);
            shared.tried.fetch_add(1, Ordering::Relaxed);
        }
    });
    Ok(seen)
}

fn datagram(socket: &UdpSocket, target: SocketAddr, seen: &Seen) {
    let mut buffer = [0; 512];
    for outcome in [socket.recv(&mut buffer).map(|_| ()), socket.send(b"probe 0").map(|_| ())] {
        if outcome.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
            seen.through(target, "port unreachable");
        }
    }
    // An answer waits in the socket; what was sent is none.
    while socket.recv(&mut buffer).is_ok() {
        seen.through(target, "a datagram answered");
    }
}

fn syn(under_way: &mut VecDeque<(Instant, Socket)>, target: SocketAddr, seen: &Seen) {
    if let Ok(socket) = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP)) {
        let begun = socket.set_nonblocking(true).and_then(|()| socket.connect(&target.into()));
        match begun.map_err(|error| error.raw_os_error()) {
            Ok(()) => seen.through(target, "a connection"),
            Err(Some(code)) if code == rustix::io::Errno::INPROGRESS.raw_os_error() => under_way.push_back((Instant::now(), socket)),
            Err(code) if code == Some(rustix::io::Errno::CONNREFUSED.raw_os_error()) => seen.through(target, "RST"),
            Err(_) => {}
        }
    }
    while under_way.front().is_some_and(|(when, _)| when.elapsed() > ANSWER_WITHIN) {
        let Some((_, socket)) = under_way.pop_front() else { return };
        if socket.peer_addr().is_ok() {
            seen.through(target, "a connection");
        } else if socket.take_error().ok().flatten().is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
            seen.through(target, "RST");
        }
    }
}
