//! Numbered datagrams at a steady rate from one socket a target, and which of them were answered, by whom.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// How long after the last datagram an answer may still come.
const STRAGGLERS: Duration = Duration::from_secs(2);

/// One flow: its numbers, and when answers came.
struct Flow {
    sent: u64,
    answered: u64,
    refused: u64,
    by: BTreeMap<String, u64>,
    last_answer: Instant,
    longest_gap: Duration,
}

impl Flow {
    fn report(&self, target: SocketAddr, socket: &UdpSocket) -> Value {
        json!({
            "target": target.to_string(), "port": socket.local_addr().map(|own| own.port()).ok(), "sent": self.sent, "answered": self.answered, "refused": self.refused, "by": self.by,
            "sinceAnswerMs": u64::try_from(self.last_answer.elapsed().as_millis()).unwrap_or(u64::MAX),
            "longestGapMs": u64::try_from(self.longest_gap.max(self.last_answer.elapsed()).as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Answers are still awaited.
    fn is_open(&self) -> bool {
        self.answered < self.sent
    }

    /// What is reported from now on is counted from now on.
    fn renew(&mut self) {
        self.longest_gap = Duration::ZERO;
        self.by.clear();
    }
}

type Shared = Arc<Mutex<Flow>>;

fn lock(flow: &Shared) -> MutexGuard<'_, Flow> {
    flow.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(target: SocketAddr) -> Result<UdpSocket> {
    let any: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).context("a socket")?;
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20).context("a larger buffer")?;
    socket.connect(target).with_context(|| target.to_string())?;
    Ok(socket)
}

/// Datagrams to each target every `pause_us` microseconds.
pub(super) fn run(tag: &str, pause_us: u64, targets: &[SocketAddr]) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut flows = Vec::new();
    for target in targets {
        let socket = Arc::new(open(*target)?);
        first_answer(&socket, tag)?;
        let flow = Arc::new(Mutex::new(Flow {
            sent: 0,
            answered: 0,
            refused: 0,
            by: BTreeMap::new(),
            last_answer: Instant::now(),
            longest_gap: Duration::ZERO,
        }));
        let (ear, heard) = (socket.clone(), flow.clone());
        std::thread::spawn(move || listen(&ear, &heard));
        flows.push((*target, socket, flow));
    }
    let senders: Vec<_> = flows
        .iter()
        .map(|(target, socket, flow)| {
            let target = *target;
            let (socket, flow, stop, tag) = (socket.clone(), flow.clone(), stop.clone(), tag.to_owned());
            std::thread::spawn(move || send(&socket, target, &flow, &tag, Duration::from_micros(pause_us), &stop))
        })
        .collect();
    super::converse(|_| {
        let report = flows.iter().map(|(target, socket, flow)| lock(flow).report(*target, socket)).collect();
        flows.iter().for_each(|(_, _, flow)| lock(flow).renew());
        Ok(report)
    })?;
    stop.store(true, Ordering::Relaxed);
    for sender in senders {
        let _ = sender.join();
    }
    let end = Instant::now() + STRAGGLERS;
    while Instant::now() < end && flows.iter().any(|(_, _, flow)| lock(flow).is_open()) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let last: Value = flows.iter().map(|(target, socket, flow)| lock(flow).report(*target, socket)).collect();
    super::say(&last.to_string())
}

/// A server that has just been started may not listen yet: numbers are counted from the first answer on.
fn first_answer(socket: &UdpSocket, tag: &str) -> Result<()> {
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let end = Instant::now() + Duration::from_secs(10);
    let mut buffer = [0; 512];
    loop {
        let _ = socket.send(format!("{tag} first").as_bytes());
        match socket.recv(&mut buffer) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > end => return Err(error).context("no first answer"),
            Err(_) => {}
        }
    }
}

fn send(socket: &UdpSocket, target: SocketAddr, flow: &Shared, tag: &str, pause: Duration, stop: &AtomicBool) {
    let mut due = Instant::now();
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        // By the clock, not by pauses: a late one is made up for.
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due += pause;
        number += 1;
        lock(flow).sent = number;
        if let Err(error) = socket.send(format!("{tag} {number}").as_bytes()) {
            lock(flow).refused += 1;
            // Its peer went, and the socket with it: a client connects again.
            if error.raw_os_error() == Some(rustix::io::Errno::DESTADDRREQ.raw_os_error()) {
                let _ = socket.connect(target);
            }
        }
    }
}

fn listen(socket: &UdpSocket, flow: &Shared) {
    let _ = socket.set_read_timeout(None);
    let mut buffer = [0; 512];
    let mut newest = 0_u64;
    loop {
        let Ok(length) = socket.recv(&mut buffer) else {
            lock(flow).refused += 1;
            continue;
        };
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        let Some((name, number)) = text.split_once(' ') else { continue };
        let Ok(number) = number.parse::<u64>() else { continue };
        let mut flow = lock(flow);
        // Each number counts once: an answer twice is no answer to another.
        flow.answered += u64::from(number > newest);
        newest = newest.max(number);
        *flow.by.entry(name.to_owned()).or_default() += 1;
        flow.longest_gap = flow.longest_gap.max(flow.last_answer.elapsed());
        flow.last_answer = Instant::now();
    }
}

/// Datagrams to each target every millisecond from the first moment on, whatever comes back; for a pod that may reach nobody.
pub(super) fn flood(tag: &str, targets: &[SocketAddr]) -> Result<()> {
    let sockets: Vec<UdpSocket> = targets.iter().map(|target| open(*target)).collect::<Result<_>>()?;
    loop {
        for socket in &sockets {
            let _ = socket.send(format!("{tag} 0").as_bytes());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
