//! Where a cluster's files are, and where the programs come from.
//!
//! Invariant: everything that a cluster leaves on the machine's disk is in one directory that carries its name.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The cache of programs, images and clusters: the one that `conformance/build` uses.
pub(crate) fn cache() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("BOWLINE_CACHE").unwrap_or_else(|| {
        let base = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
        base.unwrap_or_else(|| PathBuf::from("/root/.cache")).join("bowline")
    })
}

/// The directory of the programs that `conformance/build` makes.
pub(crate) fn programs() -> PathBuf {
    cache().join("conformance/bin")
}

/// The repository.
pub(crate) fn repository() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// The files of one cluster, whether it is up or not.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The cluster's name, which is the lab's too.
    pub(crate) name: String,
    directory: PathBuf,
}

impl Place {
    /// The place of the cluster `name`.
    ///
    /// # Errors
    /// If the name cannot be a directory's and a cgroup's.
    pub(crate) fn of(name: &str) -> Result<Place> {
        let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > 40 || !name.bytes().all(letters) || name.starts_with('-') || name.ends_with('-') {
            bail!("--name {name:?}: use up to 40 small letters, digits and inner hyphens");
        }
        Ok(Place { name: name.to_owned(), directory: cache().join("clusters").join(name) })
    }

    /// Its directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Certificates, keys and kubeconfigs.
    pub(crate) fn pki(&self) -> PathBuf {
        self.directory.join("pki")
    }

    /// What the components say.
    pub(crate) fn logs(&self) -> PathBuf {
        self.directory.join("logs")
    }

    /// A component's log.
    pub(crate) fn log(&self, component: &str) -> PathBuf {
        self.logs().join(format!("{}.log", component.replace('/', "-")))
    }

    /// A node's configuration files.
    pub(crate) fn node(&self, node: &str) -> PathBuf {
        self.directory.join(node)
    }

    /// The administrator's file for kubectl, by which this machine reaches the server.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// The program that relays to the API server.
    pub(crate) fn relay(&self) -> PathBuf {
        self.directory.join("relay")
    }

    /// What kind of cluster this is.
    pub(crate) fn record(&self) -> PathBuf {
        self.directory.join("cluster.json")
    }

    /// Makes the directories.
    pub(crate) fn make(&self) -> Result<()> {
        for directory in [self.pki(), self.logs()] {
            fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn names_that_could_leave_the_directory_are_refused() {
        for bad in ["", "-a", "a-", "a/b", "..", "A", "a b"] {
            assert!(Place::of(bad).is_err(), "{bad:?}");
        }
        assert!(Place::of("cluster").unwrap().kubeconfig().ends_with("clusters/cluster/kubeconfig"));
    }
}
