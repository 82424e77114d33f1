//! A container's environment: what kubelet gives every container, what the pod declares, and `$(NAME)` in commands.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret, Service};
use kube::api::{Api as KubeApi, ListParams};

use super::Kubelet;

/// Where programs are looked for.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Facts of a running pod that fields may refer to.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// The pod's addresses, primary first.
    pub(super) pod_ips: Vec<String>,
    /// The node's.
    pub(super) host_ips: Vec<String>,
}

/// Variables, in the order in which they were declared, so that later ones can refer to earlier ones.
pub(super) type Env = BTreeMap<String, String>;

/// The environment of `container`.
pub(super) async fn of(kubelet: &Kubelet, pod: &Pod, container: &Container, facts: &Facts) -> Result<Env> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    let name = pod.metadata.name.clone().unwrap_or_default();
    let mut env = Env::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("HOME".to_owned(), "/root".to_owned()),
        ("BOWLINE_LAB_POD".to_owned(), name.clone()),
        ("BOWLINE_LAB_NAMESPACE".to_owned(), namespace.to_owned()),
        ("BOWLINE_LAB_NODE".to_owned(), kubelet.node.name().to_owned()),
    ]);
    let host_network = spec.host_network.unwrap_or(false);
    let hostname = if host_network { kubelet.node.name().to_owned() } else { spec.hostname.clone().unwrap_or(name) };
    env.insert("HOSTNAME".to_owned(), hostname);
    add_services(kubelet, namespace, spec.enable_service_links.unwrap_or(true), &mut env).await?;
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.clone().unwrap_or_default();
        if let Some(wanted) = &source.config_map_ref {
            let found = config_map(kubelet, namespace, &wanted.name, wanted.optional).await?;
            env.extend(found.into_iter().map(|(key, value)| (format!("{prefix}{key}"), value)));
        }
        if let Some(wanted) = &source.secret_ref {
            let found = secret(kubelet, namespace, &wanted.name, wanted.optional).await?;
            env.extend(found.into_iter().map(|(key, value)| (format!("{prefix}{key}"), value)));
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => Some(expand(value, &env)),
            (None, Some(source)) => referred(kubelet, pod, facts, source)
                .await
                .with_context(|| format!("variable {} of container {}", variable.name, container.name))?,
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            env.insert(variable.name.clone(), value);
        }
    }
    Ok(env)
}

async fn referred(kubelet: &Kubelet, pod: &Pod, facts: &Facts, source: &EnvVarSource) -> Result<Option<String>> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(wanted) = &source.field_ref {
        return field(pod, facts, &wanted.field_path).map(Some);
    }
    if let Some(wanted) = &source.config_map_key_ref {
        let mut found = config_map(kubelet, namespace, &wanted.name, wanted.optional).await?;
        return pick(found.remove(&wanted.key), wanted.optional, &format!("ConfigMap {} has no key {}", wanted.name, wanted.key));
    }
    if let Some(wanted) = &source.secret_key_ref {
        let mut found = secret(kubelet, namespace, &wanted.name, wanted.optional).await?;
        return pick(found.remove(&wanted.key), wanted.optional, &format!("Secret {} has no key {}", wanted.name, wanted.key));
    }
    bail!("only fieldRef, configMapKeyRef and secretKeyRef are known here")
}

fn pick(value: Option<String>, optional: Option<bool>, absent: &str) -> Result<Option<String>> {
    if value.is_none() && !optional.unwrap_or(false) {
        bail!("{absent}");
    }
    Ok(value)
}

async fn config_map(kubelet: &Kubelet, namespace: &str, name: &str, optional: Option<bool>) -> Result<BTreeMap<String, String>> {
    let found: Option<ConfigMap> = KubeApi::namespaced(kubelet.client(), namespace).get_opt(name).await?;
    match found {
        Some(found) => Ok(found.data.unwrap_or_default()),
        None if optional.unwrap_or(false) => Ok(BTreeMap::new()),
        None => bail!("no ConfigMap {namespace}/{name}"),
    }
}

async fn secret(kubelet: &Kubelet, namespace: &str, name: &str, optional: Option<bool>) -> Result<BTreeMap<String, String>> {
    let found: Option<Secret> = KubeApi::namespaced(kubelet.client(), namespace).get_opt(name).await?;
    match found {
        Some(found) => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            Ok(found.data.unwrap_or_default().into_iter().map(|(key, value)| (key, text(&value.0))).collect())
        }
        None if optional.unwrap_or(false) => Ok(BTreeMap::new()),
        None => bail!("no Secret {namespace}/{name}"),
    }
}

/// A field by its path, as the downward API names it.
pub(super) fn field(pod: &Pod, facts: &Facts, path: &str) -> Result<String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let keyed = |prefix: &str| path.strip_prefix(prefix)?.strip_suffix("']");
    if let Some(key) = keyed("metadata.labels['") {
        return Ok(meta.labels.as_ref().and_then(|all| all.get(key)).cloned().unwrap_or_default());
    }
    if let Some(key) = keyed("metadata.annotations['") {
        return Ok(meta.annotations.as_ref().and_then(|all| all.get(key)).cloned().unwrap_or_default());
    }
    let lines = |all: &Option<BTreeMap<String, String>>| {
        all.iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
    };
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(&meta.labels),
        "metadata.annotations" => lines(&meta.annotations),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_else(|| "default".to_owned()),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        _ => bail!("{path:?} is not a field that can be referred to"),
    })
}

