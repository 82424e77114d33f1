//! Puts the plugin where the runtime looks for it, and then the configuration that tells the runtime to use it.
//!
//! Invariant: the configuration is written last and atomically: a runtime that sees it can call the plugin, and the plugin finds an agent.
//! Both are renamed into place, so that a plugin that runs at that moment goes on as what it was.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::config::{AgentConfig, CniInstall};

/// Name of the configuration; the lowest name in the directory is the one that runtimes take.
pub(crate) const CONF_NAME: &str = "05-bowline.conflist";

/// Name of the plugin's executable, which is this one under another name.
pub(crate) const PLUGIN_NAME: &str = "bowline-cni";

/// How long the plugin waits for an agent that is just being replaced, in milliseconds.
const CONNECT_MS: u64 = 10_000;

/// How much of two files is compared at a time.
const COMPARED_BYTES: usize = 64 << 10;

/// Installs both, and says whether anything had to be written. A plugin that this process has installed `before` is looked for, but not
/// compared again.
///
/// # Errors
/// When a directory or file cannot be written.
pub(crate) fn install(config: &AgentConfig, before: bool) -> io::Result<bool> {
    let plugin = config.cni_bin_dir.join(PLUGIN_NAME);
    let mut wrote = false;
    if !(before && plugin.exists()) {
        fs::create_dir_all(&config.cni_bin_dir)?;
        wrote |= match config.cni_install {
            CniInstall::None => false,
            CniInstall::Symlink => symlink(&std::env::current_exe()?, &plugin)?,
            CniInstall::Copy => copy(&std::env::current_exe()?, &plugin)?,
        };
    }
    if config.cni_install != CniInstall::None {
        wrote |= loopback(&config.cni_bin_dir)?;
    }
    let body = conflist(config);
    let path = config.cni_conf_dir.join(CONF_NAME);
    if fs::read(&path).is_ok_and(|now| now == body) {
        return Ok(wrote);
    }
    fs::create_dir_all(&config.cni_conf_dir)?;
    let temporary = config.cni_conf_dir.join(".05-bowline.tmp");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&body)?;
    file.sync_all()?;
    fs::rename(&temporary, &path)?;
    Ok(true)
}

fn conflist(config: &AgentConfig) -> Vec<u8> {
    let document = serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "bowline",
        "plugins": [{
            "type": PLUGIN_NAME,
            "socket": config.run_dir.join("cni.sock"),
            "stateDir": config.state_dir,
            "connectTimeoutMs": CONNECT_MS,
            "capabilities": { "portMappings": true, "ips": true, "mac": true },
        }],
    });
    let mut bytes = serde_json::to_vec_pretty(&document).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// The plugin `loopback`, which runtimes want as well: as a link to ours, and only where nobody has put one.
fn loopback(directory: &Path) -> io::Result<bool> {
    let link = directory.join(crate::loopback::PLUGIN_NAME);
    match link.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => symlink(Path::new(PLUGIN_NAME), &link),
        Err(error) => Err(error),
        Ok(_) => Ok(false),
    }
}

/// Whether the plugin `loopback` in that directory is ours.
pub(crate) fn owns_loopback(directory: &Path) -> bool {
    fs::read_link(directory.join(crate::loopback::PLUGIN_NAME)).is_ok_and(|target| target == Path::new(PLUGIN_NAME))
}

fn symlink(target: &Path, link: &Path) -> io::Result<bool> {
    if fs::read_link(link).is_ok_and(|now| now == target) {
        return Ok(false);
    }
    let temporary = hidden(link);
    let _ = fs::remove_file(&temporary);
    std::os::unix::fs::symlink(target, &temporary)?;
    fs::rename(&temporary, link)?;
    Ok(true)
}

