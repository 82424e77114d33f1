//! The network configuration that arrives on standard input.
//!
//! One plugin's section of a `.conflist`, or a whole `.conf`: the runtime has already merged name, version,
//! `runtimeConfig` and `prevResult` into it. Unknown fields are left alone, as runtimes and meta plugins add their own;
//! but one that is nearly the name of a field of ours is a spelling mistake and is said to be.
//!
//! Reference: CNI specification 1.1.0, "Section 1: Network configuration format".

use std::net::IpAddr;
use std::path::PathBuf;

use bowline_model::MacAddr;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::env::{Verb, check_container_id, check_ifname, is_identifier};
use crate::error::{CniError, code};
use crate::field::Field;
use crate::result::{CniResult, Dns};
use crate::runtime::{RuntimeConfig, each, parse_dns, parse_ip, parse_mac};
use crate::version::Version;

/// Where the agent listens unless the configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/bowline/cni.sock";
/// Where the journal lies unless the configuration says otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/bowline";
/// How long an absent agent is waited for, unless the configuration says otherwise.
pub const DEFAULT_CONNECT_TIMEOUT_MS: u64 = 3_000;
/// How long an answer is waited for, unless the configuration says otherwise.
pub const DEFAULT_ANSWER_TIMEOUT_MS: u64 = 60_000;

/// The fields that have a meaning here; others are ignored unless they look like one of these.
const KNOWN: [&str; 18] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "args",
    "capabilities",
    "ipMasq",
    "ipam",
    "dns",
    "runtimeConfig",
    "prevResult",
    "disableCheck",
    "disableGC",
    "socket",
    "stateDir",
    "connectTimeoutMs",
    "answerTimeoutMs",
    "loadOnlyInlinedPlugins",
];

/// One container's interface, as GC names the ones that are still in use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ValidAttachment {
    /// The container.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The interface in it.
    pub ifname: String,
}

/// A checked network configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// `cniVersion`.
    pub version: Version,
    /// `name`: the network's.
    pub name: String,
    /// `socket`: where the agent listens.
    pub socket: PathBuf,
    /// `stateDir`: where the journal lies.
    pub state_dir: PathBuf,
    /// `connectTimeoutMs`.
    pub connect_timeout_ms: u64,
    /// `answerTimeoutMs`.
    pub answer_timeout_ms: u64,
    /// `dns`: told to containers whose runtime says nothing else.
    pub dns: Dns,
    /// `runtimeConfig`, completed from `args`.
    pub runtime: RuntimeConfig,
    /// `prevResult`: what the plugins before this one did.
    pub prev_result: Option<CniResult>,
    /// `cni.dev/valid-attachments`; none where the field is missing, which is not the same as empty.
    pub valid_attachments: Option<Vec<ValidAttachment>>,
}

/// Reads the document and finds its version, which even an error message needs.
///
/// # Errors
/// Code 6 when it is not a JSON object or `cniVersion` is no string, code 1 when the version is unknown.
pub fn decode(bytes: &[u8]) -> Result<(Value, Version), CniError> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| {
        CniError::new(code::DECODE_FAILURE, format!("network configuration: {error}")).details("standard input has to be one JSON object")
    })?;
    if !value.is_object() {
        let msg = "network configuration: not a JSON object";
        return Err(CniError::new(code::DECODE_FAILURE, msg));
    }
    let text = match value.get("cniVersion") {
        None | Some(Value::Null) => "",
        Some(Value::String(text)) => text,
        Some(other) => {
            let msg = format!("cniVersion: want a string, got {other}");
            return Err(CniError::new(code::DECODE_FAILURE, msg));
        }
    };
    let Some(version) = Version::parse(text) else {
        let known = Version::all_as_str().join(", ");
        let msg = format!("incompatible CNI version {text:?}: supported are {known}");
        let fix = "set cniVersion in /etc/cni/net.d to one of them";
        return Err(CniError::new(code::INCOMPATIBLE_VERSION, msg).details(fix));
    };
    Ok((value, version))
}

