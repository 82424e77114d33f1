//! Questions over UDP: several sockets on one address, each with a thread of its own that reads in batches.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use socket2::Socket;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Transport;
use super::handle::{Handled, Limits, handle};
use super::socket::{Batch, Packet, send};
use crate::chain::{Asker, Port};

/// Answers what comes to a socket until it is told to stop. It blocks its thread, which must know the runtime.
pub(super) fn serve(socket: &Arc<Socket>, port: &watch::Receiver<Arc<Port>>, limits: &Arc<Limits>, stop: &CancellationToken) {
    let mut batch = Batch::new();
    let mut packets: Vec<Option<Packet>> = Vec::new();
    let mut out = Vec::with_capacity(4096);
    // The socket's own timeout lets the loop look here every now and then.
    while !stop.is_cancelled() {
        match batch.receive(socket.as_raw_fd(), &mut packets) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => continue,
            Err(error) => {
                // A client's ICMP error, for example: it says nothing about the next packet.
                tracing::debug!(%error, "receiving failed");
                continue;
            }
        }
        let port = Arc::clone(&port.borrow());
        for (place, packet) in packets.iter().enumerate() {
            // A packet from port 0 cannot be answered.
            let Some(packet) = packet.filter(|packet| packet.client.port() != 0) else { continue };
            let asker = Asker { client: packet.client, local: packet.local, transport: Transport::Udp };
            match handle(&port, limits, asker, batch.bytes(place, packet.length), &mut out) {
                Handled::Nothing => {}
                Handled::Now => reply(socket, &out, packet),
                Handled::Later(later) => {
                    let socket = Arc::clone(socket);
                    tokio::spawn(async move {
                        if let Some(octets) = later.await {
                            reply(&socket, &octets, packet);
                        }
                    });
                }
            }
        }
    }
}

fn reply(socket: &Socket, octets: &[u8], packet: Packet) {
    if let Err(error) = send(socket, octets, packet.client, packet.local) {
        tracing::debug!(client = %packet.client, %error, "reply not sent");
    }
}
