//! Answers for the cluster's names: a question in, a reply out. Pure.
//!
//! Invariant: the same question, options and index give the same reply; order is that of the data (the `loadbalance`
//! plugin shuffles). Reference: Kubernetes DNS-Based Service Discovery 1.1.0; where it is silent, CoreDNS's answers.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bowline_model::intent::dns::{DnsEndpoint, DnsKind, DnsPort, DnsService};
use domain::base::iana::{Rcode, Rtype};
use domain::base::{Serial, Ttl};
use domain::rdata::{A, Aaaa, Cname, Ns, Ptr, Soa, Srv, Txt};

use crate::index::DnsIndex;
use crate::name::{self, Name, Reverse};
use crate::wire::{Data, Query, Record, Reply, record};

/// Which pod names (`1-2-3-4.ns.pod.zone`) are answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PodMode {
    /// None.
    #[default]
    Disabled,
    /// Any address, in any namespace that exists.
    Insecure,
    /// Only addresses of pods, in their own namespace.
    Verified,
}

/// Options of the answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesOptions {
    /// Zones answered for, reverse ones among them.
    pub zones: Vec<Name>,
    /// The zone that reverse names point into.
    pub primary: Name,
    /// Pod names.
    pub pods: PodMode,
    /// TTL of all answers in seconds.
    pub ttl_secs: u32,
    /// Namespaces answered for; all if none is named.
    pub namespaces: BTreeSet<String>,
    /// Endpoints are known by their pods' names where they have no hostname.
    pub endpoint_pod_names: bool,
    /// Endpoints are neither answered nor used.
    pub no_endpoints: bool,
    /// A service without endpoints does not exist.
    pub ignore_empty: bool,
}

impl KubernetesOptions {
    /// The defaults for some zones.
    pub fn new(zones: Vec<Name>) -> KubernetesOptions {
        let is_reverse = |zone: &&Name| name::reverse(zone) != Reverse::No;
        let primary = zones.iter().find(|zone| !is_reverse(zone)).cloned();
        KubernetesOptions {
            primary: primary.unwrap_or_else(|| name::parse("cluster.local").unwrap_or_else(Name::root_bytes)),
            zones,
            pods: PodMode::Disabled,
            ttl_secs: 5,
            namespaces: BTreeSet::new(),
            endpoint_pod_names: false,
            no_endpoints: false,
            ignore_empty: false,
        }
    }
}

/// What the answers depend on beside the options.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// What is known; none before the first snapshot.
    pub index: Option<&'a DnsIndex>,
    /// Serial of the zones: when they last changed, in seconds since 1970.
    pub serial: u32,
    /// The address that the question came to: the name server's own, where no service is.
    pub local: Option<IpAddr>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The name is in none of the zones.
    NotOurs,
    /// This is it.
    Reply(Reply),
    /// The name is an alias: the target is to be looked up and its records added.
    Alias(Reply, Name),
    /// The name does not exist: this is the reply, if nobody else knows it (`fallthrough`).
    NoName(Reply),
}

/// TTL of the `dns-version` record.
const VERSION_TTL_SECS: u32 = 28_800;
/// The version of the specification that is answered.
const VERSION: &[u8] = b"1.1.0";

/// Answers a question.
pub fn answer(options: &KubernetesOptions, facts: Facts<'_>, query: &Query) -> Answer {
    let Some((_, zone)) = name::longest_zone(&options.zones, &query.name) else { return Answer::NotOurs };
    if matches!(query.rtype, Rtype::AXFR | Rtype::IXFR) {
        return Answer::Reply(Reply::empty(Rcode::REFUSED));
    }
    let Some(index) = facts.index else { return Answer::Reply(Reply::empty(Rcode::SERVFAIL)) };
    let zone = Zone { options, facts, index, origin: zone };
    match zone.find(&query.name) {
        Found::Missing => Answer::NoName(zone.negative(Rcode::NXDOMAIN)),
        Found::Apex => zone.apex(query),
        Found::Hits(hits) => zone.records_of(query, &hits),
        Found::Text => zone.version(query),
        Found::Names(names) => zone.reverse_names(query, names),
    }
}

/// One of a name's meanings.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hit {
    host: Host,
    /// Port of an SRV record; none where only the address counts.
    port: Option<u16>,
    /// Name that an SRV record points to.
    owner: Name,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Ip(IpAddr),
    Alias(Name),
}

