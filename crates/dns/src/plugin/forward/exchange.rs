//! One question and its reply, over UDP or TCP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};

use crate::wire::{MAX_UDP_BYTES, NotReply, Query, Reply, decode_reply, encode_query};

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// Not in time.
    #[error("no reply in time")]
    Timeout,
    /// The network said no.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The reply cannot be used.
    #[error("{0}")]
    NotReply(#[from] NotReply),
}

/// Messages that do not belong to the question, after which the asking is given up: somebody guesses.
const MAX_FOREIGN: usize = 64;

/// Asks over UDP, from a socket of its own.
pub(super) async fn by_udp(to: SocketAddr, query: &Query, until: Instant) -> Result<Reply, ExchangeError> {
    let from: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((from, 0)).await?;
    // Connected, it takes nothing from other addresses, and hears that nobody listens.
    socket.connect(to).await?;
    let id: u16 = rand::random();
    socket.send(&encode_query(query, id)).await?;
    let mut buffer = vec![0; usize::from(MAX_UDP_BYTES)];
    for _ in 0..MAX_FOREIGN {
        let length = timeout_at(until, socket.recv(&mut buffer)).await.map_err(|_| ExchangeError::Timeout)??;
        let octets = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
        match decode_reply(octets, query, id) {
            Err(NotReply::Foreign) => {}
            other => return Ok(other?),
        }
    }
    Err(NotReply::Foreign.into())
}

/// Connects.
pub(super) async fn connect(to: SocketAddr, until: Instant) -> Result<TcpStream, ExchangeError> {
    let stream = timeout_at(until, TcpStream::connect(to)).await.map_err(|_| ExchangeError::Timeout)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Asks over a connection that nobody else uses meanwhile.
pub(super) async fn by_tcp(stream: &mut TcpStream, query: &Query, until: Instant) -> Result<Reply, ExchangeError> {
    let id: u16 = rand::random();
    let question = encode_query(query, id);
    let length = u16::try_from(question.len()).map_err(|_| NotReply::Malformed)?;
    let exchange = async {
        stream.write_all(&[length.to_be_bytes().as_slice(), &question].concat()).await?;
        let mut octets = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut octets).await?;
        io::Result::Ok(octets)
    };
    let octets = timeout_at(until, exchange).await.map_err(|_| ExchangeError::Timeout)??;
    Ok(decode_reply(octets.into(), query, id)?)
}
