//! Why a connection passes or not: both ends by name, the way hop by hop, every policy that was asked, and what would let it pass.
//!
//! One node's world is enough for the whole way: what another node decides depends on the same objects, so its part is explained by the
//! world as that node sees it. Each node's part is held against the oracle as it is made.
//!
//! Invariant: pure. What is in a kernel is asked by others, by the [`Hop`]s.

mod check;
mod ends;
pub(crate) mod judge;
mod question;
mod render;
mod told;
mod view;
mod way;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bowline_model::{Dual, Family, NodeName, Problem};

use crate::codes;
use crate::world::World;
#[cfg(test)]
pub(crate) use check::cause_of;
use ends::{Aim, Place};
use view::View;
pub(crate) use view::attach_pods;
use way::Walk;

pub use question::{NameKind, PortAsked, Question, Sent, Whom};
pub(crate) use question::{icmp as read_icmp, port as read_port, whom as read_whom};
pub use render::Paint;
pub use told::{At, Cause, EndTold, Entry, Explanation, Hop, NotAsked, Outcome, Path, PolicyTold, Seen, Step};

/// More paths than these are not explained, but counted.
pub const PATHS_MAX: usize = 100;

/// What people call who is at an address: a pod by namespace and name, a node by its name, else the address.
pub fn who(world: &World, ip: IpAddr) -> String {
    ends::place_at(world, ip).name
}

/// Answers questions about one world.
#[derive(Debug)]
pub struct Explainer {
    pub(crate) world: World,
    mtu_bytes: Option<u32>,
    views: BTreeMap<NodeName, Arc<View>>,
}

impl Explainer {
    /// An explainer of this world. `mtu_bytes` is what fits through the fabric, where that is known.
    pub fn new(world: World, mtu_bytes: Option<u32>) -> Explainer {
        Explainer { world, mtu_bytes, views: BTreeMap::new() }
    }

    /// Explains one connection.
    ///
    /// # Errors
    /// BW4102 to BW4105 where an end, its address or its port is not to be found.
    pub fn explain(&mut self, question: &Question) -> Result<Explanation, Problem> {
        let sources = ends::sources(&self.world, &question.from)?;
        let aim = ends::aim(&self.world, question)?;
        let mut paths = Vec::new();
        let mut strangers = 0;
        for source in &sources {
            match common_family(source, &aim, question.family) {
                Some(family) => paths.extend(self.between(source, &aim, family)),
                None => strangers += 1,
            }
        }
        if paths.is_empty() {
            let what = if strangers > 0 { "the two ends have no address of the same family" } else { "there is nobody who could begin" };
            return Err(Problem::new(
                codes::END_WITHOUT_ADDRESS,
                what,
                "SRC and DST",
                "look at the addresses of both: kubectl get -o wide",
            ));
        }
        let left_out = paths.len().saturating_sub(PATHS_MAX);
        paths.truncate(PATHS_MAX);
        Ok(Explanation::of(aim.sent, paths, left_out))
    }

    fn between(&mut self, source: &Place, aim: &Aim, family: Family) -> Vec<Path> {
        let Some(src) = source.ips.get(family).copied() else { return Vec::new() };
        let targets = aim.at.iter().filter(|(ip, _)| Family::of(ip) == family).copied().collect::<Vec<_>>();
        let mut walk = Walk { explainer: self, source, src, sent: aim.sent, preface: aim.preface.as_deref() };
        targets.into_iter().flat_map(|target| walk.to(target)).collect()
    }

    /// The world as a node sees it, compiled.
    fn view(&mut self, node: &NodeName) -> Arc<View> {
        if let Some(view) = self.views.get(node) {
            return Arc::clone(view);
        }
        let view = Arc::new(View::of(&self.world, node));
        self.views.insert(node.clone(), Arc::clone(&view));
        view
    }
}

fn common_family(source: &Place, aim: &Aim, wanted: Option<Family>) -> Option<Family> {
    let ends = Dual::first_of(aim.at.iter().map(|(ip, _)| *ip));
    let both = |family: &Family| source.ips.get(*family).is_some() && ends.get(*family).is_some();
    Family::BOTH.into_iter().filter(|family| wanted.is_none_or(|wanted| wanted == *family)).find(both)
}