enum Found {
    /// The name does not exist.
    Missing,
    /// The zone's own name.
    Apex,
    /// The name exists; without hits it has no records.
    Hits(Vec<Hit>),
    /// `dns-version`.
    Text,
    /// Targets of a reverse name; without any, the name is only part of one.
    Names(Vec<Name>),
}

/// A zone, and what is known when it is asked.
struct Zone<'a> {
    options: &'a KubernetesOptions,
    facts: Facts<'a>,
    index: &'a DnsIndex,
    origin: &'a Name,
}

impl Zone<'_> {
    fn find(&self, asked: &Name) -> Found {
        let labels = name::labels_before(asked, self.origin).unwrap_or_default();
        let Some((top, rest)) = labels.split_last() else { return Found::Apex };
        match name::reverse(asked) {
            Reverse::Address(ip) => return self.find_reverse(&ip),
            Reverse::Block => return Found::Names(Vec::new()),
            Reverse::No => {}
        }
        if name::reverse(self.origin) != Reverse::No {
            return Found::Missing;
        }
        if top.eq_ignore_ascii_case(b"svc") {
            self.find_service(rest)
        } else if top.eq_ignore_ascii_case(b"pod") {
            self.find_pod(rest)
        } else if top.eq_ignore_ascii_case(b"dns-version") && rest.is_empty() {
            Found::Text
        } else if top.eq_ignore_ascii_case(b"dns") && self.server_service().is_none() {
            self.find_server(rest, asked)
        } else {
            Found::Missing
        }
    }

    /// `dns` and `ns.dns`: the name server's own names, where no service has them.
    fn find_server(&self, rest: &[&[u8]], asked: &Name) -> Found {
        match rest {
            [] => Found::Hits(Vec::new()),
            [ns] if ns.eq_ignore_ascii_case(b"ns") => {
                let hit = |ip| Hit { host: Host::Ip(ip), port: None, owner: asked.clone() };
                Found::Hits(self.facts.local.map(hit).into_iter().collect())
            }
            _ => Found::Missing,
        }
    }

    fn exposed(&self, namespace: &[u8]) -> Option<String> {
        let namespace = std::str::from_utf8(namespace).ok()?.to_ascii_lowercase();
        let named = self.options.namespaces.is_empty() || self.options.namespaces.contains(&namespace);
        (named && self.index.has_namespace(&namespace)).then_some(namespace)
    }

    fn find_pod(&self, rest: &[&[u8]]) -> Found {
        let Some((namespace, rest)) = rest.split_last() else { return Found::Hits(Vec::new()) };
        if self.options.pods == PodMode::Disabled {
            return Found::Missing;
        }
        let Some(namespace) = self.exposed(namespace) else { return Found::Missing };
        let [label] = rest else {
            return if rest.is_empty() { Found::Hits(Vec::new()) } else { Found::Missing };
        };
        let text = std::str::from_utf8(label).unwrap_or_default().to_ascii_lowercase();
        let Some(ip) = name::undash(&text) else { return Found::Missing };
        if self.options.pods == PodMode::Verified && self.index.pod_namespace(&ip).is_none_or(|owner| **owner != *namespace) {
            return Found::Missing;
        }
        Found::Hits(vec![Hit { host: Host::Ip(ip), port: None, owner: self.origin.clone() }])
    }

    fn find_service(&self, rest: &[&[u8]]) -> Found {
        let Some((namespace, rest)) = rest.split_last() else { return Found::Hits(Vec::new()) };
        if self.exposed(namespace).is_none() {
            return Found::Missing;
        }
        let Some((label, rest)) = rest.split_last() else { return Found::Hits(Vec::new()) };
        let Some(service) = self.index.service(label, namespace) else { return Found::Missing };
        let Some(owner) = name::under([*label, *namespace, b"svc"], self.origin) else { return Found::Missing };
        let wanted = match rest {
            [] => Wanted::Service,
            [protocol] if protocol.starts_with(b"_") => return self.find_protocol(service, protocol),
            [endpoint] => Wanted::Endpoint(endpoint),
            [port, protocol] => Wanted::Port(strip_underscore(port), strip_underscore(protocol)),
            _ => return Found::Missing,
        };
        if self.is_hidden_as_empty(service) {
            return Found::Missing;
        }
        match (&service.kind, wanted) {
            (DnsKind::ExternalName(target), Wanted::Service) => external(target, owner),
            (DnsKind::ExternalName(_), Wanted::Endpoint(_) | Wanted::Port(..)) => Found::Missing,
            (DnsKind::ClusterIp(ips), Wanted::Service | Wanted::Port(..)) => cluster_hits(service, ips, wanted, &owner),
            (DnsKind::ClusterIp(_), Wanted::Endpoint(_)) | (DnsKind::Headless, _) => self.endpoint_hits(service, wanted, &owner),
        }
    }

    /// `_tcp.service...`: exists without records of its own where a port's name lies below it.
    fn find_protocol(&self, service: &DnsService, label: &[u8]) -> Found {
        let mut ports = service.ports.iter().chain(service.endpoints.iter().flat_map(|endpoint| &endpoint.ports));
        let wanted = strip_underscore(label);
        if ports.any(|port| port.name.is_some() && is_protocol(port, wanted)) { Found::Hits(Vec::new()) } else { Found::Missing }
    }

    fn is_hidden_as_empty(&self, service: &DnsService) -> bool {
        let has_virtual_ip = matches!(service.kind, DnsKind::ClusterIp(_));
        self.options.ignore_empty && has_virtual_ip && service.endpoints.is_empty()
    }

    fn endpoint_hits(&self, service: &DnsService, wanted: Wanted<'_>, owner: &Name) -> Found {
        if self.options.no_endpoints {
            return Found::Missing;
        }
        let mut hits = Vec::new();
        for endpoint in &service.endpoints {
            let label = self.endpoint_label(endpoint);
            if let Wanted::Endpoint(asked) = wanted
                && !asked.eq_ignore_ascii_case(label.as_bytes())
            {
                continue;
            }
            // A hostname may hold dots in no valid object; one that does is no label and has no name.
            let Some(own) = name::under([label.as_bytes()], owner) else { continue };
            let ports: Vec<&DnsPort> = endpoint.ports.iter().filter(|port| wanted.takes(port)).collect();
            if ports.is_empty() && !matches!(wanted, Wanted::Port(..)) {
                hits.push(Hit { host: Host::Ip(endpoint.ip), port: None, owner: own.clone() });
            }
            hits.extend(ports.iter().map(|port| Hit { host: Host::Ip(endpoint.ip), port: Some(port.port), owner: own.clone() }));
        }
        if hits.is_empty() { Found::Missing } else { Found::Hits(hits) }
    }

    fn endpoint_label(&self, endpoint: &DnsEndpoint) -> String {
        if let Some(hostname) = endpoint.hostname.as_deref().filter(|hostname| !hostname.is_empty()) {
            return hostname.to_owned();
        }
        match &endpoint.pod {
            Some(pod) if self.options.endpoint_pod_names => pod.clone(),
            Some(_) | None => name::dashed(&endpoint.ip),
        }
    }

    fn find_reverse(&self, ip: &IpAddr) -> Found {
        let allowed = |namespace: &str| self.options.namespaces.is_empty() || self.options.namespaces.contains(namespace);
        let primary = &self.options.primary;
        for service in self.index.services_at(ip).filter(|service| allowed(&service.namespace)) {
            let labels = [service.name.as_bytes(), service.namespace.as_bytes(), b"svc"];
            if let Some(target) = name::under(labels, primary) {
                return Found::Names(vec![target]);
            }
        }
        let mut targets = Vec::new();
        let at = self.index.endpoints_at(ip).filter(|(service, _)| allowed(&service.namespace));
        for (service, known) in at.filter(|_| !self.options.no_endpoints) {
            for endpoint in known.endpoints.iter().filter(|endpoint| endpoint.ip == *ip) {
                let label = self.endpoint_label(endpoint);
                let labels = [label.as_bytes(), service.name.as_bytes(), service.namespace.as_bytes(), b"svc"];
                targets.extend(name::under(labels, primary));
            }
        }
        targets.dedup();
        if targets.is_empty() { Found::Missing } else { Found::Names(targets) }
    }

    fn ttl(&self) -> u32 {
        self.options.ttl_secs
    }

    fn soa(&self) -> Record {
        let zone = self.origin.clone();
        let mname = name::under([b"ns".as_slice(), b"dns"], &zone).unwrap_or_else(|| zone.clone());
        let rname = name::under([b"hostmaster".as_slice()], &zone).unwrap_or_else(|| zone.clone());
        let minimum = Ttl::from_secs(self.ttl());
        let [refresh, retry, expire] = [7200, 1800, 86_400].map(Ttl::from_secs);
        let soa = Soa::new(mname, rname, Serial(self.facts.serial), refresh, retry, expire, minimum);
        record(zone, self.ttl(), soa)
    }

    fn negative(&self, rcode: Rcode) -> Reply {
        let mut reply = authoritative(rcode);
        reply.authority.push(self.soa());
        reply
    }

    fn positive(&self, answer: Vec<Record>) -> Reply {
        if answer.is_empty() {
            return self.negative(Rcode::NOERROR);
        }
        Reply { answer, ..authoritative(Rcode::NOERROR) }
    }

    /// The service through which the cluster's name servers are reached.
    fn server_service(&self) -> Option<(&'static [u8], &DnsService)> {
        let names: [&'static [u8]; 2] = [b"kube-dns", b"coredns"];
        names.into_iter().find_map(|name| Some((name, &**self.index.service(name, b"kube-system")?)))
    }

    /// The name server's name and addresses.
    fn server(&self) -> Option<(Name, Vec<IpAddr>)> {
        if let Some((label, service)) = self.server_service() {
            let target = name::under([label, b"kube-system", b"svc"], &self.options.primary)?;
            let ips = match &service.kind {
                DnsKind::ClusterIp(ips) => ips.clone(),
                DnsKind::Headless => service.endpoints.iter().map(|endpoint| endpoint.ip).collect(),
                DnsKind::ExternalName(_) => Vec::new(),
            };
            return Some((target, ips));
        }
        Some((name::under([b"ns".as_slice(), b"dns"], self.origin)?, self.facts.local.into_iter().collect()))
    }

    fn apex(&self, query: &Query) -> Answer {
        let (soa, ns) = match query.rtype {
            Rtype::SOA => (true, false),
            Rtype::NS => (false, true),
            Rtype::ANY => (true, true),
            _ => (false, false),
        };
        let mut answer = Vec::new();
        let mut additional = Vec::new();
        if soa {
            answer.push(self.soa());
        }
        if let Some((target, ips)) = self.server().filter(|_| ns) {
            answer.push(record(self.origin.clone(), self.ttl(), Ns::new(target.clone())));
            additional.extend(ips.iter().map(|ip| address(&target, self.ttl(), ip)));
        }
        Answer::Reply(Reply { additional, ..self.positive(answer) })
    }

    fn version(&self, query: &Query) -> Answer {
        let wanted = matches!(query.rtype, Rtype::TXT | Rtype::ANY);
        let text = Txt::build_from_slice(VERSION).ok().filter(|_| wanted);
        let answer = text.map(|text| record(query.name.clone(), VERSION_TTL_SECS, text));
        Answer::Reply(self.positive(answer.into_iter().collect()))
    }

    fn reverse_names(&self, query: &Query, names: Vec<Name>) -> Answer {
        let wanted = matches!(query.rtype, Rtype::PTR | Rtype::ANY);
        let names = names.into_iter().filter(|_| wanted);
        let answer = names.map(|target| record(query.name.clone(), self.ttl(), Ptr::new(target)));
        Answer::Reply(self.positive(answer.collect()))
    }

    fn records_of(&self, query: &Query, hits: &[Hit]) -> Answer {
        if let Some(target) = hits.iter().find_map(|hit| alias_of(&hit.host)) {
            let answer = vec![record(query.name.clone(), self.ttl(), Cname::new(target.clone()))];
            let reply = self.positive(answer);
            return match query.rtype {
                Rtype::CNAME | Rtype::ANY => Answer::Reply(reply),
                _ => Answer::Alias(reply, target.clone()),
            };
        }
        match query.rtype {
            Rtype::SRV => Answer::Reply(self.srv(query, hits)),
            Rtype::A | Rtype::AAAA | Rtype::ANY => {
                let mut ips: Vec<IpAddr> = Vec::with_capacity(hits.len());
                for hit in hits {
                    if let Host::Ip(ip) = hit.host
                        && is_wanted(query.rtype, &ip)
                    {
                        ips.push(ip);
                    }
                }
                dedup(&mut ips);
                Answer::Reply(self.positive(ips.iter().map(|ip| address(&query.name, self.ttl(), ip)).collect()))
            }
            _ => Answer::Reply(self.negative(Rcode::NOERROR)),
        }
    }

    fn srv(&self, query: &Query, hits: &[Hit]) -> Reply {
        let hits: Vec<&Hit> = hits.iter().filter(|hit| hit.port.is_some()).collect();
        // Equal shares of 100, counted before names that several addresses share are joined.
        let weight = u16::try_from(100 / hits.len().max(1)).unwrap_or(0).max(1);
        let mut targets: Vec<(&Name, u16)> = hits.iter().map(|hit| (&hit.owner, hit.port.unwrap_or(0))).collect();
        dedup(&mut targets);
        let answer =
            targets.into_iter().map(|(target, port)| record(query.name.clone(), self.ttl(), Srv::new(0, weight, port, target.clone())));
        let mut reply = self.positive(answer.collect());
        let mut addresses: Vec<(&Name, IpAddr)> = hits.iter().filter_map(|hit| Some((&hit.owner, ip_of(&hit.host)?))).collect();
        dedup(&mut addresses);
        reply.additional = addresses.into_iter().map(|(owner, ip)| address(owner, self.ttl(), &ip)).collect();
        reply
    }
}

