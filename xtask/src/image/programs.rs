//! What the suites' images are filled with: Go programs that `conformance/build` leaves in the cache, two small ones built here, and a
//! Debian root by mmdebstrap.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::layer::hex_digest;
use super::product::said;

/// The release of Debian that the tools come from.
const RELEASE: &str = "bookworm";
const MIRROR: &str = "http://deb.debian.org/debian";

/// Debian's packages in the tools' root, over the essential ones: what the upstream images have, or what stands in for it.
const PACKAGES: &[&str] = &[
    "bash",
    "bind9-dnsutils",
    "busybox-static",
    "ca-certificates",
    "catatonit",
    "conntrack",
    "curl",
    "iperf",
    "iproute2",
    "iptables",
    "iputils-ping",
    "iputils-tracepath",
    "netcat-openbsd",
    "nginx-light",
    "openssl",
    "procps",
    "tcpdump",
    "wget",
];

/// What no test reads.
const LEFT_OUT: &[&str] = &["/usr/share/doc/*", "/usr/share/info/*", "/usr/share/lintian/*", "/usr/share/locale/*", "/usr/share/man/*"];

/// What mmdebstrap copies from this machine; a container gets its own.
const MACHINES: &str = r#"rm -f "$1/etc/hostname" "$1/etc/resolv.conf""#;

/// cyclonus's worker, of the version that `conformance/build` takes cyclonus itself in.
const WORKER: &str = "github.com/mattfenwick/cyclonus/cmd/worker@v0.5.6";

/// Files that are there.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) agnhost: PathBuf,
    /// agnhost, with `conformance/sctp` in it where the kernel has no SCTP.
    pub(super) agnhost_sctp: PathBuf,
    pub(super) coredns: PathBuf,
    pub(super) worker: PathBuf,
    pub(super) resetter: PathBuf,
    /// The directory of agnhost's sources that holds its certificate.
    pub(super) porter: PathBuf,
    /// A tar of the tools' root.
    pub(super) root: PathBuf,
}

impl Programs {
    /// Finds what the cache holds and makes what it lacks, except for what `conformance/build` makes.
    pub(super) fn find(cache: &Path) -> Result<Self> {
        let bin = cache.join("bin");
        let module = cache.join("work/kubernetes");
        let built = |name: &str, group: &str| -> Result<PathBuf> {
            let path = bin.join(name);
            if !path.exists() {
                bail!("{} is not there: run conformance/build {group}, then this again", path.display());
            }
            Ok(path)
        };
        let porter = "k8s.io/kubernetes/test/images/agnhost/porter";
        let found = said("go", &["list", "-f", "{{.Dir}}", porter], &module);
        Ok(Self {
            agnhost: built("agnhost", "suite")?,
            agnhost_sctp: built(if kernel_has_sctp() { "agnhost" } else { "agnhost-sctp" }, "suite")?,
            coredns: built("coredns", "suite")?,
            worker: worker(cache, &bin)?,
            resetter: resetter(&module, &bin)?,
            porter: found
                .with_context(|| format!("{}: go list {porter} finds nothing; run conformance/build suite", module.display()))?
                .into(),
            root: root(&cache.join("work"))?,
        })
    }

    /// Changes when any of the programs does.
    pub(super) fn digest(&self) -> Result<String> {
        let mut all = String::new();
        for path in [&self.agnhost, &self.agnhost_sctp, &self.coredns, &self.worker, &self.resetter, &self.root] {
            all.push_str(&hex_digest(&std::fs::read(path).with_context(|| path.display().to_string())?));
        }
        Ok(hex_digest(all.as_bytes()))
    }
}

/// Whether sockets of SCTP can be had of this kernel.
fn kernel_has_sctp() -> bool {
    Path::new("/proc/net/sctp").exists()
}

fn worker(cache: &Path, bin: &Path) -> Result<PathBuf> {
    let path = bin.join("cyclonus-worker");
    if !path.exists() {
        let gobin = cache.join("work/gobin");
        run(Command::new("go").args(["install", "-trimpath", "-ldflags", "-s -w", WORKER]).env("CGO_ENABLED", "0").env("GOBIN", &gobin))?;
        std::fs::rename(gobin.join("worker"), &path).with_context(|| path.display().to_string())?;
    }
    Ok(path)
}

fn resetter(module: &Path, bin: &Path) -> Result<PathBuf> {
    let path = bin.join("regression-issue-74839");
    if !path.exists() {
        let package = "k8s.io/kubernetes/test/images/regression-issue-74839";
        let mut go = Command::new("go");
        go.current_dir(module).args(["build", "-trimpath", "-ldflags", "-s -w", "-o"]).arg(&path).arg(package);
        run(go.env("CGO_ENABLED", "0"))?;
    }
    Ok(path)
}

/// A tar of Debian's essential packages and ours, named by what went in; times are clamped to 0 and entries sorted by mmdebstrap itself.
fn root(work: &Path) -> Result<PathBuf> {
    let mark = hex_digest(format!("{RELEASE} {PACKAGES:?} {LEFT_OUT:?} {MACHINES}").as_bytes());
    let path = work.join(format!("tools-root-{}.tar", mark.get(..12).unwrap_or(&mark)));
    if path.exists() {
        return Ok(path);
    }
    let near = path.with_extension("new.tar");
    println!("making a root of Debian {RELEASE} with {} packages by mmdebstrap", PACKAGES.len());
    let mut command = Command::new("mmdebstrap");
    command.env("SOURCE_DATE_EPOCH", "0");
    command.args(["--quiet", "--variant=essential", "--mode=root", "--format=tar", "--skip=output/dev"]);
    command.arg(format!("--include={}", PACKAGES.join(",")));
    command.args(LEFT_OUT.iter().map(|pattern| format!("--dpkgopt=path-exclude={pattern}")));
    command.arg(format!("--customize-hook={MACHINES}"));
    run(command.arg(RELEASE).arg(&near).arg(MIRROR)).context("apt-get install mmdebstrap, if it is not there; it needs root")?;
    std::fs::rename(&near, &path).with_context(|| path.display().to_string())?;
    Ok(path)
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("{name} cannot be run"))?;
    if !status.success() {
        bail!("{name}: {status}");
    }
    Ok(())
}

/// A file out of a tar.
pub(super) fn member(tar: &[u8], path: &str) -> Result<Vec<u8>> {
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        if entry.path()?.strip_prefix("./").is_ok_and(|found| found == Path::new(path)) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            return Ok(bytes);
        }
    }
    bail!("the tools' root has no {path}")
}

/// The commands that a busybox has in it; it is static, so that it can be asked.
pub(super) fn applets(busybox: &[u8]) -> Result<Vec<String>> {
    let dir = tempfile::tempdir()?;
    let program = dir.path().join("busybox");
    std::fs::write(&program, busybox)?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    let output = Command::new(&program).arg("--list").output().context("busybox --list")?;
    let applets: Vec<String> = String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect();
    if applets.len() < 50 {
        bail!("busybox --list names {} commands, which cannot be all", applets.len());
    }
    Ok(applets)
}
