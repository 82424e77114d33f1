//! The agent's side of CNI: ADD, DEL, CHECK, GC, STATUS for the plugin's front.
//!
//! Invariants: ADD answers only when the pod's policy is in the kernel; until then the pod's interface drops everything, since its addresses
//! are in none of the maps that let packets pass. An address is given out again only after the kernel has let go of its former owner, and other
//! nodes have heard that it is that one's no more ([`super::resting`]).

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bowline_cni::wire::{AddRequest, CheckRequest, DelRequest, GcRequest, Reply, Request, accept_one, answer};
use bowline_cni::{CniError, CniResult, Interface, IpConfig, PodIdentity, Route, code, journal};
use bowline_compile::ipam::{AddressRange, AttachmentKey, IpamError, Pool, Want, host_ifname, host_mac, pod_mac};
use bowline_compile::world::{Attached, Change};
use bowline_kernel::netlink::Netlink;
use bowline_kernel::netns::NetNs;
use bowline_kernel::pod::{self, PodLinkSpec};
use bowline_model::intent::pods::{HostPort, PodIntent};
use bowline_model::{Dual, Family, PodName};
use ipnet::IpNet;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::apply::Applied;
use super::attachments::{Record, Records};
use super::resting::{Owner, Resting};
use super::turn::Published;
use crate::watch::Unheard;

/// How long ADD waits for the pod to be known and its policy to be in force before the runtime is told to try again.
const POLICY_WAIT: Duration = Duration::from_secs(20);

/// How long ADD waits for an agent that has just started: a pod that comes while one replaces another should not be held up by a retry.
const START_WAIT: Duration = Duration::from_secs(10);

/// How long an attachment has had no interface when it is collected: a DEL that an agent's end cut short leaves it so. An ADD makes the interface
/// within moments of writing the attachment down.
const LINKLESS: Duration = Duration::from_secs(5);

/// How long its pod has been unknown: the API server may tell of a pod later than the runtime.
const UNKNOWN: Duration = Duration::from_secs(30);

/// How long ADD waits for an address where all that are free were others' a moment ago, and the time between two looks.
const REST_WAIT: Duration = Duration::from_secs(15);
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// How often is looked for addresses that have rested.
const LOOK_AT_REST: Duration = Duration::from_secs(1);

/// How long DEL waits for the kernel to let go before the address is kept back instead.
const RELEASE_WAIT: Duration = Duration::from_secs(10);

/// The agent's side of CNI.
pub(crate) struct CniServer {
    records: Records,
    state_dir: std::path::PathBuf,
    pool: Mutex<Pool>,
    held: Mutex<BTreeMap<AttachmentKey, Record>>,
    resting: Arc<Mutex<Resting>>,
    changes: mpsc::Sender<Change>,
    published: watch::Receiver<Published>,
    applied: watch::Receiver<Applied>,
    unheard: watch::Receiver<Unheard>,
    /// Counts releases, so that the address that has been free longest is known without a clock.
    releases: AtomicU64,
    runtime: Handle,
}

