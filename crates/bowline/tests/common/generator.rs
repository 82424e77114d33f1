//! The side of the generators that a check drives: started in a pod or on a node, asked by lines, ended by the end of its input.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Output};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::lab::{Lab, said};
use super::objects::myself;

/// How long a generator may take to be at work, or to answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// A generator at work. Dropping it ends it.
pub(crate) struct Generator {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    what: String,
}

impl Drop for Generator {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Generator {
    /// Starts one in a pod; comes back when it is at work.
    pub(crate) fn in_pod(lab: &Lab, pod: &str, words: &[&str]) -> Result<Generator> {
        Generator::in_pod_of(lab, "default", pod, words)
    }

    /// Starts one in a pod of a namespace; comes back when it is at work.
    pub(crate) fn in_pod_of(lab: &Lab, namespace: &str, pod: &str, words: &[&str]) -> Result<Generator> {
        let program = myself()?;
        let argv: Vec<&str> = [program.as_str(), "--generator"].iter().chain(words).copied().collect();
        Generator::begin(lab.pod_background(namespace, pod, &argv)?, format!("{} in {namespace}/{pod}", words.join(" ")))
    }

    /// Starts one on a node; comes back when it is at work.
    pub(crate) fn on_node(lab: &Lab, node: &str, words: &[&str]) -> Result<Generator> {
        let program = myself()?;
        let argv: Vec<&str> = [program.as_str(), "--generator"].iter().chain(words).copied().collect();
        Generator::begin(lab.node_piped(node, &argv)?, format!("{} on {node}", words.join(" ")))
    }

    /// Starts one on the host outside; comes back when it is at work.
    pub(crate) fn outside(lab: &Lab, words: &[&str]) -> Result<Generator> {
        let program = myself()?;
        let argv: Vec<&str> = [program.as_str(), "--generator"].iter().chain(words).copied().collect();
        Generator::begin(lab.client_piped(&argv)?, format!("{} outside", words.join(" ")))
    }

    fn begin(mut child: Child, what: String) -> Result<Generator> {
        let output = child.stdout.take().context("no output")?;
        let input = child.stdin.take();
        let (to, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    return;
                }
            }
        });
        let generator = Generator { child, input, lines, what };
        let first = generator.line(PATIENCE)?;
        ensure!(first == "ready", "{}: {first:?} instead of ready", generator.what);
        Ok(generator)
    }

    fn line(&self, patience: Duration) -> Result<String> {
        self.lines.recv_timeout(patience).with_context(|| format!("{}: it says nothing", self.what))
    }

    /// Says a line and hears the answer.
    pub(crate) fn ask(&mut self, line: &str) -> Result<Value> {
        self.say(line)?;
        self.hear()
    }

    /// Says a line; the answer has to be heard.
    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.input.as_mut().context("it was ended")?, "{line}").with_context(|| self.what.clone())
    }

    /// Hears the answer to what was said.
    pub(crate) fn hear(&mut self) -> Result<Value> {
        let answer = self.line(PATIENCE)?;
        serde_json::from_str(&answer).with_context(|| format!("{}: {answer}", self.what))
    }

    /// Ends it and hears its last word, for which it may take a while.
    pub(crate) fn finish_within(mut self, patience: Duration) -> Result<Value> {
        drop(self.input.take());
        let answer = self.line(patience)?;
        serde_json::from_str(&answer).with_context(|| format!("{}: {answer}", self.what))
    }

    /// Ends it and hears its last word.
    pub(crate) fn finish(self) -> Result<Value> {
        self.finish_within(PATIENCE)
    }
}

/// What a generator that ends by itself says in a pod.
pub(crate) fn once_in_pod(lab: &Lab, pod: &str, words: &[&str]) -> Result<Value> {
    let program = myself()?;
    once(&lab.pod(pod, &[&[program.as_str(), "--generator"], words].concat())?, words, pod)
}

/// The same on a node.
pub(crate) fn once_on_node(lab: &Lab, node: &str, words: &[&str]) -> Result<Value> {
    let program = myself()?;
    once(&lab.node(node, &[&[program.as_str(), "--generator"], words].concat())?, words, node)
}

/// The same on the host outside.
pub(crate) fn once_outside(lab: &Lab, words: &[&str]) -> Result<Value> {
    let program = myself()?;
    once(&lab.client(&[&[program.as_str(), "--generator"], words].concat())?, words, "outside")
}

fn once(output: &Output, words: &[&str], place: &str) -> Result<Value> {
    let failed = || format!("{} in {place}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&said(output).with_context(failed)?).with_context(failed)
}

/// Ends traffic of which nothing may have been lost: datagrams answered, requests answered, and the slowest of these in milliseconds.
pub(crate) fn all_kept(streams: impl IntoIterator<Item = Generator>, datagrams: Generator) -> Result<(u64, u64, u64)> {
    let sent = all_answered(&datagrams.finish()?)?;
    let (mut requests, mut slowest) = (0, 0);
    for stream in streams {
        let (count, worst) = unbroken(&stream.finish()?)?;
        (requests, slowest) = (requests + count, slowest.max(worst));
    }
    ensure!(sent > 1000 && requests > 1000, "too little traffic to tell: {sent} datagrams, {requests} requests");
    Ok((sent, requests, slowest))
}

/// How many datagrams came to the server of a pod, by tag.
pub(crate) fn counts(lab: &Lab, pod: &str, tag: &str) -> Result<u64> {
    let program = myself()?;
    let output = lab.pod(pod, &[&program, "--generator", "counts"])?;
    let text = said(&output).with_context(|| format!("{pod}: {}", String::from_utf8_lossy(&output.stderr)))?;
    let all: Value = serde_json::from_str(&text).with_context(|| format!("{pod}: {text}"))?;
    Ok(all[tag].as_u64().unwrap_or(0))
}

/// Of the last word of `stream`: no connection broke. The sum of requests and the slowest.
pub(crate) fn unbroken(report: &Value) -> Result<(u64, u64)> {
    let broken = report["broken"].as_array().context("no report of broken connections")?;
    ensure!(broken.is_empty(), "{} connections broke: {}", broken.len(), broken.first().unwrap_or(&Value::Null));
    Ok((number(report, "requests")?, number(report, "slowestMs")?))
}

/// Of the last word of `datagrams`: how many were sent, and that all were answered.
pub(crate) fn all_answered(report: &Value) -> Result<u64> {
    let mut sent = 0;
    for flow in report.as_array().context("no flows")? {
        let (out, back) = (number(flow, "sent")?, number(flow, "answered")?);
        ensure!(out == back, "of {out} datagrams to {} {} were lost: {flow}", flow["target"], out.abs_diff(back));
        sent += out;
    }
    Ok(sent)
}

/// A number of a report.
pub(crate) fn number(report: &Value, field: &str) -> Result<u64> {
    report[field].as_u64().with_context(|| format!("no `{field}` in {report}"))
}
