//! Which links have programs of the fast path.

use bowline_model::intent::Intent;
use expect_test::{Expect, expect};

use super::notation::{host, parse};
use crate::HostFacts;
use crate::fastpath::LIBERAL;
use crate::objects::net::NetKey;

fn links(setup: &str, expected: Expect) {
    let lowered = crate::lower(&Intent::default(), &parse(setup), &HostFacts { fast_path: true, ..host() }).value;
    let shown: String = lowered.hooks.set.iter().map(|(key, side)| format!("{} {side:?}\n", key.0)).collect();
    expected.assert_eq(&shown);
    assert!(lowered.net.set.contains_key(&NetKey::Sysctl(LIBERAL.into())));
    let without = crate::lower(&Intent::default(), &parse(setup), &host()).value;
    assert!(without.hooks.is_empty() && !without.net.set.contains_key(&NetKey::Sysctl(LIBERAL.into())));
}

#[test]
fn pods_links_and_those_to_the_nodes_have_them() {
    links(
        "pods a b",
        expect![[r#"
        bowline.1 Nodes
        bwla Pod
        bwlb Pod
    "#]],
    );
    links(
        "pods a\ndirect",
        expect![[r#"
        bowline.1 Nodes
        bwla Pod
        eth0 Nodes
    "#]],
    );
    links(
        "closed a\nhost-gw",
        expect![[r#"
        bwla Pod
        eth0 Nodes
    "#]],
    );
}
