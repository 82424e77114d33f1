//! The product's image: one static binary from scratch.
//!
//! Invariant: the image depends on the sources alone, not on where they lie. Paths are mapped away, symbols are stripped, and the only time
//! is SOURCE_DATE_EPOCH or that of the commit. Names resolve without NSS modules: glibc from 2.34 on has `files` and `dns` built in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::layer::{Entry, Layer, Packing};
use super::oci::{self, Image, Start};
use super::suite::architecture;

/// What a release's layer may take over the wire.
const LIMIT_BYTES: usize = 25_000_000;

/// How the binary is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Profile {
    /// Optimised, small, checked.
    Release,
    /// Quick to make again from a changed tree; not packed, not checked.
    Dev,
}

/// The users that an image from scratch knows; 65532 is what other images without a distribution use.
const PASSWD: &str = "root:x:0:0:root:/:/bin/false\nnonroot:x:65532:65532:nonroot:/:/bin/false\n";
const GROUP: &str = "root:x:0:\nnonroot:x:65532:\n";
/// glibc without this file asks DNS before /etc/hosts.
const NSSWITCH: &str = "passwd: files\ngroup: files\nhosts: files dns\n";

pub(super) fn make(root: &Path, profile: Profile, output: Option<&Path>) -> Result<PathBuf> {
    let target = root.join("target/image");
    let binary = build(root, &target, profile)?;
    let bytes = std::fs::read(&binary).with_context(|| binary.display().to_string())?;
    let packing = match profile {
        Profile::Release => Packing::Gzip(9),
        Profile::Dev => Packing::Plain,
    };
    if profile == Profile::Release {
        names_nothing_of(&bytes, &homes(root)?)?;
    }
    let binary_bytes = bytes.len();
    let layer = Layer::of(&entries(bytes), packing)?;
    let packed = layer.blob.bytes.len();
    if profile == Profile::Release && packed > LIMIT_BYTES {
        bail!("the image's layer takes {packed} bytes packed; the limit is {LIMIT_BYTES}: see what the last change links in");
    }
    let output = output.map_or_else(|| target.join("bowline.tar"), Path::to_owned);
    oci::write(&[image(root, &layer)?], &output)?;
    println!("{}", output.display());
    println!("  {}, {}", super::NAME, layer.blob.digest());
    println!("  binary {}, layer {} (limit {})", megabytes(binary_bytes), megabytes(packed), megabytes(LIMIT_BYTES));
    Ok(output)
}

/// What the image holds. Nothing is written at run time but what is mounted, so there is no more than this.
pub(super) fn entries(binary: Vec<u8>) -> Vec<Entry> {
    vec![
        Entry::program("bowline", binary),
        Entry::directory("etc", 0o755),
        Entry::text("etc/group", GROUP),
        Entry::text("etc/nsswitch.conf", NSSWITCH),
        Entry::text("etc/passwd", PASSWD),
        Entry::directory("tmp", 0o1777),
    ]
}

fn image<'a>(root: &Path, layer: &'a Layer) -> Result<Image<'a>> {
    let created = created(root)?;
    let mut labels = BTreeMap::from([
        ("title", "bowline".to_owned()),
        ("description", "The whole network of a Kubernetes cluster in one binary".to_owned()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("licenses", "Apache-2.0".to_owned()),
        ("created", created.clone()),
    ]);
    if let Some(revision) = revision(root) {
        labels.insert("revision", revision);
    }
    let start = Start {
        entrypoint: vec!["/bowline".to_owned()],
        env: vec!["PATH=/".to_owned()],
        working_dir: "/".to_owned(),
        labels: labels.into_iter().map(|(name, value)| (format!("org.opencontainers.image.{name}"), value)).collect(),
        ..Start::default()
    };
    Ok(Image { names: vec![super::NAME.to_owned()], created, architecture: architecture()?, layers: vec![layer], start })
}

/// Builds the binary in a target directory of its own, so that its flags do not undo the usual build.
fn build(root: &Path, target: &Path, profile: Profile) -> Result<PathBuf> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let homes = homes(root)?;
    let flags: Vec<String> = std::iter::once("-Ctarget-feature=+crt-static".to_owned())
        .chain(homes.iter().map(|(path, name)| format!("--remap-path-prefix={path}={name}")))
        .collect();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root).args(["build", "--package", "bowline", "--target", &triple]);
    // The flags hold for the target alone and not for build scripts, because a target is named.
    cargo.env("CARGO_TARGET_DIR", target).env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    let folder = match profile {
        Profile::Release => {
            cargo.args(["--release", "--locked"]).env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
            "release"
        }
        Profile::Dev => {
            cargo.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_PROFILE_DEV_STRIP", "debuginfo");
            "debug"
        }
    };
    let status = cargo.status().context("cargo cannot be run")?;
    if !status.success() {
        bail!("{status} from cargo; if the linker failed: a static binary wants glibc 2.34 or later and its archives (Debian: libc6-dev)");
    }
    Ok(target.join(triple).join(folder).join("bowline"))
}

/// The directories of this machine that a compiler would write into a binary, and what stands for each.
fn homes(root: &Path) -> Result<Vec<(String, &'static str)>> {
    let cargo = match (std::env::var_os("CARGO_HOME"), std::env::var_os("HOME")) {
        (Some(home), _) => PathBuf::from(home),
        (None, Some(home)) => Path::new(&home).join(".cargo"),
        (None, None) => bail!("neither CARGO_HOME nor HOME is set, so cargo's directory cannot be mapped out of the binary"),
    };
    let sysroot = said("rustc", &["--print", "sysroot"], root).context("rustc --print sysroot")?;
    Ok(vec![(text(root)?, "/bowline"), (text(&cargo)?, "/cargo"), (sysroot, "/rust")])
}

fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?.to_owned())
}

/// Fails when the binary holds a path of this machine: it would differ elsewhere, and say where it was built.
pub(super) fn names_nothing_of(binary: &[u8], homes: &[(String, &'static str)]) -> Result<()> {
    for (path, name) in homes.iter().filter(|(path, name)| path != name) {
        let slash = format!("{path}/");
        if binary.windows(slash.len()).any(|part| part == slash.as_bytes()) {
            bail!("the binary names {slash} of this machine, which should have become {name}: some build script or C source wrote it in");
        }
    }
    Ok(())
}

/// SOURCE_DATE_EPOCH, else the commit's time, else the beginning of time.
fn created(root: &Path) -> Result<String> {
    let seconds: i64 = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(given) => given.parse().with_context(|| format!("SOURCE_DATE_EPOCH={given} is not a number of seconds"))?,
        Err(_) => said("git", &["log", "-1", "--format=%ct"], root).and_then(|time| time.parse().ok()).unwrap_or(0),
    };
    Ok(OffsetDateTime::from_unix_timestamp(seconds)?.format(&Rfc3339)?)
}

/// The commit, marked when the tree holds more than it.
fn revision(root: &Path) -> Option<String> {
    let commit = said("git", &["rev-parse", "HEAD"], root)?;
    let changed = Command::new("git").args(["diff", "--quiet", "HEAD"]).current_dir(root).status().map(|status| !status.success());
    Some(if changed.unwrap_or(true) { format!("{commit}-dirty") } else { commit })
}

/// What a program says on one line, if it succeeds.
pub(super) fn said(program: &str, arguments: &[&str], directory: &Path) -> Option<String> {
    let output = Command::new(program).args(arguments).current_dir(directory).stderr(std::process::Stdio::null()).output().ok()?;
    let line = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}

/// Bytes as a person reads them.
pub(super) fn megabytes(bytes: usize) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
}