/// What of a service a name asks for.
#[derive(Debug, Clone, Copy)]
enum Wanted<'a> {
    Service,
    Endpoint(&'a [u8]),
    /// Name and protocol.
    Port(&'a [u8], &'a [u8]),
}

impl Wanted<'_> {
    fn takes(&self, port: &DnsPort) -> bool {
        match self {
            Wanted::Service | Wanted::Endpoint(_) => true,
            Wanted::Port(name, protocol) => {
                port.name.as_deref().is_some_and(|known| known.as_bytes().eq_ignore_ascii_case(name)) && is_protocol(port, protocol)
            }
        }
    }
}

fn is_protocol(port: &DnsPort, label: &[u8]) -> bool {
    use bowline_model::Protocol;
    let name: &[u8] = match port.protocol {
        Protocol::Tcp => b"tcp",
        Protocol::Udp => b"udp",
        Protocol::Sctp => b"sctp",
    };
    name.eq_ignore_ascii_case(label)
}

fn strip_underscore(label: &[u8]) -> &[u8] {
    label.strip_prefix(b"_").unwrap_or(label)
}

fn cluster_hits(service: &DnsService, ips: &[IpAddr], wanted: Wanted<'_>, owner: &Name) -> Found {
    let ports: Vec<&DnsPort> = service.ports.iter().filter(|port| wanted.takes(port)).collect();
    let hit = |ip: &IpAddr, port| Hit { host: Host::Ip(*ip), port, owner: owner.clone() };
    if ports.is_empty() {
        return match wanted {
            Wanted::Port(..) | Wanted::Endpoint(_) => Found::Missing,
            Wanted::Service => Found::Hits(ips.iter().map(|ip| hit(ip, None)).collect()),
        };
    }
    Found::Hits(ports.iter().flat_map(|port| ips.iter().map(move |ip| hit(ip, Some(port.port)))).collect())
}

