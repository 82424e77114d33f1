//! A server block at work: a question goes through its plugins, in CoreDNS's order, until one answers.
//!
//! Order: rewrite, acl, any, template, hosts, kubernetes, loop, cache, forward; around all of it bufsize, loadbalance, log,
//! errors and metrics. What is made here is not cached: it is as cheap as the cache and never old.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use domain::base::CharStr;
use domain::base::iana::{Class, OptRcode, Rcode, Rtype};
use domain::rdata::Hinfo;
use rand::seq::SliceRandom;
use tokio::sync::watch;

use crate::answer::{Answer, Facts, answer};
use crate::index::DnsIndex;
use crate::metrics::ZoneMetrics;
use crate::name::{self, Name};
use crate::plugin::Answerer;
use crate::plugin::acl::{Acl, Verdict};
use crate::plugin::cache::{Cache, Lookup};
use crate::plugin::errors::Errors;
use crate::plugin::forward::{Forward, ForwardError};
use crate::plugin::hosts::{Hosts, HostsAnswer};
use crate::plugin::kubernetes::Kubernetes;
use crate::plugin::log::LogRule;
use crate::plugin::loopcheck::LoopCheck;
use crate::plugin::rewrite::Rewrite;
use crate::plugin::template::{Template, TemplateAnswer};
use crate::server::Transport;
use crate::wire::{Data, Query, Reply, record};

/// What the agent told last; none before the first snapshot.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The names.
    pub index: Option<Arc<DnsIndex>>,
    /// When they last changed, in seconds since 1970.
    pub serial: u32,
}

/// A server block, ready to answer.
pub struct Block {
    /// The server, such as `dns://:53`.
    pub server: String,
    /// Its zones, each with its counters.
    pub zones: Vec<(Name, Arc<ZoneMetrics>)>,
    /// Names of its plugins.
    pub plugins: Vec<String>,
    /// `bufsize`.
    pub bufsize: Option<u16>,
    /// `acl`.
    pub acls: Vec<Acl>,
    /// `any`.
    pub any: bool,
    /// `loadbalance`.
    pub loadbalance: bool,
    /// `log`.
    pub logs: Vec<LogRule>,
    /// `errors`.
    pub errors: Option<Errors>,
    /// `rewrite`.
    pub rewrites: Vec<Rewrite>,
    /// `template`.
    pub templates: Vec<Template>,
    /// `hosts`.
    pub hosts: Option<Hosts>,
    /// `kubernetes`.
    pub kubernetes: Option<Kubernetes>,
    /// `loop`.
    pub loop_check: Option<LoopCheck>,
    /// Set once a loop has been seen.
    pub looped: AtomicBool,
    /// `cache`.
    pub cache: Option<Cache>,
    /// `forward`.
    pub forwards: Vec<Forward>,
}

/// The server blocks of one address.
pub struct Port {
    /// Its blocks.
    pub blocks: Vec<Arc<Block>>,
    /// What the agent told.
    pub known: watch::Receiver<Known>,
}

impl Port {
    /// The block whose zone fits a name best, with the zone's counters.
    pub fn block_for(&self, asked: &Name) -> Option<(&Arc<Block>, &Arc<ZoneMetrics>)> {
        let zones = self.blocks.iter().flat_map(|block| block.zones.iter().map(move |(zone, metrics)| (block, zone, metrics)));
        let best = zones.filter(|(_, zone, _)| asked.ends_with(zone)).max_by_key(|(_, zone, _)| zone.label_count());
        best.map(|(block, _, metrics)| (block, metrics))
    }
}

/// Who asks, and how.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// Who.
    pub client: SocketAddr,
    /// The address asked.
    pub local: Option<IpAddr>,
    /// How.
    pub transport: Transport,
}

/// What became of a question.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The reply; none where none is to be sent.
    pub reply: Option<Reply>,
    /// Who made it.
    pub answerer: Answerer,
}

impl Resolved {
    fn by(answerer: Answerer, reply: Reply) -> Resolved {
        Resolved { reply: Some(reply), answerer }
    }

    fn code(answerer: Answerer, rcode: Rcode) -> Resolved {
        Resolved::by(answerer, Reply::empty(rcode))
    }
}

/// How many aliases are followed.
const MAX_ALIASES: u8 = 8;

/// Answers a question that came to a port.
pub async fn resolve(port: &Arc<Port>, asker: Asker, query: &Query) -> Resolved {
    resolve_at_depth(port, asker, query, 0).await
}

