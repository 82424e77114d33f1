//! The tasks of a connection that carries several streams: one writer, a pump for each direction of each stream.
//!
//! A stream's far end sees a [`DuplexStream`]: reading ends when the peer has ended the stream, and shutting down the
//! writing side ends it for the peer. Invariant: what a peer sends is bounded by [`ROOM_BYTES`] a stream; beyond that the
//! connection is not read on. A link that is dropped ends all of its tasks.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt as _, DuplexStream, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// What one stream's incoming data may hold before its reader takes it.
const ROOM_BYTES: usize = 256 << 10;
/// What may lie in a stream between its two ends.
pub(crate) const PIPE_BYTES: usize = 64 << 10;
/// Frames that may wait for the writer.
const QUEUE: usize = 16;

/// For the writer.
enum Outgoing {
    Frame(Bytes),
    /// A frame after which nothing more is sent.
    Last(Bytes),
}

/// The sending side of a connection. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sender {
    queue: mpsc::Sender<Outgoing>,
}

impl Sender {
    /// Sends a frame after those before it; false when the connection is over.
    pub(crate) async fn send(&self, frame: Bytes) -> bool {
        self.queue.send(Outgoing::Frame(frame)).await.is_ok()
    }
}

/// A connection's tasks.
pub(crate) struct Link {
    sender: Sender,
    /// Pumps of outgoing data: they end when their streams' writers are done.
    outgoing: TaskTracker,
    over: CancellationToken,
    /// The peer has gone, or broke a rule.
    gone: CancellationToken,
    _guard: DropGuard,
}

/// A handle by which tasks of a link start others.
#[derive(Clone)]
pub(crate) struct Spawner {
    pub(crate) sender: Sender,
    outgoing: TaskTracker,
    over: CancellationToken,
}

impl Spawner {
    /// Starts a task that goes with the link.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let over = self.over.clone();
        tokio::spawn(async move {
            let _ = over.run_until_cancelled(task).await;
        });
    }

    /// Starts a task that sends a stream's data: [`Link::finish`] waits for it.
    pub(crate) fn spawn_outgoing(&self, task: impl Future<Output = ()> + Send + 'static) {
        let over = self.over.clone();
        self.outgoing.spawn(async move {
            let _ = over.run_until_cancelled(task).await;
        });
    }
}

impl Link {
    /// Starts the writer; the reader is started by what `read` makes of a spawner.
    pub(crate) fn open<W, F>(write: W, read: impl FnOnce(Spawner) -> F) -> Self
    where
        W: AsyncWrite + Send + Unpin + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (queue, frames) = mpsc::channel(QUEUE);
        let (over, gone) = (CancellationToken::new(), CancellationToken::new());
        let spawner = Spawner { sender: Sender { queue }, outgoing: TaskTracker::new(), over: over.clone() };
        spawner.spawn(write_frames(write, frames, gone.clone()));
        let reader = read(spawner.clone());
        let ended = gone.clone().drop_guard();
        spawner.spawn(async move {
            reader.await;
            drop(ended);
        });
        Self { sender: spawner.sender, outgoing: spawner.outgoing, _guard: over.clone().drop_guard(), over, gone }
    }

    /// The sending side.
    pub(crate) fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// Waits until the peer has gone.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Waits until all that the streams' writers have written is sent, then says farewell, and waits until the peer goes
    /// or `patience` is over: a connection closed on what has not been read would destroy what the peer has not read.
    pub(crate) async fn finish(self, farewell: Bytes, patience: std::time::Duration) {
        self.outgoing.close();
        tokio::select! {
            () = self.gone.cancelled() => return,
            () = self.outgoing.wait() => {}
        }
        if self.sender.queue.send(Outgoing::Last(farewell)).await.is_ok() {
            // A peer that stays is left.
            let _ = tokio::time::timeout(patience, self.gone.cancelled()).await;
        }
        self.over.cancel();
    }
}

async fn write_frames(mut write: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Outgoing>, gone: CancellationToken) {
    while let Some(frame) = frames.recv().await {
        let (bytes, last) = match frame {
            Outgoing::Frame(bytes) => (bytes, false),
            Outgoing::Last(bytes) => (bytes, true),
        };
        let mut sent = write.write_all(&bytes).await;
        if sent.is_ok() && (last || frames.is_empty()) {
            sent = write.flush().await;
        }
        if last {
            // The peer may have closed already; what was to be sent is sent.
            let _ = write.shutdown().await;
            return;
        }
        if let Err(error) = sent {
            tracing::debug!(%error, "stream connection broke");
            gone.cancel();
            return;
        }
    }
}

/// The incoming side of one stream. Dropped, it ends the stream for its reader, after what was pushed.
pub(crate) struct Inlet {
    queue: mpsc::UnboundedSender<(Bytes, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
}

impl Inlet {
    /// Pumps into `write`; `taken` is told, after each piece, how many bytes have been taken.
    pub(crate) fn new<F: Future<Output = ()> + Send>(
        spawner: &Spawner,
        mut write: WriteHalf<DuplexStream>,
        taken: impl Fn(usize) -> F + Send + Sync + 'static,
    ) -> Self {
        let (queue, mut pieces) = mpsc::unbounded_channel::<(Bytes, OwnedSemaphorePermit)>();
        spawner.spawn(async move {
            let mut open = true;
            while let Some((bytes, permit)) = pieces.recv().await {
                // A reader that is gone wants no more: it is thrown away, so that others go on.
                open = open && write.write_all(&bytes).await.is_ok();
                drop(permit);
                taken(bytes.len()).await;
            }
            // It fails only where the reader has gone.
            let _ = write.shutdown().await;
        });
        Self { queue, room: Arc::new(Semaphore::new(ROOM_BYTES)) }
    }

    /// Hands on a piece; waits while too much has not been taken.
    pub(crate) async fn push(&self, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(ROOM_BYTES));
            let count = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            let Ok(permit) = Arc::clone(&self.room).acquire_many_owned(count).await else { return };
            if self.queue.send((piece, permit)).is_err() {
                return;
            }
        }
    }
}
