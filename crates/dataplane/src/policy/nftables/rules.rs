//! One policy's rules in one direction: a chain that accepts what they let through and otherwise comes back.
//!
//! Everything that a policy needs beside the shared sets carries its name, so that a change of one policy touches nothing of another.

use std::sync::Arc;

use bowline_model::PolicyName;
use bowline_model::intent::policy::{Direction, PolicyIntent, PolicyRules};
use sha2::{Digest, Sha256};

use super::taken::{Taken, lower_changed, names_any};
use crate::change::{Change, Objects};
use crate::expr::RuleBuilder;
use crate::objects::nft::Rule;

/// Names longer than this are cut and told apart by a digest: the kernel takes 255 bytes, and a namespace (63) always stays whole.
const NAME_BYTES: usize = 120;

/// 64 bits of SHA-256: names are given by people who may want them to collide.
pub(super) fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The chain of a policy's rules.
pub(super) fn chain(direction: Direction, policy: &PolicyName) -> Arc<str> {
    let stem = match direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    };
    named_for(stem, &policy.to_string())
}

/// The name of something that belongs to a policy: a stem, and the policy's own name as far as there is room.
pub(super) fn named_for(stem: &str, name: &str) -> Arc<str> {
    match name.get(..NAME_BYTES) {
        Some(start) if name.len() > NAME_BYTES => format!("{stem}/{start}.{}", digest(name)).into(),
        _ => format!("{stem}/{name}").into(),
    }
}

/// Lowers the policies whose rules changed, or whose sets came or went.
pub(super) fn lower(old: &PolicyIntent, new: &PolicyIntent, change: &mut Change) {
    let names = |rules: &Arc<PolicyRules>, sets: &_| rules.rules.iter().any(|rule| names_any(&rule.peers, rule.ports.as_deref(), sets));
    lower_changed((&old.rules, old), (&new.rules, new), change, names, |key, rules, intent, objects| {
        lower_one(key, rules, intent, objects)
    });
}

fn lower_one((policy, direction): &(PolicyName, Direction), rules: &PolicyRules, sets: &PolicyIntent, objects: &mut Objects) {
    let chain = chain(*direction, policy);
    let name = policy.to_string();
    let mut lowered: Vec<Rule> = Vec::new();
    for (index, rule) in rules.rules.iter().enumerate() {
        let place = format!("{chain}/{index}");
        let taken = Taken { peers: &rule.peers, ports: rule.ports.as_deref(), direction: *direction, place: &place, comment: &name };
        lowered.extend(taken.lower(sets, objects, RuleBuilder::accept).0);
    }
    objects.chain(chain, lowered);
}
