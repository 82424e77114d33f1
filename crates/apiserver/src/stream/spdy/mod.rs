//! A SPDY/3.1 server's connection: the peer opens streams, each a pipe both ways.
//!
//! Invariant: at most [`MOST_STREAMS`] are open at once, and a peer that breaks a rule ends its own connection only.
//! Reference: SPDY draft 3.1. Pushed streams, priorities and credentials are not known here: no client of Kubernetes has
//! them.

mod dictionary;
mod frame;
mod headers;
mod window;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, DuplexStream, ReadHalf};
use tokio::sync::mpsc;
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;

pub(crate) use self::headers::Headers;

use self::frame::{Frame, Frames, INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS, PIECE_BYTES, Reason, SpdyError};
use self::headers::Packer;
use self::window::{DEFAULT_BYTES, Window};
use super::link::{Inlet, Link, PIPE_BYTES, Spawner};

/// Most streams that may be open.
const MOST_STREAMS: usize = 1000;

/// A stream that the peer has opened.
pub(crate) struct Stream {
    /// What it is for. The names are in lower case.
    pub(crate) headers: Headers,
    /// Its bytes.
    pub(crate) pipe: DuplexStream,
}

/// A connection.
pub(crate) struct Connection {
    /// The streams as the peer opens them; none when it has gone.
    pub(crate) streams: mpsc::Receiver<Stream>,
    link: Link,
}

impl Connection {
    /// Speaks SPDY on a transport.
    pub(crate) fn open(transport: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        let (read, write) = tokio::io::split(transport);
        let (opened, streams) = mpsc::channel(MOST_STREAMS);
        let link = Link::open(write, |spawner| async move {
            let mut session = Session::new(spawner, opened);
            if let Err(error) = session.serve(read).await {
                tracing::debug!(%error, "SPDY connection ended");
                // Said where it still can be.
                session.spawner.sender.send(frame::go_away(session.last, true)).await;
            }
        });
        Self { streams, link }
    }

    /// Waits until the peer has gone.
    pub(crate) async fn gone(&self) {
        self.link.gone().await;
    }

    /// Sends what is on the way, and closes.
    pub(crate) async fn finish(self) {
        self.link.finish(frame::go_away(frame::LAST, false), super::FAREWELL).await;
    }
}

/// A stream that is open in at least one direction.
struct Open {
    /// None when the peer has ended its direction.
    inlet: Option<Inlet>,
    window: Arc<Window>,
    /// This side has ended its direction.
    sent: Arc<AtomicBool>,
    /// The peer has ended both.
    reset: CancellationToken,
}

/// What the reader of a connection keeps.
struct Session {
    spawner: Spawner,
    packer: Packer,
    opened: mpsc::Sender<Stream>,
    streams: HashMap<u32, Open>,
    /// The highest number of a stream.
    last: u32,
    /// The window of streams to come.
    initial: Option<i64>,
    /// The window of all streams together.
    window: Arc<Window>,
}

impl Session {
    fn new(spawner: Spawner, opened: mpsc::Sender<Stream>) -> Self {
        Self {
            spawner,
            packer: Packer::default(),
            opened,
            streams: HashMap::new(),
            last: 0,
            initial: None,
            window: Arc::new(Window::new(None)),
        }
    }

    async fn serve(&mut self, read: impl AsyncRead + Unpin) -> Result<(), SpdyError> {
        let most = u32::try_from(MOST_STREAMS).unwrap_or(u32::MAX);
        self.send(frame::settings(&[(MAX_CONCURRENT_STREAMS, most)])).await;
        let mut frames = FramedRead::with_capacity(read, Frames::new(), 2 * PIECE_BYTES);
        while let Some(frame) = frames.next().await {
            self.handle(frame?).await;
        }
        Ok(())
    }

    async fn send(&self, frame: Bytes) {
        // A broken connection shows in reading, too.
        self.spawner.sender.send(frame).await;
    }

