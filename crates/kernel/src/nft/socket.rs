//! The socket to nftables: dumps, and transactions with all their answers.
//!
//! Invariant: one request at a time, and its answers are read to the end before the next; answers to older requests are passed over.
//! The kernel handles a request within send(2), so a transaction's answers are all there when it returns.
//! Reference: Linux `nfnetlink` batches; netlink(7).

use std::time::Duration;

use bowline_dataplane::objects::nft::TableFamily;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, sockopt};

use super::error::NftError;
use super::uapi::{self, msg};
use super::wire::{FAMILY_HEADER_BYTES, KernelReply, Writer, kernel_reply};
use crate::wire::{Received, messages};

/// Largest transaction that the socket takes, in bytes.
pub(super) const SEND_BYTES_MAX: usize = 512 << 20;
/// Room for answers: each error takes a buffer of the kernel.
const RECEIVE_BYTES: usize = 16 << 20;
/// Longest datagram of a dump that the kernel makes is 32 KiB; a single object is never longer than 64 KiB.
const DATAGRAM_BYTES: usize = 128 << 10;
/// A kernel that does not answer a dump within this time never will.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How often a dump is begun anew because someone changed nftables meanwhile.
const DUMP_TRIES: u32 = 50;
/// Unit of the pauses between those, from the third on.
const PAUSE: Duration = Duration::from_millis(1);

/// A netlink socket of the netfilter family.
#[derive(Debug)]
pub(super) struct NftSocket {
    socket: Socket,
    /// Of the table that is asked about.
    pub(super) family: TableFamily,
    sequence: u32,
    buffer: Vec<u8>,
}

impl NftSocket {
    /// The port that the kernel's notifications name for what is sent here; 0 if the kernel does not say.
    pub(super) fn port(&self) -> u32 {
        let mut address = SocketAddr::new(0, 0);
        self.socket.get_address(&mut address).map_or(0, |()| address.port_number())
    }

