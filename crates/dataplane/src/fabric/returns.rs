//! Replies go back the way that the connection came: through the peer whose node port, say, a client outside used.
//!
//! The first packet of a connection that a peer hands over, from an address of no pod and no node, leaves the peer's number in the
//! connection's mark; replies carry it to the routing rules as their own mark. So the client's address survives without translation. The packet
//! itself gets a mark, too, for the programs of the fast path: such a connection is no other one's like.

use std::sync::Arc;

use bowline_model::{Family, MacAddr};

use crate::change::{Objects, values_by};
use crate::expr::Part::{EtherSaddr, IifName, Saddr};
use crate::expr::{CT_NEW, FABRIC_LINKS, POD_LINKS, RuleBuilder, named, rule};
use crate::objects::net::{HELD_MARK, PEER_MARK_MASK, PEER_MARK_SHIFT, RETURNS_MARK, TRANSLATED_MARK};
use crate::objects::nft::{ChainKind, Field, Hook, KeyBuilder, Reg};

/// The map from a peer, by link and Ethernet address, to its mark.
pub(super) const PEER_MARK: &str = "peer_mark";

/// `NF_IP_PRI_MANGLE`.
const MANGLE_PRIORITY: i32 = -150;

/// Register of the peer's mark, behind those of its key.
const PEER: Reg = Reg(6);

/// Chains and map.
pub(super) fn frame(objects: &mut Objects) {
    objects.set(PEER_MARK, values_by(&[Field::IfName, Field::Ether], &[Field::Mark]));
    let peer_mark: Arc<str> = PEER_MARK.into();
    let arrival = |family| {
        rule()
            .family(family)
            .state(CT_NEW)
            .not_in_set(&named("pod_net", family), &[Saddr(family)])
            .not_in_set(&named("node", family), &[Saddr(family)])
            .load(0, &[IifName, EtherSaddr])
            .value(&peer_mark, Reg(0), PEER)
            .set_mark_bits(RETURNS_MARK)
            // A datagram before the first answer is as new as the first: it takes nothing from what was marked meanwhile.
            .ct_mark_without(PEER_MARK_MASK | TRANSLATED_MARK | HELD_MARK)
            .set_ct_mark(PEER)
            .done()
    };
    let reply = |packets: RuleBuilder| packets.reply().ct_mark(PEER_MARK_MASK).set_mark(Reg(0)).done();
    let mut rules: Vec<_> = Family::BOTH.into_iter().map(arrival).collect();
    rules.push(reply(rule().iif(POD_LINKS)));
    objects.base("returns", ChainKind::Filter, Hook::Prerouting, MANGLE_PRIORITY, rules);
    objects.base("returns_output", ChainKind::Route, Hook::Output, MANGLE_PRIORITY, vec![reply(rule())]);
    // The outer packet of a tunnel is routed with the mark of the inner one: without this it would be sent into the tunnel again.
    let unmark = rule().oif(FABRIC_LINKS).constant(Reg(0), KeyBuilder::new().host_u32(0).build()).set_mark(Reg(0)).done();
    objects.base("unmark", ChainKind::Filter, Hook::Postrouting, MANGLE_PRIORITY, vec![unmark]);
}

/// A peer's place in the map.
pub(super) fn peer(link: &str, mac: MacAddr, id: u16, objects: &mut Objects) {
    let mark = KeyBuilder::new().host_u32(u32::from(id) << PEER_MARK_SHIFT).build();
    objects.value(PEER_MARK, KeyBuilder::new().ifname(link).mac(mac).build(), mark);
}
