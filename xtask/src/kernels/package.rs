//! Debian's kernels as apt has them, unpacked in the user's cache.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A kernel with its modules.
#[derive(Debug)]
pub(super) struct Kernel {
    /// As `uname -r` says it.
    pub(super) version: String,
    /// What the package has brought: `boot`, `lib/modules`.
    pub(super) root: PathBuf,
}

impl Kernel {
    /// The image to boot.
    pub(super) fn image(&self) -> PathBuf {
        self.root.join("boot").join(format!("vmlinuz-{}", self.version))
    }
}

/// The newest kernel of a series, fetched if it is not here yet. None if apt does not know any.
pub(super) fn kernel(series: &str) -> Result<Option<Kernel>> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let place = cache.or_else(home).context("neither XDG_CACHE_HOME nor HOME is set")?.join("bowline/kernels").join(series);
    if let Some(kernel) = unpacked(place.join("root"))? {
        return Ok(Some(kernel));
    }
    let Some(package) = newest(series)? else { return Ok(None) };
    println!("fetching {package} into {}", place.display());
    std::fs::create_dir_all(&place).with_context(|| place.display().to_string())?;
    let scratch = tempfile::tempdir_in(&place)?;
    said(Command::new("apt-get").args(["download", "-qq", &package]).current_dir(scratch.path()))?;
    let archive =
        std::fs::read_dir(scratch.path())?.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "deb"));
    let unfinished = scratch.path().join("root");
    said(Command::new("dpkg-deb").arg("-x").arg(archive.context("apt-get left no package")?).arg(&unfinished))?;
    // Whole or not at all.
    std::fs::rename(&unfinished, place.join("root"))?;
    let kernel = unpacked(place.join("root"))?.with_context(|| format!("{package} holds no kernel"))?;
    said(Command::new("depmod").arg("-b").arg(&kernel.root).arg(&kernel.version))?;
    Ok(Some(kernel))
}

fn unpacked(root: PathBuf) -> Result<Option<Kernel>> {
    let modules = root.join("lib/modules");
    if !modules.is_dir() {
        return Ok(None);
    }
    let version = std::fs::read_dir(modules)?.flatten().next().map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(version.map(|version| Kernel { version, root }))
}

/// The package's name: of the usual flavour, signed or not as the distribution has it.
fn newest(series: &str) -> Result<Option<String>> {
    let machine = said(Command::new("dpkg").arg("--print-architecture"))?;
    let pattern = format!("^linux-image-{}\\.[0-9]+.*-{}$", series.replace('.', "\\."), machine.trim());
    let known = said(Command::new("apt-cache").args(["search", "--names-only", &pattern]))?;
    let other = ["cloud", "-rt-", "-dbg", "unsigned"];
    let mut names: Vec<&str> = known.lines().filter_map(|line| line.split_whitespace().next()).collect();
    names.retain(|name| !other.iter().any(|word| name.contains(word)));
    // 6.1.0-9 is older than 6.1.0-41: by their numbers, one by one.
    let numbers = |name: &str| name.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u64>().ok()).collect::<Vec<_>>();
    Ok(names.into_iter().max_by_key(|name| numbers(name)).map(str::to_owned))
}

/// What a command says.
fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
