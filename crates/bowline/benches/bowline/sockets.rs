//! Services at the socket: filling the maps, and changing one endpoint, by the agent's own path; and the stage on which hooks can be attached
//! without touching the machine's: a BPF file system in a mount namespace of the bench's own, and cgroups of its own below the root.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bowline_dataplane::HostFacts;
use bowline_kernel::bpf::{Hooks, Place, Sizes, SocketDriver};
use bowline_kernel::mounts;
use bowline_kernel::reconcile::{Reconciler, SyncMode};
use bowline_model::intent::Intent;
use rustix::mount::{MountFlags, mount};

use crate::Effort;
use crate::cluster;
use crate::report::{Growth, Row, Section, Target};
use crate::stats::Samples;

const SIZES: [u32; 4] = [1000, 10_000, 30_000, 100_000];
/// The size that targets are about, and its endpoints a service.
const TARGET_SIZE: (u32, u32) = (10_000, 10);

/// Where hooks of the bench's own live; the process must have a mount namespace of its own. Dropping it removes what it made.
pub(crate) struct Stage {
    bpffs: tempfile::TempDir,
    cgroup: PathBuf,
}

impl Stage {
    /// Makes one.
    pub(crate) fn new() -> Result<Stage> {
        let bpffs = tempfile::tempdir()?;
        mount("bpf", bpffs.path(), "bpf", MountFlags::empty(), None).context("mount a BPF file system")?;
        let root = mounts::first_of("cgroup2")?.context("no cgroup2 hierarchy is mounted")?;
        let cgroup = root.join(format!("bowline-bench-{}", std::process::id()));
        fs::create_dir_all(&cgroup).with_context(|| cgroup.display().to_string())?;
        Ok(Stage { bpffs, cgroup })
    }

