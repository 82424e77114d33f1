//! After a change of rules: the connections that are no longer allowed, and datagram flows to endpoints that are gone, are cut.
//!
//! Rules judge a connection's first packet; the kernel lets the rest pass by its state. So a change that closes has to take the state away,
//! and the next packet is judged anew (TCP without SYN is then no new connection to a selected pod, so the cut is final), or to hold it
//! ([`Fate`]).
//!
//! What is here decides and does; when, and on which thread, is the business of `reaper`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use bowline_compile::{Flow, Judge};
use bowline_dataplane::objects::net::{HELD_MARK, TRANSLATED_MARK};
use bowline_kernel::conntrack::{Conntrack, ConntrackError, Entry, Tuple};
use bowline_kernel::netlink::Netlink;
use bowline_model::Protocol;
use bowline_model::intent::Intent;
use bowline_model::intent::policy::{Action, Peers, PolicyIntent, PortMatch, SetId, TierRule};
use bowline_model::intent::services::{Endpoint, Frontend, FrontendAddress, ServicesIntent};
use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;

/// What is to be looked over after changes, and with what in mind.
pub(super) struct Work {
    gone: Gone,
    /// Something that policy let through may be closed.
    policy: bool,
    /// Services are others.
    services: bool,
    /// What is in the kernel by now.
    new: Arc<Intent>,
}

impl Work {
    /// What the change from `old` to `new` asks for.
    ///
    /// Everything is looked over when nothing is known of what was in force before: after the start (the change may have come while no
    /// agent was there), and where rules had to be `repaired` (what was let in while they were gone is not let go on).
    ///
    /// After a change that only opens, or only adds a pod, nothing can have a connection that is no longer allowed: there is work only
    /// [where some are held](Work::only_opens).
    pub(super) fn between(old: &Intent, new: &Arc<Intent>, repaired: bool) -> Option<Work> {
        let unknown = repaired || old.revision == 0;
        let gone = Gone::between(old, new, unknown);
        let policy = unknown || closes(&old.policy, &new.policy);
        let services = unknown || old.services != new.services;
        let any = policy || services || !gone.is_empty() || differ(&old.policy, &new.policy);
        any.then(|| Work { gone, policy, services, new: new.clone() })
    }

    /// The same and what came after it, in one.
    pub(super) fn join(&mut self, later: Work) {
        self.gone.join(later.gone);
        self.policy |= later.policy;
        self.services |= later.services;
        self.new = later.new;
    }

    /// The pods that are gone, by their links.
    pub(super) fn pods(&self) -> &BTreeSet<Arc<str>> {
        &self.gone.pods
    }

    /// Of the intent that is in the kernel.
    pub(super) fn revision(&self) -> u64 {
        self.new.revision
    }

    /// Whether there is nothing to cut, and only what is held may be let go.
    pub(super) fn only_opens(&self) -> bool {
        !self.policy && !self.services && self.gone.is_empty()
    }

