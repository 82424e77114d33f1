//! Random objects in the notation, made from bytes, so that a failing case shrinks by itself.

/// A supply of decisions; exhausted, it always decides for the first.
pub struct Dice<'a> {
    bytes: std::slice::Iter<'a, u8>,
}

impl<'a> Dice<'a> {
    /// Decisions by these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Dice { bytes: bytes.iter() }
    }

    /// Whether there is more to decide by.
    pub fn is_spent(&self) -> bool {
        self.bytes.len() == 0
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::from(self.bytes.next().copied().unwrap_or_default()) % limit
    }

    /// One of them.
    pub fn pick<'t>(&mut self, options: &[&'t str]) -> &'t str {
        options[self.below(options.len())]
    }

    /// True once in `n`.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    /// At most `most` items.
    pub fn list(&mut self, most: usize, mut item: impl FnMut(&mut Self) -> String) -> String {
        let items: Vec<String> = (0..self.below(most + 1)).map(|_| item(self)).collect();
        items.join(", ")
    }
}

const NAMESPACES: [&str; 3] = ["na", "nb", "nc"];
const PODS: [&str; 8] = ["na/p", "na/q", "na/r", "nb/p", "nb/q", "nb/r", "nc/p", "nc/q"];
const CLUSTER_POLICIES: [&str; 5] = ["u", "v", "w", "x", "y"];
const SERVICES: [&str; 4] = ["na/s", "na/t", "nb/s", "nc/s"];

/// An object or its end.
pub fn line(dice: &mut Dice<'_>) -> String {
    match dice.below(27) {
        0 | 1 => format!("ns {} team={}", dice.pick(&NAMESPACES), dice.pick(&["red", "blue"])),
        2..=6 => pod(dice),
        7 | 8 => attach(dice),
        9..=12 => policy(dice),
        13 | 14 => service(dice),
        15..=17 => slice(dice),
        18 | 19 => node(dice),
        20 => format!("detach {}", dice.pick(&PODS)),
        21 => format!("del Pod {}", dice.pick(&PODS)),
        22 => format!("del NetworkPolicy {}/{}", dice.pick(&NAMESPACES), dice.pick(&["k", "l"])),
        23 | 24 => cluster_policy(dice),
        25 => format!("del ClusterNetworkPolicy {}", dice.pick(&CLUSTER_POLICIES)),
        _ => match dice.below(6) {
            0 => format!("del Service {}", dice.pick(&SERVICES)),
            1 => format!("del EndpointSlice {}-{}", dice.pick(&SERVICES), dice.pick(&["4", "6"])),
            2 => format!("del Node {}", dice.pick(&["n1", "n2", "n3"])),
            3 => {
                format!("cidrs {} {}", dice.pick(&["c", "d"]), dice.pick(&["198.51.100.0/24", "10.46.0.0/16 fd46::/112", "203.0.113.0/30"]))
            }
            4 => format!("del ServiceCIDR {}", dice.pick(&["c", "d"])),
            _ => format!("del Namespace {}", dice.pick(&NAMESPACES)),
        },
    }
}

/// A pod, or another state of it.
pub fn pod(dice: &mut Dice<'_>) -> String {
    let (v4, v6) = (dice.below(6), dice.below(6));
    let ips = match dice.below(5) {
        0 => String::new(),
        1 => format!("10.42.1.{v4}"),
        2 => format!("fd42:1::{v6}"),
        _ => format!("10.42.1.{v4} fd42:1::{v6}"),
    };
    let name = dice.pick(&PODS);
    let port = dice.pick(&["", ":http:80/tcp", ":http:81/tcp", ":http:80/udp :dns:53/udp", ":http:80/tcp :http:81/tcp"]);
    let flag = dice.pick(&["", "", "", "", "", "+done", "+hostnet", "+sidecar", "+init"]);
    let (app, tier) = (dice.pick(&["a", "b", "c"]), dice.pick(&["", "tier=front", "tier=back"]));
    format!("pod {name} {ips} @n{} app={app} {tier} {port} {flag} uid={} ^{}", 1 + dice.below(2), dice.below(2), dice.below(9))
}

/// An attachment; no two have the same address, which the node's address allocation sees to.
pub fn attach(dice: &mut Dice<'_>) -> String {
    let which = dice.below(PODS.len());
    let uid = dice.pick(&["", "", "uid=0", "uid=1"]);
    format!("attach {} 10.42.1.{} fd42:1::{:x} {uid}", PODS[which], which, which)
}

