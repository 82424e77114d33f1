//! Links: what they are, making, changing and removing them. uapi linux/if_link.h.

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use bowline_model::MacAddr;

use super::{Netlink, NetlinkError};
use crate::netns::NetNs;
use crate::wire::{Attrs, Message, Received, flags, u16_at, u32_at};

/// The alias that marks links of ours.
pub const LINK_ALIAS: &str = "bowline";

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_LINK_NETNSID: u16 = 37;

const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;

const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LINK: u16 = 3;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;

const AF_INET6: u16 = 10;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_NONE: u8 = 1;

const IFF_UP: u32 = 0x1;
const IFF_LOWER_UP: u32 = 0x1_0000;

const IF_OPER_UP: u8 = 6;

/// Leaves the counters out of answers.
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;

/// Length of `struct ifinfomsg`.
const IFINFO_BYTES: usize = 16;

/// A link as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkInfo {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `veth`, `bridge`, `vxlan`, ...; none for hardware and loopback.
    pub kind: Option<String>,
    /// Its address, if it is an Ethernet one.
    pub mac: Option<MacAddr>,
    /// Greatest packet in bytes.
    pub mtu_bytes: u32,
    /// Set up by its administrator.
    pub up: bool,
    /// The medium is there.
    pub carrier: bool,
    /// The kernel has seen that the medium is there and sends on the link (RFC 2863 `up`). Later than `carrier` by work that the kernel
    /// does on the side. Never so for links that do not tell, like loopback.
    pub operational: bool,
    /// Index of the bridge or the like that it belongs to.
    pub master: Option<u32>,
    /// Index of the link below, or of a veth's other end, in the namespace of `link_netns`.
    pub link: Option<u32>,
    /// Number of the namespace that `link` is in, if it is another one.
    pub link_netns: Option<u32>,
    /// Its alias.
    pub alias: Option<String>,
    /// Type of hardware, `ARPHRD_*`.
    pub arphrd: u16,
    /// The kernel makes no IPv6 link-local address for it by itself; true as well where it has no IPv6.
    pub addr_gen_none: bool,
    /// What a VXLAN link is set to.
    pub vxlan: Option<VxlanInfo>,
}

impl LinkInfo {
    /// Whether it carries our alias.
    pub fn is_ours(&self) -> bool {
        self.alias.as_deref() == Some(LINK_ALIAS)
    }

    /// Whether it is of this kind.
    pub fn is_kind(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }

    /// Index of a veth's other end, if that is in the same namespace.
    pub fn peer(&self) -> Option<u32> {
        self.link.filter(|_| self.is_kind("veth") && self.link_netns.is_none())
    }
}

/// The settings of a VXLAN link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VxlanInfo {
    /// Network identifier.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// Local outer address.
    pub local: Option<IpAddr>,
    /// Index of the link below.
    pub device: Option<u32>,
    /// Learns forwarding entries from packets.
    pub learning: bool,
}

/// A pair of veth ends to make.
#[derive(Debug, Clone, Copy, Default)]
pub struct VethSpec<'a> {
    /// Name of the end here.
    pub name: &'a str,
    /// Its MAC; none lets the kernel draw one.
    pub mac: Option<MacAddr>,
    /// Name of the other end.
    pub peer_name: &'a str,
    /// Its MAC; none lets the kernel draw one.
    pub peer_mac: Option<MacAddr>,
    /// Where the other end is made; none is here too.
    pub peer_ns: Option<&'a NetNs>,
    /// MTU of both; none is the kernel's 1500.
    pub mtu_bytes: Option<u32>,
}

/// A VXLAN link to make, without learning.
#[derive(Debug, Clone, Copy)]
pub struct VxlanSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its MAC; none lets the kernel draw one.
    pub mac: Option<MacAddr>,
    /// Network identifier.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// Local outer address.
    pub local: IpAddr,
    /// Link below by name.
    pub device: &'a str,
    /// MTU in bytes.
    pub mtu_bytes: Option<u32>,
}

