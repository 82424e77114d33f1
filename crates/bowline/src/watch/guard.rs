//! What policies are made of is treated with more care than the rest: without it, everything is allowed.
//!
//! Two things are kept of each such kind. Whether it is heard at this moment: a pod that is newer than what a watch that broke has told
//! may have policies that are not known yet, so its ADD waits. And, over restarts, whether there were objects of a kind that a server may
//! lack: then an answer that there is no such kind, or none for us, is not believed of a server that has just come up (its authorizer and
//! its definitions come after its port).

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bowline_compile::world::Kind;
use tokio::sync::watch;

use super::watched::{ClusterNetworkPolicy, Namespace, NetworkPolicy, Pod, Watchable};

/// Kinds of which policies are made and that are not heard at this moment.
pub(crate) type Unheard = BTreeSet<Kind>;

/// Directory of the marks, in the state directory.
const DIRECTORY: &str = "kinds";

/// What is kept of all kinds.
#[derive(Clone)]
pub(crate) struct Guards {
    unheard: Arc<watch::Sender<Unheard>>,
    directory: Option<PathBuf>,
}

impl Guards {
    /// Nothing is heard yet. Without a state directory nothing is remembered.
    pub(crate) fn new(state_dir: Option<&Path>) -> Guards {
        let kinds = [Pod::KIND, Namespace::KIND, NetworkPolicy::KIND, ClusterNetworkPolicy::KIND];
        Guards { unheard: Arc::new(watch::Sender::new(BTreeSet::from(kinds))), directory: state_dir.map(|dir| dir.join(DIRECTORY)) }
    }

    /// Tells what is not heard.
    pub(crate) fn unheard(&self) -> watch::Receiver<Unheard> {
        self.unheard.subscribe()
    }

    /// A kind is heard, or not any more.
    pub(super) fn hear<T: Watchable>(&self, heard: bool) {
        if T::GUARDS {
            self.unheard.send_if_modified(|unheard| if heard { unheard.remove(&T::KIND) } else { unheard.insert(T::KIND) });
        }
    }

    /// Whether there were objects of the kind when the server was last believed.
    pub(super) fn were_there<T: Watchable>(&self) -> bool {
        // What cannot be read is no reason to believe that there was nothing.
        self.mark::<T>().is_some_and(|path| !path.try_exists().is_ok_and(|there| !there))
    }

    /// Writes down whether there are objects of the kind.
    pub(super) fn are_there<T: Watchable>(&self, there: bool) {
        let Some(path) = self.mark::<T>() else { return };
        let done = match (there, path.exists()) {
            (true, false) => self.make(&path),
            (false, true) => std::fs::remove_file(&path),
            (true, true) | (false, false) => return,
        };
        if let Err(error) = done {
            tracing::warn!(%error, path = %path.display(), "cannot write down whether there are objects of a kind");
        }
    }

    fn make(&self, path: &Path) -> io::Result<()> {
        self.directory.iter().try_for_each(std::fs::create_dir_all)?;
        std::fs::write(path, "")
    }

    /// Where it is written of a kind that a server may lack and that guards.
    fn mark<T: Watchable>(&self) -> Option<PathBuf> {
        self.directory.as_ref().filter(|_| T::GUARDS && T::OPTIONAL).map(|directory| directory.join(T::PLURAL))
    }
}
