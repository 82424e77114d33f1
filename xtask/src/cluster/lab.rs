//! The machines: a lab of bare nodes, driven by executing `bowline lab`.
//!
//! Invariant: what is started on a node is in that node's v1 cgroups from its first instruction, so that a cgroup
//! namespace made next shows the node's own tree as the root. cgroup2 is joined by the lab itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::cluster::node;
use crate::cluster::place;

/// A lab by name, up or not.
#[derive(Debug, Clone)]
pub(crate) struct Lab {
    name: String,
    binary: PathBuf,
}

impl Lab {
    /// The lab of the cluster `name`, driven by that binary.
    pub(crate) fn of(name: &str, binary: &Path) -> Lab {
        Lab { name: name.to_owned(), binary: binary.to_owned() }
    }

    /// Whether it is up.
    pub(crate) fn is_up(&self) -> Result<bool> {
        let output = self.command(&["list", "-o", "json"], false).output().context("run bowline lab list")?;
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("bowline lab list: {}", String::from_utf8_lossy(&output.stderr).trim()))?;
        let items = answer.get("items").and_then(serde_json::Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let text = |item: &serde_json::Value, key: &str| item.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
        Ok(items.iter().any(|item| text(item, "name") == self.name && text(item, "state") == "up"))
    }

    /// Makes the bare machines.
    pub(crate) fn up(&self, nodes: u16) -> Result<()> {
        let mut command = self.command(&["up", "--dual-stack", "--agents", "none", "--bare", "--nodes", &nodes.to_string()], true);
        succeed(&mut command).context("make the machines").map(|_| ())
    }

    /// Takes it down.
    pub(crate) fn down(&self) -> Result<()> {
        succeed(&mut self.command(&["down"], true)).context("take the machines down").map(|_| ())
    }

    /// A command on a node, within its cgroups.
    pub(crate) fn on_node<S: AsRef<str>>(&self, node: &str, words: &[S]) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", &node::join_cgroups(&self.name, node), "join"]).arg(&self.binary);
        command.args(["lab", "node-exec", "--name", &self.name, node, "--"]);
        command.args(words.iter().map(AsRef::as_ref)).current_dir("/");
        command
    }

    /// A command on the host outside.
    pub(crate) fn on_client<S: AsRef<str>>(&self, words: &[S]) -> Command {
        let mut command = self.command(&["client"], true);
        command.arg("--").args(words.iter().map(AsRef::as_ref));
        command
    }

    /// Runs a command on a node and returns what it wrote.
    pub(crate) fn run(&self, node: &str, words: &[&str], input: Option<&Path>) -> Result<String> {
        let mut command = self.on_node(node, words);
        command.stdin(match input {
            Some(path) => Stdio::from(fs::File::open(path).with_context(|| format!("open {}", path.display()))?),
            None => Stdio::null(),
        });
        succeed(&mut command).with_context(|| format!("on {node}: {}", words.join(" ")))
    }

    fn command(&self, words: &[&str], named: bool) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("lab").args(words).stdin(Stdio::null());
        if named {
            command.args(["--name", &self.name]);
        }
        command
    }
}

/// cargo's target directory for this workspace.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| place::repository().join("target"), PathBuf::from)
}

/// The binary that `BOWLINE_BIN` names.
fn given() -> Option<PathBuf> {
    std::env::var_os("BOWLINE_BIN").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// The binary to make a lab with: the one that is given, or the tree's, built as it is now.
pub(crate) fn binary() -> Result<PathBuf> {
    if let Some(given) = given() {
        return Ok(given);
    }
    let mut command = Command::new("cargo");
    command.args(["build", "--quiet", "--package", "bowline"]).current_dir(place::repository()).stdin(Stdio::null());
    let status = command.status().context("run cargo build")?;
    if !status.success() {
        bail!("cargo build --package bowline: {status}");
    }
    Ok(target().join("debug/bowline"))
}

/// Any binary that can find a lab by its name: the one that made it, or another that is there. Nothing is built.
pub(crate) fn any_binary(recorded: &Path) -> Result<PathBuf> {
    let built = ["debug", "release"].map(|profile| target().join(profile).join("bowline"));
    let mut all = std::iter::once(recorded.to_owned()).chain(given()).chain(built);
    all.find(|path| path.is_file()).context("no bowline binary is there to drive the lab: run cargo build, or set BOWLINE_BIN")
}

/// Runs a command to its end; its standard output, or an error with what it said.
pub(crate) fn succeed(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } = command.output().with_context(|| format!("run {:?}", command.get_program()))?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    bail!("{status}: {}{}", String::from_utf8_lossy(&stderr).trim(), String::from_utf8_lossy(&stdout).trim())
}
