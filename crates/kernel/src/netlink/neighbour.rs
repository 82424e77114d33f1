//! Neighbours, and the forwarding entries of VXLAN links, which the kernel keeps behind the same messages. uapi linux/neighbour.h.

use std::net::IpAddr;

use bowline_model::{Family, MacAddr};

use super::{Netlink, NetlinkError, af_of, family_of};
use crate::wire::{Message, Received, flags, u16_at, u32_at};

const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_IFINDEX: u16 = 8;
const NDA_PROTOCOL: u16 = 12;

const NUD_REACHABLE: u16 = 0x02;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 0x02;
const AF_BRIDGE: u8 = 7;

/// Length of `struct ndmsg`.
const NDMSG_BYTES: usize = 12;

/// A neighbour as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighbourInfo {
    /// The link's index.
    pub link: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC, if it is known.
    pub mac: Option<MacAddr>,
    /// It does not age.
    pub permanent: bool,
    /// Who made it; 0 is nobody in particular.
    pub protocol: u8,
}

/// A forwarding entry as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardingInfo {
    /// The link's index.
    pub link: u32,
    /// The inner destination.
    pub mac: MacAddr,
    /// The outer destination, of a VXLAN link.
    pub destination: Option<IpAddr>,
    /// It does not age.
    pub permanent: bool,
    /// It is the link's own, not its bridge's.
    pub own: bool,
}

impl Netlink {
    /// All neighbours of both families.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn neighbours(&mut self) -> Result<Vec<NeighbourInfo>, NetlinkError> {
        let mut all = Vec::new();
        for family in Family::BOTH {
            let message = Message::new(RTM_GETNEIGH, flags::REQUEST | flags::DUMP, &ndmsg(af_of(family), 0, 0, 0));
            all.extend(self.list("neighbours", message, parse_neighbour)?);
        }
        Ok(all)
    }

    /// Makes a neighbour entry or replaces it. A permanent one is neither asked for nor aged. `protocol` 0 leaves it unmarked.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`], or the kernel's refusal.
    pub fn replace_neighbour(
        &mut self,
        link: &str,
        address: IpAddr,
        mac: MacAddr,
        permanent: bool,
        protocol: u8,
    ) -> Result<(), NetlinkError> {
        let index = self.index_of(link)?;
        self.put_neighbour(index, address, mac, permanent, protocol)
    }

    pub(crate) fn put_neighbour(
        &mut self,
        index: u32,
        address: IpAddr,
        mac: MacAddr,
        permanent: bool,
        protocol: u8,
    ) -> Result<(), NetlinkError> {
        let state = if permanent { NUD_PERMANENT } else { NUD_REACHABLE };
        let header = ndmsg(af_of(Family::of(&address)), index, state, 0);
        let mut message = Message::new(RTM_NEWNEIGH, flags::REQUEST | flags::ACK | flags::CREATE | flags::REPLACE, &header);
        message.attr_ip(NDA_DST, address).attr(NDA_LLADDR, &mac.0);
        if protocol != 0 {
            message.attr_u8(NDA_PROTOCOL, protocol);
        }
        self.execute("set", || format!("neighbour {address}"), message)
    }

    /// Removes a neighbour entry. Absent is fine, of the link too.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn delete_neighbour(&mut self, link: &str, address: IpAddr) -> Result<(), NetlinkError> {
        let Some(info) = self.link(link)? else { return Ok(()) };
        let mut message = Message::new(RTM_DELNEIGH, flags::REQUEST | flags::ACK, &ndmsg(af_of(Family::of(&address)), info.index, 0, 0));
        message.attr_ip(NDA_DST, address);
        let absent = [libc::ENOENT, libc::ENODEV];
        self.execute_unless(&absent, "delete", || format!("neighbour {address} of link {link}"), message)
    }

    /// The forwarding entries of a link, or of all.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`], or if the kernel does not answer.
    pub fn forwarding_entries(&mut self, link: Option<&str>) -> Result<Vec<ForwardingInfo>, NetlinkError> {
        let index = link.map(|name| self.index_of(name)).transpose()?;
        let mut message = Message::new(RTM_GETNEIGH, flags::REQUEST | flags::DUMP, &ndmsg(AF_BRIDGE, 0, 0, 0));
        if let Some(index) = index {
            message.attr_u32(NDA_IFINDEX, index);
        }
        self.list("forwarding entries", message, |received| {
            parse_forwarding(received).filter(|entry| index.is_none_or(|i| i == entry.link))
        })
    }

    /// Makes a permanent forwarding entry of a VXLAN link or replaces it.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`], or the kernel's refusal.
    pub fn replace_forwarding(&mut self, link: &str, mac: MacAddr, destination: IpAddr) -> Result<(), NetlinkError> {
        let index = self.index_of(link)?;
        self.put_forwarding(index, mac, destination)
    }

    pub(crate) fn put_forwarding(&mut self, index: u32, mac: MacAddr, destination: IpAddr) -> Result<(), NetlinkError> {
        let header = ndmsg(AF_BRIDGE, index, NUD_PERMANENT, NTF_SELF);
        let mut message = Message::new(RTM_NEWNEIGH, flags::REQUEST | flags::ACK | flags::CREATE | flags::REPLACE, &header);
        message.attr(NDA_LLADDR, &mac.0).attr_ip(NDA_DST, destination);
        self.execute("set", || format!("forwarding entry {mac} to {destination}"), message)
    }

    /// Removes a forwarding entry. Absent is fine, of the link too.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn delete_forwarding(&mut self, link: &str, mac: MacAddr) -> Result<(), NetlinkError> {
        let Some(info) = self.link(link)? else { return Ok(()) };
        let mut message = Message::new(RTM_DELNEIGH, flags::REQUEST | flags::ACK, &ndmsg(AF_BRIDGE, info.index, 0, NTF_SELF));
        message.attr(NDA_LLADDR, &mac.0);
        let absent = [libc::ENOENT, libc::ENODEV];
        self.execute_unless(&absent, "delete", || format!("forwarding entry {mac} of link {link}"), message)
    }
}