    /// Forgets or holds what is no longer allowed, and lets go what is held and allowed. Looking takes its time; what was allowed meanwhile (it is
    /// `newest`, and may be in the kernel) stays.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub(super) fn cut(&self, newest: &dyn Fn() -> Arc<Intent>) -> Result<Cut, ConntrackError> {
        let mut conntrack = Conntrack::open()?;
        let local = local_addresses();
        let view = View::of(&self.new, &local);
        let concerns = |entry: &Entry| is_held(entry) || self.fate(entry, &view) != Fate::Stays;
        let found = match self.only_opens() {
            true => conntrack.entries_marked(HELD_MARK, concerns)?,
            false => conntrack.entries_where(concerns)?,
        };
        let newest = newest();
        let view = if newest.revision == self.new.revision { view } else { View::of(&newest, &local) };
        let of = |wanted: Fate| -> Vec<Entry> { found.iter().filter(|entry| self.fate(entry, &view) == wanted).copied().collect() };
        let begun = conntrack.mark_all(&of(Fate::IsHeld { already: false }), HELD_MARK)?;
        let let_go = conntrack.unmark_all(&of(Fate::IsLetGo), HELD_MARK)?;
        let forgotten = conntrack.delete_all(&of(Fate::IsForgotten))?;
        let holds = begun > 0 || !of(Fate::IsHeld { already: true }).is_empty();
        Ok(Cut { cut: begun + forgotten, let_go, holds })
    }

    /// The same of connections that connection tracking was told of meanwhile; says how many are no longer allowed.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub(super) fn cut_of(&self, told: &[Tuple], newest: &dyn Fn() -> Arc<Intent>) -> Result<usize, ConntrackError> {
        let (local, newest) = (local_addresses(), newest());
        let view = View::of(&newest, &local);
        let entries = told.iter().copied().map(Entry::untranslated);
        let forgotten: Vec<Entry> = entries.filter(|entry| self.fate(entry, &view) == Fate::IsForgotten).collect();
        Conntrack::open()?.delete_all(&forgotten)
    }

    fn fate(&self, entry: &Entry, view: &View<'_>) -> Fate {
        if self.gone.concerns(entry, &view.own) || (self.services && view.frontends.is_stale(entry, &view.own)) {
            return Fate::IsForgotten;
        }
        let held = is_held(entry);
        let is_asked = (self.policy || held) && view.own.concerns_pods(entry);
        if is_asked && !view.judge.verdict(&view.own.flow(entry)).allowed {
            return if BEGIN_BY_A_WORD.contains(&entry.original.protocol) { Fate::IsForgotten } else { Fate::IsHeld { already: held } };
        }
        if held { Fate::IsLetGo } else { Fate::Stays }
    }
}

/// What was done about connections.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// How many are no longer allowed: they are forgotten, or held from now on.
    pub(super) cut: usize,
    /// How many were held and are allowed again.
    pub(super) let_go: usize,
    /// Whether there are any that are held now.
    pub(super) holds: bool,
}

/// What becomes of a connection.
///
/// One that begins with a word is forgotten when policies no longer allow it: what comes later is of no connection. UDP and the like have no such word, and
/// an answer that is on its way would begin a flow the other way round, which policies may allow; what the end that is denied goes on sending
/// would be its answer. So such a flow is kept and held: the rules judge each of its packets as a beginning, in the direction in which it goes,
/// until the flow ends or policies allow it. Then it goes on as the flow that it was, for the same reason: an answer is on its way already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    IsForgotten,
    /// It may have been held `already`.
    IsHeld {
        already: bool,
    },
    IsLetGo,
}

fn is_held(entry: &Entry) -> bool {
    entry.mark & HELD_MARK != 0
}

/// Protocols in which an answer alone begins no flow: ICMP, TCP, ICMPv6 and SCTP.
const BEGIN_BY_A_WORD: [u8; 4] = [1, 6, 58, 132];

/// The addresses at the node's links, pods' not among them. Where the kernel does not tell, nobody has any: more is cut then, not less.
fn local_addresses() -> BTreeSet<IpAddr> {
    match Netlink::open().and_then(|mut netlink| netlink.addresses()) {
        Ok(addresses) => addresses.iter().map(|held| held.address.addr()).collect(),
        Err(error) => {
            tracing::warn!(%error, "the node's addresses are not to be had; its own connections may be cut");
            BTreeSet::new()
        }
    }
}

/// An intent as connections are held against it.
struct View<'a> {
    own: OwnAddresses<'a>,
    judge: Judge<'a>,
    frontends: Datagrams<'a>,
}

impl<'a> View<'a> {
    fn of(intent: &'a Intent, local: &'a BTreeSet<IpAddr>) -> View<'a> {
        View {
            own: OwnAddresses::of(intent, local),
            judge: Judge::new(&intent.policy, &intent.pods),
            frontends: Datagrams::of(&intent.services),
        }
    }
}

/// Whether something that the old policy let through may be closed by the new one.
fn closes(old: &PolicyIntent, new: &PolicyIntent) -> bool {
    // What is added selects or names nothing that was there before; what names it has changed itself.
    old.pods.diff(&new.pods).any(|item| !matches!(item, DiffItem::Add(..)))
        || old.rules.diff(&new.rules).any(|item| !matches!(item, DiffItem::Add(..)))
        || old.tiers.diff(&new.tiers).any(|item| !matches!(item, DiffItem::Add(..)))
        || closes_by_members(old, new)
}

