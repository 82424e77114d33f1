//! Measurements, no verdict: Bowline, and in its place kube-proxy, CoreDNS and flannel, each on a new cluster of the same kind.
//!
//! Both clusters stand at once and are measured in turn, in rounds, so that what else the machine does meets both alike. Bowline is installed
//! as its manifest says. The others run as processes of the nodes, without containers around them, which spares them what a container costs.
//! Memory is the proportional set size, processor time what `/proc/PID/stat` counts.

mod figures;
mod others;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::outcome::{Case, Figure, Outcome};
use super::place::{self, Cluster};
use crate::image::Profile;
use figures::{Round, Sample};

pub(crate) const NAME: &str = "peers";

/// How often both are measured.
const ROUNDS: usize = 5;

/// Pods that are started on each side in a round, one after the other.
const PODS: usize = 5;

/// How long both are left alone in a round to see what they cost at rest.
const REST: Duration = Duration::from_secs(20);

/// What stands on a cluster: its name, the cluster's, how it is put there, and the command lines by which its processes are known.
struct Side {
    name: &'static str,
    cluster: &'static str,
    install: fn(&Cluster, &Path) -> Result<()>,
    processes: &'static [&'static str],
}

const SIDES: [Side; 2] = [
    Side { name: "Bowline", cluster: "conf-peers", install: install_bowline, processes: &["bowline agent", "bowline dns"] },
    Side { name: "others", cluster: "conf-others", install: others::install, processes: &["kube-proxy", "coredns", "flanneld"] },
];

/// Measures both.
pub(crate) fn run(image: Option<&Path>) -> Result<Outcome> {
    let begun = Instant::now();
    let mut outcome = Outcome { suite: NAME.into(), ..Outcome::default() };
    let mut clusters = Vec::new();
    let measured = measure(image, &mut clusters);
    clusters.into_iter().for_each(Cluster::leave);
    outcome.cases.push(match measured {
        Ok(figures) => {
            outcome.figures = figures;
            Case::passed("both are measured", begun.elapsed())
        }
        Err(error) => Case::failed("both are measured", format!("{error:#}"), begun.elapsed()),
    });
    outcome.seconds = begun.elapsed().as_secs_f64();
    Ok(outcome)
}

fn measure(image: Option<&Path>, clusters: &mut Vec<Cluster>) -> Result<Vec<Figure>> {
    // What is built or made is made before the clock runs.
    let image = image.map_or_else(|| crate::image::product(Profile::Release, None), |image| Ok(image.to_owned()))?;
    others::programs()?;
    for side in &SIDES {
        clusters.push(Cluster::find_or_make(side.cluster, &["--kubernetes-only"])?);
    }
    let stands: Vec<(&Side, &Cluster)> = SIDES.iter().zip(clusters.iter()).collect();
    let mut ready = Vec::new();
    for (side, cluster) in &stands {
        let begun = Instant::now();
        (side.install)(cluster, &image).and_then(|()| wait_for_names(cluster)).with_context(|| side.name)?;
        ready.push(begun.elapsed());
        eprintln!("peers: {} answers names after {:.1} s", side.name, begun.elapsed().as_secs_f64());
    }
    let rounds = (0..ROUNDS).map(|number| round(&stands, number)).collect::<Result<Vec<_>>>()?;
    Ok(figures::of(SIDES.each_ref().map(|side| side.name), &ready, &rounds))
}

/// Leaves both alone for a while, then starts pods on one and the other in turn.
fn round(stands: &[(&Side, &Cluster)], number: usize) -> Result<Round> {
    let usage = || stands.iter().map(|(side, cluster)| side.usage(cluster)).collect::<Result<Vec<_>>>();
    let at_rest = usage()?;
    std::thread::sleep(REST);
    let rested = usage()?;
    let mut starts = vec![Vec::new(); stands.len()];
    for pod in 0..PODS {
        // Who comes second finds the caches warm, so nobody always does.
        let mut turns: Vec<_> = stands.iter().zip(&mut starts).collect();
        if (number + pod) % 2 == 1 {
            turns.reverse();
        }
        for ((side, cluster), starts) in turns {
            starts.push(start_pod(cluster, pod).with_context(|| side.name)?);
        }
    }
    let worked = usage()?;
    for (_, cluster) in stands {
        remove_pods(cluster)?;
    }
    let load = std::fs::read_to_string("/proc/loadavg")?.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_default();
    eprintln!("peers: round {} of {ROUNDS}, load {load}", number + 1);
    let samples = at_rest.iter().zip(rested.iter()).zip(worked).zip(starts);
    let samples = samples.map(|(((at_rest, rested), worked), mut starts)| {
        starts.sort();
        Sample {
            rest_ms: rested.cpu_ms.saturating_sub(at_rest.cpu_ms),
            work_ms: worked.cpu_ms.saturating_sub(rested.cpu_ms),
            starts,
            usage: worked,
        }
    });
    Ok(Round { load, sides: samples.collect() })
}

fn install_bowline(cluster: &Cluster, image: &Path) -> Result<()> {
    let mut install = place::chore();
    install.args(["cluster", "install", "--name", &cluster.name, "--image"]).arg(image);
    place::run(&mut install, Duration::from_secs(900)).map(drop)
}

