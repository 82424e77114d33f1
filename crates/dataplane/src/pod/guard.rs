//! The guard at pods' links: what a pod may call itself, and what no pod may say.
//!
//! A pod's link has two stations, the pod and the node, and nobody to be found or told: the pod's routes and neighbour entries are permanent.
//! So it has no part in router advertisements, redirects and answers of DHCP, and speaks of no address but its own. What it sends of that is
//! dropped and counted by [`Reason`], before connection tracking; what is not IP is in a table of its own, since rules of IP never see ARP.
//!
//! Invariant: what a TCP packet costs here is its look-up and two comparisons more; only what that does not find is asked what it is.
//! Reference: RFC 826 and 5227 (ARP), 792 and 1256 (ICMP), 4861 and 4862 (neighbours, duplicate addresses), 2131 and 8415 (DHCP);
//! CVE-2020-10749.

use std::collections::BTreeMap;

use bowline_model::intent::pods::PodIntent;
use bowline_model::{Family, Protocol};

use crate::change::{Objects, set_of};
use crate::expr::Part::{ArpSender, ArpSenderMac, ArpTarget, EtherSaddr, IifName, NeighbourTarget, Saddr};
use crate::expr::{FABRIC_LINKS, POD_LINKS, RuleBuilder, ip_field, named, rule};
use crate::fabric::WRAPPED;
use crate::objects::nft::{ChainKind, Field, Hook, KeyBuilder, Rule};

/// Before connection tracking (`NF_IP_PRI_CONNTRACK` is -200, `NF_IP_PRI_RAW` -300), so that a forged packet leaves no trace; after the
/// fragments of a packet are put together (-400), so that none hides what it is.
const GUARD_PRIORITY: i32 = -310;

/// Types of ICMP and ICMPv6.
const REDIRECT: u8 = 5;
const ROUTER: u8 = 9;
const ROUTER6: u8 = 134;
const SOLICITATION6: u8 = 135;
const ADVERTISEMENT6: u8 = 136;
const REDIRECT6: u8 = 137;

/// Why a pod's packet is dropped at its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// ARP that speaks of another station or address than the pod's.
    Arp,
    /// A neighbour advertisement for another's address, or a search for duplicates of one.
    Neighbour,
    /// A router advertisement of either family.
    RouterAdvertisement,
    /// An ICMP redirect of either family.
    Redirect,
    /// An answer of a DHCP server to a client, of either family.
    DhcpAnswer,
    /// Another Ethernet source than the pod's.
    SourceMac,
    /// Another IP source than the pod's. Packets of a pod that is not known yet are among them.
    SourceAddress,
    /// A packet for the fabric's tunnel.
    Tunnel,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 8] = [
        Reason::Arp,
        Reason::Neighbour,
        Reason::RouterAdvertisement,
        Reason::Redirect,
        Reason::DhcpAnswer,
        Reason::SourceMac,
        Reason::SourceAddress,
        Reason::Tunnel,
    ];

    /// The reason in one word.
    pub fn word(self) -> &'static str {
        match self {
            Reason::Arp => "arp",
            Reason::Neighbour => "neighbour",
            Reason::RouterAdvertisement => "router-advertisement",
            Reason::Redirect => "redirect",
            Reason::DhcpAnswer => "dhcp-answer",
            Reason::SourceMac => "source-mac",
            Reason::SourceAddress => "source-address",
            Reason::Tunnel => "tunnel",
        }
    }

    /// The comment of the rules that drop for it, by which their counters are told.
    pub fn says(self) -> &'static str {
        match self {
            Reason::Arp => "ARP of another than the pod",
            Reason::Neighbour => "a neighbour's address that is not the pod's",
            Reason::RouterAdvertisement => "router advertisement from a pod",
            Reason::Redirect => "redirect from a pod",
            Reason::DhcpAnswer => "DHCP answer from a pod",
            Reason::SourceMac => "not the pod's own station",
            Reason::SourceAddress => "not the pod's own address",
            Reason::Tunnel => "tunnel packet from a pod",
        }
    }
}

/// The chains of the table `inet` in which rules drop for a [`Reason`].
pub const CHAINS: [&str; 4] = ["guard_pod", "guard_kinds", "guard_dhcp", "guard_wrapped"];

/// The chain of the table `arp` that does.
pub const ARP_CHAIN: &str = "guard";

/// What the guard knows of a pod: its station, and its addresses at it.
pub(super) fn pod(pod: &PodIntent, objects: &mut Objects) {
    let station = || KeyBuilder::new().ifname(&pod.host_ifname).mac(pod.mac);
    objects.member("src_mac", station().build());
    for (family, ip) in pod.ips.iter() {
        objects.member(named("src", family), station().ip(*ip).build());
        if ip.is_ipv4() {
            objects.arp_member("src4", station().ip(*ip).build());
        }
    }
}

