//! A lab without agents, looked at from outside: what it makes, that it works, and that nothing of it is left.
//!
//! The binary is its own `bowline`: given a command of the lab it runs that, else the tests. It needs root.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test may fail loudly and says what it did"
)]

#[path = "lab/streams.rs"]
mod streams;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use bowline_lab::handle::{Lab, Options};
use bowline_lab::{Hidden, LabCommand};
use clap::Parser;

#[derive(Parser)]
enum Line {
    #[command(subcommand)]
    Lab(LabCommand),
    #[command(flatten)]
    Hidden(Hidden),
}

type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    ("machines_reach_each_other_in_both_families", machines_reach_each_other),
    ("a_routed_underlay_has_no_shared_link", routed),
    ("commands_pass_input_output_and_status", commands),
    ("pods_live_and_die_by_cni", pods),
    ("commands_and_connections_reach_into_pods", streams::into_pods),
    ("two_labs_side_by_side", side_by_side),
    ("a_killed_lab_up_leaves_nothing", killed_half_way),
    ("the_api_can_be_stopped", api),
    ("a_server_that_is_given_is_used_by_way_of_a_relay", given),
    ("bare_machines_keep_daemons_and_nothing_else", bare),
    ("a_lab_goes_with_the_process_that_wanted_it", leash),
];

fn main() -> ExitCode {
    let first = std::env::args().nth(1).unwrap_or_default();
    if first == "lab" || first.starts_with("lab-") {
        return match Line::parse() {
            Line::Lab(command) => bowline_lab::run(command),
            Line::Hidden(command) => bowline_lab::run_hidden(command),
        };
    }
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "root is needed in CI");
        println!("0 passed, 0 failed, {} skipped\nskipped: a lab needs root", TESTS.len());
        return ExitCode::SUCCESS;
    }
    let before = root_network();
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in TESTS.iter().filter(|(name, _)| first.is_empty() || first.starts_with('-') || name.contains(&first)) {
        let good = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if good { "ok" } else { "FAILED" });
        if good { passed += 1 } else { failed += 1 }
    }
    assert_eq!(before, root_network(), "the root namespace was touched");
    println!("test result: {}. {passed} passed; {failed} failed; 0 ignored", if failed == 0 { "ok" } else { "FAILED" });
    ExitCode::from(u8::from(failed > 0))
}

/// Links and routes of the root namespace, without counters.
fn root_network() -> Vec<String> {
    let links = fs::read_dir("/sys/class/net").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut all: Vec<String> = links.collect();
    all.sort();
    all.push(fs::read_to_string("/proc/net/route").unwrap());
    all.push(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap());
    all
}

fn name(what: &str) -> String {
    format!("t{}-{what}", std::process::id())
}

fn up(what: &str, flags: &str) -> Lab {
    let options =
        Options { binary: Some(std::env::current_exe().unwrap()), ..Options::new(&name(what), &format!("--agents none {flags}")) };
    Lab::up(options).unwrap()
}

fn text(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(30), "not within 30 s: {what}");
        // What is waited for is in another process that tells nobody.
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn left_of(name: &str) -> Vec<String> {
    let cgroups = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(|root| format!("{root}/bowline-lab/{name}"));
    std::iter::once(format!("/run/bowline-lab/{name}")).chain(cgroups).filter(|path| Path::new(path).exists()).collect()
}

/// The reply of an echo server to a bare HTTP request, made by bash alone.
const GET: &str = "exec 3<>/dev/tcp/$0/80; printf 'GET /x HTTP/1.1\\r\\nHost: h\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3";

fn machines_reach_each_other() {
    let lab = up("reach", "--dual-stack --outside-address 10.4.7.11");
    for (server, client) in [("203.0.113.10", "192.168.200.12:"), ("2001:db8:113::10", "[fd00:200::c]:"), ("10.4.7.11", "192.168.200.12:")]
    {
        let reply = text(lab.node_exec("n2", &["bash", "-c", GET, server]).unwrap());
        assert!(reply.contains("pod: client"), "{reply}");
        assert!(reply.contains(&format!("client: {client}")), "{reply}");
    }
    let hosts = text(lab.node_exec("n1", &["getent", "ahosts", "www.outside.test"]).unwrap());
    assert!(hosts.contains("203.0.113.10") && hosts.contains("2001:db8:113::10"), "{hosts}");
    let own = text(lab.node_exec("n3", &["sh", "-c", "hostname; ls /sys/class/net; cat /proc/self/cgroup; touch /root/x /etc/x"]).unwrap());
    assert!(own.starts_with("n3\neth0\nlo\n") && own.contains("0::/system"), "{own}");
    assert!(!Path::new("/etc/x").exists() && !Path::new("/root/x").exists(), "a node wrote to the machine's files");
    let name = lab.name().to_owned();
    drop(lab);
    assert_eq!(left_of(&name), Vec::<String>::new());
}

