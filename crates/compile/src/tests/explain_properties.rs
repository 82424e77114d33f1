//! Explanations of random worlds: whatever is asked, the verdict is the oracle's.

use std::net::IpAddr;

use bowline_model::Family;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::World;
use crate::explain::cause_of;
use crate::explain::judge::judge;
use crate::explain::{Explainer, Explanation, Outcome, Question, Sent};
use crate::oracle::policy::{End, stopped_by};
use crate::policy::Packet;
use crate::testing::dice::{self, Dice};
use crate::testing::notation::{changes, settings};

fn fold(world: &mut World, line: &str) {
    for change in changes(line) {
        world.apply(change);
    }
}

/// Every address that random worlds know, and some that they do not.
fn ends(family: Family) -> Vec<IpAddr> {
    let texts: Vec<String> = match family {
        Family::V4 => (0..9).map(|n| format!("10.42.1.{n}")).chain(["192.0.2.1", "192.0.2.9", "192.168.0.1"].map(Into::into)).collect(),
        Family::V6 => (0..9).map(|n| format!("fd42:1::{n}")).chain(["2001:db8::1".into()]).collect(),
    };
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// What must hold of every explanation.
fn sound(explanation: &Explanation) -> Result<(), TestCaseError> {
    prop_assert!(explanation.agrees(), "{}", explanation.render(&|_, word| word.to_owned()));
    for path in &explanation.paths {
        let worst = path.steps.iter().filter(|step| step.reached).filter_map(|step| step.verdict).find(|verdict| *verdict != Outcome::Pass);
        prop_assert_eq!(path.verdict, worst.unwrap_or(Outcome::Pass));
        prop_assert_eq!(path.verdict == Outcome::Pass, path.pass_if.is_empty() && worst.is_none());
        prop_assert!(path.hops.iter().rev().skip(1).all(|hop| hop.outcome == Outcome::Pass), "only the last node stops it");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_story_of_the_policies_ends_as_the_oracle_does(objects in vec(any::<u8>(), 60..400), packets in vec(any::<[u8; 4]>(), 40)) {
        let mut world = World::new(settings());
        for namespace in ["ns na team=red", "ns nb team=blue"] {
            fold(&mut world, namespace);
        }
        let mut dice = Dice::new(&objects);
        while !dice.is_spent() {
            let line = match dice.below(8) {
                0 | 1 => dice::policy(&mut dice),
                2 | 3 => dice::cluster_policy(&mut dice),
                4 | 5 => dice::pod(&mut dice),
                6 => dice::node(&mut dice),
                _ => dice::attach(&mut dice),
            };
            fold(&mut world, &line);
        }
        for family in Family::BOTH {
            let ends = ends(family);
            for [src, dst, protocol, port] in &packets {
                let at = |byte: &u8| ends[usize::from(*byte) % ends.len()];
                let (own_node, src, dst) = (*src > 240, at(src), at(dst));
                let sent = [Sent::Tcp, Sent::Tcp, Sent::Udp, Sent::Sctp, Sent::Icmp][usize::from(*protocol) % 5];
                let port = sent.protocol().map(|_| [80, 80, 81, 53, 443][usize::from(*port) % 5]);
                let judged = judge(&world, &Packet { src, dst, sent, port }, own_node);
                let source = if own_node { End::OwnNode(src) } else { End::Address(src) };
                let oracle = stopped_by(&world, source, End::Address(dst), sent.number(family), port).map(cause_of);
                prop_assert_eq!(judged.stopped(), oracle, "{} > {} {:?} {:?}: {:#?}", src, dst, sent, port, judged);
            }
        }
    }

    #[test]
    fn whole_ways_agree_with_the_oracle_on_every_node(objects in vec(any::<u8>(), 100..600), questions in vec(any::<[u8; 4]>(), 12)) {
        let mut settings = settings();
        settings.external_ips = vec!["203.0.113.0/24".parse().unwrap()];
        settings.load_balancer_ips = settings.external_ips.clone();
        let mut world = World::new(settings);
        for line in ["ns na team=red", "ns nb team=blue", "node n1 192.168.0.1 fd00::1 cidr=10.42.1.0/29", "node n2 192.168.0.2 cidr=10.42.2.0/24"] {
            fold(&mut world, line);
        }
        let mut dice = Dice::new(&objects);
        while !dice.is_spent() {
            fold(&mut world, &dice::line(&mut dice));
        }
        let mut explainer = Explainer::new(world, Some(1450));
        let sources = ["na/p", "na/q", "na/r", "nb/p", "nb/q", "svc/na/s", "n1", "n2", "192.0.2.1", "10.42.1.3", "2001:db8::1", "nc/p"];
        let targets = ["pod/na/p:80", "nb/q:http", "na/r:53/udp", "svc/na/s", "svc/na/t:80", "svc/nb/s:80", "n1:30080", "n2:30080", "10.43.0.1:80",
            "10.42.1.2:80", "203.0.113.1:80", "198.51.100.1:81", "[fd43::1]:80", "nc/q", "pod/na/q/icmp", "nb/p/icmpv6", "svc/na/s/icmp",
            "n2/icmp", "203.0.113.1/icmp", "10.43.0.1/icmp"];
        for [source, target, family, _] in &questions {
            let source = sources[usize::from(*source) % sources.len()];
            let target = targets[usize::from(*target) % targets.len()];
            let mut question = Question::parse(source, target, "default").unwrap();
            question.family = question.family.or([None, None, Some(Family::V6)][usize::from(*family) % 3]);
            if let Ok(explanation) = explainer.explain(&question) {
                sound(&explanation)?;
            }
        }
    }
}
