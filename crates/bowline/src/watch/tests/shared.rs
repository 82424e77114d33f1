//! All kinds over one line: how many questions a server meets that is away, and one that returns.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answers::{Log, Then, client, list, pieces, refusal, text, unreachable};
use crate::watch::time::{self, Instant, sleep};
use crate::watch::{Guards, start};

/// Answers well.
const WELL: u16 = 200;
/// Is not there.
const AWAY: u16 = 0;

/// A server that answers as the number says.
fn server() -> (kube::Client, Log, Arc<AtomicU16>) {
    let state = Arc::new(AtomicU16::new(WELL));
    let says = state.clone();
    let (client, log) = client(move |path| {
        let now = says.load(Ordering::Relaxed);
        let broken = says.clone();
        async move {
            match now {
                AWAY => unreachable(),
                WELL if path.contains("watch=true") => {
                    let (to, lines) = mpsc::unbounded_channel();
                    tokio::spawn(async move {
                        while broken.load(Ordering::Relaxed) == WELL {
                            sleep(Duration::from_millis(100)).await;
                        }
                        let _ = to.send(Err("connection reset".to_owned()));
                    });
                    super::answers::stream(lines)
                }
                WELL => text(200, list(10, &["n1"], "")),
                403 if path.contains("/pods?") => refusal(403, None),
                403 if path.contains("watch=true") => pieces(Vec::new(), Duration::ZERO, Then::Hangs),
                403 => text(200, list(10, &["n1"], "")),
                code => refusal(code, None),
            }
        }
    });
    (client, log, state)
}

fn run(client: &kube::Client) -> (mpsc::Receiver<bowline_compile::world::Change>, TaskTracker, CancellationToken) {
    guarded(client, &Guards::new(None))
}

fn guarded(client: &kube::Client, guards: &Guards) -> (mpsc::Receiver<bowline_compile::world::Change>, TaskTracker, CancellationToken) {
    let (to, changes) = mpsc::channel(1000);
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    start(client, "n1", (&to, guards), &tasks, &stop);
    (changes, tasks, stop)
}

#[test]
fn an_hour_away_costs_little_and_the_return_eight_watches() {
    time::run(async {
        for trouble in [AWAY, 401, 429, 500, 503] {
            let (client, log, state) = server();
            let (mut changes, tasks, stop) = run(&client);
            sleep(Duration::from_secs(10)).await;
            assert_eq!(log.lock().unwrap().len(), 16, "eight lists, eight watches");
            while changes.try_recv().is_ok() {}

            log.lock().unwrap().clear();
            state.store(trouble, Ordering::Relaxed);
            sleep(Duration::from_secs(3600)).await;
            let asked = log.lock().unwrap().len();
            assert!((3600 / 4..3600 / 2 + 16).contains(&asked), "{asked} questions in an hour of {trouble}");
            let shortest = log.lock().unwrap()[16..].windows(2).map(|pair| pair[1].at - pair[0].at).min().unwrap();
            assert!(shortest > Duration::from_millis(200), "two questions within {shortest:?} while {trouble}");

            log.lock().unwrap().clear();
            let returned = Instant::now();
            state.store(WELL, Ordering::Relaxed);
            sleep(Duration::from_secs(20)).await;
            let back = log.lock().unwrap().clone();
            let took = back.last().unwrap().at - returned;
            assert_eq!(back.len(), 8, "{back:#?}");
            assert!(back.iter().all(|asked| asked.path.contains("watch=true")));
            assert!(took < Duration::from_secs(5), "taken up after {took:?} of {trouble}");
            assert!(changes.try_recv().is_err(), "something changed by {trouble}");
            stop.cancel();
            tasks.close();
            tasks.wait().await;
            // Its watches end, so that nothing of it runs through the next hour.
            state.store(AWAY, Ordering::Relaxed);
        }
    });
}

#[test]
fn a_kind_that_is_forbidden_does_not_hold_up_the_others() {
    time::run(async {
        let (client, log, state) = server();
        state.store(403, Ordering::Relaxed);
        let (mut changes, _tasks, stop) = run(&client);
        sleep(Duration::from_secs(600)).await;
        let mut listed = 0;
        while changes.try_recv().is_ok() {
            listed += 1;
        }
        assert_eq!(listed, 7, "all but pods");
        let pods = log.lock().unwrap().iter().filter(|asked| asked.path.contains("/pods?")).count();
        assert!((20..50).contains(&pods), "{pods} questions for pods in ten minutes");
        stop.cancel();
    });
}

