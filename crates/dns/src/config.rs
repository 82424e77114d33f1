//! A Corefile turned into server blocks that can answer.
//!
//! Invariant: all of it is read before any of it acts, so that a wrong Corefile changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::chain::Block;
use crate::corefile::{Corefile, CorefileError, Directive, ServerBlock, Word, parse_key};
use crate::metrics::{Metrics, ZoneLabels};
use crate::name::{self, Name};
use crate::plugin::acl::Acl;
use crate::plugin::cache::{self, Cache};
use crate::plugin::errors::Errors;
use crate::plugin::forward::{self, Forward};
use crate::plugin::hosts::Hosts;
use crate::plugin::listen::{Listen, Reload, read_bufsize, read_health, read_prometheus, read_ready, read_reload};
use crate::plugin::log::LogRule;
use crate::plugin::loopcheck::LoopCheck;
use crate::plugin::rewrite::Rewrite;
use crate::plugin::template::Template;
use crate::plugin::{ELSEWHERE, KNOWN, kubernetes};

/// What a Corefile asks for.
#[derive(Default)]
pub struct Config {
    /// Server blocks by the address on which they answer.
    pub ports: BTreeMap<Listen, Vec<Arc<Block>>>,
    /// Where `health` answers.
    pub health: BTreeSet<Listen>,
    /// Where `ready` answers.
    pub ready: BTreeSet<Listen>,
    /// Where `prometheus` answers.
    pub prometheus: BTreeSet<Listen>,
    /// How long the server goes on after it was told to stop.
    pub lameduck: Duration,
    /// How often the Corefile is looked at.
    pub reload: Option<Reload>,
}

/// What reading a Corefile needs beside it.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Port of blocks that name none.
    pub default_port: u16,
    /// Counters.
    pub metrics: &'a Metrics,
    /// Reads a file that a plugin names.
    pub read_file: &'a dyn Fn(&str) -> std::io::Result<String>,
    /// The addresses of an interface.
    pub interface: &'a dyn Fn(&str) -> Vec<std::net::IpAddr>,
}

