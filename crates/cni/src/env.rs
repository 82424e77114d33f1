//! What the runtime passes in the environment: the verb, the container, and the pod's identity.
//!
//! Invariant: an [`Invocation`] holds only names that passed the checks of the specification, so they may be
//! used as interface names and (with [`crate::journal`]) in file names.
//!
//! Reference: CNI specification 1.1.0, "Parameters"; the `K8S_POD_*` arguments are what kubelet's runtimes send.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bowline_model::MacAddr;
use serde::{Deserialize, Serialize};

use crate::error::{CniError, code};

/// The environment of the process, reduced to the variables whose names begin with `CNI_`.
pub type Variables = BTreeMap<String, String>;

/// Longest container id that is taken: it becomes part of a file name, which ends at 255 bytes.
pub const CONTAINER_ID_MAX_BYTES: usize = 190;

/// What the runtime asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Give the container a network.
    Add,
    /// Take it away.
    Del,
    /// Verify that it still is as the last result says.
    Check,
    /// Remove what belongs to containers that are no more.
    Gc,
    /// Say whether ADD could work.
    Status,
    /// List the supported versions.
    Version,
}

impl Verb {
    /// The verb's name as in `CNI_COMMAND`.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Add => "ADD",
            Verb::Del => "DEL",
            Verb::Check => "CHECK",
            Verb::Gc => "GC",
            Verb::Status => "STATUS",
            Verb::Version => "VERSION",
        }
    }

    /// The verb that `CNI_COMMAND` names.
    ///
    /// # Errors
    /// Code 4 for any other word.
    pub fn parse(text: &str) -> Result<Verb, CniError> {
        match text {
            "ADD" => Ok(Verb::Add),
            "DEL" => Ok(Verb::Del),
            "CHECK" => Ok(Verb::Check),
            "GC" => Ok(Verb::Gc),
            "STATUS" => Ok(Verb::Status),
            "VERSION" => Ok(Verb::Version),
            _ => Err(invalid("CNI_COMMAND", text, "one of ADD, DEL, CHECK, GC, STATUS, VERSION")),
        }
    }

    fn names_container(self) -> bool {
        matches!(self, Verb::Add | Verb::Del | Verb::Check)
    }

    /// Whether the verb needs the container's network namespace.
    pub fn needs_netns(self) -> bool {
        matches!(self, Verb::Add | Verb::Check)
    }
}

/// Which pod the container belongs to, from `CNI_ARGS`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodIdentity {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`; older runtimes do not send it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// The checked environment of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// `CNI_COMMAND`.
    pub verb: Verb,
    /// `CNI_CONTAINERID`; empty for verbs that name no container.
    pub container_id: String,
    /// `CNI_IFNAME`; empty for verbs that name no container.
    pub ifname: String,
    /// `CNI_NETNS`: a path, or nothing.
    pub netns: Option<String>,
    /// `CNI_NETNS_OVERRIDE`: the plugin's own namespace is allowed as the container's.
    pub netns_override: bool,
    /// The pod, where the runtime says it.
    pub pod: Option<PodIdentity>,
    /// Address asked for by `IP=` in `CNI_ARGS`.
    pub ip: Option<IpAddr>,
    /// Hardware address asked for by `MAC=` in `CNI_ARGS`.
    pub mac: Option<MacAddr>,
    /// `CNI_PATH`, split.
    pub path: Vec<String>,
}

impl Invocation {
    /// Checks the environment of one call.
    ///
    /// # Errors
    /// Code 4; the message names every variable at fault.
    pub fn parse(vars: &Variables) -> Result<Invocation, CniError> {
        let get = |name: &str| vars.get(name).map(String::as_str).unwrap_or_default();
        let verb = Verb::parse(get("CNI_COMMAND"))?;
        let required: &[&str] = match verb {
            Verb::Add | Verb::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Verb::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Verb::Gc | Verb::Status | Verb::Version => &[],
        };
        let missing: Vec<&str> = required.iter().copied().filter(|name| get(name).is_empty()).collect();
        if !missing.is_empty() {
            let msg = format!("required environment variables missing: {}", missing.join(", "));
            let why = format!("CNI_COMMAND={} needs them", verb.as_str());
            return Err(CniError::new(code::INVALID_ENVIRONMENT, msg).details(why));
        }
        let mut invocation = Invocation {
            verb,
            container_id: String::new(),
            ifname: String::new(),
            netns: Some(get("CNI_NETNS")).filter(|path| !path.is_empty()).map(str::to_owned),
            netns_override: is_true(get("CNI_NETNS_OVERRIDE")),
            pod: None,
            ip: None,
            mac: None,
            path: get("CNI_PATH").split(':').filter(|dir| !dir.is_empty()).map(str::to_owned).collect(),
        };
        if verb.names_container() {
            invocation.container_id = check_container_id(get("CNI_CONTAINERID"))?.to_owned();
            invocation.ifname = check_ifname(get("CNI_IFNAME"))?.to_owned();
        }
        if verb == Verb::Add {
            // The other verbs need no more than the names, and DEL must not fail for anything else.
            invocation.take_args(get("CNI_ARGS"))?;
        }
        Ok(invocation)
    }

