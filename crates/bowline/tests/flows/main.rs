//! The tables of packet flows with real packets: who answers whom, and what is refused or dropped, in both families and both service modes.
//!
//! Words select checks by name.
#![allow(clippy::disallowed_methods, reason = "a test runner starts processes and keeps their time")]
#![allow(clippy::indexing_slicing, reason = "a missing JSON field is null, and a test may fail loudly")]

mod asked;
#[path = "../common/mod.rs"]
mod common;
mod staged;
mod tunnel;

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use bowline_compile::testing::flows::{NARROW, SERVICES};

use common::generator::Generator;
use common::lab::{Setup, eventually, said};
use common::objects::NODES;
use common::rows::{Bench, Group, Row};

fn setup() -> Setup {
    Setup::new("vxlan").dual().flags(&["--outside-address", "8.8.8.8", "--outside-address", "2001:4860:4860::8888"])
}

const GROUPS: &[Group] = &[
    Group {
        setup: Some(setup),
        rows: &[
            Row { name: "tunnel", title: "what strangers wrap comes to nobody", check: tunnel::strangers_come_to_nobody },
            Row { name: "services", title: "the table of services", check: |bench| table(bench, SERVICES) },
            Row { name: "loopback", title: "loopback services are nobody else's", check: loopback },
        ],
    },
    Group {
        setup: Some(setup),
        rows: &[Row { name: "narrow", title: "node ports on some addresses only", check: |bench| table(bench, NARROW) }],
    },
    Group {
        setup: Some(|| setup().ebpf()),
        rows: &[
            Row { name: "tunnel-ebpf", title: "what strangers wrap comes to nobody", check: tunnel::strangers_come_to_nobody },
            Row { name: "services-ebpf", title: "the table of services, at the socket", check: |bench| table(bench, SERVICES) },
            Row { name: "loopback-ebpf", title: "loopback services are nobody else's", check: loopback },
        ],
    },
    Group {
        setup: Some(|| setup().ebpf()),
        rows: &[Row { name: "narrow-ebpf", title: "the same of some addresses only", check: |bench| table(bench, NARROW) }],
    },
];

fn main() -> ExitCode {
    common::rows::main(GROUPS)
}

/// A table's cases together, then row by row.
fn table(bench: &Bench, text: &str) -> Result<String> {
    let lab = bench.lab()?;
    let staged = staged::Staged::on(lab, text)?;
    let mut asked = asked::Asked::new(&staged)?;
    for v6 in [false, true] {
        asked.family(v6)?;
    }
    staged.health()?;
    Ok(asked.told())
}

/// `route_localnet` is off on every node's own links; and what a neighbour sends to a node's loopback address by the node's link reaches
/// nobody (CVE-2020-8558).
fn loopback(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    for node in NODES {
        let script = "cd /proc/sys/net/ipv4/conf; cat all/route_localnet default/route_localnet eth0/route_localnet";
        let told = said(&lab.node(node, &["sh", "-c", script])?).context("route_localnet cannot be read")?;
        ensure!(told.split_whitespace().all(|value| value == "0"), "route_localnet of {node}: {told:?}");
    }
    let mut server = Generator::on_node(lab, "n1", &["listen", LISTENS])?;
    let mut own = Generator::on_node(lab, "n1", &["knock"])?;
    own.ask(LISTENS)?;
    ensure!(server.ask("?")? == 1, "the server does not hear its own node");
    // The packets do come to the node: without that the silence would show nothing.
    let watch = ["tcpdump", "-nn", "-c", "1", "-i", "eth0", "tcp and dst host 127.0.0.1"];
    let mut arrived = lab.node_background("n1", &watch)?;
    let outcome = knock(lab, &mut arrived);
    let _ = arrived.kill();
    let _ = arrived.wait();
    outcome?;
    ensure!(server.ask("?")? == 1, "a neighbour reached a loopback service");
    Ok("route_localnet is 0 on every node; a neighbour's SYNs for 127.0.0.1 came to the link and to nobody".to_owned())
}

/// Where a service of n1's own listens.
const LISTENS: &str = "127.0.0.1:9797";

/// Lets n2 send SYNs for 127.0.0.1 to n1 until one has been seen there.
fn knock(lab: &common::lab::Lab, arrived: &mut std::process::Child) -> Result<()> {
    let [there, back] = [
        "ip addr del 127.0.0.1/8 dev lo && ip route add 127.0.0.1/32 via 192.168.200.11 dev eth0 src 192.168.200.12",
        "ip route del 127.0.0.1/32; ip addr add 127.0.0.1/8 dev lo",
    ];
    let at_n2 = |script: &str| lab.node("n2", &["sh", "-c", script]);
    let mut neighbour = Generator::on_node(lab, "n2", &["knock"])?;
    ensure!(at_n2(there)?.status.success(), "n2 cannot be made to send to 127.0.0.1");
    let outcome = eventually(|| {
        let reached = neighbour.ask(LISTENS)?;
        ensure!(reached == false, "a connection from n2 to n1's {LISTENS}");
        ensure!(arrived.try_wait()?.is_some_and(|status| status.success()), "no SYN came to n1");
        Ok(())
    });
    at_n2(back)?;
    outcome
}

/// Counts by what was wanted.
type Tally = BTreeMap<&'static str, usize>;
