//! Each verb of the specification, called by cnitool.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::tool::{NODE, Net, Space, addresses, host_link, shell};
use crate::common::lab::{Lab, eventually};
use crate::common::node;
use crate::common::rows::Bench;

/// Versions that have a result with addresses of both families in one list.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

fn refused(answer: Result<String>, what: &str) -> Result<String> {
    match answer {
        Ok(said) => bail!("{what}: it was content and said {said:?}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

pub(crate) fn status(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    let (net, space) = (Net::changed(lab, "1.1.0", &[])?, Space::new(lab)?);
    net.call("status", &space)?;
    lab.agent("stop", NODE)?;
    let said = refused(net.call("status", &space), "STATUS without an agent");
    lab.agent("start", NODE)?;
    lab.settled()?;
    eventually(|| net.call("status", &space))?;
    Ok(format!("content, refused without the agent ({} characters of why), content again", said?.len()))
}

pub(crate) fn add(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    let net = Net::installed(lab)?;
    let (one, two) = (Space::new(lab)?, Space::new(lab)?);
    let (first, second) = (net.add(&one)?, net.add(&two)?);
    for (result, space) in [(&first, &one), (&second, &two)] {
        let (said, there) = (addresses(result), space.addresses()?);
        ensure!(said.len() == 2, "{said:?} is not one address of each family");
        ensure!(BTreeSet::from_iter(&said) == BTreeSet::from_iter(&there), "the result says {said:?}, the interface has {there:?}");
        let link = result["interfaces"].as_array().into_iter().flatten().find(|link| link["name"] == "eth0").context("no eth0")?;
        let mac = space.shell("cat /sys/class/net/eth0/address")?;
        ensure!(link["mac"] == json!(mac) && link["sandbox"] == json!(space.path()), "{link} is not the interface with MAC {mac}");
        shell(lab, &format!("ip link show {}", host_link(result)?))?;
    }
    for target in addresses(&second) {
        let target = target.split('/').next().unwrap_or_default();
        eventually(|| one.shell(&format!("ping -c 1 -W 1 {target}")))?;
    }
    net.call("del", &one)?;
    net.call("del", &two)?;
    Ok(format!("{} and {} reach each other", addresses(&first).join(" "), addresses(&second).join(" ")))
}

pub(crate) fn check(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    let net = Net::installed(lab)?;
    // What somebody may do to an attachment, each to one of its own.
    let changes = ["ip addr flush dev eth0 scope global", "ip link set dev eth0 down", "ip link del eth0", "ip route flush dev eth0"];
    let mut told = Vec::new();
    for change in changes {
        let space = Space::new(lab)?;
        net.add(&space)?;
        net.call("check", &space)?;
        space.shell(change)?;
        told.push(refused(net.call("check", &space), change)?);
        net.call("del", &space)?;
    }
    let space = Space::new(lab)?;
    refused(net.call("check", &space), "CHECK of what was never added")?;
    Ok(format!("{} changes found", told.len()))
}

pub(crate) fn del(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    let net = Net::installed(lab)?;
    let before = node::read(lab, NODE)?;
    let space = Space::new(lab)?;
    let link = host_link(&net.add(&space)?)?;
    net.call("del", &space)?;
    ensure!(space.shell("ip link show eth0").is_err(), "eth0 is still in the namespace");
    ensure!(shell(lab, &format!("ip link show {link}")).is_err(), "{link} is still on the node");
    for again in ["again", "and again"] {
        net.call("del", &space).context(again)?;
    }
    // The namespace may be gone before DEL comes.
    let gone = Space::new(lab)?;
    net.add(&gone)?;
    shell(lab, &format!("ip netns del {}", gone.name))?;
    net.call("del", &gone).context("with the namespace gone")?;
    eventually(|| node::same(NODE, &before.ours, &node::read(lab, NODE)?.ours))?;
    Ok("interface, rules and record gone; repeated and without a namespace it is content".into())
}

pub(crate) fn versions(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    for version in VERSIONS {
        let (net, space) = (Net::changed(lab, version, &[])?, Space::new(lab)?);
        let result = net.add(&space).context(version)?;
        ensure!(result["cniVersion"] == version, "{version}: the result is of version {}", result["cniVersion"]);
        ensure!(addresses(&result).len() == 2, "{version}: {result}");
        if version >= "0.4.0" {
            net.call("check", &space).context(version)?;
        }
        net.call("del", &space).context(version)?;
    }
    let net = Net::changed(lab, "9.9.9", &[])?;
    let why = refused(net.call("add", &Space::new(lab)?), "ADD with version 9.9.9")?;
    ensure!(why.contains("9.9.9") || why.contains("ersion"), "the refusal of version 9.9.9 does not speak of versions: {why}");
    Ok(format!("{}; 9.9.9 is refused", VERSIONS.join(", ")))
}

pub(crate) fn capabilities(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    let (mut net, space) = (Net::installed(lab)?, Space::new(lab)?);
    let free = addresses(&net.add(&space)?);
    net.call("del", &space)?;
    net.wants = json!({"ips": free, "mac": "02:00:5e:10:00:07"});
    let result = net.add(&space)?;
    ensure!(BTreeSet::from_iter(addresses(&result)) == BTreeSet::from_iter(free.clone()), "wanted {free:?}, got {:?}", addresses(&result));
    let mac = space.shell("cat /sys/class/net/eth0/address")?;
    ensure!(mac == "02:00:5e:10:00:07", "wanted MAC 02:00:5e:10:00:07, got {mac}");
    let other = Space::new(lab)?;
    refused(net.call("add", &other), "ADD with addresses that another has")?;
    net.call("del", &other)?;
    net.call("del", &space)?;
    Ok(format!("{} and MAC {mac}; a second time they are refused", free.join(" ")))
}

pub(crate) fn side_by_side(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    let net = Net::installed(lab)?;
    let before = node::read(lab, NODE)?;
    let count = bench.figure(8, 50);
    let spaces = (0..count).map(|_| Space::new(lab)).collect::<Result<Vec<_>>>()?;
    let results = every(&spaces, |space| net.add(space))?;
    let distinct: BTreeSet<String> = results.iter().flat_map(addresses).collect();
    ensure!(distinct.len() == 2 * count, "{count} attachments have {} distinct addresses", distinct.len());
    every(&spaces, |space| net.call("check", space).map(|_| Value::Null))?;
    every(&spaces, |space| net.call("del", space).map(|_| Value::Null))?;
    eventually(|| node::same(NODE, &before.ours, &node::read(lab, NODE)?.ours))?;
    Ok(format!("{count} attachments at once, {} addresses, nothing left", distinct.len()))
}

fn every(spaces: &[Space<'_>], call: impl Fn(&Space<'_>) -> Result<Value> + Sync) -> Result<Vec<Value>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = spaces.iter().map(|space| scope.spawn(|| call(space))).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?).collect()
    })
}

