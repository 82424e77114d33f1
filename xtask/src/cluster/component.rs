//! Starting the long-lived programs of a cluster, and seeing that they live.
//!
//! A component of a node becomes a child of the lab's process 1 and so ends with the lab; one of a control plane alone
//! is a session of its own, recorded by process number and start time. Either is watched over by a few lines of shell
//! that start it again when it ends. What it says goes to a file on the machine's disk, opened out here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cluster::lab::Lab;
use crate::cluster::place::Place;

/// What watches over a component.
const SUPERVISE: &str = include_str!("supervise.sh");

/// The search path of components: Debian keeps runc and iptables in sbin.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Component {
    /// What it is called; `NODE/kubelet` and the like for what each node has.
    pub(crate) name: String,
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
}

impl Component {
    /// A component.
    pub(crate) fn new(name: &str, program: impl Into<PathBuf>, arguments: &[String]) -> Component {
        Component { name: name.to_owned(), program: program.into(), arguments: arguments.to_vec() }
    }

    /// The name without its node.
    fn short(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }

    fn supervised(&self, pid_file: &Path) -> Vec<String> {
        let mut words: Vec<String> = ["sh", "-c", SUPERVISE, "supervise", &self.name].map(str::to_owned).to_vec();
        words.push(pid_file.display().to_string());
        words.push(self.program.display().to_string());
        words.extend(self.arguments.iter().cloned());
        words
    }
}

/// The file in a node that holds the process number of a component.
pub(crate) fn pid_file_in_node(component: &str) -> PathBuf {
    Path::new("/run/cluster").join(format!("{}.pid", component.rsplit('/').next().unwrap_or(component)))
}

/// A process of a control plane alone; the leader of a session and of its process group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    /// Whose it is.
    pub(crate) component: String,
    /// The process.
    pub(crate) pid: u32,
    /// When it started, in clock ticks since the machine's start: a process number alone may be another's by now.
    pub(crate) started_ticks: u64,
}

/// Starts a component in a node, and comes back when it has been started.
pub(crate) fn start_in_node(lab: &Lab, place: &Place, node: &str, component: &Component) -> Result<()> {
    let mut words: Vec<String> = ["setsid", "--fork", "unshare", "--cgroup"].map(str::to_owned).to_vec();
    words.extend(component.supervised(&pid_file_in_node(component.short())));
    let mut command = lab.on_node(node, &words);
    clean(&mut command);
    send_to_log(&mut command, &place.log(&component.name))?;
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("start {}", component.name))?;
    if !status.success() {
        bail!("{} could not be started on {node}: {status}\n{}", component.name, last_lines(&place.log(&component.name), 10));
    }
    Ok(())
}

/// Starts a component on this machine as a session of its own.
pub(crate) fn start_session(place: &Place, component: &Component) -> Result<Session> {
    let words = component.supervised(&place.directory().join(format!("{}.pid", component.name)));
    let (program, arguments) = words.split_first().context("an empty command")?;
    let mut command = Command::new("setsid");
    command.arg(program).args(arguments).current_dir("/");
    clean(&mut command);
    send_to_log(&mut command, &place.log(&component.name))?;
    // A child that leads no group becomes the leader of a session without another fork: its number stays.
    let child = command.stdin(Stdio::null()).spawn().with_context(|| format!("start {}", component.name))?;
    let started_ticks = start_of(child.id()).with_context(|| format!("{} ended at once", component.name))?;
    Ok(Session { component: component.name.clone(), pid: child.id(), started_ticks })
}

/// When the process of that number started, if there is one that has not ended.
pub(crate) fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; what follows the last one is numbers, of which the 20th is the start.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    // The first of them is its state; the dead stay until they are reaped.
    fields.next().filter(|state| *state != "Z")?;
    fields.nth(18)?.parse().ok()
}

/// An environment that does not depend on who types.
fn clean(command: &mut Command) {
    command.env_clear().env("PATH", PATH).env("HOME", "/root").env("LANG", "C.UTF-8");
}

fn send_to_log(command: &mut Command, path: &Path) -> Result<()> {
    let file = fs::OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("open {}", path.display()))?;
    command.stdout(file.try_clone()?).stderr(file);
    Ok(())
}

/// The last lines of a log, indented.
pub(crate) fn last_lines(path: &Path, count: usize) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let shown: Vec<String> = lines.iter().skip(lines.len().saturating_sub(count)).map(|line| format!("  {line}")).collect();
    format!("The last lines of {}:\n{}", path.display(), shown.join("\n"))
}

/// The component that has ended, if one has, with its last words.
pub(crate) fn ended(place: &Place, components: &[String]) -> Option<String> {
    components.iter().find_map(|component| {
        let path = place.log(component);
        let text = fs::read(&path).ok()?;
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find(|line| is_end(line))?;
        Some(format!("{line}\n{}", last_lines(&path, 12)))
    })
}

/// The components that are watched over, by the names of their logs.
pub(crate) fn names(place: &Place) -> Result<Vec<String>> {
    let entries = fs::read_dir(place.logs()).context("read the logs")?.flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.path().file_stem()?.to_str().map(str::to_owned)).collect();
    // The relay has nobody who would start it again.
    names.retain(|name| name != "relay");
    names.sort();
    Ok(names)
}

/// How often each component was started again, by the name of its log; those that never were are left out.
pub(crate) fn restarts(place: &Place) -> Result<Vec<(String, usize)>> {
    let mut found = Vec::new();
    for name in names(place)? {
        let text = fs::read(place.log(&name)).unwrap_or_default();
        let times = String::from_utf8_lossy(&text).lines().filter(|line| is_end(line)).count();
        if times > 0 {
            found.push((name, times));
        }
    }
    Ok(found)
}

/// Whether a line of a log is the word of what watches over the component that it has ended.
fn is_end(line: &str) -> bool {
    line.starts_with("cluster: ") && line.contains(" ended with status ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn this_process_has_a_start() {
        assert!(start_of(std::process::id()).unwrap() > 0);
        assert_eq!(start_of(u32::MAX), None);
    }

    #[test]
    fn the_watchers_word_is_known() {
        let word = SUPERVISE.lines().find(|line| line.contains("ended")).unwrap();
        let said = word.trim().trim_start_matches("echo ").trim_matches('"').replace("$name", "etcd").replace("$?", "1");
        assert!(is_end(&said), "{said}");
        assert!(!is_end("kubelet: cluster: x ended with status 1"));
    }

    #[test]
    fn the_last_lines_are_shown_with_their_file() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("a.log");
        fs::write(&log, "1\n2\n3\n").unwrap();
        assert_eq!(last_lines(&log, 2), format!("The last lines of {}:\n  2\n  3", log.display()));
    }

    #[test]
    fn a_component_is_watched_over() {
        let component = Component::new("n1/kubelet", "/bin/true", &["--flag".to_owned()]);
        let words = component.supervised(&pid_file_in_node(component.short()));
        assert_eq!(words.get(4..).unwrap(), ["n1/kubelet", "/run/cluster/kubelet.pid", "/bin/true", "--flag"]);
    }
}