impl Netlink {
    /// All links.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn links(&mut self) -> Result<Vec<LinkInfo>, NetlinkError> {
        let mut message = Message::new(RTM_GETLINK, flags::REQUEST | flags::DUMP, &header(0, 0, 0));
        message.attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        self.list("links", message, parse)
    }

    /// The link of that name.
    ///
    /// # Errors
    /// If the kernel does not answer. Its absence is none.
    pub fn link(&mut self, name: &str) -> Result<Option<LinkInfo>, NetlinkError> {
        let mut message = named(RTM_GETLINK, 0, name, 0, 0);
        message.attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        match self.connection.ask(message, parse) {
            Ok(found) => Ok(found.into_iter().next()),
            Err(error) if error.is(libc::ENODEV) => Ok(None),
            Err(error) => Err(NetlinkError::from_wire("look up", link_words(name), error)),
        }
    }

    /// The index of the link of that name.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`] if there is none.
    pub fn index_of(&mut self, name: &str) -> Result<u32, NetlinkError> {
        self.link(name)?.map(|link| link.index).ok_or_else(|| NetlinkError::NoSuchLink { name: name.to_owned() })
    }

    /// Makes a pair of veth ends, both down.
    ///
    /// # Errors
    /// EEXIST if either name is taken.
    pub fn create_veth(&mut self, spec: &VethSpec<'_>) -> Result<(), NetlinkError> {
        let mut message = create(spec.name, spec.mac, spec.mtu_bytes);
        message.nested(IFLA_LINKINFO, |info| {
            info.attr_str(IFLA_INFO_KIND, "veth").nested(IFLA_INFO_DATA, |data| {
                data.nested_with(VETH_INFO_PEER, &header(0, 0, 0), |peer| {
                    common(peer, spec.peer_name, spec.peer_mac, spec.mtu_bytes);
                    if let Some(ns) = spec.peer_ns {
                        peer.attr(IFLA_NET_NS_FD, &ns.as_fd().as_raw_fd().to_ne_bytes());
                    }
                });
            });
        });
        self.execute("create", || format!("veth pair {} - {}", spec.name, spec.peer_name), message)
    }

    /// Makes a bridge, down.
    ///
    /// # Errors
    /// EEXIST if the name is taken.
    pub fn create_bridge(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut message = create(name, None, None);
        message.nested(IFLA_LINKINFO, |info| {
            info.attr_str(IFLA_INFO_KIND, "bridge");
        });
        self.execute("create", || format!("bridge {name}"), message)
    }

    /// Makes a VXLAN link, down.
    ///
    /// # Errors
    /// EEXIST if the name, or the same identifier and port, is taken; [`NetlinkError::NoSuchLink`] without the link below.
    pub fn create_vxlan(&mut self, spec: &VxlanSpec<'_>) -> Result<(), NetlinkError> {
        let device = self.index_of(spec.device)?;
        let mut message = create(spec.name, spec.mac, spec.mtu_bytes);
        message.nested(IFLA_LINKINFO, |info| {
            info.attr_str(IFLA_INFO_KIND, "vxlan").nested(IFLA_INFO_DATA, |data| {
                let local = if spec.local.is_ipv4() { IFLA_VXLAN_LOCAL } else { IFLA_VXLAN_LOCAL6 };
                data.attr_u32(IFLA_VXLAN_ID, spec.vni)
                    .attr_u32(IFLA_VXLAN_LINK, device)
                    .attr_ip(local, spec.local)
                    .attr_u8(IFLA_VXLAN_LEARNING, 0)
                    .attr_be16(IFLA_VXLAN_PORT, spec.port);
            });
        });
        self.execute("create", || format!("vxlan link {} (VNI {}, port {})", spec.name, spec.vni, spec.port), message)
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`], or the kernel's refusal.
    pub fn set_up(&mut self, name: &str) -> Result<(), NetlinkError> {
        self.change("set up", name, named(RTM_SETLINK, flags::ACK, name, IFF_UP, IFF_UP))
    }

    /// Sets a link down.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`], or the kernel's refusal.
    pub fn set_down(&mut self, name: &str) -> Result<(), NetlinkError> {
        self.change("set down", name, named(RTM_SETLINK, flags::ACK, name, 0, IFF_UP))
    }

    /// Sets a link's MTU.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`], or EINVAL for what the driver cannot do.
    pub fn set_mtu(&mut self, name: &str, mtu_bytes: u32) -> Result<(), NetlinkError> {
        self.change_attr("set the MTU of", name, |m| m.attr_u32(IFLA_MTU, mtu_bytes))
    }

    /// Sets a link's MAC address.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`], or the kernel's refusal.
    pub fn set_mac(&mut self, name: &str, mac: MacAddr) -> Result<(), NetlinkError> {
        self.change_attr("set the MAC of", name, |m| m.attr(IFLA_ADDRESS, &mac.0))
    }

    /// Gives a link another name.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`], or EEXIST if the name is taken.
    pub fn rename(&mut self, name: &str, new_name: &str) -> Result<(), NetlinkError> {
        let index = self.index_of(name)?;
        let mut message = Message::new(RTM_SETLINK, flags::REQUEST | flags::ACK, &header(index, 0, 0));
        message.attr_str(IFLA_IFNAME, new_name);
        self.execute("rename", || format!("link {name} to {new_name}"), message)
    }

    /// Sets a link's alias.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`], or the kernel's refusal.
    pub fn set_alias(&mut self, name: &str, alias: &str) -> Result<(), NetlinkError> {
        self.change_attr("set the alias of", name, |m| m.attr(IFLA_IFALIAS, alias.as_bytes()))
    }

    /// Puts a link under a bridge, or takes it out.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`] for either, or the kernel's refusal.
    pub fn set_master(&mut self, name: &str, master: Option<&str>) -> Result<(), NetlinkError> {
        let index = master.map_or(Ok(0), |master| self.index_of(master))?;
        self.change_attr("set the master of", name, |m| m.attr_u32(IFLA_MASTER, index))
    }

    /// Moves a link into another namespace. It is down there and has no addresses.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`], or EEXIST if its name is taken there.
    pub fn move_to(&mut self, name: &str, ns: &NetNs) -> Result<(), NetlinkError> {
        let fd = ns.as_fd().as_raw_fd();
        self.change_attr("move", name, |m| m.attr(IFLA_NET_NS_FD, &fd.to_ne_bytes()))
    }

    /// Has the kernel make no IPv6 link-local address for a link by itself. Without IPv6 in the kernel there is nothing to do.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`], or the kernel's refusal.
    pub fn set_addr_gen_none(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut message = named(RTM_SETLINK, flags::ACK, name, 0, 0);
        message.nested(IFLA_AF_SPEC, |spec| {
            spec.nested(AF_INET6, |inet6| {
                inet6.attr_u8(IFLA_INET6_ADDR_GEN_MODE, ADDR_GEN_NONE);
            });
        });
        match self.change("switch off link-local addresses of", name, message) {
            Err(error) if error.errno() == Some(libc::EAFNOSUPPORT) => Ok(()),
            other => other,
        }
    }

    /// Removes a link; with a veth end the other goes too. Absent is fine.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn delete_link(&mut self, name: &str) -> Result<(), NetlinkError> {
        self.execute_unless(&[libc::ENODEV], "delete", || link_words(name), named(RTM_DELLINK, flags::ACK, name, 0, 0))
    }

    fn change_attr(
        &mut self,
        operation: &'static str,
        name: &str,
        fill: impl FnOnce(&mut Message) -> &mut Message,
    ) -> Result<(), NetlinkError> {
        let mut message = named(RTM_SETLINK, flags::ACK, name, 0, 0);
        fill(&mut message);
        self.change(operation, name, message)
    }

    fn change(&mut self, operation: &'static str, name: &str, message: Message) -> Result<(), NetlinkError> {
        match self.connection.execute(message) {
            Err(error) if error.is(libc::ENODEV) => Err(NetlinkError::NoSuchLink { name: name.to_owned() }),
            other => other.map_err(|error| NetlinkError::from_wire(operation, link_words(name), error)),
        }
    }
}

