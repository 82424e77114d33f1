//! The plugin's front: what runs when the binary is called by a container runtime.
//!
//! It reads environment and standard input, asks the agent, and prints. Only the error object or the result goes to
//! standard output, as the runtime parses that.
//!
//! Reference: CNI specification 1.1.0, "Section 2: Execution Protocol".

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rustix::fs::{FsWord, fstat, fstatfs};
use serde_json::{Value, json};

use crate::config::{NetworkConfig, complete_from_environment, decode};
use crate::env::{Invocation, Variables, Verb};
use crate::error::{CniError, code};
use crate::journal;
use crate::result::CniResult;
use crate::version::Version;
use crate::wire::{AddRequest, CallError, CheckRequest, Deadline, DelRequest, GcRequest, Reply, Request, StatusRequest, call};

/// Largest configuration that is read.
const CONFIG_MAX_BYTES: u64 = 4 << 20;

/// How long DEL waits for an answer before it journals: a runtime that tears down a pod should not be held up by an
/// agent that hangs, and deleting later is as good.
const DEL_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long STATUS waits for an absent agent; the runtime asks every few seconds.
const STATUS_CONNECT_TIMEOUT: Duration = Duration::from_millis(200);

/// Magic numbers (statfs) of the file systems on which a network namespace may be opened.
const NSFS_MAGIC: FsWord = 0x6e73_6673;
const PROC_MAGIC: FsWord = 0x9fa0;

/// The plugin as a process: environment, standard input and output, exit status.
pub fn plugin_main() -> ExitCode {
    let vars = match variables() {
        Ok(vars) => vars,
        Err(error) => return finish(&failure(Version::CURRENT, &error)),
    };
    finish(&run(&vars, &mut io::stdin().lock()))
}

/// What a call leaves: the two streams' content and the exit status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// For standard output.
    pub stdout: String,
    /// For standard error.
    pub stderr: String,
    /// The exit status.
    pub status: u8,
}

fn finish(outcome: &Outcome) -> ExitCode {
    let printed = io::stdout().write_all(outcome.stdout.as_bytes()).and_then(|()| io::stderr().write_all(outcome.stderr.as_bytes()));
    match printed {
        Ok(()) => ExitCode::from(outcome.status),
        Err(_) => ExitCode::FAILURE,
    }
}

#[allow(clippy::disallowed_methods, reason = "the environment is this protocol's input, read here only")]
fn variables() -> Result<Variables, CniError> {
    let mut vars = Variables::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with("CNI_")) else {
            continue;
        };
        let Ok(value) = value.into_string() else {
            let msg = format!("invalid {name}: not UTF-8");
            return Err(CniError::new(code::INVALID_ENVIRONMENT, msg));
        };
        vars.insert(name.to_owned(), value);
    }
    Ok(vars)
}

/// One call of the plugin, without the process around it.
pub fn run(vars: &Variables, stdin: &mut dyn Read) -> Outcome {
    if vars.get("CNI_COMMAND").is_none_or(String::is_empty) {
        let versions = Version::all_as_str().join(", ");
        return Outcome {
            stderr: format!(
                "bowline-cni {}: the network plugin of Bowline\nCNI protocol versions supported: {versions}\n",
                env!("CARGO_PKG_VERSION")
            ),
            ..Outcome::default()
        };
    }
    // The document comes first, for its version: an error has to be told in it.
    let document = read_document(stdin);
    let version = document.as_ref().map_or(Version::CURRENT, |(_, v)| *v);
    match perform(vars, document) {
        Ok(None) => Outcome::default(),
        Ok(Some(result)) => Outcome { stdout: format!("{result:#}\n"), ..Outcome::default() },
        Err(error) => failure(version, &error),
    }
}

fn failure(version: Version, error: &CniError) -> Outcome {
    Outcome { stdout: format!("{:#}\n", error.to_json(version)), stderr: String::new(), status: 1 }
}

fn read_document(stdin: &mut dyn Read) -> Result<(Value, Version), CniError> {
    let mut bytes = Vec::new();
    stdin
        .take(CONFIG_MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| CniError::new(code::IO_FAILURE, format!("standard input: {e}")))?;
    if bytes.len() as u64 > CONFIG_MAX_BYTES {
        let msg = format!("network configuration: more than {CONFIG_MAX_BYTES} bytes");
        return Err(CniError::new(code::DECODE_FAILURE, msg));
    }
    decode(&bytes)
}

