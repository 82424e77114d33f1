//! `cargo xtask image try`: the archives as a runtime sees them.
//!
//! A containerd of its own imports them and runs what they start, in a mount, network and process namespace that end with the trial;
//! its files are in a temporary directory. The machine's own containerd is never asked.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// The word that calls the part inside the namespaces; the directory follows it.
pub(super) const INSIDE: &str = "try-inside";

/// How long containerd may take to answer on a loaded machine.
const START: Duration = Duration::from_secs(60);
const NAME: &str = "api.example.test";
const COREFILE: &str = ".:53 {\n  hosts {\n    192.0.2.7 api.example.test\n    2001:db8::7 api.example.test\n  }\n}\n";

/// Tries the archives out; with none, the product's and the suites' where they are there.
pub(super) fn run(archives: &[PathBuf]) -> Result<bool> {
    if !rustix::process::geteuid().is_root() {
        bail!("trying images out makes namespaces and runs containerd, which needs root");
    }
    let directory = tempfile::tempdir()?;
    let own = std::env::current_exe()?;
    let words = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private", "--"];
    let status = Command::new("unshare").args(words).arg(own).args(["image", INSIDE]).arg(directory.path()).args(archives).status();
    Ok(status.context("unshare (Debian: util-linux)")?.success())
}

/// The part inside the namespaces.
pub(super) fn inside(directory: &Path, archives: &[PathBuf]) -> Result<bool> {
    for words in [["ip", "link", "set", "lo", "up"], ["mount", "-t", "tmpfs", "none", "/run"]] {
        let [program, arguments @ ..] = words;
        ensure!(Command::new(program).args(arguments).status()?.success(), "{} failed", words.join(" "));
    }
    let runtime = Runtime::start(directory)?;
    for archive in archives {
        let begin = Instant::now();
        runtime.ctr(&["images", "import", &archive.to_string_lossy()])?;
        println!("{}: imported in {:.1}s", archive.display(), begin.elapsed().as_secs_f64());
    }
    let images = said(&runtime.ctr(&["images", "list", "--quiet"])?);
    let mut good = true;
    let mut report = |what: &str, result: Result<String>| match result {
        Ok(detail) => println!("  ok      {what}: {detail}"),
        Err(error) => {
            good = false;
            println!("  FAILED  {what}: {error:#}");
        }
    };
    for image in images.lines() {
        match image {
            super::NAME => {
                report(image, runtime.says(image, &["/bowline", "--version"], concat!("bowline ", env!("CARGO_PKG_VERSION"))));
                report("a name, with the image's files alone", runtime.name(directory));
            }
            _ if image.contains("/pause:") => report(image, runtime.pauses(image)),
            _ => {
                if let Some((words, expected)) = question(image) {
                    report(image, runtime.says(image, words, expected));
                }
            }
        }
    }
    Ok(good)
}

/// What a stand-in is asked, and what its answer must hold.
fn question(image: &str) -> Option<(&'static [&'static str], &'static str)> {
    let (name, tag) = image.rsplit_once(':')?;
    Some(match name.rsplit('/').next()? {
        "agnhost" if tag == "2.45" => (&["sh", "-c", SCTP], "foo answers"),
        "agnhost" => (&["sh", "-c", AGNHOST], "all there"),
        "cyclonus-worker" => (&["/worker", "--help"], "--jobs"),
        "jessie-dnsutils" => (&["sh", "-c", "dig -v 2>&1; getent hosts localhost"], "DiG 9"),
        "distroless-iptables" => (&["sh", "-c", "conntrack --version; grep -c . /etc/passwd"], "conntrack v1"),
        "nginx" => (&["sh", "-c", "nginx -t 2>&1"], "test is successful"),
        "busybox" => (&["sh", "-c", "echo x | nc -w 1 localhost 1; busybox | head -n 1"], "BusyBox v1"),
        // It wants the addresses of its pod, and says so.
        "regression-issue-74839" => (&["/regression-issue-74839"], "No valid IP found"),
        _ => return None,
    })
}

/// Every program that a test calls in agnhost's image, and agnhost itself answering over the loopback.
const AGNHOST: &str = "for p in bash conntrack curl dig getent hostname ip iperf iptables nc nslookup nsenter openssl ping seq sleep ss timeout \
     tracepath wget /agnhost /agnhost-2 /coredns; do command -v $p >/dev/null || { echo missing: $p; exit 1; }; done; \
     /agnhost serve-hostname --port 9376 >/dev/null 2>&1 & \
     for i in $(seq 100); do [ \"$(curl -s localhost:9376)\" = \"$(hostname)\" ] && [ \"$(wget -q -O - -T 1 localhost:9376)\" = \"$(hostname)\" ] \
     && echo all there && kill $! && exit 0; sleep 0.1; done; echo agnhost does not answer; exit 1";

/// agnhost's server and client of SCTP, over the loopback.
const SCTP: &str = "SERVE_SCTP_PORT_9003=foo /agnhost porter >/dev/null 2>&1 & sleep 0.5; \
     /agnhost connect --timeout=3s --protocol=sctp 127.0.0.1:9003 && echo foo answers; kill $!";