    /// A cgroup with its part of the file system; processes in it meet hooks that are attached there.
    pub(crate) fn place(&self, name: &str) -> Result<Place> {
        let place = Place { cgroup: self.cgroup.join(name), bpffs: self.bpffs.path().join(name) };
        fs::create_dir_all(&place.cgroup).with_context(|| place.cgroup.display().to_string())?;
        fs::create_dir_all(&place.bpffs).with_context(|| place.bpffs.display().to_string())?;
        Ok(place)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let root = self.cgroup.parent().unwrap_or(&self.cgroup);
        let _ = enter(root);
        for entry in fs::read_dir(&self.cgroup).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(entry.path());
        }
        let _ = fs::remove_dir(&self.cgroup);
        let _ = rustix::mount::unmount(self.bpffs.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

/// Moves this process into a cgroup: sockets that it opens from now on are of that.
pub(crate) fn enter(cgroup: &Path) -> Result<()> {
    let file = cgroup.join("cgroup.procs");
    fs::write(&file, std::process::id().to_string()).with_context(|| file.display().to_string())
}

/// Hooks with filled maps.
pub(crate) struct Filled {
    maps: Reconciler<SocketDriver>,
    intent: Intent,
    _hooks: Hooks,
}

fn host() -> HostFacts {
    HostFacts { socket_hooks: true, ..HostFacts::default() }
}

impl Filled {
    /// Attaches hooks for the calling thread's network namespace, and fills their maps; with the seconds of lowering and of both.
    pub(crate) fn load(place: &Place, intent: Intent) -> Result<(Filled, f64, f64)> {
        let hooks = Hooks::open_at(place, Sizes::default()).context("socket hooks")?;
        let maps = Reconciler::new(hooks.driver()?);
        let mut filled = Filled { maps, intent: Intent::default(), _hooks: hooks };
        let begun = Instant::now();
        let delta = bowline_dataplane::lower(&filled.intent, &intent, &host()).value;
        let lowered = begun.elapsed().as_secs_f64();
        filled.maps.want(delta.sockets);
        filled.maps.allow_removal();
        filled.sync(SyncMode::Full)?;
        filled.intent = intent;
        Ok((filled, lowered, begun.elapsed().as_secs_f64()))
    }

    fn change(&mut self, new: Intent) -> Result<f64> {
        let begun = Instant::now();
        let delta = bowline_dataplane::lower(&self.intent, &new, &host()).value;
        self.maps.want(delta.sockets);
        let written = self.sync(SyncMode::Shadow)?;
        let took = begun.elapsed().as_secs_f64();
        ensure!(written > 0, "a change that changes nothing in the kernel");
        self.intent = new;
        Ok(took)
    }

    fn sync(&mut self, how: SyncMode) -> Result<usize> {
        let report = self.maps.sync(how, 0);
        let failure = report.failed.first().map(|f| format!("{:?}: {}", f.key, f.error));
        ensure!(report.is_clean(), "the kernel refused: {}", failure.or(report.read_error).unwrap_or_default());
        Ok(report.written)
    }
}

/// What was measured at one size.
struct Size {
    services: u32,
    lower_s: Samples,
    load_s: Samples,
    change_ms: Samples,
}

/// The bench.
pub(crate) fn measure(effort: Effort) -> Result<Section> {
    let stage = Stage::new()?;
    let mut section = Section::new("services at the socket: load, and one endpoint changed");
    let mut sizes = Vec::new();
    for services in SIZES {
        eprintln!("  {services} services");
        sizes.push(size(&stage, services, effort)?);
    }
    let (services, endpoints) = TARGET_SIZE;
    let wide = cluster::intent_of(services, endpoints);
    let loads: Vec<f64> = (0..effort.pick(2, 5))
        .map(|round| Ok(Filled::load(&stage.place(&format!("wide-{round}"))?, wide.clone())?.2))
        .collect::<Result<_>>()?;
    section
        .rows
        .push(Row::median(format!("load {services} services x {endpoints}"), "s", &Samples::new(loads)).target(Target::AtMost(0.5)));
    for size in &sizes {
        let services = size.services;
        section.rows.push(Row::median(format!("load {services} services x 2"), "s", &size.load_s));
        section.rows.push(Row::median(format!("one endpoint at {services} services, p50"), "ms", &size.change_ms));
        let row = Row::new(format!("one endpoint at {services} services, p99"), "ms", size.change_ms.percentile(99));
        section.rows.push(if services == TARGET_SIZE.0 { row.target(Target::AtMost(5.0)) } else { row });
    }
    let line = |what: &str, of: &dyn Fn(&Size) -> f64| (what.to_owned(), sizes.iter().map(of).collect());
    section.growth = Some(Growth {
        columns: sizes.iter().map(|size| size.services.to_string()).collect(),
        rows: vec![
            line("lowering, s", &|size| size.lower_s.median()),
            line("lowering and kernel, s", &|size| size.load_s.median()),
            line("one endpoint, p50, ms", &|size| size.change_ms.median()),
            line("one endpoint, p99, ms", &|size| size.change_ms.percentile(99)),
        ],
    });
    section
        .notes
        .push("lowering makes the packet filter's rules as well, as it does in the agent; writing those is not in these figures".into());
    Ok(section)
}

fn size(stage: &Stage, services: u32, effort: Effort) -> Result<Size> {
    let (mut lower_s, mut load_s, mut last) = (Vec::new(), Vec::new(), None);
    for round in 0..effort.pick(2, 5) {
        let place = stage.place(&format!("load-{services}-{round}"))?;
        let (filled, lowered, took) = Filled::load(&place, cluster::intent(services))?;
        lower_s.push(lowered);
        load_s.push(took);
        last = Some(filled);
    }
    let mut filled = last.context("no rounds")?;
    let mut changes = Vec::new();
    for n in 0..effort.pick(50, 500) {
        let service = n * 7919 % services;
        let new = cluster::with_one_endpoint_changed(&filled.intent, service, 2 * services + n);
        changes.push(filled.change(new)? * 1e3);
    }
    ensure!(filled.sync(SyncMode::Full)? == 0, "what was changed is not in the kernel");
    Ok(Size { services, lower_s: Samples::new(lower_s), load_s: Samples::new(load_s), change_ms: Samples::new(changes) })
}
