//! Whom to ask, and as whom: the addresses of the API server and where the credentials come from.
//!
//! Invariant: what was read from a file is read again when the file is another one. Others renew tokens, keys and certificates, in a
//! kubeconfig itself as well as in the files that it names.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use http::Uri;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// The addresses of the API server and the credentials for it.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    /// As it was read last.
    pub(super) config: Config,
    /// The file that it came from; none for a pod's service account.
    pub(super) file: Option<PathBuf>,
    /// The file as it was then.
    pub(super) stamp: Option<Stamp>,
    /// Addresses given beside it, in the order in which they are tried; where there are none, the configuration's own holds.
    given: Vec<Uri>,
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: SystemTime,
    bytes: u64,
    inode: u64,
}

impl Stamp {
    /// The file as it is; none if it is not there.
    pub(super) fn of(path: &Path) -> Option<Stamp> {
        use std::os::unix::fs::MetadataExt;
        let meta = std::fs::metadata(path).ok()?;
        Some(Stamp { modified: meta.modified().ok()?, bytes: meta.len(), inode: meta.ino() })
    }
}

impl Access {
    /// By a configuration that no file stands behind.
    pub(crate) fn new(config: Config) -> Access {
        Access { config, file: None, stamp: None, given: Vec::new() }
    }

    /// By a kubeconfig's current context.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) async fn of_kubeconfig(path: &Path) -> anyhow::Result<Access> {
        // Before it is read: a file that changes meanwhile is read once more.
        let stamp = Stamp::of(path);
        let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &KubeConfigOptions::default()).await?;
        Ok(Access { stamp, file: Some(path.to_owned()), ..Access::new(config) })
    }

    /// The same at other addresses, if any are given.
    #[must_use]
    pub(crate) fn at(mut self, servers: Vec<Uri>) -> Access {
        self.given = servers;
        self
    }

    /// The addresses, in the order in which they are tried. Never empty.
    pub(crate) fn servers(&self) -> &[Uri] {
        if self.given.is_empty() { std::slice::from_ref(&self.config.cluster_url) } else { &self.given }
    }

    /// The configuration for one of the addresses.
    pub(super) fn config_for(&self, number: usize) -> Config {
        let mut config = self.config.clone();
        if let Some(server) = self.servers().get(number) {
            config.cluster_url = server.clone();
        }
        config
    }

    /// The file, if it is another one than was read; one that is not there is not another one.
    pub(super) fn changed(&self) -> Option<&Path> {
        let file = self.file.as_deref()?;
        let now = Stamp::of(file)?;
        (self.stamp.as_ref() != Some(&now)).then_some(file)
    }

    /// Read anew.
    pub(super) async fn again(&self, file: &Path) -> anyhow::Result<Access> {
        Ok(Access::of_kubeconfig(file).await?.at(self.given.clone()))
    }
}
