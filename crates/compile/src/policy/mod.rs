//! NetworkPolicies to what holds for the pods of this node.
//!
//! Invariant: a pod of this node that is attached, named, and not (or no longer) known as such is in no way open: it is absent.
//! Only the rules of policies that select a pod of this node are kept, and only the sets that those rules name.

mod judge;
mod member;
mod rules;
mod selector;
mod sets;
mod story;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bowline_model::intent::policy::{Direction, PodPolicy, PolicyIntent};
use bowline_model::{PodName, PolicyName, Problem};
use imbl::OrdMap;

pub use judge::{Flow, Judge, Reason, Verdict, judge};
use member::Member;
use rules::Compiled;
use sets::{SetKey, Sets, Shift};
pub(crate) use story::{Packet, Side, Subject, ask};

use crate::world::{Attached, Touched, World};

/// Everything that policy was compiled from, and what came of it.
#[derive(Debug, Default)]
pub(crate) struct State {
    members: BTreeMap<PodName, Member>,
    policies: BTreeMap<PolicyName, Compiled>,
    /// Policies of which something could not be understood.
    faulty: BTreeSet<PolicyName>,
    sets: Sets,
    pods: OrdMap<Arc<str>, Arc<PodPolicy>>,
    rules: OrdMap<(PolicyName, Direction), Arc<bowline_model::intent::policy::PolicyRules>>,
}

impl State {
    /// Follows the world; gives whether anything came out differently.
    pub(crate) fn turn(&mut self, world: &World, touched: &Touched) -> bool {
        if touched.all {
            *self = State::default();
        }
        let pods = self.touched_pods(world, touched);
        let mut changed = self.move_members(world, &pods);
        let policies: Vec<PolicyName> = match touched.all {
            true => world.policies().keys().cloned().collect(),
            false => touched.policies.iter().cloned().collect(),
        };
        for name in &policies {
            self.faulty.remove(name);
            self.policies.remove(name);
            if let Some(policy) = world.policies().get(name) {
                let compiled = rules::compile(name, policy);
                if !compiled.problems.is_empty() {
                    self.faulty.insert(name.clone());
                }
                self.policies.insert(name.clone(), compiled);
            }
        }
        let ifnames = touched_attachments(world, touched, &pods, &policies);
        let selection = self.select(world, &ifnames);
        if selection || !policies.is_empty() {
            changed |= self.hold();
        }
        changed | selection | touched.all
    }

    /// What came of it.
    pub(crate) fn intent(&self) -> PolicyIntent {
        PolicyIntent {
            pods: self.pods.clone(),
            rules: self.rules.clone(),
            sets: self.sets.pods.clone(),
            named_ports: self.sets.ports.clone(),
        }
    }

    /// What is wrong with the policies.
    pub(crate) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.faulty.iter().filter_map(|name| self.policies.get(name)).flat_map(|policy| &policy.problems)
    }

    fn touched_pods(&self, world: &World, touched: &Touched) -> BTreeSet<PodName> {
        if touched.all {
            return world.pods().keys().cloned().collect();
        }
        let mut pods = touched.pods.clone();
        for namespace in &touched.namespaces {
            let first = PodName::new(namespace.0.clone(), "");
            let known = world.pods().range(first..).map(|(pod, _)| pod);
            pods.extend(known.take_while(|pod| pod.namespace == namespace.0).cloned());
        }
        pods
    }

    /// Brings the sets up to date with pods.
    fn move_members(&mut self, world: &World, pods: &BTreeSet<PodName>) -> bool {
        let mut shifts = Vec::new();
        for pod in pods {
            let new = Member::of(world, pod);
            if new.as_ref() == self.members.get(pod) {
                continue;
            }
            let old = match new.clone() {
                Some(new) => self.members.insert(pod.clone(), new),
                None => self.members.remove(pod),
            };
            shifts.push(Shift { pod, old, new });
        }
        self.sets.shift(&shifts)
    }

    /// Finds the policies of attachments again; gives whether any has others now.
    fn select(&mut self, world: &World, ifnames: &BTreeSet<Arc<str>>) -> bool {
        let mut changed = false;
        for ifname in ifnames {
            let new = world.attached().get(ifname).and_then(|attached| self.pod_policy(world, attached));
            if new.as_ref() == self.pods.get(ifname).map(|old| &**old) {
                continue;
            }
            changed = true;
            match new {
                Some(new) => self.pods.insert(ifname.clone(), Arc::new(new)),
                None => self.pods.remove(ifname),
            };
        }
        changed
    }

    /// The policies of an attachment; none where its pod is not known, so that it stays closed.
    fn pod_policy(&self, world: &World, attached: &Attached) -> Option<PodPolicy> {
        if attached.intent.pod.is_none() {
            // Not a pod of the cluster: no policy can mean it.
            return Some(PodPolicy::default());
        }
        let (name, pod) = world.pod_of(attached)?;
        let first = PolicyName::new(name.namespace.clone(), "");
        let same = self.policies.range(first..).take_while(|(policy, _)| policy.namespace == name.namespace);
        let selecting = same.filter(|(_, policy)| policy.selector.matches(&pod.metadata.labels));
        let (mut ingress, mut egress) = (Vec::new(), Vec::new());
        for (policy, compiled) in selecting {
            if compiled.ingress.is_some() {
                ingress.push(policy.clone());
            }
            if compiled.egress.is_some() {
                egress.push(policy.clone());
            }
        }
        let some = |list: Vec<PolicyName>| (!list.is_empty()).then_some(list);
        Some(PodPolicy { ingress: some(ingress), egress: some(egress) })
    }

    /// Keeps the rules and sets that pods of this node need; gives whether that changed any.
    fn hold(&mut self) -> bool {
        let mut wanted: BTreeSet<(&PolicyName, Direction)> = BTreeSet::new();
        for pod in self.pods.values() {
            wanted.extend(pod.ingress.iter().flatten().map(|policy| (policy, Direction::Ingress)));
            wanted.extend(pod.egress.iter().flatten().map(|policy| (policy, Direction::Egress)));
        }
        let mut sets: BTreeSet<SetKey> = BTreeSet::new();
        let mut rules = OrdMap::new();
        let mut changed = wanted.len() != self.rules.len();
        for (policy, direction) in wanted {
            let Some(side) = self.policies.get(policy).and_then(|compiled| compiled.side(direction)) else { continue };
            sets.extend(side.sets.iter().cloned());
            let key = (policy.clone(), direction);
            let old = self.rules.get(&key).filter(|old| **old == side.rules);
            changed |= old.is_none();
            rules.insert(key, Arc::clone(old.unwrap_or(&side.rules)));
        }
        self.rules = rules;
        changed | self.sets.hold(&sets, &self.members)
    }
}

/// The attachments whose policies must be found again.
fn touched_attachments(world: &World, touched: &Touched, pods: &BTreeSet<PodName>, policies: &[PolicyName]) -> BTreeSet<Arc<str>> {
    if touched.all {
        return world.attached().keys().cloned().collect();
    }
    let mut ifnames = touched.attached.clone();
    for pod in pods {
        ifnames.extend(world.attachments_of(pod).map(|attached| Arc::clone(attached.host_ifname())));
    }
    let namespaces: BTreeSet<&Arc<str>> = policies.iter().map(|policy| &policy.namespace).collect();
    if !namespaces.is_empty() {
        let meant = |attached: &&Arc<Attached>| attached.intent.pod.as_ref().is_some_and(|pod| namespaces.contains(&pod.namespace));
        ifnames.extend(world.attached().values().filter(meant).map(|attached| Arc::clone(attached.host_ifname())));
    }
    ifnames
}
