//! The matrix, and what a step says of each of its cells.

use bowline_model::Family;

use super::{Cast, Cell, Port, PortPattern, Row, Scene, TablePod, Truth};

impl Truth<'_> {
    /// Every cell, and whether it passes.
    pub fn cells<'s>(&'s self, cast: &'s Cast) -> Vec<(Cell<'s>, bool)> {
        let scene = &self.scene;
        let title = &self.step.title;
        let first = self.step.rows.first().unwrap_or_else(|| panic!("{title}: what is true then?"));
        assert!(first.text.starts_with("all "), "{title}: what passes where no row says otherwise?");
        let mut cells: Vec<(Cell<'_>, bool)> = scene.matrix(cast).into_iter().map(|cell| (cell, self.step.all)).collect();
        for row in self.step.rows.iter().skip(1) {
            row.check(scene, cast);
            let mut news = false;
            for (_, passes) in cells.iter_mut().filter(|(cell, _)| !scene.is_always_open(cell) && row.means(scene, cell)) {
                news |= *passes != row.passes;
                *passes = row.passes;
            }
            assert!(news, "{title}: `{}` says nothing new", row.text);
        }
        let open = |(cell, passes)| (cell, passes || scene.is_always_open(&cell));
        cells.into_iter().map(open).collect()
    }
}

impl Scene {
    /// Everybody to everybody, where one of the two is a pod.
    fn matrix<'s>(&'s self, cast: &'s Cast) -> Vec<Cell<'s>> {
        let pods = || self.pods.keys().map(String::as_str);
        let others = || cast.nodes.iter().map(String::as_str).chain(["out"]);
        let mut cells = Vec::new();
        for from in pods().chain(others()) {
            let receivers = pods().chain(others().filter(|_| self.pods.contains_key(from)));
            for to in receivers {
                let of = |port: Option<Port>| Family::BOTH.map(|family| Cell { from, to, port, family });
                cells.extend(cast.ports.iter().copied().map(Some).chain([None]).flat_map(of));
            }
        }
        cells
    }

    /// A pod reaches itself, and its own node reaches it, whatever policies say.
    fn is_always_open(&self, cell: &Cell<'_>) -> bool {
        cell.from == cell.to || self.pods.get(cell.to).is_some_and(|pod| pod.node == cell.from)
    }
}

impl Row {
    fn means(&self, scene: &Scene, cell: &Cell<'_>) -> bool {
        self.family.is_none_or(|family| family == cell.family)
            && self.from.iter().any(|pattern| is_meant(pattern, scene, cell.from))
            && self.to.iter().any(|pattern| is_meant(pattern, scene, cell.to))
            && (self.ports.is_empty() || self.ports.iter().any(|port| port.means(cell.port)))
    }

    /// Every pattern means somebody.
    fn check(&self, scene: &Scene, cast: &Cast) {
        let everybody = || scene.pods.keys().chain(&cast.nodes).map(String::as_str).chain(["out"]);
        for pattern in self.from.iter().chain(&self.to) {
            assert!(everybody().any(|name| is_meant(pattern, scene, name)), "`{}`: who is {pattern}?", self.text);
        }
        for port in &self.ports {
            let mut known = cast.ports.iter().copied().map(Some).chain([None]);
            assert!(known.any(|known| port.means(known)), "`{}`: nobody serves {port:?}", self.text);
        }
    }
}

impl PortPattern {
    fn means(&self, port: Option<Port>) -> bool {
        match (self, port) {
            (PortPattern::Port { number, protocol }, Some(port)) => {
                number.is_none_or(|number| number == port.number) && protocol.is_none_or(|protocol| protocol == port.protocol)
            }
            (PortPattern::Ping, None) => true,
            (PortPattern::Ping, Some(_)) | (PortPattern::Port { .. }, None) => false,
        }
    }
}

fn is_meant(pattern: &str, scene: &Scene, name: &str) -> bool {
    let pod: Option<&TablePod> = scene.pods.get(name);
    match pattern {
        "*" => true,
        "pods" => pod.is_some(),
        "nodes" => pod.is_none() && name != "out",
        _ if pattern.starts_with('@') => pod.is_some_and(|pod| pod.node == pattern[1..]),
        _ => match (pattern.split_once('/'), name.split_once('/')) {
            (Some((space, short)), Some((of, own))) => (space == "*" || space == of) && (short == "*" || short == own),
            _ => pattern == name,
        },
    }
}
