//! A virtual machine for one command: a kernel, a first file system with the modules that it needs to see this machine's files, and a
//! script that lays a throw-away layer over them and runs the command there.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::package::Kernel;

/// What it takes to see this machine's files from inside.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_rng", "9p", "9pnet_virtio", "overlay"];

/// Memory in MB.
const MEMORY_MB: u32 = 3072;

/// The first process, until the files of this machine are there.
const INIT: &str = include_str!("init.sh");
/// The first process from then on.
const INSIDE: &str = include_str!("inside.sh");

/// Everything that is the same for all commands.
pub(super) struct Machine {
    image: PathBuf,
    /// First file system, what is shared with the guest, and the guest's own report.
    scratch: tempfile::TempDir,
}

/// How a command ended.
pub(super) struct Ended {
    /// Its exit status; none if it was not done in time, or the guest broke down.
    pub(super) status: Option<i32>,
    /// The last line that it wrote.
    pub(super) last: String,
}

impl Machine {
    /// Makes the first file system.
    pub(super) fn new(kernel: &Kernel) -> Result<Machine> {
        let scratch = tempfile::tempdir()?;
        let first = scratch.path().join("first");
        for directory in ["bin", "proc", "sys", "dev", "modules", "host", "layer", "root"] {
            fs::create_dir_all(first.join(directory))?;
        }
        fs::copy("/bin/busybox", first.join("bin/busybox")).context("/bin/busybox (package busybox-static)")?;
        let mut order = String::new();
        for file in needed(kernel)? {
            let name = file.file_name().unwrap_or_default().to_string_lossy().trim_end_matches(".xz").to_owned();
            let to = first.join("modules").join(&name);
            if file.extension().is_some_and(|extension| extension == "xz") {
                let plain = Command::new("xz").arg("-dc").arg(&file).stderr(Stdio::inherit()).output().context("xz (package xz-utils)")?;
                ensure!(plain.status.success(), "xz -dc {}: {}", file.display(), plain.status);
                fs::write(to, plain.stdout)?;
            } else {
                fs::copy(&file, to)?;
            }
            order.push_str(&format!("{name}\n"));
        }
        fs::write(first.join("modules/order"), order)?;
        script(&first.join("init"), INIT)?;
        let shared = scratch.path().join("shared");
        fs::create_dir(&shared)?;
        script(&shared.join("inside"), INSIDE)?;
        fs::write(shared.join("modules"), kernel.root.join("lib/modules").display().to_string())?;
        pack(&first, &scratch.path().join("first.cpio"))?;
        Ok(Machine { image: kernel.image(), scratch })
    }

    /// Boots, runs the command in this directory as root, and passes on what it writes.
    pub(super) fn run(&self, command: &[String], limit: Duration) -> Result<Ended> {
        let shared = self.scratch.path().join("shared");
        let report = self.scratch.path().join("report");
        let words: Vec<String> = command.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
        fs::write(shared.join("command"), format!("cd '{}' && exec {}\n", std::env::current_dir()?.display(), words.join(" ")))?;
        let mut child = Command::new("timeout")
            .args(["--kill-after", "5", &limit.as_secs().to_string(), "qemu-system-x86_64"])
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", &MEMORY_MB.to_string()])
            .args(["-display", "none", "-no-reboot", "-nodefaults", "-no-user-config"])
            .arg("-kernel")
            .arg(&self.image)
            .arg("-initrd")
            .arg(self.scratch.path().join("first.cpio"))
            .args(["-append", "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off"])
            .args(["-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"])
            .args(["-virtfs", &format!("local,path={},mount_tag=shared,security_model=none", shared.display())])
            .args(["-device", "virtio-rng-pci", "-serial", "stdio", "-serial", &format!("file:{}", report.display())])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("qemu-system-x86_64 (package qemu-system-x86)")?;
        let mut last = String::new();
        let output = child.stdout.take().context("no output")?;
        for line in BufReader::new(output).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
            println!("{line}");
            // The kernel's own last words are of no use.
            if !line.is_empty() && !line.starts_with('[') {
                last = line;
            }
        }
        std::io::stdout().flush()?;
        child.wait()?;
        let status = fs::read_to_string(&report).unwrap_or_default().trim().parse().ok();
        fs::remove_file(&report).or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
        Ok(Ended { status, last })
    }
}

/// Files of the modules, each after those that it needs.
fn needed(kernel: &Kernel) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for module in MODULES {
        let output = Command::new("modprobe")
            .arg("-d")
            .arg(&kernel.root)
            .args(["-S", &kernel.version, "--show-depends", module])
            .output()
            .context("modprobe (package kmod)")?;
        // One that is built in is told as such, and one that is not there at all will be missed when the guest boots.
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for file in text.lines().filter_map(|line| line.strip_prefix("insmod ")).map(|path| PathBuf::from(path.trim())) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    Ok(files)
}

fn script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// Packs a directory as the kernel takes it (Documentation/driver-api/early-userspace/buffer-format.rst).
fn pack(directory: &Path, to: &Path) -> Result<()> {
    let command = "find . -print0 | cpio --null --create --format=newc --quiet";
    let archive = fs::File::create(to)?;
    let status = Command::new("sh").args(["-c", command]).current_dir(directory).stdout(archive).status().context("sh")?;
    ensure!(status.success(), "cpio (package cpio): {status}");
    Ok(())
}
