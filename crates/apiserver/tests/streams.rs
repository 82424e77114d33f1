//! `kubectl exec`, `cp` and `port-forward` over WebSocket and over SPDY, with commands of this machine in place of a pod's.
//! Skipped, with a printed reason, where no kubectl is installed.
#![allow(clippy::disallowed_methods, reason = "it drives processes and keeps time")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod common;

use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bowline_apiserver::stream::{ExecRequest, ExecStreams, PortRequest};
use bowline_apiserver::{Config, GroupResource, Store};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use common::Running;

/// What carries the streams; kubectl is told by its environment.
const CARRIERS: [&str; 2] = ["true", "false"];

/// Longest time for one kubectl.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a command of this machine, as a pod's container would.
async fn run(request: ExecRequest, streams: ExecStreams) -> Result<i32, String> {
    let (program, arguments) = request.command.split_first().unwrap();
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("exec: {program:?}: {error}"))?;
    let (mut input, mut output, mut errors) = (child.stdin.take().unwrap(), child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let feed = async {
        if let Some(mut from) = streams.stdin {
            let _ = tokio::io::copy(&mut from, &mut input).await;
        }
        drop(input);
        std::future::pending::<()>().await;
    };
    let (mut stdout, mut stderr) = (streams.stdout.unwrap(), streams.stderr.unwrap());
    let all = async { tokio::join!(tokio::io::copy(&mut output, &mut stdout), tokio::io::copy(&mut errors, &mut stderr), child.wait()).2 };
    tokio::select! {
        status = all => Ok(status.unwrap().code().unwrap_or(255)),
        () = feed => unreachable!(),
    }
}

struct Kubectl {
    running: Running,
}

/// A server with one running pod of two containers, or nothing where there is no kubectl.
async fn kubectl() -> Option<Kubectl> {
    let found = Command::new("kubectl").args(["version", "--client"]).stdout(Stdio::null()).stderr(Stdio::null()).status().await;
    if !found.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no kubectl on this machine");
        return None;
    }
    let config = Config {
        pod_exec: Some(Arc::new(|request: ExecRequest| {
            if request.container == "stopped" {
                return Err(format!("container not found ({:?})", request.container));
            }
            Ok(Box::new(move |streams| Box::pin(run(request, streams))))
        })),
        pod_ports: Some(Arc::new(|request: PortRequest| {
            Box::pin(async move { TcpStream::connect(("127.0.0.1", request.port)).await.map_err(|error| error.to_string()) })
        })),
        ..Config::default()
    };
    let store = Store::new();
    let pods = GroupResource::core("pods");
    let spec = json!({"nodeName": "n1", "containers": [{"name": "main", "image": "x"}, {"name": "stopped", "image": "x"}]});
    for (name, spec) in [("web", spec), ("homeless", json!({"containers": [{"name": "main", "image": "x"}]}))] {
        let pod = json!({"metadata": {"name": name}, "spec": spec, "status": {"phase": "Running"}});
        store.create(&pods, Some("default"), pod).unwrap();
    }
    Some(Kubectl { running: Running::start(store, config) })
}

