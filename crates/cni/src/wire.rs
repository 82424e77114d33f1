//! The plugin's conversation with the agent: one request and one reply a connection.
//!
//! A message is its length as four bytes (network order) and that many bytes of JSON. With ADD and CHECK the file
//! descriptor of the container's network namespace travels along (`SCM_RIGHTS`), so that the agent needs no path of the
//! plugin's mount namespace.
//!
//! Invariant: neither side waits without limit, and neither takes a message larger than [`MESSAGE_MAX_BYTES`].
#![allow(clippy::disallowed_methods, reason = "waiting for the agent is bounded by the clock, here and nowhere else")]

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::ValidAttachment;
use crate::env::PodIdentity;
use crate::error::CniError;
use crate::result::CniResult;
use crate::runtime::RuntimeConfig;

/// Largest message. A GC that names 10,000 containers has about 1 MB.
pub const MESSAGE_MAX_BYTES: usize = 8 << 20;

/// How long the agent gives a plugin to say what it wants.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between two attempts to connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(25);

/// What the plugin asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Give the container a network; comes with the descriptor of its namespace.
    Add(Box<AddRequest>),
    /// Take it away; a container that is not known is a success.
    Del(DelRequest),
    /// Say what the container has now; comes with the descriptor of its namespace.
    Check(CheckRequest),
    /// Remove whatever of the network is not named.
    Gc(GcRequest),
    /// Say whether ADD could work.
    Status(StatusRequest),
}

impl Request {
    /// Whether the request comes with the descriptor of a network namespace.
    pub fn carries_netns(&self) -> bool {
        matches!(self, Request::Add(_) | Request::Check(_))
    }
}

/// The content of ADD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddRequest {
    /// Name of the network, from the configuration.
    pub network: String,
    /// The container.
    pub container_id: String,
    /// Name of the interface to make in it.
    pub ifname: String,
    /// Path of the namespace as the runtime calls it: for the result's `sandbox` and for messages, not for opening.
    pub netns: String,
    /// The pod, where the runtime says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodIdentity>,
    /// What the runtime asks for beyond an interface.
    #[serde(default)]
    pub runtime: RuntimeConfig,
    /// What the plugins before this one did; present when chained under another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev_result: Option<CniResult>,
}

/// The content of DEL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelRequest {
    /// Name of the network.
    pub network: String,
    /// The container.
    pub container_id: String,
    /// The interface in it.
    pub ifname: String,
}

/// The content of CHECK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckRequest {
    /// Name of the network.
    pub network: String,
    /// The container.
    pub container_id: String,
    /// The interface in it.
    pub ifname: String,
    /// Path of the namespace as the runtime calls it.
    pub netns: String,
}

/// The content of GC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcRequest {
    /// Name of the network; attachments to others are no concern of this call.
    pub network: String,
    /// Everything that is still in use.
    pub valid: Vec<ValidAttachment>,
}

/// The content of STATUS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRequest {
    /// Name of the network.
    pub network: String,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// ADD is done, and the pod's policy is in force. The result holds what the agent made, without `prev_result`;
    /// it is empty where another plugin made the interface.
    Added(CniResult),
    /// CHECK found the kernel as it should be; this is what is there, in the same form.
    Checked(CniResult),
    /// DEL, GC or STATUS succeeded.
    Done,
    /// It did not work.
    Failed(CniError),
}

/// How long [`call`] waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// For an agent that does not listen.
    pub connect: Duration,
    /// For the answer, from the connection on.
    pub answer: Duration,
}

/// Why the plugin got no reply.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens.
    #[error("the agent does not listen on {}: {source}", socket.display())]
    Away {
        /// Where it should.
        socket: PathBuf,
        /// The last attempt's error.
        source: io::Error,
    },
    /// The socket cannot be used, and waiting does not help.
    #[error("cannot connect to the agent on {}: {source}", socket.display())]
    Refused {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke before the answer came; the agent may have acted.
    #[error("the agent went away before it answered: {source}")]
    Broken {
        /// Why.
        source: io::Error,
    },
    /// The answer did not come in time; the agent may still act.
    #[error("the agent did not answer within {waited_ms} ms")]
    TimedOut {
        /// How long it was waited for.
        waited_ms: u128,
    },
    /// The answer cannot be read.
    #[error("the agent's answer cannot be read: {source}")]
    Decode {
        /// Why.
        source: serde_json::Error,
    },
}

impl CallError {
    /// Whether the same call may succeed later by itself.
    pub fn may_retry(&self) -> bool {
        match self {
            CallError::Away { .. } | CallError::Broken { .. } | CallError::TimedOut { .. } => true,
            CallError::Refused { .. } | CallError::Decode { .. } => false,
        }
    }
}

/// Why the agent could not read a request.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The other end is neither root nor the agent's own user.
    #[error("a process of user {uid} may not talk to the agent")]
    Denied {
        /// Its user.
        uid: u32,
    },
    /// Reading failed or took too long.
    #[error("the request cannot be read: {source}")]
    Io {
        /// Why.
        source: io::Error,
    },
    /// It is no request.
    #[error("the request makes no sense: {source}")]
    Decode {
        /// Why.
        source: serde_json::Error,
    },
    /// ADD or CHECK came without a namespace.
    #[error("the request came without the container's network namespace")]
    NetnsMissing,
}

