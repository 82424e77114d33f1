//! NetworkPolicies and ClusterNetworkPolicies to what holds for the pods of this node.
//!
//! Invariant: a pod of this node that is attached, named, and not (or no longer) known as such is in no way open: it is absent. So is one
//! whose namespace is not known where there are ClusterNetworkPolicies: they choose by namespaces' labels. Only the rules of policies that select a pod of this node are kept, and only the sets that those rules name.

mod held;
mod judge;
mod member;
mod rules;
mod selector;
mod sets;
mod story;
mod tier_story;
mod tiers;
mod unasked;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bowline_model::intent::policy::{Direction, PodPolicy, PolicyIntent, PolicyRules, Tier, TierRules};
use bowline_model::{ClusterPolicyName, NamespaceName, NodeName, PodName, PolicyName, Problem};
use imbl::OrdMap;
use ipnet::IpNet;

use held::Held;
pub use judge::{Flow, Judge, Reason, Verdict, judge};
use member::{Member, NodeMember};
use rules::Compiled;
use sets::{Sets, Shift};
pub(crate) use story::{Packet, Side, Subject};
pub(crate) use tier_story::ask;
use tiers::Ranked;

use crate::world::{Attached, Labels, Touched, World};

/// Everything that policy was compiled from, and what came of it.
#[derive(Debug, Default)]
pub(crate) struct State {
    members: BTreeMap<PodName, Member>,
    nodes: BTreeMap<NodeName, NodeMember>,
    policies: BTreeMap<PolicyName, Compiled>,
    ranked: BTreeMap<ClusterPolicyName, Ranked>,
    /// The order in which ClusterNetworkPolicies are asked: by tier, then by priority; equal ones by their names, since the API leaves open
    /// which goes first.
    order: BTreeSet<(Tier, i64, ClusterPolicyName)>,
    /// Policies of which something could not be understood.
    faulty: BTreeSet<PolicyName>,
    faulty_ranked: BTreeSet<ClusterPolicyName>,
    sets: Sets,
    pods: OrdMap<Arc<str>, Arc<PodPolicy>>,
    rules: Held<PolicyName, PolicyRules>,
    tiers: Held<ClusterPolicyName, TierRules>,
    pod_networks: Arc<[IpNet]>,
}

impl State {
    /// Follows the world; gives whether anything came out differently.
    pub(crate) fn turn(&mut self, world: &World, touched: &Touched) -> bool {
        if touched.all {
            *self = State::default();
        }
        let pods = self.touched_pods(world, touched);
        let mut changed = self.move_members(world, &pods) | self.move_nodes(world, touched);
        let pod_networks = world.pod_networks();
        if *self.pod_networks != *pod_networks {
            self.pod_networks = pod_networks.into();
            changed = true;
        }
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
        let ranked: Vec<ClusterPolicyName> = match touched.all {
            true => world.cluster_policies().keys().cloned().collect(),
            false => touched.cluster_policies.iter().cloned().collect(),
        };
        let subjects = self.rank(world, &ranked);
        let mut ifnames = touched_attachments(world, touched, &pods, &policies);
        if !ranked.is_empty() {
            ifnames.extend(meant_by(world, &subjects));
        }
        policies.iter().for_each(|name| self.rules.touch(name));
        ranked.iter().for_each(|name| self.tiers.touch(name));
        changed |= self.select(world, &ifnames);
        changed |= self.rules.settle(&mut self.sets, |name, direction| self.policies.get(name)?.side(direction));
        changed |= self.tiers.settle(&mut self.sets, |name, direction| self.ranked.get(name)?.side(direction));
        changed |= self.sets.settle(&self.members, &self.nodes);
        changed | touched.all
    }

    /// What came of it.
    pub(crate) fn intent(&self) -> PolicyIntent {
        PolicyIntent {
            pods: self.pods.clone(),
            rules: self.rules.rules.clone(),
            tiers: self.tiers.rules.clone(),
            sets: self.sets.pods.clone(),
            named_ports: self.sets.ports.clone(),
            pod_networks: self.pod_networks.clone(),
        }
    }

    /// What is wrong with the policies.
    pub(crate) fn problems(&self) -> impl Iterator<Item = &Problem> {
        let policies = self.faulty.iter().filter_map(|name| self.policies.get(name)).flat_map(|policy| &policy.problems);
        let ranked = self.faulty_ranked.iter().filter_map(|name| self.ranked.get(name)).flat_map(|policy| &policy.problems);
        policies.chain(ranked)
    }

