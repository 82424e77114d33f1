//! The CNI plugin `loopback`: sets a container's loopback device up.
//!
//! Runtimes ask for it by name beside every network (containerd up to 2.0 finds no sandbox ready without it), and it comes with a package
//! that a node may lack. It is this binary under another name and needs no agent. Reference: CNI specification 1.1.0.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;

use bowline_cni::config::decode;
use bowline_cni::env::Variables;
use bowline_cni::{CniError, CniResult, Interface, Invocation, IpConfig, NetworkConfig, Verb, Version, code};
use bowline_kernel::netlink::{Netlink, NetlinkError};
use bowline_kernel::netns::NetNs;
use ipnet::IpNet;
use serde_json::{Value, json};

/// The name under which runtimes look for it, and the device.
pub(crate) const PLUGIN_NAME: &str = "loopback";
const DEVICE: &str = "lo";

/// Largest configuration that is read.
const CONFIG_MAX_BYTES: u64 = 4 << 20;

/// The plugin as a process.
pub(crate) fn plugin_main() -> ExitCode {
    let vars: Variables = std::env::vars().filter(|(name, _)| name.starts_with("CNI_")).collect();
    let mut bytes = Vec::new();
    let document = match io::stdin().lock().take(CONFIG_MAX_BYTES).read_to_end(&mut bytes) {
        Ok(_) => decode(&bytes),
        Err(error) => Err(CniError::new(code::IO_FAILURE, format!("standard input: {error}"))),
    };
    let version = document.as_ref().map_or(Version::CURRENT, |(_, version)| *version);
    let (answer, status) = match perform(&vars, document) {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(error) => (Some(error.to_json(version)), ExitCode::FAILURE),
    };
    match answer.map_or(Ok(()), |answer| writeln!(io::stdout(), "{answer:#}")) {
        Ok(()) => status,
        Err(_) => ExitCode::FAILURE,
    }
}

fn perform(vars: &Variables, document: Result<(Value, Version), CniError>) -> Result<Option<Value>, CniError> {
    let invocation = Invocation::parse(vars)?;
    if invocation.verb == Verb::Version {
        let version = document.map_or(Version::CURRENT, |(_, version)| version);
        return Ok(Some(json!({"cniVersion": version.as_str(), "supportedVersions": Version::all_as_str()})));
    }
    let (document, version) = document?;
    let config = NetworkConfig::parse(&document, version, invocation.verb)?;
    let netns = invocation.netns.as_deref().unwrap_or_default();
    match invocation.verb {
        Verb::Add => {
            inside(netns, |node| node.set_up(DEVICE))?;
            Ok(Some(config.prev_result.unwrap_or_else(|| result(netns)).render(version)))
        }
        Verb::Check => match inside(netns, |node| node.link(DEVICE))? {
            Some(link) if link.up => Ok(None),
            Some(_) | None => Err(CniError::new(code::CHECK_FAILED, "the container's loopback device is down")),
        },
        // The device goes with its namespace.
        Verb::Del | Verb::Gc | Verb::Status | Verb::Version => Ok(None),
    }
}

/// Works in the container's namespace.
fn inside<T: Send>(netns: &str, work: impl FnOnce(&mut Netlink) -> Result<T, NetlinkError> + Send) -> Result<T, CniError> {
    let wrong = |error: String| CniError::new(code::INVALID_ENVIRONMENT, format!("CNI_NETNS={netns:?} cannot be entered")).details(error);
    let namespace = NetNs::open(netns).map_err(|error| wrong(error.to_string()))?;
    let done = namespace.run(|| Netlink::open().and_then(|mut node| work(&mut node))).map_err(|error| wrong(error.to_string()))?;
    done.map_err(|error| CniError::new(code::IO_FAILURE, "the container's loopback device cannot be set up").details(error.to_string()))
}

fn result(netns: &str) -> CniResult {
    let device = Interface {
        name: DEVICE.to_owned(),
        mac: "00:00:00:00:00:00".to_owned(),
        mtu: None,
        sandbox: Some(netns.to_owned()),
        socket_path: None,
        pci_id: None,
    };
    let address = |ip: IpAddr, length: u8| {
        let address = IpNet::new(ip, length).unwrap_or_else(|_| IpNet::from(ip));
        IpConfig { interface: Some(0), address, gateway: None }
    };
    let ips = vec![address(Ipv4Addr::LOCALHOST.into(), 8), address(Ipv6Addr::LOCALHOST.into(), 128)];
    CniResult { interfaces: vec![device], ips, ..CniResult::default() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use std::os::fd::AsRawFd;

    use super::*;

    fn call(verb: &str, netns: &str, more: &Value) -> Result<Option<Value>, CniError> {
        let vars =
            [("CNI_COMMAND", verb), ("CNI_CONTAINERID", "c1"), ("CNI_NETNS", netns), ("CNI_IFNAME", "lo"), ("CNI_PATH", "/opt/cni/bin")];
        let vars: Variables = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut config = json!({"cniVersion": "0.3.1", "name": "cni-loopback", "type": "loopback"});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        perform(&vars, decode(config.to_string().as_bytes()))
    }

    #[test]
    fn the_device_comes_up_and_a_check_sees_when_it_is_down() {
        let Ok(namespace) = NetNs::anonymous() else { return println!("skipped: no right to make a network namespace") };
        let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_fd().as_raw_fd());
        assert_eq!(call("CHECK", &path, &json!({})).unwrap_err().code, code::CHECK_FAILED);
        let added = call("ADD", &path, &json!({})).unwrap().unwrap();
        assert_eq!((&added["interfaces"][0]["name"], &added["ips"][0]["address"]), (&"lo".into(), &"127.0.0.1/8".into()));
        assert_eq!(call("CHECK", &path, &json!({})).unwrap(), None);
        assert_eq!(call("DEL", &path, &json!({})).unwrap(), None);
    }

    #[test]
    fn in_a_chain_the_result_before_it_goes_on() {
        let Ok(namespace) = NetNs::anonymous() else { return println!("skipped: no right to make a network namespace") };
        let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_fd().as_raw_fd());
        let before = json!({"prevResult": {"cniVersion": "0.3.1", "ips": [{"version": "4", "address": "10.42.0.5/32"}]}});
        let added = call("ADD", &path, &before).unwrap().unwrap();
        assert_eq!(added["ips"][0]["address"], "10.42.0.5/32");
    }

    #[test]
    fn a_namespace_that_is_gone_is_an_error_for_add_and_none_for_del() {
        assert_eq!(call("ADD", "/nonexistent/ns", &json!({})).unwrap_err().code, code::INVALID_ENVIRONMENT);
        assert_eq!(call("DEL", "/nonexistent/ns", &json!({})).unwrap(), None);
    }
}
