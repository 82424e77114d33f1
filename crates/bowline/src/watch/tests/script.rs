//! One kind against a script: each line is a question that must come, and its answer. What the world is told of it is the expectation.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use super::answers::{Answer, Asked, Then, bookmark, client, event, gone, list, object, pieces, refusal, stream, text, told, unreachable};
use crate::watch::follow::Follower;
use crate::watch::guard::Guards;
use crate::watch::line::Line;
use crate::watch::time;
use crate::watch::{NetworkPolicy, Node, Watchable};

/// A question, by parts of its path, and what is answered.
type Step = (&'static [&'static str], Box<dyn FnOnce() -> Answer + Send>);

/// A question without a version.
const NEWEST: &[&str] = &["networkpolicies?"];

fn step(asks: &'static [&'static str], answer: impl FnOnce() -> Answer + Send + 'static) -> Step {
    (asks, Box::new(answer))
}

/// A whole list.
fn whole(asks: &'static [&'static str], version: u64, names: &'static [&'static str]) -> Step {
    step(asks, move || text(200, list(version, names, "")))
}

/// A watch with these lines that goes on then.
fn watched(asks: &'static [&'static str], lines: Vec<String>, then: Then) -> Step {
    step(asks, move || pieces(lines, Duration::from_secs(6), then))
}

/// Follows a kind through the script until all is asked and nothing more comes of it.
async fn follow<T: Watchable>(steps: Vec<Step>) -> (Vec<String>, Vec<Asked>) {
    let steps = Arc::new(Mutex::new(VecDeque::from(steps)));
    let over = Arc::new(Notify::new());
    let ended = over.clone();
    let (client, log) = client(move |path| {
        let next = steps.lock().unwrap().pop_front();
        let over = over.clone();
        async move {
            let Some((asks, answer)) = next else {
                over.notify_one();
                return std::future::pending().await;
            };
            if asks == NEWEST {
                assert!(!path.contains("resourceVersion"), "{path} asks for a version");
            }
            assert!(asks.iter().all(|part| path.contains(part)), "{path} came, {asks:?} was expected");
            answer()
        }
    });
    let (to, mut changes) = mpsc::channel(1000);
    let follower = Follower::<T>::new(Arc::new(Line::new(client)), "n1".into(), to, Guards::new(None));
    let running = tokio::spawn(follower.run());
    time::timeout(Duration::from_secs(3600), ended.notified()).await.expect("the script was not played to its end");
    running.abort();
    let mut all = Vec::new();
    while let Ok(change) = changes.try_recv() {
        all.push(told(&change));
    }
    let log = log.lock().unwrap().clone();
    (all, log)
}

async fn check(steps: Vec<Step>, expected: &[&str]) -> Vec<Asked> {
    let (changes, log) = follow::<NetworkPolicy>(steps).await;
    assert_eq!(changes, expected, "{log:#?}");
    log
}

fn seconds(log: &[Asked], from: usize, to: usize) -> f64 {
    (log[to].at - log[from].at).as_secs_f64()
}

const FROM_10: &[&str] = &["networkpolicies?", "watch=true", "resourceVersion=10"];
const SINCE_10: &[&str] = &["networkpolicies?", "resourceVersion=10", "resourceVersionMatch=NotOlderThan"];
const OWN_NODE: &[&str] = &["/api/v1/nodes/n1"];

fn has_node() -> Step {
    step(OWN_NODE, || text(200, object("n1", 3).to_string()))
}

fn lacks_node() -> Step {
    step(OWN_NODE, || refusal(404, None))
}