    /// Opens one in the calling thread's network namespace, about the table of a family.
    pub(super) fn open(family: TableFamily) -> Result<Self, NftError> {
        let failed = |operation| move |error: std::io::Error| socket_error(operation, &error);
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed("open"))?;
        socket.bind_auto().map_err(failed("bind"))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed("connect"))?;
        socket.set_ext_ack(true).map_err(failed("ask for words with errors"))?;
        socket.set_cap_ack(true).map_err(failed("ask for short errors"))?;
        let option = |operation| move |errno| NftError::Socket { operation, errno };
        // The kernel doubles what is asked for, and refuses what does not fit an int then. Without CAP_NET_ADMIN in the first user
        // namespace only what the system allows to all can be had; a transaction too large for it fails with a reason when it is sent.
        sockopt::set_socket_send_buffer_size_force(&socket, SEND_BYTES_MAX)
            .or_else(|_| sockopt::set_socket_send_buffer_size(&socket, SEND_BYTES_MAX))
            .map_err(option("raise the send buffer"))?;
        sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BYTES)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BYTES))
            .map_err(option("raise the receive buffer"))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_WITHIN)).map_err(option("set a timeout"))?;
        Ok(NftSocket { socket, family, sequence: 1, buffer: Vec::with_capacity(DATAGRAM_BYTES) })
    }

    /// The first sequence number that is free. It and those after it are taken by `used`.
    pub(super) fn free_sequence(&mut self) -> u32 {
        // Begins anew long before the numbers run out; zero is what answers to nothing carry.
        if self.sequence > u32::MAX / 2 {
            self.sequence = 1;
        }
        self.sequence
    }

    /// Takes so many sequence numbers.
    pub(super) fn used(&mut self, count: u32) {
        self.sequence = self.sequence.saturating_add(count);
    }

    /// Asks for objects and reads what each message of the answer holds. An object that is not there is no error: nothing is read.
    pub(super) fn dump<T>(
        &mut self,
        operation: &'static str,
        get: u16,
        body: impl Fn(&mut Writer),
        mut read: impl FnMut(&Received<'_>) -> Option<T>,
    ) -> Result<Vec<T>, NftError> {
        for attempt in 0..DUMP_TRIES {
            std::thread::sleep(PAUSE * attempt.saturating_sub(2).min(20));
            let sequence = self.free_sequence();
            self.used(1);
            let mut request = Writer::about(self.family);
            request.nft(get, uapi::NLM_F_DUMP, sequence, &body);
            self.send(request.bytes())?;
            let mut found = Vec::new();
            if self.receive_dump(operation, sequence, |message| found.extend(read(message)))? {
                return Ok(found);
            }
        }
        Err(NftError::Unsteady { operation, times: DUMP_TRIES })
    }

    /// The number of the generation of rules in the namespace.
    pub(super) fn generation(&mut self) -> Result<u32, NftError> {
        let operation = "ask for the generation of rules";
        let sequence = self.free_sequence();
        self.used(1);
        let mut request = Writer::about(self.family);
        request.nft(msg::GETGEN, 0, sequence, |_| {});
        self.send(request.bytes())?;
        loop {
            self.receive(RecvFlags::empty()).map_err(|errno| NftError::Socket { operation, errno })?;
            let Some(message) = messages(&self.buffer).find(|m| m.sequence == sequence) else { continue };
            let none = NftError::Refused { operation, errno: Errno::PROTO, words: None };
            return match message.kind {
                uapi::NLMSG_ERROR => dump_error(operation, &message).and(Err(none)),
                _ => message.attrs(FAMILY_HEADER_BYTES).be32(uapi::NFTA_GEN_ID).ok_or(none),
            };
        }
    }

    /// Reads to the end of a dump; false if the objects changed meanwhile.
    fn receive_dump(&mut self, operation: &'static str, sequence: u32, mut read: impl FnMut(&Received<'_>)) -> Result<bool, NftError> {
        let mut steady = true;
        loop {
            match self.receive(RecvFlags::empty()) {
                Ok(()) => {}
                // Datagrams were lost: the dump has holes.
                Err(Errno::NOBUFS) => {
                    steady = false;
                    continue;
                }
                Err(errno) => return Err(NftError::Socket { operation, errno }),
            }
            for message in messages(&self.buffer).filter(|m| m.sequence == sequence) {
                steady &= message.flags & uapi::NLM_F_DUMP_INTR == 0;
                match message.kind {
                    uapi::NLMSG_DONE => return Ok(steady),
                    uapi::NLMSG_ERROR => return dump_error(operation, &message).map(|()| steady),
                    _ => read(&message),
                }
            }
        }
    }

    /// Sends a transaction whose messages have the numbers from `first` on, one of which asks for an acknowledgement. Returns the errors;
    /// none at all means that it is in force.
    pub(super) fn transact(&mut self, transaction: &[u8], first: u32, count: u32) -> Result<Vec<KernelReply>, NftError> {
        self.send(transaction)?;
        let (mut answered, mut errors, mut lost) = (false, Vec::new(), false);
        loop {
            match self.receive(RecvFlags::DONTWAIT) {
                Ok(()) => {}
                Err(Errno::AGAIN) => break,
                Err(Errno::NOBUFS) => {
                    lost = true;
                    continue;
                }
                Err(errno) => return Err(NftError::Socket { operation: "read the answers to a transaction", errno }),
            }
            for reply in messages(&self.buffer).filter(|m| m.kind == uapi::NLMSG_ERROR).filter_map(|m| kernel_reply(&m)) {
                if reply.sequence.wrapping_sub(first) >= count {
                    continue;
                }
                answered = true;
                if reply.errno != 0 {
                    errors.push(reply);
                }
            }
        }
        if !answered || (lost && errors.is_empty()) {
            return Err(NftError::NoAnswer { bytes: transaction.len() });
        }
        Ok(errors)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), NftError> {
        loop {
            match rustix::net::send(&self.socket, bytes, SendFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(NftError::Socket { operation: "send", errno }),
            }
        }
    }

    /// Reads one datagram into the buffer.
    fn receive(&mut self, flags: RecvFlags) -> Result<(), Errno> {
        loop {
            self.buffer.clear();
            match rustix::net::recv(&self.socket, spare_capacity(&mut self.buffer), flags) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

fn dump_error(operation: &'static str, message: &Received<'_>) -> Result<(), NftError> {
    let Some(reply) = kernel_reply(message) else { return Ok(()) };
    let errno = Errno::from_raw_os_error(reply.errno);
    if reply.errno == 0 || errno == Errno::NOENT {
        return Ok(());
    }
    Err(NftError::Refused { operation, errno, words: reply.words })
}

fn socket_error(operation: &'static str, error: &std::io::Error) -> NftError {
    NftError::Socket { operation, errno: Errno::from_io_error(error).unwrap_or(Errno::IO) }
}
