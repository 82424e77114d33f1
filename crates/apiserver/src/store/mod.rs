//! Every object of the cluster, in memory: numbered writes, a bounded history for watches, admission hooks.
//!
//! Invariant: writers take turns (`gate`), so a hook sees a store that does not change under it; each write has exactly
//! one revision and one event in the history; readers never wait for a hook. Hooks may read the store, not write it.
//! Reference: resource versions, optimistic concurrency and watches in the Kubernetes API concepts.

mod delete;
mod meta;
mod watch;
mod write;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde_json::{Value, json};

pub use self::delete::{DeleteOptions, Deletion, Propagation};
pub use self::watch::{Event, EventKind, Watch};
pub use self::write::{Scope, WriteOptions};

use self::watch::Record;
use crate::error::ApiError;
use crate::kinds::{Catalog, Resource};

/// A resource: API group (`""` for the core one) and plural name, whatever the version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupResource {
    /// API group; empty for the core group.
    pub group: String,
    /// Plural name, lower case.
    pub resource: String,
}

impl GroupResource {
    /// The resource of this group and plural name.
    pub fn new(group: impl Into<String>, resource: impl Into<String>) -> Self {
        Self { group: group.into(), resource: resource.into() }
    }

    /// A resource of the core group.
    pub fn core(resource: impl Into<String>) -> Self {
        Self::new("", resource)
    }

    /// Whether this is that resource.
    #[must_use]
    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.group == group && self.resource == resource
    }
}

impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() { f.write_str(&self.resource) } else { write!(f, "{}.{}", self.resource, self.group) }
    }
}

/// What a list holds, and the revision at which it was true.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Revision of the store when the list was made; a watch from here on misses nothing.
    pub revision: u64,
    /// The objects, by namespace and name.
    pub items: Vec<Arc<Value>>,
}

/// The write that an admission hook is asked about.
#[derive(Clone, Copy, Debug)]
pub enum AdmissionOp<'a> {
    /// A new object.
    Create,
    /// A changed object; not asked for changes of `status` alone.
    Update {
        /// The object as it is now.
        old: &'a Value,
    },
}

/// May change the object before it is stored (defaults, allocation), or refuse it. It may read the store, not write it.
/// With `dryRun` it is called for a write that never happens, so what it allocates must be derived from the store.
pub type AdmissionHook = Box<dyn Fn(&GroupResource, AdmissionOp<'_>, &mut Value) -> Result<(), ApiError> + Send + Sync>;

/// Namespace and name; the namespace is empty for cluster-scoped objects.
type Key = (String, String);

struct State {
    revision: u64,
    objects: BTreeMap<GroupResource, BTreeMap<Key, Arc<Value>>>,
    history: VecDeque<Arc<Record>>,
    catalog: Arc<Catalog>,
}

struct Inner {
    gate: Mutex<()>,
    state: RwLock<State>,
    hooks: RwLock<Vec<AdmissionHook>>,
    revision: tokio::sync::watch::Sender<u64>,
    history_limit: usize,
}

/// The objects of the cluster. Cheap to clone; clones are the same store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("revision", &self.revision()).finish_non_exhaustive()
    }
}

/// Namespaces that every cluster has.
const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

impl Store {
    /// A store that holds the four standard namespaces, with a history of 20,000 events.
    #[must_use]
    pub fn new() -> Self {
        Self::with_history(20_000)
    }

    /// A store whose history holds this many events; a watch from before them is answered with 410.
    #[must_use]
    pub fn with_history(limit: usize) -> Self {
        let state = State { revision: 0, objects: BTreeMap::new(), history: VecDeque::new(), catalog: Arc::new(Catalog::built_in()) };
        let store = Self {
            inner: Arc::new(Inner {
                gate: Mutex::new(()),
                state: RwLock::new(state),
                hooks: RwLock::new(Vec::new()),
                revision: tokio::sync::watch::Sender::new(0),
                history_limit: limit.max(1),
            }),
        };
        for name in NAMESPACES {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            if let Err(error) = store.create(&GroupResource::core("namespaces"), None, namespace) {
                tracing::error!(name, %error, "standard namespace not made");
            }
        }
        store
    }

    /// Adds a hook that is called, after those added before it, for each create and update.
    pub fn add_admission(&self, hook: AdmissionHook) {
        self.inner.hooks.write().unwrap_or_else(PoisonError::into_inner).push(hook);
    }

    /// The served kinds at this moment.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.read().catalog)
    }

    /// The newest revision.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.read().revision
    }

    /// The newest revision as a value to wait on: it changes with each write.
    #[must_use]
    pub fn revisions(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.revision.subscribe()
    }

    /// One object.
    ///
    /// # Errors
    /// [`ApiError::NotFound`].
    pub fn get(&self, gr: &GroupResource, ns: Option<&str>, name: &str) -> Result<Arc<Value>, ApiError> {
        self.read().find(gr, ns, name)
    }

    /// The objects of a namespace, or of all with `None`. Nothing for an unknown resource.
    #[must_use]
    pub fn list(&self, gr: &GroupResource, ns: Option<&str>) -> Listing {
        let state = self.read();
        Listing { revision: state.revision, items: state.matching(gr, ns).cloned().collect() }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.inner.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_state(&self) -> RwLockWriteGuard<'_, State> {
        self.inner.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_turn(&self) -> MutexGuard<'_, ()> {
        self.inner.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resource(&self, gr: &GroupResource) -> Result<Arc<Resource>, ApiError> {
        self.read().catalog.find(gr).cloned().ok_or(ApiError::NoSuchPath)
    }

    fn admit(&self, gr: &GroupResource, op: AdmissionOp<'_>, object: &mut Value) -> Result<(), ApiError> {
        let hooks = self.inner.hooks.read().unwrap_or_else(PoisonError::into_inner);
        hooks.iter().try_for_each(|hook| hook(gr, op, object))
    }
}

impl State {
    fn find(&self, gr: &GroupResource, ns: Option<&str>, name: &str) -> Result<Arc<Value>, ApiError> {
        let key = (ns.unwrap_or_default().to_owned(), name.to_owned());
        let found = self.objects.get(gr).and_then(|all| all.get(&key)).cloned();
        found.ok_or_else(|| ApiError::NotFound { resource: gr.clone(), name: name.to_owned() })
    }

    fn matching<'a>(&'a self, gr: &GroupResource, ns: Option<&'a str>) -> impl Iterator<Item = &'a Arc<Value>> {
        let all = self.objects.get(gr).into_iter().flatten();
        all.filter(move |((namespace, _), _)| ns.is_none_or(|wanted| wanted == namespace)).map(|(_, object)| object)
    }
}

#[cfg(test)]
mod tests;
