//! Packets that rules give to a group of nfnetlink_log, as they come.
//!
//! Invariants: nobody waits for who listens here, and what is lost on the way is counted by the gaps in the kernel's own numbers; whatever
//! a message holds, it is read or passed over.
//! Reference: uapi linux/netfilter/nfnetlink_log.h. Numbers within attributes are in network order.

mod packet;

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;

use crate::netns::{NetNs, NetNsError};
use crate::wire::{Message, NLMSG_ERROR, Received, flags, messages, u32_at};

pub use packet::Ends;

/// `NFNL_SUBSYS_ULOG` in the upper half of a message's type.
const SUBSYSTEM: u16 = 4 << 8;
const PACKET: u16 = SUBSYSTEM;
const CONFIG: u16 = SUBSYSTEM | 1;
/// Bytes of `struct nfgenmsg`.
const FAMILY_HEADER_BYTES: usize = 4;
/// Attributes of a packet.
const PAYLOAD: u16 = 9;
const PREFIX: u16 = 10;
const SEQUENCE: u16 = 12;
/// Attributes of a configuration, and their values.
const CFG_COMMAND: u16 = 1;
const CFG_MODE: u16 = 2;
const CFG_TIMEOUT: u16 = 4;
const CFG_THRESHOLD: u16 = 5;
const CFG_FLAGS: u16 = 6;
const COMMAND_BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const NUMBERED: u16 = 1;

/// The kernel gathers packets for so many hundredths of a second, or so many of them.
const GATHER_CENTISECONDS: u32 = 5;
const GATHER_PACKETS: u32 = 64;
/// Longest part of a packet that is wanted; rules may give less.
const COPY_BYTES: u32 = 256;
/// Longest datagram: the kernel's own bound for what it gathers is 64 KiB.
const BUFFER_BYTES: usize = 128 << 10;
/// Room for what comes in a burst while nobody reads.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// How long the kernel may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Datagrams that are read at once at most, so that who listens comes to its other work.
const DATAGRAMS_AT_ONCE: usize = 64;

/// Why a group cannot be listened to.
#[derive(Debug, Error)]
pub enum NfLogError {
    /// The socket failed.
    #[error("cannot listen to packets of rules: {source}")]
    Socket {
        /// What the kernel said.
        #[from]
        source: io::Error,
    },
    /// The kernel refused the group.
    #[error("cannot listen to group {group} of nfnetlink_log: {source}")]
    Refused {
        /// The group.
        group: u16,
        /// Why. `EBUSY`: someone else listens to it.
        source: io::Error,
    },
    /// The namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NetNsError),
}

/// A packet as a rule gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// What the rule says with it.
    pub prefix: String,
    /// Who sends it to whom; none if that is not to be seen.
    pub ends: Option<Ends>,
}

/// What came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// The packets in order.
    pub packets: Vec<Logged>,
    /// Packets that rules gave and that did not come: this socket was full.
    pub lost: u64,
}

/// Listens to a group in one network namespace. The group is left when this is dropped.
#[derive(Debug)]
pub struct NfLog {
    socket: Socket,
    buffer: Vec<u8>,
    /// The number that the next packet has; none before the first.
    next: Option<u32>,
}

impl NfLog {
    /// Listens in the calling thread's network namespace.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN, if the kernel lacks nfnetlink_log, or if someone listens to the group.
    pub fn open(group: u16) -> Result<NfLog, NfLogError> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // More than the system allows to all needs CAP_NET_ADMIN in the first user namespace; with less, more is lost, which is counted.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES);
        socket.set_non_blocking(true)?;
        let mut log = NfLog { socket, buffer: Vec::with_capacity(BUFFER_BYTES), next: None };
        log.configure(group)?;
        Ok(log)
    }

    /// Listens in another network namespace.
    ///
    /// # Errors
    /// As `open`, and if the namespace cannot be entered.
    pub fn open_in(namespace: &NetNs, group: u16) -> Result<NfLog, NfLogError> {
        namespace.run(|| NfLog::open(group))?
    }

    fn configure(&mut self, group: u16) -> Result<(), NfLogError> {
        let [high, low] = group.to_be_bytes();
        let mut message = Message::new(CONFIG, flags::REQUEST | flags::ACK, &[0, 0, high, low]);
        let [a, b, c, d] = COPY_BYTES.to_be_bytes();
        message.attr_u8(CFG_COMMAND, COMMAND_BIND).attr(CFG_MODE, &[a, b, c, d, COPY_PACKET, 0]);
        message.attr_be32(CFG_TIMEOUT, GATHER_CENTISECONDS).attr_be32(CFG_THRESHOLD, GATHER_PACKETS).attr_be16(CFG_FLAGS, NUMBERED);
        self.socket.send(&message.finish(1), 0)?;
        let deadline = std::time::Instant::now() + ANSWER_WITHIN;
        loop {
            while self.receive()? {
                let answer = messages(&self.buffer).find(|message| message.kind == NLMSG_ERROR && message.sequence == 1);
                let Some(answer) = answer else { continue };
                return match u32_at(answer.payload, 0).map_or(0, u32::cast_signed) {
                    0 => Ok(()),
                    code => Err(NfLogError::Refused { group, source: io::Error::from_raw_os_error(code.saturating_neg()) }),
                };
            }
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
            self.pause(left)?;
        }
    }

    /// Waits until packets come and gives them; at the latest after the timeout, none.
    ///
    /// # Errors
    /// If the socket fails for good.
    pub fn wait(&mut self, timeout: Duration) -> Result<Heard, NfLogError> {
        self.pause(timeout)?;
        let mut heard = Heard::default();
        for _ in 0..DATAGRAMS_AT_ONCE {
            if !self.receive()? {
                break;
            }
            for message in messages(&self.buffer).filter(|message| message.kind == PACKET) {
                note(&message, &mut self.next, &mut heard);
            }
        }
        Ok(heard)
    }

    fn pause(&self, timeout: Duration) -> io::Result<()> {
        let mut fds = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Timespec::try_from(timeout).ok().as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(io::Error::from(errno)),
        }
    }

    /// Reads one datagram into the buffer; false if there is none.
    fn receive(&mut self) -> io::Result<bool> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                // What the socket had no room for is missing among the numbers of the packets.
                Err(error) if error.kind() == io::ErrorKind::Interrupted || error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn note(message: &Received<'_>, next: &mut Option<u32>, heard: &mut Heard) {
    let attrs = message.attrs(FAMILY_HEADER_BYTES);
    if let Some(number) = attrs.be32(SEQUENCE) {
        heard.lost += u64::from(next.map_or(0, |next| number.wrapping_sub(next)));
        *next = Some(number.wrapping_add(1));
    }
    if let Some(prefix) = attrs.text(PREFIX) {
        heard.packets.push(Logged { prefix, ends: attrs.get(PAYLOAD).and_then(Ends::of) });
    }
}

#[cfg(test)]
mod tests;