/// Service variables: always those of `kubernetes`, with links those of the pod's namespace too.
async fn add_services(kubelet: &Kubelet, namespace: &str, links: bool, env: &mut Env) -> Result<()> {
    let masters: KubeApi<Service> = KubeApi::namespaced(kubelet.client(), "default");
    let mut services: Vec<Service> = masters.get_opt("kubernetes").await?.into_iter().collect();
    if links {
        let own: KubeApi<Service> = KubeApi::namespaced(kubelet.client(), namespace);
        services.extend(own.list(&ListParams::default()).await?);
    }
    for service in services {
        env.extend(service_variables(&service));
    }
    Ok(())
}

fn service_variables(service: &Service) -> Vec<(String, String)> {
    let spec = service.spec.clone().unwrap_or_default();
    let address = spec.cluster_ip.filter(|address| !address.is_empty() && address != "None");
    let (Some(address), Some(name)) = (address, &service.metadata.name) else { return Vec::new() };
    let prefix = name.to_ascii_uppercase().replace('-', "_");
    let literal = if address.contains(':') { format!("[{address}]") } else { address.clone() };
    let ports = spec.ports.unwrap_or_default();
    let mut variables = vec![(format!("{prefix}_SERVICE_HOST"), address.clone())];
    if let Some(first) = ports.first() {
        let protocol = first.protocol.clone().unwrap_or_else(|| "TCP".to_owned()).to_ascii_lowercase();
        variables.push((format!("{prefix}_SERVICE_PORT"), first.port.to_string()));
        variables.push((format!("{prefix}_PORT"), format!("{protocol}://{literal}:{}", first.port)));
    }
    for port in &ports {
        if let Some(name) = &port.name {
            let name = name.to_ascii_uppercase().replace('-', "_");
            variables.push((format!("{prefix}_SERVICE_PORT_{name}"), port.port.to_string()));
        }
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        let stem = format!("{prefix}_PORT_{}_{protocol}", port.port);
        let lower = protocol.to_ascii_lowercase();
        variables.push((stem.clone(), format!("{lower}://{literal}:{}", port.port)));
        variables.push((format!("{stem}_PROTO"), lower));
        variables.push((format!("{stem}_PORT"), port.port.to_string()));
        variables.push((format!("{stem}_ADDR"), address.clone()));
    }
    variables
}

/// Replaces `$(NAME)` by the variable's value; `$$` is a dollar; what is unknown stays.
pub(super) fn expand(text: &str, env: &Env) -> String {
    let mut output = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        output.push_str(before);
        rest = if let Some(escaped) = after.strip_prefix('$') {
            output.push('$');
            escaped
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match env.get(name) {
                Some(value) => output.push_str(value),
                None => {
                    output.push_str("$(");
                    output.push_str(name);
                    output.push(')');
                }
            }
            tail
        } else {
            output.push('$');
            after
        };
    }
    output.push_str(rest);
    output
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;
    use serde_json::json;

    #[test]
    fn references_are_expanded() {
        let env = Env::from([("A".to_owned(), "1".to_owned())]);
        for (text, expected) in [("$(A)b", "1b"), ("$$(A)", "$(A)"), ("$(B)", "$(B)"), ("100$", "100$"), ("$(A", "$(A"), ("$A", "$A")] {
            assert_eq!(expand(text, &env), expected, "{text}");
        }
    }

    #[test]
    fn fields_are_found() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {"a/b": "x"}}, "spec": {"nodeName": "n1", "containers": []}
        }))
        .unwrap();
        let facts = Facts { pod_ips: vec!["10.0.0.1".into(), "fd::1".into()], host_ips: vec![] };
        for (path, expected) in [
            ("metadata.name", "p"),
            ("metadata.labels['a/b']", "x"),
            ("metadata.labels['none']", ""),
            ("spec.nodeName", "n1"),
            ("status.podIPs", "10.0.0.1,fd::1"),
        ] {
            assert_eq!(field(&pod, &facts, path).unwrap(), expected, "{path}");
        }
        assert!(field(&pod, &facts, "spec.secret").is_err());
    }

    #[test]
    fn service_variables_have_the_usual_names() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "my-web"},
            "spec": {"clusterIP": "10.43.0.7", "ports": [{"port": 80, "name": "http"}]}
        }))
        .unwrap();
        let env: Env = service_variables(&service).into_iter().collect();
        assert_eq!(env["MY_WEB_SERVICE_HOST"], "10.43.0.7");
        assert_eq!(env["MY_WEB_SERVICE_PORT_HTTP"], "80");
        assert_eq!(env["MY_WEB_PORT_80_TCP"], "tcp://10.43.0.7:80");
    }
}
