//! rtnetlink: links, addresses, routes, neighbours, forwarding entries and rules, blocking.
//!
//! Invariant: a [`Netlink`] works in the namespace in which it was opened, whatever thread uses it. What must be there and is, and what
//! must be gone and is, are no errors. Families split only where a message is written or read. Reference: rtnetlink(7), RFC 3549.

mod address;
mod classifier;
mod driver;

mod error;
mod link;
mod neighbour;
mod route;
mod rule;
pub(crate) mod socket;

use std::net::IpAddr;

use bowline_model::Family;
use ipnet::IpNet;

pub use address::AddressInfo;
pub use bowline_dataplane::objects::net::RouteSpec;
pub(crate) use classifier::Discipline;
pub use driver::{NetDriver, NetSeen};

pub use error::NetlinkError;
pub use link::{LINK_ALIAS, LinkInfo, VethSpec, VxlanInfo, VxlanSpec};
pub use neighbour::{ForwardingInfo, NeighbourInfo};
pub use route::{RouteFilter, RouteInfo};
pub use rule::RuleInfo;

use crate::netns::{NetNs, NetNsError};
use crate::wire::{Message, Received};
use socket::Connection;

/// A connection to rtnetlink in one network namespace.
#[derive(Debug)]
pub struct Netlink {
    connection: Connection,
    ns: NetNs,
}

impl Netlink {
    /// Opens one in the calling thread's network namespace.
    ///
    /// # Errors
    /// If no socket can be had.
    pub fn open() -> Result<Netlink, NetlinkError> {
        let connection = Connection::open(netlink_sys::protocols::NETLINK_ROUTE).map_err(|source| NetlinkError::Socket {
            operation: "open",
            object: "rtnetlink".to_owned(),
            source,
        })?;
        Ok(Netlink { connection, ns: NetNs::current()? })
    }

    /// Opens one in another network namespace.
    ///
    /// # Errors
    /// If it cannot be entered or no socket can be had.
    pub fn open_in(ns: &NetNs) -> Result<Netlink, NetlinkError> {
        ns.run(Netlink::open)?
    }

    /// The network namespace that it works in.
    pub fn namespace(&self) -> &NetNs {
        &self.ns
    }

    /// Runs `f` in that namespace: at once if the calling thread is there, else on a thread that enters it.
    ///
    /// # Errors
    /// If it cannot be entered.
    pub fn inside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, NetNsError> {
        if NetNs::current()?.id()? == self.ns.id()? { Ok(f()) } else { self.ns.run(f) }
    }

    /// The port number that marks notifications of changes made by this connection.
    pub fn port(&self) -> u32 {
        self.connection.port()
    }

    /// Sends a change and waits for its acknowledgement.
    fn execute(&mut self, operation: &'static str, object: impl FnOnce() -> String, message: Message) -> Result<(), NetlinkError> {
        self.connection.execute(message).map_err(|error| NetlinkError::from_wire(operation, object(), error))
    }

    /// As [`Netlink::execute`]; certain refusals mean that there is nothing to do.
    fn execute_unless(
        &mut self,
        fine: &[i32],
        operation: &'static str,
        object: impl FnOnce() -> String,
        message: Message,
    ) -> Result<(), NetlinkError> {
        match self.connection.execute(message) {
            Err(error) if fine.iter().any(|errno| error.is(*errno)) => Ok(()),
            other => other.map_err(|error| NetlinkError::from_wire(operation, object(), error)),
        }
    }

    /// Asks for a list.
    fn list<T>(
        &mut self,
        what: &'static str,
        message: Message,
        parse: impl FnMut(&Received<'_>) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        self.connection.ask(message, parse).map_err(|error| NetlinkError::from_wire("list", what.to_owned(), error))
    }
}

/// `AF_INET` or `AF_INET6` as headers hold it.
fn af_of(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// The family of a header's first byte, if it is one of the two.
fn family_of(af: u8) -> Option<Family> {
    Family::BOTH.into_iter().find(|family| af_of(*family) == af)
}

/// The prefix of an address and a length; none if the length is impossible.
fn prefix(address: IpAddr, length: u8) -> Option<IpNet> {
    IpNet::new(address, length).ok()
}

/// The prefix that holds every address of a family.
fn everything(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::V4(ipnet::Ipv4Net::default()),
        Family::V6 => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

#[cfg(test)]
mod tests;