/// What the server hears from and speaks to.
pub(crate) struct Channels {
    /// To the turn.
    pub(crate) changes: mpsc::Sender<Change>,
    /// From the turn.
    pub(crate) published: watch::Receiver<Published>,
    /// From the kernel thread.
    pub(crate) applied: watch::Receiver<Applied>,
    /// From the watches: what policies are made of and is not heard.
    pub(crate) unheard: watch::Receiver<Unheard>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn again(msg: impl Into<String>, details: impl Into<String>) -> CniError {
    CniError::new(code::TRY_AGAIN_LATER, msg).details(details)
}

fn io_failure(msg: &str, error: impl std::fmt::Display) -> CniError {
    CniError::new(code::IO_FAILURE, msg).details(error.to_string())
}

impl CniServer {
    /// Reads the records of former lives and tells the turn of each.
    ///
    /// # Errors
    /// When the state directory cannot be used.
    pub(crate) async fn open(state_dir: &std::path::Path, channels: Channels) -> io::Result<CniServer> {
        let records = Records::open(state_dir)?;
        let loaded = records.load()?;
        for (path, reason) in loaded.unreadable {
            tracing::warn!(path = %path.display(), reason, "attachment record unreadable, left aside");
        }
        let mut held = BTreeMap::new();
        let mut pool = Pool::default();
        let mut resting = Resting::default();
        for record in loaded.released {
            let key = AttachmentKey::new(&record.container_id, &record.ifname);
            if let Some(owner) = owner(&record) {
                resting.let_go(&owner, record.intent.ips.values().copied(), Instant::now());
            }
            // It has been used: those that were not go first.
            if pool.restore(&key, record.intent.ips).is_ok() {
                pool.release(&key, 0);
            }
        }
        for record in loaded.records {
            let key = AttachmentKey::new(&record.container_id, &record.ifname);
            if let Err(error) = pool.restore(&key, record.intent.ips) {
                tracing::warn!(%error, container = record.container_id, "attachment of a former life not taken up");
                continue;
            }
            let _ = channels.changes.send(attached(&record)).await;
            held.insert(key, record);
        }
        tracing::info!(attachments = held.len(), "attachments of former lives taken up");
        let resting = Arc::new(Mutex::new(resting));
        tokio::spawn(look_at_rest(records.clone(), resting.clone(), channels.published.clone()));
        Ok(CniServer {
            records,
            state_dir: state_dir.to_owned(),
            pool: Mutex::new(pool),
            held: Mutex::new(held),
            resting,
            changes: channels.changes,
            published: channels.published,
            applied: channels.applied,
            unheard: channels.unheard,
            releases: AtomicU64::new(1),
            runtime: Handle::current(),
        })
    }

    /// Serves connections, one thread each, until the listener is closed.
    pub(crate) fn serve(self: &Arc<Self>, listener: &UnixListener) {
        for stream in listener.incoming() {
            match stream {
                Ok(stream) => {
                    let server = self.clone();
                    let spawned = std::thread::Builder::new().name("cni".into()).spawn(move || server.converse(&stream));
                    if let Err(error) = spawned {
                        tracing::warn!(%error, "no thread for a CNI call");
                    }
                }
                Err(error) => tracing::warn!(%error, "CNI connection refused by the kernel"),
            }
        }
    }

    fn converse(&self, stream: &UnixStream) {
        let (request, netns) = match accept_one(stream) {
            Ok(got) => got,
            Err(error) => {
                tracing::warn!(%error, "CNI request refused");
                return;
            }
        };
        let reply = self.handle(&request, netns);
        if let Reply::Failed(error) = &reply {
            tracing::warn!(request = verb(&request), code = error.code, error = error.msg, details = error.details, "CNI call failed");
        }
        if let Err(error) = answer(stream, &reply) {
            tracing::warn!(%error, "CNI answer not taken; the runtime will call again");
        }
    }

    fn handle(&self, request: &Request, netns: Option<OwnedFd>) -> Reply {
        let result = match (request, netns) {
            (Request::Add(add), Some(netns)) => self.add(add, netns).map(Reply::Added),
            (Request::Check(check), Some(netns)) => self.check(check, netns).map(Reply::Checked),
            (Request::Del(del), _) => self.del(del).map(|()| Reply::Done),
            (Request::Gc(gc), _) => self.gc(gc).map(|()| Reply::Done),
            (Request::Status(_), _) => self.status().map(|()| Reply::Done),
            (Request::Add(_) | Request::Check(_), None) => {
                Err(CniError::new(code::INVALID_ENVIRONMENT, "no network namespace came with the call"))
            }
        };
        result.unwrap_or_else(Reply::Failed)
    }

    /// Whether ADD could work now.
    fn status(&self) -> Result<(), CniError> {
        let not_yet = |what: &str| CniError::new(code::NOT_AVAILABLE, "the node's network is not ready").details(what);
        if !self.published.borrow().synced {
            return Err(not_yet("waiting for the first lists of the API server"));
        }
        let applied = self.applied.borrow();
        if applied.intent.revision == 0 {
            return Err(not_yet("the first state is not in the kernel yet"));
        }
        match &applied.intent.routes.local {
            Some(local) if !local.pod_cidrs.is_empty() => Ok(()),
            _ => Err(not_yet("this node has no pod subnet yet (spec.podCIDRs of its Node)")),
        }
    }