async fn resolve_at_depth(port: &Arc<Port>, asker: Asker, query: &Query, depth: u8) -> Resolved {
    let Some((block, _)) = port.block_for(&query.name) else { return Resolved::code(Answerer::Server, Rcode::REFUSED) };
    if query.class != Class::IN {
        return Resolved::code(Answerer::Server, Rcode::REFUSED);
    }
    let mut changed = query.clone();
    if let (Some(limit), Some(edns)) = (block.bufsize, changed.edns.as_mut()) {
        edns.udp_bytes = edns.udp_bytes.min(limit);
    }
    let reverts = if block.rewrites.is_empty() { Vec::new() } else { Rewrite::apply(&block.rewrites, &mut changed) };
    let mut resolved = block.resolve(port, asker, &changed, depth).await;
    if let Some(reply) = &mut resolved.reply {
        if !reverts.is_empty() {
            Rewrite::revert(&reverts, reply);
        }
        if block.loadbalance {
            shuffle(reply);
        }
        // Whoever forwards can recurse; what an upstream said of itself does not matter.
        reply.ra = !block.forwards.is_empty();
        // RFC 6840 section 5.7: only those who asked for it are told that it is authentic.
        reply.ad &= query.ad || query.dnssec_ok();
    }
    resolved
}

impl Block {
    /// Its zones as text.
    pub fn zone_texts(&self) -> Vec<String> {
        self.zones.iter().map(|(zone, _)| name::display(zone)).collect()
    }

    async fn resolve(self: &Arc<Self>, port: &Arc<Port>, asker: Asker, query: &Query, depth: u8) -> Resolved {
        if let Some(verdict) = self.judge(query, asker.client.ip()) {
            return verdict;
        }
        if self.any && query.rtype == Rtype::ANY {
            return Resolved::by(Answerer::Any, refuse_any(query));
        }
        for template in &self.templates {
            if let TemplateAnswer::Reply(reply) = template.answer(query, asker.client.ip()) {
                return Resolved::by(Answerer::Template, reply);
            }
        }
        if let Some(hosts) = &self.hosts
            && let HostsAnswer::Reply(reply) = hosts.answer(query, Instant::now())
        {
            return Resolved::by(Answerer::Hosts, reply);
        }
        if let Some(kubernetes) = &self.kubernetes
            && let Some(resolved) = self.ask_kubernetes(kubernetes, port, asker, query, depth).await
        {
            return resolved;
        }
        if self.loop_check.as_ref().is_some_and(|check| depth == 0 && check.saw(query)) {
            self.looped.store(true, Ordering::Relaxed);
            return Resolved::code(Answerer::Server, Rcode::SERVFAIL);
        }
        // The server's own questions for aliases want the whole answer.
        let transport = if depth == 0 { asker.transport } else { Transport::Inside };
        self.ask_upstreams(query, transport).await
    }

    fn judge(&self, query: &Query, client: IpAddr) -> Option<Resolved> {
        for acl in &self.acls {
            match acl.judge(query, client) {
                Verdict::Allow => {}
                Verdict::Block => return Some(Resolved::code(Answerer::Acl, Rcode::REFUSED)),
                Verdict::Filter => return Some(Resolved::code(Answerer::Acl, Rcode::NOERROR)),
                Verdict::Drop => return Some(Resolved { reply: None, answerer: Answerer::Acl }),
            }
        }
        None
    }

    /// The reply of the cluster's names; none where the next plugins are to be asked.
    async fn ask_kubernetes(&self, plugin: &Kubernetes, port: &Arc<Port>, asker: Asker, query: &Query, depth: u8) -> Option<Resolved> {
        let answered = {
            let known = port.known.borrow();
            let facts = Facts { index: known.index.as_deref(), serial: known.serial, local: asker.local };
            answer(&plugin.options, facts, query)
        };
        let reply = match answered {
            Answer::NotOurs => return None,
            Answer::NoName(_) if plugin.fallthrough.lets(&query.name) => return None,
            Answer::NoName(reply) | Answer::Reply(reply) => reply,
            Answer::Alias(reply, _) if depth >= MAX_ALIASES => Reply { rcode: OptRcode::SERVFAIL, ..reply },
            Answer::Alias(reply, target) => follow(port, asker, query, reply, target, depth).await,
        };
        Some(Resolved::by(Answerer::Kubernetes, reply))
    }

