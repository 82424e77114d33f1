//! WebSocket connections that carry streams: channels by a number before each message, or one stream of plain bytes.
//!
//! Invariant: a message for a channel that is not there is thrown away; one who breaks the protocol is told and closed.
//! Reference: RFC 6455; the `channel.k8s.io` subprotocols of Kubernetes, of which version 5 can end a channel.

mod frame;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes};
use futures::StreamExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, DuplexStream, ReadHalf};
use tokio_util::codec::FramedRead;

use self::frame::{NORMAL, PIECE_BYTES, PROTOCOL, Piece, Pieces, WebSocketError};
use super::link::{Inlet, Link, PIPE_BYTES, Sender, Spawner};

/// In version 5: the message's second byte is a channel that ends.
const END_OF_CHANNEL: u8 = 255;

/// What `Sec-WebSocket-Accept` says to a client's key.
pub(crate) fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// A connection that carries channels, or plain bytes.
pub(crate) struct Connection {
    link: Link,
}

impl Connection {
    /// Carries these channels, each a pipe both ways.
    pub(crate) fn channels(
        transport: impl AsyncRead + AsyncWrite + Send + 'static,
        channels: impl IntoIterator<Item = u8>,
        closable: bool,
    ) -> (Self, BTreeMap<u8, DuplexStream>) {
        let mut far = BTreeMap::new();
        let mut near = BTreeMap::new();
        for channel in channels {
            let (theirs, ours) = tokio::io::duplex(PIPE_BYTES);
            far.insert(channel, theirs);
            near.insert(channel, ours);
        }
        let connection = Self::open(transport, |spawner, frames| {
            let inlets = near.into_iter().map(|(channel, ours)| (channel, inlet(&spawner, ours, Some(channel)))).collect();
            Demultiplexer { inlets, closable, channel: None }.run(spawner, frames)
        });
        (connection, far)
    }

    /// Carries one stream of bytes: the messages one after another.
    pub(crate) fn tunnel(transport: impl AsyncRead + AsyncWrite + Send + 'static) -> (Self, DuplexStream) {
        let (theirs, ours) = tokio::io::duplex(PIPE_BYTES);
        let connection = Self::open(transport, |spawner, mut frames| {
            // Before anything can be finished: a link that has no pump yet would be taken for one whose pumps are done.
            let inlet = inlet(&spawner, ours, None);
            async move {
                while let Some((_, payload)) = next(&mut frames, &spawner.sender).await {
                    inlet.push(payload).await;
                }
            }
        });
        (connection, theirs)
    }

    fn open<T, F>(transport: T, read: impl FnOnce(Spawner, FramedRead<ReadHalf<T>, Pieces>) -> F) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (reading, writing) = tokio::io::split(transport);
        let frames = FramedRead::with_capacity(reading, Pieces::default(), 2 * PIECE_BYTES);
        Self { link: Link::open(writing, |spawner| read(spawner, frames)) }
    }

    /// Sends an empty message on a channel, which tells the client that the connection stands.
    pub(crate) async fn greet(&self, channel: u8) {
        // Where the client has gone, that shows otherwise.
        self.link.sender().send(frame::message(&[channel], &[])).await;
    }

    /// Waits until the peer has gone.
    pub(crate) async fn gone(&self) {
        self.link.gone().await;
    }

    /// Sends what is on the way, and closes.
    pub(crate) async fn finish(self) {
        self.link.finish(frame::close(NORMAL), super::FAREWELL).await;
    }
}

/// Pumps both ways between a pipe and messages, with the channel's number before each where there are channels.
fn inlet(spawner: &Spawner, ours: DuplexStream, channel: Option<u8>) -> Inlet {
    let (mut read, write) = tokio::io::split(ours);
    let sender = spawner.sender.clone();
    spawner.spawn_outgoing(async move {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(length) = read.read(&mut buffer).await {
            let payload = buffer.get(..length).unwrap_or_default();
            if payload.is_empty() || !sender.send(frame::message(channel.as_slice(), payload)).await {
                return;
            }
        }
    });
    Inlet::new(spawner, write, |_| std::future::ready(()))
}

/// The next piece of a message, and whether the message begins with it; what is not a message is answered. None at the end.
async fn next(frames: &mut FramedRead<impl AsyncRead + Unpin, Pieces>, sender: &Sender) -> Option<(bool, Bytes)> {
    loop {
        match frames.next().await? {
            Ok(Piece::Message { first, payload }) => return Some((first, payload)),
            Ok(Piece::Ping(payload)) => drop(sender.send(frame::pong(&payload)).await),
            Ok(Piece::Pong) => {}
            Ok(Piece::Close) => {
                // The peer waits for the same from this side, and may be gone before it has it.
                sender.send(frame::close(NORMAL)).await;
                return None;
            }
            Err(error) => {
                tracing::debug!(%error, "WebSocket connection ended");
                if matches!(error, WebSocketError::Rule(_)) {
                    sender.send(frame::close(PROTOCOL)).await;
                }
                return None;
            }
        }
    }
}

/// Hands messages to their channels.
struct Demultiplexer {
    inlets: BTreeMap<u8, Inlet>,
    /// Version 5.
    closable: bool,
    /// The channel of the message that is passing.
    channel: Option<u8>,
}

impl Demultiplexer {
    async fn run(mut self, spawner: Spawner, mut frames: FramedRead<impl AsyncRead + Unpin, Pieces>) {
        while let Some((first, payload)) = next(&mut frames, &spawner.sender).await {
            self.take(first, payload).await;
        }
    }

    async fn take(&mut self, first: bool, mut payload: Bytes) {
        if first {
            self.channel = None;
        }
        if self.channel.is_none() {
            self.channel = payload.try_get_u8().ok();
        }
        match self.channel {
            Some(END_OF_CHANNEL) if self.closable => {
                for channel in payload {
                    self.inlets.remove(&channel);
                }
            }
            Some(channel) => {
                if let Some(inlet) = self.inlets.get(&channel) {
                    inlet.push(payload).await;
                }
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests;