fn perform(vars: &Variables, document: Result<(Value, Version), CniError>) -> Result<Option<Value>, CniError> {
    let invocation = Invocation::parse(vars)?;
    if invocation.verb == Verb::Version {
        return Ok(Some(version_report(document.ok().map(|(value, _)| value))));
    }
    let (document, version) = document?;
    if !version.has_verb(invocation.verb) {
        let verb = invocation.verb.as_str();
        let msg = format!("cniVersion {version} does not have {verb}");
        return Err(CniError::new(code::INCOMPATIBLE_VERSION, msg));
    }
    let config = NetworkConfig::parse(&document, version, invocation.verb)?;
    match invocation.verb {
        Verb::Add => add(&invocation, config).map(Some),
        Verb::Del => del(&invocation, &config).map(|()| None),
        Verb::Check => check(&invocation, config).map(|()| None),
        Verb::Gc => gc(config).map(|()| None),
        Verb::Status => status(&config).map(|()| None),
        Verb::Version => Ok(None), // answered above
    }
}

fn version_report(document: Option<Value>) -> Value {
    let asked = document.as_ref().and_then(|value| value.get("cniVersion")).and_then(Value::as_str).unwrap_or(Version::CURRENT.as_str());
    json!({"cniVersion": asked, "supportedVersions": Version::all_as_str()})
}

fn add(invocation: &Invocation, mut config: NetworkConfig) -> Result<Value, CniError> {
    let (path, netns) = open_netns(invocation)?;
    complete_from_environment(&mut config.runtime, invocation.ip, invocation.mac);
    settle(invocation, &config)?;
    let request = Request::Add(Box::new(AddRequest {
        network: config.name,
        container_id: invocation.container_id.clone(),
        ifname: invocation.ifname.clone(),
        netns: path.to_owned(),
        pod: invocation.pod.clone(),
        runtime: config.runtime.clone(),
        prev_result: config.prev_result.clone(),
    }));
    let deadline =
        Deadline { connect: Duration::from_millis(config.connect_timeout_ms), answer: Duration::from_millis(config.answer_timeout_ms) };
    let reply = call(&config.socket, &request, Some(netns.as_fd()), deadline).map_err(|error| unanswered(&error, code::TRY_AGAIN_LATER))?;
    let mut result = match reply {
        Reply::Added(result) => result,
        other @ (Reply::Checked(_) | Reply::Done | Reply::Failed(_)) => return Err(refusal(other)),
    };
    let main_plugin = config.prev_result.is_none();
    if result.dns.is_empty() && (main_plugin || !config.runtime.dns.is_empty()) {
        // What the runtime says of this container goes before what the network says of all.
        result.dns = match config.runtime.dns.is_empty() {
            true => config.dns,
            false => config.runtime.dns,
        };
    }
    Ok(result.after(config.prev_result).render(config.version))
}

/// Carries out a deletion of the same attachment that still lies in the journal, lest it hit the new one.
fn settle(invocation: &Invocation, config: &NetworkConfig) -> Result<(), CniError> {
    let (id, ifname) = (&invocation.container_id, &invocation.ifname);
    if !journal::contains(&config.state_dir, id, ifname).map_err(journal_error)? {
        return Ok(());
    }
    let deadline = Deadline { connect: Duration::from_millis(config.connect_timeout_ms), answer: DEL_ANSWER_TIMEOUT };
    match call(&config.socket, &del_request(invocation, config), None, deadline) {
        Ok(Reply::Done) => journal::remove(&config.state_dir, id, ifname).map_err(journal_error),
        Ok(other) => Err(refusal(other)),
        Err(error) => Err(unanswered(&error, code::TRY_AGAIN_LATER)),
    }
}

fn del(invocation: &Invocation, config: &NetworkConfig) -> Result<(), CniError> {
    let request = del_request(invocation, config);
    let (id, ifname) = (&invocation.container_id, &invocation.ifname);
    let deadline = |connect_ms: u64| Deadline {
        connect: Duration::from_millis(connect_ms),
        answer: DEL_ANSWER_TIMEOUT.min(Duration::from_millis(config.answer_timeout_ms)),
    };
    // An absent agent is not waited for: the journal serves as well, and pods go faster.
    let missed = match call(&config.socket, &request, None, deadline(1)) {
        Ok(Reply::Done) => {
            return journal::remove(&config.state_dir, id, ifname).map_err(journal_error);
        }
        Ok(other) => return Err(refusal(other)),
        Err(error) => error,
    };
    let entry = journal::Entry { network: config.name.clone(), container_id: id.clone(), ifname: ifname.clone() };
    journal::write(&config.state_dir, &entry).map_err(journal_error)?;
    // The agent may have come up and read the journal just before the entry was in it.
    if matches!(missed, CallError::Away { .. } | CallError::Broken { .. })
        && let Ok(Reply::Done) = call(&config.socket, &request, None, deadline(1))
    {
        journal::remove(&config.state_dir, id, ifname).map_err(journal_error)?;
    }
    Ok(())
}

fn del_request(invocation: &Invocation, config: &NetworkConfig) -> Request {
    Request::Del(DelRequest {
        network: config.name.clone(),
        container_id: invocation.container_id.clone(),
        ifname: invocation.ifname.clone(),
    })
}

