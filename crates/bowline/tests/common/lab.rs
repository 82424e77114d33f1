//! A lab as a user drives it: the `bowline` executable and kubectl, as child processes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// The executable under test.
pub(crate) const BOWLINE: &str = env!("CARGO_BIN_EXE_bowline");

/// How long something that must come true may take.
const PATIENCE: Duration = Duration::from_secs(30);

static LABS: AtomicU32 = AtomicU32::new(0);

/// Names of labs that are this process's to take down.
static OWN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Ctrl-C and TERM take this process's labs down before it ends.
pub(crate) fn end_with_interrupts() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    std::thread::spawn(move || {
        runtime.block_on(async {
            let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
                return std::future::pending().await;
            };
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
            }
        });
        let own = std::mem::take(&mut *OWN.lock().unwrap_or_else(PoisonError::into_inner));
        own.iter().for_each(|name| take_down(name));
        std::process::exit(130);
    });
}

fn take_down(name: &str) {
    let _ = Command::new(BOWLINE).args(["lab", "down", "--name", name]).stdin(Stdio::null()).output();
}

/// Why labs cannot be made here, if they cannot.
pub(crate) fn missing() -> Option<String> {
    let root = std::fs::read_to_string("/proc/self/status").is_ok_and(|s| s.lines().any(|l| l.starts_with("Uid:\t0")));
    if !root {
        return Some("network namespaces need root".to_owned());
    }
    let needed = ["kubectl", "curl", "dig", "ping", "tcpdump"];
    needed
        .iter()
        .find(|p| Command::new(p).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err())
        .map(|p| format!("{p} is not installed"))
}

/// Flags of a lab to be.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) backend: &'static str,
    mode: &'static str,
    name: String,
    v4: bool,
    v6: bool,
    routed: bool,
    leashed: bool,
    extra: Vec<String>,
}

impl Setup {
    /// Services by the rules alone, unless [`Setup::ebpf`].
    pub(crate) fn new(backend: &'static str) -> Setup {
        let name = format!("t{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        Setup { backend, mode: "nftables", name, v4: true, v6: false, routed: false, leashed: true, extra: Vec::new() }
    }

    /// One that someone looks around in: its services are served as they are by default.
    pub(crate) fn named(mut self, name: &str) -> Setup {
        self.mode = "auto";
        (self.name, self.leashed) = (name.to_owned(), false);
        self
    }

    pub(crate) fn ipv6(mut self) -> Setup {
        (self.v4, self.v6) = (false, true);
        self.flag("--ipv6")
    }

    pub(crate) fn dual(mut self) -> Setup {
        self.v6 = true;
        self.flag("--dual-stack")
    }

    pub(crate) fn routed(mut self) -> Setup {
        self.routed = true;
        self.flags(&["--underlay", "routed"])
    }

    pub(crate) fn ebpf(mut self) -> Setup {
        self.mode = "ebpf";
        self
    }

    pub(crate) fn direct(self) -> Setup {
        self.flag("--direct-routing")
    }

    /// The networks that the manifests of scenarios 1 to 3 speak of, and their Corefile.
    pub(crate) fn scenario_names(self) -> Setup {
        if self.v4 && !self.v6 {
            let corefile = example("coredns-corefile").display().to_string();
            return self
                .flags(&[
                    "--node-cidr",
                    "10.4.8.0/24",
                    "--pod-cidr",
                    "172.7.0.0/16",
                    "--service-cidr",
                    "192.168.0.0/16",
                    "--dns-ip",
                    "192.168.0.2",
                ])
                .flags(&["--outside-address", "10.4.7.11", "--corefile", &corefile]);
        }
        self
    }

    /// The node port of scenario 4 lies outside the default range.
    pub(crate) fn scenario_policies(self) -> Setup {
        self.flags(&["--node-port-range", "30000-33000"])
    }

    pub(crate) fn flag(self, flag: &str) -> Setup {
        self.flags(&[flag])
    }

    pub(crate) fn flags(mut self, flags: &[&str]) -> Setup {
        self.extra.extend(flags.iter().map(|f| (*f).to_owned()));
        self
    }

    pub(crate) fn is_ebpf(&self) -> bool {
        self.mode == "ebpf"
    }

    pub(crate) fn is_direct(&self) -> bool {
        self.extra.iter().any(|f| f == "--direct-routing")
    }

    pub(crate) fn is_routed(&self) -> bool {
        self.routed
    }

    pub(crate) fn up(self) -> Result<Lab> {
        let mut command = Command::new(BOWLINE);
        command
            .args(["lab", "up", "--name", &self.name, "--backend", self.backend, "--service-mode", self.mode])
            .args(["--wait", &format!("{}s", 60 * slowness())])
            .args(&self.extra);
        if self.leashed {
            // However this process ends, its lab ends with it.
            command.args(["--leash", &std::process::id().to_string()]);
        }
        OWN.lock().unwrap_or_else(PoisonError::into_inner).insert(self.name.clone());
        let output = command.stdin(Stdio::null()).output().context("starting bowline")?;
        let mut lab = Lab { setup: self, kubeconfig: PathBuf::new(), leave: false };
        if !output.status.success() {
            bail!("bowline lab up: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        lab.kubeconfig = lab.bowline(&["lab", "kubeconfig"], &[])?.trim().into();
        Ok(lab)
    }
}

/// A file of examples/.
pub(crate) fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name)
}

/// A lab that is up; dropping it takes it down.
pub(crate) struct Lab {
    pub(crate) setup: Setup,
    kubeconfig: PathBuf,
    leave: bool,
}

impl Drop for Lab {
    fn drop(&mut self) {
        OWN.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.setup.name);
        if !self.leave {
            take_down(&self.setup.name);
        }
    }
}

