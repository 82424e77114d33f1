//! Questions over TCP: several may be under way on a connection, answers come in the order in which they are ready.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Transport;
use super::handle::{Handled, Limits, handle};
use crate::chain::{Asker, Port};

/// A connection on which nothing comes for so long is closed (RFC 7766 section 6.2.3).
const IDLE: Duration = Duration::from_secs(10);
/// A client that takes no answers for so long is left.
const STUCK: Duration = Duration::from_secs(5);
/// Answers under way on one connection; until one is sent no further question is read.
const PIPELINED: usize = 64;

/// Takes connections until it is told to stop.
pub(super) async fn serve(listener: TcpListener, port: watch::Receiver<Arc<Port>>, limits: Arc<Limits>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: waiting is all that helps.
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // One too many is closed at once; the client asks another server or comes back.
        let Ok(slot) = Arc::clone(&limits.connections).try_acquire_owned() else { continue };
        let (port, limits, stop) = (port.clone(), Arc::clone(&limits), stop.clone());
        tokio::spawn(async move {
            converse(stream, client, port, limits, stop).await;
            drop(slot);
        });
    }
}

async fn converse(stream: TcpStream, client: SocketAddr, port: watch::Receiver<Arc<Port>>, limits: Arc<Limits>, stop: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let local = stream.local_addr().ok().map(|address| address.ip());
    let asker = Asker { client, local, transport: Transport::Tcp };
    let (mut reader, writer) = stream.into_split();
    let (answers, to_send) = mpsc::channel(PIPELINED);
    let writing = tokio::spawn(write(writer, to_send));
    let mut question = Vec::new();
    let mut out = Vec::new();
    loop {
        let read = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            read = timeout(IDLE, read(&mut reader, &mut question)) => read,
        };
        if !matches!(read, Ok(Ok(()))) {
            break;
        }
        // The place in the channel is taken before the question is answered: this is what bounds a connection.
        let Ok(place) = answers.clone().reserve_owned().await else { break };
        let port = Arc::clone(&port.borrow());
        match handle(&port, &limits, asker, &question, &mut out) {
            Handled::Nothing => {}
            Handled::Now => {
                place.send(std::mem::take(&mut out));
            }
            Handled::Later(later) => {
                tokio::spawn(async move {
                    if let Some(octets) = later.await {
                        place.send(octets);
                    }
                });
            }
        }
    }
    drop(answers);
    // Answers under way are still sent.
    let _ = writing.await;
}

async fn read(reader: &mut OwnedReadHalf, question: &mut Vec<u8>) -> std::io::Result<()> {
    let length = reader.read_u16().await?;
    question.resize(usize::from(length), 0);
    reader.read_exact(question).await?;
    Ok(())
}

async fn write(mut writer: OwnedWriteHalf, mut to_send: mpsc::Receiver<Vec<u8>>) {
    while let Some(octets) = to_send.recv().await {
        let Ok(length) = u16::try_from(octets.len()) else { continue };
        let framed = [length.to_be_bytes().as_slice(), &octets].concat();
        if !matches!(timeout(STUCK, writer.write_all(&framed)).await, Ok(Ok(()))) {
            return;
        }
    }
    let _ = writer.shutdown().await;
}
