//! DNS load: a closed loop of questions from one socket on one thread, and an upstream that has an answer to everything.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Questions that are under way at once.
const WINDOW: u16 = 64;
/// After so long without an answer, what is under way counts as lost.
const PATIENCE: Duration = Duration::from_millis(200);
/// Type A, class IN.
const A_IN: [u8; 4] = [0, 1, 0, 1];

/// A question for the A records of a name.
pub(crate) fn question(name: &str) -> Vec<u8> {
    // Identity 0 (set when sent), recursion desired, one question.
    let mut message = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(u8::try_from(label.len()).unwrap_or(63));
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(A_IN);
    message
}

/// Whether a reply carries an answer: no error, and at least one record.
fn is_answer(reply: &[u8]) -> bool {
    matches!(reply, [_, _, _, flags, _, _, high, low, ..] if flags & 15 == 0 && (*high, *low) != (0, 0))
}

/// What came of a slice.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Came {
    /// Replies with an answer.
    pub(crate) answered: u32,
    /// Replies without.
    pub(crate) refused: u32,
    /// Questions without reply.
    pub(crate) lost: u32,
    /// Seconds that it took.
    pub(crate) seconds: f64,
}

/// Asks `questions` round and round for a slice of time.
pub(crate) fn slice(server: SocketAddr, questions: &[Vec<u8>], length: Duration) -> Result<Came> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut all = questions.iter().cycle();
    let mut identity = 0_u16;
    let mut send = || -> Result<()> {
        let mut message = all.next().context("no questions")?.clone();
        identity = identity.wrapping_add(1);
        for (byte, of) in message.iter_mut().zip(identity.to_be_bytes()) {
            *byte = of;
        }
        socket.send(&message).map(|_| ()).with_context(|| format!("sending to {server}"))
    };
    let (mut came, mut under_way, mut buffer) = (Came::default(), 0_u16, [0_u8; 1500]);
    let begun = Instant::now();
    while begun.elapsed() < length {
        while under_way < WINDOW {
            send()?;
            under_way += 1;
        }
        match socket.recv(&mut buffer) {
            Ok(size) => {
                let good = buffer.get(..size).is_some_and(is_answer);
                if good {
                    came.answered += 1
                } else {
                    came.refused += 1
                }
                under_way = under_way.saturating_sub(1);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                came.lost += u32::from(under_way);
                under_way = 0;
            }
            Err(error) => return Err(error).with_context(|| format!("hearing from {server}")),
        }
    }
    came.seconds = begun.elapsed().as_secs_f64();
    Ok(came)
}

/// Waits until the question is answered.
pub(crate) fn wait_for(server: SocketAddr, asked: &[u8], limit: Duration) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let (begun, mut buffer) = (Instant::now(), [0_u8; 1500]);
    loop {
        // Before the server listens, the kernel refuses.
        let heard = socket.send(asked).and_then(|_| socket.recv(&mut buffer));
        if let Ok(size) = heard
            && buffer.get(..size).is_some_and(is_answer)
        {
            return Ok(());
        }
        ensure!(begun.elapsed() < limit, "{server} gives no answer within {limit:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// An upstream on loopback that answers every question with 192.0.2.1 for five minutes; it goes with the process.
pub(crate) fn upstream() -> Result<SocketAddr> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let at = socket.local_addr()?;
    std::thread::spawn(move || {
        let mut buffer = [0_u8; 1500];
        while let Ok((size, from)) = socket.recv_from(&mut buffer) {
            if let Some(reply) = buffer.get(..size).and_then(answer) {
                let _ = socket.send_to(&reply, from);
            }
        }
    });
    Ok(at)
}

fn answer(message: &[u8]) -> Option<Vec<u8>> {
    let mut at = 12;
    loop {
        match message.get(at)? {
            0 => break,
            length => at += 1 + usize::from(*length),
        }
    }
    let mut reply = message.get(..at + 5)?.to_vec();
    // Response, recursion available; one question, one answer, nothing more.
    reply.splice(2..12, [0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    // The name of the question, its type and class, 300 seconds, four bytes.
    reply.extend([0xc0, 12]);
    reply.extend(A_IN);
    reply.extend([0, 0, 1, 44, 0, 4, 192, 0, 2, 1]);
    Some(reply)
}