impl Lab {
    /// Leaves it up when dropped.
    pub(crate) fn leave(mut self) -> Lab {
        self.leave = true;
        self
    }

    /// IPv6 addresses are what this lab's checks use: where it has no IPv4, or in the second half of a dual one.
    pub(crate) fn families(&self) -> Vec<bool> {
        [(self.setup.v4, false), (self.setup.v6, true)].into_iter().filter(|(has, _)| *has).map(|(_, v6)| v6).collect()
    }

    fn bowline(&self, words: &[&str], rest: &[&str]) -> Result<String> {
        let output = self.run(words, rest)?;
        ensure!(output.status.success(), "bowline {} {}: {} {}", words.join(" "), rest.join(" "), output.status, text(&output.stderr));
        Ok(text(&output.stdout))
    }

    pub(crate) fn run(&self, words: &[&str], rest: &[&str]) -> Result<Output> {
        let mut command = Command::new(BOWLINE);
        command.args(words).args(["--name", &self.setup.name]);
        if !rest.is_empty() {
            command.arg("--").args(rest);
        }
        command.stdin(Stdio::null()).output().context("starting bowline")
    }

    /// Runs a command in a pod of the default namespace.
    pub(crate) fn pod(&self, pod: &str, argv: &[&str]) -> Result<Output> {
        self.run(&["lab", "exec", pod], argv)
    }

    /// Runs a command on a node.
    pub(crate) fn node(&self, node: &str, argv: &[&str]) -> Result<Output> {
        self.run(&["lab", "node-exec", node], argv)
    }

    /// Runs a command on the host outside the cluster.
    pub(crate) fn client(&self, argv: &[&str]) -> Result<Output> {
        self.run(&["lab", "client"], argv)
    }

    /// Runs a command on a node in the background.
    pub(crate) fn node_background(&self, node: &str, argv: &[&str]) -> Result<std::process::Child> {
        let mut command = Command::new(BOWLINE);
        command.args(["lab", "node-exec", node, "--name", &self.setup.name, "--"]).args(argv);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("starting bowline")
    }

    /// Starts a command in a pod, with its standard input and output at hand.
    pub(crate) fn pod_background(&self, namespace: &str, pod: &str, argv: &[&str]) -> Result<Child> {
        self.background(&["lab", "exec", pod, "--namespace", namespace], argv)
    }

