//! Measurements, no verdict: Bowline, and in its place kube-proxy, CoreDNS and flannel, each on a new cluster of the same kind.
//!
//! Bowline is installed as its manifest says. The others run as processes of the nodes, without containers around them, which spares them
//! what a container costs. Memory is the proportional set size, processor time what `/proc/PID/stat` counts.

mod others;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::outcome::{Case, Figure, Outcome};
use super::place::{self, Cluster};

pub(crate) const NAME: &str = "peers";

/// The clusters that this makes and takes down, one after the other.
const CLUSTER: &str = "conf-peers";

/// Pods that are started, one after the other.
const PODS: usize = 20;

/// How long the network is left alone to see what it costs at rest.
const REST: Duration = Duration::from_secs(60);

/// What stands on a cluster: its name, how it is put there, and the command lines by which its processes are known.
struct Side {
    name: &'static str,
    install: fn(&Cluster) -> Result<()>,
    processes: &'static [&'static str],
}

const SIDES: [Side; 2] = [
    Side { name: "Bowline", install: install_bowline, processes: &["bowline agent", "bowline dns"] },
    Side { name: "kube-proxy, CoreDNS, flannel", install: others::install, processes: &["kube-proxy", "coredns", "flanneld"] },
];

/// Measures both.
pub(crate) fn run() -> Result<Outcome> {
    let begun = Instant::now();
    let mut outcome = Outcome { suite: NAME.into(), ..Outcome::default() };
    for side in &SIDES {
        let since = Instant::now();
        let name = format!("{} is measured", side.name);
        outcome.cases.push(match side.measure() {
            Ok(figures) => {
                outcome.figures.extend(figures);
                Case::passed(name, since.elapsed())
            }
            Err(error) => Case::failed(name, format!("{error:#}"), since.elapsed()),
        });
    }
    outcome.seconds = begun.elapsed().as_secs_f64();
    Ok(outcome)
}

fn install_bowline(cluster: &Cluster) -> Result<()> {
    place::run(place::chore().args(["cluster", "install", "--name", &cluster.name]), Duration::from_secs(900)).map(drop)
}

impl Side {
    fn measure(&self) -> Result<Vec<Figure>> {
        let cluster = Cluster::find_or_make(CLUSTER, &["--kubernetes-only"])?;
        let measured = self.measure_on(&cluster);
        cluster.leave();
        measured
    }

    fn measure_on(&self, cluster: &Cluster) -> Result<Vec<Figure>> {
        let begun = Instant::now();
        (self.install)(cluster)?;
        wait_for_names(cluster)?;
        let ready = begun.elapsed();
        let at_rest = self.usage(cluster)?;
        std::thread::sleep(REST);
        let rested = self.usage(cluster)?;
        let mut starts = (0..PODS).map(|number| start_pod(cluster, number)).collect::<Result<Vec<_>>>()?;
        let worked = self.usage(cluster)?;
        remove_pods(cluster)?;
        starts.sort();
        let percent = |index: usize| starts.get(index).copied().unwrap_or_default().as_secs_f64();
        let figure = |what: &str, value: String| Figure { what: format!("{}: {what}", self.name), value };
        let mut figures = vec![
            figure("from installing to nodes Ready and names answered", format!("{:.1} s", ready.as_secs_f64())),
            figure(
                "a pod from creation to Ready, median and slowest",
                format!("{:.2} s, {:.2} s of {PODS}", percent(PODS / 2), percent(PODS - 1)),
            ),
            figure("processor at rest, both nodes", format!("{} ms in {} s", rested.cpu_ms.saturating_sub(at_rest.cpu_ms), REST.as_secs())),
            figure("processor for the pods' start, both nodes", format!("{} ms", worked.cpu_ms.saturating_sub(rested.cpu_ms))),
            figure("memory, both nodes", megabytes(worked.bytes)),
        ];
        for (process, bytes) in &worked.each {
            figures.push(figure(&format!("memory of {process}"), megabytes(*bytes)));
        }
        Ok(figures)
    }

    /// Sums over the processes of all nodes: they share one process namespace.
    fn usage(&self, cluster: &Cluster) -> Result<Usage> {
        let script = "for p in /proc/[0-9]*; do c=$(tr '\\0' ' ' <$p/cmdline 2>/dev/null) || continue; [ -n \"$c\" ] || continue; \
                      m=$(sed -n 's/^Pss: *\\([0-9]*\\) kB/\\1/p' $p/smaps_rollup 2>/dev/null) || continue; \
                      echo \"$m $(cut -d')' -f2- $p/stat 2>/dev/null | cut -d' ' -f13,14) $c\"; done";
        let text = cluster.node("n1", &["sh", "-c", script], Duration::from_secs(60))?;
        let usage = Usage::read(&text, self.processes);
        anyhow::ensure!(usage.bytes > 0, "none of {} runs", self.processes.join(", "));
        Ok(usage)
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
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
    kubectl(&["wait", "--for=condition=Ready", "pod/asker", "--timeout=120s"])?;
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
    kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=120s"]).with_context(|| name.clone())?;
    Ok(begun.elapsed())
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