    fn add(&self, request: &AddRequest, netns: OwnedFd) -> Result<CniResult, CniError> {
        if request.prev_result.as_ref().is_some_and(|prev| prev.interfaces.iter().any(|i| i.name == request.ifname && i.sandbox.is_some()))
        {
            return Ok(CniResult::default());
        }
        let serves = |applied: &Applied| applied.intent.routes.local.as_ref().is_some_and(|local| !local.pod_cidrs.is_empty());
        if self.wait_applied(START_WAIT, serves).is_err() {
            self.status().map_err(|e| again(e.msg, e.details))?;
        }
        let key = AttachmentKey::new(&request.container_id, &request.ifname);
        let record = self.record(request, &key)?;
        let done = self.attach(&record, netns);
        if done.is_err() {
            // The runtime is told why the pod could not be attached; what is left of it the collector finds.
            let _ = self.release(&key, &record);
        }
        done
    }

    /// Decides what the container gets and writes it down.
    fn record(&self, request: &AddRequest, key: &AttachmentKey) -> Result<Record, CniError> {
        let ips = self.allocate(request, key).map_err(|e| {
            let code = if e.may_retry() { code::TRY_AGAIN_LATER } else { code::INVALID_CONFIG };
            CniError::new(code, "no address for the pod").details(e.to_string())
        })?;
        let host_ifname = host_ifname(key);
        let intent = PodIntent {
            pod: request.pod.as_ref().map(|p| PodName::new(p.namespace.as_str(), p.name.as_str())),
            mac: request.runtime.mac.unwrap_or_else(|| pod_mac(key)),
            host_mac: host_mac(key),
            host_ifname: host_ifname.as_str().into(),
            ips,
            host_ports: request
                .runtime
                .port_mappings
                .iter()
                .filter_map(|m| {
                    let host_port = m.host_port?;
                    Some(HostPort { host_ip: m.host_ip, host_port, container_port: m.container_port, protocol: m.protocol })
                })
                .collect(),
        };
        let record = Record {
            network: request.network.clone(),
            container_id: request.container_id.clone(),
            ifname: request.ifname.clone(),
            pod_uid: request.pod.as_ref().and_then(|p| p.uid.clone()),
            netns: request.netns.clone(),
            mtu_bytes: self.applied.borrow().pod_mtu_bytes,
            intent,
        };
        self.records.write(&record).map_err(|e| io_failure("the attachment cannot be written down", e))?;
        lock(&self.held).insert(key.clone(), record.clone());
        Ok(record)
    }

    /// Takes addresses; waits for some where all that are free were others' a moment ago.
    fn allocate(&self, request: &AddRequest, key: &AttachmentKey) -> Result<Dual<IpAddr>, IpamError> {
        let (want, begun) = (want(request), Instant::now());
        let named = |pod: &PodIdentity| Owner { pod: PodName::new(pod.namespace.as_str(), pod.name.as_str()), uid: pod.uid.clone() };
        let asker = request.pod.as_ref().map(named);
        loop {
            let claims = self.published.borrow().claims.clone();
            let given = self.with_pool(|pool| {
                let (mut resting, now) = (lock(&self.resting), Instant::now());
                let given = pool.allocate(key, &want, &|address| resting.may_have(address, asker.as_ref(), &claims, now))?;
                resting.given(given.values());
                Ok(given)
            });
            match given {
                Err(error) if IpamError::is_kept_back(&error) && begun.elapsed() < REST_WAIT => std::thread::sleep(BETWEEN_LOOKS),
                given => return given,
            }
        }
    }

