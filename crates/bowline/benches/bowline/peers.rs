//! The programs that Bowline is compared with, where they are.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// CoreDNS, built by scripts/peers if it is not there yet.
///
/// # Errors
/// What the script said.
pub(crate) fn coredns() -> Result<PathBuf> {
    built("coredns")
}

/// kube-proxy, built by scripts/peers if it is not there yet.
///
/// # Errors
/// What the script said.
pub(crate) fn kube_proxy() -> Result<PathBuf> {
    built("kube-proxy")
}

fn built(program: &str) -> Result<PathBuf> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/peers");
    let output = Command::new(script).arg(program).output().with_context(|| script.to_owned())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let directory = std::env::var_os("BOWLINE_PEERS").map(PathBuf::from).or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        Some(cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?.join("bowline/peers"))
    });
    let built = std::fs::read_dir(directory.context("neither HOME nor BOWLINE_PEERS is set")?)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{program}-"))));
    match built {
        Some(path) => Ok(path),
        None => bail!("{}", said.trim()),
    }
}

/// Where Debian's containernetworking-plugins are.
pub(crate) const CNI_PLUGINS: &str = "/usr/lib/cni";