    /// Starts a command on a node, with its standard input and output at hand.
    pub(crate) fn node_piped(&self, node: &str, argv: &[&str]) -> Result<Child> {
        self.background(&["lab", "node-exec", node], argv)
    }

    /// Starts a command on the host outside, with its standard input and output at hand.
    pub(crate) fn client_piped(&self, argv: &[&str]) -> Result<Child> {
        self.background(&["lab", "client"], argv)
    }

    /// Runs a command on the router between the nodes and the outside.
    pub(crate) fn router(&self, argv: &[&str]) -> Result<Output> {
        self.run(&["lab", "router"], argv)
    }

    fn background(&self, words: &[&str], argv: &[&str]) -> Result<Child> {
        let mut command = Command::new(BOWLINE);
        command.args(words).args(["--name", &self.setup.name, "--"]).args(argv);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().context("starting bowline")
    }

    /// Starts, stops or kills a node's agent.
    pub(crate) fn agent(&self, verb: &str, node: &str) -> Result<()> {
        self.bowline(&["lab", "agent", verb, node], &[]).map(|_| ())
    }

    /// Starts a node's agent from the executable of another build.
    pub(crate) fn start_agent_of(&self, program: &Path, node: &str) -> Result<()> {
        let program = program.display().to_string();
        self.bowline(&["lab", "agent", "start", node, "--program", &program], &[]).map(|_| ())
    }

    /// The file for clients of its API.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Starts or stops the API.
    pub(crate) fn api(&self, verb: &str) -> Result<()> {
        self.bowline(&["lab", "api", verb], &[]).map(|_| ())
    }

    /// What `bowline status -o json` says, whatever it thinks of it.
    pub(crate) fn status(&self) -> Result<Value> {
        let output = self.run(&["status", "-o", "json"], &[])?;
        serde_json::from_slice(&output.stdout).with_context(|| format!("bowline status: {}", text(&output.stderr)))
    }

    /// The page of a node's metrics.
    pub(crate) fn metrics(&self, node: &str) -> Result<String> {
        let output = self.node(node, &["curl", "-s", "--max-time", "3", "http://127.0.0.1:10249/metrics"])?;
        said(&output).with_context(|| format!("{node}: no metrics"))
    }

    /// One of them, by its name with its labels.
    pub(crate) fn metric(&self, node: &str, name: &str) -> Result<u64> {
        let page = self.metrics(node)?;
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.with_context(|| format!("{node}: no {name}"))?.trim().parse().with_context(|| name.to_owned())
    }

    /// The lab's name.
    pub(crate) fn name(&self) -> &str {
        &self.setup.name
    }

    /// Runs kubectl.
    pub(crate) fn kubectl(&self, words: &[&str]) -> Result<String> {
        let output =
            Command::new("kubectl").env("KUBECONFIG", &self.kubeconfig).args(words).stdin(Stdio::null()).output().context("kubectl")?;
        ensure!(output.status.success(), "kubectl {}: {}", words.join(" "), text(&output.stderr));
        Ok(text(&output.stdout))
    }

    /// Applies a manifest of examples/ and waits until its workloads are ready.
    pub(crate) fn apply(&self, manifest: &str) -> Result<()> {
        self.apply_file(&example(manifest))
    }

    /// Applies a file and waits until its workloads are ready.
    pub(crate) fn apply_file(&self, path: &Path) -> Result<()> {
        let made = self.kubectl(&["apply", "-f", &path.display().to_string(), "-o", "name"])?;
        for workload in made.lines().filter(|l| l.starts_with("deployment") || l.starts_with("daemonset")) {
            self.kubectl(&["rollout", "status", workload, "--timeout=60s"])?;
        }
        Ok(())
    }

    /// Applies a manifest's text.
    pub(crate) fn apply_text(&self, text: &str) -> Result<()> {
        let path = std::env::temp_dir().join(format!("bowline-{}.yaml", self.setup.name));
        std::fs::write(&path, text)?;
        let applied = self.apply_file(&path);
        std::fs::remove_file(&path)?;
        applied
    }