    fn attach(&self, record: &Record, netns: OwnedFd) -> Result<CniResult, CniError> {
        let namespace = NetNs::from_fd(netns);
        let mut node = Netlink::open().map_err(|e| io_failure("no netlink socket", e))?;
        pod::attach(&mut node, &namespace, &link_spec(record)).map_err(|e| io_failure("the pod's interface cannot be made", e))?;
        // Only now: what is written from the intent has to be the last word on the pod's route.
        self.tell(attached(record))?;
        let name = record.intent.host_ifname.clone();
        self.wait_applied(POLICY_WAIT, |applied| applied.holds_pod(&name)).map_err(|_| {
            let why = if self.published.borrow().intent.policy.pods.contains_key(&name) {
                "its policy is not in the kernel yet"
            } else {
                "the API server has not told of the pod yet"
            };
            again("the pod's policy is not in force, so the pod stays closed", why)
        })?;
        // The pod is newer than what a watch that broke has told: there may be policies for it of which nothing is known yet.
        self.wait(&self.unheard, POLICY_WAIT, Unheard::is_empty).map_err(|_| {
            let kinds: Vec<String> = self.unheard.borrow().iter().map(ToString::to_string).collect();
            again("policies may have changed without this node's hearing", format!("no watch of {} at the moment", kinds.join(", ")))
        })?;
        Ok(result(record))
    }

    fn del(&self, request: &DelRequest) -> Result<(), CniError> {
        let key = AttachmentKey::new(&request.container_id, &request.ifname);
        let record = lock(&self.held).get(&key).cloned();
        if let Some(record) = record {
            self.detach(&record)?;
            return self.release(&key, &record);
        }
        // Nothing is known of it: a link of that name can still be there if the record was lost.
        let mut node = Netlink::open().map_err(|e| io_failure("no netlink socket", e))?;
        pod::detach(&mut node, &host_ifname(&key)).map_err(|e| io_failure("the pod's interface cannot be removed", e))
    }

    fn detach(&self, record: &Record) -> Result<(), CniError> {
        let mut node = Netlink::open().map_err(|e| io_failure("no netlink socket", e))?;
        pod::detach(&mut node, &record.intent.host_ifname).map_err(|e| io_failure("the pod's interface cannot be removed", e))
    }

    /// Lets go of everything: kernel first, then the address, then the record. What cannot be finished stays for the collector.
    ///
    /// # Errors
    /// When the agent ends meanwhile: who asks once more is answered by the next one.
    fn release(&self, key: &AttachmentKey, record: &Record) -> Result<(), CniError> {
        if self.detach(record).is_err() {
            return Ok(());
        }
        self.tell(Change::Detached(record.intent.host_ifname.clone()))?;
        let name = record.intent.host_ifname.clone();
        match self.wait_applied(RELEASE_WAIT, |applied| applied.lets_go_of(&name)) {
            Ok(()) => {}
            Err(Unfinished::InTime) => {
                tracing::warn!(link = %name, "the kernel still holds a removed pod; its address is kept back");
                return Ok(());
            }
            Err(Unfinished::Ever) => return Err(again("the agent is stopping", "")),
        }
        let removed = match owner(record) {
            Some(owner) => {
                lock(&self.resting).let_go(&owner, record.intent.ips.values().copied(), Instant::now());
                self.records.release(&name)
            }
            None => self.records.remove(&name),
        };
        if let Err(error) = removed {
            tracing::warn!(%error, link = %name, "attachment record cannot be removed");
            return Ok(());
        }
        lock(&self.held).remove(key);
        let freed_at = self.releases.fetch_add(1, Ordering::Relaxed);
        let _ = self.with_pool(|pool| pool.release(key, freed_at));
        Ok(())
    }

    fn check(&self, request: &CheckRequest, netns: OwnedFd) -> Result<CniResult, CniError> {
        let key = AttachmentKey::new(&request.container_id, &request.ifname);
        let record = lock(&self.held).get(&key).cloned().ok_or_else(|| {
            CniError::new(code::UNKNOWN_CONTAINER, "the container is not attached to this network")
                .details(format!("{} {}", request.container_id, request.ifname))
        })?;
        let mut node = Netlink::open().map_err(|e| io_failure("no netlink socket", e))?;
        let differences = pod::check(&mut node, &NetNs::from_fd(netns), &link_spec(&record))
            .map_err(|e| io_failure("the pod's interface cannot be read", e))?;
        if !differences.is_empty() {
            return Err(CniError::new(code::CHECK_FAILED, "the pod's interface is not as it was made").details(differences.join("; ")));
        }
        Ok(result(&record))
    }

