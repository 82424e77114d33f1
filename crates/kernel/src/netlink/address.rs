//! Addresses on links. uapi linux/if_addr.h.

use bowline_model::Family;
use ipnet::IpNet;

use super::{Netlink, NetlinkError, af_of, family_of, prefix};
use crate::wire::{Message, Received, flags, u32_at};

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;

const IFA_F_NODAD: u32 = 0x02;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_TENTATIVE: u32 = 0x40;

/// Length of `struct ifaddrmsg`.
const IFADDR_BYTES: usize = 8;

/// An address as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressInfo {
    /// The link's index.
    pub link: u32,
    /// The address and its prefix length.
    pub address: IpNet,
    /// `RT_SCOPE_*`: 0 is global, 253 link, 254 host.
    pub scope: u8,
    /// Not usable yet: duplicate address detection is under way or failed.
    pub tentative: bool,
    /// Who made it (`IFAPROT_*`, 1 loopback, 2 router advertisement, 3 link-local); 0 is anybody else.
    pub protocol: u8,
}

impl Netlink {
    /// All addresses of both families.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn addresses(&mut self) -> Result<Vec<AddressInfo>, NetlinkError> {
        self.list("addresses", Message::new(RTM_GETADDR, flags::REQUEST | flags::DUMP, &[0; IFADDR_BYTES]), parse)
    }

    /// Adds an address to a link; one that is there stays as it is. `nodad` leaves duplicate address detection out (IPv6 alone has it).
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`], or the kernel's refusal.
    pub fn add_address(&mut self, link: &str, address: IpNet, nodad: bool) -> Result<(), NetlinkError> {
        let index = self.index_of(link)?;
        self.add_address_at(index, address, nodad)
    }

    pub(crate) fn add_address_at(&mut self, index: u32, address: IpNet, nodad: bool) -> Result<(), NetlinkError> {
        let mut message = request(RTM_NEWADDR, flags::CREATE | flags::EXCLUSIVE, index, address);
        if nodad && Family::of_prefix(&address) == Family::V6 {
            message.attr_u32(IFA_FLAGS, IFA_F_NODAD);
        }
        self.execute_unless(&[libc::EEXIST], "add", || format!("address {address}"), message)
    }

    /// Takes an address from a link. Absent is fine, of the link too.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn delete_address(&mut self, link: &str, address: IpNet) -> Result<(), NetlinkError> {
        let Some(info) = self.link(link)? else { return Ok(()) };
        let message = request(RTM_DELADDR, 0, info.index, address);
        let absent = [libc::EADDRNOTAVAIL, libc::ENODEV];
        self.execute_unless(&absent, "delete", || format!("address {address} of link {link}"), message)
    }
}

fn request(kind: u16, extra_flags: u16, index: u32, address: IpNet) -> Message {
    let [a, b, c, d] = index.to_ne_bytes();
    let header = [af_of(Family::of_prefix(&address)), address.prefix_len(), 0, 0, a, b, c, d];
    let mut message = Message::new(kind, flags::REQUEST | flags::ACK | extra_flags, &header);
    message.attr_ip(IFA_LOCAL, address.addr()).attr_ip(IFA_ADDRESS, address.addr());
    message
}

fn parse(message: &Received<'_>) -> Option<AddressInfo> {
    let (&[af, length, small_flags, scope], true) = (message.payload.first_chunk()?, message.kind == RTM_NEWADDR) else {
        return None;
    };
    family_of(af)?;
    let attrs = message.attrs(IFADDR_BYTES);
    let all_flags = attrs.u32(IFA_FLAGS).unwrap_or(u32::from(small_flags));
    Some(AddressInfo {
        link: u32_at(message.payload, 4)?,
        // On a point-to-point link IFA_ADDRESS is the other side; the own one is IFA_LOCAL wherever both are told.
        address: prefix(attrs.ip(IFA_LOCAL).or_else(|| attrs.ip(IFA_ADDRESS))?, length)?,
        scope,
        tentative: all_flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED) != 0,
        protocol: attrs.u8(IFA_PROTO).unwrap_or(0),
    })
}