/// Whether policies differ at all.
fn differ(old: &PolicyIntent, new: &PolicyIntent) -> bool {
    old.pods.diff(&new.pods).next().is_some()
        || old.rules.diff(&new.rules).next().is_some()
        || old.tiers.diff(&new.tiers).next().is_some()
        || old.sets.diff(&new.sets).next().is_some()
        || old.named_ports.diff(&new.named_ports).next().is_some()
}

/// Whether a set's other members may close something: one that lost some, or one that gained some and that a rule denies or passes on.
fn closes_by_members(old: &PolicyIntent, new: &PolicyIntent) -> bool {
    let (sets, ports) = (moved(&old.sets, &new.sets), moved(&old.named_ports, &new.named_ports));
    let mut all = sets.values().chain(ports.values());
    if all.any(|moved| moved.lost) {
        return true;
    }
    if sets.is_empty() && ports.is_empty() {
        return false;
    }
    let closing = |rule: &&TierRule| rule.action != Action::Accept;
    new.tiers.values().flat_map(|rules| &rules.rules).filter(closing).any(|rule| {
        let peers = match &rule.peers {
            // Who comes to be known is denied no longer by this.
            Peers::Any | Peers::Unknown { .. } => &[],
            Peers::OneOf { sets, .. } => sets.as_slice(),
        };
        let of_ports = |port: &PortMatch| matches!(port, PortMatch::Named(id) if ports.contains_key(id));
        peers.iter().any(|id| sets.contains_key(id)) || rule.ports.iter().flatten().any(of_ports)
    })
}

/// How a set's members differ from those that it had.
struct Moved {
    /// Some are gone.
    lost: bool,
}

/// The sets with other members. One that came or went is named by rules that came or went.
fn moved<'a, T: Ord + Clone>(old: &'a OrdMap<SetId, Arc<OrdSet<T>>>, new: &'a OrdMap<SetId, Arc<OrdSet<T>>>) -> BTreeMap<&'a SetId, Moved> {
    let updated = old.diff(new).filter_map(|item| match item {
        DiffItem::Update { old: (_, old), new: (id, new) } => Some((id, Moved { lost: old.iter().any(|member| !new.contains(member)) })),
        DiffItem::Add(..) | DiffItem::Remove(..) => None,
    });
    updated.collect()
}

/// Addresses that belonged to pods of this node and belong to none now: whatever speaks of them is a former owner's.
struct Gone {
    addresses: BTreeSet<IpAddr>,
    /// The pods, by their links.
    pods: BTreeSet<Arc<str>>,
    /// Where it is not known who was there before: the node's own pod subnets, of which only the present pods' addresses count.
    subnets: Vec<IpNet>,
}

impl Gone {
    fn between(old: &Intent, new: &Intent, unknown: bool) -> Gone {
        let ips = |intent: &Intent| -> BTreeSet<IpAddr> { intent.pods.pods.values().flat_map(|pod| pod.ips.values().copied()).collect() };
        let addresses = if old.pods == new.pods { BTreeSet::new() } else { ips(old).difference(&ips(new)).copied().collect() };
        let pods = match old.pods == new.pods {
            true => BTreeSet::new(),
            false => old.pods.pods.keys().filter(|name| !new.pods.pods.contains_key(*name)).cloned().collect(),
        };
        let subnets = new.routes.local.iter().filter(|_| unknown).flat_map(|local| local.pod_cidrs.clone()).collect();
        Gone { addresses, pods, subnets }
    }

    fn join(&mut self, later: Gone) {
        self.addresses.extend(later.addresses);
        self.pods.extend(later.pods);
        self.subnets.extend(later.subnets);
    }

    fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    fn concerns(&self, entry: &Entry, own: &OwnAddresses<'_>) -> bool {
        [entry.original.source, entry.backend().0].iter().any(|address| {
            let of_nobody = || !own.pods.contains(address) && self.subnets.iter().any(|subnet| subnet.contains(address));
            self.addresses.contains(address) || of_nobody()
        })
    }
}

