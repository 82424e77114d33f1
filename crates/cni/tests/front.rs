//! The plugin against an agent on a unix socket, and the journal where there is none.
#![allow(clippy::disallowed_methods, reason = "it keeps the time that the plugin waits")]
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bowline_cni::env::Variables;
use bowline_cni::plugin::{Outcome, run};
use bowline_cni::wire::{Reply, Request, accept_one, answer};
use bowline_cni::{CniError, CniResult, code, journal};
use serde_json::{Value, json};

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        Place { dir }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("cni.sock")
    }

    fn state(&self) -> &Path {
        self.dir.path()
    }

    /// An agent that answers as many calls as there are replies, and hands back what it was asked.
    fn agent(&self, replies: Vec<Reply>) -> JoinHandle<Vec<(Request, Option<OwnedFd>)>> {
        let listener = UnixListener::bind(self.socket()).unwrap();
        thread::spawn(move || {
            let serve = |reply: Reply| {
                let (stream, _) = listener.accept().unwrap();
                let asked = accept_one(&stream).unwrap();
                answer(&stream, &reply).unwrap();
                asked
            };
            replies.into_iter().map(serve).collect()
        })
    }

    fn config(&self, extra: Value) -> Value {
        let mut config = json!({
            "cniVersion": "1.1.0", "name": "bowline", "type": "bowline-cni", "connectTimeoutMs": 50,
            "socket": self.socket(), "stateDir": self.state(),
        });
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        config
    }

    fn call(&self, verb: &str, extra: Value) -> Outcome {
        call(verb, &self.config(extra))
    }

    fn journalled(&self) -> Vec<String> {
        let listing = journal::list(self.state()).unwrap();
        assert!(listing.unreadable.is_empty(), "{:?}", listing.unreadable);
        listing.entries.into_iter().map(|e| format!("{}/{}", e.container_id, e.ifname)).collect()
    }
}