#[test]
fn listed_then_watched_and_taken_up_where_it_stopped() {
    time::run(async {
        let lines =
            vec![event("ADDED", object("c", 11)), event("DELETED", object("a", 12)), bookmark(20), event("MODIFIED", object("b", 21))];
        check(
            vec![
                whole(NEWEST, 10, &["a", "b"]),
                watched(FROM_10, lines, Then::Ends),
                watched(&["watch=true", "resourceVersion=21", "allowWatchBookmarks=true"], vec![bookmark(30)], Then::Breaks),
                watched(&["watch=true", "resourceVersion=30"], vec![], Then::Ends),
            ],
            &["= a b", "+ c", "- a", "+ b"],
        )
        .await;
    });
}

#[test]
fn half_an_event_is_no_event() {
    time::run(async {
        let half = event("DELETED", object("a", 11))[..40].to_owned();
        check(
            vec![whole(NEWEST, 10, &["a"]), watched(FROM_10, vec![half], Then::Breaks), watched(FROM_10, vec![], Then::Breaks)],
            &["= a"],
        )
        .await;
    });
}

#[test]
fn a_watch_that_came_too_late_is_listed_from_memory() {
    time::run(async {
        check(
            vec![
                whole(NEWEST, 10, &["a", "b"]),
                watched(FROM_10, vec![gone()], Then::Hangs),
                whole(SINCE_10, 15, &["a", "b", "c"]),
                watched(&["watch=true", "resourceVersion=15"], vec![], Then::Ends),
            ],
            &["= a b", "= a b c"],
        )
        .await;
    });
}

#[test]
fn a_list_that_came_too_late_is_asked_for_without_a_version() {
    time::run(async {
        for code in [410, 504] {
            let too_large =
                r#"{"kind":"Status","status":"Failure","details":{"causes":[{"reason":"ResourceVersionTooLarge","message":"m"}]}}"#;
            check(
                vec![
                    whole(NEWEST, 10, &["a"]),
                    step(FROM_10, || refusal(410, None)),
                    step(SINCE_10, move || text(code, too_large)),
                    whole(NEWEST, 15, &["a"]),
                ],
                &["= a", "= a"],
            )
            .await;
        }
    });
}

#[test]
fn less_than_a_whole_list_is_nothing() {
    time::run(async {
        let cut = list(15, &["a", "b"], "")[..100].to_owned();
        let unread = [
            "",
            "{}",
            "<html>login</html>",
            r#"{"items":[]}"#,
            r#"{"metadata":{"resourceVersion":"9"}}"#,
            r#"{"metadata":{"resourceVersion":""},"items":[]}"#,
        ];
        let mut steps = vec![whole(NEWEST, 10, &["a", "b"]), watched(FROM_10, vec![gone()], Then::Ends)];
        for then in [Then::Ends, Then::Breaks, Then::Hangs] {
            let cut = cut.clone();
            steps.push(step(SINCE_10, move || pieces(vec![cut], Duration::ZERO, then)));
        }
        steps.extend(unread.map(|body| step(SINCE_10, move || text(200, body))));
        steps.push(whole(SINCE_10, 16, &["a", "b"]));
        let log = check(steps, &["= a b", "= a b"]).await;
        let stood = seconds(&log, 4, 5);
        assert!((20.0..24.5).contains(&stood), "a list that stood still was given up after {stood} s");
    });
}

#[test]
fn a_slow_list_is_waited_for() {
    time::run(async {
        let slow = list(10, &["a", "b"], "");
        let letters: Vec<String> = slow.chars().map(String::from).collect();
        let count = u32::try_from(letters.len()).unwrap();
        check(
            vec![step(NEWEST, move || pieces(letters, Duration::from_secs(60) / count, Then::Ends)), watched(FROM_10, vec![], Then::Ends)],
            &["= a b"],
        )
        .await;
    });
}