    fn gc(&self, request: &GcRequest) -> Result<(), CniError> {
        let stale: Vec<(AttachmentKey, Record)> = lock(&self.held)
            .iter()
            .filter(|(_, record)| record.network == request.network)
            .filter(|(_, record)| !request.valid.iter().any(|v| v.container_id == record.container_id && v.ifname == record.ifname))
            .map(|(key, record)| (key.clone(), record.clone()))
            .collect();
        for (key, record) in stale {
            tracing::info!(container = record.container_id, link = %record.intent.host_ifname, "attachment collected");
            self.release(&key, &record)?;
        }
        Ok(())
    }

    /// Deletions that the plugin journalled while no agent was there.
    pub(crate) fn replay_journal(&self) {
        let listing = match journal::list(&self.state_dir) {
            Ok(listing) => listing,
            Err(error) => {
                tracing::warn!(%error, "journal of deletions unreadable");
                return;
            }
        };
        for entry in listing.entries {
            let request = DelRequest { network: entry.network, container_id: entry.container_id, ifname: entry.ifname };
            match self.del(&request) {
                Ok(()) => {
                    if let Err(error) = journal::remove(&self.state_dir, &request.container_id, &request.ifname) {
                        tracing::warn!(%error, container = request.container_id, "journalled deletion done but not forgotten");
                    }
                }
                Err(error) => {
                    tracing::warn!(error = error.msg, container = request.container_id, "journalled deletion failed; tried again later")
                }
            }
        }
    }

    /// Collects what no DEL came for: attachments whose interface or pod has been gone for a while, of which `gone` says since when.
    pub(crate) fn collect(&self, gone: &mut BTreeMap<Arc<str>, Instant>) {
        let Ok(mut node) = Netlink::open() else { return };
        let orphans = self.published.borrow().orphans.clone();
        let (now, mut still) = (Instant::now(), BTreeMap::new());
        let held: Vec<(AttachmentKey, Record)> = lock(&self.held).iter().map(|(k, r)| (k.clone(), r.clone())).collect();
        for (key, record) in held {
            let name = record.intent.host_ifname.clone();
            let patience = match node.link(&name) {
                Ok(None) => LINKLESS,
                _ if orphans.contains(&name) => UNKNOWN,
                _ => continue,
            };
            let since = gone.get(&name).copied().unwrap_or(now);
            if now.duration_since(since) < patience {
                still.insert(name, since);
                continue;
            }
            tracing::info!(container = record.container_id, link = %name, "attachment without pod or interface collected");
            if self.release(&key, &record).is_err() {
                return;
            }
        }
        *gone = still;
    }

    /// Runs `f` on the node's address pool, with the subnets that the node has now.
    fn with_pool<T>(&self, f: impl FnOnce(&mut Pool) -> T) -> T {
        let cidrs: Vec<IpNet> = self.published.borrow().intent.routes.local.as_ref().map(|l| l.pod_cidrs.clone()).unwrap_or_default();
        let mut pool = lock(&self.pool);
        if !pool.cidrs().eq(cidrs.iter().copied()) {
            pool.set_cidrs(cidrs);
        }
        f(&mut pool)
    }

    fn tell(&self, change: Change) -> Result<(), CniError> {
        self.changes.blocking_send(change).map_err(|_| again("the agent is stopping", ""))
    }

    fn wait_applied(&self, limit: Duration, good: impl FnMut(&Applied) -> bool) -> Result<(), Unfinished> {
        self.wait(&self.applied, limit, good)
    }