    async fn handle(&mut self, frame: Frame) {
        match frame {
            Frame::SynStream { id, fin, headers } => self.open_stream(id, fin, headers).await,
            Frame::Data { id, fin, payload } => self.data(id, fin, payload).await,
            Frame::Headers { id, fin: true } => self.end(id),
            Frame::Reset { id } => {
                if let Some(stream) = self.streams.remove(&id) {
                    stream.reset.cancel();
                }
            }
            // Even numbers would be answers to pings of this side, which sends none.
            Frame::Ping { id } if !id.is_multiple_of(2) => self.send(frame::ping(id)).await,
            Frame::WindowUpdate { id: 0, delta } => self.window.change(i64::from(delta)),
            Frame::WindowUpdate { id, delta } => {
                if let Some(stream) = self.streams.get(&id) {
                    stream.window.change(i64::from(delta));
                }
            }
            Frame::Settings(entries) => {
                let windows = entries.iter().filter(|(setting, _)| *setting == INITIAL_WINDOW_SIZE);
                windows.for_each(|(_, bytes)| self.resize_windows(i64::from(*bytes)));
            }
            Frame::Headers { .. } | Frame::SynReply { .. } | Frame::Ping { .. } | Frame::GoAway | Frame::Unknown => {}
        }
    }

    fn resize_windows(&mut self, bytes: i64) {
        match self.initial.replace(bytes) {
            Some(before) => self.streams.values().for_each(|stream| stream.window.change(bytes - before)),
            None => {
                self.window.bound(DEFAULT_BYTES);
                self.streams.values().for_each(|stream| stream.window.bound(bytes));
            }
        }
    }

    async fn open_stream(&mut self, id: u32, fin: bool, headers: Headers) {
        if id.is_multiple_of(2) || id <= self.last {
            return self.send(frame::reset(id, Reason::Protocol)).await;
        }
        self.last = id;
        self.streams.retain(|_, stream| stream.inlet.is_some() || !stream.sent.load(Ordering::Acquire));
        if self.streams.len() >= MOST_STREAMS {
            return self.send(frame::reset(id, Reason::Refused)).await;
        }
        let (theirs, ours) = tokio::io::duplex(PIPE_BYTES);
        let (read, write) = tokio::io::split(ours);
        let sender = self.spawner.sender.clone();
        let inlet = Inlet::new(&self.spawner, write, move |bytes| {
            let sender = sender.clone();
            async move {
                for stream in [id, 0].into_iter().filter(|_| bytes > 0) {
                    sender.send(frame::window_update(stream, u32::try_from(bytes).unwrap_or(u32::MAX))).await;
                }
            }
        });
        let stream = Open {
            inlet: (!fin).then_some(inlet),
            window: Arc::new(Window::new(self.initial)),
            sent: Arc::default(),
            reset: CancellationToken::new(),
        };
        // The reply goes first: the pump may have something to send at once.
        let reply = frame::reply(id, &mut self.packer);
        self.send(reply).await;
        let outlet = Outlet { id, windows: [Arc::clone(&stream.window), Arc::clone(&self.window)], sender: self.spawner.sender.clone() };
        let (sent, reset) = (Arc::clone(&stream.sent), stream.reset.clone());
        self.spawner.spawn_outgoing(async move {
            let _ = reset.run_until_cancelled(outlet.pump(read)).await;
            sent.store(true, Ordering::Release);
        });
        self.streams.insert(id, stream);
        if self.opened.send(Stream { headers, pipe: theirs }).await.is_err() {
            self.streams.remove(&id);
            self.send(frame::reset(id, Reason::Refused)).await;
        }
    }

    async fn data(&mut self, id: u32, fin: bool, payload: Bytes) {
        match self.streams.get(&id).and_then(|stream| stream.inlet.as_ref()) {
            Some(inlet) => inlet.push(payload).await,
            None if id > self.last => self.send(frame::reset(id, Reason::InvalidStream)).await,
            // Sent before the peer knew of the stream's end.
            None => {}
        }
        if fin {
            self.end(id);
        }
    }

    fn end(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.inlet = None;
        }
    }
}

/// The outgoing side of a stream.
struct Outlet {
    id: u32,
    /// The stream's window, then the connection's.
    windows: [Arc<Window>; 2],
    sender: super::link::Sender,
}

impl Outlet {
    async fn pump(self, mut read: ReadHalf<DuplexStream>) {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(length) = read.read(&mut buffer).await {
            let mut rest = buffer.get(..length).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            while !rest.is_empty() {
                let [stream, all] = &self.windows;
                let wanted = stream.take(rest.len()).await;
                let room = all.take(wanted).await;
                stream.give(wanted - room);
                let (piece, later) = rest.split_at_checked(room).unwrap_or((rest, &[]));
                if !self.sender.send(frame::data(self.id, false, piece)).await {
                    return;
                }
                rest = later;
            }
        }
        self.sender.send(frame::data(self.id, true, &[])).await;
    }
}

#[cfg(test)]
mod tests;