fn routed() {
    let lab = up("routed", "--underlay routed --nodes 2");
    let route = text(lab.node_exec("n2", &["cat", "/proc/net/route"]).unwrap());
    assert_eq!(route.lines().count(), 3, "default and its own subnet: {route}");
    // n1 is not on n2's link, but is reached by way of the router.
    let refused = text(lab.node_exec("n2", &["bash", "-c", "(echo > /dev/tcp/192.168.200.11/9) 2>&1 | grep -o refused"]).unwrap());
    assert!(refused.contains("refused"), "{refused}");
}

fn commands() {
    let lab = up("exec", "--nodes 1");
    let mut child = lab.command(&["client"]);
    let mut child = child.args(["--", "sh", "-c", "cat; exit 7"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"through").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(7), &b"through"[..]));
    assert_eq!(lab.node_exec("n1", &["no-such-command"]).unwrap().status.code(), Some(127));
    assert_eq!(lab.node_exec("n1", &["sh", "-c", "kill -9 $$"]).unwrap().status.code(), Some(128 + 9));
    let refused = lab.node_exec("n7", &["true"]).unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(1) && said.contains("BW1009") && said.contains("n7"), "{said}");
    let proc = text(lab.node_exec("n1", &["readlink", "/proc/self/ns/pid", "/proc/1/ns/pid"]).unwrap());
    let both: Vec<&str> = proc.lines().collect();
    assert_eq!(both[0], both[1], "a command is in the lab's process namespace");
}

/// A CNI plugin that tells what it is asked and invents an address.
const PLUGIN: &str = r#"#!/bin/sh
echo "$CNI_COMMAND $CNI_IFNAME $CNI_ARGS" >> /run/cni-calls
test "$CNI_COMMAND" = ADD || { cat > /dev/null; exit 0; }
cat > /run/cni-config
test -e "$CNI_NETNS" || { echo '{"code": 4, "msg": "no namespace"}'; exit 1; }
echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.42.0.9/32"}]}'
"#;

const CONFIG: &str =
    r#"{"cniVersion": "1.1.0", "name": "made-up", "plugins": [{"type": "made-up", "capabilities": {"portMappings": true}}]}"#;

const POD: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "default"}, "spec": {
  "nodeName": "n1", "terminationGracePeriodSeconds": 1,
  "containers": [{"name": "web", "image": "nginx", "ports": [{"containerPort": 8080, "hostPort": 18080}],
    "env": [{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]},
   {"name": "side", "image": "x", "command": ["sleep", "1000"], "volumeMounts": [{"name": "shared", "mountPath": "/data"}]}],
  "volumes": [{"name": "shared", "emptyDir": {}}]}}"#;

