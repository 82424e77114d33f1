//! The lab as the daemon has it: who is where.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use super::agents::Agent;
use crate::control::{Target, Whom};
use crate::enter::{self, Enter};
use crate::holder::{Holder, Holding, Kind};
use crate::ns::Namespace;
use crate::options::Options;
use crate::place::Place;
use crate::plan::{NodePlan, Plan};
use crate::underlay;

/// A lab that is up, with the holders that keep it so.
pub(crate) struct Lab {
    /// With what it was started.
    pub(crate) options: Options,
    /// Who has which address.
    pub(crate) plan: Plan,
    /// Its files.
    pub(crate) place: Place,
    /// Its cgroup.
    pub(crate) cgroup: PathBuf,
    /// The router between the nodes.
    pub(crate) router: Holder,
    /// The host outside.
    pub(crate) client: Holder,
    /// Its servers.
    _outside: std::process::Child,
    /// The nodes, n1 first.
    pub(crate) nodes: Vec<Arc<Node>>,
    pods: Mutex<BTreeMap<(String, String), PodPlace>>,
}

/// A node.
pub(crate) struct Node {
    /// Its name and addresses.
    pub(crate) plan: NodePlan,
    /// What keeps its namespaces.
    pub(crate) holder: Holder,
    /// Its cgroup: the root of what it sees.
    pub(crate) cgroup: PathBuf,
    /// Its agent.
    pub(crate) agent: tokio::sync::Mutex<Agent>,
}

/// Where the processes of a running pod are.
#[derive(Debug, Clone)]
pub(crate) struct PodPlace {
    /// The pod's cgroup.
    pub(crate) cgroup: PathBuf,
    /// Containers that run: name, process and environment.
    pub(crate) containers: Vec<(String, u32, BTreeMap<String, String>)>,
}

impl Node {
    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.plan.name
    }

    /// The cgroup of its own processes.
    pub(crate) fn system_cgroup(&self) -> PathBuf {
        self.cgroup.join("system")
    }

    /// A command in all of its namespaces.
    pub(crate) fn enter(&self, argv: Vec<String>) -> Enter {
        Enter::of(self.holder.pid(), self.system_cgroup(), argv)
    }

    /// A path of the node as the daemon sees it. No part of it may be a symbolic link to an absolute path.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        enter::seen_by(self.holder.pid(), path.as_ref())
    }
}

impl Lab {
    /// Makes the machines and connects them.
    pub(crate) fn build(options: Options) -> Result<Lab> {
        let place = Place::of(&options.name);
        let cgroup = place.cgroup()?;
        let plan = Plan::of(&options);
        let network = |name: &str| Holding { hostname: name.to_owned(), cgroup: cgroup.join(name), kind: Kind::Network };
        let router = Holder::start(&network("router"), None)?;
        let client = Holder::start(&host(&plan, &place, &cgroup, "client")?, None)?;
        let nodes = plan
            .nodes
            .iter()
            .map(|node| {
                let holding = host(&plan, &place, &cgroup, &node.name)?;
                Ok(Arc::new(Node {
                    plan: node.clone(),
                    holder: Holder::start(&holding, None)?,
                    cgroup: holding.cgroup,
                    agent: tokio::sync::Mutex::new(Agent::default()),
                }))
            })
            .collect::<Result<Vec<Arc<Node>>>>()?;
        let pids: Vec<u32> = nodes.iter().map(|node| node.holder.pid()).collect();
        underlay::build(&plan, options.underlay, router.pid(), client.pid(), &pids)?;
        let _outside = start_outside(&plan, &place, &cgroup, client.pid())?;
        Ok(Lab { options, plan, place, cgroup, router, client, _outside, nodes, pods: Mutex::default() })
    }

    /// The node of a name.
    pub(crate) fn node(&self, name: &str) -> Result<&Arc<Node>> {
        self.nodes.iter().find(|node| node.name() == name).with_context(|| format!("no node {name}; there are n1 to n{}", self.nodes.len()))
    }