impl Side {
    /// Sums over the processes of all nodes: they share one process namespace.
    fn usage(&self, cluster: &Cluster) -> Result<Usage> {
        let script = "for p in /proc/[0-9]*; do c=$(tr '\\0' ' ' <$p/cmdline 2>/dev/null) || continue; [ -n \"$c\" ] || continue; \
                      m=$(sed -n 's/^Pss: *\\([0-9]*\\) kB/\\1/p' $p/smaps_rollup 2>/dev/null) || continue; \
                      echo \"$m $(cut -d')' -f2- $p/stat 2>/dev/null | cut -d' ' -f13,14) $c\"; done";
        let text = cluster.node("n1", &["sh", "-c", script], Duration::from_secs(120))?;
        let usage = Usage::read(&text, self.processes);
        anyhow::ensure!(usage.bytes > 0, "none of {} runs", self.processes.join(", "));
        Ok(usage)
    }
}

/// What processes take.
#[derive(Debug, Default, PartialEq, Eq)]
struct Usage {
    bytes: u64,
    cpu_ms: u64,
    each: Vec<(String, u64)>,
}

impl Usage {
    /// Lines of kilobytes, ticks in user mode and in the kernel, and the command line.
    fn read(text: &str, wanted: &[&str]) -> Usage {
        let mut usage = Usage { each: wanted.iter().map(|name| ((*name).to_owned(), 0)).collect(), ..Usage::default() };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
            let (Some(kilobytes), Some(user), Some(system)) = (number(), number(), number()) else { continue };
            // The program and its first word: not what was given a program's name as an argument.
            let program: Vec<&str> = words.take(2).collect();
            let called = program.first().map(|path| path.rsplit('/').next().unwrap_or(path)).unwrap_or_default();
            let with_verb = format!("{called} {}", program.get(1).unwrap_or(&""));
            if let Some((_, bytes)) = usage.each.iter_mut().find(|(name, _)| *name == called || *name == with_verb) {
                *bytes += kilobytes * 1024;
                usage.bytes += kilobytes * 1024;
                // A tick is a hundredth of a second.
                usage.cpu_ms += (user + system) * 10;
            }
        }
        usage
    }
}

/// Waits until every node is Ready and a pod resolves the API server's name.
fn wait_for_names(cluster: &Cluster) -> Result<()> {
    let kubectl = |words: &[&str]| place::kubectl_at(&cluster.kubeconfig, words);
    kubectl(&["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=180s"])?;
    let image = "registry.k8s.io/e2e-test-images/agnhost:2.59";
    kubectl(&["run", "asker", "--restart=Never", &format!("--image={image}"), "--", "pause"])?;
    kubectl(&["wait", "--for=condition=Ready", "pod/asker", "--timeout=120s"]).map_err(|error| with_events(cluster, "asker", error))?;
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        match kubectl(&["exec", "asker", "--", "dig", "+short", "+time=1", "+tries=1", "kubernetes.default.svc.cluster.local"]) {
            Ok(answer) if answer.trim().parse::<std::net::IpAddr>().is_ok() => break,
            Ok(_) | Err(_) if Instant::now() < end => {}
            Ok(answer) => anyhow::bail!("names are not answered: {answer}"),
            Err(error) => return Err(error.context("names are not answered")),
        }
    }
    kubectl(&["delete", "pod", "asker", "--grace-period=0", "--force"]).map(drop)
}

fn start_pod(cluster: &Cluster, number: usize) -> Result<Duration> {
    let kubectl = |words: &[&str]| place::kubectl_at(&cluster.kubeconfig, words);
    let name = format!("started-{number}");
    let begun = Instant::now();
    kubectl(&["run", &name, "--restart=Never", "--labels=app=started", "--image=registry.k8s.io/pause:3.10.1"])?;
    kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=120s"])
        .map_err(|error| with_events(cluster, &name, error))?;
    Ok(begun.elapsed())
}

/// An error about a pod, with the last that the cluster warned of it: a wait that is over says only that it is over.
fn with_events(cluster: &Cluster, pod: &str, error: anyhow::Error) -> anyhow::Error {
    let selector = format!("type=Warning,involvedObject.name={pod}");
    let words = ["get", "events", "--field-selector", &selector, "--sort-by=.lastTimestamp", "--no-headers"];
    let said = place::kubectl_at(&cluster.kubeconfig, &words).unwrap_or_else(|error| format!("{error:#}"));
    error.context(format!("pod {pod}: {}", said.lines().next_back().unwrap_or("no warning in its events")))
}

fn remove_pods(cluster: &Cluster) -> Result<()> {
    let words = ["delete", "pods", "--selector=app=started", "--grace-period=0", "--force"];
    place::kubectl_at(&cluster.kubeconfig, &words).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_of_the_programs_that_are_meant() {
        let text = "1000 5 7 /bowline agent --config /etc/x\n\
                    500 1 1 /bowline dns\n\
                    9999 9 9 sh -c bowline agent\n\
                    77 1 1 /bowline-cni\n\
                    oops\n";
        let usage = Usage::read(text, &["bowline agent", "bowline dns"]);
        let each = vec![("bowline agent".to_owned(), 1_024_000), ("bowline dns".to_owned(), 512_000)];
        assert_eq!(usage, Usage { bytes: 1_536_000, cpu_ms: 140, each });
    }
}
