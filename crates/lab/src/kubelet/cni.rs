//! Calling CNI plugins as a container runtime does: the node's configuration, the executable, environment and stdin.
//!
//! Invariant: nothing here knows which plugin it is. Reference: CNI specification 1.1.0, sections 2 to 4.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;

use crate::daemon::Node;

/// Where a node's network configuration is.
const CONFIG_DIRECTORY: &str = "/etc/cni/net.d";
/// Where its plugins are.
const PLUGIN_DIRECTORY: &str = "/opt/cni/bin";
/// How long a plugin may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The interface made in a pod.
pub(super) const INTERFACE: &str = "eth0";

/// The network that a node's configuration describes.
#[derive(Debug, Clone)]
pub(super) struct Network {
    name: String,
    version: String,
    plugins: Vec<Map<String, Value>>,
}

/// A pod's attachment to it.
#[derive(Debug, Clone)]
pub(super) struct Attachment {
    /// The sandbox's identifier.
    pub(super) container_id: String,
    /// Path of its network namespace on the node.
    pub(super) netns: String,
    /// CNI_ARGS.
    pub(super) args: String,
    /// What is offered to plugins with a capability of that name.
    pub(super) runtime: Map<String, Value>,
    /// What ADD answered.
    pub(super) result: Option<Value>,
}

/// The configuration of the lowest name, as runtimes choose it.
pub(super) fn load(node: &Node) -> Result<Network> {
    let directory = node.path(CONFIG_DIRECTORY);
    let mut names: Vec<String> = fs::read_dir(&directory)
        .with_context(|| format!("read {CONFIG_DIRECTORY}"))?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| [".conflist", ".conf", ".json"].iter().any(|ending| name.ends_with(ending)))
        .collect();
    names.sort();
    let Some(name) = names.first() else { bail!("no network configuration in {CONFIG_DIRECTORY}") };
    let text = fs::read(directory.join(name)).with_context(|| format!("read {CONFIG_DIRECTORY}/{name}"))?;
    let value = serde_json::from_slice(&text).with_context(|| format!("{CONFIG_DIRECTORY}/{name} is not JSON"))?;
    Network::parse(value).with_context(|| format!("{CONFIG_DIRECTORY}/{name}"))
}

impl Network {
    fn parse(value: Value) -> Result<Network> {
        let Value::Object(mut fields) = value else { bail!("not an object") };
        let text = |fields: &Map<String, Value>, key: &str| fields.get(key).and_then(Value::as_str).map(str::to_owned);
        let name = text(&fields, "name").context("no name")?;
        let version = text(&fields, "cniVersion").unwrap_or_else(|| "0.1.0".to_owned());
        let plugins = match fields.remove("plugins") {
            // A single plugin's configuration, as before lists.
            None => vec![fields],
            Some(Value::Array(plugins)) => plugins
                .into_iter()
                .map(|plugin| serde_json::from_value(plugin).context("a plugin is not an object"))
                .collect::<Result<_>>()?,
            Some(_) => bail!("plugins is not a list"),
        };
        Ok(Network { name, version, plugins })
    }

    /// Whether the version has STATUS and GC.
    fn has_status(&self) -> bool {
        let mut parts = self.version.split('.').filter_map(|part| part.parse::<u32>().ok());
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (1, 1)
    }

    fn config(&self, plugin: &Map<String, Value>, attachment: Option<&Attachment>, previous: Option<&Value>) -> Value {
        let mut config = plugin.clone();
        config.insert("name".into(), json!(self.name));
        config.insert("cniVersion".into(), json!(self.version));
        if let Some(previous) = previous {
            config.insert("prevResult".into(), previous.clone());
        }
        let capable = |name: &str| plugin.get("capabilities").and_then(|all| all.get(name)).and_then(Value::as_bool).unwrap_or(false);
        let offered: Map<String, Value> =
            attachment.iter().flat_map(|attachment| attachment.runtime.clone()).filter(|(name, _)| capable(name)).collect();
        if !offered.is_empty() {
            config.insert("runtimeConfig".into(), Value::Object(offered));
        }
        Value::Object(config)
    }

    /// Attaches a pod: each plugin is given the result of the one before.
    pub(super) async fn add(&self, node: &Node, attachment: &mut Attachment) -> Result<Vec<IpAddr>> {
        let mut result: Option<Value> = None;
        for plugin in &self.plugins {
            let config = self.config(plugin, Some(attachment), result.as_ref());
            let output = call(node, "ADD", plugin, &config, Some(attachment)).await?;
            result = Some(serde_json::from_str(&output).context("the plugin's result is not JSON")?);
        }
        let addresses = result.as_ref().map(addresses).unwrap_or_default();
        attachment.result = result;
        if addresses.is_empty() {
            bail!("network {} gave the pod no address", self.name);
        }
        Ok(addresses)
    }

    /// Detaches a pod: the same plugins the other way round.
    pub(super) async fn del(&self, node: &Node, attachment: &Attachment) -> Result<()> {
        for plugin in self.plugins.iter().rev() {
            let config = self.config(plugin, Some(attachment), attachment.result.as_ref());
            call(node, "DEL", plugin, &config, Some(attachment)).await?;
        }
        Ok(())
    }
}