fn check(invocation: &Invocation, config: NetworkConfig) -> Result<(), CniError> {
    let Some(promised) = config.prev_result.as_ref() else {
        let msg = "prevResult: missing";
        let why = "CHECK compares with the result of ADD, which the runtime has to hand in";
        return Err(CniError::new(code::INVALID_CONFIG, msg).details(why));
    };
    let (path, netns) = open_netns(invocation)?;
    let request = Request::Check(CheckRequest {
        network: config.name.clone(),
        container_id: invocation.container_id.clone(),
        ifname: invocation.ifname.clone(),
        netns: path.to_owned(),
    });
    let deadline =
        Deadline { connect: Duration::from_millis(config.connect_timeout_ms), answer: Duration::from_millis(config.answer_timeout_ms) };
    let reply = call(&config.socket, &request, Some(netns.as_fd()), deadline).map_err(|error| unanswered(&error, code::TRY_AGAIN_LATER))?;
    match reply {
        Reply::Checked(found) => found.check_against(promised, &invocation.ifname),
        other @ (Reply::Added(_) | Reply::Done | Reply::Failed(_)) => Err(refusal(other)),
    }
}

fn gc(config: NetworkConfig) -> Result<(), CniError> {
    let Some(valid) = config.valid_attachments else {
        let msg = "cni.dev/valid-attachments: missing";
        let why = "without it GC would take every pod for gone; an empty list says that on purpose";
        return Err(CniError::new(code::INVALID_CONFIG, msg).details(why));
    };
    let request = Request::Gc(GcRequest { network: config.name, valid });
    let deadline =
        Deadline { connect: Duration::from_millis(config.connect_timeout_ms), answer: Duration::from_millis(config.answer_timeout_ms) };
    match call(&config.socket, &request, None, deadline) {
        Ok(Reply::Done) => Ok(()),
        Ok(other) => Err(refusal(other)),
        Err(error) => Err(unanswered(&error, code::TRY_AGAIN_LATER)),
    }
}

fn status(config: &NetworkConfig) -> Result<(), CniError> {
    let request = Request::Status(StatusRequest { network: config.name.clone() });
    let configured = Duration::from_millis(config.connect_timeout_ms);
    let deadline = Deadline {
        connect: STATUS_CONNECT_TIMEOUT.min(configured),
        answer: DEL_ANSWER_TIMEOUT.min(Duration::from_millis(config.answer_timeout_ms)),
    };
    match call(&config.socket, &request, None, deadline) {
        Ok(Reply::Done) => Ok(()),
        Ok(other) => Err(refusal(other)),
        Err(error) => Err(unanswered(&error, code::NOT_AVAILABLE)),
    }
}

/// The error for a call that got no answer: `passing` where waiting may help, else an I/O failure.
fn unanswered(error: &CallError, passing: u32) -> CniError {
    let fix = "see that the agent runs on this node: bowline status, or its log";
    let number = match error.may_retry() || passing == code::NOT_AVAILABLE {
        true => passing,
        false => code::IO_FAILURE,
    };
    CniError::new(number, error.to_string()).details(fix)
}

fn refusal(reply: Reply) -> CniError {
    match reply {
        Reply::Failed(error) => error,
        Reply::Added(_) | Reply::Checked(_) | Reply::Done => {
            let msg = "the agent's answer does not fit the question";
            let fix = "plugin and agent are of different versions: install both from the same release";
            CniError::new(code::PROTOCOL, msg).details(fix)
        }
    }
}

fn journal_error(error: journal::JournalError) -> CniError {
    CniError::new(code::IO_FAILURE, error.to_string()).details("the state directory is \"stateDir\" of the network configuration")
}

/// Opens the container's namespace and makes sure that it is one, and not the node's.
fn open_netns(invocation: &Invocation) -> Result<(&str, File), CniError> {
    let path = invocation.netns.as_deref().unwrap_or_default();
    let bad = |why: String| {
        let msg = format!("invalid CNI_NETNS={path:?}: {why}");
        CniError::new(code::INVALID_ENVIRONMENT, msg)
    };
    let file = File::open(path).map_err(|error| bad(error.to_string()))?;
    let kind = fstatfs(&file).map_err(|errno| bad(errno.to_string()))?.f_type;
    if kind != NSFS_MAGIC && kind != PROC_MAGIC {
        return Err(bad("not a network namespace".into()));
    }
    let own = File::open(Path::new("/proc/self/ns/net")).map_err(|e| bad(e.to_string()))?;
    let identity = |file: &File| fstat(file).map(|stat| (stat.st_dev, stat.st_ino));
    let (theirs, ours) = (identity(&file), identity(&own));
    if theirs.is_err() || (theirs == ours && !invocation.netns_override) {
        return Err(bad("it is the plugin's own network namespace".into()));
    }
    Ok((path, file))
}

impl From<CniError> for Reply {
    fn from(error: CniError) -> Reply {
        Reply::Failed(error)
    }
}

impl From<CniResult> for Reply {
    fn from(result: CniResult) -> Reply {
        Reply::Added(result)
    }
}