#[test]
fn pages_that_expired_half_way_are_forgotten() {
    time::run(async {
        check(
            vec![
                whole(NEWEST, 10, &["a", "b", "c"]),
                watched(FROM_10, vec![gone()], Then::Ends),
                step(SINCE_10, || text(200, list(15, &["a"], "to/ken=="))),
                step(&["continue=to%2Fken%3D%3D"], || text(200, list(15, &["b"], "more"))),
                step(&["continue=more"], || refusal(410, None)),
                step(NEWEST, || text(200, list(16, &["a", "b"], "again"))),
                step(&["continue=again"], || text(200, list(16, &["c"], ""))),
            ],
            &["= a b c", "= a b c"],
        )
        .await;
    });
}

#[test]
fn what_a_cluster_with_this_node_lacks_is_gone_at_once() {
    time::run(async {
        let log = check(
            vec![whole(NEWEST, 10, &["a"]), watched(FROM_10, vec![gone()], Then::Ends), whole(SINCE_10, 15, &[]), has_node()],
            &["= a", "="],
        )
        .await;
        assert!(seconds(&log, 1, 4) < 8.0);
    });
}

#[test]
fn an_empty_list_of_a_cluster_without_this_node_is_believed_after_a_minute() {
    time::run(async {
        let mut steps =
            vec![whole(NEWEST, 10, &["a", "b"]), watched(FROM_10, vec![gone()], Then::Ends), whole(SINCE_10, 15, &[]), lacks_node()];
        steps.extend([whole(NEWEST, 15, &[]), lacks_node()]);
        steps.extend([whole(NEWEST, 16, &["a", "b"]), watched(&["watch=true", "resourceVersion=16"], vec![gone()], Then::Ends)]);
        check(steps, &["= a b", "= a b"]).await;

        let first = std::sync::atomic::AtomicBool::new(true);
        let (client, log) = client(move |path| {
            let answer = match () {
                () if path.contains("/nodes/") => refusal(404, None),
                () if path.contains("watch") => text(200, gone()),
                () if first.swap(false, std::sync::atomic::Ordering::Relaxed) => text(200, list(10, &["a"], "")),
                () => text(200, list(20, &[], "")),
            };
            std::future::ready(answer)
        });
        let (to, mut changes) = mpsc::channel(1000);
        let running = tokio::spawn(Follower::<NetworkPolicy>::new(Arc::new(Line::new(client)), "n1".into(), to, Guards::new(None)).run());
        assert_eq!(told(&changes.recv().await.unwrap()), "= a");
        let begun = time::Instant::now();
        assert_eq!(told(&changes.recv().await.unwrap()), "=");
        let (took, asked) = (begun.elapsed().as_secs(), log.lock().unwrap().len());
        running.abort();
        assert!((60..66).contains(&took), "believed after {took} s");
        assert!(asked < 90, "{asked} questions in a minute");
    });
}

#[test]
fn an_older_list_is_not_believed() {
    time::run(async {
        check(
            vec![
                whole(NEWEST, 10, &["a", "b"]),
                watched(FROM_10, vec![bookmark(1000), gone()], Then::Ends),
                whole(&["resourceVersion=1000"], 999, &["a"]),
                whole(NEWEST, 998, &[]),
                whole(NEWEST, 1000, &["a", "b"]),
            ],
            &["= a b", "= a b"],
        )
        .await;
    });
}

#[test]
fn versions_that_go_back_are_another_store() {
    time::run(async {
        for line in [bookmark(9), event("MODIFIED", object("a", 9)), event("DELETED", object("a", 9))] {
            check(vec![whole(NEWEST, 10, &["a"]), watched(FROM_10, vec![line], Then::Hangs), whole(SINCE_10, 10, &["a"])], &["= a", "= a"])
                .await;
        }
    });
}

