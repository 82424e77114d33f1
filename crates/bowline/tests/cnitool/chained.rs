//! Plugins of the CNI project chained after ours: they get our result and must find in it what they need.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::tool::{Net, Space, host_link, shell};
use crate::common::rows::{Bench, Skipped};

/// Where Debian's containernetworking-plugins puts them.
const THEIRS: &str = "/usr/lib/cni";

pub(crate) fn after_ours(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    let has = |name: &str| std::path::Path::new(THEIRS).join(name).exists();
    if !has("tuning") || !has("bandwidth") {
        let why = format!("{THEIRS} lacks tuning or bandwidth: install the package containernetworking-plugins");
        return Err(Skipped(why).into());
    }
    let after = [
        json!({"type": "tuning", "sysctl": {"net.core.somaxconn": "777"}, "mtu": 1300}),
        json!({"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 8_000_000}),
    ];
    let mut net = Net::changed(lab, "1.0.0", &after)?;
    net.plugins = format!("/opt/cni/bin:{THEIRS}");
    let space = Space::new(lab)?;
    let result = net.add(&space).context("ADD")?;
    let (limit, mtu) = (space.shell("cat /proc/sys/net/core/somaxconn")?, space.shell("cat /sys/class/net/eth0/mtu")?);
    ensure!(limit == "777" && mtu == "1300", "tuning wanted 777 and 1300, there is {limit} and {mtu}");
    let queues = shell(lab, &format!("tc qdisc show dev {}", host_link(&result)?))?;
    ensure!(queues.contains("tbf"), "bandwidth left no token bucket on the node's end: {queues}");
    net.call("check", &space).context("CHECK")?;
    net.call("del", &space).context("DEL")?;
    Ok("tuning and bandwidth do what they should with our result, CHECK and DEL pass through".into())
}
