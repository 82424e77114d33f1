//! An hour of every trouble in turn, by chance: what was always there is never missed, and what changed is known soon after.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bowline_compile::world::Change;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answers::{Answer, Then, bookmark, client, event, gone, object, pieces, refusal, stream, text, unreachable};
use crate::watch::time::{Instant, run, sleep};
use crate::watch::{Guards, start};

/// Kinds by their name in paths and in the world.
const KINDS: [&str; 8] =
    ["nodes", "namespaces", "pods", "services", "endpointslices", "networkpolicies", "clusternetworkpolicies", "servicecidrs"];

/// Objects of each kind that nobody ever deletes.
const STEADY: [&str; 3] = ["n1", "keep-1", "keep-2"];

/// How soon everything must be known after the server's return.
const KNOWN_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Away,
    Refuses(u16),
    CutsLists,
    ExpiresLists,
    EmptyLists,
    OldLists,
    SlowLists,
    EndsWatches,
}

const FAULTS: [Fault; 11] = [
    Fault::Away,
    Fault::Refuses(401),
    Fault::Refuses(429),
    Fault::Refuses(500),
    Fault::Refuses(503),
    Fault::CutsLists,
    Fault::ExpiresLists,
    Fault::EmptyLists,
    Fault::OldLists,
    Fault::SlowLists,
    Fault::EndsWatches,
];

type Objects = BTreeMap<&'static str, BTreeMap<String, u64>>;

/// A store and its server.
struct Server {
    fault: Fault,
    version: u64,
    objects: Objects,
    /// As it was at the return before the last, and at the last.
    old: (u64, Objects),
    last: (u64, Objects),
    history: Vec<(u64, &'static str, String)>,
    forgotten: u64,
    watches: Vec<(&'static str, mpsc::UnboundedSender<Result<String, String>>)>,
}

type Shared = Arc<Mutex<Server>>;

fn lock(server: &Shared) -> MutexGuard<'_, Server> {
    server.lock().unwrap()
}

impl Server {
    fn new() -> Server {
        let steady = STEADY.iter().map(|name| ((*name).to_owned(), 1)).collect::<BTreeMap<_, _>>();
        let objects: Objects = KINDS.iter().map(|kind| (*kind, steady.clone())).collect();
        let (old, last) = ((99, objects.clone()), (99, objects.clone()));
        Server { fault: Fault::None, version: 100, objects, old, last, history: Vec::new(), forgotten: 0, watches: Vec::new() }
    }

    /// Something is made or deleted.
    fn write(&mut self, chance: &mut StdRng) {
        let (kind, name) = (KINDS[chance.random_range(0..KINDS.len())], format!("o{}", chance.random_range(0..8)));
        self.version += 1;
        let objects = self.objects.get_mut(kind).unwrap();
        let line = if objects.remove(&name).is_some() {
            event("DELETED", object(&name, self.version))
        } else {
            objects.insert(name.clone(), self.version);
            event("ADDED", object(&name, self.version))
        };
        self.history.push((self.version, kind, line.clone()));
        self.watches.retain(|(of, to)| *of != kind || to.send(Ok(line.clone())).is_ok());
    }

    fn begin(&mut self, fault: Fault) {
        self.fault = fault;
        match fault {
            Fault::None => self.old = std::mem::replace(&mut self.last, (self.version, self.objects.clone())),
            Fault::Away | Fault::Refuses(_) => self.break_watches(),
            Fault::SlowLists | Fault::CutsLists | Fault::ExpiresLists | Fault::EmptyLists | Fault::OldLists | Fault::EndsWatches => {
                // The history is gone, so that the trouble with lists is met.
                self.forgotten = self.version;
                self.watches.drain(..).for_each(|(_, to)| drop(to.send(Ok(gone()))));
            }
        }
    }

    fn break_watches(&mut self) {
        self.watches.drain(..).for_each(|(_, to)| drop(to.send(Err("connection reset".to_owned()))));
    }

    fn answer(&mut self, path: &str) -> Answer {
        let (place, query) = path.split_once('?').unwrap_or((path, ""));
        match self.fault {
            Fault::Away => return unreachable(),
            Fault::Refuses(code) => return refusal(code, None),
            _ if place.ends_with("/nodes/n1") => {
                return if self.fault == Fault::EmptyLists { refusal(404, None) } else { text(200, object("n1", 1).to_string()) };
            }
            _ => {}
        }
        let kind = *KINDS.iter().find(|kind| place.rsplit('/').next() == Some(**kind)).unwrap();
        let since = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion=")).map(|text| text.parse::<u64>().unwrap());
        if query.contains("watch=true") {
            return self.watch(kind, since.unwrap());
        }
        let body = |version: u64, objects: &Objects| {
            let items: Vec<Value> = objects[kind].iter().map(|(name, version)| object(name, *version)).collect();
            json!({"metadata": {"resourceVersion": version.to_string()}, "items": items}).to_string()
        };
        let good = body(self.version, &self.objects);
        match self.fault {
            Fault::CutsLists => pieces(vec![good[..good.len() / 2].to_owned()], Duration::ZERO, Then::Breaks),
            Fault::ExpiresLists => refusal(410, None),
            Fault::EmptyLists => text(200, json!({"metadata": {"resourceVersion": self.version.to_string()}, "items": []}).to_string()),
            Fault::OldLists => text(200, body(self.old.0, &self.old.1)),
            Fault::SlowLists => pieces(vec![good[..9].to_owned(), good[9..].to_owned()], Duration::from_secs(2), Then::Ends),
            _ => text(200, good),
        }
    }