/// A containerd of our own, ended when dropped.
struct Runtime {
    child: Child,
    socket: String,
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // The process namespace ends with us and takes what is left of it along.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Runtime {
    fn start(directory: &Path) -> Result<Self> {
        let at = |name: &str| directory.join(name).to_string_lossy().into_owned();
        let (socket, config, log) = (at("c.sock"), at("config.toml"), at("containerd.log"));
        let text = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {socket:?}\n[ttrpc]\naddress = {:?}\n",
            at("root"),
            at("state"),
            at("t.sock"),
        );
        std::fs::write(&config, text)?;
        let output = std::fs::File::create(&log)?;
        let child = Command::new("containerd").args(["--config", &config]).stdout(output.try_clone()?).stderr(output).spawn();
        let runtime = Self { child: child.context("containerd (Debian: containerd)")?, socket };
        let begin = Instant::now();
        while let Err(error) = runtime.ctr(&["version"]) {
            if begin.elapsed() > START {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                return Err(error).with_context(|| format!("containerd does not answer; it says:\n{said}"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(runtime)
    }

    fn ctr(&self, words: &[&str]) -> Result<Output> {
        let output = Command::new("ctr").args(["--address", &self.socket]).args(words).stdin(Stdio::null()).output().context("ctr")?;
        if !output.status.success() {
            bail!("ctr {}: {} {}", words.join(" "), output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(output)
    }

    /// Runs a command in a container of the image; its answer must hold `expected`.
    fn says(&self, image: &str, words: &[&str], expected: &str) -> Result<String> {
        let start = ["--address", &self.socket, "run", "--rm", "--net-host", image, "trial"];
        let output = Command::new("ctr").args(start).args(words).stdin(Stdio::null()).output()?;
        let both = format!("{}\n{}", said(&output), String::from_utf8_lossy(&output.stderr));
        let line = both.lines().find(|line| line.contains(expected));
        Ok(line.with_context(|| format!("{:?} was expected: {}", expected, both.trim()))?.trim().to_owned())
    }

    /// A pause starts, stands, and ends when it is told to.
    fn pauses(&self, image: &str) -> Result<String> {
        self.ctr(&["run", "--detach", image, "pause"])?;
        let tasks = said(&self.ctr(&["tasks", "list"])?);
        ensure!(tasks.contains("RUNNING"), "it does not stand: {tasks}");
        let begin = Instant::now();
        while !said(&self.ctr(&["tasks", "list"])?).contains("STOPPED") {
            ensure!(begin.elapsed() < Duration::from_secs(20), "SIGTERM does not end it");
            // The first process of a namespace does not hear a signal before it asks for it, so one right after the start may be lost; one
            // after the end is an error.
            let _ = self.ctr(&["tasks", "kill", "--signal", "SIGTERM", "pause"]);
            std::thread::sleep(Duration::from_millis(50));
        }
        let took = begin.elapsed().as_millis();
        self.ctr(&["tasks", "delete", "pause"])?;
        self.ctr(&["containers", "delete", "pause"])?;
        Ok(format!("stands, and ends {took} ms after SIGTERM"))
    }

    /// The product answers names, and finds one by glibc's resolver, both in containers that hold nothing but the image.
    fn name(&self, directory: &Path) -> Result<String> {
        // ctr shows a container in the host's network the host's two files, and the host is this mount namespace.
        for (text, to) in [("nameserver 127.0.0.1\nsearch example.test\n", "/etc/resolv.conf"), ("192.0.2.99 filed\n", "/etc/hosts")] {
            let path = directory.join(to.trim_start_matches("/etc/"));
            std::fs::write(&path, text)?;
            ensure!(Command::new("mount").arg("--bind").arg(&path).arg(to).status()?.success(), "mount --bind over {to} failed");
        }
        let corefile = directory.join("Corefile");
        std::fs::write(&corefile, COREFILE)?;
        let mount = format!("type=bind,src={},dst=/Corefile,options=rbind:ro", corefile.display());
        let server = ["run", "--detach", "--net-host", "--mount", &mount, super::NAME, "dns", "/bowline", "dns", "-conf", "/Corefile"];
        self.ctr(&server)?;
        let ask = |name: &str| {
            let client = ["run", "--rm", "--net-host", super::NAME, "client", "/bowline", "probe", "name", name];
            self.ctr(&client).map(|output| said(&output))
        };
        let begin = Instant::now();
        let found = loop {
            match ask(NAME) {
                Ok(found) => break found,
                Err(error) if begin.elapsed() > Duration::from_secs(20) => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        };
        let (short, filed) = (ask("api")?, ask("filed")?);
        self.ctr(&["tasks", "kill", "--signal", "SIGKILL", "dns"])?;
        for found in [&found, &short] {
            ensure!(found.contains("192.0.2.7") && found.contains("2001:db8::7"), "{NAME} is {found:?}");
        }
        ensure!(filed.contains("192.0.2.99"), "what /etc/hosts says is {filed:?}");
        Ok("by DNS in both families, by the search list, by /etc/hosts".to_owned())
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
