//! Truth tables of policies as data: cases, each a few policies and who reaches whom then, cell by cell of a whole matrix.
//!
//! The cast, `cast.policies`, is the same for all themes:
//!
//! ```text
//! ports 8080/tcp 8081/tcp 5353/udp                  what everybody serves
//! node n1
//! ns x ns=x team=red                                a namespace and its labels
//! pod x/a @n1 pod=a tier=front web=8080/tcp         its node, labels, and names of its ports
//! ```
//!
//! A theme is a file of cases:
//!
//! ```text
//! case an empty selector means every pod of the namespace, and no other
//!   policy x/p {podSelector: {}, ingress: [{from: [{podSelector: pod=a}]}]}
//!   all pass
//!   * -> x/* drop
//!   x/a -> x/*:8080/tcp pass
//! then the pod that was let in is another
//!   label x/a pod=z
//!   all pass
//!   * -> x/* drop
//! ```
//!
//! Each step has actions, and then what is true afterwards: `all pass` or `all drop`, and rows that say otherwise, the later over the earlier.
//! A step that changes nothing, or a row that says nothing new, is a mistake.
//!
//! | action | what it does |
//! |---|---|
//! | `policy NAMESPACE/NAME SPEC` | makes a policy or changes it; the line goes on in deeper lines as long as brackets are open |
//! | `admin NAME PRIORITY SPEC` | makes a ClusterNetworkPolicy of that tier or changes it; `baseline` likewise |
//! | `label WHOM KEY=VALUE KEY-` | sets and takes away labels of a pod or a namespace |
//! | `pod x/d @n1 KEY=VALUE` | a pod that is not of the cast; `pod x/d` again gives it other labels |
//! | `gone WHOM` | a policy or such a pod is deleted |
//!
//! A spec is the API's own, with two shortenings. A selector may be words: `pod=a & tier in front|back & team notin red & key & not key`
//! stands for the same as `matchLabels` (with `=`) and `matchExpressions`. A block may be a name: `cidr: $x/a` becomes a peer for each family,
//! `4$x/a` for one. Names are the pods, nodes and `out`, `n1.pods` (the addresses for pods on n1), `pods` (of all nodes) and `all`.
//!
//! A ClusterNetworkPolicy's spec is shortened further. Tier and priority are before it, a rule is `{Deny: [PEERS], protocols: [8080/tcp,
//! 8080-8081/udp, web]}`, selectors of namespaces and nodes may be words, those of pods too (`pods: ns=x / pod=a`, of all namespaces without the
//! first), and networks names:
//!
//! ```text
//!   admin guard 10 {subject: {namespaces: ns=x}, egress: [{Accept: [{nodes: {}}, {networks: [$out]}], protocols: [8080/tcp]}]}
//! ```
//!
//! A row is `SENDERS -> RECEIVERS:PORTS pass`, or `drop`; lists by commas. Ends are `x/a`, `x/*`, `*/a`, `n1`, `@n1` (pods on n1), `pods`,
//! `nodes`, `out` and `*`; ports `8080/tcp`, `8080`, `tcp` or `icmp` (a ping), all if none is named. `4: ` or `6: ` before it is one family.
//!
//! The matrix ([`Case::truths`]) is every pod, node and the host outside to each of them, by every port, a ping and family, where one end is a
//! pod. Two things are true under whatever policy and are no row's affair: a pod reaches itself, and a node reaches its own pods.

mod cells;
mod places;
mod read;
mod scene;
mod tiers;
mod worlds;

use std::collections::BTreeMap;

use bowline_model::{Family, Protocol};
use serde_json::Value;

pub use places::{Places, plain};
pub use scene::{Objects, Scene};
pub use worlds::{Follower, Worlds};

/// Who is there.
pub const CAST: &str = include_str!("cast.policies");

/// The themes.
pub const THEMES: &[(&str, &str)] = &[
    ("targets", include_str!("targets.policies")),
    ("directions", include_str!("directions.policies")),
    ("rules", include_str!("rules.policies")),
    ("peers", include_str!("peers.policies")),
    ("blocks", include_str!("blocks.policies")),
    ("ports", include_str!("ports.policies")),
    ("sums", include_str!("sums.policies")),
    ("conflicts", include_str!("conflicts.policies")),
    ("paths", include_str!("paths.policies")),
    ("tiers", include_str!("tiers.policies")),
    ("changes", include_str!("changes.policies")),
    ("examples", include_str!("examples.policies")),
];

/// Labels by key.
pub type Labels = BTreeMap<String, String>;

/// A port that everybody serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablePod {
    /// Its node.
    pub node: String,
    /// Its labels.
    pub labels: Labels,
    /// Its ports that have names.
    pub names: Vec<(String, Port)>,
}

/// Who is there before anything happens.
#[derive(Debug, Clone)]
pub struct Cast {
    /// Ports that everybody serves.
    pub ports: Vec<Port>,
    /// Nodes.
    pub nodes: Vec<String>,
    /// Namespaces and pods.
    pub scene: Scene,
}

