//! Addresses that were pods' a moment ago and are not given to others yet.
//!
//! Other nodes know whose an address is by their watches of pods. Until such a node hears that a pod has ended, its policies take for that pod's what
//! is sent from its address, whoever has it by then. So an address is kept back for as long as the status of a pod names it, and for [`REST`] after that.
//!
//! Invariant: what is not a pod's in the eyes of the API nobody can take for one's, and rests for no time; nor does what a pod gets back that had it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bowline_compile::world::Claims;
use bowline_model::PodName;

/// For how long an address is kept back after this node has heard that it is nobody's: by then others have heard it too, also those
/// whose watch broke just then.
const REST: Duration = Duration::from_secs(10);

/// A pod as the runtime names it: its UID tells it from another one of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    /// Its name.
    pub(super) pod: PodName,
    /// Its UID, where the runtime said it.
    pub(super) uid: Option<String>,
}

/// Whose an address was, and when it last was.
#[derive(Debug)]
struct Former {
    owner: Owner,
    last: Instant,
}

/// The addresses that are kept back.
#[derive(Debug, Default)]
pub(super) struct Resting {
    formers: BTreeMap<IpAddr, Former>,
    /// Some were forgotten since the last look.
    forgotten: bool,
}

impl Resting {
    /// The owner has let go of the addresses, at that time.
    pub(super) fn let_go(&mut self, owner: &Owner, addresses: impl IntoIterator<Item = IpAddr>, at: Instant) {
        self.formers.extend(addresses.into_iter().map(|address| (address, Former { owner: owner.clone(), last: at })));
    }

    /// Somebody has them now.
    pub(super) fn given<'a>(&mut self, addresses: impl IntoIterator<Item = &'a IpAddr>) {
        for address in addresses {
            self.forgotten |= self.formers.remove(address).is_some();
        }
    }

    /// Looks who is named by a status: that one's rest has not begun. What has rested is forgotten; says whether anything was since the last look.
    pub(super) fn look(&mut self, claims: &Claims, now: Instant) -> bool {
        let before = self.formers.len();
        self.formers.retain(|address, former| {
            if claims.is_claimed(address, None) {
                former.last = former.last.max(now);
            }
            !former.has_rested(now)
        });
        std::mem::take(&mut self.forgotten) || self.formers.len() < before
    }

    /// Whether it is one of them.
    pub(super) fn is_kept(&self, address: &IpAddr) -> bool {
        self.formers.contains_key(address)
    }

    /// Whether `asker` may have an address that is free.
    pub(super) fn may_have(&self, address: &IpAddr, asker: Option<&Owner>, claims: &Claims, now: Instant) -> bool {
        let rested = |former: &Former| former.has_rested(now) || asker == Some(&former.owner);
        !claims.is_claimed(address, asker.map(|owner| &owner.pod)) && self.formers.get(address).is_none_or(rested)
    }
}

impl Former {
    fn has_rested(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) >= REST
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bowline_compile::world::{Change, Object, Pod, Settings, World};
    use std::sync::Arc;

    const SECOND: Duration = Duration::from_secs(1);

    fn ip(last: u8) -> IpAddr {
        [10, 42, 0, last].into()
    }

    fn owner(name: &str, uid: &str) -> Owner {
        Owner { pod: PodName::new("default", name), uid: Some(uid.to_owned()) }
    }

    /// Claims by pods of these names, with the address and the phase in their status.
    fn claims(pods: &[(&str, IpAddr, &str)]) -> Claims {
        let mut world = World::new(Settings::new("n1"));
        for (name, ip, phase) in pods {
            let pod = serde_json::json!({
                "metadata": {"namespace": "default", "name": name}, "status": {"phase": phase, "podIPs": [{"ip": ip.to_string()}]},
            });
            let pod: Pod = serde_json::from_value(pod).unwrap();
            world.apply(Change::Upsert(Object::Pod(Arc::new(pod))));
        }
        world.claims()
    }

    #[test]
    fn an_address_rests_unless_its_own_pod_asks() {
        let (mut resting, now, none) = (Resting::default(), Instant::now(), Claims::default());
        let (a, b) = (owner("a", "1"), owner("b", "2"));
        let may = |resting: &Resting, asker: Option<&Owner>, after| resting.may_have(&ip(5), asker, &none, now + after);
        assert!(may(&resting, Some(&b), Duration::ZERO), "one that was nobody's");
        resting.let_go(&a, [ip(5)], now);
        assert!(!may(&resting, Some(&b), Duration::ZERO) && !may(&resting, None, Duration::ZERO));
        assert!(!may(&resting, Some(&owner("a", "3")), Duration::ZERO), "another pod of its name");
        assert!(may(&resting, Some(&a), Duration::ZERO), "its own, in another sandbox");
        assert!(!may(&resting, Some(&b), REST - SECOND));
        assert!(may(&resting, Some(&b), REST) && may(&resting, None, REST));
        assert!(resting.may_have(&ip(6), Some(&b), &none, now));
        resting.given([&ip(5)]);
        assert!(resting.look(&none, now) && !resting.look(&none, now), "it was forgotten, once");
        assert!(may(&resting, Some(&b), Duration::ZERO), "who had it last is another now");
    }

    #[test]
    fn it_rests_from_when_no_status_names_it() {
        let (mut resting, now) = (Resting::default(), Instant::now());
        let (a, b) = (owner("a", "1"), owner("b", "2"));
        let (claimed, none) = (claims(&[("a", ip(5), "Running")]), claims(&[("a", ip(5), "Succeeded")]));
        resting.let_go(&a, [ip(5)], now);
        assert!(!resting.may_have(&ip(5), Some(&b), &claimed, now + 2 * REST), "for as long as one does");
        assert!(resting.may_have(&ip(5), Some(&a), &claimed, now));
        assert!(!resting.look(&claimed, now + REST - SECOND));
        assert!(resting.is_kept(&ip(5)));
        assert!(!resting.may_have(&ip(5), Some(&b), &none, now + REST));
        assert!(!resting.may_have(&ip(5), Some(&b), &none, now + 2 * REST - 2 * SECOND));
        assert!(resting.may_have(&ip(5), Some(&b), &none, now + 2 * REST - SECOND));
        assert!(resting.look(&none, now + 2 * REST - SECOND));
        assert!(!resting.is_kept(&ip(5)), "what has rested is forgotten");
    }

    #[test]
    fn one_that_a_status_names_is_not_anothers_whether_it_was_given_here_or_not() {
        let claimed = claims(&[("a", ip(5), "Running")]);
        let resting = Resting::default();
        assert!(!resting.may_have(&ip(5), Some(&owner("b", "2")), &claimed, Instant::now()));
        assert!(!resting.may_have(&ip(5), None, &claimed, Instant::now()));
        assert!(resting.may_have(&ip(5), Some(&owner("a", "1")), &claimed, Instant::now()));
    }
}
