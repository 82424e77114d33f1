//! Each node's part of an explanation, held against the oracle.

use bowline_model::Family;
use bowline_model::intent::policy::{Direction, Tier};
use bowline_model::intent::services::Endpoint;

use super::question::Sent;
use super::told::{Cause, Entry, Hop, Outcome, Seen};
use super::view::View;
use super::way::{frontend_address, host_port, is_own, is_strange_tunnel};
use crate::oracle::policy::{By, End, stopped_by};
use crate::oracle::service::{Answer, Client, endpoints_for};

/// What the oracle says of a packet at a node.
pub(super) fn oracle(view: &View, hop: &Hop, sent: Sent) -> Seen {
    let (oracle, oracle_by) = match service(view, hop, sent) {
        Some((outcome, cause)) => (outcome, Some(cause)),
        None => match policy(view, hop, sent) {
            Some(cause) => (Outcome::Drop, Some(cause)),
            None => (Outcome::Pass, None),
        },
    };
    let (node, explained, explained_by) = (hop.node.clone(), hop.outcome, hop.cause);
    Seen { node, explained, explained_by, oracle, oracle_by, asked: false, kernel: None, kernel_by: None, by: String::new() }
}

/// What becomes of it before any policy, if that is all.
fn service(view: &View, hop: &Hop, sent: Sent) -> Option<(Outcome, Cause)> {
    let (ip, port) = hop.dst;
    let own = matches!(hop.entry, Entry::Pod | Entry::OwnNode);
    let address = frontend_address(view, ip);
    // A service is of a transport protocol and a port: nothing else is any service's.
    let asked = sent.protocol().zip(port);
    let client = Client { ip: hop.src, own };
    let answer = asked
        .map_or(Answer::NotAService, |(protocol, port)| endpoints_for(&view.world, view.node.as_str(), client, address, protocol, port));
    match answer {
        Answer::Reject => Some((Outcome::Reject, Cause::NoEndpoint)),
        // The oracle keeps these apart no further.
        Answer::Drop if hop.cause == Some(Cause::SourceRanges) => Some((Outcome::Drop, Cause::SourceRanges)),
        Answer::Drop => Some((Outcome::Drop, Cause::NoLocalEndpoint)),
        // Another endpoint than any of the oracle's is as good as none.
        Answer::Endpoints(all) => {
            let goes_on = hop.onward.1.is_some_and(|port| all.contains(&Endpoint { ip: hop.onward.0, port }));
            (hop.choices != all.len() || !goes_on).then_some((Outcome::Reject, Cause::Other))
        }
        Answer::NotAService => {
            if let Some((_, endpoint)) = asked.and_then(|(protocol, port)| host_port(view, (ip, port), protocol)) {
                let leads_there = hop.choices == 1 && hop.onward == (endpoint.ip, Some(endpoint.port));
                return (!leads_there).then_some((Outcome::Reject, Cause::Other));
            }
            let refused = !is_own(view, ip) && view.world.service_networks().iter().any(|net| net.contains(&ip));
            let cause = if refused { Cause::NoEndpoint } else { Cause::Other };
            (refused || hop.choices > 0).then_some((Outcome::Reject, cause))
        }
    }
}

/// What stops it then.
fn policy(view: &View, hop: &Hop, sent: Sent) -> Option<Cause> {
    let src = match hop.entry {
        Entry::OwnNode => End::OwnNode(hop.src),
        Entry::Pod | Entry::Fabric(_) | Entry::Outside => End::Address(hop.src),
    };
    let (ip, port) = hop.onward;
    if is_strange_tunnel(view, &hop.entry, hop.src, hop.onward, sent) {
        return Some(Cause::Tunnel);
    }
    let stopped = stopped_by(&view.world, src, End::Address(ip), sent.number(Family::of(&ip)), port)?;
    Some(cause_of(stopped))
}

/// The cause that the oracle's word stands for.
pub(crate) fn cause_of((by, direction): (By, Direction)) -> Cause {
    match by {
        By::Closed => Cause::closed(direction),
        By::Admin => Cause::tier(Tier::Admin, direction),
        By::NetworkPolicies => Cause::policies(direction),
        By::Baseline => Cause::tier(Tier::Baseline, direction),
    }
}