/// The chains, and the sets that they ask.
pub(super) fn frame(objects: &mut Objects) {
    objects.set("src_mac", set_of(&[Field::IfName, Field::Ether]));
    for family in Family::BOTH {
        objects.set(named("src", family), set_of(&[Field::IfName, Field::Ether, ip_field(family)]));
    }
    let mut guard = vec![
        rule().iif(POD_LINKS).goto("guard_pod"),
        rule().iif(FABRIC_LINKS).goto("guard_fabric"),
        rule().iif("lo\0").accept(),
        rule().jump(WRAPPED),
    ];
    for family in Family::BOTH {
        let ours = rule().family(family).in_set(&named("local_net", family), &[Saddr(family)]);
        guard.push(ours.drop().saying("this node's pods' address from outside"));
    }
    guard.push(rule().goto("guard_outside"));
    objects.base("guard", ChainKind::Filter, Hook::Prerouting, GUARD_PRIORITY, guard);
    stations(objects);
    kinds(objects);
    arp(objects);
}

/// Packets with the pod's own source are asked for the kinds that no pod may send, the others why they have another.
fn stations(objects: &mut Objects) {
    let own = |family| rule().family(family).in_set(&named("src", family), &[IifName, EtherSaddr, Saddr(family)]).goto("guard_own");
    let mut pod: Vec<Rule> = Family::BOTH.into_iter().map(own).collect();
    pod.push(rule().jump("guard_kinds"));
    // A search for duplicates of its own address, a report of multicast groups, a request of DHCP, by a pod that is just being made as well:
    // nobody is there who would answer, policies have no word on them, and they claim nothing, so they end here and are no reason.
    for family in Family::BOTH {
        pod.push(rule().family(family).unspecified(Saddr(family)).drop().saying("a pod without an address"));
    }
    pod.push(dropped(rule().not_in_set(&"src_mac".into(), &[IifName, EtherSaddr]), Reason::SourceMac));
    pod.push(dropped(rule(), Reason::SourceAddress));
    objects.chain("guard_pod", pod);
    objects.chain("guard_own", vec![rule().protocol(Protocol::Tcp).accept(), rule().jump("guard_kinds"), rule().accept()]);
}

/// What no pod may send, whatever its source.
fn kinds(objects: &mut Objects) {
    let of = |family, kind, reason| dropped(rule().icmp(family, kind), reason);
    let not_own = |packets: RuleBuilder| packets.not_in_set(&named("src", Family::V6), &[IifName, EtherSaddr, NeighbourTarget]);
    let v6 = |kind| rule().icmp(Family::V6, kind);
    let kinds = vec![
        rule().protocol(Protocol::Udp).goto("guard_dhcp"),
        of(Family::V4, REDIRECT, Reason::Redirect),
        of(Family::V4, ROUTER, Reason::RouterAdvertisement),
        of(Family::V6, ROUTER6, Reason::RouterAdvertisement),
        of(Family::V6, REDIRECT6, Reason::Redirect),
        dropped(not_own(v6(ADVERTISEMENT6)), Reason::Neighbour),
        // Without a source, a solicitation asks whether anybody has the address that it is about to take.
        dropped(not_own(v6(SOLICITATION6).unspecified(Saddr(Family::V6))), Reason::Neighbour),
    ];
    objects.chain("guard_kinds", kinds);
    let answers = |family, from, to| dropped(rule().family(family).ports(from, to), Reason::DhcpAnswer);
    objects.chain("guard_dhcp", vec![answers(Family::V4, 67, 68), answers(Family::V6, 547, 546)]);
}

/// Of ARP a pod may say what is true of itself, and ask whether anybody else has its address (a probe, whose sender is all zeros).
fn arp(objects: &mut Objects) {
    objects.arp_set("src4", set_of(&[Field::IfName, Field::Ether, Field::Ipv4]));
    let own = |packets: RuleBuilder, address| {
        let by_link = packets.in_set(&"src4".into(), &[IifName, EtherSaddr, address]);
        by_link.in_set(&"src4".into(), &[IifName, ArpSenderMac, address]).accept()
    };
    let pods = || rule().iif(POD_LINKS);
    objects.arp_base(ARP_CHAIN, vec![own(pods(), ArpSender), own(pods().unspecified(ArpSender), ArpTarget), dropped(pods(), Reason::Arp)]);
}

fn dropped(packets: RuleBuilder, reason: Reason) -> Rule {
    packets.drop().saying(reason.says())
}

/// The counters' sum for each reason, from the comments and packets of the rules of [`CHAINS`] and [`ARP_CHAIN`].
pub fn by_reason<'a>(counters: impl IntoIterator<Item = (&'a str, u64)>) -> BTreeMap<Reason, u64> {
    let mut sums: BTreeMap<Reason, u64> = Reason::ALL.into_iter().map(|reason| (reason, 0)).collect();
    for (comment, packets) in counters {
        let of = sums.iter_mut().find(|(reason, _)| reason.says() == comment);
        of.into_iter().for_each(|(_, sum)| *sum += packets);
    }
    sums
}
