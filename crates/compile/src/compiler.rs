//! Keeps an intent up to date with the world; what a change did not touch is not looked at.

use std::sync::Arc;

use bowline_model::intent::Intent;
use bowline_model::{Checked, Problem};

use crate::world::{Touched, World};
use crate::{dns, policy, routes, services};

/// The last intent, and what it was made from.
#[derive(Debug, Default)]
pub struct Compiler {
    started: bool,
    last: Intent,
    services: services::State,
    policy: policy::State,
    dns: dns::State,
    route_problems: Vec<Problem>,
}

impl Compiler {
    /// A compiler that has seen nothing; its first turn compiles everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Compiles what was touched since the last turn. The problems given are all that the world has now.
    pub fn turn(&mut self, world: &World, touched: &Touched) -> Checked<Intent> {
        let everything = Touched::everything();
        let touched = if self.started { touched } else { &everything };
        self.started = true;
        self.last.revision += 1;
        self.pods(world, touched);
        if touched.all || !touched.nodes.is_empty() {
            let old = &self.last.routes;
            let routes = routes::compile(world, old).into_value({
                self.route_problems.clear();
                &mut self.route_problems
            });
            if routes != **old {
                self.last.routes = Arc::new(routes);
            }
        }
        if self.services.turn(world, touched) {
            self.last.services = Arc::new(self.services.intent());
        }
        if self.policy.turn(world, touched) {
            self.last.policy = Arc::new(self.policy.intent());
        }
        if self.dns.turn(world, touched) {
            self.last.dns = Arc::new(self.dns.intent());
        }
        Checked { value: self.last.clone(), problems: self.problems(world) }
    }

    /// Compiles the whole world from nothing.
    pub fn full(world: &World) -> Checked<Intent> {
        Compiler::new().turn(world, &Touched::everything())
    }

    fn pods(&mut self, world: &World, touched: &Touched) {
        let mut intent = (*self.last.pods).clone();
        let mut changed = false;
        let gone = |ifname: &&Arc<str>| !world.attached().contains_key(&**ifname);
        let candidates: Vec<Arc<str>> = match touched.all {
            true => world.attached().keys().chain(intent.pods.keys().filter(gone)).cloned().collect(),
            false => touched.attached.iter().cloned().collect(),
        };
        for ifname in candidates {
            let new = world.attached().get(&ifname).map(|attached| &attached.intent);
            if new == intent.pods.get(&ifname).map(|old| &**old) {
                continue;
            }
            changed = true;
            match new {
                Some(new) => intent.pods.insert(ifname, Arc::new(new.clone())),
                None => intent.pods.remove(&ifname),
            };
        }
        if changed {
            self.last.pods = Arc::new(intent);
        }
    }

    fn problems(&self, world: &World) -> Vec<Problem> {
        let all = world.problems().chain(&self.route_problems);
        let mut all: Vec<Problem> =
            all.chain(self.services.problems()).chain(self.policy.problems()).chain(self.dns.problems()).cloned().collect();
        all.sort();
        all.dedup();
        all
    }
}