impl NetworkConfig {
    /// Checks as much of a decoded document as the verb needs: a DEL that failed because of a field that only ADD
    /// reads would keep a pod from ever going away.
    ///
    /// # Errors
    /// Code 7 for a wrong value and code 2 for one that cannot be honoured; both name the field.
    pub fn parse(document: &Value, version: Version, verb: Verb) -> Result<Self, CniError> {
        let root = Field::root(document);
        let name = root
            .get("name")
            .ok_or_else(|| CniError::new(code::INVALID_CONFIG, "name: missing").details("a network configuration names its network"))?;
        if !is_identifier(name.text()?) {
            return Err(name.wrong("a letter or digit, then letters, digits, '_', '.', '-'"));
        }
        let path = |key: &str, default: &str| -> Result<PathBuf, CniError> {
            match root.get(key) {
                None => Ok(PathBuf::from(default)),
                Some(field) if field.text()?.starts_with('/') => Ok(PathBuf::from(field.text()?)),
                Some(field) => Err(field.wrong("an absolute path")),
            }
        };
        let timeout =
            |key: &str, default: u64| -> Result<u64, CniError> { root.get(key).map_or(Ok(default), |field| field.number(1, 600_000)) };
        let mut config = NetworkConfig {
            version,
            name: name.text()?.to_owned(),
            socket: path("socket", DEFAULT_SOCKET)?,
            state_dir: path("stateDir", DEFAULT_STATE_DIR)?,
            connect_timeout_ms: timeout("connectTimeoutMs", DEFAULT_CONNECT_TIMEOUT_MS)?,
            answer_timeout_ms: timeout("answerTimeoutMs", DEFAULT_ANSWER_TIMEOUT_MS)?,
            dns: Dns::default(),
            runtime: RuntimeConfig::default(),
            prev_result: None,
            valid_attachments: None,
        };
        match verb {
            Verb::Add | Verb::Check => config.take_container_fields(&root)?,
            Verb::Gc => config.valid_attachments = parse_valid_attachments(document, &root)?,
            Verb::Status => refuse_all_unsupported(&root)?,
            Verb::Del | Verb::Version => {}
        }
        Ok(config)
    }

    fn take_container_fields(&mut self, root: &Field<'_>) -> Result<(), CniError> {
        refuse_all_unsupported(root)?;
        if let Some(field) = root.get("dns") {
            self.dns = parse_dns(&field)?;
        }
        if let Some(field) = root.get("runtimeConfig") {
            self.runtime = RuntimeConfig::parse(&field)?;
        }
        complete_from_args(root, &mut self.runtime)?;
        if let Some(field) = root.get("prevResult") {
            self.prev_result = Some(CniResult::parse(field.value())?);
        }
        Ok(())
    }
}

fn refuse_all_unsupported(root: &Field<'_>) -> Result<(), CniError> {
    refuse_misspelt(root)?;
    refuse_foreign_ipam(root)
}

/// The older way of asking for addresses: `args.cni`. What `runtimeConfig` says goes first.
fn complete_from_args(root: &Field<'_>, runtime: &mut RuntimeConfig) -> Result<(), CniError> {
    let Some(args) = root.get("args").and_then(|args| args.get("cni")) else {
        return Ok(());
    };
    if let Some(ips) = args.get("ips").filter(|_| runtime.ips.is_empty()) {
        runtime.ips = each(&ips, parse_ip)?;
    }
    if let Some(mac) = args.get("mac").filter(|_| runtime.mac.is_none()) {
        runtime.mac = parse_mac(&mac)?;
    }
    Ok(())
}