/// A policy of any form, some of them wrong.
pub fn policy(dice: &mut Dice<'_>) -> String {
    let name = format!("{}/{}", dice.pick(&NAMESPACES), dice.pick(&["k", "l"]));
    let selector = if dice.once_in(2) { "{}".to_owned() } else { selector(dice) };
    let mut spec = format!("podSelector: {selector}");
    match dice.below(5) {
        0 => spec.push_str(", policyTypes: [Ingress]"),
        1 => spec.push_str(", policyTypes: [Egress]"),
        2 => spec.push_str(", policyTypes: [Ingress, Egress]"),
        3 => spec.push_str(", policyTypes: []"),
        _ => {}
    }
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        if dice.below(4) != 3 {
            let rules = dice.list(3, |dice| rule(dice, peers));
            spec.push_str(&format!(", {direction}: [{rules}]"));
        }
    }
    format!("policy {name} {{{spec}}}")
}

fn rule(dice: &mut Dice<'_>, peers: &str) -> String {
    let mut parts = Vec::new();
    if dice.below(4) != 3 {
        let list = dice.list(2, peer);
        parts.push(format!("{peers}: [{list}]"));
    }
    if dice.below(2) == 1 {
        let list = dice.list(2, port);
        parts.push(format!("ports: [{list}]"));
    }
    format!("{{{}}}", parts.join(", "))
}

fn peer(dice: &mut Dice<'_>) -> String {
    let namespaces = ["{}", "{matchLabels: {team: red}}", "{matchExpressions: [{key: team, operator: NotIn, values: [red]}]}"];
    match dice.below(9) {
        0..=2 => format!("{{podSelector: {}}}", selector(dice)),
        3 | 4 => format!("{{namespaceSelector: {}}}", dice.pick(&namespaces)),
        5 | 6 => format!("{{namespaceSelector: {}, podSelector: {}}}", dice.pick(&namespaces), selector(dice)),
        _ => {
            let blocks = [
                "{cidr: 0.0.0.0/0}",
                "{cidr: '::/0'}",
                "{cidr: 192.0.2.0/24, except: [192.0.2.0/30]}",
                "{cidr: 10.42.1.0/24, except: [10.42.1.2/31, 10.42.1.5/32]}",
                "{cidr: 'fd42:1::/64', except: ['fd42:1::2/127']}",
                "{cidr: 10.42.1.0/24, except: [10.43.0.0/16]}",
            ];
            format!("{{ipBlock: {}}}", dice.pick(&blocks))
        }
    }
}

const SPACES: [&str; 5] = [
    "{}",
    "{}",
    "{matchLabels: {team: red}}",
    "{matchExpressions: [{key: team, operator: NotIn, values: [red]}]}",
    "{matchExpressions: [{key: team, operator: Odd}]}",
];

/// A ClusterNetworkPolicy of any form, some of them wrong; many share a priority.
pub fn cluster_policy(dice: &mut Dice<'_>) -> String {
    let name = dice.pick(&CLUSTER_POLICIES);
    let tier = dice.pick(&["Admin", "Admin", "Admin", "Baseline", "Baseline", "Baseline", "Baseline", "Other"]);
    let priority = dice.pick(&["0", "0", "5", "5", "5", "1000", "1000", "999", "1001"]);
    let subject = match dice.below(12) {
        0 => "{}".to_owned(),
        1 => "{pods: {podSelector: {matchLabels: {app: a}}}}".to_owned(),
        2..=6 => format!("{{namespaces: {}}}", dice.pick(&SPACES[..4])),
        7 => format!("{{namespaces: {}}}", dice.pick(&SPACES)),
        _ => format!("{{pods: {{namespaceSelector: {}, podSelector: {}}}}}", dice.pick(&SPACES[..4]), selector(dice)),
    };
    let mut spec = format!("tier: {tier}, priority: {priority}, subject: {subject}");
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let rules = dice.list(3, |dice| cluster_rule(dice, peers));
        spec.push_str(&format!(", {direction}: [{rules}]"));
    }
    if dice.once_in(40) {
        spec.push_str(", egress: odd");
        spec = spec.replacen(", egress: [", ", was: [", 1);
    }
    format!("cnp {name} {{{spec}}}")
}

