//! Loading services and changing one, by the agent's own path: intent, lowering, nftables driver, in a namespace of the bench's own.
//!
//! The peer is the usual layout, a chain for each service and each endpoint, loaded as text by `nft -f`. The elements of Bowline's
//! maps, as text, are loaded too, to tell what the layout is worth and what netlink is.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bowline_dataplane::HostFacts;
use bowline_dataplane::objects::nft::NftObject;
use bowline_kernel::netns::NetNs;
use bowline_kernel::nft::NftDriver;
use bowline_kernel::reconcile::{Reconciler, SyncMode};
use bowline_model::intent::Intent;

use crate::Effort;
use crate::cluster;
use crate::report::{Growth, Row, Section, Target};
use crate::stats::{Samples, ratios};

const SIZES: [u32; 4] = [1000, 10_000, 30_000, 100_000];
/// The size that targets are about.
const TARGET_SIZE: u32 = 10_000;

/// A node's rules with what they were lowered from.
pub(crate) struct Loaded {
    reconciler: Reconciler<NftDriver>,
    intent: Intent,
}

impl Loaded {
    /// Lowers and writes `intent` into an empty namespace; with the seconds of both.
    pub(crate) fn load(ns: &NetNs, intent: Intent) -> Result<(Loaded, f64, f64)> {
        let driver = NftDriver::open_in(ns).context("nftables")?;
        let mut loaded = Loaded { reconciler: Reconciler::new(driver), intent: Intent::default() };
        let begun = Instant::now();
        let delta = bowline_dataplane::lower(&loaded.intent, &intent, &HostFacts::default()).value;
        let lowered = begun.elapsed().as_secs_f64();
        loaded.reconciler.want(delta.nft);
        loaded.reconciler.allow_removal();
        loaded.sync(SyncMode::Full)?;
        loaded.intent = intent;
        Ok((loaded, lowered, begun.elapsed().as_secs_f64()))
    }

    /// Brings a new intent about, as the agent does it turn by turn; gives the seconds.
    pub(crate) fn change(&mut self, new: Intent) -> Result<f64> {
        let begun = Instant::now();
        let delta = bowline_dataplane::lower(&self.intent, &new, &HostFacts::default()).value;
        self.reconciler.want(delta.nft);
        let written = self.sync(SyncMode::Shadow)?;
        let took = begun.elapsed().as_secs_f64();
        ensure!(written > 0, "a change that changes nothing in the kernel");
        self.intent = new;
        Ok(took)
    }

    /// How many rules there are, and how many elements of sets and maps.
    pub(crate) fn counts(&self) -> (usize, usize) {
        self.reconciler.wanted().values().fold((0, 0), |(rules, elements), object| match object {
            NftObject::Chain(chain) => (rules + chain.rules.len(), elements),
            NftObject::Element(_) => (rules, elements + 1),
            NftObject::Set(_) | NftObject::Counter => (rules, elements),
        })
    }

    /// Reads the kernel back, which must hold what was wanted last.
    pub(crate) fn is_in_the_kernel(&mut self) -> Result<()> {
        ensure!(self.sync(SyncMode::Full)? == 0, "what was changed is not in the kernel");
        Ok(())
    }

    /// Gives the number of objects that were written.
    fn sync(&mut self, how: SyncMode) -> Result<usize> {
        let report = self.reconciler.sync(how, 0);
        let failure = report.failed.first().map(|f| format!("{:?}: {}", f.key, f.error));
        ensure!(report.is_clean(), "the kernel refused: {}", failure.or(report.read_error).unwrap_or_default());
        Ok(report.written + report.removed)
    }
}

/// What was measured at one size.
struct Size {
    services: u32,
    lower_s: Samples,
    load_s: Vec<f64>,
    change_ms: Samples,
    same_text_s: f64,
    usual_s: Vec<f64>,
    usual_change_ms: Samples,
}