/// Addresses come from the agent. An `ipam` section of another plugin would be ignored silently, so it is refused.
fn refuse_foreign_ipam(root: &Field<'_>) -> Result<(), CniError> {
    let Some(ipam) = root.get("ipam") else {
        return Ok(());
    };
    match ipam.get("type") {
        None if ipam.members()?.is_empty() => Ok(()),
        Some(kind) if matches!(kind.text()?, "bowline" | "bowline-cni") => Ok(()),
        Some(_) | None => Err(ipam.unsupported("addresses come from the node's pod CIDR; remove the section")),
    }
}

fn parse_valid_attachments(document: &Value, root: &Field<'_>) -> Result<Option<Vec<ValidAttachment>>, CniError> {
    // The second name is that of the specification's first printing; runtimes write both.
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        match document.get(key) {
            None => {}
            // Go writes an empty list so.
            Some(Value::Null) => return Ok(Some(Vec::new())),
            Some(_) => {
                return root.get(key).map(|list| each(&list, parse_valid_attachment)).transpose();
            }
        }
    }
    Ok(None)
}

fn parse_valid_attachment(field: &Field<'_>) -> Result<ValidAttachment, CniError> {
    let text = |key: &str| match field.get(key) {
        Some(member) => member.text(),
        None => Err(field.wrong("containerID and ifname in it")),
    };
    let (id, ifname) = (text("containerID")?, text("ifname")?);
    check_container_id(id).map_err(|_| field.wrong("a valid containerID"))?;
    check_ifname(ifname).map_err(|_| field.wrong("a valid ifname"))?;
    Ok(ValidAttachment { container_id: id.to_owned(), ifname: ifname.to_owned() })
}

fn refuse_misspelt(root: &Field<'_>) -> Result<(), CniError> {
    for (key, member) in root.members()? {
        if key.contains('/') || KNOWN.contains(&key) {
            continue;
        }
        if let Some(meant) = KNOWN.iter().find(|known| is_near(key, known)) {
            return Err(member.unsupported(&format!("did you mean {meant:?}?")));
        }
    }
    Ok(())
}

/// Whether the two differ in case only, or (for words long enough) by one letter.
fn is_near(typed: &str, known: &str) -> bool {
    let (typed, known) = (typed.to_ascii_lowercase(), known.to_ascii_lowercase());
    if typed == known {
        return true;
    }
    let (a, b) = (typed.as_bytes(), known.as_bytes());
    if b.len() < 5 || a.len().abs_diff(b.len()) > 1 {
        return false;
    }
    let prefix = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let rest = a.len().min(b.len()).saturating_sub(prefix);
    let suffix = a.iter().rev().zip(b.iter().rev()).take(rest).take_while(|(x, y)| x == y).count();
    a.len().max(b.len()) - prefix - suffix <= 1
}

/// Address asked for by the environment, used where the configuration asks for none.
pub(crate) fn complete_from_environment(runtime: &mut RuntimeConfig, ip: Option<IpAddr>, mac: Option<MacAddr>) {
    if runtime.ips.is_empty() {
        runtime.ips.extend(ip);
    }
    if runtime.mac.is_none() {
        runtime.mac = mac;
    }
}

/// Entry for fuzzing: reads the bytes as a configuration and, where that works, renders what it holds in every version.
pub fn fuzz_config(bytes: &[u8]) {
    let Ok((document, version)) = decode(bytes) else {
        return;
    };
    for verb in [Verb::Del, Verb::Gc, Verb::Status] {
        let _ = NetworkConfig::parse(&document, version, verb); // must not panic; either answer is fine
    }
    let Ok(config) = NetworkConfig::parse(&document, version, Verb::Add) else {
        return;
    };
    let result = config.prev_result.unwrap_or_default();
    for version in Version::SUPPORTED {
        let rendered = result.render(version);
        assert_eq!(rendered.get("cniVersion").and_then(Value::as_str), Some(version.as_str()), "a result says its version");
        // What a runtime stores it hands back to us, so that has to be readable.
        assert!(CniResult::parse(&rendered).is_ok(), "a result of ours can be read back: {rendered}");
    }
}