fn call(verb: &str, config: &Value) -> Outcome {
    let vars: Variables = [
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", "abc"),
        ("CNI_IFNAME", "eth0"),
        // A namespace without being root: our own, allowed by the override.
        ("CNI_NETNS", "/proc/self/ns/net"),
        ("CNI_NETNS_OVERRIDE", "1"),
        ("CNI_ARGS", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_UID=7"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    run(&vars, &mut config.to_string().as_bytes())
}

fn output(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or(Value::Null)
}

fn made() -> CniResult {
    CniResult::parse(&json!({
        "interfaces": [{"name": "bwl0", "mac": "02:00:00:00:00:01"},
                       {"name": "eth0", "mac": "02:00:00:00:00:02", "mtu": 1450, "sandbox": "/proc/self/ns/net"}],
        "ips": [{"address": "10.1.0.5/32", "gateway": "169.254.1.1", "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}],
    }))
    .unwrap()
}

#[test]
fn add_passes_everything_on_and_prints_the_result() {
    let place = Place::new();
    let agent = place.agent(vec![Reply::Added(made())]);
    let outcome = place.call(
        "ADD",
        json!({"dns": {"nameservers": ["10.43.0.10"]}, "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}}),
    );
    assert_eq!(outcome.status, 0, "{}", outcome.stdout);
    let result = output(&outcome);
    assert_eq!(result["cniVersion"], "1.1.0");
    assert_eq!(result["ips"][0]["address"], "10.1.0.5/32");
    assert_eq!(result["dns"]["nameservers"], json!(["10.43.0.10"]));
    let (request, netns) = agent.join().unwrap().pop().unwrap();
    let Request::Add(add) = request else { panic!("{request:?}") };
    assert_eq!((add.network.as_str(), add.container_id.as_str(), add.ifname.as_str()), ("bowline", "abc", "eth0"));
    assert_eq!(add.pod.unwrap().name, "web-1");
    assert_eq!(add.runtime.port_mappings.len(), 1);
    let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
    let own: OwnedFd = fs::File::open("/proc/self/ns/net").unwrap().into();
    assert_eq!(inode(&netns.unwrap()), inode(&own), "the descriptor is that of the namespace");
}

#[test]
fn add_speaks_the_oldest_version_without_being_asked() {
    let place = Place::new();
    let agent = place.agent(vec![Reply::Added(made())]);
    let mut config = place.config(json!({}));
    config.as_object_mut().unwrap().remove("cniVersion");
    let result = output(&call("ADD", &config));
    agent.join().unwrap();
    assert_eq!((&result["cniVersion"], &result["ip4"]["ip"]), (&json!("0.1.0"), &json!("10.1.0.5/32")));
}

#[test]
fn add_chained_under_another_keeps_what_that_one_did() {
    let place = Place::new();
    let agent = place.agent(vec![Reply::Added(CniResult::default())]);
    let before = json!({"interfaces": [{"name": "eth0", "sandbox": "/x"}], "ips": [{"address": "10.9.0.2/24", "interface": 0}],
                        "dns": {"nameservers": ["1.1.1.1"]}});
    let result = output(&place.call("ADD", json!({"prevResult": before, "dns": {"nameservers": ["9.9.9.9"]}})));
    let (request, _) = agent.join().unwrap().pop().unwrap();
    let Request::Add(add) = request else { panic!("{request:?}") };
    assert!(add.prev_result.is_some(), "the agent sees that it is chained");
    assert_eq!(result["ips"], before["ips"]);
    assert_eq!(result["dns"], before["dns"]);
}

#[test]
fn the_agents_errors_reach_the_runtime() {
    let place = Place::new();
    let full = CniError::new(code::TRY_AGAIN_LATER, "no address free").details("10.1.0.0/24: 253 of 253 in use");
    let agent = place.agent(vec![Reply::Failed(full)]);
    let outcome = place.call("ADD", json!({}));
    agent.join().unwrap();
    let error = output(&outcome);
    assert_eq!((outcome.status, &error["code"], &error["msg"]), (1, &json!(11), &json!("no address free")));
    assert_eq!(error["details"], "10.1.0.0/24: 253 of 253 in use");
}

#[test]
fn add_waits_a_little_for_an_absent_agent() {
    let place = Place::new();
    let start = Instant::now();
    let outcome = place.call("ADD", json!({"connectTimeoutMs": 200}));
    assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
    let error = output(&outcome);
    assert_eq!((outcome.status, &error["code"]), (1, &json!(11)), "{error}");

    // One that comes up in the meantime is found.
    let caller = {
        let config = place.config(json!({"connectTimeoutMs": 20_000}));
        thread::spawn(move || call("ADD", &config))
    };
    let agent = place.agent(vec![Reply::Added(made())]);
    assert_eq!(caller.join().unwrap().status, 0);
    agent.join().unwrap();
}

#[test]
fn an_agent_that_dies_half_way_is_tried_again_later() {
    let place = Place::new();
    let listener = UnixListener::bind(place.socket()).unwrap();
    let agent = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        accept_one(&stream).unwrap();
    });
    let outcome = place.call("ADD", json!({}));
    agent.join().unwrap();
    assert_eq!(output(&outcome)["code"], 11);
}

#[test]
fn an_agent_that_hangs_is_given_up() {
    let place = Place::new();
    let _silent = UnixListener::bind(place.socket()).unwrap();
    let outcome = place.call("ADD", json!({"answerTimeoutMs": 100}));
    assert_eq!(output(&outcome)["code"], 11, "{}", outcome.stdout);
    assert_eq!(place.call("DEL", json!({"answerTimeoutMs": 100})), Outcome::default());
    assert_eq!(place.journalled(), ["abc/eth0"]);
}

#[test]
fn del_without_an_agent_is_written_down_and_later_carried_out_once() {
    let place = Place::new();
    assert_eq!(place.call("DEL", json!({})), Outcome::default());
    assert_eq!(place.call("DEL", json!({})), Outcome::default());
    assert_eq!(place.journalled(), ["abc/eth0"]);

    // An ADD of the same attachment settles the deletion first.
    let agent = place.agent(vec![Reply::Done, Reply::Added(made())]);
    assert_eq!(place.call("ADD", json!({})).status, 0);
    let asked: Vec<Request> = agent.join().unwrap().into_iter().map(|(request, _)| request).collect();
    assert!(matches!(asked.as_slice(), [Request::Del(_), Request::Add(_)]), "{asked:?}");
    assert!(place.journalled().is_empty());
}

#[test]
fn del_with_an_agent_is_not_written_down() {
    let place = Place::new();
    let agent = place.agent(vec![Reply::Done]);
    assert_eq!(place.call("DEL", json!({"prevResult": made().render(bowline_cni::Version::CURRENT)})), Outcome::default());
    let (request, netns) = agent.join().unwrap().pop().unwrap();
    assert!(matches!(request, Request::Del(_)) && netns.is_none());
    assert!(place.journalled().is_empty());
}

#[test]
fn del_fails_when_it_can_be_neither_done_nor_written_down() {
    let place = Place::new();
    fs::write(place.state().join("cni"), "in the way").unwrap();
    let outcome = place.call("DEL", json!({}));
    assert_eq!((outcome.status, &output(&outcome)["code"]), (1, &json!(5)), "{}", outcome.stdout);
}

#[test]
fn check_compares_with_the_runtimes_copy() {
    let place = Place::new();
    let agent = place.agent(vec![Reply::Checked(made()), Reply::Checked(made())]);
    let mut promised = made().render(bowline_cni::Version::CURRENT);
    assert_eq!(place.call("CHECK", json!({"prevResult": promised})), Outcome::default());
    promised["ips"][0]["address"] = json!("10.1.0.6/32");
    let outcome = place.call("CHECK", json!({"prevResult": promised}));
    assert_eq!(output(&outcome)["code"], 100, "{}", outcome.stdout);
    agent.join().unwrap();
    let outcome = place.call("CHECK", json!({}));
    assert_eq!(output(&outcome)["code"], 7, "{}", outcome.stdout);
}

#[test]
fn gc_passes_on_what_is_valid() {
    let place = Place::new();
    assert_eq!(output(&place.call("GC", json!({})))["code"], 7);
    let agent = place.agent(vec![Reply::Done]);
    let outcome = place.call("GC", json!({"cni.dev/valid-attachments": [{"containerID": "abc", "ifname": "eth0"}]}));
    assert_eq!(outcome, Outcome::default());
    let (request, _) = agent.join().unwrap().pop().unwrap();
    let Request::Gc(gc) = request else { panic!("{request:?}") };
    assert_eq!((gc.network.as_str(), gc.valid.len()), ("bowline", 1));
}

#[test]
fn status_says_whether_add_could_work() {
    let place = Place::new();
    assert_eq!(output(&place.call("STATUS", json!({})))["code"], 50);
    let limited = CniError::new(code::LIMITED_CONNECTIVITY, "the first sync is not through");
    let agent = place.agent(vec![Reply::Done, Reply::Failed(limited)]);
    assert_eq!(place.call("STATUS", json!({})), Outcome::default());
    assert_eq!(output(&place.call("STATUS", json!({})))["code"], 51);
    agent.join().unwrap();
}

#[test]
fn an_answer_to_another_question_is_an_error() {
    let place = Place::new();
    let agent = place.agent(vec![Reply::Done]);
    assert_eq!(output(&place.call("ADD", json!({})))["code"], 101);
    agent.join().unwrap();
}

#[test]
fn the_journal_survives_strange_content() {
    let place = Place::new();
    let entry = |id: &str, ifname: &str| journal::Entry { network: "n".into(), container_id: id.into(), ifname: ifname.into() };
    // Names that would share a file if they were simply joined.
    for (id, ifname) in [("a_b", "c"), ("a", "b_c"), ("a", "ä+b")] {
        journal::write(place.state(), &entry(id, ifname)).unwrap();
        assert!(journal::contains(place.state(), id, ifname).unwrap());
    }
    assert_eq!(journal::list(place.state()).unwrap().entries.len(), 3);
    assert!(journal::write(place.state(), &entry("../../x", "eth0")).is_err());
    let dir = journal::directory(place.state());
    fs::write(dir.join("broken@eth0.json"), "{").unwrap();
    let moved = serde_json::to_vec(&entry("other", "eth0")).unwrap();
    fs::write(dir.join("wrong@eth0.json"), moved).unwrap();
    fs::write(dir.join(".half@eth0.json.1"), "{").unwrap();
    let listing = journal::list(place.state()).unwrap();
    assert_eq!((listing.entries.len(), listing.unreadable.len()), (3, 2), "{listing:?}");
    for (id, ifname) in [("a_b", "c"), ("a", "b_c"), ("a", "ä+b"), ("never", "was")] {
        journal::remove(place.state(), id, ifname).unwrap();
    }
    assert!(journal::list(place.state()).unwrap().entries.is_empty());
}
