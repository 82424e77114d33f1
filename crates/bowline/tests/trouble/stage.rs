//! What runs through every trouble: traffic that must not notice, kernels that must not change, and a policy that must arrive.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::common::cluster;
use crate::common::generator::{Generator, all_answered, number, unbroken};
use crate::common::lab::{Lab, eventually};
use crate::common::node;
use crate::common::objects::{NODES, PORT, idle, ingress_policy, server, service};
use crate::common::rows::Bench;
use crate::front::Front;

/// Changes must have arrived on every node so soon after the server's return.
pub(crate) fn soon(_: &str) -> Duration {
    Duration::from_secs(5)
}

/// What one node may ask after the return: eight watches that are resumed, eight that have to be listed first, and a look at the node for
/// each.
const REQUESTS: u64 = 32;

/// A server that has been silent for so long on a connection on which it pushes all the time was cut off.
const CUT: Duration = Duration::from_secs(1);

/// The policy that is made during the trouble.
const LATE: &str = "trouble-late";

/// A trouble under way.
pub(crate) struct Stage<'a> {
    /// The lab.
    pub(crate) lab: &'a Lab,
    /// The agents' way to the API.
    pub(crate) front: Front,
    streams: Generator,
    datagrams: Generator,
    /// Of each node, a connection to a pod there that the late policy cuts.
    pushes: Vec<(&'static str, Generator)>,
    before: Vec<node::Kernel>,
    written: Value,
}

fn objects() -> Result<Vec<Value>> {
    let mut all =
        vec![service("trouble", "trouble", None), server("trouble-s2", "n2", "trouble")?, idle("trouble-c1", "n1", "trouble-client")?];
    for node in NODES {
        all.push(server(&format!("trouble-cut-{node}"), node, "trouble-cut")?);
    }
    Ok(all)
}

/// Objects written or removed since each agent started.
fn written(lab: &Lab) -> Result<Value> {
    let status = lab.status()?;
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    ensure!(nodes.len() == NODES.len(), "{} of {} agents answer", nodes.len(), NODES.len());
    Ok(nodes.iter().map(|node| json!([node["node"], node["writtenTotal"]])).collect())
}

impl<'a> Stage<'a> {
    /// Traffic at work, agents content, and the kernels as they are.
    pub(crate) fn set(bench: &'a Bench) -> Result<Stage<'a>> {
        let lab = bench.lab()?;
        lab.delete("networkpolicy", &[LATE])?;
        lab.apply_objects(&objects()?)?;
        let front = Front::up(lab)?;
        lab.kill_agents(Duration::ZERO)?;
        lab.settled()?;
        let vip = std::net::SocketAddr::new(cluster::cluster_ip(lab, "trouble", "default", false)?, PORT).to_string();
        let at = |app: &str, name: &str, v6: bool| -> Result<String> {
            let pods = cluster::pods(lab, &format!("app={app}"))?;
            let pod = pods.iter().find(|pod| pod.name == name).with_context(|| format!("no pod {name}"))?;
            Ok(std::net::SocketAddr::new(pod.ip(v6)?, PORT).to_string())
        };
        let direct = at("trouble", "trouble-s2", true)?;
        let streams = Generator::in_pod(lab, "trouble-c1", &["stream", "10", &vip, &direct])?;
        let datagrams = Generator::in_pod(lab, "trouble-c1", &["datagrams", "trouble", "5000", &vip, &direct])?;
        let push = |node: &'static str| -> Result<(&'static str, Generator)> {
            let target = at("trouble-cut", &format!("trouble-cut-{node}"), false)?;
            Ok((node, Generator::in_pod(lab, "trouble-c1", &["follow", &target])?))
        };
        let pushes = NODES.into_iter().map(push).collect::<Result<_>>()?;
        lab.settled()?;
        let before = NODES.iter().map(|n| node::read(lab, n)).collect::<Result<_>>()?;
        Ok(Stage { lab, front, streams, datagrams, pushes, before, written: written(lab)? })
    }

    /// A change that the agents hear of when they can.
    pub(crate) fn change(&self) -> Result<()> {
        self.lab.apply_objects(&[ingress_policy(LATE, "trouble-cut", None)])
    }

    /// The change is not in force yet, and nothing was written anywhere.
    pub(crate) fn unchanged(&mut self, trouble: &str) -> Result<()> {
        for (name, before) in NODES.iter().zip(&self.before) {
            node::same(&format!("{name} while {trouble}"), &before.ours, &node::read(self.lab, name)?.ours)?;
        }
        let now = written(self.lab)?;
        ensure!(now == self.written, "objects were written while {trouble}: {} before, {now} now", self.written);
        for (node, push) in &mut self.pushes {
            // One that is cut stays so; a busy machine's is heard again.
            eventually(|| {
                let since = number(&push.ask("?")?, "sinceMs")?;
                ensure!(u128::from(since) < CUT.as_millis(), "{node}: a server was not heard for {since} ms while {trouble}");
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The change arrives in time after the return, with few questions, and nothing was lost; what was seen.
    pub(crate) fn back(mut self, returned: Instant, within: impl Fn(&str) -> Duration) -> Result<String> {
        let (mut slowest, mut heard) = (Duration::ZERO, Vec::new());
        for (node, push) in &mut self.pushes {
            let (took, messages) = eventually(|| {
                let seen = push.ask("?")?;
                let silent = Duration::from_millis(number(&seen, "sinceMs")?);
                ensure!(silent > CUT, "{node}: the policy has not arrived");
                Ok((returned.elapsed().saturating_sub(silent), number(&seen, "messages")?))
            })?;
            heard.push(messages);
            ensure!(took <= within(node), "{node}: the policy arrived only {} ms after the return", took.as_millis());
            slowest = slowest.max(took);
        }
        self.lab.settled()?;
        for ((node, push), messages) in self.pushes.iter_mut().zip(heard) {
            ensure!(number(&push.ask("?")?, "messages")? == messages, "{node}: what was cut is heard again");
        }
        let asked = self.front.order("counts")?;
        let most = REQUESTS * u64::try_from(NODES.len())?;
        ensure!(asked.requests <= most, "{} questions after the return, more than {most}", asked.requests);
        let sent = all_answered(&self.datagrams.finish()?)?;
        let (requests, _) = unbroken(&self.streams.finish()?)?;
        drop(self.pushes);
        self.lab.delete("networkpolicy", &[LATE])?;
        self.lab.settled()?;
        Ok(format!(
            "{requests} requests, {sent} datagrams answered; a policy arrived {} ms after the return; {} questions, {} connections of 3 nodes",
            slowest.as_millis(),
            asked.requests,
            asked.connections
        ))
    }
}
