//! Notices that someone changed what concerns us in the kernel: a wake-up, never the truth.
//!
//! Invariant: each notification is a hint to read back, and losing some (ENOBUFS) is a hint as well. What cannot concern us is passed over
//! so that a busy machine does not keep us reading: others' routes, ageing neighbours, links that come. Changes made by the connections
//! named with [`ForeignChanges::ignore_port`] are our own.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use bowline_dataplane::objects::net::ROUTE_PROTOCOL;
use bowline_dataplane::objects::nft::TABLE;
use netlink_sys::{Socket, SocketAddr};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::netlink::Netlink;
use crate::netns::{NetNs, NetNsError};
use crate::wire::{Attrs, Received, flags, messages, u32_at};

/// RTNLGRP_LINK, _NEIGH, _TC, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV6_IFADDR, _IPV6_ROUTE, _IPV6_RULE.
const NET_GROUPS: [u32; 9] = [1, 3, 4, 5, 7, 8, 9, 11, 19];
/// NFNLGRP_NFTABLES.
const NFT_GROUPS: [u32; 1] = [7];

const BUFFER_BYTES: usize = 64 * 1024;
/// Receive buffer of the kernel: a burst beyond it costs one more reading, not correctness.
const SOCKET_BUFFER_BYTES: usize = 1024 * 1024;

/// What may have changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changed {
    /// Links, what limits them, addresses, routes, neighbours, rules.
    pub net: bool,
    /// Our nftables table.
    pub nft: bool,
}

impl Changed {
    /// Whether anything may have.
    pub fn any(self) -> bool {
        self.net || self.nft
    }
}

/// Why nothing can be noticed.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// A socket failed.
    #[error("cannot watch for changes in the kernel: {source}")]
    Socket {
        /// What the kernel said.
        #[from]
        source: io::Error,
    },
    /// The namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NetNsError),
}

/// Sockets that hear of changes in one network namespace.
pub struct ForeignChanges {
    net: Socket,
    nft: Socket,
    own_ports: Vec<u32>,
    /// How much each link takes, by its index: the kernel says what a link is, not what of it has changed.
    mtus: BTreeMap<u32, u32>,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for ForeignChanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ForeignChanges").field("own_ports", &self.own_ports).finish_non_exhaustive()
    }
}

impl ForeignChanges {
    /// Listens in the calling thread's network namespace. What changes from now on is noticed.
    ///
    /// # Errors
    /// If no socket can be had.
    pub fn open() -> Result<ForeignChanges, WatchError> {
        let net = listen(netlink_sys::protocols::NETLINK_ROUTE, &NET_GROUPS)?;
        let nft = listen(netlink_sys::protocols::NETLINK_NETFILTER, &NFT_GROUPS)?;
        // Without them the first change of a link is found by the next reading that has another cause.
        let links = Netlink::open().and_then(|mut netlink| netlink.links()).unwrap_or_default();
        let mtus = links.iter().map(|link| (link.index, link.mtu_bytes)).collect();
        Ok(ForeignChanges { net, nft, own_ports: Vec::new(), mtus, buffer: Vec::with_capacity(BUFFER_BYTES) })
    }

    /// Listens in another network namespace.
    ///
    /// # Errors
    /// If it cannot be entered or no socket can be had.
    pub fn open_in(ns: &NetNs) -> Result<ForeignChanges, WatchError> {
        ns.run(ForeignChanges::open)?
    }

    /// Passes over what the connection of that port changes (see [`crate::netlink::Netlink::port`]).
    pub fn ignore_port(&mut self, port: u32) {
        self.own_ports.push(port);
    }