/// `struct ndmsg`.
fn ndmsg(af: u8, index: u32, state: u16, entry_flags: u8) -> [u8; NDMSG_BYTES] {
    let ([a, b, c, d], [e, f]) = (index.to_ne_bytes(), state.to_ne_bytes());
    [af, 0, 0, 0, a, b, c, d, e, f, entry_flags, 0]
}

fn parse_neighbour(message: &Received<'_>) -> Option<NeighbourInfo> {
    if message.kind != RTM_NEWNEIGH {
        return None;
    }
    family_of(*message.payload.first()?)?;
    let attrs = message.attrs(NDMSG_BYTES);
    Some(NeighbourInfo {
        link: u32_at(message.payload, 4)?,
        address: attrs.ip(NDA_DST)?,
        mac: attrs.get(NDA_LLADDR).and_then(|b| b.try_into().ok()).map(MacAddr),
        permanent: u16_at(message.payload, 8)? & NUD_PERMANENT != 0,
        protocol: attrs.u8(NDA_PROTOCOL).unwrap_or(0),
    })
}

fn parse_forwarding(message: &Received<'_>) -> Option<ForwardingInfo> {
    if message.kind != RTM_NEWNEIGH || *message.payload.first()? != AF_BRIDGE {
        return None;
    }
    let attrs = message.attrs(NDMSG_BYTES);
    Some(ForwardingInfo {
        link: u32_at(message.payload, 4)?,
        mac: attrs.get(NDA_LLADDR).and_then(|b| b.try_into().ok()).map(MacAddr)?,
        destination: attrs.ip(NDA_DST),
        permanent: u16_at(message.payload, 8)? & NUD_PERMANENT != 0,
        own: message.payload.get(10)? & NTF_SELF != 0,
    })
}