    fn watch(&mut self, kind: &'static str, since: u64) -> Answer {
        if since < self.forgotten || since > self.version {
            return text(200, gone());
        }
        if self.fault == Fault::EndsWatches {
            return text(200, bookmark(since));
        }
        let (to, lines) = mpsc::unbounded_channel();
        let late = self.history.iter().filter(|(version, of, _)| *of == kind && *version > since);
        late.for_each(|(_, _, line)| drop(to.send(Ok(line.clone()))));
        self.watches.push((kind, to));
        stream(lines)
    }
}

/// What the world would hold.
type View = Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>;

/// Folds changes, and sees that what is steady never goes.
async fn fold(view: View, mut changes: mpsc::Receiver<Change>, server: Shared) {
    while let Some(change) = changes.recv().await {
        let mut view = view.lock().unwrap();
        let kind = match &change {
            Change::Replace(kind, objects) => {
                view.insert(kind.to_string(), objects.iter().map(|object| object.key().name.to_string()).collect());
                kind.to_string()
            }
            Change::Upsert(object) => {
                let key = object.key();
                view.get_mut(&key.kind.to_string()).unwrap().insert(key.name.to_string());
                key.kind.to_string()
            }
            Change::Delete(key) => {
                view.get_mut(&key.kind.to_string()).unwrap().remove(&*key.name);
                key.kind.to_string()
            }
            other => panic!("{other:?}"),
        };
        let fault = lock(&server).fault;
        for steady in STEADY {
            assert!(view[&kind].contains(steady), "{steady} of {kind} went by {change:?} during {fault:?}");
        }
    }
}

fn wanted(server: &Shared) -> BTreeSet<(usize, Vec<String>)> {
    lock(server).objects.values().map(|objects| objects.keys().cloned().collect::<Vec<_>>()).map(|names| (names.len(), names)).collect()
}

fn seen(view: &View) -> BTreeSet<(usize, Vec<String>)> {
    view.lock().unwrap().values().map(|names| names.iter().cloned().collect::<Vec<_>>()).map(|names| (names.len(), names)).collect()
}

async fn hour(seed: u64) -> Duration {
    let mut chance = StdRng::seed_from_u64(seed);
    let server: Shared = Arc::new(Mutex::new(Server::new()));
    let (client, log) = client({
        let server = server.clone();
        move |path| std::future::ready(lock(&server).answer(&path))
    });
    let (to, changes) = mpsc::channel(16);
    let (tasks, stop, view) = (TaskTracker::new(), CancellationToken::new(), View::default());
    let folding = tokio::spawn(fold(view.clone(), changes, server.clone()));
    start(&client, "n1", (&to, &Guards::new(None)), &tasks, &stop);
    drop(to);
    let (begun, mut slowest) = (Instant::now(), Duration::ZERO);
    while begun.elapsed() < Duration::from_secs(3600) {
        sleep(Duration::from_secs(chance.random_range(1..20))).await;
        let fault = FAULTS[chance.random_range(0..FAULTS.len())];
        lock(&server).begin(fault);
        log.lock().unwrap().clear();
        let seconds = chance.random_range(1..50);
        for _ in 0..seconds {
            lock(&server).write(&mut chance);
            sleep(Duration::from_secs(1)).await;
        }
        let asked = log.lock().unwrap().len();
        // A list for each kind every second and a half or so, and the look at the node beside it.
        assert!(asked <= 24 + 6 * 2 * seconds, "seed {seed}: {asked} questions in {seconds} s of {fault:?}");
        lock(&server).begin(Fault::None);
        log.lock().unwrap().clear();
        let returned = Instant::now();
        while seen(&view) != wanted(&server) {
            assert!(!folding.is_finished(), "seed {seed}: {fault:?} took something away");
            let (wanted, seen) = (wanted(&server), seen(&view));
            assert!(returned.elapsed() < KNOWN_WITHIN, "seed {seed}: {seconds} s of {fault:?}: {wanted:?} is not {seen:?} after 5 s");
            sleep(Duration::from_millis(10)).await;
        }
        slowest = slowest.max(returned.elapsed());
        let asked = log.lock().unwrap().len();
        assert!(asked <= 24, "seed {seed}: {asked} questions after the return from {fault:?}");
    }
    assert!(!folding.is_finished(), "seed {seed}: something steady went");
    stop.cancel();
    slowest
}

#[test]
fn of_every_trouble_loses_nothing_and_comes_back_soon() {
    run(async {
        let mut slowest = Duration::ZERO;
        for seed in 0..3 {
            slowest = slowest.max(hour(seed).await);
        }
        println!("slowest return: {} ms", slowest.as_millis());
    });
}