fn install_plugin(lab: &Lab, node: &str) {
    for (path, content) in [("/opt/cni/bin/made-up", PLUGIN), ("/etc/cni/net.d/10-made-up.conflist", CONFIG)] {
        let script = format!("cat > {path}.new; chmod 755 {path}.new; mv {path}.new {path}");
        let mut command = lab.command(&["node-exec", node]);
        let mut child = command.args(["--", "sh", "-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(content.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }
}

fn kubectl_is_here() -> bool {
    let here = Command::new("kubectl").args(["version", "--client"]).output().is_ok();
    if !here {
        assert!(std::env::var_os("CI").is_none(), "kubectl is needed in CI");
        println!("skipped: there is no kubectl");
    }
    here
}

fn pods() {
    if !kubectl_is_here() {
        return;
    }
    let lab = up("pods", "--nodes 1");
    assert!(lab.kubectl(["get", "node", "n1"]).unwrap().contains("NotReady"));
    install_plugin(&lab, "n1");
    lab.kubectl(["wait", "--for=condition=Ready", "node/n1", "--timeout=20s"]).unwrap();
    let mut apply = Command::new("kubectl");
    apply.env("KUBECONFIG", lab.kubeconfig().unwrap()).args(["apply", "-f", "-"]).stdin(Stdio::piped());
    let mut apply = apply.spawn().unwrap();
    apply.stdin.take().unwrap().write_all(POD.as_bytes()).unwrap();
    assert!(apply.wait().unwrap().success());
    lab.kubectl(["wait", "--for=condition=Ready", "pod/web", "--timeout=20s"]).unwrap();
    let pod = lab.kubectl(["get", "pod", "web", "-o", "jsonpath={.status.podIP} {.status.hostIP} {.status.phase}"]).unwrap();
    assert_eq!(pod, "10.42.0.9 192.168.200.11 Running");

    let inside = "echo $WHO; hostname; cat /etc/resolv.conf; cat /run/secrets/kubernetes.io/serviceaccount/namespace; echo hi > /shared/f";
    let said = text(lab.exec("web", "default", &["sh", "-c", inside]).unwrap());
    assert!(said.starts_with("web\nweb\nsearch default.svc.cluster.local"), "{said}");
    let mut side = lab.command(&["exec", "web", "-c", "side"]);
    side.args(["--", "cat", "/data/f"]);
    assert_eq!(text(side.output().unwrap()), "hi\n", "containers share a volume");
    let logs = lab.kubectl(["logs", "web", "-c", "web"]).unwrap();
    assert_eq!(logs, "", "nothing was asked of the server: {logs}");
    let offered = text(lab.node_exec("n1", &["cat", "/run/cni-config"]).unwrap());
    assert!(offered.contains(r#""hostPort":18080"#) || offered.contains(r#""hostPort": 18080"#), "{offered}");

    lab.kubectl(["delete", "pod", "web", "--timeout=20s"]).unwrap();
    let calls = text(lab.node_exec("n1", &["cat", "/run/cni-calls"]).unwrap());
    let of_web: Vec<&str> = calls.lines().filter(|line| line.contains("POD_NAME=web;")).collect();
    assert_eq!(of_web.len(), 2, "{calls}");
    assert!(of_web[0].starts_with("ADD eth0") && of_web[1].starts_with("DEL eth0"), "{calls}");
    assert!(calls.lines().any(|line| line.starts_with("GC")), "{calls}");
}

fn side_by_side() {
    let (a, b) = (up("side-a", "--nodes 1"), up("side-b", "--nodes 1 --backend host-gw"));
    assert!(text(a.node_exec("n1", &["touch", "/run/only-here"]).unwrap()).is_empty());
    assert!(!b.node_exec("n1", &["test", "-e", "/run/only-here"]).unwrap().status.success());
    let list = text(list());
    assert!(list.contains(a.name()) && list.contains(b.name()), "{list}");
    drop(a);
    assert!(text(b.node_exec("n1", &["hostname"]).unwrap()).contains("n1"), "the other lab lives on");
}

fn list() -> Output {
    Command::new(std::env::current_exe().unwrap()).args(["lab", "list"]).output().unwrap()
}

fn killed_half_way() {
    let name = name("killed");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["lab", "up", "--name", &name, "--wait", "60s"]).stderr(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut first).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let down = Command::new(std::env::current_exe().unwrap()).args(["lab", "down", "--name", &name]).output().unwrap();
    assert!(down.status.success(), "{down:?}");
    assert_eq!(left_of(&name), Vec::<String>::new());
    assert!(!String::from_utf8(list().stdout).unwrap().contains(&name));
}

fn api() {
    let lab = up("api", "--nodes 1");
    let kubeconfig = fs::read_to_string(lab.kubeconfig().unwrap()).unwrap();
    let server = kubeconfig.split("https://").nth(1).unwrap().split_whitespace().next().unwrap().trim_matches('"').to_owned();
    std::net::TcpStream::connect(&server).unwrap();
    lab.api("stop").unwrap();
    wait_until("the API is closed", || std::net::TcpStream::connect(&server).is_err());
    lab.api("start").unwrap();
    let mut stream = std::net::TcpStream::connect(&server).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(stream.read(&mut [0]).is_err(), "it stays open");
}

/// What a real node agent and a container runtime need of a machine, and that they end with it.
const HOSTS_A_RUNTIME: &str = "set -e
mkdir -p /var/lib/kubelet /var/lib/runtime
mount --bind /var/lib/kubelet /var/lib/kubelet; mount --make-rshared /var/lib/kubelet
mount -t tmpfs tmpfs /var/lib/runtime; cd /var/lib/runtime; mkdir lower upper work merged
mount -t overlay o -o lowerdir=lower,upperdir=upper,workdir=work merged
mkdir /sys/fs/cgroup/kubepods; mknod /run/null c 1 3; test -c /dev/kmsg
setsid sleep 100000 > /run/log 2>&1 < /dev/null &
echo $! > /run/daemon.pid";

fn bare() {
    let lab = up("bare", "--nodes 2 --bare");
    assert!(text(lab.node_exec("n1", &["sh", "-c", HOSTS_A_RUNTIME]).unwrap()).is_empty());
    let processes =
        text(lab.node_exec("n1", &["sh", "-c", "kill -0 $(cat /run/daemon.pid) && cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).unwrap());
    assert!(processes.contains("sleep 100000"), "a daemon outlives the command that started it: {processes}");
    assert!(lab.kubeconfig().is_err() && lab.agent("start", "n1").is_err() && lab.api("stop").is_err(), "there is neither API nor agent");
    text(lab.node_exec("n2", &["ping", "-c1", "-W2", "192.168.200.11"]).unwrap());
    let name = lab.name().to_owned();
    drop(lab);
    assert_eq!(left_of(&name), Vec::<String>::new());
}

/// The server of one lab stands for somebody's own. Both labs have a node n1; what is looked at is n2, which only one has.
fn given() {
    if !kubectl_is_here() {
        return;
    }
    let server = up("server", "--nodes 1 --dual-stack");
    let kubeconfig = server.kubeconfig().unwrap().display().to_string();
    let refused = Lab::up(Options {
        binary: Some(std::env::current_exe().unwrap()),
        ..Options::new(&name("strange"), &format!("--agents none --service-cidr 10.96.0.0/16 --apiserver {kubeconfig}"))
    });
    let why = format!("{:#}", refused.unwrap_err());
    assert!(why.contains("BW1001") && why.contains("--service-cidr") && why.contains("10.43.0.0/16"), "{why}");

    let lab = up("given", &format!("--nodes 2 --dual-stack --apiserver {kubeconfig}"));
    let url = |text: &str| text.split("https://").nth(1).unwrap().split(['"', '\n']).next().unwrap().to_owned();
    let (theirs, ours) = (fs::read_to_string(&kubeconfig).unwrap(), fs::read_to_string(lab.kubeconfig().unwrap()).unwrap());
    assert_ne!(url(&theirs), url(&ours), "kubectl uses the relay too");
    let port = url(&theirs).rsplit(':').next().unwrap().to_owned();
    let connect = format!("exec 3<>/dev/tcp/192.168.200.1/{port}");
    text(lab.node_exec("n2", &["bash", "-c", &connect]).unwrap());
    install_plugin(&lab, "n2");
    server.kubectl(["wait", "--for=condition=Ready", "node/n2", "--timeout=20s"]).unwrap();
    lab.api("stop").unwrap();
    assert!(!lab.node_exec("n2", &["bash", "-c", &connect]).unwrap().status.success(), "the relay is closed");
    assert!(lab.kubectl(["get", "nodes", "--request-timeout=2s"]).is_err());
    assert!(server.kubectl(["get", "nodes"]).is_ok(), "the server itself runs on");
    lab.api("start").unwrap();
    assert!(lab.kubectl(["get", "leases", "-n", "kube-node-lease", "-o", "name"]).unwrap().contains("/n2"));
}

fn leash() {
    let name = name("leash");
    let mut sleeper = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = sleeper.id().to_string();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["lab", "up", "--agents", "none", "--nodes", "1", "--name", &name, "--leash", &pid])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let listed = |name: &str| String::from_utf8(list().stdout).unwrap().lines().any(|line| line.contains(name) && line.contains(" up "));
    assert!(listed(&name));
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    wait_until("the lab has ended", || !listed(&name));
    let down = Command::new(std::env::current_exe().unwrap()).args(["lab", "down", "--name", &name]).output().unwrap();
    assert!(down.status.success());
    assert_eq!(left_of(&name), Vec::<String>::new());
}