    async fn ask_upstreams(self: &Arc<Self>, query: &Query, transport: Transport) -> Resolved {
        let Some(first) = self.forwards.iter().position(|forward| forward.takes(&query.name)) else {
            return Resolved::code(Answerer::Server, Rcode::SERVFAIL);
        };
        let Some(cache) = self.cache.as_ref().filter(|cache| cache.takes(&query.name)) else {
            return self.forward(query, transport, first).await;
        };
        match cache.get(query, Instant::now()) {
            Lookup::Hit { reply, refresh } => {
                if refresh {
                    let (block, query) = (Arc::clone(self), query.clone());
                    tokio::spawn(async move { block.refresh(&query, first).await });
                }
                Resolved::by(Answerer::Cache, reply)
            }
            Lookup::Miss => self.forward_and_keep(cache, query, transport, first).await,
            Lookup::Fallback(old) => {
                let wait = cache.options().serve_stale.and_then(|stale| stale.verify_timeout);
                let block = Arc::clone(self);
                let asked = query.clone();
                // It goes on when the waiting ends, so that the next question finds the fresh entry.
                let mut asking = tokio::spawn(async move { block.refresh(&asked, first).await });
                let fresh = match wait {
                    Some(wait) => tokio::time::timeout(wait, &mut asking).await.ok().and_then(Result::ok),
                    None => asking.await.ok(),
                };
                fresh.filter(is_usable).unwrap_or_else(|| {
                    cache.counts.served_stale.fetch_add(1, Ordering::Relaxed);
                    Resolved::by(Answerer::Cache, old)
                })
            }
        }
    }

    async fn refresh(&self, query: &Query, first: usize) -> Resolved {
        let Some(cache) = &self.cache else { return Resolved::code(Answerer::Server, Rcode::SERVFAIL) };
        let resolved = self.forward_and_keep(cache, query, Transport::Udp, first).await;
        if !is_usable(&resolved) {
            cache.refresh_failed(query);
        }
        resolved
    }

    async fn forward_and_keep(&self, cache: &Cache, query: &Query, transport: Transport, first: usize) -> Resolved {
        let mut resolved = self.forward(query, transport, first).await;
        if let Some(reply) = &mut resolved.reply {
            cache.put(query, reply, Instant::now());
        }
        resolved
    }

    async fn forward(&self, query: &Query, transport: Transport, first: usize) -> Resolved {
        let mut last = Resolved::code(Answerer::Forward, Rcode::SERVFAIL);
        for forward in self.forwards.iter().skip(first).filter(|forward| forward.takes(&query.name)) {
            match forward.exchange(query, transport).await {
                Ok(reply) => {
                    let passes_on = forward.passes_on(reply.rcode);
                    last = Resolved::by(Answerer::Forward, reply);
                    if !passes_on {
                        break;
                    }
                }
                Err(error) => {
                    if let Some(errors) = &self.errors {
                        errors.tell(query, &error.to_string());
                    }
                    let rcode = if matches!(error, ForwardError::TooMany) { Rcode::REFUSED } else { Rcode::SERVFAIL };
                    return Resolved::code(Answerer::Forward, rcode);
                }
            }
        }
        last
    }
}

fn is_usable(resolved: &Resolved) -> bool {
    resolved.reply.as_ref().is_some_and(|reply| matches!(reply.rcode, OptRcode::NOERROR | OptRcode::NXDOMAIN))
}

/// Looks an alias's target up and adds its records; where nobody knows it the alias stands alone.
async fn follow(port: &Arc<Port>, asker: Asker, query: &Query, mut reply: Reply, target: Name, depth: u8) -> Reply {
    let query = Query { name: target, ..query.clone() };
    let resolved = Box::pin(resolve_at_depth(port, asker, &query, depth + 1)).await;
    // Nobody was there to be asked: the client is left to follow the alias itself.
    if resolved.answerer == Answerer::Server {
        return reply;
    }
    if let Some(found) = resolved.reply {
        reply.rcode = found.rcode;
        reply.answer.extend(found.answer);
        if reply.rcode != OptRcode::SERVFAIL {
            reply.authority = found.authority;
        }
    }
    reply
}

/// RFC 8482: a question for everything gets next to nothing.
fn refuse_any(query: &Query) -> Reply {
    let mut reply = Reply::empty(Rcode::NOERROR);
    let text = |text: &'static [u8]| CharStr::from_octets(bytes::Bytes::from_static(text));
    if let (Ok(cpu), Ok(os)) = (text(b"ANY obsoleted"), text(b"See RFC 8482")) {
        reply.answer.push(record(query.name.clone(), 8482, Hinfo::new(cpu, os)));
    }
    reply
}

/// Puts addresses in a random order among themselves; aliases keep their place before them.
fn shuffle(reply: &mut Reply) {
    let is_address = |data: &Data| matches!(data, Data::A(_) | Data::Aaaa(_));
    let answer = &mut reply.answer;
    if answer.len() < 2 {
        return;
    }
    if let Some(first) = answer.iter().position(|record| is_address(record.data())) {
        let end = answer.iter().skip(first).position(|record| !is_address(record.data())).map_or(answer.len(), |length| first + length);
        if let Some(addresses) = answer.get_mut(first..end) {
            addresses.shuffle(&mut rand::rng());
        }
    }
}