/// Addresses of this node and its pods.
struct OwnAddresses<'a> {
    /// By which others know the node.
    node: BTreeSet<IpAddr>,
    /// All at its links, by which it may begin connections itself.
    local: &'a BTreeSet<IpAddr>,
    pods: BTreeSet<IpAddr>,
}

impl OwnAddresses<'_> {
    fn of<'a>(intent: &Intent, local: &'a BTreeSet<IpAddr>) -> OwnAddresses<'a> {
        let node = intent.routes.local.iter().flat_map(|local| local.internal.values().copied()).collect();
        let pods = intent.pods.pods.values().flat_map(|pod| pod.ips.values().copied()).collect();
        OwnAddresses { node, local, pods }
    }

    fn concerns_pods(&self, entry: &Entry) -> bool {
        self.pods.contains(&entry.original.source) || self.pods.contains(&entry.backend().0)
    }

    /// The connection as the pods' interfaces saw its first packet: destination translated, source not.
    fn flow(&self, entry: &Entry) -> Flow {
        let (to, port) = entry.backend();
        let mut flow = Flow::between(entry.original.source, to, entry.original.protocol, port);
        flow.from_own_node = self.is_nodes(&entry.original.source);
        flow
    }

    /// Whether the node itself speaks from the address: nobody else's packets with one of those come in.
    fn is_nodes(&self, address: &IpAddr) -> bool {
        self.node.contains(address) || self.local.contains(address) || address.is_loopback()
    }
}

/// UDP frontends.
struct Datagrams<'a> {
    vips: BTreeMap<(IpAddr, u16), &'a Frontend>,
    node_ports: BTreeMap<u16, Vec<&'a Frontend>>,
}