/// Asks the agent and waits for its answer.
///
/// # Errors
/// See [`CallError`]. After anything but `Away` and `Refused` it is unknown whether the agent acted.
pub fn call(socket: &Path, request: &Request, netns: Option<BorrowedFd<'_>>, deadline: Deadline) -> Result<Reply, CallError> {
    let stream = connect(socket, Instant::now() + deadline.connect)?;
    let end = Instant::now() + deadline.answer;
    let failed = |source: io::Error| {
        let late = [io::ErrorKind::TimedOut, io::ErrorKind::WouldBlock];
        if late.contains(&source.kind()) {
            let waited_ms = deadline.answer.as_millis();
            CallError::TimedOut { waited_ms }
        } else {
            CallError::Broken { source }
        }
    };
    send(&stream, request, netns, end).map_err(failed)?;
    let (bytes, _) = receive(&stream, end).map_err(failed)?;
    decode(&bytes).map_err(|source| CallError::Decode { source })
}

/// Reads the one request of a fresh connection, with the namespace that came along. Blocks for at most
/// [`REQUEST_TIMEOUT`]; the stream has to be in blocking mode.
///
/// # Errors
/// See [`AcceptError`]; the connection should then be dropped.
pub fn accept_one(stream: &UnixStream) -> Result<(Request, Option<OwnedFd>), AcceptError> {
    let io_error = |source| AcceptError::Io { source };
    // Not rustix's: a peer outside of our PID namespace has the process id 0, which its type cannot hold.
    let peer = nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerCredentials).map_err(|e| io_error(e.into()))?;
    if peer.uid() != 0 && peer.uid() != rustix::process::geteuid().as_raw() {
        return Err(AcceptError::Denied { uid: peer.uid() });
    }
    let (bytes, netns) = receive(stream, Instant::now() + REQUEST_TIMEOUT).map_err(io_error)?;
    let request: Request = decode(&bytes).map_err(|source| AcceptError::Decode { source })?;
    if request.carries_netns() && netns.is_none() {
        return Err(AcceptError::NetnsMissing);
    }
    Ok((request, netns))
}

/// Sends the one reply.
///
/// # Errors
/// When the plugin is gone or does not read; what was done stays done, and the runtime will call DEL.
pub fn answer(stream: &UnixStream, reply: &Reply) -> io::Result<()> {
    send(stream, reply, None, Instant::now() + REQUEST_TIMEOUT)
}

/// Connects, again and again until `end`: an agent that is being restarted is back within a second or two.
fn connect(socket: &Path, end: Instant) -> Result<UnixStream, CallError> {
    let refused = |source: io::Error| CallError::Refused { socket: socket.to_owned(), source };
    let address = SocketAddrUnix::new(socket).map_err(|errno| refused(errno.into()))?;
    loop {
        let errno = match connect_once(&address) {
            Ok(stream) => {
                stream.set_nonblocking(false).map_err(refused)?;
                return Ok(stream);
            }
            Err(errno) => errno,
        };
        // EAGAIN: its queue of connections is full, which passes as well.
        let passing = matches!(errno, Errno::NOENT | Errno::CONNREFUSED | Errno::AGAIN | Errno::INTR);
        if !passing {
            return Err(refused(errno.into()));
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(CallError::Away { socket: socket.to_owned(), source: errno.into() });
        }
        thread::sleep(left.min(CONNECT_PAUSE));
    }
}

fn connect_once(address: &SocketAddrUnix) -> Result<UnixStream, Errno> {
    // Non-blocking, because a blocking connect to a full queue waits without limit.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&fd, address)?;
    Ok(UnixStream::from(fd))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(bytes)
}

fn send<T: Serialize>(mut stream: &UnixStream, message: &T, fd: Option<BorrowedFd<'_>>, end: Instant) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    if body.len() > MESSAGE_MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too large"));
    }
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    stream.set_write_timeout(Some(left_until(end)?))?;
    let Some(fd) = fd else {
        stream.write_all(&length)?;
        return stream.write_all(&body);
    };
    // The descriptor rides on the first byte, which the other end reads with room for it.
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let sent = rustix::net::sendmsg(stream, &[IoSlice::new(&length)], &mut control, SendFlags::NOSIGNAL)?;
    stream.write_all(length.get(sent..).unwrap_or_default())?;
    stream.write_all(&body)
}

fn receive(mut stream: &UnixStream, end: Instant) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut length = [0_u8; 4];
    let (mut have, mut fd) = (0, None);
    while have < length.len() {
        stream.set_read_timeout(Some(left_until(end)?))?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let rest = length.get_mut(have..).unwrap_or_default();
        let got = match rustix::net::recvmsg(stream, &mut [IoSliceMut::new(rest)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => continue,
            other => other?.bytes,
        };
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        have += got;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                fd = fds.last().or(fd); // the others are closed as they drop
            }
        }
    }
    let want = u32::from_be_bytes(length) as usize;
    if want > MESSAGE_MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {want} bytes is too large")));
    }
    let mut body = Vec::new();
    let mut chunk = [0_u8; 16 << 10];
    while body.len() < want {
        stream.set_read_timeout(Some(left_until(end)?))?;
        let room = chunk.len().min(want - body.len());
        let got = match stream.read(chunk.get_mut(..room).unwrap_or_default()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        body.extend_from_slice(chunk.get(..got).unwrap_or_default());
    }
    Ok((body, fd))
}

/// The time left, never zero (which the socket takes for "without limit").
fn left_until(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}