    /// Deletes a manifest's objects, and waits until they are gone.
    pub(crate) fn delete_text(&self, text: &str) -> Result<()> {
        self.with_file(text, &["delete", "--wait=true", "--timeout=60s"])
    }

    /// Puts a manifest's objects in the place of those of their names, of which nothing is left: not even what the API had filled in.
    pub(crate) fn replace_text(&self, text: &str) -> Result<()> {
        self.with_file(text, &["replace"])
    }

    fn with_file(&self, text: &str, words: &[&str]) -> Result<()> {
        let path = std::env::temp_dir().join(format!("bowline-{}-{}.yaml", self.setup.name, words.first().unwrap_or(&"")));
        std::fs::write(&path, text)?;
        let file = path.display().to_string();
        let done = self.kubectl(&[words, &["-f", &file]].concat());
        std::fs::remove_file(&path)?;
        done.map(|_| ())
    }

    /// What `bowline status` says of a lab in which something failed, and of what its logs warned last.
    pub(crate) fn report(&self) -> String {
        let mut said = self.run(&["status"], &[]).map_or_else(|error| format!("{error:#}"), |o| text(&o.stdout) + &text(&o.stderr));
        let logs = self.run(&["lab", "logs"], &[]).map_or_else(|error| format!("{error:#}"), |o| text(&o.stdout));
        let grave = |line: &&str| ["WARN", "ERROR", "panicked", "rror"].iter().any(|word| line.contains(word)) || line.starts_with("==>");
        let lines: Vec<&str> = logs.lines().filter(grave).collect();
        for line in lines.iter().skip(lines.len().saturating_sub(40)) {
            said.push_str(line);
            said.push('\n');
        }
        said
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a command said, if it ended well.
pub(crate) fn said(output: &Output) -> Option<String> {
    output.status.success().then(|| text(&output.stdout))
}

/// An HTTP request as curl's arguments: the page within three seconds, nothing else.
pub(crate) fn curl(address: IpAddr, port: u16) -> Vec<String> {
    curl_within(address, port, 3)
}

/// The same within so many seconds.
pub(crate) fn curl_within(address: IpAddr, port: u16, seconds: u32) -> Vec<String> {
    let url = match address {
        IpAddr::V4(a) => format!("http://{a}:{port}/"),
        IpAddr::V6(a) => format!("http://[{a}]:{port}/"),
    };
    ["curl", "-s", "-g", "--noproxy", "*", "--max-time", &seconds.to_string(), &url].map(str::to_owned).to_vec()
}

/// A field of the echo server's page (`client: 10.0.0.1:1234`).
pub(crate) fn field<'a>(page: &'a str, name: &str) -> Option<&'a str> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// The address of a `client` or `server` field.
pub(crate) fn address_of(page: &str, name: &str) -> Result<IpAddr> {
    let value = field(page, name).with_context(|| format!("no `{name}` in the page: {page:?}"))?;
    let socket: std::net::SocketAddr = value.parse().with_context(|| format!("`{name}: {value}`"))?;
    Ok(match socket.ip() {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 => v4,
    })
}

/// How many times longer everything takes here: `BOWLINE_SLOW`, which an emulated machine is told.
fn slowness() -> u32 {
    std::env::var("BOWLINE_SLOW").ok().and_then(|word| word.parse().ok()).unwrap_or(1)
}

/// Asks again until it comes true; the last answer is the error.
pub(crate) fn eventually<T>(ask: impl FnMut() -> Result<T>) -> Result<T> {
    within(PATIENCE, ask)
}

/// Asks again for so long.
pub(crate) fn within<T>(patience: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let patience = patience * slowness();
    let end = Instant::now() + patience;
    loop {
        match ask() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > end => return Err(error.context(format!("still so after {} s", patience.as_secs()))),
            // Each question waits on the network itself; this only keeps a quick refusal from spinning.
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// As `&str`s.
pub(crate) fn words(argv: &[String]) -> Vec<&str> {
    argv.iter().map(String::as_str).collect()
}