    fn take_args(&mut self, text: &str) -> Result<(), CniError> {
        let bad = |arg: &str, want: &str| invalid("CNI_ARGS", arg, want);
        let mut args = BTreeMap::new();
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=').filter(|(key, _)| !key.is_empty()) else {
                return Err(bad(pair, "KEY=VALUE pairs with ; between them"));
            };
            args.insert(key, value);
        }
        let arg = |key: &str| args.get(key).copied().filter(|value| !value.is_empty());
        if let Some(ip) = arg("IP") {
            let address = ip.split_once('/').map_or(ip, |(address, _)| address);
            self.ip = Some(address.parse().map_err(|_| bad(ip, "IP to be an address"))?);
        }
        if let Some(mac) = arg("MAC") {
            let want = "MAC to be a unicast address like 02:00:00:00:00:01";
            self.mac = Some(unicast_mac(mac).ok_or_else(|| bad(mac, want))?);
        }
        let (Some(namespace), Some(name)) = (arg("K8S_POD_NAMESPACE"), arg("K8S_POD_NAME")) else {
            return Ok(());
        };
        for part in [namespace, name] {
            if !is_dns_name(part) {
                return Err(bad(part, "K8S_POD_NAMESPACE and K8S_POD_NAME to be DNS names"));
            }
        }
        let uid = arg("K8S_POD_UID");
        if let Some(uid) = uid.filter(|uid| !is_uid(uid)) {
            return Err(bad(uid, "K8S_POD_UID to have letters, digits and - only"));
        }
        self.pod = Some(PodIdentity { namespace: namespace.to_owned(), name: name.to_owned(), uid: uid.map(str::to_owned) });
        Ok(())
    }
}

/// Checks a container id: a letter or digit, then letters, digits, `_`, `.` and `-`.
///
/// # Errors
/// Code 4 otherwise, or when it is longer than [`CONTAINER_ID_MAX_BYTES`].
pub fn check_container_id(id: &str) -> Result<&str, CniError> {
    let want = "a letter or digit first, then letters, digits, '_', '.', '-', at most 190 in all";
    if is_identifier(id) && id.len() <= CONTAINER_ID_MAX_BYTES { Ok(id) } else { Err(invalid("CNI_CONTAINERID", id, want)) }
}

/// Checks an interface name by the kernel's rules: 1 to 15 bytes, not `.` or `..`, without `/`, `:`, blanks and
/// control characters.
///
/// # Errors
/// Code 4 otherwise.
pub fn check_ifname(name: &str) -> Result<&str, CniError> {
    let good = (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.chars().any(|c| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control());
    if good {
        Ok(name)
    } else {
        let want = "1 to 15 bytes, not . or .., without / : % and blanks";
        Err(invalid("CNI_IFNAME", name, want))
    }
}

/// A letter or digit, then letters, digits, `_`, `.`, `-`: the form of container ids and network names.
pub(crate) fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric()) && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// An address that an interface can have: not a group's and not all zero.
pub(crate) fn unicast_mac(text: &str) -> Option<MacAddr> {
    let strict = text.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
    let mac: MacAddr = text.parse().ok().filter(|_| strict)?;
    let [first, ..] = mac.0;
    (first & 1 == 0 && mac.0 != [0; 6]).then_some(mac)
}

fn is_dns_name(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

fn is_uid(text: &str) -> bool {
    text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

fn invalid(name: &str, value: &str, want: &str) -> CniError {
    let msg = format!("invalid {name}={value:?}: want {want}");
    CniError::new(code::INVALID_ENVIRONMENT, msg)
}
