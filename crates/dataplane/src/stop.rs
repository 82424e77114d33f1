//! What kind of rule of ours stopped a packet, by the chain and comment that the interpreter names.

use std::sync::Arc;

use bowline_model::intent::policy::PolicyIntent;

use crate::fabric::GUARD_WRAPPED;
use crate::policy::nftables::{Denial, denials};
use crate::service::nftables::{DISCARD, NOT_A_SOURCE, REFUSE};

/// What stopped a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop<'a> {
    /// Policies, or that there are none yet.
    Denied(Denial<'a>),
    /// A service has no endpoint, or an address of the services' network no service.
    NoEndpoint,
    /// A service has no endpoint on this node, and wants none elsewhere.
    NoLocalEndpoint,
    /// `loadBalancerSourceRanges` do not hold the client.
    NotASource,
    /// A tunnel packet that comes from no node.
    Tunnel,
    /// Another rule, ours or not.
    Other,
}

/// What the rule that ended a packet is, where these policies are in force.
pub fn stop<'a>(policy: &'a PolicyIntent, by: Option<&(Arc<str>, Option<Arc<str>>)>) -> Stop<'a> {
    let Some((chain, says)) = by else { return Stop::Other };
    if says.as_deref() == Some(NOT_A_SOURCE) {
        return Stop::NotASource;
    }
    match &**chain {
        REFUSE => Stop::NoEndpoint,
        DISCARD => Stop::NoLocalEndpoint,
        GUARD_WRAPPED => Stop::Tunnel,
        _ => denials(policy).into_iter().find(|denial| denial.chain() == *chain).map_or(Stop::Other, Stop::Denied),
    }
}

#[cfg(test)]
mod tests {
    use bowline_model::PolicyName;
    use bowline_model::intent::policy::{Direction, PodPolicy, PodSide};

    use super::*;
    use crate::policy::nftables::Reason;

    #[test]
    fn a_chain_of_a_denial_is_known_by_its_policies() {
        let side = PodSide { policies: Some(vec![PolicyName::new("shop", "in")]), ..PodSide::default() };
        let pod = PodPolicy { ingress: side, ..PodPolicy::default() };
        let policy = PolicyIntent { pods: [(Arc::from("bwl1"), Arc::new(pod))].into_iter().collect(), ..PolicyIntent::default() };
        let chain = denials(&policy).into_iter().find(|denial| denial.reason() == Reason::NoRule).map(|denial| denial.chain());
        let by = chain.map(|chain| (chain, None));
        let denied = |stop: Stop<'_>| match stop {
            Stop::Denied(denial) => Some((denial.direction(), denial.reason())),
            Stop::NoEndpoint | Stop::NoLocalEndpoint | Stop::NotASource | Stop::Tunnel | Stop::Other => None,
        };
        assert_eq!(denied(stop(&policy, by.as_ref())), Some((Direction::Ingress, Reason::NoRule)));
        // The same chain under policies that do not make it is nobody's.
        assert_eq!(stop(&PolicyIntent::default(), by.as_ref()), Stop::Other);
        let closed = (Arc::from("denied/closed_egress"), Some(Arc::from("closed until its policy is in force")));
        assert_eq!(denied(stop(&PolicyIntent::default(), Some(&closed))), Some((Direction::Egress, Reason::Closed)));
        let none = PolicyIntent::default();
        let named = |chain: &str, says: Option<&str>| stop(&none, Some(&(chain.into(), says.map(Into::into))));
        assert_eq!(named("refuse", None), Stop::NoEndpoint);
        assert_eq!(named("discard", Some("no local endpoint")), Stop::NoLocalEndpoint);
        assert_eq!(named("svc4_1_from", Some("not in loadBalancerSourceRanges")), Stop::NotASource);
        assert_eq!(named("guard_wrapped", None), Stop::Tunnel);
        assert_eq!(named("guard_pod", None), Stop::Other);
        assert_eq!(stop(&PolicyIntent::default(), None), Stop::Other);
    }
}