/// A theme's cases.
#[derive(Debug, Clone)]
pub struct Theme {
    /// Its name.
    pub name: String,
    /// Its cases, in order.
    pub cases: Vec<Case>,
}

/// Policies and what is true then.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it shows.
    pub title: String,
    /// One after the other.
    pub steps: Vec<Step>,
}

/// Something happens, and then something is true.
#[derive(Debug, Clone)]
pub struct Step {
    /// What happens, in words; of the first step, the case's title.
    pub title: String,
    /// What is done.
    pub actions: Vec<Action>,
    /// What passes where no row says otherwise.
    all: bool,
    /// What else is true.
    rows: Vec<Row>,
}

/// Something that is done.
#[derive(Debug, Clone)]
pub enum Action {
    /// A policy is as its spec says.
    Policy(String, Value),
    /// A ClusterNetworkPolicy is as its spec says.
    ClusterPolicy(String, Value),
    /// A pod or a namespace has other labels; those without a value are taken away.
    Label(String, Vec<(String, Option<String>)>),
    /// A pod that is not of the cast is there.
    Pod(String, TablePod),
    /// A policy or such a pod is gone.
    Gone(String),
}

#[derive(Debug, Clone)]
struct Row {
    text: String,
    family: Option<Family>,
    from: Vec<String>,
    to: Vec<String>,
    ports: Vec<PortPattern>,
    passes: bool,
}

#[derive(Debug, Clone, Copy)]
enum PortPattern {
    Port { number: Option<u16>, protocol: Option<Protocol> },
    Ping,
}

/// One connection of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell<'s> {
    /// Who begins it: a pod `x/a`, a node, or `out`.
    pub from: &'s str,
    /// To whom.
    pub to: &'s str,
    /// To which port; a ping has none.
    pub port: Option<Port>,
    /// By which family.
    pub family: Family,
}

/// A step in the order in which things happen: what is there then, and what is true.
#[derive(Debug)]
pub struct Truth<'t> {
    /// The step.
    pub step: &'t Step,
    /// Pods, namespaces and policies.
    pub scene: Scene,
}

impl std::fmt::Display for Cell<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let port = match self.port {
            Some(Port { number, protocol }) => format!("{number}/{}", protocol.to_string().to_lowercase()),
            None => "icmp".to_owned(),
        };
        write!(f, "{} -> {}:{port} {}", self.from, self.to, self.family)
    }
}

impl Cell<'_> {
    /// The number of its protocol (IANA).
    pub fn protocol(&self) -> u8 {
        match (self.port, self.family) {
            (Some(port), _) => port.protocol.number(),
            (None, Family::V4) => 1,
            (None, Family::V6) => 58,
        }
    }

    /// The number of its port.
    pub fn dst_port(&self) -> Option<u16> {
        self.port.map(|port| port.number)
    }
}

/// What a step came to.
#[derive(Debug)]
pub struct Found {
    /// The step, in words.
    pub title: String,
    /// How many cells were asked.
    pub cells: usize,
    /// What is wrong with some.
    pub wrong: Vec<String>,
}

/// How many cells there are at least.
const CELLS: usize = 640_000;

/// How many wrong cells of a step are told.
const TOLD: usize = 3;

/// Takes all themes through `judge`, each on a thread of its own. What is wrong ends the test, and so does a table that is not there.
pub fn hold(judge: impl Fn(&Cast, &Theme) -> Vec<Found> + Sync) {
    let (cast, themes) = (Cast::read(CAST), themes());
    let found: Vec<Found> = std::thread::scope(|scope| {
        let judges: Vec<_> = themes.iter().map(|theme| scope.spawn(|| judge(&cast, theme))).collect();
        judges.into_iter().flat_map(|judge| judge.join().unwrap()).collect()
    });
    let cells: usize = found.iter().map(|step| step.cells).sum();
    let wrong: usize = found.iter().map(|step| step.wrong.len()).sum();
    let told = found.iter().filter(|step| !step.wrong.is_empty()).map(|step| {
        let first: Vec<&str> = step.wrong.iter().take(TOLD).map(String::as_str).collect();
        format!("{}: {} of {} cells\n  {}", step.title, step.wrong.len(), step.cells, first.join("\n  "))
    });
    assert!(wrong == 0, "{wrong} of {cells} cells\n{}", told.collect::<Vec<_>>().join("\n"));
    assert!(cells >= CELLS, "only {cells} cells");
}

/// All themes, read.
pub fn themes() -> Vec<Theme> {
    THEMES.iter().map(|(name, text)| Theme::read(name, text)).collect()
}

impl Case {
    /// Its steps with what is there after each, begun with the cast.
    pub fn truths<'t>(&'t self, cast: &Cast) -> Vec<Truth<'t>> {
        let mut scene = cast.scene.clone();
        let after = |step: &'t Step| {
            let before = scene.clone();
            step.actions.iter().for_each(|action| scene.take(action, cast));
            assert!(scene != before, "{}: nothing happens", step.title);
            Truth { step, scene: scene.clone() }
        };
        self.steps.iter().map(after).collect()
    }
}
