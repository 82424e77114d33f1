//! The one owner of the world.
//!
//! Drains every change that is ready, folds them, and compiles once. Until every input has been listed once nothing is published, so that
//! nobody downstream can mistake "not yet known" for "gone".

use std::collections::BTreeSet;
use std::sync::Arc;

use bowline_compile::Compiler;
use bowline_compile::world::{Change, Claims, Settings, Touched, World};
use bowline_kubeproxy::Changes;
use bowline_model::Problem;
use bowline_model::intent::Intent;
use bowline_model::intent::dns::DnsIntent;
use tokio::sync::{mpsc, oneshot, watch};

use super::explain::Known;
use super::ledger::{self, Ledger};

/// Changes that may wait before the sender has to.
pub(crate) const CHANNEL_CHANGES: usize = 4096;

/// What the turn publishes after each compile.
#[derive(Debug, Clone, Default)]
pub(crate) struct Published {
    /// The intent; its revision grows by one a turn, 0 before the first.
    pub(crate) intent: Arc<Intent>,
    /// What of the input was wrong.
    pub(crate) problems: Arc<Vec<Problem>>,
    /// Every input has been listed once.
    pub(crate) synced: bool,
    /// This node is known and is not about to be taken away.
    pub(crate) node_stays: bool,
    /// Attachments, by host interface name, whose pod the API server does not know (any more).
    pub(crate) orphans: Arc<BTreeSet<Arc<str>>>,
    /// Which pods have which addresses in the eyes of other nodes.
    pub(crate) claims: Claims,
    /// Counts for `bowline status`.
    pub(crate) counts: Counts,
}

/// How much the world holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Counts {
    /// Nodes.
    pub(crate) nodes: usize,
    /// Services, those of all kinds.
    pub(crate) services: usize,
    /// Network policies, those of the whole cluster among them.
    pub(crate) policies: usize,
    /// Pods in the cluster.
    pub(crate) pods: usize,
    /// Namespaces.
    #[serde(default)]
    pub(crate) namespaces: usize,
}

/// The turn: its world, and what it hears and says.
pub(crate) struct Turn {
    world: World,
    compiler: Compiler,
    revision: u64,
    changes: mpsc::Receiver<Change>,
    /// Those who want to look at the world.
    onlookers: mpsc::Receiver<oneshot::Sender<Known>>,
    published: watch::Sender<Published>,
    names: watch::Sender<Option<Arc<DnsIntent>>>,
    heard: Changes,
    ledger: Arc<Ledger>,
}

impl Turn {
    /// A turn that has heard nothing yet.
    pub(crate) fn new(
        settings: Settings,
        changes: mpsc::Receiver<Change>,
        onlookers: mpsc::Receiver<oneshot::Sender<Known>>,
        published: watch::Sender<Published>,
        names: watch::Sender<Option<Arc<DnsIntent>>>,
        ledger: Arc<Ledger>,
    ) -> Self {
        let (world, compiler, heard) = (World::new(settings), Compiler::default(), Changes::default());
        Turn { world, compiler, revision: 0, changes, onlookers, published, names, heard, ledger }
    }

    /// Folds and compiles until every sender is gone.
    pub(crate) async fn run(mut self) {
        let mut ready = Vec::new();
        let mut touched = Touched::default();
        loop {
            let heard = tokio::select! {
                heard = self.changes.recv_many(&mut ready, CHANNEL_CHANGES) => heard,
                Some(onlooker) = self.onlookers.recv() => {
                    let known = self.world.is_synced().then(|| (self.world.clone(), self.revision));
                    // Whoever asked may be gone.
                    let _ = onlooker.send(known);
                    continue;
                }
            };
            if heard == 0 {
                return;
            }
            for change in ready.drain(..) {
                ledger::count(&change, &mut self.heard);
                touched.merge(self.world.apply(change).value);
            }
            if self.world.is_synced() {
                self.publish(&std::mem::take(&mut touched));
            }
        }
    }

    fn publish(&mut self, touched: &Touched) {
        let mut compiled = self.compiler.turn(&self.world, touched);
        self.revision += 1;
        compiled.value.revision = self.revision;
        let intent = Arc::new(compiled.value);
        tracing::debug!(revision = self.revision, problems = compiled.problems.len(), "compiled");
        self.names.send_if_modified(|held| {
            let changed = held.as_ref().is_none_or(|names| !Arc::ptr_eq(names, &intent.dns) && **names != *intent.dns);
            if changed {
                *held = Some(intent.dns.clone());
            }
            changed
        });
        let orphaned = self.world.attached().values().filter(|a| a.intent.pod.is_some() && self.world.pod_of(a).is_none());
        let orphans = Arc::new(orphaned.map(|a| a.host_ifname().clone()).collect());
        self.ledger.heard(self.revision, std::mem::take(&mut self.heard));
        self.published.send_replace(Published {
            node_stays: self.world.node_stays(),
            orphans,
            claims: self.world.claims(),
            intent,
            problems: Arc::new(compiled.problems),
            synced: true,
            counts: Counts {
                nodes: self.world.nodes().len(),
                services: self.world.services().len(),
                policies: self.world.policies().len() + self.world.cluster_policies().len(),
                pods: self.world.pods().len(),
                namespaces: self.world.namespaces().len(),
            },
        });
    }
}