/// cnitool takes away what it added itself and then calls the plugin without the list of what is valid, which must not take everything of the
/// node for gone. A runtime's call has the list.
pub(crate) fn gc(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    let net = Net::changed(lab, "1.1.0", &[])?;
    let runtimes = Runtime { lab, net: &net };
    let (kept, stale) = (Space::new(lab)?, Space::new(lab)?);
    let links = [runtimes.add("kept", &kept)?, runtimes.add("stale", &stale)?];
    let there = |link: &str| shell(lab, &format!("ip link show {link}")).is_ok();
    let added = Space::new(lab)?;
    let own = host_link(&net.add(&added)?)?;
    let why = refused(net.call("gc", &added), "GC without the list of what is valid")?;
    ensure!(why.contains("valid-attachments"), "the refusal does not speak of the missing list: {why}");
    ensure!(!there(&own), "{own}, which cnitool had added, is still on the node");
    ensure!(links.iter().all(|link| there(link)), "GC without a list took what a runtime had added");
    let pods = shell(lab, "ls /var/lib/bowline/attachments/*.json")?;
    let others = pods.lines().count() - links.len();
    runtimes.collect(&["kept"])?;
    ensure!(there(&links[0]) && !there(&links[1]), "of {links:?} the first is valid and the second is not");
    runtimes.collect(&[])?;
    ensure!(!there(&links[0]), "{} is still on the node", links[0]);
    Ok(format!("cnitool's own and a runtime's stale attachment go, the valid one stays; {others} others were there"))
}

/// The plugin, called as a runtime calls it.
struct Runtime<'a> {
    lab: &'a Lab,
    net: &'a Net,
}

impl Runtime<'_> {
    fn call(&self, variables: &str, extra: Value) -> Result<String> {
        let mut config = self.net.list["plugins"][0].clone();
        let fields = config.as_object_mut().context("no plugin in the configuration")?;
        fields.insert("name".into(), self.net.list["name"].clone());
        fields.insert("cniVersion".into(), self.net.list["cniVersion"].clone());
        fields.extend(extra.as_object().cloned().unwrap_or_default());
        let plugin = self.net.list["plugins"][0]["type"].as_str().context("the plugin has no type")?;
        shell(self.lab, &format!("{variables} CNI_PATH=/opt/cni/bin /opt/cni/bin/{plugin} <<'END'\n{config}\nEND"))
    }

    fn add(&self, id: &str, space: &Space<'_>) -> Result<String> {
        let variables = format!("CNI_COMMAND=ADD CNI_CONTAINERID={id} CNI_IFNAME=eth0 CNI_NETNS={}", space.path());
        host_link(&serde_json::from_str(&self.call(&variables, json!({}))?)?)
    }

    fn collect(&self, valid: &[&str]) -> Result<()> {
        let valid: Vec<Value> = valid.iter().map(|id| json!({"containerID": id, "ifname": "eth0"})).collect();
        self.call("CNI_COMMAND=GC", json!({"cni.dev/valid-attachments": valid})).map(drop)
    }
}