    /// A running pod's processes are now these; none when it is gone.
    pub(crate) fn set_pod(&self, namespace: &str, name: &str, place: Option<PodPlace>) {
        let key = (namespace.to_owned(), name.to_owned());
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        match place {
            Some(place) => pods.insert(key, place),
            None => pods.remove(&key),
        };
    }

    /// Where a command for `whom` runs.
    pub(crate) fn find(&self, whom: &Whom) -> Result<Target> {
        let plain = |holder: &Holder, cgroup: PathBuf| Target { pid: holder.pid(), cgroup, env: None };
        match whom {
            Whom::Client => Ok(plain(&self.client, self.cgroup.join("client"))),
            Whom::Router => Ok(plain(&self.router, self.cgroup.join("router"))),
            Whom::Node { name } => {
                let node = self.node(name)?;
                Ok(plain(&node.holder, node.system_cgroup()))
            }
            Whom::Pod { namespace, name, container } => self.find_pod(namespace, name, container.as_deref()),
        }
    }

    fn find_pod(&self, namespace: &str, name: &str, container: Option<&str>) -> Result<Target> {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pod) = pods.get(&(namespace.to_owned(), name.to_owned())) else {
            let elsewhere: Vec<&str> = pods.keys().filter(|(_, other)| other == name).map(|(namespace, _)| namespace.as_str()).collect();
            if elsewhere.is_empty() {
                bail!("no running pod {namespace}/{name}");
            }
            bail!("no running pod {namespace}/{name}; there is one in namespace {}", elsewhere.join(", "));
        };
        let found = match container {
            None => pod.containers.first(),
            Some(container) => pod.containers.iter().find(|(name, ..)| name == container),
        };
        let (_, pid, env) = found.with_context(|| match container {
            None => format!("no container of pod {namespace}/{name} runs"),
            Some(container) => format!("no container {container} of pod {namespace}/{name} runs"),
        })?;
        Ok(Target { pid: *pid, cgroup: pod.cgroup.clone(), env: Some(env.clone()) })
    }
}

/// A node or the client: a host with files of its own.
fn host(plan: &Plan, place: &Place, cgroup: &Path, name: &str) -> Result<Holding> {
    let stage = place.directory().join("roots").join(name);
    fs::create_dir_all(&stage)?;
    let hosts = plan
        .nodes
        .iter()
        .flat_map(|node| node.ips().into_iter().map(|ip| format!("{ip} {}\n", node.name)))
        .chain(plan.client.values().map(|address| format!("{} client\n", address.addr())))
        .collect();
    let resolv_conf = plan.client.values().map(|address| format!("nameserver {}\n", address.addr())).collect();
    Ok(Holding { hostname: name.to_owned(), cgroup: cgroup.join(name), kind: Kind::Host { stage, hosts, resolv_conf } })
}

/// Starts the servers of the host outside and waits until they listen.
fn start_outside(plan: &Plan, place: &Place, cgroup: &Path, client: u32) -> Result<std::process::Child> {
    use std::io::Read;
    let addresses: Vec<String> = plan.client_ips().iter().map(ToString::to_string).collect();
    let argv = [enter::SELF, crate::outside::COMMAND, &addresses.join(",")].map(str::to_owned).to_vec();
    let mut enter = Enter::of(client, cgroup.join("client"), argv);
    enter.namespaces.retain(|kind| *kind != Namespace::Cgroup);
    enter.notify = true;
    enter.keep_stdin = true;
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let log = log_file(&place.logs().join("client.log"))?;
    let child = enter
        .command()?
        .stdin(std::os::fd::OwnedFd::from(theirs))
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start the servers outside")?;
    let mut said = [0; 2];
    ours.read_exact(&mut said).context("the servers outside ended at once; see the client's log")?;
    Ok(child)
}

/// Opens a log for appending.
pub(crate) fn log_file(path: &Path) -> Result<fs::File> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("open {}", path.display()))
}