/// The bench.
pub(crate) fn measure(effort: Effort) -> Result<Section> {
    let scratch = tempfile::tempdir()?;
    let mut section = Section::new("services: load, and one endpoint changed");
    let mut sizes = Vec::new();
    for services in SIZES {
        eprintln!("  {services} services");
        sizes.push(size(services, effort, scratch.path())?);
    }
    for size in &sizes {
        rows(size, &mut section.rows);
    }
    section.growth = Some(growth(&sizes));
    section.notes.push(format!(
        "each service has one port and 2 endpoints; peer: a chain for each service and each endpoint, `nft -f`{}",
        effort.pick(", up to 1,000 services", ", up to 10,000 services (time and memory grow faster than the number)")
    ));
    section.notes.push("seconds are those of one process on an otherwise unpinned machine: lowering, encoding, kernel commit".into());
    Ok(section)
}

fn size(services: u32, effort: Effort, scratch: &Path) -> Result<Size> {
    let rounds = effort.pick(2, 5);
    let has_peer = services <= effort.pick(1000, 10_000);
    // The peer takes about a minute at 10,000.
    let peer_rounds = if services > 1000 { 1 } else { rounds };
    let text = scratch.join("usual.nft");
    std::fs::write(&text, usual_layout(services)?)?;
    let (mut lower_s, mut load_s, mut usual_s) = (Vec::new(), Vec::new(), Vec::new());
    let (mut ours, mut usual) = (None, None);
    for round in 0..rounds {
        let ns = NetNs::anonymous()?;
        let (loaded, lowered, took) = Loaded::load(&ns, cluster::intent(services))?;
        lower_s.push(lowered);
        load_s.push(took);
        ours = Some((ns, loaded));
        if has_peer && round < peer_rounds {
            let ns = NetNs::anonymous()?;
            usual_s.push(nft_file(&ns, &text)?);
            usual = Some(ns);
        }
    }
    let (_ns, mut loaded) = ours.context("no rounds")?;
    let change_ms = Samples::new(one_change(&mut loaded, services, effort.pick(50, 500))?);
    let usual_change_ms = match usual {
        Some(ns) => usual_changes(&ns, services, effort.pick(5, 20), scratch)?,
        None => Samples::default(),
    };
    let same_text_s = same_as_text(services, scratch)?;
    Ok(Size { services, lower_s: Samples::new(lower_s), load_s, change_ms, same_text_s, usual_s, usual_change_ms })
}

/// Milliseconds of each of `count` changes of one endpoint, spread over all services.
fn one_change(loaded: &mut Loaded, services: u32, count: u32) -> Result<Vec<f64>> {
    let mut took = Vec::new();
    for n in 0..count {
        let service = n.wrapping_mul(7919) % services;
        let new = cluster::with_one_endpoint_changed(&loaded.intent, service, 2 * services + n);
        took.push(loaded.change(new)? * 1e3);
    }
    loaded.is_in_the_kernel()?;
    Ok(took)
}

fn rows(size: &Size, rows: &mut Vec<Row>) {
    let services = size.services;
    let load = Samples::new(size.load_s.clone());
    let mut row = Row::median(format!("load {services} services"), "s", &load);
    if !size.usual_s.is_empty() {
        row = row.peer_ratios(Samples::new(size.usual_s.clone()).median(), &ratios(&size.load_s, &size.usual_s));
    }
    rows.push(if services == TARGET_SIZE { row.target(Target::AtMost(2.0)) } else { row });
    let mut row = Row::median(format!("one endpoint at {services} services, p50"), "ms", &size.change_ms);
    if !size.usual_s.is_empty() {
        row = row.peer(size.usual_change_ms.median());
    }
    rows.push(row);
    let row = Row::new(format!("one endpoint at {services} services, p99"), "ms", size.change_ms.percentile(99));
    rows.push(if services == TARGET_SIZE { row.target(Target::AtMost(5.0)) } else { row });
}

