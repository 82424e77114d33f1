//! `kubectl exec`, `cp` and `port-forward` into a pod of the lab.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

use bowline_lab::handle::Lab;

use super::{install_plugin, kubectl_is_here, text, up};

/// Two containers on one node: one of them of an image that is given as a program, the other the lab's own server.
const POD: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {
  "nodeName": "n1", "terminationGracePeriodSeconds": 1,
  "containers": [{"name": "web", "image": "nginx", "ports": [{"containerPort": 8080}], "env": [{"name": "WHO", "value": "web"}]},
   {"name": "given", "image": "registry.example/tools/shell:3.1", "args": ["-c", "exec sleep 1000"]}]}}"#;

fn kubectl(lab: &Lab, carrier: &str, words: &[&str]) -> Command {
    let mut command = Command::new("kubectl");
    command.env("KUBECONFIG", lab.kubeconfig().unwrap()).args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", carrier).env("KUBECTL_PORT_FORWARD_WEBSOCKETS", carrier);
    command
}

fn exec(lab: &Lab, carrier: &str, script: &str, input: &[u8]) -> Output {
    let mut child = kubectl(lab, carrier, &["exec", "-i", "web", "-c", "web", "--", "sh", "-c", script]).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    // A command that wants no input may have ended.
    let _ = feeding.join().unwrap();
    output
}

pub(super) fn into_pods() {
    if !kubectl_is_here() {
        return;
    }
    let lab = up("streams", "--nodes 1 --image shell=/bin/bash");
    install_plugin(&lab, "n1");
    let mut apply = kubectl(&lab, "true", &["apply", "-f", "-"]).spawn().unwrap();
    apply.stdin.take().unwrap().write_all(POD.as_bytes()).unwrap();
    assert!(apply.wait().unwrap().success());
    lab.kubectl(["wait", "--for=condition=Ready", "pod/web", "--timeout=30s"]).unwrap();
    // What a plugin does for a pod, but not the one that was made up.
    text(lab.exec("web", "default", &["ip", "link", "set", "lo", "up"]).unwrap());
    for carrier in ["true", "false"] {
        commands(&lab, carrier);
        port(&lab, carrier);
    }
    let mut given = kubectl(&lab, "true", &["exec", "web", "-c", "given", "--", "/bash", "-c", "cat /proc/$PPID/comm; echo $0"]);
    assert!(text(given.output().unwrap()).ends_with("/bash\n"), "the program is there under its own name");
    assert!(!exec(&lab, "true", "test -s /bash", b"").status.success(), "and in no other container, where its place is empty");
    terminal(&lab);
}

fn commands(lab: &Lab, carrier: &str) {
    let place = exec(lab, carrier, "echo $WHO; hostname; readlink /proc/self/ns/net; cut -d: -f3 /proc/self/cgroup; exit 7", b"");
    assert_eq!(place.status.code(), Some(7), "{place:?}");
    let inside = text(
        lab.exec("web", "default", &["sh", "-c", "echo web; hostname; readlink /proc/self/ns/net; cut -d: -f3 /proc/self/cgroup"]).unwrap(),
    );
    assert_eq!(String::from_utf8(place.stdout).unwrap(), inside, "in the same place as by the lab's own exec");
    let large: Vec<u8> = (0..10_000_000_u32).map(|number| u8::try_from(number % 251).unwrap()).collect();
    let output = exec(lab, carrier, "cat", &large);
    assert!(output.status.success() && output.stdout == large, "{} bytes of {}", output.stdout.len(), large.len());
    // What is left behind does not keep the end from coming, nor is it ended.
    let behind = exec(lab, carrier, "sleep 1000 & echo $!", b"");
    assert!(behind.status.success());
    let pid = String::from_utf8(behind.stdout).unwrap();
    assert!(exec(lab, carrier, &format!("kill {pid}"), b"").status.success(), "it lived on");
    for (container, program, code, expected) in [
        ("web", "no-such-program", Some(127), "executable file not found in $PATH"),
        ("web", "/etc/hostname", Some(126), "Permission denied"),
        ("other", "true", Some(1), "container other is not valid for pod web"),
    ] {
        let output = kubectl(lab, carrier, &["exec", "web", "-c", container, "--", program]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == code && said.contains(expected), "{program}: {output:?}");
    }
}

fn port(lab: &Lab, carrier: &str) {
    let mut child = kubectl(lab, carrier, &["port-forward", "web", ":8080", "--address", "127.0.0.1"]).spawn().unwrap();
    let mut line = String::new();
    // Kept, since it says more when a connection comes, and ends where it cannot.
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    let mut stream = TcpStream::connect(line.split(' ').nth(2).unwrap()).unwrap();
    stream.write_all(b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
    let mut reply = String::new();
    let read = stream.read_to_string(&mut reply);
    child.kill().unwrap();
    let said = child.wait_with_output().unwrap();
    assert!(read.is_ok(), "{read:?}: {said:?}");
    assert!(reply.starts_with("HTTP/1.1 200 OK") && reply.contains("pod: web\n") && reply.contains("server: 127.0.0.1:8080"), "{reply}");
}

/// `script` gives kubectl a terminal of its own.
fn terminal(lab: &Lab) {
    if Command::new("script").arg("--version").output().is_err() {
        println!("skipped: there is no script(1) to make a terminal");
        return;
    }
    let line = "kubectl exec -it web -c web -- sh -c 'tty; test -t 2 && stty size; exit 5'";
    let mut command = Command::new("script");
    command.args(["-qec", &format!("stty rows 33 cols 99; {line}"), "/dev/null"]).env("KUBECONFIG", lab.kubeconfig().unwrap());
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(5) && said.contains("/dev/pts/") && said.contains("33 99"), "{output:?}");
}
