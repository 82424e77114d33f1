//! A server on one port, TCP and UDP: echoes, pushes, takes and gives bytes by the million, and counts datagrams by the tag that they begin with.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{COUNTS, ECHO, END, GIVE, MESSAGE_BYTES, NAME, PUSH, TAKE};
use crate::common::objects::PORT;

/// Time between two messages that nobody asked for.
const PUSH_EVERY: Duration = Duration::from_millis(20);

/// What a datagram can be.
const DATAGRAM_BYTES: usize = 1 << 16;

/// Datagrams seen, by tag.
type Counts = Arc<Mutex<BTreeMap<String, u64>>>;

/// Serves as `name`; datagrams are answered `late`.
pub(super) fn run(name: &str, late: Duration) -> Result<()> {
    let counts = Counts::default();
    let datagrams = UdpSocket::bind(("::", PORT)).context("listen by UDP")?;
    // A pause of this process while others have the processors must not count as a loss on the way.
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&datagrams, 8 << 20).context("a larger buffer")?;
    let listener = TcpListener::bind(("::", PORT)).context("listen by TCP")?;
    let (tally, own): (_, Arc<str>) = (counts.clone(), name.into());
    let named = own.clone();
    std::thread::spawn(move || answer_datagrams(&datagrams, &own, late, &tally));
    for stream in listener.incoming() {
        let (stream, counts, name) = (stream?, counts.clone(), named.clone());
        std::thread::spawn(move || {
            // The end of a connection is the client's affair.
            let _ = answer_stream(stream, &name, &counts);
        });
    }
    Ok(())
}

fn answer_datagrams(socket: &UdpSocket, name: &str, late: Duration, counts: &Counts) {
    std::thread::scope(|scope| {
        let (tell, due) = mpsc::channel::<(Instant, String, SocketAddr)>();
        scope.spawn(move || {
            for (due, answer, to) in due {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let _ = socket.send_to(answer.as_bytes(), to);
            }
        });
        hear_datagrams(socket, counts, |number, from| {
            let answer = format!("{name} {number}");
            let _ = match late.is_zero() {
                true => socket.send_to(answer.as_bytes(), from).map(drop).map_err(drop),
                false => tell.send((Instant::now() + late, answer, from)).map_err(drop),
            };
        });
    });
}

fn hear_datagrams(socket: &UdpSocket, counts: &Counts, mut answer: impl FnMut(&str, SocketAddr)) {
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        // An ICMP error about an answer is heard as an error of the next call.
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        let Some((tag, number)) = text.split_once(' ') else { continue };
        *counts.lock().unwrap_or_else(PoisonError::into_inner).entry(tag.to_owned()).or_default() += 1;
        answer(number, from);
    }
}

fn answer_stream(mut stream: TcpStream, name: &str, counts: &Counts) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut mode = [0];
    stream.read_exact(&mut mode)?;
    let mut message = [0; MESSAGE_BYTES];
    match mode {
        [ECHO] => loop {
            stream.read_exact(&mut message)?;
            stream.write_all(&message)?;
        },
        [PUSH] => loop {
            stream.write_all(&message)?;
            std::thread::sleep(PUSH_EVERY);
        },
        [END] => std::process::exit(0),
        [NAME] => stream.write_all(name.as_bytes())?,
        [TAKE] => {
            std::io::copy(&mut (&stream).take(length(&stream)?), &mut std::io::sink())?;
            stream.write_all(&message)?;
        }
        [GIVE] => {
            std::io::copy(&mut std::io::repeat(0).take(length(&stream)?), &mut stream)?;
        }
        [COUNTS] => {
            let now = counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
            stream.write_all(serde_json::to_string(&now)?.as_bytes())?;
        }
        _ => {}
    }
    Ok(())
}

/// How many bytes are meant.
fn length(mut stream: &TcpStream) -> Result<u64> {
    let mut length = [0; 8];
    stream.read_exact(&mut length)?;
    Ok(u64::from_be_bytes(length))
}

/// Asks the server of this very pod, by the way that no rule is on, how many datagrams came.
pub(super) fn ask() -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", PORT)).context("the pod's own server")?;
    stream.write_all(&[COUNTS])?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    super::say(&text)
}

/// Ends the server of this very pod, and its connections with it.
pub(super) fn end() -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", PORT)).context("the pod's own server")?;
    stream.write_all(&[END])?;
    // It ends without a word.
    let _ = stream.read(&mut [0]);
    super::say("null")
}