fn growth(sizes: &[Size]) -> Growth {
    let line = |what: &str, of: &dyn Fn(&Size) -> f64| (what.to_owned(), sizes.iter().map(of).collect());
    Growth {
        columns: sizes.iter().map(|s| s.services.to_string()).collect(),
        rows: vec![
            line("lowering, s", &|s| s.lower_s.median()),
            line("lowering and kernel, s", &|s| Samples::new(s.load_s.clone()).median()),
            line("the same map elements as text by nft -f, s", &|s| s.same_text_s),
            line("a chain a service by nft -f, s", &|s| Samples::new(s.usual_s.clone()).median()),
            line("one endpoint, p50, ms", &|s| s.change_ms.median()),
            line("one endpoint, p99, ms", &|s| s.change_ms.percentile(99)),
            line("one endpoint, chain a service by nft -f, p50, ms", &|s| s.usual_change_ms.median()),
        ],
    }
}

/// Seconds that `nft -f` takes in the namespace.
fn nft_file(ns: &NetNs, file: &Path) -> Result<f64> {
    let begun = Instant::now();
    let output = ns.run(|| Command::new("nft").arg("-f").arg(file).output())?.context("nft")?;
    let took = begun.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "nft -f: {}", said.lines().next().unwrap_or("it failed without a reason"));
    Ok(took)
}

/// Seconds that the elements of Bowline's two maps take as text.
fn same_as_text(services: u32, scratch: &Path) -> Result<f64> {
    let frontend = "ipv4_addr . inet_proto . inet_service";
    let mut text = format!("table inet same {{\nchain svc4_2 {{ }}\nmap svc4 {{ type {frontend} : verdict\nelements = {{\n");
    for n in 0..services {
        writeln!(text, "{} . tcp . 80 : goto svc4_2,", cluster::vip(n))?;
    }
    writeln!(text, "}} }}\nmap ep4 {{ type {frontend} . mark : ipv4_addr . inet_service\nelements = {{")?;
    for (n, e) in (0..services).flat_map(|n| [(n, 0), (n, 1)]) {
        let endpoint = cluster::endpoint(2 * n + e);
        writeln!(text, "{} . tcp . 80 . {e} : {} . {},", cluster::vip(n), endpoint.ip, endpoint.port)?;
    }
    text.push_str("} }\n}\n");
    let file = scratch.join("same.nft");
    std::fs::write(&file, text)?;
    nft_file(&NetNs::anonymous()?, &file)
}

/// The usual layout: a verdict map to a chain for each service, which draws one of a chain for each endpoint.
fn usual_layout(services: u32) -> Result<String> {
    let mut text = String::from("table ip usual {\n");
    for n in 0..services {
        writeln!(text, "chain s{n} {{ numgen random mod 2 vmap {{ 0 : goto s{n}e0, 1 : goto s{n}e1 }}; }}")?;
        for e in 0..2 {
            let endpoint = cluster::endpoint(2 * n + e);
            writeln!(text, "chain s{n}e{e} {{ meta l4proto tcp dnat to {}:{}; }}", endpoint.ip, endpoint.port)?;
        }
    }
    text.push_str("map services { type ipv4_addr . inet_proto . inet_service : verdict\nelements = {\n");
    for n in 0..services {
        writeln!(text, "{} . tcp . 80 : goto s{n},", cluster::vip(n))?;
    }
    text.push_str("} }\nchain services { ip daddr . meta l4proto . th dport vmap @services; }\n");
    text.push_str("chain pre { type nat hook prerouting priority dstnat; jump services; }\n");
    text.push_str("chain out { type nat hook output priority -100; jump services; }\n}\n");
    Ok(text)
}

/// Milliseconds of changes of one endpoint in the usual layout.
fn usual_changes(ns: &NetNs, services: u32, count: u32, scratch: &Path) -> Result<Samples> {
    let file = scratch.join("change.nft");
    let mut took = Vec::new();
    for n in 0..count {
        let (service, endpoint) = (n.wrapping_mul(7919) % services, cluster::endpoint(2 * services + n));
        let chain = format!("ip usual s{service}e1");
        let change = format!("flush chain {chain}\nadd rule {chain} meta l4proto tcp dnat to {}:{}\n", endpoint.ip, endpoint.port);
        std::fs::write(&file, change)?;
        took.push(nft_file(ns, &file)? * 1e3);
    }
    Ok(Samples::new(took))
}
