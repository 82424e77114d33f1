//! Where things are, and child processes with their output at hand.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// The repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// The cache of programs that are not ours, as `conformance/build` keeps it.
pub(crate) fn cache() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("BOWLINE_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").map(|dir| dir.join("bowline")))
        .or_else(|| from("HOME").map(|dir| dir.join(".cache/bowline")))
        .unwrap_or_else(|| PathBuf::from("/root/.cache/bowline"))
        .join("conformance")
}

/// A program of the cache; built by its group of `conformance/build` if it is not there.
pub(crate) fn program(name: &str, group: &str) -> Result<PathBuf> {
    let path = cache().join("bin").join(name);
    if !path.exists() {
        eprintln!("conformance: {name} is not in the cache, building the group `{group}`");
        let status = Command::new(repository().join("conformance/build")).arg(group).status().context("conformance/build")?;
        ensure!(status.success() && path.exists(), "conformance/build {group} did not make {}: see above", path.display());
    }
    Ok(path)
}

/// Whether a program is on the search path.
pub(crate) fn installed(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Where a suite leaves its logs and reports.
pub(crate) fn results(suite: &str) -> Result<PathBuf> {
    let dir = repository().join("target/conformance").join(suite);
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(dir)
}

/// The product's executable: BOWLINE_BIN, as for the cluster, or what cargo builds.
pub(crate) fn bowline() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("BOWLINE_BIN").filter(|value| !value.is_empty()) {
        return Ok(path.into());
    }
    let mut build = Command::new("cargo");
    build.current_dir(repository()).args(["build", "--quiet", "--package", "bowline", "--message-format", "json-render-diagnostics"]);
    let output = build.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cargo build")?;
    ensure!(output.status.success(), "cargo build --package bowline failed");
    let messages = output.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok());
    let executable = messages.filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from)).next_back();
    executable.context("cargo build named no executable")
}

/// Name of the cluster that is taken where none is named.
pub(crate) const DEFAULT: &str = "cluster";

/// A kubeconfig of the cluster that stands, made first if none does.
pub(crate) struct Cluster {
    pub(crate) name: String,
    pub(crate) kubeconfig: PathBuf,
    /// Whether it is ours to take down.
    made: bool,
}

impl Cluster {
    /// Finds the cluster of a name, or makes it.
    pub(crate) fn find_or_make(name: &str, options: &[&str]) -> Result<Cluster> {
        if let Ok(cluster) = Cluster::find(name) {
            return Ok(cluster);
        }
        eprintln!("conformance: no cluster is called {name}, making it");
        let status = chore().args(["cluster", "up", "--name", name]).args(options).stdin(Stdio::null()).status().context("cluster up")?;
        ensure!(status.success(), "cargo xtask cluster up --name {name} failed: see above");
        Ok(Cluster { name: name.to_owned(), kubeconfig: Cluster::kubeconfig(name)?, made: true })
    }

    /// The cluster of a name, if it is up.
    pub(crate) fn find(name: &str) -> Result<Cluster> {
        Ok(Cluster { name: name.to_owned(), kubeconfig: Cluster::kubeconfig(name)?, made: false })
    }

    fn kubeconfig(name: &str) -> Result<PathBuf> {
        let output = run(chore().args(["cluster", "kubeconfig", "--name", name]), Duration::from_secs(60))?;
        let path = PathBuf::from(output.trim());
        let ready = kubectl_at(&path, &["get", "--raw", "/readyz"]);
        ensure!(ready.is_ok_and(|answer| answer.trim() == "ok"), "cluster {name} does not answer");
        Ok(path)
    }

    /// How many nodes it has.
    pub(crate) fn nodes(&self) -> Result<usize> {
        Ok(kubectl_at(&self.kubeconfig, &["get", "nodes", "-o", "name"])?.lines().count())
    }

    /// Where a suite on this cluster leaves its logs and reports: suites can run on several clusters at once.
    pub(crate) fn results(&self, suite: &str) -> Result<PathBuf> {
        if self.name == DEFAULT { results(suite) } else { results(&format!("{suite}-{}", self.name)) }
    }

    /// A command on a node.
    pub(crate) fn node(&self, node: &str, words: &[&str], limit: Duration) -> Result<String> {
        run(chore().args(["cluster", "exec", "--name", &self.name, node, "--"]).args(words), limit)
    }

    /// Takes the cluster down if it was made here; an error is said, since the suites' results stand without it.
    pub(crate) fn leave(self) {
        if self.made && !chore().args(["cluster", "down", "--name", &self.name]).status().is_ok_and(|status| status.success()) {
            eprintln!("conformance: cluster {} could not be taken down; run: cargo xtask cluster down --name {0}", self.name);
        }
    }
}

/// kubectl with a kubeconfig.
pub(crate) fn kubectl_at(kubeconfig: &Path, words: &[&str]) -> Result<String> {
    let program = program("kubectl", "client")?;
    run(Command::new(program).arg("--kubeconfig").arg(kubeconfig).args(words), Duration::from_secs(300))
}

/// This program, for its other chores.
pub(crate) fn chore() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "xtask".into()));
    command.current_dir(repository());
    command
}

/// Runs a command to its end and gives what it said; an error holds the last of what it said on stderr.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<String> {
    let output = finish(command, limit)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(if output.stderr.is_empty() { &output.stdout } else { &output.stderr });
        let last: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
        let tail = last.iter().rev().take(3).rev().copied().collect::<Vec<_>>().join(" | ");
        bail!("{}: {}: {tail}", words(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end, or ends it and what it started at the limit.
pub(crate) fn finish(command: &mut Command, limit: Duration) -> Result<Output> {
    let what = words(command);
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| what.clone())?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let end = Instant::now() + limit;
    std::thread::scope(|scope| {
        let (stdout, stderr) = (scope.spawn(move || all_of(out)), scope.spawn(move || all_of(err)));
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() > end {
                if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
                }
                child.wait()?;
                bail!("{what}: still running after {} s, ended", limit.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        Ok(Output { status, stdout: stdout.join().unwrap_or_default(), stderr: stderr.join().unwrap_or_default() })
    })
}

fn all_of(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What came before an error is what there is to show.
        let _ = pipe.read_to_end(&mut bytes);
    }
    bytes
}

/// Runs a command with its output in a file, each line shown to `hear` as it comes. An exit status is no error.
pub(crate) fn stream(command: &mut Command, log: &Path, mut hear: impl FnMut(&str)) -> Result<bool> {
    let mut file = std::fs::File::create(log).with_context(|| log.display().to_string())?;
    let errors = file.try_clone().with_context(|| log.display().to_string())?;
    let what = words(command);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).spawn().with_context(|| what.clone())?;
    if let Some(stdout) = child.stdout.take() {
        let mut lines = BufReader::new(stdout);
        let mut bytes = Vec::new();
        while lines.read_until(b'\n', &mut bytes).context("reading its output")? > 0 {
            file.write_all(&bytes)?;
            hear(String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']));
            bytes.clear();
        }
    }
    Ok(child.wait().with_context(|| what)?.success())
}

fn words(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    command.get_args().take(6).fold(program, |text, word| text + " " + &word.to_string_lossy())
}