impl Config {
    /// Reads a Corefile's blocks.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn read(file: &Corefile, around: Surroundings<'_>) -> Result<Config, CorefileError> {
        let mut config = Config::default();
        let mut taken: BTreeMap<(Listen, String), String> = BTreeMap::new();
        for block in &file.blocks {
            for (place, key, listens, zones) in placements(block, around)? {
                for listen in &listens {
                    for zone in &zones {
                        let text = name::display(zone);
                        if let Some(before) = taken.insert((*listen, text.clone()), place.to_string()) {
                            let what = format!("zone {text} on {listen} is served already, by the block at {before}");
                            return Err(key.error(what, "give one of the two another zone or port"));
                        }
                    }
                }
            }
            config.add(block, around)?;
        }
        Ok(config)
    }

    /// All blocks, each once.
    pub fn blocks(&self) -> Vec<Arc<Block>> {
        self.ports.values().flatten().cloned().collect()
    }

    /// One block may serve several ports: each gets its own zones and counters, and a cache of its own.
    fn add(&mut self, block: &ServerBlock, around: Surroundings<'_>) -> Result<(), CorefileError> {
        let mut by_listen: BTreeMap<Listen, Vec<Name>> = BTreeMap::new();
        for (_, _, listens, zones) in placements(block, around)? {
            for listen in listens {
                let known = by_listen.entry(listen).or_default();
                known.extend(zones.iter().filter(|zone| !known.contains(zone)).cloned().collect::<Vec<_>>());
            }
        }
        for (listen, zones) in by_listen {
            let server = format!("dns://{listen}");
            let built = self.build(block, server, &zones, around)?;
            self.ports.entry(listen).or_default().push(Arc::new(built));
        }
        Ok(())
    }

    fn build(&mut self, block: &ServerBlock, server: String, zones: &[Name], around: Surroundings<'_>) -> Result<Block, CorefileError> {
        let counters = |zone: &Name| around.metrics.zone(ZoneLabels { server: server.clone(), zone: name::display(zone) });
        let mut built = Block {
            zones: zones.iter().map(|zone| (zone.clone(), counters(zone))).collect(),
            server,
            plugins: Vec::new(),
            bufsize: None,
            acls: Vec::new(),
            any: false,
            loadbalance: false,
            logs: Vec::new(),
            errors: None,
            rewrites: Vec::new(),
            templates: Vec::new(),
            hosts: None,
            kubernetes: None,
            loop_check: None,
            looped: AtomicBool::new(false),
            cache: None,
            forwards: Vec::new(),
        };
        for directive in &block.directives {
            let plugin = directive.name.text.as_str();
            let repeats = matches!(plugin, "acl" | "bind" | "forward" | "log" | "rewrite" | "template");
            if built.plugins.iter().any(|known| known == plugin) {
                if !repeats {
                    return Err(directive.name.error(format!("`{plugin}` stands twice in this block"), "keep one of the two"));
                }
            } else {
                built.plugins.push(plugin.to_owned());
            }
            self.add_plugin(&mut built, directive, zones, around)?;
        }
        Ok(built)
    }

    fn add_plugin(
        &mut self,
        built: &mut Block,
        directive: &Directive,
        zones: &[Name],
        around: Surroundings<'_>,
    ) -> Result<(), CorefileError> {
        match directive.name.text.as_str() {
            "acl" => built.acls.push(Acl::read(directive, zones)?),
            "any" => {
                directive.none()?;
                directive.no_body()?;
                built.any = true;
            }
            "bufsize" => built.bufsize = Some(read_bufsize(directive)?),
            "cache" => built.cache = Some(Cache::new(cache::read(directive, zones)?)),
            "errors" => built.errors = Some(Errors::read(directive)?),
            "forward" => built.forwards.push(Forward::new(forward::read(directive, around.read_file)?, around.metrics)),
            "health" => {
                let health = read_health(directive)?;
                self.health.insert(health.listen);
                self.lameduck = self.lameduck.max(health.lameduck);
            }
            "hosts" => built.hosts = Some(Hosts::read(directive, zones)?),
            "kubernetes" => built.kubernetes = Some(kubernetes::read(directive, zones)?),
            "loadbalance" => {
                read_loadbalance(directive)?;
                built.loadbalance = true;
            }
            "log" => built.logs.push(LogRule::read(directive, zones)?),
            "loop" => {
                directive.none()?;
                directive.no_body()?;
                built.loop_check = zones.first().map(LoopCheck::new);
            }
            "prometheus" => {
                self.prometheus.insert(read_prometheus(directive)?);
            }
            "ready" => {
                self.ready.insert(read_ready(directive)?);
            }
            "reload" => self.reload = read_reload(directive)?,
            "rewrite" => built.rewrites.push(Rewrite::read(directive)?),
            "template" => built.templates.push(Template::read(directive, zones)?),
            // Read with the block's keys; the others say nothing that would matter here.
            "bind" | "cancel" | "debug" => {}
            _ => return Err(unknown_plugin(&directive.name)),
        }
        Ok(())
    }
}

fn unknown_plugin(name: &Word) -> CorefileError {
    let known = format!("known are: {}", KNOWN.join(", "));
    if ELSEWHERE.contains(&name.text.as_str()) {
        return name.error(format!("CoreDNS's plugin `{}` is not supported", name.text), known);
    }
    name.error(format!("unknown plugin `{}`", name.text), known)
}

fn read_loadbalance(directive: &Directive) -> Result<(), CorefileError> {
    directive.no_body()?;
    match directive.at_most_one("at most one policy")? {
        None => Ok(()),
        Some(word) if word.text == "round_robin" => Ok(()),
        Some(word) => Err(word.error(format!("`{}` is no policy of loadbalance", word.text), "write round_robin, or nothing")),
    }
}

type Placement = (crate::corefile::Place, Word, Vec<Listen>, Vec<Name>);

/// The zones of each key of a block, with the addresses on which they are served.
fn placements(block: &ServerBlock, around: Surroundings<'_>) -> Result<Vec<Placement>, CorefileError> {
    let ips = bound_ips(block, around)?;
    let mut placements = Vec::new();
    for word in &block.keys {
        let key = parse_key(word)?;
        let port = key.port.unwrap_or(around.default_port);
        let listens = match &ips {
            None => vec![Listen::everywhere(port)],
            Some(ips) => ips.iter().map(|ip| Listen { ip: Some(*ip), port }).collect(),
        };
        placements.push((word.place.clone(), word.clone(), listens, key.zones));
    }
    Ok(placements)
}