    /// Reads ClusterNetworkPolicies again; gives whom they were about, and whom they are about now.
    fn rank(&mut self, world: &World, names: &[ClusterPolicyName]) -> Vec<tiers::Subject> {
        let mut subjects = Vec::new();
        for name in names {
            self.faulty_ranked.remove(name);
            if let Some(old) = self.ranked.remove(name) {
                self.order.remove(&(old.tier, old.priority, name.clone()));
                subjects.push(old.subject);
            }
            if let Some(policy) = world.cluster_policies().get(name) {
                let new = tiers::compile(name, policy);
                if !new.problems.is_empty() {
                    self.faulty_ranked.insert(name.clone());
                }
                self.order.insert((new.tier, new.priority, name.clone()));
                subjects.push(new.subject.clone());
                self.ranked.insert(name.clone(), new);
            }
        }
        subjects
    }

    /// Brings the sets up to date with nodes.
    fn move_nodes(&mut self, world: &World, touched: &Touched) -> bool {
        let names: Vec<NodeName> = match touched.all {
            true => world.nodes().keys().cloned().collect(),
            false => touched.nodes.iter().cloned().collect(),
        };
        let mut moved = false;
        for name in names {
            let new = world.nodes().get(&name).map(|node| NodeMember::of(node));
            if new.as_ref() == self.nodes.get(&name) {
                continue;
            }
            moved = true;
            match new {
                Some(new) => self.nodes.insert(name, new),
                None => self.nodes.remove(&name),
            };
        }
        moved && self.sets.follow_nodes(&self.nodes)
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
            let (old, none) = (self.pods.get(ifname).cloned().unwrap_or_default(), PodPolicy::default());
            for direction in Direction::BOTH {
                let (old, new) = (old.side(direction), new.as_ref().unwrap_or(&none).side(direction));
                self.rules.pass(direction, old.policies.iter().flatten(), new.policies.iter().flatten());
                self.tiers.pass(direction, old.admin.iter().chain(&old.baseline), new.admin.iter().chain(&new.baseline));
            }
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
        let mut of_pod = PodPolicy::default();
        if !self.ranked.is_empty() {
            self.tiers_of(namespace_labels(world, name)?, &pod.metadata.labels, &mut of_pod);
        }
        let first = PolicyName::new(name.namespace.clone(), "");
        let same = self.policies.range(first..).take_while(|(policy, _)| policy.namespace == name.namespace);
        for (policy, compiled) in same.filter(|(_, policy)| policy.selector.matches(&pod.metadata.labels)) {
            for (side, compiled) in [(&mut of_pod.ingress, &compiled.ingress), (&mut of_pod.egress, &compiled.egress)] {
                if compiled.is_some() {
                    side.policies.get_or_insert_default().push(policy.clone());
                }
            }
        }
        Some(of_pod)
    }

    /// Finds the ClusterNetworkPolicies for a pod, in the order in which they are asked.
    fn tiers_of(&self, namespace: &Labels, pod: &Labels, of_pod: &mut PodPolicy) {
        for (tier, _, name) in &self.order {
            let Some(ranked) = self.ranked.get(name).filter(|ranked| ranked.subject.means(namespace, pod)) else { continue };
            for (side, compiled) in [(&mut of_pod.ingress, &ranked.ingress), (&mut of_pod.egress, &ranked.egress)] {
                let list = match tier {
                    Tier::Admin => &mut side.admin,
                    Tier::Baseline => &mut side.baseline,
                };
                if compiled.is_some() {
                    list.push(name.clone());
                }
            }
        }
    }
}

/// The labels of a pod's namespace; none while that is not known.
fn namespace_labels<'w>(world: &'w World, pod: &PodName) -> Option<&'w Labels> {
    world.namespaces().get(&NamespaceName(pod.namespace.clone())).map(|namespace| &*namespace.metadata.labels)
}

/// Whether a pod must stay closed because nobody can say yet which ClusterNetworkPolicies are about it.
pub(crate) fn awaits_namespace(world: &World, pod: &PodName) -> bool {
    !world.cluster_policies().is_empty() && namespace_labels(world, pod).is_none()
}

/// The attachments of pods that one of these subjects means, or of which that cannot be said.
fn meant_by<'w>(world: &'w World, subjects: &'w [tiers::Subject]) -> impl Iterator<Item = Arc<str>> + 'w {
    let meant = |attached: &&Arc<Attached>| {
        world.pod_of(attached).is_some_and(|(name, pod)| match namespace_labels(world, name) {
            Some(namespace) => subjects.iter().any(|subject| subject.means(namespace, &pod.metadata.labels)),
            None => true,
        })
    };
    world.attached().values().filter(meant).map(|attached| Arc::clone(attached.host_ifname()))
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