impl Kubectl {
    fn command(&self, carrier: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(arguments).env("KUBECONFIG", self.running.kubeconfig()).env("HOME", self.running.directory()).kill_on_drop(true);
        command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", carrier).env("KUBECTL_PORT_FORWARD_WEBSOCKETS", carrier);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn run(&self, carrier: &str, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = self.command(carrier, arguments).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let feed = async move {
            // A command that wants no input may have ended.
            let _ = stdin.write_all(input).await;
        };
        let both = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output = tokio::time::timeout(PATIENCE, both).await;
        output.unwrap_or_else(|_| panic!("kubectl {arguments:?} does not end")).unwrap()
    }

    async fn exec(&self, carrier: &str, script: &str, input: &[u8]) -> Output {
        self.run(carrier, &["exec", "-i", "web", "-c", "main", "--", "sh", "-c", script], input).await
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_with_their_streams_and_exit_codes() {
    let Some(kubectl) = kubectl().await else { return };
    for carrier in CARRIERS {
        let output = kubectl.exec(carrier, "echo out; echo err >&2; exit 7", b"").await;
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        assert_eq!(text(&output.stdout), "out\n");
        assert_eq!(text(&output.stderr), "err\ncommand terminated with exit code 7\n");
        let output = kubectl.exec(carrier, "cat; printf %s ' a+b & c%20'", b"piped through").await;
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "piped through a+b & c%20"));
        // Input that nobody reads does not keep the end from coming.
        let output = kubectl.exec(carrier, "exit 3", &[b'x'; 2 << 20]).await;
        assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
        let output = kubectl.run(carrier, &["exec", "web", "-c", "main", "--", "no-such-program"], b"").await;
        assert!(text(&output.stderr).contains("no-such-program") && output.status.code() == Some(1), "{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_output_and_input_pass_whole() {
    let Some(kubectl) = kubectl().await else { return };
    let input: Vec<u8> = (0..10_000_000_u32).map(|number| u8::try_from(number % 251).unwrap()).collect();
    for carrier in CARRIERS {
        let output = kubectl.exec(carrier, "cat", &input).await;
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(output.stdout.len(), input.len());
        assert!(output.stdout == input, "bytes were changed on the way");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_copied() {
    let Some(kubectl) = kubectl().await else { return };
    let directory = kubectl.running.directory().join("files");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("there"), "contents").unwrap();
    let path = |name: &str| directory.join(name).display().to_string();
    for carrier in CARRIERS {
        let back = path(&format!("back-{carrier}"));
        let output = kubectl.run(carrier, &["cp", "-c", "main", &format!("web:{}", path("there")), &back], b"").await;
        assert!(output.status.success(), "{output:?}");
        assert_eq!(std::fs::read_to_string(back).unwrap(), "contents");
        let target = path(&format!("into-{carrier}"));
        let output = kubectl.run(carrier, &["cp", "-c", "main", &path("there"), &format!("web:{target}")], b"").await;
        assert!(output.status.success(), "{output:?}");
        assert_eq!(std::fs::read_to_string(target).unwrap(), "contents");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_said() {
    let Some(kubectl) = kubectl().await else { return };
    let cases: [(&[&str], &str); 6] = [
        (&["exec", "nobody", "--", "true"], "pods \"nobody\" not found"),
        (&["exec", "web", "-c", "other", "--", "true"], "container other is not valid for pod web"),
        (&["exec", "web", "-c", "stopped", "--", "true"], "container not found (\"stopped\")"),
        (&["exec", "homeless", "--", "true"], "pod homeless does not have a host assigned"),
        (&["exec", "web", "-n", "other", "--", "true"], "namespaces \"other\" not found"),
        (&["port-forward", "nobody", "0:80"], "pods \"nobody\" not found"),
    ];
    for (arguments, expected) in cases {
        for carrier in CARRIERS {
            let output = kubectl.run(carrier, arguments, b"").await;
            assert!(!output.status.success(), "{arguments:?}");
            assert!(text(&output.stderr).contains(expected), "{arguments:?}: {}", text(&output.stderr));
        }
    }
    let raw = "/api/v1/namespaces/default/pods/web/exec?container=main&command=true";
    let output = kubectl.run("true", &["get", "--raw", raw], b"").await;
    assert!(text(&output.stderr).contains("Upgrade request required"), "{output:?}");
}

/// A server that answers each connection with what it has read, once that has ended.
async fn server() -> (u16, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.unwrap();
                all.reverse();
                stream.write_all(&all).await.unwrap();
            });
        }
    });
    (port, serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_forwarded() {
    let Some(kubectl) = kubectl().await else { return };
    let (port, serving) = server().await;
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    for carrier in CARRIERS {
        let (good, bad) = (format!(":{port}"), format!(":{unused}"));
        let mut child = kubectl.command(carrier, &["port-forward", "web", &good, &bad, "--address", "127.0.0.1"]).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut local = Vec::new();
        while local.len() < 2 {
            // "Forwarding from 127.0.0.1:40001 -> 80"
            let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
            let address = line.split(' ').nth(2).unwrap().to_owned();
            local.push((address, line.ends_with(&format!("-> {port}"))));
        }
        let (good, bad): (Vec<_>, Vec<_>) = local.into_iter().partition(|(_, good)| *good);
        let several = (0..8_u8).map(|number| {
            let address = good[0].0.clone();
            async move {
                let sent: Vec<u8> = (0..300_000_u32).map(|at| u8::try_from((at + u32::from(number)) % 241).unwrap()).collect();
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(&sent).await.unwrap();
                stream.shutdown().await.unwrap();
                let mut got = Vec::new();
                stream.read_to_end(&mut got).await.unwrap();
                got.reverse();
                assert!(got == sent, "connection {number}: {} bytes of {}", got.len(), sent.len());
            }
        });
        tokio::time::timeout(PATIENCE, futures::future::join_all(several)).await.unwrap();
        let mut refused = TcpStream::connect(&bad[0].0).await.unwrap();
        let mut nothing = Vec::new();
        // Closed or reset: nothing listens there.
        let _ = tokio::time::timeout(PATIENCE, refused.read_to_end(&mut nothing)).await.unwrap();
        assert!(nothing.is_empty());
        let mut errors = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = tokio::time::timeout(PATIENCE, errors.next_line()).await.unwrap().unwrap().unwrap();
        assert!(line.contains(&format!("error forwarding port {unused} to pod web")), "{line}");
        child.kill().await.unwrap();
    }
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_takes_its_command_with_it() {
    let Some(kubectl) = kubectl().await else { return };
    for carrier in CARRIERS {
        let marker = kubectl.running.directory().join(format!("alive-{carrier}"));
        let script = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", marker.display());
        let mut child = kubectl.command(carrier, &["exec", "web", "-c", "main", "--", "sh", "-c", &script]).spawn().unwrap();
        until("the command runs", || marker.exists()).await;
        let pid = std::fs::read_to_string(&marker).unwrap().trim().to_owned();
        let command_line = format!("/proc/{pid}/cmdline");
        assert!(std::fs::read_to_string(&command_line).unwrap().starts_with("s"));
        child.kill().await.unwrap();
        until("the command has ended", || std::fs::read_to_string(&command_line).unwrap_or_default().is_empty()).await;
    }
}

/// Polls what is in another process, which tells nobody.
async fn until(what: &str, done: impl Fn() -> bool) {
    let waited = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waited).await.is_ok(), "not in time: {what}");
}
