//! Objects of the API as the checks need them: pods that run a generator, services, policies.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::lab::{BOWLINE, Lab, eventually};

/// The port on which `serve` answers, by TCP and UDP.
pub(crate) const PORT: u16 = 7000;

/// This very program, as it is called in a pod.
pub(crate) fn myself() -> Result<String> {
    Ok(std::env::current_exe().context("this program's path")?.display().to_string())
}

/// A pod on a node that runs a generator; its label `app` is given.
pub(crate) fn pod(name: &str, node: &str, app: &str, generator: &[&str]) -> Result<Value> {
    let mut command = vec![myself()?, "--generator".to_owned()];
    command.extend(generator.iter().map(|word| (*word).to_owned()));
    Ok(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "none", "command": command}]},
    }))
}

/// A pod that serves under its own name.
pub(crate) fn server(name: &str, node: &str, app: &str) -> Result<Value> {
    pod(name, node, app, &["serve", name])
}

/// A pod in which generators can be run.
pub(crate) fn idle(name: &str, node: &str, app: &str) -> Result<Value> {
    pod(name, node, app, &["idle"])
}

/// A service in front of `app`, by TCP and UDP.
pub(crate) fn service(name: &str, app: &str, node_port: Option<u16>) -> Value {
    let port = |protocol: &str| {
        let mut port = json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": PORT});
        if let (Some(number), Some(fields)) = (node_port, port.as_object_mut()) {
            fields.insert("nodePort".into(), json!(number));
        }
        port
    };
    let kind = if node_port.is_some() { "NodePort" } else { "ClusterIP" };
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"type": kind, "ipFamilyPolicy": "PreferDualStack", "selector": {"app": app}, "ports": [port("TCP"), port("UDP")]},
    })
}

/// A service of many ports, half of them by UDP, all of which lead to the servers' one.
pub(crate) fn wide(name: &str, app: &str, ports: u16) -> Value {
    let mut service = service(name, app, None);
    let port = |number: u16| {
        let (protocol, port) = (if number.is_multiple_of(2) { "TCP" } else { "UDP" }, PORT + number / 2);
        json!({"name": format!("p{number}"), "protocol": protocol, "port": port, "targetPort": PORT})
    };
    service["spec"]["ports"] = (0..ports).map(port).collect();
    service
}

/// A policy that selects `app` and lets in only pods of `from`; nobody if there is none.
pub(crate) fn ingress_policy(name: &str, app: &str, from: Option<&str>) -> Value {
    let rules: Vec<Value> = from.map(|from| json!({"from": [{"podSelector": {"matchLabels": {"app": from}}}]})).into_iter().collect();
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress"], "ingress": rules},
    })
}

/// A policy under which pods of `app` reach nobody.
pub(crate) fn no_egress_policy(name: &str, app: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Egress"], "egress": []},
    })
}

/// A ClusterNetworkPolicy about the pods of `app`, with these sections of its spec (`ingress`, `egress`) beside.
pub(crate) fn cluster_policy(name: &str, (tier, priority): (&str, u16), app: &str, sections: Value) -> Value {
    let mut spec = json!({"tier": tier, "priority": priority, "subject": {"pods": pods_of(app)}});
    for (direction, rules) in sections.as_object().into_iter().flatten() {
        spec[direction] = rules.clone();
    }
    json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": name}, "spec": spec})
}

/// Pods of `app` in any namespace, as a ClusterNetworkPolicy's subject or peer.
pub(crate) fn pods_of(app: &str) -> Value {
    json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": app}}})
}

impl Lab {
    /// Applies objects; comes back when the pods among them are ready.
    pub(crate) fn apply_objects(&self, objects: &[Value]) -> Result<()> {
        self.apply_text(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())?;
        let pods: Vec<&str> = objects.iter().filter(|o| o["kind"] == "Pod").filter_map(|o| o["metadata"]["name"].as_str()).collect();
        self.wait_pods(&pods)
    }

    /// Waits until pods are ready.
    pub(crate) fn wait_pods(&self, pods: &[&str]) -> Result<()> {
        if pods.is_empty() {
            return Ok(());
        }
        let mut words = vec!["wait", "--for=condition=Ready", "--timeout=60s", "pod"];
        words.extend(pods);
        self.kubectl(&words).map(|_| ())
    }

    /// Deletes objects of one kind and waits until they are gone.
    pub(crate) fn delete(&self, kind: &str, names: &[&str]) -> Result<()> {
        let mut words = vec!["delete", kind, "--ignore-not-found", "--wait=true", "--timeout=60s"];
        words.extend(names);
        self.kubectl(&words).map(|_| ())
    }

    /// Waits until the agents have written what the API holds, and have cut what it no longer allows.
    pub(crate) fn cut(&self) -> Result<()> {
        self.cut_beside(&[])
    }

    /// The same where problems of these codes are there.
    pub(crate) fn cut_beside(&self, known: &[u16]) -> Result<()> {
        self.settled_beside(known)?;
        eventually(|| {
            let status = self.status()?;
            let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
            match nodes.iter().filter(|node| node["cutting"] != false).count() {
                0 => Ok(()),
                n => bail!("{n} of {} agents are cutting", nodes.len()),
            }
        })
    }

    /// Waits until the agents have written what the API holds, and are content: each serves, and is as far in the kernel as it has compiled.
    pub(crate) fn settled(&self) -> Result<()> {
        self.settled_beside(&[])
    }

    /// The same where problems of these codes are there.
    pub(crate) fn settled_beside(&self, known: &[u16]) -> Result<()> {
        eventually(|| {
            let status = self.status()?;
            let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
            let is_known = |problem: &Value| known.iter().any(|code| problem["code"] == *code);
            let content = |n: &Value| n["problems"].as_array().is_some_and(|all| all.iter().all(is_known));
            let calm = |n: &&Value| n["synced"] == true && n["appliedRevision"] == n["revision"] && content(n);
            match nodes.iter().filter(calm).count() {
                3 => Ok(()),
                n => bail!("{n} of 3 agents are content: {}", self.problems(&status)),
            }
        })
    }

    fn problems(&self, status: &Value) -> String {
        let nodes = status["nodes"].as_array().into_iter().flatten();
        let all = nodes.flat_map(|n| n["problems"].as_array().into_iter().flatten().map(|p| format!("{}: {p}", n["node"])));
        all.collect::<Vec<_>>().join("; ")
    }

    /// Starts what a failed check may have left stopped.
    pub(crate) fn mend(&self) {
        let _ = self.api("start");
        for node in NODES {
            let _ = self.agent("start", node);
        }
    }

    /// Kills every agent, and starts it again after `pause`.
    pub(crate) fn kill_agents(&self, pause: Duration) -> Result<()> {
        self.replace_agents(Path::new(BOWLINE), pause)
    }

    /// Kills every agent, and starts one of this executable in its place after `pause`.
    pub(crate) fn replace_agents(&self, program: &Path, pause: Duration) -> Result<()> {
        for node in NODES {
            self.agent("kill", node)?;
        }
        // How long nobody is there is part of what is tried.
        std::thread::sleep(pause);
        for node in NODES {
            self.start_agent_of(program, node)?;
        }
        Ok(())
    }
}

/// The nodes of a lab of three.
pub(crate) const NODES: [&str; 3] = ["n1", "n2", "n3"];
