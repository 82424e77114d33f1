//! Container images of our own making: the product's, and those that the outside suites want.
//!
//! Nothing here needs a container engine. An image is a tar that is an OCI image layout and, by one more file, what `docker load` reads;
//! `ctr images import` and `podman load` take it as well. Invariant: the same input gives the same bytes. What stands in for which image,
//! and why, is in docs/images.md.

mod kubeadm;
mod layer;
mod oci;
mod product;
mod programs;
mod suite;
#[cfg(test)]
mod tests;
mod trial;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

pub(crate) use product::Profile;

/// What the product's image is called, with the workspace's version.
pub(crate) const NAME: &str = concat!("localhost/bowline:", env!("CARGO_PKG_VERSION"));

#[derive(Debug, Parser)]
#[command(name = "cargo xtask image", about = "Make container images without a container engine")]
struct Words {
    /// release: optimised, checked for size and for paths of this machine; dev: quick to make again
    #[arg(long, value_enum, default_value = "release")]
    profile: Profile,
    /// Where the product's image goes [default: target/image/bowline.tar, which is what `cargo xtask cluster` takes]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The images that the outside suites ask for, into the cache; what is there already is not made again
    Suite,
    /// The images of which kubeadm makes a control plane, into the cache
    Kubeadm,
    /// Import archives into a containerd of its own and run what they hold; needs root
    Try {
        /// Archives [default: the product's and the suites', where they are there]
        archives: Vec<PathBuf>,
    },
    /// The part of `try` inside its namespaces
    #[command(hide = true)]
    TryInside { directory: PathBuf, archives: Vec<PathBuf> },
}

/// Runs the chore with the words that follow its name.
pub(crate) fn run(rest: &[String]) -> Result<bool> {
    let words = match Words::try_parse_from(std::iter::once("image").chain(rest.iter().map(String::as_str))) {
        Ok(words) => words,
        Err(error) => error.exit(),
    };
    match words.what {
        None => product(words.profile, words.output.as_deref()).map(|_| true),
        Some(What::Suite) => suite().map(|_| true),
        Some(What::Kubeadm) => kubeadm().map(|_| true),
        Some(What::Try { archives }) if archives.is_empty() => trial::run(&made()?),
        Some(What::Try { archives }) => trial::run(&archives),
        Some(What::TryInside { directory, archives }) => trial::inside(&directory, &archives),
    }
}

/// Builds the product's image and gives back where it is.
///
/// # Errors
/// When the build fails, the image is over its limit, or the file cannot be written.
pub(crate) fn product(profile: Profile, output: Option<&Path>) -> Result<PathBuf> {
    product::make(&root(), profile, output)
}

/// Makes the outside suites' images unless the cache holds them, and gives back their files.
///
/// # Errors
/// When a program or package of theirs is missing, or a file cannot be written.
pub(crate) fn suite() -> Result<Vec<PathBuf>> {
    suite::make(&conformance_cache()?)
}

/// Makes the images of kubeadm's control plane unless the cache holds them, and gives back their file.
///
/// # Errors
/// When a program of theirs is missing, or the file cannot be written.
pub(crate) fn kubeadm() -> Result<PathBuf> {
    kubeadm::make(&conformance_cache()?)
}

/// The archives that are there.
fn made() -> Result<Vec<PathBuf>> {
    let suites = conformance_cache()?.join("images");
    let all = [root().join("target/image/bowline.tar"), suites.join("base.tar"), suites.join("tools.tar")];
    let found: Vec<PathBuf> = all.into_iter().filter(|path| path.exists()).collect();
    if found.is_empty() {
        bail!("no image is there: run cargo xtask image, or cargo xtask image suite");
    }
    Ok(found)
}

/// The repository.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Where programs and images of the outside suites are kept, as `conformance/build` says it.
fn conformance_cache() -> Result<PathBuf> {
    let base = match (std::env::var_os("BOWLINE_CACHE"), std::env::var_os("XDG_CACHE_HOME")) {
        (Some(own), _) => PathBuf::from(own),
        (None, Some(user)) => Path::new(&user).join("bowline"),
        (None, None) => {
            let home = std::env::var_os("HOME").context("HOME is not set, so there is no cache; set BOWLINE_CACHE to a directory")?;
            Path::new(&home).join(".cache/bowline")
        }
    };
    Ok(base.join("conformance"))
}
