//! kubectl against a cluster: the one of the cluster's own version.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cluster::place::{self, Place};

/// kubectl with the administrator's kubeconfig.
#[derive(Debug, Clone)]
pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// For the cluster of this place.
    pub(crate) fn of(place: &Place) -> Kubectl {
        Kubectl { program: place::programs().join("kubectl"), kubeconfig: place.kubeconfig() }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(words);
        command
    }

    /// Runs it; what it wrote.
    pub(crate) fn run(&self, words: &[&str]) -> Result<String> {
        let output = self.command(words).stdin(Stdio::null()).output().context("run kubectl")?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        bail!("kubectl {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim())
    }

    /// Runs it and reads its answer as JSON.
    pub(crate) fn json(&self, words: &[&str]) -> Result<Value> {
        let mut all = words.to_vec();
        all.extend(["-o", "json"]);
        serde_json::from_str(&self.run(&all)?).context("kubectl's answer")
    }

    /// Applies a manifest.
    pub(crate) fn apply(&self, manifest: &str) -> Result<String> {
        let mut child = self
            .command(&["apply", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run kubectl apply")?;
        let mut input = child.stdin.take().context("kubectl's input")?;
        input.write_all(manifest.as_bytes())?;
        drop(input);
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        bail!("kubectl apply: {}", String::from_utf8_lossy(&output.stderr).trim())
    }

    /// The file that it uses.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}

/// The items of a list.
pub(crate) fn items(list: &Value) -> &[Value] {
    list.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The text at a path, or nothing.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A number at a path, or zero.
pub(crate) fn number(object: &Value, pointer: &str) -> u64 {
    object.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
}

/// Whether a condition of that kind is true.
pub(crate) fn condition(object: &Value, kind: &str) -> bool {
    let all = object.pointer("/status/conditions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    all.iter().any(|one| text(one, "/type") == kind && text(one, "/status") == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_are_read() {
        let node = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "False"}]}});
        assert!(condition(&node, "Ready"));
        assert!(!condition(&node, "DiskPressure"));
        assert!(!condition(&json!({}), "Ready"));
    }
}
