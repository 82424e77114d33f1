//! `bowline dns` beside CoreDNS: questions a second of the server's CPU time.
//!
//! Both learn the same services from the same lab: CoreDNS from its API, Bowline from its agent. Both are on loopback and on CPU 0, the
//! load on another CPU, in slices in turn.

use std::fmt::Write;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_lab::handle::{Lab, Options};

use crate::dnsload::{question, slice, upstream, wait_for};
use crate::memory;
use crate::populate::Populate;
use crate::report::{Row, Section, Target};
use crate::stats::{Samples, ratios};
use crate::{BOWLINE, Effort, machine, peers};

const SERVICES: u32 = 1000;

/// A server that ends with its handle.
struct Server {
    child: Child,
    at: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts `words` on CPU 0.
    fn start(words: &[&str], at: SocketAddr, log: &Path) -> Result<Server> {
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).args(words).stdin(Stdio::null());
        let log = std::fs::File::create(log)?;
        let child = command.stdout(log.try_clone()?).stderr(log).spawn().context("taskset")?;
        Ok(Server { child, at })
    }

    /// Answers in a second of the server's CPU time, and in a second of the clock.
    fn rate(&self, questions: &[Vec<u8>], length: Duration) -> Result<(f64, f64)> {
        let before = machine::cpu_seconds(self.child.id())?;
        let came = slice(self.at, questions, length)?;
        let used = machine::cpu_seconds(self.child.id())? - before;
        ensure!(came.answered > 0, "{} answered nothing: {came:?}", self.at);
        let bad = f64::from(came.refused + came.lost) / f64::from(came.answered);
        ensure!(bad < 0.01, "{} did not answer well: {came:?}", self.at);
        Ok((f64::from(came.answered) / used, f64::from(came.answered) / came.seconds))
    }
}

/// Answers by CPU second and by second of one kind of name, slice by slice.
#[derive(Default)]
struct Rates {
    per_cpu: Vec<f64>,
    per_second: Vec<f64>,
}

/// The bench.
pub(crate) fn measure(effort: Effort) -> Result<Section> {
    let name = format!("bench-dns-{}", std::process::id());
    let lab = Lab::up(Options { binary: Some(BOWLINE.into()), ..Options::new(&name, "--nodes 1") })?;
    let run_dir = memory::run_dir(&name)?;
    Populate::connect(&lab.kubeconfig()?)?.services(0..SERVICES, 2)?;
    memory::wait_applied(&run_dir, SERVICES)?;
    let scratch = tempfile::tempdir()?;
    let upstream = upstream()?;
    let mut section = Section::new("DNS: A answers over UDP, server on one CPU");

    let at = free_address()?;
    let conf = corefile(scratch.path(), "bowline", at, upstream, "kubernetes cluster.local")?;
    let feed = run_dir.join("dns.sock").display().to_string();
    let ours = Server::start(&[BOWLINE, "dns", "--conf", &conf, "--feed", &feed], at, &scratch.path().join("bowline.log"))?;
    ready(&ours).with_context(|| log(scratch.path(), "bowline"))?;

    let peer = match peers::coredns() {
        Ok(program) => {
            let at = free_address()?;
            let kubernetes = format!("kubernetes cluster.local {{\n kubeconfig {}\n}}", lab.kubeconfig()?.display());
            let conf = corefile(scratch.path(), "coredns", at, upstream, &kubernetes)?;
            let program = program.display().to_string();
            let peer = Server::start(&[&program, "-conf", &conf], at, &scratch.path().join("coredns.log"))?;
            ready(&peer).with_context(|| log(scratch.path(), "coredns"))?;
            section.notes.push(format!("peer: {}", Path::new(&program).file_name().unwrap_or_default().to_string_lossy()));
            Some(peer)
        }
        Err(error) => {
            section.notes.push(format!("peer not built: {error:#}"));
            None
        }
    };
    compare(&ours, peer.as_ref(), effort, &mut section)?;
    Ok(section)
}

fn compare(ours: &Server, peer: Option<&Server>, effort: Effort, section: &mut Section) -> Result<()> {
    let rounds = effort.pick(3, 15);
    let length = Duration::from_millis(300);
    for (what, questions) in [("cluster names", cluster_questions()), ("names of an upstream, cached", outside_questions())] {
        let (mut of_ours, mut of_peer) = (Rates::default(), Rates::default());
        // The first round fills the caches and is not kept.
        for round in 0..=rounds {
            for (server, rates) in [(Some(ours), &mut of_ours), (peer, &mut of_peer)] {
                let Some(server) = server else { continue };
                let (per_cpu, per_second) = on_other_cpu(|| server.rate(&questions, length))?;
                if round > 0 {
                    rates.per_cpu.push(per_cpu);
                    rates.per_second.push(per_second);
                }
            }
        }
        let row = |what: String, ours: &[f64], theirs: &[f64]| {
            let row = Row::median(what, "1/s", &Samples::new(ours.to_vec()));
            if theirs.is_empty() { row } else { row.peer_ratios(Samples::new(theirs.to_vec()).median(), &ratios(ours, theirs)) }
        };
        let main = row(format!("{what}: answers a CPU second"), &of_ours.per_cpu, &of_peer.per_cpu);
        section.rows.push(main.target(Target::RatioAtLeast(5.0)));
        section.rows.push(row(format!("{what}: answers a second"), &of_ours.per_second, &of_peer.per_second));
    }
    let memory = |server: &Server| machine::memory_mb(server.child.id(), "VmRSS");
    let mut row = Row::new(format!("memory at {SERVICES} services, after the load"), "MB", memory(ours)?);
    if let Some(peer) = peer {
        row = row.peer(memory(peer)?).target(Target::RatioAtMost(0.5));
    }
    section.rows.push(row);
    section.notes.push(format!("{rounds} rounds of {length:?} slices in turn; one client socket, 64 questions under way; kernel time of the server's sockets counts"));
    section.notes.push("answers a second are bounded by the load generator's CPU as well; answers a CPU second are not".into());
    Ok(())
}

/// Runs on a thread that stays on the CPU for load.
fn on_other_cpu<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            machine::pin(machine::other_cpu())?;
            f()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn service_name(n: u32) -> String {
    format!("svc-{n}.bench.svc.cluster.local")
}

fn cluster_questions() -> Vec<Vec<u8>> {
    (0..SERVICES).map(|n| question(&service_name(n))).collect()
}

fn outside_questions() -> Vec<Vec<u8>> {
    (0..100).map(|n| question(&format!("host-{n}.example.test"))).collect()
}

fn ready(server: &Server) -> Result<()> {
    wait_for(server.at, &question(&service_name(SERVICES - 1)), Duration::from_secs(60))
}

fn corefile(scratch: &Path, name: &str, at: SocketAddr, upstream: SocketAddr, kubernetes: &str) -> Result<String> {
    let mut text = String::new();
    writeln!(text, ".:{} {{\nbind {}\nerrors\n{kubernetes}\nforward . {upstream}\ncache 300\n}}", at.port(), at.ip())?;
    let path = scratch.join(format!("{name}.Corefile"));
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}

/// An address on loopback that nobody has.
fn free_address() -> Result<SocketAddr> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?)
}

/// The last that a server said.
fn log(scratch: &Path, name: &str) -> String {
    let text = std::fs::read_to_string(scratch.join(format!("{name}.log"))).unwrap_or_default();
    let last: Vec<&str> = text.lines().rev().take(5).collect();
    format!("{name} said: {}", last.into_iter().rev().collect::<Vec<_>>().join(" | "))
}