    fn wait<T>(&self, state: &watch::Receiver<T>, limit: Duration, good: impl FnMut(&T) -> bool) -> Result<(), Unfinished> {
        let mut state = state.clone();
        self.runtime.block_on(async move {
            match tokio::time::timeout(limit, state.wait_for(good)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_)) => Err(Unfinished::Ever),
                Err(_) => Err(Unfinished::InTime),
            }
        })
    }
}

/// Follows who is named by a status, and forgets what has rested, in memory and on the disk, until the turn ends.
async fn look_at_rest(records: Records, resting: Arc<Mutex<Resting>>, mut published: watch::Receiver<Published>) {
    loop {
        // Time passes without a change, too.
        if let Ok(Err(_)) = tokio::time::timeout(LOOK_AT_REST, published.changed()).await {
            return;
        }
        let claims = published.borrow_and_update().claims.clone();
        if !lock(&resting).look(&claims, Instant::now()) {
            continue;
        }
        let (records, resting) = (records.clone(), resting.clone());
        let forgotten = tokio::task::spawn_blocking(move || {
            records.forget_released(|record| record.intent.ips.values().any(|address| lock(&resting).is_kept(address)))
        });
        if let Ok(Err(error)) = forgotten.await {
            tracing::warn!(%error, "records of attachments that are gone cannot be removed");
        }
    }
}

/// Why what was waited for did not come.
enum Unfinished {
    /// It may yet.
    InTime,
    /// The agent ends.
    Ever,
}

fn verb(request: &Request) -> &'static str {
    match request {
        Request::Add(_) => "ADD",
        Request::Del(_) => "DEL",
        Request::Check(_) => "CHECK",
        Request::Gc(_) => "GC",
        Request::Status(_) => "STATUS",
    }
}

/// Whose an attachment is.
fn owner(record: &Record) -> Option<Owner> {
    Some(Owner { pod: record.intent.pod.clone()?, uid: record.pod_uid.clone() })
}

/// The addresses that the runtime asks for.
fn want(request: &AddRequest) -> Want {
    let ranges = request.runtime.ip_ranges.iter().flatten().map(|range| {
        let usable = AddressRange::usable(&range.subnet);
        AddressRange { first: range.start.unwrap_or(usable.first), last: range.end.unwrap_or(usable.last) }
    });
    Want { ips: request.runtime.ips.clone(), ranges: ranges.collect() }
}

/// What the turn is told of a record.
fn attached(record: &Record) -> Change {
    Change::Attached(Box::new(Attached {
        container_id: record.container_id.as_str().into(),
        ifname: record.ifname.as_str().into(),
        pod_uid: record.pod_uid.as_deref().map(Into::into),
        intent: record.intent.clone(),
    }))
}

fn link_spec(record: &Record) -> PodLinkSpec {
    PodLinkSpec {
        host_ifname: record.intent.host_ifname.to_string(),
        host_mac: record.intent.host_mac,
        pod_ifname: record.ifname.clone(),
        pod_mac: record.intent.mac,
        ips: record.intent.ips,
        mtu_bytes: record.mtu_bytes,
    }
}

/// What the runtime is told: both ends of the interface, the addresses, and a default route of each family.
fn result(record: &Record) -> CniResult {
    let interface = |name: &str, mac: String, sandbox: Option<String>| Interface {
        name: name.to_owned(),
        mac,
        mtu: Some(record.mtu_bytes),
        sandbox,
        socket_path: None,
        pci_id: None,
    };
    let interfaces = vec![
        interface(&record.intent.host_ifname, record.intent.host_mac.to_string(), None),
        interface(&record.ifname, record.intent.mac.to_string(), Some(record.netns.clone())),
    ];
    let (mut ips, mut routes) = (Vec::new(), Vec::new());
    for (family, ip) in record.intent.ips.iter() {
        let gateway = pod::gateway(family);
        ips.push(IpConfig { interface: Some(1), address: IpNet::from(*ip), gateway: Some(gateway) });
        routes.push(Route::via(default_route(family), gateway));
    }
    CniResult { interfaces, ips, routes, ..CniResult::default() }
}

fn default_route(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::V4(ipnet::Ipv4Net::default()),
        Family::V6 => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}