fn cluster_rule(dice: &mut Dice<'_>, peers: &str) -> String {
    let action = dice.pick(&["Accept", "Accept", "Accept", "Deny", "Deny", "Deny", "Pass", "Pass", "Pass", "Log"]);
    let first = cluster_peer(dice, peers);
    let mut list = vec![first];
    if dice.once_in(2) {
        list.push(cluster_peer(dice, peers));
    }
    if dice.once_in(30) {
        list.clear();
    }
    let mut rule = format!("action: {action}, {peers}: [{}]", list.join(", "));
    if dice.below(2) == 1 {
        let list = dice.list(3, cluster_protocol);
        rule.push_str(&format!(", protocols: [{list}]"));
    }
    if dice.once_in(4) {
        rule.push_str(", name: some rule");
    }
    format!("{{{rule}}}")
}

fn cluster_peer(dice: &mut Dice<'_>, peers: &str) -> String {
    let spaces = dice.pick(&SPACES[..4]);
    match dice.below(if peers == "to" { 16 } else { 9 }) {
        0..=3 => format!("{{namespaces: {spaces}}}"),
        4..=7 => format!("{{pods: {{namespaceSelector: {spaces}, podSelector: {}}}}}", selector(dice)),
        8 => dice
            .pick(&[
                "{}",
                "{namespaces: {}, pods: {namespaceSelector: {}, podSelector: {}}}",
                "{pods: {podSelector: {}}}",
                "{pods: {namespaceSelector: {}}}",
                "{nodes: {}}",
                "{namespaces: {}}",
            ])
            .to_owned(),
        9 | 10 => {
            format!("{{nodes: {}}}", dice.pick(&["{}", "{matchLabels: {pool: p}}", "{matchExpressions: [{key: pool, operator: Exists}]}"]))
        }
        11..=14 => {
            let networks =
                ["[0.0.0.0/0]", "['::/0']", "[192.0.2.0/24]", "[10.42.1.0/30, 'fd42:1::/126']", "[192.0.2.1/32, '2001:db8::/64']"];
            format!("{{networks: {}}}", dice.pick(&networks))
        }
        _ => {
            dice.pick(&["{domainNames: [example.com]}", "{networks: [nonsense]}", "{networks: []}", "{networks: [10.0.0.0/8]}"]).to_owned()
        }
    }
}

fn cluster_protocol(dice: &mut Dice<'_>) -> String {
    let options = [
        "{tcp: {destinationPort: {number: 80}}}",
        "{tcp: {destinationPort: {number: 80}}}",
        "{tcp: {destinationPort: {number: 81}}}",
        "{tcp: {destinationPort: {range: {start: 53, end: 81}}}}",
        "{udp: {destinationPort: {number: 53}}}",
        "{udp: {destinationPort: {range: {start: 1, end: 65535}}}}",
        "{sctp: {destinationPort: {number: 80}}}",
        "{destinationNamedPort: http}",
        "{destinationNamedPort: http}",
        "{destinationNamedPort: dns}",
    ];
    let odd = ["{tcp: {}}", "{tcp: {destinationPort: {range: {start: 81, end: 80}}}}", "{}", "{tcp: {destinationPort: {number: 0}}}"];
    if dice.once_in(40) { dice.pick(&odd) } else { dice.pick(&options) }.to_owned()
}

fn selector(dice: &mut Dice<'_>) -> String {
    let expression = |text: &str| format!("{{matchExpressions: [{{{text}}}]}}");
    match dice.below(8) {
        0 => "{}".to_owned(),
        1..=3 => format!("{{matchLabels: {{app: {}}}}}", dice.pick(&["a", "b", "c"])),
        4 => expression("key: app, operator: In, values: [a, b]"),
        5 => expression("key: tier, operator: NotIn, values: [front]"),
        6 => expression(dice.pick(&["key: tier, operator: Exists", "key: tier, operator: DoesNotExist"])),
        _ => expression(dice.pick(&["key: app, operator: Odd", "key: tier, operator: In, values: []"])),
    }
}