/// The addresses that `bind` names, itself or by interface; none where there is no `bind`.
fn bound_ips(block: &ServerBlock, around: Surroundings<'_>) -> Result<Option<Vec<std::net::IpAddr>>, CorefileError> {
    let mut bound: Option<Vec<std::net::IpAddr>> = None;
    for directive in block.directives.iter().filter(|directive| directive.name.text == "bind") {
        let ips = bound.get_or_insert_default();
        if directive.args.is_empty() {
            return Err(directive.count_error("one or more addresses or interfaces"));
        }
        for word in &directive.args {
            let found = word.text.parse().map_or_else(|_| (around.interface)(&word.text), |ip| vec![ip]);
            if found.is_empty() {
                return Err(word.error(format!("`{}` is neither an address nor an interface with one", word.text), "see `ip addr`"));
            }
            ips.extend(found);
        }
        let mut excepted = Vec::new();
        for option in &directive.body {
            if option.name.text != "except" {
                return Err(directive.unknown_option(option, "except"));
            }
            for word in &option.args {
                excepted.extend(word.text.parse().map_or_else(|_| (around.interface)(&word.text), |ip| vec![ip]));
            }
        }
        ips.retain(|ip| !excepted.contains(ip));
    }
    Ok(bound)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;
    use crate::corefile::{NoSources, parse};

    fn read(text: &str) -> Result<Config, String> {
        let file = parse("Corefile", text, &NoSources).map_err(|error| error.to_string())?;
        let metrics = Metrics::default();
        let around = Surroundings {
            default_port: 53,
            metrics: &metrics,
            read_file: &|_| Err(std::io::ErrorKind::NotFound.into()),
            interface: &|name| if name == "lo" { vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()] } else { vec![] },
        };
        Config::read(&file, around).map_err(|error| error.to_string())
    }

    fn ports(text: &str) -> String {
        let config = read(text).unwrap();
        let show = |(listen, blocks): (&Listen, &Vec<Arc<Block>>)| {
            let zones: Vec<String> = blocks.iter().flat_map(|block| block.zone_texts()).collect();
            format!("{listen}={}", zones.join(","))
        };
        config.ports.iter().map(show).collect::<Vec<_>>().join(" ")
    }

    const CLUSTER: &str = ".:53 {\n errors\n log\n health\n ready\n kubernetes cluster.local 192.168.0.0/16\n forward . 10.4.7.11\n cache 30\n loop\n \
                           reload\n loadbalance\n prometheus :9153\n}";

    #[test]
    fn an_ordinary_corefile_is_read() {
        let config = read(CLUSTER).unwrap();
        let block = &config.ports[&Listen::everywhere(53)][0];
        assert!(block.errors.is_some() && block.loadbalance && block.cache.is_some() && block.loop_check.is_some());
        let zones: Vec<String> = block.kubernetes.as_ref().unwrap().options.zones.iter().map(name::display).collect();
        assert_eq!(zones, ["cluster.local.", "168.192.in-addr.arpa."]);
        assert_eq!(config.health, [Listen::everywhere(8080)].into());
        assert_eq!(config.ready, [Listen::everywhere(8181)].into());
        assert_eq!(config.prometheus, [Listen::everywhere(9153)].into());
        assert_eq!(config.reload.unwrap().interval, Duration::from_secs(30));
    }

    #[test]
    fn blocks_are_put_on_their_ports() {
        assert_eq!(ports("a b:1053 {\n}\nc {\n}"), ":53=a.,c. :1053=b.");
        assert_eq!(ports(". {\nbind lo\n}"), "127.0.0.1:53=. [::1]:53=.");
        assert_eq!(ports(". {\nbind lo 10.0.0.1 {\nexcept ::1\n}\n}"), "10.0.0.1:53=. 127.0.0.1:53=.");
    }

    #[test]
    fn errors_say_where_and_what_to_do() {
        for (text, expected) in [
            (". {\n\n foo\n}", "Corefile:3: unknown plugin `foo`; known are: acl, any, bind"),
            (". {\n dnssec\n}", "Corefile:2: CoreDNS's plugin `dnssec` is not supported; known are: "),
            (". {\n cache\n cache\n}", "Corefile:3: `cache` stands twice in this block"),
            ("a {\n}\na:53 {\n}", "Corefile:3: zone a. on :53 is served already, by the block at Corefile:1"),
            (". {\n bind eth9\n}", "Corefile:2: `eth9` is neither an address nor an interface"),
            (". {\n loadbalance weighted\n}", "Corefile:2: `weighted` is no policy"),
            (". {\n kubernetes {\n  pods some\n }\n}", "Corefile:3: `some` is no mode of pods"),
            (". {\n kubernetes {\n  foo\n }\n}", "Corefile:3: `kubernetes` has no option `foo`; known are: pods, ttl"),
            (". {\n health x\n}", "Corefile:2: `x` is no address to listen on"),
            (". {\n reload 1s\n}", "Corefile:2: `reload` is too frequent"),
        ] {
            let Err(error) = read(text) else { panic!("{text} is read") };
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