fn link_words(name: &str) -> String {
    format!("link {name}")
}

/// `struct ifinfomsg`.
fn header(index: u32, flags: u32, change: u32) -> [u8; IFINFO_BYTES] {
    let mut bytes = [0; IFINFO_BYTES];
    let words = [0, index, flags, change];
    for (to, from) in bytes.iter_mut().zip(words.into_iter().flat_map(u32::to_ne_bytes)) {
        *to = from;
    }
    bytes
}

/// A request about the link of a name.
fn named(kind: u16, extra_flags: u16, name: &str, link_flags: u32, change: u32) -> Message {
    // A lookup needs its acknowledgement too: it ends the answer.
    let mut message = Message::new(kind, flags::REQUEST | flags::ACK | extra_flags, &header(0, link_flags, change));
    message.attr_str(IFLA_IFNAME, name);
    message
}

fn create(name: &str, mac: Option<MacAddr>, mtu_bytes: Option<u32>) -> Message {
    let mut message = Message::new(RTM_NEWLINK, flags::REQUEST | flags::ACK | flags::CREATE | flags::EXCLUSIVE, &header(0, 0, 0));
    common(&mut message, name, mac, mtu_bytes);
    message
}

fn common(message: &mut Message, name: &str, mac: Option<MacAddr>, mtu_bytes: Option<u32>) {
    message.attr_str(IFLA_IFNAME, name);
    if let Some(mac) = mac {
        message.attr(IFLA_ADDRESS, &mac.0);
    }
    if let Some(mtu) = mtu_bytes {
        message.attr_u32(IFLA_MTU, mtu);
    }
}