#[test]
fn versions_that_are_no_numbers_are_taken_as_they_come() {
    time::run(async {
        let named = |version: &str| list(1, &["a"], "").replace(r#""resourceVersion":"1""#, &format!(r#""resourceVersion":"{version}""#));
        let (first, second) = (named("zz"), named("aa"));
        check(
            vec![
                step(NEWEST, move || text(200, first)),
                watched(&["watch=true", "resourceVersion=zz"], vec![gone()], Then::Ends),
                step(&["resourceVersion=zz"], move || text(200, second)),
            ],
            &["= a", "= a"],
        )
        .await;
    });
}

#[test]
fn the_first_list_of_nodes_must_have_this_one() {
    time::run(async {
        let list_nodes: &[&str] = &["/api/v1/nodes?"];
        let (changes, _) = follow::<Node>(vec![
            whole(list_nodes, 10, &[]),
            whole(list_nodes, 11, &["n2"]),
            whole(list_nodes, 12, &["n1", "n2"]),
            watched(&["nodes?", "watch=true"], vec![event("DELETED", object("n1", 13)), gone()], Then::Ends),
            whole(list_nodes, 14, &["n2"]),
            whole(list_nodes, 15, &["n1", "n2"]),
        ])
        .await;
        assert_eq!(changes, ["= n1 n2", "- n1", "= n1 n2"]);
    });
}

#[test]
fn the_server_says_when_to_come_again() {
    time::run(async {
        let log = check(
            vec![
                step(NEWEST, || refusal(429, Some(17))),
                step(NEWEST, || refusal(503, None)),
                step(NEWEST, || refusal(401, None)),
                step(NEWEST, unreachable),
                whole(NEWEST, 10, &["a"]),
                step(FROM_10, || refusal(503, Some(9))),
            ],
            &["= a"],
        )
        .await;
        let (first, second) = (seconds(&log, 0, 1), seconds(&log, 5, 6));
        assert!((17.0..34.1).contains(&first), "came after {first} s, 17 were asked for");
        assert!((9.0..18.1).contains(&second), "came after {second} s, 9 were asked for");
        assert!(seconds(&log, 1, 4) < 8.0, "without being told to wait it was away for {} s", seconds(&log, 1, 4));
    });
}

#[test]
fn a_silent_watch_is_taken_up_anew() {
    time::run(async {
        let (kept, lines) = mpsc::unbounded_channel();
        let log =
            check(vec![whole(NEWEST, 10, &["a"]), step(FROM_10, move || stream(lines)), watched(FROM_10, vec![], Then::Ends)], &["= a"])
                .await;
        drop(kept);
        let silent = seconds(&log, 1, 2);
        assert!((150.0..152.0).contains(&silent), "taken up after {silent} s");
    });
}

#[test]
fn a_server_that_ends_every_watch_is_not_asked_in_a_ring() {
    time::run(async {
        let mut steps = vec![whole(NEWEST, 10, &["a"])];
        steps.extend((0..20).map(|_| step(FROM_10, || text(200, ""))));
        let log = check(steps, &["= a"]).await;
        let took = seconds(&log, 1, 20);
        assert!(took > 25.0, "20 watches in {took} s");
    });
}

#[test]
fn an_event_that_cannot_be_read_leads_to_a_list() {
    time::run(async {
        let unread = || event("SURPRISE", object("a", 11));
        check(
            vec![
                whole(NEWEST, 10, &["a"]),
                step(FROM_10, move || text(200, unread())),
                step(FROM_10, move || text(200, unread())),
                step(FROM_10, move || text(200, unread())),
                whole(SINCE_10, 12, &["a", "b"]),
            ],
            &["= a", "= a b"],
        )
        .await;
    });
}

#[test]
fn an_empty_list_of_a_cluster_without_this_node_is_doubted_also_where_nothing_was() {
    time::run(async {
        check(
            vec![
                whole(NEWEST, 10, &[]),
                lacks_node(),
                whole(NEWEST, 12, &[]),
                has_node(),
                watched(&["watch=true", "resourceVersion=12"], vec![event("ADDED", object("a", 13)), gone()], Then::Ends),
                whole(&["resourceVersion=13", "resourceVersionMatch"], 15, &["a"]),
            ],
            &["=", "+ a", "= a"],
        )
        .await;
    });
}
