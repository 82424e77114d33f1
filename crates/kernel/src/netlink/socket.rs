//! One blocking netlink conversation: a request, its answers, its acknowledgement.
//!
//! Invariant: answers belong to the request of their sequence number, others are passed over; a dump that the kernel marks as disturbed is
//! taken again, so that what is returned was true at one moment.

use std::io;

use netlink_sys::{Socket, SocketAddr};

use crate::wire::{Attrs, Message, NLMSG_DONE, NLMSG_ERROR, Received, flags, messages, u32_at};

/// Receive buffer: the kernel fills up to 32 KiB of a dump into one datagram if it is offered that much.
const BUFFER_BYTES: usize = 64 * 1024;

/// How often a disturbed dump is taken again before what came is believed.
const DUMP_ATTEMPTS: u32 = 8;

/// Attribute of an error that holds a text.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Why a conversation failed.
#[derive(Debug)]
pub(crate) enum WireError {
    /// The socket itself.
    Socket(io::Error),
    /// The kernel's answer is an error.
    Refused {
        /// Positive error number.
        errno: i32,
        /// The kernel's words.
        message: Option<String>,
    },
}

impl WireError {
    /// Whether the kernel refused with this number.
    pub(crate) fn is(&self, wanted: i32) -> bool {
        matches!(self, WireError::Refused { errno, .. } if *errno == wanted)
    }
}

/// A socket to one netlink family.
pub(crate) struct Connection {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    port: u32,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Connection {
    /// Opens one in the calling thread's network namespace.
    ///
    /// # Errors
    /// If the kernel lacks the family.
    pub(crate) fn open(protocol: isize) -> io::Result<Connection> {
        let mut socket = Socket::new(protocol)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        // All three are conveniences of newer kernels: texts with errors, short errors, filtered dumps.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Connection { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER_BYTES), port })
    }

    /// The port by which notifications tell who caused them.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Sends a request that is only acknowledged.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(crate) fn execute(&mut self, message: Message) -> Result<(), WireError> {
        self.ask(message, |_| None::<()>).map(|_| ())
    }

    /// Sends a request and parses each answer; what `parse` returns none for is passed over.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(crate) fn ask<T>(&mut self, message: Message, mut parse: impl FnMut(&Received<'_>) -> Option<T>) -> Result<Vec<T>, WireError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            self.sequence = self.sequence.wrapping_add(1);
            let sequence = self.sequence;
            let bytes = message.clone().finish(sequence);
            retry_interrupted(|| self.socket.send(&bytes, 0)).map_err(WireError::Socket)?;
            let (values, interrupted) = self.answers(sequence, &mut parse)?;
            if !interrupted || attempt >= DUMP_ATTEMPTS {
                return Ok(values);
            }
        }
    }

    /// Reads up to the acknowledgement or the end of the dump.
    fn answers<T>(&mut self, sequence: u32, parse: &mut impl FnMut(&Received<'_>) -> Option<T>) -> Result<(Vec<T>, bool), WireError> {
        let (mut values, mut interrupted) = (Vec::new(), false);
        loop {
            let Connection { socket, buffer, .. } = self;
            let length = retry_interrupted(|| {
                buffer.clear();
                socket.recv(buffer, libc::MSG_TRUNC)
            })
            .map_err(WireError::Socket)?;
            if length > buffer.len() {
                return Err(WireError::Socket(io::Error::other(format!("a datagram of {length} bytes is longer than the buffer"))));
            }
            for message in messages(buffer) {
                if message.sequence != sequence {
                    continue;
                }
                interrupted |= message.flags & flags::DUMP_INTERRUPTED != 0;
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        return error_of(&message).map_or(Ok((values, interrupted)), Err);
                    }
                    _ => values.extend(parse(&message)),
                }
            }
        }
    }
}

/// The error that an acknowledgement or the end of a dump carries, if it carries one.
fn error_of(message: &Received<'_>) -> Option<WireError> {
    let errno = u32_at(message.payload, 0)?.cast_signed().checked_neg()?;
    if errno <= 0 {
        return None;
    }
    // struct nlmsgerr is the number and the request's header; the end of a dump has the number alone.
    let fixed = if message.kind == NLMSG_ERROR { 4 + crate::wire::HEADER_BYTES } else { 4 };
    let text = message.payload.get(fixed..).map(Attrs::of).and_then(|attrs| attrs.text(NLMSGERR_ATTR_MSG));
    Some(WireError::Refused { errno, message: text })
}

fn retry_interrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