/// An ExternalName that is an address is answered as one, since a CNAME to it could lead nowhere.
fn external(target: &str, owner: Name) -> Found {
    if let Ok(ip) = target.parse::<IpAddr>() {
        return Found::Hits(vec![Hit { host: Host::Ip(ip), port: None, owner }]);
    }
    match name::parse(target) {
        Some(target) if !target.is_root() => Found::Hits(vec![Hit { host: Host::Alias(target), port: None, owner }]),
        Some(_) | None => Found::Missing,
    }
}

fn alias_of(host: &Host) -> Option<&Name> {
    match host {
        Host::Alias(target) => Some(target),
        Host::Ip(_) => None,
    }
}

fn ip_of(host: &Host) -> Option<IpAddr> {
    match host {
        Host::Ip(ip) => Some(*ip),
        Host::Alias(_) => None,
    }
}

fn is_wanted(rtype: Rtype, ip: &IpAddr) -> bool {
    match rtype {
        Rtype::A => ip.is_ipv4(),
        Rtype::AAAA => ip.is_ipv6(),
        _ => true,
    }
}

/// Takes out what was there before, keeping the order.
fn dedup<T: Ord + Clone>(items: &mut Vec<T>) {
    if items.len() > 1 {
        let mut seen = BTreeSet::new();
        items.retain(|item| seen.insert(item.clone()));
    }
}

fn address(owner: &Name, ttl_secs: u32, ip: &IpAddr) -> Record {
    let data: Data = match ip {
        IpAddr::V4(ip) => A::new(*ip).into(),
        IpAddr::V6(ip) => Aaaa::new(*ip).into(),
    };
    record(owner.clone(), ttl_secs, data)
}

fn authoritative(rcode: Rcode) -> Reply {
    Reply { aa: true, ..Reply::empty(rcode) }
}

#[cfg(test)]
mod tests;