#[test]
fn a_kind_that_a_server_may_lack_is_none_and_asked_for_again() {
    use bowline_compile::world::{Change, Kind};
    let lacking = [(403, Kind::ServiceCidr, "/servicecidrs?"), (404, Kind::ServiceCidr, "/servicecidrs?")];
    let undefined = [403, 404].map(|code| (code, Kind::ClusterNetworkPolicy, "/v1alpha2/clusternetworkpolicies?"));
    for (code, lacked, path_of) in lacking.into_iter().chain(undefined) {
        time::run(async move {
            let lacks = Arc::new(AtomicU16::new(code));
            let now = lacks.clone();
            let (client, log) = client(move |path| {
                let code = now.load(Ordering::Relaxed);
                async move {
                    match code {
                        403 | 404 if path.contains(path_of) => refusal(code, None),
                        _ if path.contains("watch=true") => pieces(Vec::new(), Duration::ZERO, Then::Hangs),
                        _ => text(200, list(10, &["n1"], "")),
                    }
                }
            });
            let (mut changes, _tasks, stop) = run(&client);
            sleep(Duration::from_secs(3600)).await;
            let (mut lists, mut synced) = (0, 0);
            while let Ok(change) = changes.try_recv() {
                match change {
                    Change::Synced(kind) => {
                        assert_eq!(kind, lacked);
                        synced += 1;
                    }
                    Change::Replace(kind, _) => {
                        assert_ne!(kind, lacked);
                        lists += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            let asked = log.lock().unwrap().iter().filter(|asked| asked.path.contains(path_of)).count();
            let questions = if lacked == Kind::ServiceCidr { 5..60 } else { 30..150 };
            assert!(
                lists == 7 && synced > 0 && questions.contains(&asked),
                "{lists} lists, {synced} times none, {asked} questions in an hour"
            );
            lacks.store(WELL, Ordering::Relaxed);
            sleep(Duration::from_secs(700)).await;
            assert!(matches!(changes.try_recv(), Ok(Change::Replace(kind, _)) if kind == lacked), "it is there now");
            stop.cancel();
        });
    }
}

#[test]
fn a_kind_whose_definition_is_deleted_is_none_after_a_while_and_back_with_it() {
    use bowline_compile::world::{Change, Kind};
    time::run(async {
        let state = Arc::new(AtomicU16::new(WELL));
        let now = state.clone();
        let (client, _log) = client(move |path| {
            let code = now.load(Ordering::Relaxed);
            let broken = now.clone();
            async move {
                let of_kind = path.contains("/clusternetworkpolicies?");
                match code {
                    404 if of_kind => refusal(404, None),
                    _ if of_kind && path.contains("watch=true") => {
                        let (to, lines) = mpsc::unbounded_channel();
                        tokio::spawn(async move {
                            while broken.load(Ordering::Relaxed) == code {
                                sleep(Duration::from_millis(100)).await;
                            }
                            let _ = to.send(Err("connection reset".to_owned()));
                        });
                        super::answers::stream(lines)
                    }
                    _ if path.contains("watch=true") => pieces(Vec::new(), Duration::ZERO, Then::Hangs),
                    _ => text(200, list(10, &["n1"], "")),
                }
            }
        });
        let (mut changes, _tasks, stop) = run(&client);
        sleep(Duration::from_secs(10)).await;
        while changes.try_recv().is_ok() {}
        let mut of_kind = async |seconds| {
            sleep(Duration::from_secs(seconds)).await;
            let mut counts = Vec::new();
            while let Ok(change) = changes.try_recv() {
                if let Change::Replace(Kind::ClusterNetworkPolicy, objects) = change {
                    counts.push(objects.len());
                }
            }
            counts
        };
        state.store(404, Ordering::Relaxed);
        assert_eq!(of_kind(50).await, [0; 0], "too soon to be believed");
        assert_eq!(of_kind(600).await, [0], "its objects are gone with it, once");
        state.store(WELL, Ordering::Relaxed);
        assert_eq!(of_kind(130).await, [1], "it is there again");
        stop.cancel();
    });
}

/// What was told of ClusterNetworkPolicies, in order: the number of each list, nothing for "there is no such kind".
fn of_cluster_policies(changes: &mut mpsc::Receiver<bowline_compile::world::Change>) -> Vec<Option<usize>> {
    use bowline_compile::world::{Change, Kind};
    let mut told = Vec::new();
    while let Ok(change) = changes.try_recv() {
        match change {
            Change::Replace(Kind::ClusterNetworkPolicy, objects) => told.push(Some(objects.len())),
            Change::Synced(Kind::ClusterNetworkPolicy) => told.push(None),
            _ => {}
        }
    }
    told
}

/// An agent that starts while its server has only just come up does not take its word that there are no policies of the whole cluster.
#[test]
fn what_guarded_before_a_restart_is_not_given_up_for_a_refusal() {
    time::run(async {
        let directory = tempfile::tempdir().unwrap();
        let state = Arc::new(AtomicU16::new(WELL));
        let now = state.clone();
        let (client, _log) = client(move |path| {
            let code = now.load(Ordering::Relaxed);
            async move {
                match code {
                    403 | 404 if path.contains("/clusternetworkpolicies?") => refusal(code, None),
                    _ if path.contains("watch=true") => pieces(Vec::new(), Duration::ZERO, Then::Hangs),
                    _ => text(200, list(10, &["n1"], "")),
                }
            }
        });
        let life = async |code, seconds| {
            state.store(code, Ordering::Relaxed);
            let (mut changes, _tasks, stop) = guarded(&client, &Guards::new(Some(directory.path())));
            sleep(Duration::from_secs(seconds)).await;
            let mut told = of_cluster_policies(&mut changes);
            stop.cancel();
            // It is asked for again by chance, and told of again.
            told.dedup();
            told
        };
        assert_eq!(life(403, 9).await, [], "never seen, and a server that has just come up forbids everything");
        assert_eq!(life(403, 30).await, [None], "never seen, steadily forbidden");
        assert_eq!(life(404, 5).await, [None], "never seen, no such kind");
        assert_eq!(life(WELL, 10).await, [Some(1)]);
        assert_eq!(life(403, 3600).await, [], "there was one: forbidden is no answer");
        assert_eq!(life(404, 50).await, [], "nor is `no such kind`, yet");
        assert_eq!(life(404, 200).await.first(), Some(&Some(0)), "steadily it is");
        assert_eq!(life(404, 5).await, [None], "and that is remembered, too");
    });
}

/// Whoever adds a pod can see that what policies are made of is not heard.
#[test]
fn it_is_told_which_guards_are_not_heard() {
    use bowline_compile::world::Kind;
    time::run(async {
        let state = Arc::new(AtomicU16::new(WELL));
        let now = state.clone();
        let (client, _log) = client(move |path| {
            let (code, broken) = (now.load(Ordering::Relaxed), now.clone());
            async move {
                let of_kind = path.contains("/networkpolicies?");
                match code {
                    AWAY => unreachable(),
                    503 if of_kind => refusal(409, None),
                    _ if path.contains("watch=true") => {
                        let (to, lines) = mpsc::unbounded_channel();
                        tokio::spawn(async move {
                            while broken.load(Ordering::Relaxed) == code || !of_kind {
                                sleep(Duration::from_millis(100)).await;
                            }
                            let _ = to.send(Err("connection reset".to_owned()));
                        });
                        super::answers::stream(lines)
                    }
                    _ => text(200, list(10, &["n1"], "")),
                }
            }
        });
        let guards = Guards::new(None);
        let unheard = guards.unheard();
        let not_heard = || unheard.borrow().iter().copied().collect::<Vec<_>>();
        state.store(AWAY, Ordering::Relaxed);
        let (_changes, _tasks, stop) = guarded(&client, &guards);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(not_heard(), [Kind::Namespace, Kind::Pod, Kind::NetworkPolicy, Kind::ClusterNetworkPolicy]);
        state.store(WELL, Ordering::Relaxed);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(not_heard(), []);
        state.store(503, Ordering::Relaxed);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(not_heard(), [Kind::NetworkPolicy], "its watch broke, and does not begin again");
        state.store(WELL, Ordering::Relaxed);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(not_heard(), []);
        stop.cancel();
    });
}
