//! The worlds of all nodes as they follow a table's steps, each with a compiler that follows the changes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bowline_model::intent::Intent;
use bowline_model::{Family, NodeName, Problem};
use serde_json::Value;

use super::{Cast, Cell, Objects, Places, Scene, plain};
use crate::oracle::policy::End;
use crate::testing::notation;
use crate::world::{Change, Kind, ObjectKey, Settings, Touched, World};
use crate::{Compiler, Flow};

/// A node's world, and what was compiled of it by following its changes.
#[derive(Debug)]
pub struct Follower {
    /// The world as the node's agent knows it.
    pub world: World,
    /// What was compiled at last.
    pub intent: Intent,
    /// What was wrong then.
    pub problems: Vec<Problem>,
    compiler: Compiler,
}

/// All nodes.
#[derive(Debug)]
pub struct Worlds<'c> {
    /// The nodes by name.
    pub nodes: BTreeMap<String, Follower>,
    /// What is there.
    pub scene: Scene,
    cast: &'c Cast,
    objects: Objects,
}

impl<'c> Worlds<'c> {
    /// Nodes alone: nobody is there yet.
    pub fn new(cast: &'c Cast) -> Worlds<'c> {
        let follower = |node: &String| {
            let mut world = World::new(Settings { node_name: NodeName::from(node.as_str()), ..notation::settings() });
            for kind in Kind::ALL {
                world.apply(Change::Synced(kind));
            }
            let (mut compiler, mut touched) = (Compiler::new(), Touched::default());
            let places = plain(|_| None);
            for name in &cast.nodes {
                let of = |name: &str| Family::BOTH.map(|family| places.network(name, family));
                let [addresses, pods] =
                    [of(name).map(|net| net.addr().to_string()), of(&format!("{name}.pods")).map(|net| format!("cidr={net}"))];
                let line = format!("node {name} {} {} kubernetes.io/hostname={name}", addresses.join(" "), pods.join(" "));
                for change in notation::changes(&line) {
                    touched.merge(world.apply(change).value);
                }
            }
            let compiled = compiler.turn(&world, &touched);
            (node.clone(), Follower { world, intent: compiled.value, problems: compiled.problems, compiler })
        };
        let nodes = cast.nodes.iter().map(follower).collect();
        Worlds { nodes, scene: Scene::default(), cast, objects: Objects::new() }
    }

    /// Everything becomes as it is in `scene`, in one turn of each node.
    pub fn go(&mut self, scene: &Scene) {
        let places = places(scene);
        let mut objects = scene.objects(self.cast, &places);
        for ((_, name), pod) in objects.iter_mut().filter(|((kind, _), _)| *kind == Kind::Pod) {
            pod["status"] = Scene::status(name, &places);
        }
        for node in &self.cast.nodes {
            let changes = self.changes(node, scene, &objects);
            let follower = self.nodes.get_mut(node).unwrap();
            let mut touched = Touched::default();
            for change in changes {
                touched.merge(follower.world.apply(change).value);
            }
            let compiled = follower.compiler.turn(&follower.world, &touched);
            (follower.intent, follower.problems) = (compiled.value, compiled.problems);
        }
        (self.scene, self.objects) = (scene.clone(), objects);
    }

    /// What a node's agent hears on the way from what is there to `scene`.
    fn changes(&self, node: &str, scene: &Scene, objects: &Objects) -> Vec<Change> {
        let mut changes = Vec::new();
        for (name, _) in
            self.scene.pods.iter().filter(|(name, pod)| pod.node == node && scene.pods.get(*name).is_none_or(|new| new.node != node))
        {
            changes.push(Change::Detached(notation::ifname(name)));
        }
        for (kind, name) in self.objects.keys().filter(|key| !objects.contains_key(*key)) {
            changes.push(Change::Delete(key(*kind, name)));
        }
        let differs = |key: &(Kind, String), object: &Value| self.objects.get(key) != Some(object);
        changes.extend(
            objects.iter().filter(|(key, object)| differs(key, object)).map(|((kind, _), json)| notation::upsert(*kind, json.clone())),
        );
        let places = places(scene);
        for (name, _) in
            scene.pods.iter().filter(|(name, pod)| pod.node == node && self.scene.pods.get(*name).is_none_or(|old| old.node != node))
        {
            let ips = Family::BOTH.map(|family| places.network(name, family).addr().to_string());
            changes.push(notation::attach(name, &ips.each_ref().map(String::as_str), None));
        }
        changes
    }

    /// Somebody's address.
    pub fn address(&self, name: &str, family: Family) -> IpAddr {
        places(&self.scene).network(name, family).addr()
    }

    /// The nodes on which a cell's packet is judged, in its order.
    pub fn way(&self, cell: &Cell<'_>) -> Vec<&Follower> {
        let mut names: Vec<&str> =
            [cell.from, cell.to].iter().filter_map(|end| self.scene.pods.get(*end)).map(|pod| pod.node.as_str()).collect();
        names.dedup();
        names.into_iter().map(|name| &self.nodes[name]).collect()
    }

    /// A cell's first packet as a node sees it: its source for the oracle, and the whole.
    pub fn flow(&self, cell: &Cell<'_>, at: &Follower) -> (End, Flow) {
        let (src, dst) = (self.address(cell.from, cell.family), self.address(cell.to, cell.family));
        let own = at.world.settings().node_name.to_string() == cell.from;
        let mut flow = Flow::between(src, dst, cell.protocol(), cell.dst_port());
        flow.from_own_node = own;
        (if own { End::OwnNode(src) } else { End::Address(src) }, flow)
    }
}

/// Everybody's address in a scene.
fn places(scene: &Scene) -> impl Places + use<> {
    let nodes: BTreeMap<String, String> = scene.pods.iter().map(|(name, pod)| (name.clone(), pod.node.clone())).collect();
    plain(move |pod| nodes.get(pod).cloned())
}

fn key(kind: Kind, name: &str) -> ObjectKey {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    ObjectKey::new(kind, namespace, name)
}
