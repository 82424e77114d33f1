//! cnitool on a node: namespaces, calls, and configurations made from the one that the agent installed.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::common::lab::Lab;

/// The node that is called on.
pub(crate) const NODE: &str = "n1";

/// Where the agent puts its configuration.
const INSTALLED: &str = "/etc/cni/net.d/05-bowline.conflist";

/// Where configurations of these checks lie on the node.
const OWN: &str = "/run/cnitool";

/// The program, if there is one.
pub(crate) fn path() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("BOWLINE_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("bowline")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache/bowline")));
    set("CNITOOL").or_else(|| cache.map(|dir| dir.join("conformance/bin/cnitool"))).filter(|path| path.exists())
}

/// Runs a shell script on the node.
pub(crate) fn shell(lab: &Lab, script: &str) -> Result<String> {
    let output = lab.node(NODE, &["sh", "-c", script])?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    ensure!(output.status.success(), "{script}: {} {}", text(&output.stdout), text(&output.stderr));
    Ok(text(&output.stdout))
}

/// A namespace on the node in which something may be attached; gone when dropped.
pub(crate) struct Space<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) name: String,
}

impl<'a> Space<'a> {
    pub(crate) fn new(lab: &'a Lab) -> Result<Space<'a>> {
        static SPACES: AtomicU32 = AtomicU32::new(0);
        let name = format!("tool{}", SPACES.fetch_add(1, Ordering::Relaxed));
        shell(lab, &format!("ip netns add {name} && ip -n {name} link set lo up"))?;
        Ok(Space { lab, name })
    }

    pub(crate) fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Runs a script in the namespace.
    pub(crate) fn shell(&self, script: &str) -> Result<String> {
        shell(self.lab, &format!("ip netns exec {} sh -c '{script}'", self.name))
    }

    /// Addresses of the interface that are not link-local.
    pub(crate) fn addresses(&self) -> Result<Vec<String>> {
        let text = shell(self.lab, &format!("ip -n {} -j addr show dev eth0 scope global", self.name))?;
        let links: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let entries = links.as_array().into_iter().flatten().filter_map(|link| link["addr_info"].as_array()).flatten();
        Ok(entries.filter_map(|entry| Some(format!("{}/{}", entry["local"].as_str()?, entry["prefixlen"]))).collect())
    }
}

impl Drop for Space<'_> {
    fn drop(&mut self) {
        let _ = shell(self.lab, &format!("ip netns del {} 2>/dev/null || true", self.name));
    }
}

/// A configuration on the node, and the arguments of the calls with it.
#[derive(Debug, Clone)]
pub(crate) struct Net {
    dir: String,
    pub(crate) list: Value,
    /// Where plugins are looked for.
    pub(crate) plugins: String,
    /// CAP_ARGS.
    pub(crate) wants: Value,
}

impl Net {
    /// The one that the agent installed, as it is.
    pub(crate) fn installed(lab: &Lab) -> Result<Net> {
        let text = shell(lab, &format!("cat {INSTALLED}"))?;
        let list = serde_json::from_str(&text).context(INSTALLED)?;
        Ok(Net { dir: "/etc/cni/net.d".into(), list, plugins: "/opt/cni/bin".into(), wants: Value::Null })
    }

    /// The same in another version of the specification and with other plugins after ours, written beside it.
    pub(crate) fn changed(lab: &Lab, version: &str, after: &[Value]) -> Result<Net> {
        let mut net = Net::installed(lab)?;
        net.list["cniVersion"] = json!(version);
        let plugins = net.list["plugins"].as_array_mut().context("no plugins in the configuration")?;
        plugins.extend(after.iter().cloned());
        net.dir = format!("{OWN}/{version}-{}", after.len());
        shell(lab, &format!("mkdir -p {0} && cat >{0}/10.conflist <<'END'\n{1}\nEND", net.dir, net.list))?;
        Ok(net)
    }

    /// Calls cnitool; an error holds what it said.
    pub(crate) fn call(&self, verb: &str, space: &Space<'_>) -> Result<String> {
        let tool = path().context("no cnitool")?;
        let name = self.list["name"].as_str().context("the configuration has no name")?;
        let wants = if self.wants.is_null() { String::new() } else { format!("CAP_ARGS='{}' ", self.wants) };
        let variables = format!("{wants}NETCONFPATH={} CNI_PATH={}", self.dir, self.plugins);
        shell(space.lab, &format!("{variables} {} {verb} {name} {}", tool.display(), space.path()))
    }

    /// ADD, and its result.
    pub(crate) fn add(&self, space: &Space<'_>) -> Result<Value> {
        let text = self.call("add", space)?;
        serde_json::from_str(&text).with_context(|| format!("the result of ADD: {text}"))
    }
}

/// The addresses of a result.
pub(crate) fn addresses(result: &Value) -> Vec<String> {
    result["ips"].as_array().into_iter().flatten().filter_map(|ip| ip["address"].as_str().map(str::to_owned)).collect()
}

/// The name on the node of the interface that a result is about.
pub(crate) fn host_link(result: &Value) -> Result<String> {
    let links = result["interfaces"].as_array().into_iter().flatten();
    let host = links.filter(|link| link["sandbox"].as_str().unwrap_or_default().is_empty()).find_map(|link| link["name"].as_str());
    Ok(host.context("no interface of the node in the result")?.to_owned())
}