fn copy(from: &Path, to: &Path) -> io::Result<bool> {
    if same(from, to).unwrap_or(false) {
        return Ok(false);
    }
    let temporary = hidden(to);
    // What a kill left half-written may still be a link to somewhere else.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::copy(from, &temporary)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))?;
    File::open(&temporary)?.sync_all()?;
    fs::rename(&temporary, to)?;
    Ok(true)
}

/// Whether two files are the same and executable, without holding either in memory.
fn same(from: &Path, to: &Path) -> io::Result<bool> {
    let (mut a, mut b) = (File::open(from)?, File::open(to)?);
    let there = b.metadata()?;
    if fs::symlink_metadata(to)?.is_symlink() || a.metadata()?.len() != there.len() || there.permissions().mode() & 0o111 != 0o111 {
        return Ok(false);
    }
    let (mut of_a, mut of_b) = (Vec::with_capacity(COMPARED_BYTES), Vec::with_capacity(COMPARED_BYTES));
    loop {
        of_a.clear();
        of_b.clear();
        let read = (&mut a).take(COMPARED_BYTES as u64).read_to_end(&mut of_a)?;
        (&mut b).take(COMPARED_BYTES as u64).read_to_end(&mut of_b)?;
        if of_a != of_b {
            return Ok(false);
        }
        if read == 0 {
            return Ok(true);
        }
    }
}

/// A name beside `path` that no runtime takes for a plugin.
fn hidden(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(at: &Path) -> AgentConfig {
        let args = super::super::AgentArgs {
            node_name: Some("n1".into()),
            cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
            cni_conf_dir: Some(at.join("conf")),
            cni_bin_dir: Some(at.join("bin")),
            ..Default::default()
        };
        AgentConfig::load(&args).unwrap()
    }

    #[test]
    fn a_second_time_writes_nothing_and_what_was_taken_away_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        assert!(install(&config, false).unwrap());
        assert!(!install(&config, false).unwrap(), "nothing to do for another process");
        assert!(!install(&config, true).unwrap(), "nothing to do for the same one");
        let plugin = dir.path().join("bin").join(PLUGIN_NAME);
        assert_eq!(fs::read(&plugin).unwrap(), fs::read(std::env::current_exe().unwrap()).unwrap());
        let loopback = dir.path().join("bin/loopback");
        assert!(owns_loopback(loopback.parent().unwrap()) && loopback.exists());
        fs::remove_file(&plugin).unwrap();
        assert!(install(&config, true).unwrap() && plugin.exists());
        fs::remove_file(dir.path().join("conf").join(CONF_NAME)).unwrap();
        assert!(install(&config, true).unwrap());
        let left: Vec<_> = fs::read_dir(dir.path().join("conf")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, [CONF_NAME], "no temporary file stays");
    }

    #[test]
    fn somebody_elses_loopback_plugin_stays() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        fs::create_dir_all(&config.cni_bin_dir).unwrap();
        fs::write(config.cni_bin_dir.join("loopback"), "theirs").unwrap();
        install(&config, false).unwrap();
        assert_eq!(fs::read(config.cni_bin_dir.join("loopback")).unwrap(), b"theirs");
        assert!(!owns_loopback(&config.cni_bin_dir));
    }

    #[test]
    fn another_version_replaces_a_plugin_that_runs() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        fs::create_dir_all(&config.cni_bin_dir).unwrap();
        let plugin = config.cni_bin_dir.join(PLUGIN_NAME);
        fs::copy("/bin/sleep", &plugin).unwrap();
        let mut running = std::process::Command::new(&plugin).arg("30").spawn().unwrap();
        let installed = install(&config, false);
        let alive = running.try_wait().unwrap().is_none();
        running.kill().unwrap();
        running.wait().unwrap();
        assert!(installed.unwrap() && alive, "replaced under a running one");
        assert_eq!(fs::metadata(&plugin).unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error_and_no_configuration_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        fs::write(&config.cni_bin_dir, "a file in the way").unwrap();
        assert!(install(&config, false).is_err());
        assert!(!config.cni_conf_dir.join(CONF_NAME).exists());
    }
}