    /// Waits until something may have changed, and takes all that is known by then; at the latest until the timeout, with nothing.
    ///
    /// # Errors
    /// If a socket fails for good.
    pub fn wait(&mut self, timeout: Duration) -> Result<Changed, WatchError> {
        let deadline = Instant::now() + timeout;
        loop {
            let changed = self.drain()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if changed.any() || left.is_zero() {
                return Ok(changed);
            }
            let mut fds = [self.net.as_fd(), self.nft.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            let wait = Timespec::try_from(left).ok();
            match poll(&mut fds, wait.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
    }

    /// Takes what is there without waiting.
    fn drain(&mut self) -> io::Result<Changed> {
        let (own, mtus) = (&self.own_ports, &mut self.mtus);
        let net = drain(&self.net, &mut self.buffer, |message| {
            let takes_other = takes_other(mtus, message);
            !own.contains(&message.port) && (takes_other || net_concerns_us(message))
        })?;
        let nft = drain(&self.nft, &mut self.buffer, |message| !own.contains(&message.port) && nft_concerns_us(message))?;
        Ok(Changed { net, nft })
    }
}

fn listen(protocol: isize, groups: &[u32]) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    // More needs CAP_NET_ADMIN; with less, bursts are lost sooner, which is noticed too.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES);
    socket.bind(&SocketAddr::new(0, 0))?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// Reads until nothing is left; says whether anything of it concerns us.
fn drain(socket: &Socket, buffer: &mut Vec<u8>, mut concerns_us: impl FnMut(&Received<'_>) -> bool) -> io::Result<bool> {
    let mut any = false;
    loop {
        buffer.clear();
        match socket.recv(buffer, 0) {
            // Each is looked at, also after one that does.
            Ok(_) => any = messages(buffer).fold(any, |any, message| concerns_us(&message) || any),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(any),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => any = true,
            Err(error) => return Err(error),
        }
    }
}

/// Message types and attributes of rtnetlink that are told apart here (uapi linux/rtnetlink.h).
mod rt {
    pub(super) const NEWLINK: u16 = 16;
    pub(super) const DELLINK: u16 = 17;
    pub(super) const DELADDR: u16 = 21;
    pub(super) const NEWROUTE: u16 = 24;
    pub(super) const DELROUTE: u16 = 25;
    pub(super) const NEWNEIGH: u16 = 28;
    pub(super) const DELNEIGH: u16 = 29;
    pub(super) const NEWRULE: u16 = 32;
    pub(super) const DELRULE: u16 = 33;
    pub(super) const NEWQDISC: u16 = 36;
    pub(super) const DELQDISC: u16 = 37;
    pub(super) const NEWTFILTER: u16 = 44;
    pub(super) const DELTFILTER: u16 = 45;
    pub(super) const IFF_UP: u32 = 1;
    pub(super) const IFLA_MTU: u16 = 4;
    pub(super) const IFLA_LINKINFO: u16 = 18;
    pub(super) const IFLA_INFO_KIND: u16 = 1;
    pub(super) const NDA_PROTOCOL: u16 = 12;
    pub(super) const FRA_PROTOCOL: u16 = 21;
    pub(super) const AF_BRIDGE: u8 = 7;
}

/// Notes how much a link takes. Says whether it took something else before.
fn takes_other(mtus: &mut BTreeMap<u32, u32>, message: &Received<'_>) -> bool {
    // The index in struct ifinfomsg.
    let Some(index) = u32_at(message.payload, 4) else { return false };
    match message.kind {
        rt::NEWLINK => {
            let Some(mtu) = message.attrs(16).u32(rt::IFLA_MTU) else { return false };
            mtus.insert(index, mtu).is_some_and(|before| before != mtu)
        }
        rt::DELLINK => {
            mtus.remove(&index);
            false
        }
        _ => false,
    }
}

fn net_concerns_us(message: &Received<'_>) -> bool {
    let first = message.payload.first().copied();
    match message.kind {
        // What went with a link is not told one by one, nor what went when it was set down; all is changed in the message of a new one.
        rt::DELLINK => true,
        rt::NEWLINK => {
            let (link_flags, change) = (u32_at(message.payload, 8).unwrap_or(0), u32_at(message.payload, 12).unwrap_or(0));
            let went_down = change != u32::MAX && change & rt::IFF_UP != 0 && link_flags & rt::IFF_UP == 0;
            let kind = message.attrs(16).nested(rt::IFLA_LINKINFO).text(rt::IFLA_INFO_KIND);
            went_down || kind.as_deref() == Some("vxlan")
        }
        rt::DELADDR | rt::NEWQDISC | rt::DELQDISC | rt::NEWTFILTER | rt::DELTFILTER => true,
        // Byte 5 of struct rtmsg is the origin. One that replaces another may have replaced ours.
        rt::NEWROUTE | rt::DELROUTE => {
            message.payload.get(5) == Some(&ROUTE_PROTOCOL) || (message.kind == rt::NEWROUTE && message.flags & flags::REPLACE != 0)
        }
        rt::NEWNEIGH | rt::DELNEIGH => {
            message.attrs(12).u8(rt::NDA_PROTOCOL) == Some(ROUTE_PROTOCOL) || (message.kind == rt::DELNEIGH && first == Some(rt::AF_BRIDGE))
        }
        rt::NEWRULE | rt::DELRULE => message.attrs(12).u8(rt::FRA_PROTOCOL) == Some(ROUTE_PROTOCOL),
        _ => false,
    }
}

/// In the messages of tables, chains, rules, sets and elements alike attribute 1 is the table's name.
fn nft_concerns_us(message: &Received<'_>) -> bool {
    const TABLE_NAME: u16 = 1;
    /// NFT_MSG_NEWGEN, which tells of every transaction.
    const NEW_GENERATION: u16 = 15;
    const MESSAGE_MASK: u16 = 0xff;
    message.kind & MESSAGE_MASK != NEW_GENERATION
        && Attrs::of(message.payload.get(4..).unwrap_or_default()).text(TABLE_NAME).as_deref() == Some(TABLE)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use bowline_dataplane::objects::net::{RouteSpec, TABLE_MAIN};

    use super::*;
    use crate::netlink::{Netlink, VethSpec};
    use crate::netns::testing::fresh;

    const LONG: Duration = Duration::from_secs(5);

    fn unicast(link: &str) -> RouteSpec {
        RouteSpec::Unicast { link: link.into(), gateway: None, source: None, mtu_bytes: None }
    }

    #[test]
    fn changes_to_ours_are_noticed_and_others_and_our_own_are_not() {
        let Some(ns) = fresh() else { return };
        let mut own = Netlink::open_in(&ns).unwrap();
        let mut other = Netlink::open_in(&ns).unwrap();
        let mut changes = ForeignChanges::open_in(&ns).unwrap();
        changes.ignore_port(own.port());
        own.create_veth(&VethSpec { name: "a", peer_name: "b", ..VethSpec::default() }).unwrap();
        for name in ["lo", "a", "b"] {
            own.set_up(name).unwrap();
        }
        let destination = "10.1.0.0/16".parse().unwrap();
        own.replace_route(TABLE_MAIN, destination, &unicast("a"), 0, ROUTE_PROTOCOL).unwrap();
        other.replace_route(TABLE_MAIN, "10.2.0.0/16".parse().unwrap(), &unicast("a"), 0, 4).unwrap();
        other.replace_neighbour("a", "10.9.9.9".parse().unwrap(), bowline_model::MacAddr([2; 6]), true, 0).unwrap();
        assert_eq!(changes.wait(Duration::from_millis(100)).unwrap(), Changed::default());
        type Harm = fn(&mut Netlink);
        let harms: [Harm; 5] = [
            |n| n.set_mtu("b", 1400).unwrap(),
            |n| n.replace_neighbour("a", "10.9.9.8".parse().unwrap(), bowline_model::MacAddr([2; 6]), true, ROUTE_PROTOCOL).unwrap(),
            |n| n.delete_route(TABLE_MAIN, "10.1.0.0/16".parse().unwrap(), 0, 0).unwrap(),
            |n| n.set_down("a").unwrap(),
            |n| n.delete_link("a").unwrap(),
        ];
        for harm in harms {
            harm(&mut other);
            assert_eq!(changes.wait(LONG).unwrap(), Changed { net: true, nft: false });
            while changes.wait(Duration::from_millis(20)).unwrap().any() {}
        }
    }
    #[test]
    fn changes_of_our_table_are_noticed() {
        use crate::nft::NftDriver;
        use crate::reconcile::Driver;
        use bowline_dataplane::objects::nft::{Field, NftKey, NftObject, SetData, SetSpec};
        let Some(ns) = fresh() else { return };
        let mut changes = ForeignChanges::open_in(&ns).unwrap();
        let mut driver = NftDriver::open_in(&ns).unwrap();
        let set = SetSpec { key: vec![Field::Ipv4], data: SetData::Nothing, interval: false, dynamic_timeout_ms: None, size: None };
        let key = NftKey::Set("pods".into());
        let mut delta = bowline_model::Delta::default();
        delta.put(key, NftObject::Set(set));
        assert_eq!(driver.apply(&delta).failed, vec![]);
        assert_eq!(changes.wait(LONG).unwrap(), Changed { net: false, nft: true });
        assert_eq!(changes.wait(Duration::from_millis(50)).unwrap(), Changed::default());
        driver.uninstall().unwrap();
        assert_eq!(changes.wait(LONG).unwrap(), Changed { net: false, nft: true });
    }

    #[test]
    fn lost_notifications_are_a_hint_too() {
        let Some(ns) = fresh() else { return };
        let mut own = Netlink::open_in(&ns).unwrap();
        let mut changes = ForeignChanges::open_in(&ns).unwrap();
        changes.ignore_port(own.port());
        own.set_up("lo").unwrap();
        for _ in 0..4000 {
            for spec in [RouteSpec::Unreachable, unicast("lo")] {
                own.replace_route(TABLE_MAIN, "10.1.0.0/16".parse().unwrap(), &spec, 0, 4).unwrap();
            }
        }
        assert!(changes.wait(Duration::ZERO).unwrap().net);
        assert_eq!(changes.wait(Duration::from_millis(20)).unwrap(), Changed::default());
    }
}