/// Whether pods can be attached on this node.
pub(super) async fn ready(node: &Node) -> Result<()> {
    let network = load(node)?;
    if network.has_status() {
        for plugin in &network.plugins {
            call(node, "STATUS", plugin, &network.config(plugin, None, None), None).await?;
        }
    }
    Ok(())
}

/// Says that there is no attachment at all.
pub(super) async fn collect(node: &Node) -> Result<()> {
    let network = load(node)?;
    if network.has_status() {
        for plugin in &network.plugins {
            let mut config = network.config(plugin, None, None);
            if let Some(fields) = config.as_object_mut() {
                fields.insert("cni.dev/valid-attachments".into(), json!([]));
                fields.insert("cni.dev/attachments".into(), json!([]));
            }
            call(node, "GC", plugin, &config, None).await?;
        }
    }
    Ok(())
}

async fn call(node: &Node, command: &str, plugin: &Map<String, Value>, config: &Value, attachment: Option<&Attachment>) -> Result<String> {
    let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
    if kind.is_empty() || kind.contains(['/', '\0']) || kind.starts_with('.') {
        bail!("{kind:?} is not the name of a plugin");
    }
    let mut env: BTreeMap<String, String> = [("CNI_COMMAND", command), ("CNI_PATH", PLUGIN_DIRECTORY), ("PATH", super::env::PATH)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    if let Some(attachment) = attachment {
        env.insert("CNI_CONTAINERID".into(), attachment.container_id.clone());
        env.insert("CNI_NETNS".into(), attachment.netns.clone());
        env.insert("CNI_IFNAME".into(), INTERFACE.into());
        env.insert("CNI_ARGS".into(), attachment.args.clone());
    }
    let mut enter = node.enter(vec![format!("{PLUGIN_DIRECTORY}/{kind}")]);
    enter.env = Some(env);
    let mut process = tokio::process::Command::from(enter.command()?);
    process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = process.spawn().context("start the plugin")?;
    if let Some(mut input) = child.stdin.take() {
        // A plugin that ends without reading says why by itself.
        let _ = input.write_all(config.to_string().as_bytes()).await;
    }
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output())
        .await
        .with_context(|| format!("plugin {kind} took more than {} s for {command}", PATIENCE.as_secs()))??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    bail!("plugin {kind}, {command}: {}", failure(&text, &String::from_utf8_lossy(&output.stderr)))
}

/// What a failed plugin says: its error object, or else what it wrote to standard error.
fn failure(output: &str, errors: &str) -> String {
    let Ok(object) = serde_json::from_str::<Value>(output) else {
        return if errors.trim().is_empty() { "it failed without a reason".to_owned() } else { errors.trim().to_owned() };
    };
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let code = object.get("code").and_then(Value::as_u64).unwrap_or(0);
    let details = if text("details").is_empty() { String::new() } else { format!("; {}", text("details")) };
    format!("{} (code {code}){details}", text("msg"))
}

/// The addresses in a result of any version.
fn addresses(result: &Value) -> Vec<IpAddr> {
    let address = |text: &Value| text.as_str()?.split('/').next()?.parse().ok();
    let list = result.get("ips").and_then(Value::as_array).into_iter().flatten().filter_map(|ip| ip.get("address"));
    let old = ["ip4", "ip6"].into_iter().filter_map(|key| result.get(key)?.get("ip"));
    list.chain(old).filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;

    fn network(value: Value) -> Network {
        Network::parse(value).unwrap()
    }

    #[test]
    fn capabilities_decide_what_a_plugin_is_offered() {
        let network = network(json!({"cniVersion": "1.1.0", "name": "x", "plugins": [
            {"type": "a", "capabilities": {"portMappings": true}}, {"type": "b"}]}));
        let attachment = Attachment {
            container_id: "c".into(),
            netns: "/n".into(),
            args: String::new(),
            runtime: json!({"portMappings": [], "bandwidth": {}}).as_object().unwrap().clone(),
            result: None,
        };
        let config = |index: usize| network.config(&network.plugins[index], Some(&attachment), None);
        assert_eq!(config(0)["runtimeConfig"], json!({"portMappings": []}));
        assert!(config(1).get("runtimeConfig").is_none());
        assert_eq!(config(1)["name"], "x");
        assert!(network.has_status());
    }

    #[test]
    fn a_single_configuration_is_a_list_of_one() {
        let network = network(json!({"name": "x", "type": "bridge"}));
        assert_eq!((network.plugins.len(), network.version.as_str()), (1, "0.1.0"));
        assert!(!network.has_status());
        assert!(Network::parse(json!([])).is_err());
    }

    #[test]
    fn addresses_of_every_version() {
        let new = json!({"ips": [{"address": "10.0.0.2/32"}, {"address": "fd00::2/128"}]});
        assert_eq!(addresses(&new).len(), 2);
        assert_eq!(addresses(&json!({"ip4": {"ip": "10.0.0.2/24"}}))[0].to_string(), "10.0.0.2");
    }

    #[test]
    fn failures_say_why() {
        assert_eq!(failure(r#"{"code":11,"msg":"later","details":"no agent"}"#, ""), "later (code 11); no agent");
        assert_eq!(failure("", "boom\n"), "boom");
    }
}