fn port(dice: &mut Dice<'_>) -> String {
    let options = [
        "{port: 80}",
        "{port: 80, protocol: UDP}",
        "{port: http}",
        "{port: http, protocol: UDP}",
        "{port: dns, protocol: UDP}",
        "{port: 53, endPort: 81}",
        "{port: 81, endPort: 80}",
        "{protocol: UDP}",
        "{protocol: SCTP}",
        "{}",
    ];
    dice.pick(&options).to_owned()
}

/// A service of any form.
pub fn service(dice: &mut Dice<'_>) -> String {
    let ip = dice.below(4);
    let addresses = match dice.below(6) {
        0 => "None".to_owned(),
        1 => String::new(),
        2 => format!("10.43.0.{ip}"),
        3 => format!("fd43::{ip}"),
        _ => format!("10.43.0.{ip} fd43::{ip}"),
    };
    let ports =
        dice.pick(&[":http:80/tcp", ":http:80:30080/tcp", ":http:80:30080/tcp :dns:53/udp", ":dns:80/tcp :http:53/udp", ":http:0/tcp"]);
    let kind = dice.pick(&["", "type=NodePort", "type=LoadBalancer", "type=ExternalName name=db.example.com"]);
    let policy =
        dice.pick(&["", "internal=Local", "external=Local", "external=Local health=31000", "internal=Local external=Local health=31001"]);
    let outside = dice.pick(&[
        "",
        "",
        "ext=203.0.113.1",
        "ext=203.0.113.1 lb=203.0.113.2",
        "ext=192.168.0.1 lb=8.8.8.8",
        "lb=203.0.113.1 ranges=192.0.2.0/24",
        "lb=203.0.113.1 lb=203.0.113.2 ranges=192.0.2.0/25 ranges=10.42.1.0/24",
        "lb=203.0.113.1 ranges=zzz ranges=2001:db8::/32",
    ]);
    let extra = dice.pick(&["", "", "", "+unready", "affinity=60", "service.kubernetes.io/service-proxy-name=other"]);
    format!("svc {} {addresses} {ports} {kind} {policy} {outside} {extra} ^{}", dice.pick(&SERVICES), dice.below(9))
}

/// A slice of a service.
pub fn slice(dice: &mut Dice<'_>) -> String {
    let service = dice.pick(&SERVICES);
    let of = dice.pick(&["", "", "", "s", "t"]);
    let of = if of.is_empty() { service.split_once('/').unwrap().1 } else { of };
    let (family, prefix) = if dice.once_in(2) { ("6", "fd42:1::") } else { ("4", "10.42.1.") };
    let ports = dice.pick(&[":http:8080/tcp", ":http:8080/tcp :dns:5353/udp", ":http:8081/tcp", ":dns:8080/tcp"]);
    let endpoints: Vec<String> = (0..dice.below(4))
        .map(|_| {
            let state = dice.pick(&["", "!ready", "!draining", "!draining", "!unready", "!gone"]);
            let ip = format!("{prefix}{}", dice.below(4));
            let ip = if dice.below(12) == 11 { if family == "4" { "127.0.0.1".into() } else { "::1".into() } } else { ip };
            format!("{ip}@n{}{state}{}", 1 + dice.below(2), hints(dice))
        })
        .collect();
    // The first address decides about the family.
    let none = if family == "4" { "127.0.0.1" } else { "::1" };
    let endpoints = if endpoints.is_empty() { none.to_owned() } else { endpoints.join(" ") };
    format!("slice {service}-{family} of={of} {ports} {endpoints}")
}

/// For whom an endpoint is meant: mostly nobody in particular.
pub fn hints(dice: &mut Dice<'_>) -> &'static str {
    ["", "", "", "~za", "~zb", "~za.zb", "~za.n1", "~zb.n2", "~n1"][dice.below(9)]
}

/// A node, perhaps one that claims what others have.
pub fn node(dice: &mut Dice<'_>) -> String {
    let address = dice.pick(&["192.168.0.1", "192.168.0.2 fd00::2", "203.0.113.1", "", "zzz"]);
    let subnet = dice.pick(&["cidr=10.42.1.0/24", "cidr=10.42.2.0/24 cidr=fd42:2::/64", "cidr=10.42.0.0/16", "", "cidr=zzz"]);
    let (zone, pool) = (dice.pick(&["", "zone=za", "zone=zb"]), dice.pick(&["", "pool=p", "pool=q"]));
    format!("node n{} {address} {subnet} {zone} {pool} ^{}", 1 + dice.below(3), dice.below(9))
}
