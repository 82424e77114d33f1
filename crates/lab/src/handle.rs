//! A typed handle on a lab for tests: drives the `bowline` binary as a user would, and takes the lab down when dropped.
//! A test that is killed takes its labs with it.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// A lab that is up. Dropping it takes it down.
#[derive(Debug)]
pub struct Lab {
    binary: PathBuf,
    name: String,
}

/// How to bring a lab up.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The binary; without, the one that the environment variable `BOWLINE_BIN` names.
    pub binary: Option<PathBuf>,
    /// The lab's name; must be one that no other test uses.
    pub name: String,
    /// Further flags of `lab up`.
    pub flags: Vec<String>,
}

impl Options {
    /// A lab of that name with these flags, separated by blanks.
    pub fn new(name: &str, flags: &str) -> Options {
        Options { binary: None, name: name.to_owned(), flags: flags.split_whitespace().map(str::to_owned).collect() }
    }
}

impl Lab {
    /// Brings one up; what is left of an earlier one of that name is removed first.
    ///
    /// # Errors
    /// If there is no binary, or with all that `lab up` said if it failed.
    pub fn up(options: Options) -> Result<Lab> {
        let binary = options
            .binary
            .or_else(|| std::env::var_os("BOWLINE_BIN").map(PathBuf::from))
            .context("no binary: set BOWLINE_BIN to the path of bowline")?;
        let lab = Lab { binary, name: options.name };
        lab.down()?;
        let output =
            lab.command(&["up", "--leash", &std::process::id().to_string()]).args(&options.flags).output().context("run bowline lab up")?;
        if output.status.success() {
            return Ok(lab);
        }
        bail!("lab {} did not come up:\n{}", lab.name, String::from_utf8_lossy(&output.stderr))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command `bowline lab WORDS --name NAME`, to be completed.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("lab").args(words).args(["--name", &self.name]).stdin(Stdio::null());
        command
    }

    /// A command of `bowline` itself, against this lab's API.
    pub fn bowline(&self) -> Result<Command> {
        let mut command = Command::new(&self.binary);
        command.env("KUBECONFIG", self.kubeconfig()?).env("BOWLINE_LAB", &self.name).stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a command in a pod.
    ///
    /// # Errors
    /// Only if the binary cannot be run; what the command did is in the output.
    pub fn exec(&self, pod: &str, namespace: &str, argv: &[&str]) -> Result<Output> {
        run(self.command(&["exec", pod, "-n", namespace]), argv)
    }

    /// Runs a command on a node.
    ///
    /// # Errors
    /// As [`Lab::exec`].
    pub fn node_exec(&self, node: &str, argv: &[&str]) -> Result<Output> {
        run(self.command(&["node-exec", node]), argv)
    }

    /// Runs a command on the host outside.
    ///
    /// # Errors
    /// As [`Lab::exec`].
    pub fn client_exec(&self, argv: &[&str]) -> Result<Output> {
        run(self.command(&["client"]), argv)
    }

    /// Starts, stops or kills a node's agent (`start`, `stop`, `kill`).
    ///
    /// # Errors
    /// With what the lab said.
    pub fn agent(&self, verb: &str, node: &str) -> Result<()> {
        succeed(self.command(&["agent", verb, node])).map(|_| ())
    }

    /// Starts or stops the API (`start`, `stop`).
    ///
    /// # Errors
    /// With what the lab said.
    pub fn api(&self, verb: &str) -> Result<()> {
        succeed(self.command(&["api", verb])).map(|_| ())
    }

    /// The path of the file for kubectl.
    ///
    /// # Errors
    /// If the lab is not up.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        Ok(Path::new(succeed(self.command(&["kubeconfig"]))?.trim_end()).to_owned())
    }

    /// Runs kubectl against the lab; its standard output.
    ///
    /// # Errors
    /// With what kubectl said, or if there is none.
    pub fn kubectl<I: IntoIterator<Item = S>, S: Into<OsString>>(&self, arguments: I) -> Result<String> {
        let mut command = Command::new("kubectl");
        command.env("KUBECONFIG", self.kubeconfig()?).args(arguments.into_iter().map(Into::into)).stdin(Stdio::null());
        succeed(command)
    }

    /// Takes it down. Absent is fine.
    ///
    /// # Errors
    /// With what `lab down` said.
    pub fn down(&self) -> Result<()> {
        succeed(self.command(&["down"])).map(|_| ())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A failing test keeps what the agents said: the lab's files go with it.
        if std::thread::panicking()
            && let Ok(logs) = self.command(&["logs"]).output()
        {
            let _ = std::io::stderr().write_all(&logs.stdout);
        }
        let _ = self.down();
    }
}

fn run(mut command: Command, argv: &[&str]) -> Result<Output> {
    command.arg("--").args(argv).output().with_context(|| format!("run {argv:?}"))
}

fn succeed(mut command: Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr))
}
