//! Puts the plugin where the runtime looks for it, and then the configuration that tells the runtime to use it.
//!
//! Invariant: the configuration is written last and atomically: a runtime that sees it can call the plugin, and the plugin finds an agent.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::config::{AgentConfig, CniInstall};

/// Name of the configuration; the lowest name in the directory is the one that runtimes take.
pub(crate) const CONF_NAME: &str = "05-bowline.conflist";

/// Name of the plugin's executable, which is this one under another name.
pub(crate) const PLUGIN_NAME: &str = "bowline-cni";

/// Installs both.
///
/// # Errors
/// When a directory or file cannot be written.
pub(crate) fn install(config: &AgentConfig) -> io::Result<()> {
    fs::create_dir_all(&config.cni_bin_dir)?;
    fs::create_dir_all(&config.cni_conf_dir)?;
    let plugin = config.cni_bin_dir.join(PLUGIN_NAME);
    match config.cni_install {
        CniInstall::None => {}
        CniInstall::Symlink => symlink(&std::env::current_exe()?, &plugin)?,
        CniInstall::Copy => copy(&std::env::current_exe()?, &plugin)?,
    }
    let body = conflist(config);
    let path = config.cni_conf_dir.join(CONF_NAME);
    if fs::read(&path).is_ok_and(|now| now == body) {
        return Ok(());
    }
    let temporary = config.cni_conf_dir.join(".05-bowline.tmp");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&body)?;
    file.sync_all()?;
    fs::rename(&temporary, &path)
}

fn conflist(config: &AgentConfig) -> Vec<u8> {
    let document = serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "bowline",
        "plugins": [{
            "type": PLUGIN_NAME,
            "socket": config.run_dir.join("cni.sock"),
            "stateDir": config.state_dir,
            "capabilities": { "portMappings": true, "ips": true, "mac": true },
        }],
    });
    let mut bytes = serde_json::to_vec_pretty(&document).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    if fs::read_link(link).is_ok_and(|now| now == target) {
        return Ok(());
    }
    let temporary = hidden(link);
    let _ = fs::remove_file(&temporary);
    std::os::unix::fs::symlink(target, &temporary)?;
    fs::rename(&temporary, link)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let same_size = |a: &Path, b: &Path| Ok::<bool, io::Error>(fs::metadata(a)?.len() == fs::metadata(b)?.len());
    if same_size(from, to).unwrap_or(false) && fs::read(from)? == fs::read(to)? {
        return Ok(());
    }
    let temporary = hidden(to);
    fs::copy(from, &temporary)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))?;
    File::open(&temporary)?.sync_all()?;
    fs::rename(&temporary, to)
}

/// A name beside `path` that no runtime takes for a plugin.
fn hidden(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()))
}