impl<'a> Datagrams<'a> {
    fn of(services: &'a ServicesIntent) -> Datagrams<'a> {
        let (mut vips, mut node_ports) = (BTreeMap::new(), BTreeMap::<u16, Vec<&Frontend>>::new());
        for frontend in services.services.values().flat_map(|s| &s.frontends).filter(|f| f.protocol == Protocol::Udp) {
            match frontend.address {
                FrontendAddress::Vip(address) => {
                    vips.insert((address, frontend.port), frontend);
                }
                FrontendAddress::NodePort(_) => node_ports.entry(frontend.port).or_default().push(frontend),
            }
        }
        Datagrams { vips, node_ports }
    }

    /// Whether a UDP flow goes where its frontend would send nothing now, or to nobody where there is somebody by now.
    fn is_stale(&self, entry: &Entry, own: &OwnAddresses<'_>) -> bool {
        if entry.original.protocol != Protocol::Udp.number() {
            return false;
        }
        let Some(port) = entry.original.destination_port() else { return false };
        let (from, to) = (entry.original.source, entry.original.destination);
        let (ip, Some(backend_port)) = entry.backend() else { return false };
        let backend = Endpoint { ip, port: backend_port };
        let begun_here = own.is_nodes(&from) || own.pods.contains(&from);
        let moves = |frontends: &[&'a Frontend]| {
            let of = |frontend: &&'a Frontend| frontend.own_endpoints.as_ref().filter(|_| begun_here).unwrap_or(&frontend.endpoints);
            let mut endpoints = frontends.iter().flat_map(of).peekable();
            (endpoints.peek().is_some() || entry.is_dnat()) && !endpoints.any(|endpoint| *endpoint == backend)
        };
        if let Some(frontend) = self.vips.get(&(to, port)) {
            return moves(&[*frontend]);
        }
        let by_a_service = entry.is_dnat() && entry.mark & TRANSLATED_MARK != 0;
        match self.node_ports.get(&port) {
            Some(frontends) if by_a_service || own.node.contains(&to) => moves(frontends),
            // Its service is gone, or the port.
            Some(_) | None => by_a_service,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bowline_kernel::conntrack::{Discriminator, Tuple};
    use bowline_model::intent::pods::{PodIntent, PodsIntent};
    use bowline_model::intent::policy::{AddressSet, Direction, PodPolicy, PodSide, Tier, TierRules};
    use bowline_model::intent::services::{ServiceIntent, WhenEmpty};
    use bowline_model::{PolicyName, ServiceName};

    fn services(endpoints: &[(&str, u16)]) -> ServicesIntent {
        let endpoints = endpoints.iter().map(|(ip, port)| Endpoint { ip: ip.parse().unwrap(), port: *port }).collect();
        let frontend = Frontend {
            address: FrontendAddress::Vip("10.43.0.10".parse().unwrap()),
            protocol: Protocol::Udp,
            port: 53,
            endpoints,
            own_endpoints: None,
            affinity_secs: None,
            sources: None,
            when_empty: WhenEmpty::Reject,
        };
        let mut intent = ServicesIntent::default();
        intent.services.insert(ServiceName::new("kube-system", "kube-dns"), Arc::new(ServiceIntent { frontends: vec![frontend] }));
        intent
    }

    fn entry(backend: &str, port: u16) -> Entry {
        let tuple = |source: &str, destination: &str, from: u16, to: u16| Tuple {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol: 17,
            discriminator: Discriminator::Ports { source: from, destination: to },
        };
        let status = if backend == "10.43.0.10" { 0 } else { 1 << 5 };
        Entry {
            original: tuple("10.42.0.5", "10.43.0.10", 4242, 53),
            reply: tuple(backend, "10.42.0.5", port, 4242),
            mark: 0,
            status,
            zone: 0,
            timeout_s: 30,
            id: None,
        }
    }

    fn stale(endpoints: &[(&str, u16)], backend: (&str, u16)) -> bool {
        let services = services(endpoints);
        let own = OwnAddresses { node: BTreeSet::new(), local: &BTreeSet::new(), pods: BTreeSet::new() };
        Datagrams::of(&services).is_stale(&entry(backend.0, backend.1), &own)
    }

    #[test]
    fn only_a_change_that_closes_is_looked_over() {
        let set = |members: &[&str]| {
            let mut policy = PolicyIntent::default();
            let members: AddressSet = members.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect();
            policy.sets.insert(SetId("pods-a".into()), Arc::new(members));
            policy.pods.insert(Arc::from("bwl1"), Arc::default());
            policy
        };
        assert!(!closes(&set(&["10.0.0.1"]), &set(&["10.0.0.1", "10.0.0.2"])), "one more peer");
        assert!(closes(&set(&["10.0.0.1", "10.0.0.2"]), &set(&["10.0.0.1"])), "one peer less");
        let mut more = set(&["10.0.0.1"]);
        more.pods.insert(Arc::from("bwl2"), Arc::default());
        assert!(!closes(&set(&["10.0.0.1"]), &more), "one more pod");
        let mut selected = set(&["10.0.0.1"]);
        let ingress = PodSide { policies: Some(vec![bowline_model::PolicyName::new("a", "deny")]), ..PodSide::default() };
        selected.pods.insert("bwl1".into(), Arc::new(PodPolicy { ingress, ..PodPolicy::default() }));
        assert!(closes(&set(&["10.0.0.1"]), &selected), "a policy more for a pod");
    }

    #[test]
    fn a_member_more_closes_where_a_rule_denies_it_or_passes_it_on() {
        let tiered = |action, members: &[&str], named: u16| {
            let mut policy = PolicyIntent::default();
            let members: AddressSet = members.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect();
            policy.sets.insert(SetId("pods-a".into()), Arc::new(members));
            let ports = (0..named).map(|port| ("10.0.0.9".parse().unwrap(), Protocol::Tcp, port)).collect();
            policy.named_ports.insert(SetId("port-a".into()), Arc::new(ports));
            policy.pods.insert(Arc::from("bwl1"), Arc::default());
            let peers = Peers::OneOf { sets: vec![SetId("pods-a".into())], blocks: Vec::new() };
            let rule = TierRule { label: "ingress[0]".into(), action, peers, ports: Some(vec![PortMatch::Named(SetId("port-a".into()))]) };
            let rules = TierRules { tier: Tier::Admin, rules: vec![rule] };
            policy.tiers.insert(("c".into(), Direction::Ingress), Arc::new(rules));
            policy
        };
        for (action, by_more) in [(Action::Accept, false), (Action::Deny, true), (Action::Pass, true)] {
            let old = tiered(action, &["10.0.0.1"], 1);
            assert!(!closes(&old, &old.clone()), "{action:?}: nothing changed");
            assert_eq!(closes(&old, &tiered(action, &["10.0.0.1", "10.0.0.2"], 1)), by_more, "{action:?}: a peer more");
            assert_eq!(closes(&old, &tiered(action, &["10.0.0.1"], 2)), by_more, "{action:?}: a named port more");
            assert!(closes(&old, &tiered(action, &[], 1)), "{action:?}: a peer less");
        }
        assert!(closes(&tiered(Action::Accept, &[], 1), &tiered(Action::Deny, &[], 1)), "another action");
    }

    #[test]
    fn flows_to_endpoints_that_are_gone_are_forgotten() {
        assert!(!stale(&[("10.42.1.7", 53)], ("10.42.1.7", 53)));
        assert!(stale(&[("10.42.1.8", 53)], ("10.42.1.7", 53)), "another endpoint");
        assert!(stale(&[("10.42.1.7", 54)], ("10.42.1.7", 53)), "another port");
        assert!(stale(&[], ("10.42.1.7", 53)), "the last endpoint went");
    }

    #[test]
    fn a_flow_to_a_node_port_moves_as_well() {
        let node: IpAddr = "192.168.0.1".parse().unwrap();
        let stale = |endpoints: &[(&str, u16)], backend: (&str, u16), status: u32| {
            let mut services = services(endpoints);
            let name = services.services.keys().next().unwrap().clone();
            let mut service = (*services.services[&name]).clone();
            service.frontends[0].address = FrontendAddress::NodePort(bowline_model::Family::V4);
            services.services.insert(name, Arc::new(service));
            let mut entry = entry(backend.0, backend.1);
            (entry.original.destination, entry.status) = (node, status);
            let own = OwnAddresses { node: BTreeSet::from([node]), local: &BTreeSet::new(), pods: BTreeSet::new() };
            Datagrams::of(&services).is_stale(&entry, &own)
        };
        const DNAT: u32 = 1 << 5;
        assert!(!stale(&[("10.42.1.7", 53)], ("10.42.1.7", 53), DNAT));
        assert!(stale(&[("10.42.1.8", 53)], ("10.42.1.7", 53), DNAT), "another endpoint");
        assert!(stale(&[], ("10.42.1.7", 53), DNAT), "the last endpoint went");
        assert!(stale(&[("10.42.1.7", 53)], ("192.168.0.1", 53), 0), "an endpoint came to a flow that the node itself had");
        assert!(!stale(&[], ("192.168.0.1", 53), 0), "a process of the node has the port");
    }

    #[test]
    fn flows_of_a_service_that_is_gone_are_forgotten_and_others_translations_are_not() {
        let none = ServicesIntent::default();
        let own = OwnAddresses { node: BTreeSet::from(["10.43.0.10".parse().unwrap()]), local: &BTreeSet::new(), pods: BTreeSet::new() };
        let mut entry = entry("10.42.1.7", 53);
        assert!(!Datagrams::of(&none).is_stale(&entry, &own), "a host port, or a container engine's");
        entry.mark = TRANSLATED_MARK;
        assert!(Datagrams::of(&none).is_stale(&entry, &own));
    }

    #[test]
    fn what_the_node_begins_is_held_against_its_own_endpoints() {
        let mut services = services(&[("10.42.1.7", 53)]);
        let name = services.services.keys().next().unwrap().clone();
        let mut service = (*services.services[&name]).clone();
        service.frontends[0].own_endpoints = Some(vec![Endpoint { ip: "10.42.2.8".parse().unwrap(), port: 53 }]);
        services.services.insert(name, Arc::new(service));
        let stale = |backend: &str, pods: &[&str]| {
            let own =
                OwnAddresses { node: BTreeSet::new(), local: &BTreeSet::new(), pods: pods.iter().map(|ip| ip.parse().unwrap()).collect() };
            Datagrams::of(&services).is_stale(&entry(backend, 53), &own)
        };
        assert!(stale("10.42.2.8", &[]) && !stale("10.42.1.7", &[]), "a client from elsewhere");
        assert!(!stale("10.42.2.8", &["10.42.0.5"]) && stale("10.42.1.7", &["10.42.0.5"]), "a pod of this node");
    }

    /// Rules tell the node's own packets by their way, not by an address: whichever of its addresses it speaks from, they let it in.
    #[test]
    fn the_node_is_known_by_all_its_addresses() {
        let local = BTreeSet::from(["172.17.0.1".parse().unwrap()]);
        let pods = BTreeSet::from(["10.42.1.7".parse().unwrap()]);
        let own = OwnAddresses { node: BTreeSet::from(["192.168.0.1".parse().unwrap()]), local: &local, pods };
        for (source, is_own) in
            [("192.168.0.1", true), ("172.17.0.1", true), ("127.0.0.1", true), ("192.168.0.2", false), ("10.42.1.7", false)]
        {
            let mut entry = entry("10.42.1.7", 53);
            entry.original.source = source.parse().unwrap();
            assert_eq!(own.flow(&entry).from_own_node, is_own, "{source}");
        }
    }

    /// What becomes of the flow 10.42.0.5 -> 10.42.1.7 where the policies of 10.42.1.7 deny or allow everything.
    fn fate(protocol: u8, mark: u32, denied: bool, gone: bool) -> Fate {
        let mut intent = Intent::default();
        let link: Arc<str> = "bwl1".into();
        let ips = bowline_model::Dual::first_of(["10.42.1.7".parse().unwrap()]);
        let mac = bowline_model::MacAddr([2, 0, 0, 0, 0, 1]);
        let pod = PodIntent { pod: None, host_ifname: link.clone(), mac, host_mac: mac, ips, host_ports: Vec::new() };
        intent.pods = Arc::new(PodsIntent { pods: [(link.clone(), Arc::new(pod))].into_iter().collect() });
        let isolated = PodSide { policies: Some(vec![PolicyName::new("shop", "none")]), ..PodSide::default() };
        let policy = PodPolicy { ingress: if denied { isolated } else { PodSide::default() }, ..PodPolicy::default() };
        intent.policy = Arc::new(PolicyIntent { pods: [(link, Arc::new(policy))].into_iter().collect(), ..PolicyIntent::default() });
        let mut entry = entry("10.42.1.7", 53);
        (entry.mark, entry.original.protocol, entry.reply.protocol) = (mark, protocol, protocol);
        let addresses = gone.then_some(entry.original.source).into_iter().collect();
        let gone = Gone { addresses, pods: BTreeSet::new(), subnets: Vec::new() };
        let work = Work { gone, policy: denied, services: false, new: Arc::new(intent) };
        work.fate(&entry, &View::of(&work.new, &BTreeSet::new()))
    }

    #[test]
    fn flows_that_any_packet_begins_are_held_until_policies_allow_them() {
        for (protocol, when_denied) in [(17, Fate::IsHeld { already: false }), (6, Fate::IsForgotten), (1, Fate::IsForgotten)] {
            assert_eq!(fate(protocol, 0, true, false), when_denied, "protocol {protocol}");
            assert_eq!(fate(protocol, 0, false, false), Fate::Stays, "protocol {protocol}");
            assert_eq!(fate(protocol, 0, true, true), Fate::IsForgotten, "protocol {protocol}, of a pod that is gone");
        }
        assert_eq!(fate(17, HELD_MARK | TRANSLATED_MARK, true, false), Fate::IsHeld { already: true });
        assert_eq!(fate(17, HELD_MARK | TRANSLATED_MARK, false, false), Fate::IsLetGo);
    }

    #[test]
    fn a_flow_from_the_time_without_endpoints_moves_when_one_returns() {
        assert!(stale(&[("10.42.1.7", 53)], ("10.43.0.10", 53)));
        assert!(!stale(&[], ("10.43.0.10", 53)));
    }
}