fn parse(message: &Received<'_>) -> Option<LinkInfo> {
    if message.kind != RTM_NEWLINK {
        return None;
    }
    let link_flags = u32_at(message.payload, 8)?;
    let attrs = message.attrs(IFINFO_BYTES);
    let info = attrs.nested(IFLA_LINKINFO);
    let kind = info.text(IFLA_INFO_KIND);
    let vxlan = if kind.as_deref() == Some("vxlan") { parse_vxlan(info.nested(IFLA_INFO_DATA)) } else { None };
    Some(LinkInfo {
        index: u32_at(message.payload, 4)?,
        name: attrs.text(IFLA_IFNAME)?,
        kind,
        mac: attrs.get(IFLA_ADDRESS).and_then(|b| b.try_into().ok()).map(MacAddr),
        mtu_bytes: attrs.u32(IFLA_MTU)?,
        up: link_flags & IFF_UP != 0,
        carrier: link_flags & IFF_LOWER_UP != 0,
        operational: attrs.u8(IFLA_OPERSTATE) == Some(IF_OPER_UP),
        master: attrs.u32(IFLA_MASTER),
        link: attrs.u32(IFLA_LINK),
        link_netns: attrs.u32(IFLA_LINK_NETNSID),
        alias: attrs.text(IFLA_IFALIAS),
        arphrd: u16_at(message.payload, 2)?,
        addr_gen_none: attrs.nested(IFLA_AF_SPEC).nested(AF_INET6).u8(IFLA_INET6_ADDR_GEN_MODE).is_none_or(|mode| mode == ADDR_GEN_NONE),
        vxlan,
    })
}

fn parse_vxlan(data: Attrs<'_>) -> Option<VxlanInfo> {
    Some(VxlanInfo {
        vni: data.u32(IFLA_VXLAN_ID)?,
        port: data.be16(IFLA_VXLAN_PORT)?,
        local: data.ip(IFLA_VXLAN_LOCAL).or_else(|| data.ip(IFLA_VXLAN_LOCAL6)),
        device: data.u32(IFLA_VXLAN_LINK).filter(|index| *index != 0),
        learning: data.u8(IFLA_VXLAN_LEARNING).unwrap_or(1) != 0,
    })
}
